"""One process for one host: its start, and its end in time (S20).

An end begins when stdin ends, a signal comes or stdout is gone. Then the jobs are closed while
the session still runs, so that every open call gets its answer, and only then does the session
end. From the first moment on a watchdog runs: threads that hang in a slow disk, in stdin or in
stdout cannot be interrupted, and the interpreter would wait for all of them.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
import threading
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial

import anyio
from mcp.server.stdio import stdio_server

from inference_mcp.errors import place
from inference_mcp.logs import flush, log
from inference_mcp.server.assembly import GRACE_S, App, open_app
from inference_mcp.server.protocol import build_server
from inference_mcp.server.stdio import Host
from inference_mcp.settings import Settings

__all__ = ["ANSWER_S", "End", "localai", "serve_stdio", "until_end"]

ANSWER_S = 0.4
"""What the last answers may take to be made, once all jobs have ended."""

END_S = 1.4
"""What an end may take in all: hosts send SIGTERM 2 s after they closed stdin, and S20 allows
1.8 s. ``GRACE_S``, ``ANSWER_S`` and the closing of connections fit into it."""

LAST_S = 0.1
"""What the last lines of the log may take where the end was not an orderly one. With ``END_S``
it is 0.3 s below S20's limit."""

LEAVE_S = 0.2
"""What the interpreter may take to end, once nothing is left to be done."""


class End:
    """The end of this process. ``code`` is its exit code; ``done``: nothing is left to be done."""

    def __init__(self) -> None:
        self.begun = anyio.Event()
        self.code = 0
        self.done = False

    def begin(self) -> None:
        """It ends now; the first call counts."""
        if not self.begun.is_set():
            self.within(END_S)
            self.begun.set()

    def within(self, seconds: float) -> None:
        """See to it that the process is gone by then, from any thread; the earliest counts.

        The log gets a moment for its last lines and no more: one that nobody reads may hang.
        """

        def leave() -> None:
            if not self.done:
                log("warning", "server.cut_off", problem="Something hung; the end went past it.")
            flush(LAST_S)
            os._exit(self.code)

        timer = threading.Timer(seconds, leave)
        timer.daemon = True
        timer.start()


async def serve_stdio(settings: Settings, *, simulate: bool) -> None:
    """Serve one host over stdin and stdout until it leaves. Raises what ``until_end`` raises."""
    await until_end(partial(_serve, settings, simulate))


async def until_end(serve: Callable[[End], Awaitable[None]]) -> None:
    """Run ``serve``, which returns soon after the end that it is given has begun.

    Raises:
        SystemExit: with 1, after a line in the log, for a fault of this server's own.
    """
    end = End()
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_hear_signals, end)
            await serve(end)
            tasks.cancel_scope.cancel()
    except Exception as error:
        fault = _fault(error)
        if fault is not None:
            end.code = 1
            log("critical", "server.failed", exception=place(fault))
    end.done = True
    log("info", "server.stopped")
    flush()
    end.within(LEAVE_S)
    if end.code:
        sys.exit(end.code)


async def localai(stack: AsyncExitStack, settings: Settings, simulate: bool) -> str:
    """The base URL of LocalAI, or of a stand-in that runs as long as ``stack`` is open."""
    if not simulate:
        return settings.base_url
    from inference_mcp.simulator.running import running
    from inference_mcp.simulator.world import default_world

    return await stack.enter_async_context(running(default_world(directives=False)))


async def _serve(settings: Settings, simulate: bool, end: End) -> None:
    async with AsyncExitStack() as stack:
        base_url = await localai(stack, settings, simulate)
        nothing = anyio.wrap_file(io.StringIO())  # ``Host`` reads stdin instead of the SDK
        unused, answers = await stack.enter_async_context(stdio_server(stdin=nothing))
        await unused.aclose()
        app = await stack.enter_async_context(open_app(settings, base_url, simulated=simulate))
        stack.callback(end.begin)  # whatever the reason, before the parts are closed
        server = build_server(app)
        # A reader of its own: the interpreter's end would hang on a lock of ``sys.stdin``.
        lines = open(sys.stdin.fileno(), "rb", closefd=False)  # noqa: ASYNC230, SIM115
        host = Host(lines, answers, partial(end.within, END_S))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_read_to_the_end, host, end)
            tasks.start_soon(_end_session, app, host, end)
            await server.run(host.messages, host, server.create_initialization_options())
            tasks.cancel_scope.cancel()


async def _read_to_the_end(host: Host, end: End) -> None:
    await host.read()
    end.begin()


async def _end_session(app: App, host: Host, end: End) -> None:
    """Once the end has begun, end the session, but not before its calls were answered."""
    await end.begun.wait()
    app.changes.close()  # streams that tell of changes are calls too
    await app.jobs.close(GRACE_S)
    with anyio.move_on_after(ANSWER_S):
        await host.answered()
    await host.hang_up()


async def _hear_signals(end: End) -> None:
    """SIGTERM and SIGINT end the server as the end of stdin does; more of them change nothing."""
    if sys.platform == "win32":  # no loop there hands out signals; hosts close stdin or kill
        return
    with anyio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            end.begin()


def _fault(error: Exception) -> BaseException | None:
    """What is this server's own fault, if anything: that the host closed stdout is none."""
    if isinstance(error, ExceptionGroup):
        found = (_fault(each) for each in error.exceptions)
        return next((each for each in found if each is not None), None)
    return None if _is_closed_pipe(error) else error


def _is_closed_pipe(error: Exception) -> bool:
    if isinstance(error, BrokenPipeError):
        return True
    return sys.platform == "win32" and isinstance(error, OSError) and error.errno == errno.EINVAL
