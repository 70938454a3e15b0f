"""Lines of the log for a host that asks for them: ``notifications/message``.

They are those of the log, as carefully worded: no prompt, path or exception's text is in them.
Only warnings and what is worse go out, whatever level is asked for, for a host's user wants to
know what went wrong; who wants more reads the log itself. Nothing is sent unasked.

In the ``initialize`` era ``logging/setLevel`` holds for a connection, and gets what the whole
process has to say, so many lines a minute at most. In that of 2026-07-28 each request asks for
itself in its ``_meta``: the lines of its own work go out with its progress and before its
answer, and none once it was cancelled, for nobody is left to send them.

Above are ``assembly`` and ``protocol``; below is ``logs``, which calls ``hear`` for each line.
"""

from __future__ import annotations

import math
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext

from inference_mcp.logs import Line
from inference_mcp.server.told import Told, is_wanted

__all__ = ["LINES_A_MINUTE", "LogLines", "RequestLines"]

LINES_A_MINUTE = 30
"""What a host gets at most; more is a flood, of which the log knows all."""

WAITING_LINES = 100
"""Lines that wait to be sent; more are in the log alone."""

_MINUTE_S = 60.0


@dataclass
class RequestLines:
    """The lines of one request, which asks for those from ``least`` on."""

    ctx: ServerRequestContext[Any, Any]
    least: object
    waiting: deque[Line] = field(default_factory=lambda: deque(maxlen=LINES_A_MINUTE))

    async def send(self) -> None:
        """Send what waits, on the request's own stream."""
        while self.waiting:
            message = _message(self.waiting.popleft())
            await self.ctx.session.send_notification(message, self.ctx.request_id)


class LogLines:
    """All lines that go to hosts; ``hosts`` gives the connections."""

    def __init__(self, hosts: Callable[[], Iterable[Told]]) -> None:
        self._hosts = hosts
        self._thread = threading.get_ident()
        self._requests: dict[str, RequestLines] = {}
        self._waiting: deque[Line] = deque(maxlen=WAITING_LINES)
        self._came = anyio.Event()
        self._since_s, self._sent, self._missed = -math.inf, 0, 0

    def hear(self, line: Line) -> None:
        """A line was logged. Those of other threads are about the log itself, and stay there."""
        if threading.get_ident() != self._thread or not is_wanted(line.level, "warning"):
            return
        request = self._requests.get(str(line.facts.get("request_id")))
        if request is not None and is_wanted(line.level, request.least):
            request.waiting.append(line)
        self._waiting.append(line)
        self._came.set()

    @contextmanager
    def of(self, ctx: ServerRequestContext[Any, Any], request_id: str) -> Iterator[RequestLines]:
        """Gather the lines of a request, by its name in the log, for as long as it is open."""
        lines = RequestLines(ctx, (ctx.meta or {}).get(types.LOG_LEVEL_META_KEY))
        if lines.least is not None:
            self._requests[request_id] = lines
        try:
            yield lines
        finally:
            self._requests.pop(request_id, None)

    async def run(self) -> None:
        """Tell the connections that asked, for as long as the process lives."""
        while True:
            await self._came.wait()
            self._came = anyio.Event()
            while self._waiting:
                line = self._waiting.popleft()
                wanting = [host for host in self._hosts() if is_wanted(line.level, host.level)]
                if wanting and self._may_send():
                    for host in wanting:
                        await host.tell(_message(line, self._missed))
                    self._missed = 0

    def _may_send(self) -> bool:
        now = anyio.current_time()
        if now >= self._since_s + _MINUTE_S:
            self._since_s, self._sent = now, 0
        self._sent += 1
        if self._sent > LINES_A_MINUTE:
            self._missed += 1
            return False
        return True


def _message(line: Line, missed: int = 0) -> types.LoggingMessageNotification:
    """``missed`` lines before it were one flood too many."""
    data: dict[str, Any] = {"event": line.event, **line.facts}
    data.pop("pid", None)
    if missed:
        data["lines_only_in_log"] = missed
    level = cast("types.LoggingLevel", line.level)
    params = types.LoggingMessageNotificationParams(level=level, logger="inference-mcp", data=data)
    return types.LoggingMessageNotification(params=params)
