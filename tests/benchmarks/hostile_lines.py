"""Hostile lines to the real program over stdio, mixed with calls whose answers are checked.

    python -m tests.benchmarks.hostile_lines [--lines N] [--seed S]

In both eras of the protocol: with ``initialize``, and with an envelope in each request. Behind
the program stands the LocalAI stand-in. Each good call must get its one right answer, a hostile
line at most one, stdout must hold nothing but messages, stderr neither a traceback nor anything
of a line, and the end of stdin must end the program with 0. Printed are lines, good calls,
errors answered, seconds, the memory after a tenth of the lines and what it grew by from there,
its peak, and how many more files are open. What is wrong makes the exit code 1.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import anyio
import anyio.abc

from inference_mcp.simulator.content import answer_for
from inference_mcp.simulator.running import running
from inference_mcp.surface.listing import TOOL_NAMES
from tests.benchmarks.pairs import say
from tests.hostile_lines import FIRST_CALL, MARK, MODERN, envelope, hostile_line, large_lines
from tests.processes import Raw, raw_host
from tests.simulator.serving import recorded_world

__all__ = ["ERAS", "Figures", "run"]

ERAS = ("2025-11-25", "2025-06-18", MODERN)
EACH = 4
"""Hostile lines to a good call."""

OPEN_AT_ONCE = 40
PATIENCE_S = 60.0


@dataclass
class Figures:
    """Of one run. ``wrong`` says what must not be; at most some of each."""

    era: str
    lines: int = 0
    good: int = 0
    answered: int = 0
    errors: int = 0
    seconds: float = 0.0
    exit_code: int | None = None
    rss_bytes: int = 0
    growth_bytes: int = 0
    peak_bytes: int = 0
    more_files: int = 0
    wrong: list[str] = field(default_factory=list)

    def told(self) -> str:
        """One line of the table."""
        return (
            f"{self.era:<12}{self.lines:>8}{self.good:>8}{self.answered:>10}{self.errors:>8}"
            f"{self.seconds:>8.1f}{self.rss_bytes / 1e6:>8.0f}{self.growth_bytes / 1e6:>8.1f}"
            f"{self.peak_bytes / 1e6:>8.0f}{self.more_files:>7}{len(self.wrong):>7}"
        )


def measured(pid: int) -> tuple[int, int, int]:
    """Memory now, at its peak, and open files; zeros where the system does not tell."""
    status = Path(f"/proc/{pid}/status")
    if not status.exists():
        return 0, 0, 0
    facts = dict(line.split(":", 1) for line in status.read_text().splitlines())
    now, peak = (int(facts[name].split()[0]) * 1024 for name in ("VmRSS", "VmHWM"))
    return now, peak, len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 - names alone


@dataclass(eq=False)
class Conversation:
    """What was sent and what came back. ``good`` are the numbers whose answers must be right."""

    raw: Raw
    era: str
    figures: Figures
    good: dict[int, Any] = field(default_factory=dict)
    sent: Counter[object] = field(default_factory=Counter)
    got: Counter[object] = field(default_factory=Counter)
    number: int = FIRST_CALL
    _changed: anyio.Event = field(default_factory=anyio.Event)

    async def listen(self) -> None:
        """Read all that comes, to the end."""
        while True:
            try:
                message = await self.raw.receive()
            except (anyio.EndOfStream, anyio.IncompleteRead):
                break
            except (ValueError, KeyError, TypeError, AssertionError) as error:
                self.figures.wrong.append(f"stdout: {error!r} {self.raw.lines[-1][:200]!r}")
                continue
            self.raw.lines.clear()
            if "method" not in message:
                self._take(message)
        self._wake()

    def _take(self, message: dict[str, Any]) -> None:
        id_ = message.get("id")
        self.got[_key(id_)] += 1
        self.figures.errors += "error" in message
        if type(id_) is int and id_ in self.good:
            self.figures.answered += 1
            wanted = self.good.pop(id_)
            if "result" not in message or not _is_right(message["result"], wanted):
                self.figures.wrong.append(f"call {id_}: {str(message)[:300]}")
            self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()

    async def call(self) -> None:
        """Send one good call; its kind goes by its number."""
        self.number += 1
        method, params, wanted = _good(self.number)
        self.good[self.number] = wanted
        self.figures.good += 1
        params |= envelope(self.era)
        message = {"jsonrpc": "2.0", "id": self.number, "method": method, "params": params}
        await self.line(self.number, json.dumps(message).encode())

    async def line(self, id_: object, line: bytes) -> None:
        """Send any line."""
        self.figures.lines += 1
        for physical in line.split(b"\n"):
            self.sent[_key(id_)] += 1
            self.sent[None] += 1
            await self.raw.send(physical)

    async def settled(self, at_most: int = 0) -> None:
        """Wait until no more good calls are open; one that hangs is wrong."""
        with anyio.move_on_after(PATIENCE_S) as scope:
            while len(self.good) > at_most:
                await self._changed.wait()
        if scope.cancelled_caught:
            self.figures.wrong.append(f"never answered: {list(self.good.items())[:5]}")
            self.good.clear()

    def judge(self) -> None:
        """No line has two answers; ids that nobody sent are of lines whose own cannot be told."""
        others = 0
        for id_, count in self.got.items():
            if id_ is None or id_ not in self.sent:
                others += count
            elif count > self.sent[id_]:
                self.figures.wrong.append(f"{count} answers to {str(id_)[:80]}")
        if others > self.sent[None]:
            self.figures.wrong.append(f"{others} answers to {self.sent[None]} lines")


def _key(id_: object) -> object:
    """1 and "1" are two ids."""
    return None if id_ is None else (type(id_).__name__, id_)


def _good(number: int) -> tuple[str, dict[str, Any], Any]:
    """Method, parameters, and what tells that the answer is right."""
    match number % 5:
        case 0:
            return "tools/list", {}, ("tools", len(TOOL_NAMES))
        case 1:
            return (
                "tools/call",
                {"name": "get_queue_status", "arguments": {}},
                ("status", "waiting"),
            )
        case 2:
            return "resources/read", {"uri": "inference://metrics"}, ("contents", 1)
    prompt = f"Good call {number}"
    arguments = {"prompt": prompt, "priority": "critical"}
    return "tools/call", {"name": "txt2txt", "arguments": arguments}, ("text", prompt)


def _is_right(result: dict[str, Any], wanted: tuple[str, Any]) -> bool:
    kind, value = wanted
    match kind:
        case "tools" | "contents":
            return bool(len(result[kind]) == value)
        case "status":
            return bool(value in result["structuredContent"])
    return bool(result["content"][0]["text"] == answer_for([("user", value)]))


async def run(era: str, lines: int, seed: int, folder: Path, *, large: bool) -> Figures:
    """One program, one host, so many hostile lines and a good call for each few of them."""
    figures = Figures(era)
    began = time.perf_counter()
    async with (
        running(recorded_world()) as url,
        raw_host(url, folder, limit_s=None, MAX_CONCURRENCY=4) as raw,
    ):
        talk = Conversation(raw, era, figures)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(talk.listen)
            await _talk(talk, lines, seed, large=large)
            assert raw.process.stdin is not None
            await raw.process.stdin.aclose()
            with anyio.move_on_after(10):
                figures.exit_code = await raw.process.wait()
            if figures.exit_code is None:
                raw.process.kill()
        talk.judge()
    figures.seconds = time.perf_counter() - began
    if figures.exit_code != 0:
        figures.wrong.append(f"exit code {figures.exit_code}")
    log = await (anyio.Path(folder) / "stderr").read_text(errors="replace")
    figures.wrong += [f"stderr holds {word}" for word in ("Traceback", MARK) if word in log]
    return figures


async def _talk(talk: Conversation, lines: int, seed: int, *, large: bool) -> None:
    if talk.era != MODERN:
        info = {"name": "test", "version": "1"}
        params = {"protocolVersion": talk.era, "capabilities": {}, "clientInfo": info}
        first = {"jsonrpc": "2.0", "id": "first", "method": "initialize", "params": params}
        await talk.line("first", json.dumps(first).encode())
        await talk.line(None, b'{"jsonrpc":"2.0","method":"notifications/initialized"}')
    figures, pid = talk.figures, talk.raw.process.pid
    files = 0
    for each in large_lines(talk.era) if large else ():
        await talk.line(*each)
        await talk.call()
        await talk.settled()
    for number in range(lines):
        await talk.line(*hostile_line(seed, number, talk.era))
        if number % EACH == 0:
            await talk.call()
            await talk.settled(OPEN_AT_ONCE)
        if number == lines // 10:
            await talk.settled()
            figures.rss_bytes, _, files = measured(pid)
    await talk.settled()
    now, figures.peak_bytes, files_now = measured(pid)
    figures.growth_bytes, figures.more_files = now - figures.rss_bytes, files_now - files


async def _all(lines: int, seed: int) -> int:
    say(
        f"{'era':<12}{'lines':>8}{'good':>8}{'answered':>10}{'errors':>8}{'s':>8}{'MB':>8}"
        f"{'growth':>8}{'peak':>8}{'files':>7}{'wrong':>7}"
    )
    wrong: list[str] = []
    for era in ERAS:
        with tempfile.TemporaryDirectory() as folder:
            figures = await run(era, lines, seed, Path(folder), large=True)
        say(figures.told())
        wrong += [f"{era}: {each}" for each in figures.wrong]
    for each in wrong[:30]:
        say(f"! {each}")
    return 1 if wrong else 0


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="What hostile lines do to the server.")
    parser.add_argument("--lines", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    return anyio.run(_all, given.lines, given.seed)


if __name__ == "__main__":
    sys.exit(main())
