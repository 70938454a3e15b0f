"""The figures that follow from the events: ``Metrics`` takes events in, and is asked.

Above are ``jobs``' observer, which feeds it, and the surface, which shows what it tells. An event
costs the request that it belongs to one append; it is looked into when somebody asks, or when
``MAX_FRESH`` have come together.

Who asks may do so from a thread, for adding up a busy day takes a while: whatever is kept is
changed under a lock, and ``observe`` never waits for it.
"""

from __future__ import annotations

import threading
from collections import Counter, deque
from collections.abc import Callable, Mapping
from itertools import takewhile
from typing import Any

from inference_mcp.observe.events import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobSubmitted,
)
from inference_mcp.observe.figures import (
    PERCENTILE_ERROR,
    Key,
    Spans,
    Tally,
    block_of,
    merged,
)
from inference_mcp.observe.history import History
from inference_mcp.observe.lately import LATELY_S, Lately, Load, look_back
from inference_mcp.observe.samples import Errors
from inference_mcp.observe.series import SERIES_S, series_of

__all__ = ["MAX_FRESH", "MAX_MODELS", "OTHER_MODELS", "Metrics"]

MAX_FRESH = 256
"""Events kept as they came; together some 0.3 ms of work."""

MAX_MODELS = 500
"""Models that are told apart; LocalAI may be given new ones for ever."""

KEPT_LOADS = 1_000
"""Loads kept; more than ten minutes can hold."""

OTHER_MODELS = "(other models)"


class Metrics:
    """Counters, rates and percentiles from the events alone; all times of one monotonic clock."""

    def __init__(self, started_at_s: float) -> None:
        self._started_at_s = started_at_s
        self._lock = threading.Lock()
        self._fresh: deque[JobEvent] = deque()
        self._history = History()
        self._errors = Errors()
        self._ended: Counter[tuple[str, Key]] = Counter()
        self._loads: deque[Load] = deque(maxlen=KEPT_LOADS)
        self._models: set[str] = set()

    def observe(self, event: JobEvent) -> None:
        """Take in one event; they come in the order of their ``at_s``."""
        self._fresh.append(event)
        if len(self._fresh) >= MAX_FRESH and self._lock.acquire(blocking=False):
            try:
                self._digest()
            finally:
                self._lock.release()

    def loaded(self, at_s: float, took_s: float) -> None:
        """A model was loaded, which took so long and ended then."""
        self._loads.append((at_s, took_s))

    def requests(self, now_s: float, window_s: float | None = None) -> dict[str, Any]:
        """The body of ``get_request_metrics`` without its ``timestamp``.

        ``window_s`` in it is the window that the figures are of: the one that was asked for, but
        not longer than this process runs, and see ``history`` for what it can still tell.
        """
        uptime = now_s - self._started_at_s
        with self._lock:
            self._digest()
            if window_s is None or window_s >= uptime:
                span, cells = uptime, self._history.all()
            else:
                since_s, cells = self._history.since(now_s - window_s)
                span = now_s - max(since_s, self._started_at_s)
        whole = merged(cells.values())
        return {
            **block_of(whole, span),
            "percentile_error": 0.0 if whole.exact else PERCENTILE_ERROR,
            "uptime_s": round(uptime, 3),
            "window_s": round(span, 3),
            "by_type": _split(cells, span, lambda key: key[0].value),
            "by_model": _split(cells, span, lambda key: key[1]),
        }

    def errors(self, limit: int) -> dict[str, Any]:
        """The body of ``get_error_metrics`` without its ``timestamp``."""
        with self._lock:
            self._digest()
            return {
                "counts": dict(sorted(self._errors.codes.items())),
                "rates": {
                    "by_type": _rates(self._ended, lambda key: key[0].value),
                    "by_model": _rates(self._ended, lambda key: key[1]),
                },
                "recent_samples": [sample.told() for sample in self._errors.newest(limit)],
            }

    def lately(self, now_s: float, window_s: float = LATELY_S) -> Lately:
        """What the last ``window_s`` seconds were like, as far as records and samples are kept."""
        since_s = now_s - window_s
        with self._lock:
            self._digest()
            records = list(self._history.newest(since_s))
            failures = takewhile(lambda sample: sample.at_s >= since_s, self._errors.failures())
            samples = list(failures)
        loads = [load for load in tuple(self._loads) if load[0] >= since_s]
        return look_back(records, samples, loads, now_s, window_s)

    def series(self, now_s: float) -> dict[str, Any]:
        """The last hour in steps, of the records that are kept one by one."""
        with self._lock:
            self._digest()
            records = list(self._history.newest(now_s - SERIES_S))
        return series_of(records, now_s)

    def statistics(self) -> dict[str, int]:
        """How much is held."""
        return {"fresh": len(self._fresh), **self._history.statistics()}

    def _digest(self) -> None:
        while self._fresh:  # more may come meanwhile
            match event := self._fresh.popleft():
                case JobSubmitted():
                    self._add("submitted", event)
                case JobFinished():
                    self._finished(event)
                case JobPreempted():
                    self._add("preemptions", event)
                case JobRetried():
                    self._add("retries", event)
                    self._errors.retried(event)
                case JobRejected():
                    self._add("submitted", event)
                    self._add("rejected", event)
                    self._errors.ended(event, event.code, 0)

    def _finished(self, event: JobFinished) -> None:
        if event.code == "queue_full":  # displaced by a better request (S12)
            self._add("rejected", event)
            self._errors.ended(event, event.code, 0)
            return
        ran = event.granted and event.state != "cancelled"
        self._add(
            event.state,
            event,
            Spans(event.queue_s, event.load_s, event.processing_s) if ran else None,
        )
        if event.state == "failed" and event.code is not None:
            self._errors.ended(event, event.code, event.attempt)

    def _add(self, what: str, event: JobEvent, spans: Spans | None = None) -> None:
        model = event.model
        if model not in self._models:
            if len(self._models) >= MAX_MODELS:
                model = OTHER_MODELS
            else:
                self._models.add(model)
        key = (event.kind, model)
        if what in ("completed", "failed"):
            self._ended[what, key] += 1
        self._history.add((event.at_s, what, key, spans))


def _split(
    cells: dict[Key, Tally], span_s: float, name: Callable[[Key], str]
) -> dict[str, dict[str, Any]]:
    return {
        each: block_of(merged(cells[key] for key in cells if name(key) == each), span_s)
        for each in sorted({name(key) for key in cells})
    }


def _rates(ended: Mapping[tuple[str, Key], int], name: Callable[[Key], str]) -> dict[str, float]:
    finished: Counter[str] = Counter()
    failed: Counter[str] = Counter()
    for (what, key), number in ended.items():
        finished[name(key)] += number
        failed[name(key)] += number * (what == "failed")
    return {each: round(failed[each] / finished[each], 4) for each in sorted(finished)}
