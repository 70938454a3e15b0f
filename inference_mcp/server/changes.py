"""Tells hosts that the list of resources changed: a new picture, models that came or went.

That is the one list that changes. Tools and prompts stay as they are, for hosts keep a list of
tools for long, and a tool that is called in vain says why, while one that has vanished says
nothing. Nor are single resources subscribed to: the queue changes all the time.

Nobody asks LocalAI for this. A change of its models is told when a request, a listing or a look
at health brings it to light; pictures are those of this process. And it is told once: until
somebody has listed again, a list that is out of date becomes no more so.

In the ``initialize`` era each connection is told, in that of 2026-07-28 each stream that
``subscriptions/listen`` has opened. Above are ``assembly`` and ``protocol``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import anyio
import mcp_types as types
from mcp.server.context import ServerRequestContext
from mcp.server.subscriptions import InMemorySubscriptionBus, ListenHandler, ResourcesListChanged

from inference_mcp.backend import ModelInfo
from inference_mcp.observe import JobEvent, JobFinished
from inference_mcp.server.told import Told

__all__ = ["Changes"]


class Changes:
    """What resources there are, as far as this process knows; ``hosts`` gives the connections."""

    def __init__(self) -> None:
        self.hosts: Callable[[], Iterable[Told]] = tuple
        self._bus = InMemorySubscriptionBus()
        self._listen = ListenHandler(self._bus)
        self._models: tuple[ModelInfo, ...] = ()
        self._was_listed = False
        self._changed = anyio.Event()

    def models(self) -> Sequence[ModelInfo]:
        """The models that were last heard of."""
        return self._models

    def listed(self) -> Sequence[ModelInfo]:
        """The same, for a host's list of resources: what changes from here on is told."""
        self._was_listed = True
        return self._models

    def heard(self, models: Sequence[ModelInfo]) -> None:
        """LocalAI has listed its models."""
        before, self._models = self._models, tuple(models)
        if [_shown(model) for model in before] != [_shown(model) for model in models]:
            self._change()

    def observe(self, event: JobEvent) -> None:
        """A job went on; only the end of a picture matters."""
        done = isinstance(event, JobFinished) and event.state == "completed"
        if done and event.kind.makes_picture:
            self._change()

    async def listen(
        self, ctx: ServerRequestContext[Any, Any], params: types.SubscriptionsListenRequestParams
    ) -> types.SubscriptionsListenResult:
        """One ``subscriptions/listen``; what never comes is not promised."""
        wanted = params.notifications.resources_list_changed
        promised = types.SubscriptionFilter(resources_list_changed=wanted)
        return await self._listen(ctx, params.model_copy(update={"notifications": promised}))

    async def run(self) -> None:
        """Tell, for as long as the process lives."""
        while True:
            await self._changed.wait()
            self._changed = anyio.Event()
            await self._bus.publish(ResourcesListChanged())
            for host in self.hosts():
                await host.tell(types.ResourceListChangedNotification())

    def close(self) -> None:
        """End all streams in order; they are requests, and an end waits for their answers."""
        self._listen.close()

    def _change(self) -> None:
        if self._was_listed:
            self._was_listed = False
            self._changed.set()


def _shown(model: ModelInfo) -> tuple[object, ...]:
    """What a listing tells of a model; that it was loaded is no change of the list."""
    return (model.id, model.alias_of, *model.abilities)
