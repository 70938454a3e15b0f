"""How this very program is started by somebody else: absolute, from any folder, without PATH.

A console script where there is one, this Python with ``-m`` where not. What runs in an
environment that its runner throws away (``uvx``, ``pipx run``) cannot be named by its path:
then the runner is. It is told by what it leaves: uv's cache bears a ``CACHEDIR.TAG``, pipx
writes ``pipx_metadata.json`` into each environment and keeps the lasting ones under ``venvs``.
"""

from __future__ import annotations

import shutil
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from inference_mcp import __version__
from inference_mcp.errors import HostError
from inference_mcp.hosts.facts import SERVER

__all__ = ["PORTABLE", "Launch", "Running", "find_launch", "running"]


@dataclass(frozen=True)
class Launch:
    """A command with its arguments; ``note`` is what a person should know of it."""

    command: str
    arguments: tuple[str, ...] = ()
    note: str = ""

    def with_arguments(self, *more: str) -> Launch:
        """The same with further arguments."""
        return Launch(self.command, (*self.arguments, *more), self.note)


PORTABLE = Launch("uvx", (SERVER,))
"""For a page that others read, whose machines nobody knows."""


@dataclass(frozen=True, kw_only=True)
class Running:
    """What is known of the process that runs. ``installed``: it is found from any folder."""

    called: str
    python: str
    prefix: Path
    scripts: Path
    installed: bool
    environ: Mapping[str, str]


def running(environ: Mapping[str, str]) -> Running:
    """The facts of this process."""
    return Running(
        called=sys.argv[0],
        python=sys.executable,
        prefix=Path(sys.prefix),
        scripts=Path(sysconfig.get_path("scripts")),
        installed=__version__ != "0+unknown",
        environ=environ,
    )


def find_launch(now: Running) -> Launch:
    """How a host starts this program.

    Raises:
        HostError: nothing that a host could start would find it.
    """
    if (runner := _runner(now)) is not None:
        return runner
    script = _script(now)
    if script is not None:
        return Launch(str(script))
    if not now.installed:
        raise HostError(
            "inference-mcp runs from a folder of sources and is not installed, so that a host "
            "could not find it. Install it: python -m pip install ."
        )
    return Launch(now.python, ("-m", "inference_mcp"))


def _script(now: Running) -> Path | None:
    """The console script that runs, or else that of this environment."""
    suffix = ".exe" if sys.platform == "win32" else ""
    called = Path(now.called).absolute()
    for found in (called.with_name(SERVER + suffix), now.scripts / (SERVER + suffix)):
        if (found.parent == now.scripts or called.stem == SERVER) and found.is_file():
            return found
    return None


def _runner(now: Running) -> Launch | None:
    note = (
        "It runs in a temporary environment of {0}, so the command names {0}, which fetches "
        "inference-mcp by that name from the package index."
    )
    if _is_of_uv(now.prefix):
        uv = Path(now.environ.get("UV", ""))
        uvx = uv.with_name(f"uvx{uv.suffix}") if uv.is_absolute() else None
        if uvx is not None and uvx.is_file():
            return Launch(str(uvx), (SERVER,), note.format("uvx"))
        return _found("uvx", (SERVER,), note)
    if (now.prefix / "pipx_metadata.json").is_file() and now.prefix.parent.name != "venvs":
        return _found("pipx", ("run", SERVER), note)
    return None


def _is_of_uv(prefix: Path) -> bool:
    """An environment of uv's making, inside of uv's cache."""
    try:
        made_by_uv = "uv = " in (prefix / "pyvenv.cfg").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return False
    real = prefix.resolve()
    return made_by_uv and any((each / "CACHEDIR.TAG").is_file() for each in real.parents)


def _found(name: str, arguments: tuple[str, ...], note: str) -> Launch:
    path = shutil.which(name)
    if path is None:
        raise HostError(
            f"inference-mcp runs in a temporary environment, and {name}, which made it, is not "
            f"found in PATH. Install inference-mcp for good: pipx install {SERVER}, or "
            f"uv tool install {SERVER}."
        )
    return Launch(str(Path(path).absolute()), arguments, note.format(name))
