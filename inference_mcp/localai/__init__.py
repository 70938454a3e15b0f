"""LocalAI over HTTP: the one implementation of ``backend.InferenceBackend`` that serves.

Above it stand jobs and the surface, which know only the Protocol. It knows no queue, no MCP
and no files. Inside:

    ``rules``            one refusal of LocalAI → one error of ``inference_mcp.errors``
    ``failures``         the one mapper: network, HTTP, event stream and unusable answers → errors
    ``wire``             requests as bytes, LocalAI's JSON and event stream as pydantic shapes
    ``answers``          events and bodies → outcomes
    ``catalogue``        which model can do what; choosing one
    ``catalogue_cache``  keeps a catalogue for a while
    ``revisions``        which parameters its distributed mode lets a model have
    ``address``          what the base address says
    ``upload``           a body on its way
    ``health``           what a look at LocalAI means
    ``streams``          a stream of events on its way
    ``transport``        HTTP on its way: the one place that imports httpx
    ``client``           the Protocol's methods; only these two do I/O

The attacker at this door is LocalAI, or whoever answers in its place: a proxy, a router's login
page, another program on its port. It gets what it is meant to get, prompts, pictures and the
key, and no more: the key goes to the configured address alone (no redirect is followed, none of
its URLs is fetched), and only over the connection that this address names. What it sends is
bounded before it is kept (headers, lines, bodies, unpacked sizes), read piece by piece with all
else going on in between, shaped before it is used, and
never run. Of its words only a chat's text, a picture's pixels, its version and the names of its
models are shown, and none of these chooses a path or a program. What it says of times, limits
and progress is cut to what can be. What it can still do is lie about its work, and refuse it.

httpx takes tens of milliseconds to import, so nothing here is imported by this file.

LocalAI lies. Its traps, as seen on a running LocalAI 4.9, by number, each with where it is
handled; ``tests/localai/test_traps*.py`` have tests for each.

    1   Lists and the default model come in random order: lists are sorted, an exact id is
        always sent (``catalogue``).
    2   A name is looked up as a regular expression, and a part of one becomes a phantom model:
        names are compared whole, before anything is sent (``catalogue``).
    3   A stream answers 200 whatever fails, and tells the error as an event, without a status
        or a header: both are judged by one table (``failures``, ``rules``).
    4   Before the first token nothing is sent, not even headers: only the request's own
        deadline ends the wait (``transport``).
    5   llama.cpp says its error as content first: content counts only when the answer is whole
        (``answers``).
    6   A chat takes pictures as ``data:`` URIs alone, img2img as bare base64 alone, and the
        wrong one is dropped without a word (``wire``).
    7   A picture that failed is a success without data: every picture is decoded in full before
        it counts (``answers``, ``pictures.store``).
    8   Sizes and seeds are hardly checked: they are checked here (``surface.arguments``,
        ``requests``), and a size that LocalAI refuses with a 500 is the caller's (``rules``).
    9   There is no ``/v1/images/edits``, and inpainting ignores its mask: img2img goes through
        ``/v1/images/generations`` (``wire``).
    10  A disconnect during a load kills it for all: loads are never tied to a request's cancel
        (``scheduling``, S11).
    11  A cancelled picture is computed to its end: its slot stays taken until LocalAI is done
        (``scheduling``, S16).
    12  Result URLs need a key, sit on one replica and are never deleted: pictures come as
        ``b64_json`` (``wire``).
    13  On one machine a dead backend process counts as loaded for up to 30 s: it is shut down,
        then started afresh (``rules``, ``scheduling``, S15).
    14  ``/backend/load`` has an envelope of its own and loads unknown names as phantoms: it is
        read as what it is, and given exact ids alone (``failures``, ``client``).
    15  With its memory full of busy models LocalAI loads one more beside them after 29 s: models
        are drained and dropped first (``scheduling``, S10).
    16  An empty answer is tried six times and is then a success: it is a failure here, with a
        hint (``answers``, ``failures``).
    17  A model of limited concurrency refuses with an honest status and an error without a code
        (``rules``).
    18  A body of more than 15 MB is a 413 and a closed connection: pictures are made to fit
        (``pictures.sources``), and a connection that closes on a large upload, while LocalAI is
        there, is that answer (``transport``).
    19  Distributed, a model keeps the parameters of its first request, and one that differs
        unloads it (``revisions``).
    20  Distributed, a load of minutes answers with errors meanwhile: it is waited for, and shown
        as ``loading`` (``client``, ``scheduling``, S11).
    21  Distributed, a dead machine costs a minute of errors, and LocalAI is "ready" without any:
        both are waited out (``rules``), and health tells what was seen of each model besides.
    22  Error texts quote prompts and name paths: every sentence is our own (``failures``).
"""
