"""What the last minutes were like, for health: it must not rest on a ping alone.

Pure: records and samples in, one frozen record out. Above are ``metrics``, which keeps both, and
whoever draws conclusions from ``Lately``; below are ``history`` and ``samples``.

- A request *found every slot busy* if it waited ``WAITED_S`` or longer. Who arrives sees how busy
  the queue is on average (Wolff: Poisson Arrivals See Time Averages, Operations Research 30,
  1982), so the share of those that did is about the share of time in which all slots were busy.
- Waits *grow* by how much longer the newer half of the finished requests waited than the older.
- The share of loads is what loads took of the time in which LocalAI loaded or computed. However
  many requests wait for a load, it counts once; one of less than ``WAITED_S`` was none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from inference_mcp.observe.figures import Spans
from inference_mcp.observe.history import Record
from inference_mcp.observe.samples import ErrorSample

__all__ = ["LATELY_S", "WAITED_S", "Lately", "ModelLately", "look_back"]

LATELY_S = 600.0
"""How far back it looks: a few slow pictures must fit in, and what was mended must be over."""

WAITED_S = 0.1
"""Waiting that is no mere way through the queue, which takes about a millisecond."""

Load: TypeAlias = tuple[float, float]
"""When a load ended (seconds, monotonic), and how long it took."""

_LOCALAI_S = ("backend_", "bad_result", "deadline_exceeded")
"""How the codes begin that may be LocalAI's fault; the others are a caller's own or the queue's."""


@dataclass(frozen=True, slots=True)
class ModelLately:
    """How one model did. ``codes`` are those of its failed requests; what the queue refused is
    not among them. ``last_error`` is the newest of LocalAI's, also of a try that was repeated;
    ``streak`` how many requests completed since the last one failed.
    """  # noqa: D205  # two sentences

    completed: int
    codes: Mapping[str, int]
    last_error: ErrorSample | None
    streak: int = 0


@dataclass(frozen=True, slots=True)
class Lately:
    """The last ``window_s`` seconds. The waits are mean seconds; shares are 0 to 1.

    ``ran`` is how many finished requests had run, of which all but the counts speak.
    ``completed_ago_s`` is ``None`` where nothing completed in the window.
    """

    window_s: float
    completed: int
    failed: int
    rejected: int
    completed_ago_s: float | None
    ran: int
    busy_share: float
    wait_before_s: float
    wait_now_s: float
    loads: int
    load_share: float
    models: Mapping[str, ModelLately]
    last_error: ErrorSample | None


def look_back(
    records: Iterable[Record],
    samples: Sequence[ErrorSample],
    loads: Iterable[Load],
    now_s: float,
    window_s: float,
) -> Lately:
    """All are those of the window; ``records`` and ``samples`` come the newest first, and what
    the queue had no room for says nothing of LocalAI, and is not among the samples.
    """  # noqa: D205  # one sentence
    counts: Counter[str] = Counter()
    completed: Counter[str] = Counter()
    streaks: Counter[str] = Counter()
    broken: set[str] = set()
    spans: list[Spans] = []
    completed_at_s: float | None = None
    for at_s, what, (_, model), times in records:
        counts[what] += 1
        if what == "completed":
            completed[model] += 1
            streaks[model] += model not in broken
            completed_at_s = at_s if completed_at_s is None else completed_at_s
        elif what == "failed":
            broken.add(model)
        if times is not None:
            spans.append(times)
    took_s = [took_s for _, took_s in loads if took_s >= WAITED_S]
    ended = [each for each in samples if not each.retried]
    half = len(spans) // 2
    models = sorted({*completed, *(sample.model for sample in ended)})
    return Lately(
        window_s=window_s,
        completed=counts["completed"],
        failed=counts["failed"],
        rejected=counts["rejected"],
        completed_ago_s=None if completed_at_s is None else now_s - completed_at_s,
        ran=len(spans),
        busy_share=_mean([1.0 if each.queue_s >= WAITED_S else 0.0 for each in spans]),
        wait_before_s=_mean([each.queue_s for each in spans[len(spans) - half :]]),
        wait_now_s=_mean([each.queue_s for each in spans[:half]]),
        loads=len(took_s),
        load_share=_load_share(sum(took_s), spans),
        models={
            model: _model(
                completed[model], [s for s in samples if s.model == model], streaks[model]
            )
            for model in models
        },
        last_error=ended[0] if ended else None,
    )


def _model(completed: int, samples: Sequence[ErrorSample], streak: int) -> ModelLately:
    codes = Counter(s.error for s in samples if not s.retried)
    localai_s = (sample for sample in samples if sample.error.startswith(_LOCALAI_S))
    return ModelLately(completed, codes, next(localai_s, None), streak)


def _load_share(loads_s: float, spans: Iterable[Spans]) -> float:
    whole_s = loads_s + sum(each.processing_s or 0.0 for each in spans)
    return loads_s / whole_s if whole_s else 0.0


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
