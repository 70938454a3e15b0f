"""A LocalAI stand-in: the same HTTP behaviour, traps included, with nothing computed.

It serves three purposes: ``inference-mcp demo`` and ``--simulate`` for a person without
LocalAI, and the tests, which set its speeds, faults and models and read what its backends
saw. The serving path never imports it.

    ``world``      models, loads, slots, crashes, cooldowns: what LocalAI and its backends hold
    ``content``    answers that depend on the input alone, so that a mix-up shows
    ``app``        the HTTP routes (Starlette)
    ``running``    the app on a loopback port
"""
