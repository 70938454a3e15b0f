"""A LocalAI stand-in: the same HTTP behaviour, traps included, with nothing computed.

It serves three purposes: ``inference-mcp demo`` and ``--simulate`` for a person without
LocalAI, and the tests, which set its speeds, faults and models and read what its backends
saw. The serving path never imports it.

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
