"""A LocalAI stand-in: the same HTTP behaviour, traps included, with nothing computed.

It serves four purposes: ``inference-mcp demo`` and ``--simulate`` for a person without
LocalAI, the tests, which set its speeds, faults and models and read what its backends saw, and
other programs that talk to LocalAI and want such tests. The serving path never imports it.

What those others may import, and what keeps its meaning from one version to the next, are the
names that this module itself holds:

    async with running(World([SimModel("qwen3-8b")])) as url: ...

    ``models``      what a world is told to be: its models and LocalAI's times
    ``world``       models, events, counts: what LocalAI and its backends hold
    ``backends``    loads, residency, slots, crashes, cooldowns on one machine
    ``cluster``     what distributed mode keeps: workers, load jobs, pinned revisions
    ``nodes``       distributed mode (traps 19-21), the counterpart of ``backends``
    ``hosting``     which of the two a world has
    ``directives``  the commands that a prompt may hold, for tests
    ``faults``      failures of the network and of HTTP, on demand
    ``content``     answers that depend on the input alone, so that a mix-up shows
    ``pixels``      the same for pictures
    ``choosing``    which model a request gets
    ``wire``        request bodies, error envelopes, whether the client is still there
    ``chat``, ``images``, ``control``   the HTTP handlers
    ``app``         the ASGI app: keys, limits, routes
    ``running``     the app on a loopback port
"""

from inference_mcp.simulator.faults import Fault
from inference_mcp.simulator.models import SimModel, Timing
from inference_mcp.simulator.running import running
from inference_mcp.simulator.world import Event, World, default_world

__all__ = ["Event", "Fault", "SimModel", "Timing", "World", "default_world", "running"]
