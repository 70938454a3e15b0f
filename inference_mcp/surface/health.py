"""``get_health``: what can be computed now, why not, and what an operator may do about it.

Pure: everything that health is judged by comes in as one ``Seen``. LocalAI's own look at itself
is one part of it, what became of the last minutes' requests the other: a LocalAI that answers
every ping may refuse every request, and one that is too busy to answer a ping may work well.

- ``unavailable``: nothing can be computed. LocalAI cannot be reached, is not ready or refuses the
  key; or it looks well, but for ``observe.LATELY_S`` nothing completed and at least
  ``ALL_FAILED`` requests failed, each because LocalAI could not be reached or refused the key.
- ``degraded``: something cannot, or not as it should; ``problems`` says what, each with a step.
- ``ok``: else. ``hints`` are not problems: all works, and could work better (``advice``).

Above are the tools; below are the records of the backend, the queue and ``observe``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from inference_mcp.backend import BackendHealth
from inference_mcp.observe import Lately, ModelLately
from inference_mcp.requests import RequestType
from inference_mcp.scheduling.protocols import ModelView, QueueSnapshot, Sharing
from inference_mcp.surface.advice import hints
from inference_mcp.surface.progress import rounded
from inference_mcp.surface.status import iso, most_telling

__all__ = ["AT_WORK_S", "Identity", "MemoryFacts", "Seen", "health", "trouble_of"]

ALL_FAILED = 3
"""One request may fail for its own reasons, and a second one too."""

AT_WORK_S = 30.0
"""A request that completed this lately shows that LocalAI works, though it let a look at it
wait: one that computes on its processor alone may be too busy to answer."""

_EVERYBODY_S = {
    "backend_unreachable": "Look for a proxy or a network on the way that ends long requests.",
    "backend_auth": "Set LOCALAI_API_KEY to a key that may run models.",
}
"""Errors that concern LocalAI as a whole, and what to do about each."""

_MODEL_STEP = "Look into LocalAI's log for why, or use another model."

_MODEL_S = frozenset(("backend_error", "bad_result", "backend_busy"))
"""Errors for which a model is to blame."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this server is and where it sends requests; ``localai_url`` holds no credentials."""

    version: str
    localai_url: str


@dataclass(frozen=True, slots=True)
class MemoryFacts:
    """How many models LocalAI may hold in memory at once; 0 is no limit.

    ``localai`` is its own limit, ``None`` where it won't tell; ``source`` is where the one
    ``in_force`` comes from, ``unknown`` before LocalAI was asked.
    """

    in_force: int = 0
    localai: int | None = None
    source: Literal["setting", "localai", "none", "unknown"] = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """All that health is judged by.

    ``unserved`` are the types that no model of LocalAI's is known to do, ``None`` where that
    could not be seen, and then ``unlisted`` says why; ``folder`` is what is wrong with the output
    folder, if anything.
    """

    found: BackendHealth
    identity: Identity
    queue: QueueSnapshot
    lately: Lately
    memory: MemoryFacts
    sharing: Sharing
    unserved: Sequence[RequestType] | None = None
    unlisted: str | None = None
    folder: str | None = None


def health(seen: Seen) -> dict[str, Any]:
    """The body of ``get_health``."""
    found, models = seen.found, seen.queue.models
    problems = _problems(seen)
    return {
        "status": _status(seen, problems),
        "version": seen.identity.version,
        "localai_url": seen.identity.localai_url,
        "localai_version": found.version,
        "reachable": found.reachable,
        "ready": found.ready,
        "key_accepted": found.key_accepted,
        "problems": problems,
        "hints": hints(seen.queue, seen.lately, own_limit=_is_ours(seen.memory)),
        "missing": _missing(seen),
        "observed": _observed(seen.lately),
        "circuits": {model.name: model.circuit for model in most_telling(models)},
        "cooldowns": {m.name: rounded(m.blocked_for_s) for m in models if m.blocked_for_s},
        "loading": {m.name: rounded(m.load_s) for m in models if m.phase == "loading"},
        "resident_models": {
            "limit": seen.memory.in_force,
            "localai_limit": seen.memory.localai,
            "source": seen.memory.source,
        },
        "sharing": {
            "seat": seen.sharing.seat,
            "processes": seen.sharing.processes,
            "reason": seen.sharing.reason or None,
            "other_limits": seen.sharing.other_limits,
        },
        "simulated": found.simulated,
    }


def trouble_of(model: ModelView) -> str:
    """Why nothing starts on a model; empty where it does, or waits for its probe alone."""
    for_s = f" for another {model.blocked_for_s:.0f} s" if model.blocked_for_s else " for now"
    if model.circuit == "open":
        return f"{model.name} failed several times in a row; nothing starts on it{for_s}."
    if model.blocked_for_s is None or (model.circuit == "half-open" and not model.blocked_for_s):
        return ""
    return (
        f"Nothing starts on {model.name}{for_s}: LocalAI lets it rest after a failure, asked to "
        "be left alone, or cannot be reached."
    )


def _status(seen: Seen, problems: Sequence[str]) -> str:
    found = seen.found
    if not (found.reachable and found.ready and found.key_accepted is not False):
        return "degraded" if _works_all_the_same(seen) else "unavailable"
    if _nothing_gets_through(seen.lately):
        return "unavailable"
    return "degraded" if problems else "ok"


def _works_all_the_same(seen: Seen) -> bool:
    """A look that LocalAI let wait proves nothing against a request that it has just done."""
    ago_s = seen.lately.completed_ago_s
    return seen.found.silent and ago_s is not None and ago_s <= AT_WORK_S


def _nothing_gets_through(lately: Lately) -> str | None:
    """The code for which every request of the last minutes failed, if there is one."""
    codes = {code for model in lately.models.values() for code in model.codes}
    if lately.completed or lately.failed < ALL_FAILED or not codes <= set(_EVERYBODY_S):
        return None
    return lately.last_error.error if lately.last_error else None


def _problems(seen: Seen) -> list[str]:
    found, memory = seen.found, seen.memory
    told = [f"{found.problem} {found.next_step}".strip()] if found.problem else []
    if _works_all_the_same(seen):
        told.append("It has just completed a request all the same, so it may be overloaded.")
    if not found.problem and (code := _nothing_gets_through(seen.lately)):
        told.append(
            f"LocalAI looks well, but all of the last {seen.lately.failed} requests failed with "
            f"[{code}]. {_EVERYBODY_S.get(code, '')}".strip()
        )
    told += [trouble for model in seen.queue.models if (trouble := _trouble(model, seen.lately))]
    if memory.localai and memory.in_force > memory.localai:
        told.append(
            f"This server counts on {memory.in_force} models in LocalAI's memory, but LocalAI "
            f"keeps {memory.localai}: it drops models that the queue takes for loaded. Set "
            "INFERENCE_MCP_MAX_RESIDENT_MODELS to auto."
        )
    if seen.unlisted and not found.problem:
        told.append(f"No model can be chosen, for LocalAI does not list any now: {seen.unlisted}")
    if seen.folder:
        told.append(
            f"{seen.folder} Mend that, or set INFERENCE_MCP_OUTPUT_DIR to a folder that can be "
            "written; until then pictures come inline alone."
        )
    if seen.unserved is not None and len(seen.unserved) == len(RequestType):
        told.append(
            "LocalAI offers no model that can be used. Install one there, then call list_models."
        )
    return told


def _trouble(model: ModelView, lately: Lately) -> str:
    """What is wrong with one model: that nothing starts on it, or that it fails."""
    seen = lately.models.get(model.name)
    rests = trouble_of(model)
    if seen is None:
        return rests
    failed = sum(number for code, number in seen.codes.items() if code in _MODEL_S)
    mended = failed < max(ALL_FAILED, seen.completed) or seen.streak >= ALL_FAILED
    if not rests and mended:
        return ""
    what = rests or _fails(model, seen, failed, lately)
    return " ".join(filter(None, (what, _last(seen), _MODEL_STEP)))


def _fails(model: ModelView, seen: ModelLately, failed: int, lately: Lately) -> str:
    minutes = lately.window_s / 60
    return (
        f"{model.name} fails: {failed} of {failed + seen.completed} requests failed in the last "
        f"{minutes:.0f} minutes."
    )


def _last(seen: ModelLately) -> str:
    error = seen.last_error
    return f"Its last error: [{error.error}] {error.message}".strip() if error else ""


def _is_ours(memory: MemoryFacts) -> bool:
    """Whether the limit in force is our setting, and LocalAI's own would let more in."""
    above = not memory.localai or memory.localai > memory.in_force
    return memory.source == "setting" and above


def _missing(seen: Seen) -> list[str]:
    """What cannot be had from this LocalAI, as far as anybody looked."""
    unserved = [kind.value for kind in seen.unserved or ()]
    if not unserved or len(unserved) == len(RequestType):
        return list(seen.found.missing)
    told = (
        f"No model is known to do {' or '.join(unserved)}. Install one in LocalAI, or, if one of "
        "its models can, name it: INFERENCE_MCP_"
        f"{'_MODEL, INFERENCE_MCP_'.join(kind.upper() for kind in unserved)}_MODEL."
    )
    return [told, *seen.found.missing]


def _observed(lately: Lately) -> Mapping[str, Any]:
    error = lately.last_error
    return {
        "window_s": lately.window_s,
        "completed": lately.completed,
        "failed": lately.failed,
        "completed_ago_s": rounded(lately.completed_ago_s),
        "last_error": error
        and {
            "timestamp": iso(error.timestamp),
            "error": error.error,
            "message": error.message,
            "model": error.model,
        },
    }
