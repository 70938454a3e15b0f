"""P2: what a chat over stdio costs where LocalAI takes no time.

    python -m tests.benchmarks P2

Beside it stands what cannot be done without: an echo over stdio on the same SDK, and a bare
httpx call to the same LocalAI, one after another; then the two joined, a tool on the SDK that
calls LocalAI by httpx's asynchronous client and does nothing else. Batches of calls in turn; of
each batch the median. Then 32 callers at once, beside the echo's 32; what limits both is one
process's core.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

import httpx

from tests.benchmarks.least import CHAT_BODY, least
from tests.benchmarks.pairs import Goal, Line, alternate, line
from tests.benchmarks.programs import EMPTY, OURS, Program, program

__all__ = ["lines"]

CALLERS = 32
ARGUMENTS = {"name": "txt2txt", "arguments": {"prompt": "Hello"}}


def lines(quick: bool) -> Iterator[Line]:
    """One caller, then ``CALLERS``."""
    batch, rounds = (20, 5) if quick else (50, 20)
    with (
        tempfile.TemporaryDirectory() as folder,
        least() as url,
        program(OURS, url, Path(folder)) as ours,
        program(EMPTY, url, Path(folder)) as echo,
        httpx.Client(base_url=url, trust_env=False) as http,
    ):
        ours.shake_hands()
        echo.shake_hands()

        def needed() -> float:
            return _call_ms(echo, batch) + _http_ms(http, batch)

        pairs = alternate(lambda: _call_ms(ours, batch), needed, rounds)
        goal = Goal(1.2, "ratio")
        yield line("P2", "a chat over stdio, middle", "ms", pairs, "SDK's echo + bare httpx", goal)
        pairs = alternate(lambda: _call_ms(ours, batch), lambda: _chat_ms(echo, batch), rounds)
        yield line("P2", "a chat over stdio, middle", "ms", pairs, "SDK's server, httpx in a tool")
        pairs = alternate(
            lambda: _calls_per_s(ours, 4 * batch), lambda: _calls_per_s(echo, 4 * batch), rounds
        )
        goal = Goal(400.0, "ours", at_least=True)
        yield line("P2", f"chats with {CALLERS} callers", "/s", pairs, "SDK's echo", goal)


def _call_ms(server: Program, calls: int) -> float:
    return 1e3 * median(server.call_s("txt2txt", prompt="Hello") for _ in range(calls))


def _chat_ms(server: Program, calls: int) -> float:
    return 1e3 * median(server.call_s("chat") for _ in range(calls))


def _http_ms(http: httpx.Client, calls: int) -> float:
    times = []
    for _ in range(calls):
        began = time.perf_counter()
        http.post("/v1/chat/completions", content=CHAT_BODY).raise_for_status()
        times.append(time.perf_counter() - began)
    return 1e3 * median(times)


def _calls_per_s(server: Program, calls: int) -> float:
    """So many calls, ``CALLERS`` of them under way at any time."""
    began = time.perf_counter()
    for sent in range(calls + CALLERS):
        if sent >= CALLERS:
            server.receive()
        if sent < calls:
            server.send("tools/call", **ARGUMENTS)
    return calls / (time.perf_counter() - began)
