"""The protocol's official conformance suite, over HTTP, at the wire of both eras.

It cannot send a token, so a proxy of the tests adds it. What it is expected to find stands in
``expected-….yml``, with the reason; anything else fails, and so does an entry out of date.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from anyio import to_thread

from tests.bearing import bearing
from tests.npm import installed, node
from tests.web.served import served

pytestmark = [pytest.mark.npm, pytest.mark.timeout(240)]

HERE = Path(__file__).parent
PACKAGE, VERSION = "@modelcontextprotocol/conformance", "0.2.0-alpha.12"
"""Only alphas know 2026-07-28 so far; exact, for what is expected is expected of one version."""


@pytest.fixture(scope="module")
def suite() -> Path:
    """The suite's program."""
    return installed(PACKAGE, VERSION, "dist/index.js")


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
async def test_it_conforms_but_for_what_is_said(revision: str, suite: Path, tmp_path: Path) -> None:
    """Every scenario that the revision requires of a server, at that revision's wire."""
    expected = HERE / f"expected-{revision}.yml"
    async with (
        served("http://127.0.0.1:9", tmp_path, "--simulate") as server,
        bearing(server.url, server.headers) as url,
    ):
        options = ["--url", f"{url}/mcp", "--requirements", revision, "--output-dir", "results"]
        run = partial(node, suite, "server", *options, "--expected-failures", str(expected))
        done = await to_thread.run_sync(partial(run, timeout_s=120, cwd=tmp_path))
    print(done.stdout[done.stdout.find("=== SUMMARY") :])  # noqa: T201 - the table, where it fails
    assert done.returncode == 0, done.stderr
    assert "server-initialize" in done.stdout or "server-stateless" in done.stdout


@pytest.mark.parametrize("revision", ["2025-11-25", "2026-07-28"])
def test_each_expected_failure_has_its_reason(revision: str) -> None:
    """On its line."""
    lines = (HERE / f"expected-{revision}.yml").read_text(encoding="utf-8").splitlines()
    entries = [line for line in lines if line.startswith("  - ")]
    assert entries
    assert [line for line in entries if len(line.partition("  # ")[2]) < 20] == []
