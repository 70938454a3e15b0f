"""What LocalAI is fit for: its health, the model of each type, its own limits against ours.

Above is ``examining``; below is LocalAI's client, and ``probing`` where it is asked for. Of
LocalAI's settings it sees what ``localai.wire.OwnLimits`` holds, and no more.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import anyio

from inference_mcp.backend import BackendHealth, ModelInfo
from inference_mcp.doctor.checks import Check, unchecked, variable_of
from inference_mcp.errors import CallerError, InferenceError
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.localai.wire import OwnLimits
from inference_mcp.requests import RequestType
from inference_mcp.settings import Settings

__all__ = ["MODELS_LIMIT_S", "check_backend"]

MODELS_LIMIT_S = 8.0
"""For LocalAI's lists. Its health takes 5 s at most: both together stay below 15 s."""

_SHOWN_MODELS = 5

_SKILL = {
    RequestType.TXT2TXT: "answers chats",
    RequestType.TXT2IMG: "makes pictures",
    RequestType.IMG2IMG: "changes pictures",
    RequestType.IMG2TXT: "describes pictures",
}
_SOURCE = {
    "localai": "LocalAI says that it can",
    "settings": "your settings say that it can",
    "assumed": "assumed to, for LocalAI does not tell",
    "unknown": "nobody knows whether it can",
}


async def check_backend(client: LocalAIClient, settings: Settings) -> list[Check]:
    """Its health first: without that nothing else is asked."""
    health = await client.check_health()
    checks = _check_health(health, settings)
    if not health.ready:
        return [*checks, unchecked("models", "LocalAI cannot be used yet")]
    try:
        with anyio.fail_after(MODELS_LIMIT_S):
            checks += await _check_models(client, settings)
            own = await _own_limits(client)
    except InferenceError as error:
        return [*checks, Check("models", False, error.what, error.next_step)]
    except TimeoutError:
        detail = f"LocalAI did not list its models within {MODELS_LIMIT_S:.0f} s."
        step = "Look whether LocalAI's machine is overloaded or LocalAI hangs."
        return [*checks, Check("models", False, detail, step)]
    mode = _check_mode(client.distributed)
    return [*checks, mode, _check_memory(own.resident, settings), _check_watchdog(own, settings)]


async def _own_limits(client: LocalAIClient) -> OwnLimits:
    """LocalAI's own; a LocalAI that could not be asked for them tells none."""
    try:
        return await client.own_limits()
    except InferenceError:
        return OwnLimits()


def _check_health(health: BackendHealth, settings: Settings) -> list[Check]:
    if not health.reachable:
        return [
            Check("localai_reachable", False, health.problem, health.next_step),
            unchecked("localai_ready", "LocalAI did not answer"),
            unchecked("localai_key", "LocalAI did not answer"),
        ]
    who = "the built-in stand-in" if health.simulated else "an answer"
    version = health.version or "LocalAI does not tell it"
    checks = [
        Check("localai_reachable", True, f"{who} at {settings.base_url}"),
        Check("localai_version", True, version, note=health.version is None),
    ]
    key_refused = health.key_accepted is False
    if key_refused:
        checks.append(unchecked("localai_ready", "LocalAI refused the key"))
    elif health.ready:
        checks.append(Check("localai_ready", True, "it takes requests"))
    else:
        checks.append(Check("localai_ready", False, health.problem, health.next_step))
    return [*checks, _check_key(health, has_key=settings.authorization is not None)]


def _check_key(health: BackendHealth, *, has_key: bool) -> Check:
    if health.key_accepted is None:
        return unchecked("localai_key", "LocalAI did not get that far")
    if not health.key_accepted:
        return Check("localai_key", False, health.problem, health.next_step)
    return Check(
        "localai_key", True, "accepted" if has_key else "none is set and none is asked for"
    )


async def _check_models(client: LocalAIClient, settings: Settings) -> list[Check]:
    """Which model each type would get, and how that is known.

    Raises:
        BackendError: LocalAI could not be asked.
    """
    models = await client.list_models(refresh=True)
    checks = [await _check_type(client, kind, models, settings) for kind in RequestType]
    known = {model.id for model in models}
    named = {
        variable_of(f"{kind.value}_models"): names for kind, names in settings.model_sets.items()
    } | {variable_of("model_concurrency"): tuple(settings.model_concurrency)}
    for variable, names in named.items():
        strangers = [name for name in names if name not in known]
        if strangers:
            detail = f"{variable} names {', '.join(strangers)}, which LocalAI does not list"
            checks.append(Check("model_names", True, detail, note=True))
    return checks


async def _check_type(
    client: LocalAIClient, kind: RequestType, models: Sequence[ModelInfo], settings: Settings
) -> Check:
    name = f"model_{kind.value}"
    try:
        chosen = await client.choose_model(kind, None)
    except CallerError as error:
        return Check(name, False, error.what, _model_step(kind, models, settings))
    sources = next((model.abilities for model in models if model.id == chosen), {})
    source = _SOURCE[sources.get(kind, "unknown")]
    variable = variable_of(f"{kind.value}_model")
    how = f"set by {variable}" if kind in settings.default_models else "the first that can"
    return Check(name, True, f"{chosen} ({how}; {source})")


def _model_step(kind: RequestType, models: Iterable[ModelInfo], settings: Settings) -> str:
    """What to set so that the type has a model; the names in it are ones that will do."""
    able = [model.id for model in models if kind in model.abilities]
    names = able or [model.id for model in models if not model.abilities]
    shown = ", ".join(names[:_SHOWN_MODELS])
    variable = variable_of(f"{kind.value}_model")
    if kind in settings.default_models or kind in settings.model_sets:
        wrong = variable if kind in settings.default_models else f"{variable}S"
        return (
            f"Unset {wrong}, or set it to what LocalAI lists{f', such as {shown}' * bool(shown)}."
        )
    install = f"Install a model in LocalAI that {_SKILL[kind]}"
    instead = f", or, if one of LocalAI's models can, name it in {variable} or {variable}S"
    return f"{install}{instead}{f' (it does not tell of: {shown})' * bool(shown)}."


def _check_memory(limit: int | None, settings: Settings) -> Check:
    """How many models LocalAI is let hold at once; ``limit`` is its own, ``None`` if untold."""
    name, asked = "resident_models", settings.max_resident_models
    if asked == "auto":
        if limit is None:
            return Check(name, True, "no limit, for LocalAI does not tell its own", note=True)
        return Check(name, True, f"{limit or 'no limit'}, as LocalAI itself")
    shown = f"{asked} at once" if asked else "no limit"
    if limit and (asked == 0 or asked > limit):
        above = f"{shown}, which is above LocalAI's own {limit}: it may run out of memory"
        step = f"Set {variable_of('max_resident_models')} to {limit} or auto."
        return Check(name, True, above, step, note=True)
    return Check(name, True, f"{shown}, as set")


def _check_watchdog(own: OwnLimits, settings: Settings) -> Check:
    """LocalAI's busy watchdog kills a backend at work, loads included, when its time is over.

    A request that is allowed more than that ends as a crash, and its model must be loaded again.
    """
    name, busy_s = "busy_watchdog", own.busy_s
    if busy_s is None:
        return Check(name, True, "LocalAI does not tell whether it has one", note=True)
    if not busy_s:
        return Check(name, True, "off: LocalAI ends no request by itself")
    ours = {"timeout_s": settings.timeout_s, "load_timeout_s": settings.load_timeout_s}
    longer = {variable_of(field): limit_s for field, limit_s in ours.items() if limit_s > busy_s}
    if not longer:
        return Check(name, True, f"LocalAI ends what works longer than {busy_s:g} s, as ours do")
    shown = " and ".join(f"{variable} allows {limit_s:g} s" for variable, limit_s in longer.items())
    enough_s = math.ceil(max(longer.values()))
    instead = " and ".join(f"{variable} to {busy_s:g}" for variable in longer)
    return Check(
        name,
        True,
        f"LocalAI kills a model that works or loads longer than {busy_s:g} s, while {shown}",
        f"Start LocalAI with LOCALAI_WATCHDOG_BUSY_TIMEOUT={enough_s}s, or set {instead}.",
        note=True,
    )


def _check_mode(distributed: bool | None) -> Check:
    """Where LocalAI's models are: distributed, a load goes on after its answer (trap 20)."""
    name = "localai_mode"
    if distributed is None:
        return Check(name, True, "LocalAI does not tell whether it runs distributed", note=True)
    if not distributed:
        return Check(name, True, "it runs its models itself")
    told = (
        "distributed: workers run its models, a first load may take minutes, and a model is "
        "bound to the parameters of its first request"
    )
    return Check(name, True, told, note=True)
