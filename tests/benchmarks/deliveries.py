"""P5: a status call while four pictures of 8 MB are delivered, beside an idle one.

    python -m tests.benchmarks P5

The real server over stdio and the least of a LocalAI, which answers each picture at once with
the same 8 MB of noise. Each round asks for four pictures at a time, and for the queue's status
again and again until they are there; as many status calls go before it with nothing else to do.
Beside it stands the SDK's own way: a server that sends four such pictures inline while it is
asked for an echo.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from statistics import median

from tests.benchmarks.least import least
from tests.benchmarks.pairs import Goal, Line, line
from tests.benchmarks.programs import EMPTY, OURS, Program, program

__all__ = ["lines"]

PICTURES = 4
SIDE_PX = 1632  # of noise in three channels: 8 MB
INLINE_CHARS = 10_800_000  # the same in Base64
GOAL_MS = 10.0


def lines(quick: bool) -> Iterator[Line]:
    """The middle call of a round and its worst, beside idle ones; the worst beside the SDK's."""
    rounds = 2 if quick else 10
    slots = {"MAX_CONCURRENCY": PICTURES, "MODEL_CONCURRENCY": f"flux-dev={PICTURES}"}
    with (
        tempfile.TemporaryDirectory() as folder,
        least(SIDE_PX) as url,
        program(OURS, url, Path(folder), **slots) as ours,
        program(EMPTY, url, Path(folder)) as inline,
    ):
        for each in (ours, inline):
            each.shake_hands()
        found = [_round(ours, inline, number) for number in range(rounds + 1)][1:]
    middles = [(median(busy), median(idle)) for idle, busy, _ in found]
    worst = [(max(busy), max(idle)) for idle, busy, _ in found]
    sdk = [(max(busy), max(theirs)) for _, busy, theirs in found]
    what, goal = f"a status call beside {PICTURES} pictures of 8 MB", Goal(GOAL_MS, "difference")
    yield line("P5", f"{what}, middle", "ms", middles, "idle", goal, by="difference")
    yield line("P5", f"{what}, worst", "ms", worst, "idle", goal, by="difference")
    yield line("P5", f"{what}, worst", "ms", sdk, "SDK sending them inline")


def _round(
    ours: Program, inline: Program, number: int
) -> tuple[list[float], list[float], list[float]]:
    """Milliseconds of each call: with nothing to do, beside pictures, beside inline ones."""
    size = {"width": SIDE_PX, "height": SIDE_PX}
    pictures = [
        {"prompt": "noise", "seed": number * PICTURES + each + 1, **size}
        for each in range(PICTURES)
    ]
    busy = _meanwhile_ms(ours, "txt2img", pictures, "get_queue_status", {})
    idle = [1e3 * ours.call_s("get_queue_status") for _ in busy]
    theirs = _meanwhile_ms(
        inline, "picture", [{"size": INLINE_CHARS}] * PICTURES, "echo", {"prompt": "Hello"}
    )
    return idle, busy, theirs


def _meanwhile_ms(
    server: Program,
    long: str,
    calls: list[dict[str, object]],
    short: str,
    arguments: dict[str, object],
) -> list[float]:
    """Send all long calls at once; ask the short one again and again until they are answered."""
    pending = {server.send("tools/call", name=long, arguments=each) for each in calls}
    times = []
    while pending:
        began = time.perf_counter()
        asked = server.send("tools/call", name=short, arguments=arguments)
        while (answered := server.receive()["id"]) != asked:
            pending.discard(answered)
        times.append(1e3 * (time.perf_counter() - began))
    return times
