"""The connections to hosts, and what is remembered of each: its calls' jobs, roots, wishes.

Over stdio there is one. Over HTTP each session of the ``initialize`` era is one, for two hosts
number their calls alike and work in different folders. A request of the 2026-07-28 era over
HTTP stands alone: it is cancelled by nothing but the closing of its own stream, and is asked
nothing.

Above is ``protocol``. Nothing here knows HTTP but for the name of one header.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.context import ServerRequestContext
from mcp_types.version import MODERN_PROTOCOL_VERSIONS

from inference_mcp.jobs import Jobs
from inference_mcp.server.roots import HostRoots
from inference_mcp.server.told import Told
from inference_mcp.surface.cancels import HostCancels

__all__ = ["MAX_SESSIONS", "Session", "Sessions", "stands_alone"]

MAX_SESSIONS = 1_000
"""Sessions open at once, and remembered at most: hosts seldom say that they leave."""

_HEADER = "mcp-session-id"


@dataclass
class Session:
    """One connection to a host. ``running`` counts the calls that are served in it."""

    cancels: HostCancels
    roots: HostRoots
    told: Told = field(default_factory=Told)
    running: int = 0

    @contextmanager
    def serving(self) -> Iterator[None]:
        """While a call is served; it may outlive its stream."""
        self.running += 1
        try:
            yield
        finally:
            self.running -= 1


class Sessions:
    """All connections of this process. One that is forgotten begins anew; that harms nothing."""

    def __init__(self, jobs: Jobs, cancels: Callable[[Jobs], HostCancels] = HostCancels) -> None:
        self._jobs = jobs
        self._cancels = cancels
        self._known: OrderedDict[str | None, Session] = OrderedDict()

    def of(self, ctx: ServerRequestContext[Any, Any]) -> Session:
        """The connection that a message came over."""
        if stands_alone(ctx):
            return self._made()
        key = None if ctx.request is None else ctx.request.headers.get(_HEADER)
        session = self._known.get(key) or self._made()
        self._known[key] = session
        self._known.move_to_end(key)
        if len(self._known) > MAX_SESSIONS:
            self._forget_but(key)
        return session

    def runs(self, key: str) -> bool:
        """Whether a call is served in a session."""
        session = self._known.get(key)
        return session is not None and session.running > 0

    def _forget_but(self, key: str | None) -> None:
        """The one that was silent longest, of those in which no call is served."""
        known = self._known.items()
        silent = (each for each, session in known if each != key and not session.running)
        if (first := next(silent, None)) is not None:
            del self._known[first]

    def told(self) -> list[Told]:
        """What each connection is told of."""
        return [session.told for session in self._known.values()]

    def _made(self) -> Session:
        return Session(self._cancels(self._jobs), HostRoots())


def stands_alone(ctx: ServerRequestContext[Any, Any]) -> bool:
    """Whether a request has a stream of its own, the closing of which is its cancel.

    In the ``initialize`` era a closed stream says nothing: its host may have lost the network.
    """
    return ctx.request is not None and ctx.protocol_version in MODERN_PROTOCOL_VERSIONS
