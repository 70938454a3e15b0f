"""``inference-mcp doctor``: what would keep this server from working, and what to do about it.

One ``Check`` after the other, for a person or as JSON. LocalAI is asked through the backend's
Protocol and the folder through the picture store, so what passes here is what the server will
do itself. What cannot be checked, because something before it failed, counts as not passed,
but is told as a note: there is nothing to mend in it.

Above it is ``cli``, which has read the settings. Below are ``localai`` and ``pictures``. It
generates nothing, and it shows neither the key nor credentials of a URL.
"""

from __future__ import annotations

import io
import json
import os
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import anyio
import anyio.to_thread

from inference_mcp import __version__
from inference_mcp.backend import BackendHealth, InferenceBackend, ModelInfo
from inference_mcp.errors import CallerError, InferenceError
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.pictures.store import PictureStore
from inference_mcp.requests import RequestType
from inference_mcp.settings import PREFIX, Settings

__all__ = ["MODELS_LIMIT_S", "Check", "check_backend", "examine", "run_doctor"]

MODELS_LIMIT_S = 8.0
"""For LocalAI's lists. Its health takes 5 s at most: both together stay below 15 s."""

_CLOSE_S = 0.5  # connections that do not close are the system's to end
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


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``note`` is how it is told, not whether it passed."""

    name: str
    ok: bool
    detail: str
    next_step: str = ""
    note: bool = False


async def run_doctor(settings: Settings, *, as_json: bool) -> int:
    """Check everything and print it; returns 0 only if all of it passed, else 1."""
    checks = await examine(settings)
    passed = all(check.ok for check in checks)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console of an old encoding lacks some signs
        sys.stdout.reconfigure(errors="replace")
    print(_as_json(checks, passed) if as_json else _as_text(checks, passed))  # noqa: T201
    return 0 if passed else 1


async def examine(settings: Settings) -> list[Check]:
    """All checks, in the order in which they are told. Makes the output folder."""
    try:
        client = LocalAIClient(
            settings.base_url,
            authorization=settings.authorization,
            defaults=settings.default_models,
            model_sets=settings.model_sets,
        )
    except InferenceError as error:  # the environment's proxies or certificates
        backend_checks = [Check("localai_reachable", False, error.what, error.next_step)]
    else:
        try:
            backend_checks = await check_backend(client, settings)
        finally:
            with anyio.move_on_after(_CLOSE_S, shield=True):
                await client.aclose()
    return [*_check_settings(settings), *backend_checks, *await _check_folders(settings)]


# Settings -------------------------------------------------------------------------------


def _check_settings(settings: Settings) -> list[Check]:
    given = sorted(settings.model_fields_set)
    detail = (
        f"LocalAI at {settings.base_url}, "
        f"{'with a key' if settings.authorization else 'without a key'}; "
        f"{settings.max_concurrency} at once, {settings.max_queue} may wait; "
        f"a call waits {settings.wait_s:g} s, a request {settings.timeout_s:g} s"
    )
    if given:
        detail += f"; set: {', '.join(_variable(name) for name in given)}"
    return [Check("settings", True, detail)]


def _variable(field: str) -> str:
    """The environment variable of a settings field."""
    return field.upper() if field.startswith("localai_") else PREFIX + field.upper()


# LocalAI --------------------------------------------------------------------------------


async def check_backend(backend: InferenceBackend, settings: Settings) -> list[Check]:
    """What LocalAI is fit for: its health, then the model of each type."""
    health = await backend.check_health()
    checks = _check_health(health, settings)
    if not health.ready:
        return [*checks, _unchecked("models", "LocalAI cannot be used yet")]
    try:
        with anyio.fail_after(MODELS_LIMIT_S):
            checks += await _check_models(backend, settings)
            checks.append(_check_memory(await _memory_limit(backend), settings))
            return checks
    except InferenceError as error:
        return [*checks, Check("models", False, error.what, error.next_step)]
    except TimeoutError:
        detail = f"LocalAI did not list its models within {MODELS_LIMIT_S:.0f} s."
        step = "Look whether LocalAI's machine is overloaded or LocalAI hangs."
        return [*checks, Check("models", False, detail, step)]


async def _memory_limit(backend: InferenceBackend) -> int | None:
    """LocalAI's own limit; a LocalAI that could not be asked for it tells none."""
    try:
        return await backend.memory_limit()
    except InferenceError:
        return None


def _check_health(health: BackendHealth, settings: Settings) -> list[Check]:
    if not health.reachable:
        return [
            Check("localai_reachable", False, health.problem, health.next_step),
            _unchecked("localai_ready", "LocalAI did not answer"),
            _unchecked("localai_key", "LocalAI did not answer"),
        ]
    who = "the built-in stand-in" if health.simulated else "an answer"
    version = health.version or "LocalAI does not tell it"
    checks = [
        Check("localai_reachable", True, f"{who} at {settings.base_url}"),
        Check("localai_version", True, version, note=health.version is None),
    ]
    key_refused = health.key_accepted is False
    if key_refused:
        checks.append(_unchecked("localai_ready", "LocalAI refused the key"))
    elif health.ready:
        checks.append(Check("localai_ready", True, "it takes requests"))
    else:
        checks.append(Check("localai_ready", False, health.problem, health.next_step))
    return [*checks, _check_key(health, has_key=settings.authorization is not None)]


def _check_key(health: BackendHealth, *, has_key: bool) -> Check:
    if health.key_accepted is None:
        return _unchecked("localai_key", "LocalAI did not get that far")
    if not health.key_accepted:
        return Check("localai_key", False, health.problem, health.next_step)
    return Check(
        "localai_key", True, "accepted" if has_key else "none is set and none is asked for"
    )


async def _check_models(backend: InferenceBackend, settings: Settings) -> list[Check]:
    """Which model each type would get, and how that is known.

    Raises:
        BackendError: LocalAI could not be asked.
    """
    models = await backend.list_models(refresh=True)
    checks = [await _check_type(backend, kind, models, settings) for kind in RequestType]
    known = {model.id for model in models}
    named = {
        _variable(f"{kind.value}_models"): names for kind, names in settings.model_sets.items()
    } | {_variable("model_concurrency"): tuple(settings.model_concurrency)}
    for variable, names in named.items():
        strangers = [name for name in names if name not in known]
        if strangers:
            detail = f"{variable} names {', '.join(strangers)}, which LocalAI does not list"
            checks.append(Check("model_names", True, detail, note=True))
    return checks


async def _check_type(
    backend: InferenceBackend, kind: RequestType, models: Sequence[ModelInfo], settings: Settings
) -> Check:
    name = f"model_{kind.value}"
    try:
        chosen = await backend.choose_model(kind, None)
    except CallerError as error:
        return Check(name, False, error.what, _model_step(kind, models, settings))
    sources = next((model.abilities for model in models if model.id == chosen), {})
    source = _SOURCE[sources.get(kind, "unknown")]
    variable = _variable(f"{kind.value}_model")
    how = f"set by {variable}" if kind in settings.default_models else "the first that can"
    return Check(name, True, f"{chosen} ({how}; {source})")


def _model_step(kind: RequestType, models: Iterable[ModelInfo], settings: Settings) -> str:
    """What to set so that the type has a model; the names in it are ones that will do."""
    able = [model.id for model in models if kind in model.abilities]
    names = able or [model.id for model in models if not model.abilities]
    shown = ", ".join(names[:_SHOWN_MODELS])
    variable = _variable(f"{kind.value}_model")
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
        step = f"Set {_variable('max_resident_models')} to {limit} or auto."
        return Check(name, True, above, step, note=True)
    return Check(name, True, f"{shown}, as set")


def _unchecked(name: str, because: str) -> Check:
    return Check(name, False, f"not checked: {because}", note=True)


# Folders --------------------------------------------------------------------------------


async def _check_folders(settings: Settings) -> list[Check]:
    folder = settings.output_folder
    problem = await PictureStore(folder).check_writable()
    step = f"Set {_variable('output_dir')} to a folder that can be written, or mend this one."
    checks = [
        Check("output_folder", False, f"{folder}: {problem}", step)
        if problem
        else Check("output_folder", True, f"{folder} can be written")
    ]
    named = bool(settings.input_roots)
    for root in settings.input_folders:
        flaw = await anyio.to_thread.run_sync(_flaw_of, root)
        checks.append(_check_root(root, flaw, named=named))
    return checks


def _check_root(root: Path, flaw: str | None, *, named: bool) -> Check:
    if flaw is None:
        return Check("input_root", True, f"{root} can be read")
    if not named:
        return Check("input_root", True, f"{root} {flaw}; no picture is read from it", note=True)
    step = f"Make it a folder that can be read, or take it out of {_variable('input_roots')}."
    return Check("input_root", False, f"{root} {flaw}", step)


def _flaw_of(root: Path) -> str | None:
    """Why no picture can be read from this folder."""
    try:
        with os.scandir(root) as entries:
            next(entries, None)
    except FileNotFoundError:
        return "does not exist"
    except NotADirectoryError:
        return "is not a folder"
    except OSError as error:
        return f"cannot be read ({error.strerror or type(error).__name__})"
    return None


# Telling --------------------------------------------------------------------------------


def _as_text(checks: Iterable[Check], passed: bool) -> str:
    lines = [f"inference-mcp {__version__}"]
    for check in checks:
        mark = "note" if check.note else "ok  " if check.ok else "FAIL"
        lines.append(f"{mark}  {check.name.replace('_', ' ')}: {check.detail}")
        if check.next_step:
            lines.append(f"      -> {check.next_step}")
    lines.append("All is well." if passed else "Not all is well; take the steps and check again.")
    return "\n".join(lines)


def _as_json(checks: Iterable[Check], passed: bool) -> str:
    told = [
        {"name": c.name, "ok": c.ok, "detail": c.detail, "next_step": c.next_step} for c in checks
    ]
    return json.dumps({"ok": passed, "version": __version__, "checks": told})
