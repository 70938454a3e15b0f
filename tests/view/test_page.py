"""The page in one piece."""

from __future__ import annotations

import base64
import hashlib
import re
from pathlib import Path

import inference_mcp.view.page
from inference_mcp.view import load_page
from inference_mcp.view.page import PARTS

FOLDER = Path(inference_mcp.view.page.__file__).parent / "parts"


def test_every_part_is_in_it() -> None:
    """No file lies there that is not shown, and none is forgotten."""
    assert {path.name for path in FOLDER.iterdir()} == {*PARTS, "queue.css", "queue.html"}
    html = load_page().html
    for name in (*PARTS, "queue.css"):
        assert (FOLDER / name).read_text(encoding="utf-8") in html


def test_it_is_light() -> None:
    """Below 150 kB as it goes over the wire, in either form."""
    page = load_page()
    assert max(len(page.html.encode()), len(page.framed.encode())) < 150_000


def test_it_names_no_address() -> None:
    """But the name of SVG, which is none: nothing is loaded from anywhere."""
    html = load_page().html.replace("http://www.w3.org/2000/svg", "")
    assert re.findall(r"\b(?:https?|wss?):", html) == []
    assert "@import" not in html
    assert "url(" not in html


def test_no_markup_is_parsed() -> None:
    """Text goes in as text: nothing that could make an element or run text is even named."""
    script = "".join((FOLDER / name).read_text(encoding="utf-8") for name in PARTS)
    parsing = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|srcdoc|\beval\b"
    assert re.findall(parsing, script) == []
    assert re.findall(r"new Function|createContextualFragment|setHTML", script) == []


def test_its_policy_allows_its_own_script_and_style_alone() -> None:
    """By their hashes; there is one of each, and no handler or style in the markup."""
    page = load_page()
    for tag, directive in (("script", "script-src"), ("style", "style-src")):
        inside = re.findall(rf"<{tag}[^>]*>(.*?)</{tag}>", page.html, re.DOTALL)
        assert len(inside) == 1
        digest = base64.b64encode(hashlib.sha256(inside[0].encode()).digest()).decode()
        assert f"{directive} 'sha256-{digest}';" in page.policy
        assert f"{directive} 'sha256-{digest}';" in page.framed
    frame = (FOLDER / "queue.html").read_text(encoding="utf-8")
    assert re.findall(r"\s(?:on\w+|style)=", frame) == []
    assert "unsafe" not in page.policy


def test_inside_a_host_it_may_speak_to_nobody() -> None:
    """But by messages; a browser's page speaks to its own server."""
    page = load_page()
    assert "connect-src 'none'" in page.framed
    assert "connect-src 'self'" in page.policy
    assert "frame-ancestors 'none'" in page.policy  # nor may any page hold that one
    assert "Content-Security-Policy" not in page.html
    assert "<!-- policy -->" not in page.html + page.framed
