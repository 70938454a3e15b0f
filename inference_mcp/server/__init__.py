"""The composition root: builds everything, connects it to stdio, and owns its end.

    serving     one process for one host: its start, and its end in time
    protocol    the MCP server and its handlers
    calls       a call in the log: its name, its arrival, its end
    sessions    the connections to hosts, and what is remembered of each
    told        what one host is told unasked; ``changes`` of lists, ``loglines`` of the log
    icon        the server's picture in a host's menu
    stdio       the lines that come from the host and go to it
    assembly    all parts, made of the settings and joined
    link        LocalAI's client, made when it is first needed, and what LocalAI's memory holds

Nothing below is given the settings; each part gets the plain values that it needs. A host
shows this server as broken while it starts, so nothing heavy is done before the first answers
are out: the HTTP client is imported in the background, LocalAI is first asked when a tool
needs it, and no folder is touched.

The attacker at this door is a host that is broken, or passes on what somebody else wrote: lines
that are no JSON, no message, too long or too deep, ids used twice, cancels of calls that never
were. Each is answered or passed over, stdout holds nothing but the protocol, and no text of a
fault goes out. The folders that a host offers are believed, but none that holds the home folder
or a whole disk. What a line costs is bounded before it is parsed: by its size, 64 MB, and by the
number of its brackets and commas; one of two million keys that is no message still holds the
interpreter for some 2 s. A host can still ask for more at once than memory holds, for it has
started this process and can end it.
"""

from inference_mcp.server.serving import serve_stdio

__all__ = ["serve_stdio"]
