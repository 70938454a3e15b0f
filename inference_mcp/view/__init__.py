"""The queue as a person sees it: one page, and the few facts that only it asks for.

    ``page``      the page: one self-contained HTML file, made of the files in ``parts``
    ``activity``  what ended lately, the last pictures, the last hour in steps
    ``thumbs``    a picture of a few kilobytes

The same page is shown inside a host (an MCP App, ``ui://inference-mcp/queue``) and by ``serve``
in a browser. It finds out by itself where it is, and asks for what the status tools answer: in a
host by calling them through it, in a browser by ``web.dashboard``'s paths. Nothing here knows
MCP or HTTP. Above are ``surface`` and ``web``; below are jobs, pictures and observations.

The parts of the page are plain ES6 in the order of ``page.PARTS``, each a file that can be read
by itself; they are put into one document when it is first asked for, and never changed on the
way. So there is nothing to build, and no built file that could disagree with its sources.

Who may attack, and what stands against it:

- *What is shown* is a stranger's: names of models, messages of errors. The page writes text as
  text alone, shows control characters by their numbers, and cuts what is too long.
- *The page itself* runs under a policy that allows its own script and style by their hashes,
  pictures from ``data:``, and nothing else: no frame, no form, no address but its own server.
- *A host's messages* are taken from the window that holds the page, and from no other.
"""

from inference_mcp.view.activity import View
from inference_mcp.view.page import Page, load_page

__all__ = ["Page", "View", "load_page"]
