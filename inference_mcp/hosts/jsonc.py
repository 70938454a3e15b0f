"""JSON with comments and trailing commas, as values that know where they stand in their text.

For changing a text without writing it anew: ``inserted`` puts one member or element into a
container and leaves every other character alone. The standard library reads the values; this
module only finds where they begin and end. It knows no host and no file.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from inference_mcp.errors import HostError

__all__ = ["Node", "inserted", "parsed"]

_DEPTH = 64
"""Far deeper than any host's settings, and far from Python's own limit."""
_BLANK = re.compile(r"[ \t\r\n]*")
_COMMENT = re.compile(r"//[^\r\n]*|/\*.*?\*/", re.DOTALL)
_INDENT = re.compile(r"^([ \t]+)\S", re.MULTILINE)


@dataclass(frozen=True)
class Node:
    """A value, from ``start`` to before ``end``; ``comma``: one trails its last child."""

    value: Any
    start: int
    end: int
    members: Mapping[str, Node] = field(default_factory=dict)
    elements: tuple[Node, ...] = ()
    comma: bool = False

    @property
    def children(self) -> tuple[Node, ...]:
        """What it holds, in order."""
        return self.elements or tuple(self.members.values())


def parsed(text: str, *, comments: bool) -> Node:
    """The whole of a text. ``comments``: they and trailing commas are taken.

    Raises:
        HostError: it is malformed, with line and column.
    """
    reader = _Reader(text, comments)
    node = reader.value(reader.blank(0), 0)
    if reader.blank(node.end) != len(text):
        reader.fail("there is more after the end", reader.blank(node.end))
    return node


class _NoJsonError(ValueError):
    """A constant that Python's reader takes and JSON does not have."""


class _Reader:
    """Reads values from a position on; each method gives the position after what it read."""

    def __init__(self, text: str, comments: bool) -> None:
        self.text = text
        self.comments = comments
        self.decoder = json.JSONDecoder(parse_constant=self._constant)

    def fail(self, what: str, at: int) -> NoReturn:
        line = self.text.count("\n", 0, at) + 1
        column = at - self.text.rfind("\n", 0, at)
        raise HostError(f"line {line}, column {column}: {what}")

    def _constant(self, name: str) -> NoReturn:
        raise _NoJsonError(f"{name} is no JSON")

    def blank(self, at: int) -> int:
        """After whitespace, and comments where they are taken."""
        while True:
            found = _BLANK.match(self.text, at)
            at = found.end() if found else at
            comment = _COMMENT.match(self.text, at) if self.comments else None
            if comment is None:
                return at
            at = comment.end()

    def value(self, at: int, depth: int) -> Node:
        if depth > _DEPTH:
            self.fail("it is nested too deeply", at)
        match self.text[at : at + 1]:
            case "{":
                return self._object(at, depth)
            case "[":
                return self._array(at, depth)
        return self._scalar(at)

    def _scalar(self, at: int) -> Node:
        try:
            value, end = self.decoder.raw_decode(self.text, at)
        except json.JSONDecodeError as error:
            self.fail(error.msg[:1].lower() + error.msg[1:], error.pos)
        except _NoJsonError as error:
            self.fail(str(error), at)
        except ValueError:  # Python's own limit
            self.fail("it has a number of too many digits", at)
        return Node(value, at, end)

    def _object(self, start: int, depth: int) -> Node:
        members: dict[str, Node] = {}
        at, comma = self.blank(start + 1), False
        while self.text[at : at + 1] != "}":
            if members and not comma:
                self.fail("a comma or a closing brace is missing", at)
            if self.text[at : at + 1] != '"':
                self.fail("a name in double quotes is missing", at)
            name = self._scalar(at)
            if name.value in members:
                self.fail(f"{json.dumps(name.value)} is there twice", at)
            colon = self.blank(name.end)
            if self.text[colon : colon + 1] != ":":
                self.fail("a colon is missing", colon)
            members[name.value] = node = self.value(self.blank(colon + 1), depth + 1)
            at, comma = self._after(node.end, "}")
        values = {name: node.value for name, node in members.items()}
        return Node(values, start, at + 1, members=members, comma=comma)

    def _array(self, start: int, depth: int) -> Node:
        elements: list[Node] = []
        at, comma = self.blank(start + 1), False
        while self.text[at : at + 1] != "]":
            if elements and not comma:
                self.fail("a comma or a closing bracket is missing", at)
            elements.append(self.value(at, depth + 1))
            at, comma = self._after(elements[-1].end, "]")
        values = [node.value for node in elements]
        return Node(values, start, at + 1, elements=tuple(elements), comma=comma)

    def _after(self, end: int, closing: str) -> tuple[int, bool]:
        """Where the next child or the closing sign is, and whether a comma came before it."""
        at = self.blank(end)
        if self.text[at : at + 1] != ",":
            return at, False
        following = self.blank(at + 1)
        if self.text[following : following + 1] == closing and not self.comments:
            self.fail("a comma has nothing after it", at)
        return following, True


def inserted(text: str, box: Node, value: Any, name: str | None = None) -> str:
    """The text with one more child at the end of a container: a member where it has a name."""
    line_end = "\r\n" if "\r\n" in text else "\n"
    outer, inner, unit = _indents(text, box)
    child = json.dumps(value, ensure_ascii=False, indent=unit)
    if name is not None:
        child = f"{json.dumps(name)}: {child}"
    child = line_end + inner + child.replace("\n", line_end + inner)
    close = box.end - 1
    before = len(text[:close].rstrip(" \t\r\n"))
    rest = text[before:] if "\n" in text[before:close] else line_end + outer + text[close:]
    if box.children and not box.comma:
        end = box.children[-1].end
        return f"{text[:end]},{text[end:before]}{child}{rest}"
    return f"{text[:before]}{child}{rest}"


def _indents(text: str, box: Node) -> tuple[str, str, str]:
    """That of the container's line, of its children, and one step's."""
    outer = _indent_at(text, box.start) or ""
    steps = _INDENT.search(text)
    unit = steps[1] if steps else "  "
    inner = outer + unit
    if box.children:
        # A member's line begins with its name, on which it is indented.
        line = text.rfind("\n", 0, box.children[0].start) + 1
        if line > box.start:
            inner = _indent_at(text, box.children[0].start) or inner
    if inner.startswith(outer) and inner != outer:
        unit = inner.removeprefix(outer)
    return outer, inner, unit


def _indent_at(text: str, at: int) -> str:
    line = text.rfind("\n", 0, at) + 1
    found = re.compile(r"[ \t]*").match(text, line)
    return found[0] if found else ""
