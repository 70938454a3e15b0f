"""LocalAI over HTTP: the one implementation of ``backend.InferenceBackend`` that serves.

Above it stand jobs and the surface, which know only the Protocol. It knows no queue, no MCP
and no files. Inside:

    ``wire``       LocalAI's JSON and event stream as pydantic shapes; no I/O
    ``failures``   the one mapper from what LocalAI or the network did to ``inference_mcp.errors``
    ``catalogue``  which model can do what; choosing one; no I/O of its own
    ``client``     the one place that imports httpx

LocalAI lies, and the traps are numbered; each is named where it is handled.
"""
