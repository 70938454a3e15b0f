"""LocalAI over HTTP: the one implementation of ``backend.InferenceBackend`` that serves.

Above it stand jobs and the surface, which know only the Protocol. It knows no queue, no MCP
and no files. Inside:

    ``rules``            one refusal of LocalAI → one error of ``inference_mcp.errors``
    ``failures``         the one mapper: network, HTTP, event stream and unusable answers → errors
    ``wire``             requests as bytes, LocalAI's JSON and event stream as pydantic shapes
    ``answers``          events and bodies → outcomes
    ``catalogue``        which model can do what; choosing one
    ``catalogue_cache``  keeps a catalogue for a while
    ``address``          what the base address says
    ``upload``           a body on its way
    ``health``           what a look at LocalAI means
    ``transport``        HTTP on its way: the one place that imports httpx
    ``client``           the Protocol's methods; only these two do I/O

httpx takes tens of milliseconds to import, so nothing here is imported by this file.
LocalAI lies, and the traps are numbered; each is named where it is handled.
"""
