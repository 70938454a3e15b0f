"""The page in one piece: the parts joined, and the policy that allows them alone.

Pure but for reading its own files once. It knows no server; who serves it sends ``policy`` as a
header, or ``framed``, in which the same policy stands in the document.
"""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass, field
from functools import cache

__all__ = ["PARTS", "Page", "load_page"]

PARTS = (
    "text.js",
    "dom.js",
    "source.js",
    "history.js",
    "lanes.js",
    "lists.js",
    "charts.js",
    "main.js",
)
"""In the order in which they need each other; ``main.js`` begins."""

_POLICY = (
    "default-src 'none'; script-src {script}; style-src {style}; img-src data:; "
    "connect-src {connect}; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True, slots=True)
class Page:
    """``html`` is for a browser, which gets ``policy`` as a header; ``framed`` is for a host."""

    html: str = field(repr=False)
    framed: str = field(repr=False)
    policy: str


@cache
def load_page() -> Page:
    """The page, read the first time."""
    from importlib.resources import files  # here, for no start should wait for it

    folder = files("inference_mcp.view") / "parts"
    style = (folder / "queue.css").read_text(encoding="utf-8")
    script = "\n".join((folder / name).read_text(encoding="utf-8") for name in PARTS)
    script = f"\n{script}"
    frame = (folder / "queue.html").read_text(encoding="utf-8")
    html = frame.replace("/* style */", style).replace("/* script */", script)
    hashes = {"script": _hash(script), "style": _hash(style)}
    alone = _POLICY.format(connect="'none'", **hashes)
    meta = f'<meta http-equiv="Content-Security-Policy" content="{alone}">\n'
    return Page(
        html=html.replace("<!-- policy -->\n", ""),
        framed=html.replace("<!-- policy -->\n", meta),
        policy=_POLICY.format(connect="'self'", **hashes) + "; frame-ancestors 'none'",
    )


def _hash(text: str) -> str:
    """As a policy names an inline script or style."""
    digest = hashlib.sha256(text.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
