"""What becomes of a request when LocalAI, or the way to it, fails: fault by type.

    python -m tests.benchmarks.faults [--json FILE] [--only WORD]

Each cell is one request through the real client, queue and jobs against a raw TCP server that
fails in one way, once (and is well from then on) or always. A cell tells how the request ended
(``completed`` or the error's code), how often it was tried, and the seconds that it took, from
its submission to its end; the queue's jitter is 0, so that a back-off takes no time but what
LocalAI asked for. Before each cell one good request is measured, for a picture whose answer
was lost is tried again only when LocalAI can be done with it; after each cell no slot may be
held, and the next good request must work. What a cell should be stands in ``FAULTS``; one that
is otherwise is marked with ``!``, and then the exit code is 1.
"""

from __future__ import annotations

import argparse
import base64
import gzip
import json
import sys
import tempfile
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from functools import cache, partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import anyio

from inference_mcp.localai.client import LocalAIClient
from inference_mcp.requests import RequestType
from tests.fakes import png
from tests.localai.scripted import Exchange, Script, said
from tests.localai.wholes import (
    EVENTS,
    GENERATION,
    PICTURES,
    Port,
    Whole,
    answer_well,
    opened,
    outcome,
    until,
    whole,
)

__all__ = ["FAULTS", "Cell", "Ends", "Fault", "LowLimits", "main", "run_cell"]

IN_TIME_S = 30.0
TOO_SHORT_S = 0.4
"""For what hangs: long enough that the fault is reached, on any machine."""

TEXT = (RequestType.TXT2TXT, RequestType.IMG2TXT)
WITH_PICTURE = (RequestType.IMG2IMG, RequestType.IMG2TXT)


class Ends(NamedTuple):
    """How a request should end, and after how many tries."""

    outcome: str
    tries: int


@dataclass(frozen=True)
class Fault:
    """One way to fail, and what is right then.

    ``play`` answers a request badly; the text is the address of another host. ``once`` and
    ``always`` are the ends where the fault comes once, and where it stays; ``None`` of a type
    (in ``other``) is a cell that cannot be. ``floor_s``: LocalAI asked to be left alone so long.
    """

    name: str
    play: Callable[[Exchange, str], Awaitable[None]]
    once: Ends
    always: Ends
    other: Mapping[RequestType, tuple[Ends, Ends] | None] = field(default_factory=dict)
    timeout_s: float = IN_TIME_S
    floor_s: float = 0.0
    refuses: bool = False
    heavy: bool = False

    def right(self, kind: RequestType, *, lasting: bool) -> Ends | None:
        """What is right for a cell; ``None`` where there is none."""
        ends = self.other.get(kind, (self.once, self.always))
        return None if ends is None else ends[lasting]


@dataclass(frozen=True)
class Cell:
    """What became of one request. ``sent`` is how often LocalAI was asked to compute."""

    fault: str
    kind: str
    lasting: bool
    outcome: str
    tries: int
    sent: int
    in_time: bool
    seconds: float

    @property
    def ends(self) -> Ends:
        """What the table tells."""
        return Ends(self.outcome, self.tries)


class LowLimits(LocalAIClient):
    """One for which a picture's answer is too large sooner."""

    MAX_PICTURE_BYTES = 1_000_000


# The faults -----------------------------------------------------------------------------

OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


def _is_chat(exchange: Exchange) -> bool:
    return exchange.seen.path == GENERATION[0]


def _right_body(exchange: Exchange) -> bytes:
    if not _is_chat(exchange):
        return json.dumps(PICTURES).encode()
    texts = (event if isinstance(event, str) else json.dumps(event) for event in EVENTS)
    return "".join(f"data: {text}\n\n" for text in texts).encode()


async def _never(exchange: Exchange, _: str) -> None:
    raise AssertionError("nobody listens")


async def _reset(head: bytes, exchange: Exchange, _: str) -> None:
    if head:
        await exchange.send(head)
        await anyio.sleep(0.01)  # so that the reset does not overtake it
    exchange.stream.reset()  # type: ignore[attr-defined]


async def _cut_chunk(exchange: Exchange, _: str) -> None:
    body = _right_body(exchange)
    await exchange.send(CHUNKED + b"%x\r\n%s" % (len(body), body[: len(body) // 2]))
    await exchange.stream.aclose()


async def _cut_json(exchange: Exchange, _: str) -> None:
    body = _right_body(exchange)
    if _is_chat(exchange):
        body = json.dumps(said("half an answer")).encode()
    await exchange.answer(200, body[: len(body) // 2], Content_Type="application/json")


async def _cut_event(exchange: Exchange, _: str) -> None:
    if not _is_chat(exchange):
        await _cut_json(exchange, _)
        return
    half = json.dumps(said("half an answer"))[:30]
    await exchange.events(half, "[DONE]")


async def _no_end(exchange: Exchange, _: str) -> None:
    await exchange.events(said("half an answer"))


async def _cut_png(exchange: Exchange, _: str) -> None:
    half = base64.b64encode(png()[: len(png()) // 2]).decode()
    await exchange.answer(200, {"data": [{"b64_json": half}]})


async def _hang(exchange: Exchange, _: str) -> None:
    await exchange.wait_closed()


async def _drip(pause_s: float, exchange: Exchange, _: str) -> None:
    await exchange.send(CHUNKED)
    for byte in _right_body(exchange):
        await exchange.chunk(bytes([byte]))
        await anyio.sleep(pause_s)
    await exchange.send(b"0\r\n\r\n")


async def _status(status: int, body: Any, exchange: Exchange, _: str, **headers: str) -> None:
    await exchange.answer(status, body, **headers)


async def _too_many(retry_after: str, exchange: Exchange, _: str) -> None:
    now = datetime.now(UTC).replace(microsecond=0)
    if retry_after == "date":
        retry_after = format_datetime(now + timedelta(seconds=1), usegmt=True)
    body = {"error": {"code": 429, "message": "slow down", "type": "rate_limit"}}
    date = format_datetime(now, usegmt=True)
    await exchange.answer(429, body, Retry_After=retry_after, Date=date)


async def _other_type(exchange: Exchange, _: str) -> None:
    await exchange.answer(200, _right_body(exchange), Content_Type="image/x-icon")


@cache
def _packed() -> bytes:
    return gzip.compress(b'{"data":[{"b64_json":"' + b"A" * 120_000_000, 6)


async def _bomb(exchange: Exchange, _: str) -> None:
    await exchange.answer(200, _packed(), Content_Encoding="gzip", Content_Type="application/json")


async def _endless(exchange: Exchange, _: str) -> None:
    await exchange.send(CHUNKED)
    if _is_chat(exchange):
        event = f"data: {json.dumps(said('x' * 100_000))}\n\n".encode()
        while True:
            await exchange.chunk(event)
    await exchange.chunk(b'{"data":[{"b64_json":"')
    while True:
        await exchange.chunk(b"A" * 100_000)


async def _redirect(status: int, exchange: Exchange, elsewhere: str) -> None:
    await exchange.answer(status, Location=elsewhere + exchange.seen.path)


async def _headers(exchange: Exchange, _: str) -> None:
    await exchange.send(OK)
    while True:
        await exchange.send(b"X-More: " + b"y" * 8_000 + b"\r\n")


async def _surrogate(exchange: Exchange, _: str) -> None:
    if _is_chat(exchange):
        await exchange.events(said("a \ud800 b"), said(None, "stop"), "[DONE]")
    else:
        await exchange.answer(200, {"data": [{"b64_json": "iVBO\ud800"}]})


def _fails(code: str) -> tuple[Ends, Ends]:
    """Permanent: it is told, and not tried again."""
    return Ends(code, 1), Ends(code, 1)


def _passes(code: str) -> tuple[Ends, Ends]:
    """Transient (S14): once costs a try, always costs all three."""
    return Ends("completed", 2), Ends(code, 3)


FINE = (Ends("completed", 1), Ends("completed", 1))
# S14: to wait for a LocalAI that may only be starting is no try; what would come too late is none.
ABSENT = (Ends("completed", 2), Ends("backend_unreachable", 2))
TIME_OVER = _fails("deadline_exceeded")
HTML = b"<html><body>Sorry, not now</body></html>"
DEEP = b"[" * 200_000
WRONG = {"choices": 7, "data": 7}


def _error(message: str, code: int, kind: str = "") -> dict[str, Any]:
    return {"error": {"code": code, "message": message, "type": kind}}


NO_MODEL = _error('model "m" not found. To see available models, call GET /v1/models', 404)
NO_KEY = _error("An authentication key is required", 401, "invalid_request_error")
NOT_ALLOWED = _error("feature not allowed", 403, "authorization_error")
TOO_LARGE = {kind: _fails("image_rejected") for kind in WITH_PICTURE}

NO_PICTURE = dict.fromkeys((RequestType.TXT2IMG, RequestType.IMG2IMG))

FAULTS: tuple[Fault, ...] = (
    Fault("refused", _never, *ABSENT, timeout_s=1.6, refuses=True),
    Fault("reset before headers", partial(_reset, b""), *_passes("backend_unreachable")),
    Fault("reset after headers", partial(_reset, CHUNKED), *_passes("backend_unreachable")),
    Fault("cut inside a chunk", _cut_chunk, *_passes("backend_unreachable")),
    Fault("cut JSON, whole HTTP", _cut_json, *_fails("bad_result")),
    Fault("cut event, whole HTTP", _cut_event, *_fails("bad_result")),
    Fault("stream without an end", _no_end, *_passes("backend_unreachable"), other=NO_PICTURE),
    Fault("cut PNG, whole JSON", _cut_png, *_fails("bad_result"), other=dict.fromkeys(TEXT)),
    Fault("hang", _hang, *TIME_OVER, timeout_s=TOO_SHORT_S),
    Fault("slow drip", partial(_drip, 0.05), *TIME_OVER, timeout_s=TOO_SHORT_S),
    Fault("drip in time", partial(_drip, 0.0), *FINE),
    Fault("400", partial(_status, 400, _error("bad", 400)), *_fails("invalid_input")),
    Fault("401", partial(_status, 401, NO_KEY), *_fails("backend_auth")),
    Fault("403", partial(_status, 403, NOT_ALLOWED), *_fails("backend_auth")),
    Fault("404", partial(_status, 404, NO_MODEL), *_fails("model_not_found")),
    Fault("413", partial(_status, 413, b""), *_fails("invalid_input"), other=TOO_LARGE),
    Fault("429", partial(_status, 429, _error("later", 429)), *_passes("backend_busy")),
    Fault("429, seconds", partial(_too_many, "1"), *_passes("backend_busy"), floor_s=1),
    Fault("429, date", partial(_too_many, "date"), *_passes("backend_busy"), floor_s=1),
    Fault(
        "429, too late",
        partial(_too_many, "1"),
        *_fails("backend_busy"),
        timeout_s=0.9,
        floor_s=1,
    ),
    Fault("500", partial(_status, 500, b"Internal Server Error"), *_fails("backend_error")),
    Fault("500, deep JSON", partial(_status, 500, DEEP), *_fails("backend_error")),
    Fault("502", partial(_status, 502, b"Bad Gateway"), *_passes("backend_unreachable")),
    Fault("503", partial(_status, 503, _error("no", 503)), *_passes("backend_busy")),
    Fault("504", partial(_status, 504, b""), *_passes("backend_unreachable")),
    Fault("HTML with 200", partial(_status, 200, HTML), *_fails("backend_unreachable")),
    Fault("HTML with 502", partial(_status, 502, HTML), *_passes("backend_unreachable")),
    Fault("wrong type, right body", _other_type, *FINE),
    Fault("empty 200", partial(_status, 200, b""), *_passes("backend_unreachable")),
    Fault("gzip bomb", _bomb, *_fails("bad_result"), heavy=True),
    Fault("larger than the limit", _endless, *_fails("bad_result"), heavy=True),
    Fault("redirect 302", partial(_redirect, 302), *_fails("backend_unreachable")),
    Fault("redirect 307", partial(_redirect, 307), *_fails("backend_unreachable")),
    Fault("JSON of wrong shape", partial(_status, 200, WRONG), *_fails("bad_result")),
    Fault("JSON, but no object", partial(_status, 200, [1]), *_fails("bad_result")),
    Fault("deep JSON", partial(_status, 200, b'{"choices":' + DEEP), *_fails("bad_result")),
    Fault("lone surrogates", _surrogate, *_fails("bad_result"), other=dict.fromkeys(TEXT, FINE)),
    Fault("header bomb", _headers, *_passes("backend_unreachable"), heavy=True),
)


# One cell -------------------------------------------------------------------------------


async def run_cell(
    fault: Fault,
    kind: RequestType,
    folder: Path,
    *,
    lasting: bool,
    client: type[LocalAIClient] = LowLimits,
    well: Script = answer_well,
) -> Cell:
    """Run one request into the fault, and prove that nothing of it is left.

    ``well`` is how LocalAI answers when all is well.

    Raises:
        AssertionError: a slot is held, the next good request fails, the other host or one
            without the key was asked, LocalAI was asked too often, or the job ended twice.
    """
    async with (
        opened() as elsewhere,
        opened(well) as port,
        whole(port.url, folder, kind=client) as app,
    ):
        for _ in range(2):  # one that carries a load tells nothing of how long work takes
            assert outcome(await app.run(kind)) == "completed"
        before = port.generations
        _break(port, app, fault, elsewhere.url, lasting=lasting)
        job = await app.run(kind, app.jobs_within(fault.timeout_s))
        sent, starts = port.generations - before, port.began[before:]
        _mend(port, fault, well, lasting=lasting)
        await app.settled()
        await until(lambda: not port.busy)
        after = await app.run(kind)
        assert outcome(after) == "completed", f"the next good request: {after.error!r}"
        await app.settled()
        assert (port.strangers, elsewhere.connections) == (0, 0)
        assert all(len(states) == 1 for states in app.ends.values()), "one end for each"
        assert fault.refuses or sent == app.tries(job), "asked as often as tried"
        if lasting:  # LocalAI's wish holds for whoever comes next, too
            starts = port.began[before:]
        gaps = [later - earlier for earlier, later in pairwise(starts)]
        assert all(gap >= fault.floor_s for gap in gaps), f"asked again after {min(gaps)} s"
        seconds = (job.finished_at or 0.0) - job.submitted_at
        in_time = seconds < fault.timeout_s
        tries = app.tries(job)
    return Cell(fault.name, kind.value, lasting, outcome(job), tries, sent, in_time, seconds)


def _break(port: Port, app: Whole, fault: Fault, elsewhere: str, *, lasting: bool) -> None:
    """Let the next request for work, or all of them, meet the fault."""
    well = port.script

    async def play(exchange: Exchange) -> None:
        if exchange.seen.path not in GENERATION:
            await well(exchange)
            return
        if not lasting:
            port.script = well
        await fault.play(exchange, elsewhere)

    def open_again() -> None:
        app.on_retry = lambda: None
        port.open()

    port.script = play
    if fault.refuses:
        port.script = well
        port.close()
        if not lasting:
            app.on_retry = open_again


def _mend(port: Port, fault: Fault, well: Script, *, lasting: bool) -> None:
    """Let all be well again."""
    port.script = well
    if fault.refuses and lasting:
        port.open()


# The table ------------------------------------------------------------------------------


async def _print(only: str, say: Callable[[str], None]) -> list[Cell]:
    cells: list[Cell] = []
    say(f"{'fault':<24}{'':<8}" + "".join(f"{kind.value:<32}" for kind in RequestType))
    for fault in FAULTS:
        if only not in fault.name:
            continue
        for lasting in (False, True):
            row = f"{fault.name:<24}{'always' if lasting else 'once':<8}"
            for kind in RequestType:
                right = fault.right(kind, lasting=lasting)
                if right is None:
                    row += f"{'—':<32}"
                    continue
                with tempfile.TemporaryDirectory() as folder:
                    cell = await run_cell(fault, kind, Path(folder), lasting=lasting)
                cells.append(cell)
                mark = "" if cell.ends == right else " !"
                row += f"{f'{cell.outcome} {cell.tries}× {cell.seconds:.2f} s{mark}':<32}"
            say(row.rstrip())
    return cells


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.faults")
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.description = __doc__
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the cells there as well")
    parser.add_argument("--only", default="", metavar="WORD", help="faults whose name holds it")
    options = parser.parse_args(arguments)
    cells = anyio.run(_print, options.only, partial(print, flush=True))
    if options.json is not None:
        rows = [asdict(cell) for cell in cells]
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    wrong = [cell for cell in cells if cell.ends != _right(cell)]
    return 1 if wrong else 0


def _right(cell: Cell) -> Ends | None:
    fault = next(fault for fault in FAULTS if fault.name == cell.fault)
    return fault.right(RequestType(cell.kind), lasting=cell.lasting)


if __name__ == "__main__":
    sys.exit(main())
