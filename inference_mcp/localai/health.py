"""What a look at LocalAI means: answers of three addresses → ``BackendHealth``. Pure.

Above it is ``client``, which asks; below it are ``failures`` and ``wire``. It knows no HTTP
library and no queue.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TypeAlias

from inference_mcp.backend import BackendHealth
from inference_mcp.errors import BackendAuthError, BackendBusyError, InferenceError
from inference_mcp.localai.failures import Answer, from_answer, no_answer, not_localai
from inference_mcp.localai.rules import Asked
from inference_mcp.localai.wire import parse_json

__all__ = [
    "CAPABILITIES",
    "LOAD",
    "MODELS",
    "READY",
    "SETTINGS",
    "SHUTDOWN",
    "SYSTEM",
    "VERSION",
    "judge_health",
]

READY, VERSION, MODELS = "/readyz", "/version", "/v1/models"
CAPABILITIES, SYSTEM, SETTINGS = "/v1/models/capabilities", "/system", "/api/settings"
LOAD, SHUTDOWN = "/backend/load", "/backend/shutdown"

Seen: TypeAlias = Mapping[str, Answer | InferenceError]


_MISSING: Mapping[str, str] = {
    CAPABILITIES: "LocalAI does not tell what its models can do (an older version): name them in "
    "INFERENCE_MCP_TXT2TXT_MODEL, INFERENCE_MCP_TXT2IMG_MODEL and the like.",
    SYSTEM: "LocalAI does not tell which models are loaded (to an administrator's key alone).",
    SETTINGS: "LocalAI does not tell how many models it keeps in memory (its web UI is off, or "
    "the key is not an administrator's): where it keeps few, set "
    "INFERENCE_MCP_MAX_RESIDENT_MODELS.",
    LOAD: "LocalAI lets this key load no model: loads are a part of requests, and are not told "
    "apart.",
    SHUTDOWN: "LocalAI lets this key drop no model: one whose process died is not cleared away, "
    "and none makes room for another in time.",
}
"""What it means that an address is unknown or refused."""


def judge_health(
    seen: Seen, url: str, waited_s: float, refused: Collection[str] = ()
) -> BackendHealth:
    """``seen`` holds what each address gave; those that gave nothing in time are missing.

    ``refused`` are addresses that were unknown to LocalAI or refused when they were last asked.
    """
    answers = [found for found in seen.values() if isinstance(found, Answer)]
    problem = _problem(seen, url, waited_s)
    return BackendHealth(
        reachable=bool(answers),
        ready=problem is None,
        version=_version(seen.get(VERSION)),
        key_accepted=_key_accepted(seen.get(MODELS)),
        code=problem.code if problem else None,
        problem=problem.what if problem else "",
        next_step=problem.next_step if problem else "",
        simulated=any(answer.simulated for answer in answers),
        silent=_let_it_wait(seen),
        missing=tuple(told for path, told in _MISSING.items() if path in refused),
    )


def _problem(seen: Seen, url: str, waited_s: float) -> InferenceError | None:
    ready, models = seen.get(READY), seen.get(MODELS)
    # "Starting" explains everything that the model list may say besides.
    if isinstance(ready, Answer) and ready.status == 503:
        return BackendBusyError(
            "LocalAI is starting: it answers, and takes no requests yet.",
            "Look again in a moment; what is asked for meanwhile waits in the queue.",
            transient=True,
        )
    if isinstance(models, InferenceError):
        return models
    if models is None:
        return no_answer(url, waited_s)
    if models.status != 200:
        return from_answer(models, Asked(), url)
    return None if _lists_models(models) else not_localai(url)


def _let_it_wait(seen: Seen) -> bool:
    """Whether the model list did not come in time, and nothing says that it never will."""
    well = all(isinstance(found, Answer) and found.status < 500 for found in seen.values())
    return well and MODELS not in seen


def _lists_models(answer: Answer) -> bool:
    try:
        found = parse_json(answer.body)
    except ValueError:
        return False
    # LocalAI without a single model lists ``null``.
    return isinstance(found, dict) and "data" in found


def _key_accepted(models: Answer | InferenceError | None) -> bool | None:
    if not isinstance(models, Answer):
        return None
    if models.status == 200 and _lists_models(models):
        return True
    # Nothing but a refusal of the key is a refusal of the key.
    return False if isinstance(from_answer(models, Asked(), ""), BackendAuthError) else None


def _version(found: Answer | InferenceError | None) -> str | None:
    """``v4.9.0 (4f6d…)`` → ``v4.9.0``; a build without a version says ``" ()"``."""
    if not isinstance(found, Answer) or found.status != 200:
        return None
    try:
        told = parse_json(found.body)
    except ValueError:
        return None
    text = told.get("version") if isinstance(told, dict) else None
    first = text.split(maxsplit=1)[0] if isinstance(text, str) and text.strip() else ""
    return first if first.strip("()") and len(first) <= 64 and first.isprintable() else None
