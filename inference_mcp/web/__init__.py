"""The same server over HTTP, for hosts that take a URL, and for a person's monitoring.

    serving     one process for all its hosts: its start, and its end in time
    site        the paths: MCP's, and what monitoring reads
    crowding    the sessions of hosts: where there are too many, the longest idle gives way
    dashboard   the queue as a page for a browser; ``passes``: how that gets in
    opening     ``inference-mcp dashboard``, which lets it in
    gate        who may come in: Host, Origin and token, before anything else
    tokens      the token's file
    listener    the loopback sockets, and uvicorn on them
    connections how long one may be there without the token, and how many there may be

Above is ``cli``; below is ``server``, whose parts and handlers this only connects to HTTP.
Nothing here decides anything about inference, and nothing of it is loaded over stdio.

Who may attack, and what stands against it:

- *A web page in the user's browser*, also one whose name is made to point here (DNS
  rebinding): Host and Origin must be of this machine, and it does not know the token.
- *Another user of this machine*: sockets on loopback are open to all, so each request must
  bear the token, whose file only its owner can read, and a connection that has not borne it
  within seconds is closed, before all of this process's files are in use. Both loopback
  addresses are taken, so that nobody else can wait for it behind the other meaning of
  ``localhost``; while this server does not run, its port is anybody's, as any port is.
- *Another machine*: nothing but loopback is ever bound.
- *Who has the token* may do what the user's own hosts may, and see all jobs: bodies are
  bounded, and so is the number of sessions.

Two protocol eras meet here. In that of ``initialize`` (to 2025-11-25) a host has a session,
and a closed stream is no cancel: its calls go on, and ``get_job`` has their results. From
2026-07-28 on each request stands alone, and closing its stream cancels it (S17).
"""

from inference_mcp.web.serving import Doors, open_doors, serve_http

__all__ = ["Doors", "open_doors", "serve_http"]
