"""All checks in the order in which they are told; those of the settings and the folders are here.

Above is ``cli``; below are the modules that check LocalAI and the shared queue, and the picture
store. It generates nothing unless it is told to probe.
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from pathlib import Path

import anyio
import anyio.to_thread

from inference_mcp.doctor.checks import Check, has_passed, json_of, text_of, variable_of
from inference_mcp.doctor.fitness import check_backend
from inference_mcp.doctor.probing import probe_all
from inference_mcp.doctor.siblings import check_siblings
from inference_mcp.errors import InferenceError
from inference_mcp.localai.client import LocalAIClient
from inference_mcp.pictures.store import PictureStore
from inference_mcp.settings import Settings

__all__ = ["examine", "run_doctor"]

_CLOSE_S = 0.5  # connections that do not close are the system's to end


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


async def run_doctor(settings: Settings, *, as_json: bool, probe: bool = False) -> int:
    """Check everything and print it; returns 0 only if all of it passed, else 1.

    A probe may take minutes, so each of its requests is announced on stderr.
    """
    checks = await examine(settings, probe=probe, tell=_say)
    if isinstance(sys.stdout, io.TextIOWrapper):  # a console of an old encoding lacks some signs
        sys.stdout.reconfigure(errors="replace")
    print(json_of(checks) if as_json else text_of(checks))  # noqa: T201
    return 0 if has_passed(checks) else 1


async def examine(
    settings: Settings, *, probe: bool = False, tell: Callable[[str], None] = lambda text: None
) -> list[Check]:
    """All checks. Makes the output folder; ``tell`` hears of each request of a probe."""
    return [
        *_check_settings(settings),
        *await _check_localai(settings, tell if probe else None),
        await check_siblings(settings),
        *await _check_folders(settings),
    ]


async def _check_localai(settings: Settings, tell: Callable[[str], None] | None) -> list[Check]:
    """With ``tell`` also a request of each type."""
    try:
        client = LocalAIClient(
            settings.base_url,
            authorization=settings.authorization,
            defaults=settings.default_models,
            model_sets=settings.model_sets,
        )
    except InferenceError as error:  # the environment's proxies or certificates
        return [Check("localai_reachable", False, error.what, error.next_step)]
    try:
        checks = await check_backend(client, settings)
        if tell is not None:
            checks += await probe_all(client, checks, tell)
        return checks
    finally:
        with anyio.move_on_after(_CLOSE_S, shield=True):
            await client.aclose()


def _check_settings(settings: Settings) -> list[Check]:
    given = sorted(settings.model_fields_set)
    detail = (
        f"LocalAI at {settings.base_url}, "
        f"{'with a key' if settings.authorization else 'without a key'}; "
        f"{settings.max_concurrency} at once, {settings.max_queue} may wait; "
        f"a call waits {settings.wait_s:g} s, a request {settings.timeout_s:g} s"
    )
    if given:
        detail += f"; set: {', '.join(variable_of(name) for name in given)}"
    return [Check("settings", True, detail)]


async def _check_folders(settings: Settings) -> list[Check]:
    folder = settings.output_folder
    problem = await PictureStore(folder).check_writable()
    step = f"Set {variable_of('output_dir')} to a folder that can be written, or mend this one."
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
    step = f"Make it a folder that can be read, or take it out of {variable_of('input_roots')}."
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
