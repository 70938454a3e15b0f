"""What an operator may do so that requests wait less: hints for ``get_health``. Pure.

A hint is no problem. Each names what was seen, in figures whose definitions are ``observe``'s,
and the setting that changes it. Above is ``health``; below are the records of the queue and of
``observe``.
"""

from __future__ import annotations

from inference_mcp.observe import Lately
from inference_mcp.scheduling.lifecycle import State
from inference_mcp.scheduling.protocols import QueueSnapshot

__all__ = ["hints"]

ENOUGH = 8
"""Finished requests that a hint must rest on; so many are no accident."""

ALWAYS_BUSY = 0.9
"""Share of requests that found every slot busy, from which on slots are always busy."""

GROWS = 1.2
"""How much longer the newer half must have waited than the older one, for waits that grow."""

LONG_S = 2.0
"""A wait that a person notices."""

MANY_LOADS = 0.2
"""A fifth of the time in which LocalAI loads or computes."""

SOME_LOADS = 3
"""A first load or two must be; it is the coming and going that costs."""


def hints(queue: QueueSnapshot, lately: Lately, *, own_limit: bool) -> list[str]:
    """What may be done, the most telling first; mostly nothing.

    ``own_limit``: it is our setting, and not LocalAI's limit, that keeps models out of memory.
    """
    found = (_loads(queue, lately, own_limit), _waits(queue, lately), _room(lately))
    return [each for each in found if each]


def _waits(queue: QueueSnapshot, lately: Lately) -> str:
    grows = lately.wait_now_s >= max(LONG_S, GROWS * lately.wait_before_s)
    if lately.ran < ENOUGH or lately.busy_share < ALWAYS_BUSY or not grows:
        return ""
    settings = _full(queue)
    if not settings:  # it is over, or they wait for something else: a pause, a load
        return ""
    return (
        f"Waits grow while every slot is busy: {lately.wait_now_s:.0f} s on average lately, "
        f"{lately.wait_before_s:.0f} s before. If LocalAI can compute more at once (its "
        f"backend's parallel slots, or more replicas), raise {' and '.join(settings)}; else "
        "use a smaller model, or give bulk work priority=batch."
    )


def _full(queue: QueueSnapshot) -> list[str]:
    """The settings of what is full at this moment, where somebody waits for it."""
    wanted = {each.model for each in queue.waiting if each.state is State.QUEUED}
    places = queue.limits.max_concurrency
    found = []
    if wanted and sum(not request.lent for request in queue.running) >= places:
        found.append(f"INFERENCE_MCP_MAX_CONCURRENCY (now {places})")
    return found + [
        f"INFERENCE_MCP_MODEL_CONCURRENCY for {m.name} (now {m.slots})"
        for m in queue.models
        if m.used >= m.slots and m.name in wanted
    ]


def _loads(queue: QueueSnapshot, lately: Lately, own_limit: bool) -> str:
    if lately.ran < ENOUGH or lately.loads < SOME_LOADS or lately.load_share < MANY_LOADS:
        return ""
    limit, used = queue.limits.max_resident_models, len(lately.models)
    minutes = lately.window_s / 60
    told = (
        f"Loading models took {lately.load_share:.0%} of LocalAI's time in the last "
        f"{minutes:.0f} minutes ({lately.loads} loads). "
    )
    if limit and used > limit:
        setting = (
            f"INFERENCE_MCP_MAX_RESIDENT_MODELS (now {limit})"
            if own_limit
            else f"its LOCALAI_MAX_ACTIVE_BACKENDS (now {limit})"
        )
        return told + (
            f"{used} models take turns in room for {limit}: if LocalAI's memory holds more, "
            f"raise {setting}; else let the types share fewer models "
            "(INFERENCE_MCP_TXT2TXT_MODEL and the like)."
        )
    return told + (
        "If LocalAI drops models that are idle, give its idle watchdog more time "
        "(LOCALAI_WATCHDOG_IDLE_TIMEOUT)."
    )


def _room(lately: Lately) -> str:
    if not lately.rejected:
        return ""
    return (
        f"{lately.rejected} requests were refused for want of room in the queue in the last "
        f"{lately.window_s / 60:.0f} minutes. Raise INFERENCE_MCP_MAX_QUEUE, or ask for less at "
        "once."
    )
