"""From LocalAI's events and bodies to outcomes, or to the error that they really are. No I/O.

Above it is ``client``, which brings the bytes; below it are ``wire`` (the shapes) and
``failures`` (the sentences). It knows no HTTP.

An answer counts only when it is whole: an error event discards what came before it (trap 5:
llama.cpp sends its error text as ordinary content first), and a stream that just ends is a
failure, not a short answer.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import ValidationError

from inference_mcp.backend import ImageOutcome, TextOutcome, Usage
from inference_mcp.base64s import decode_base64
from inference_mcp.localai import failures
from inference_mcp.localai.rules import Asked
from inference_mcp.localai.wire import ChatEvent, PictureAnswer, parse_event

__all__ = ["TextCollector", "Thoughts", "read_picture"]


BROKEN = ("error", "abort", "aborted")
"""Finish reasons of an answer that is not whole."""


class TextCollector:
    """Builds one text answer, from the events of a stream or from one whole JSON body."""

    MAX_TEXT_BYTES = 4_000_000
    DONE = "[DONE]"

    def __init__(self, asked: Asked) -> None:
        self._asked = asked
        self._pieces: list[str] = []
        self._thoughts = Thoughts()
        self._text_bytes = 0
        self._reasoned = False
        self._finish_reason = ""
        self._usage: Usage | None = None
        self.begun = False
        self.done = False

    def take(self, data: str | bytes) -> str:
        """Add one event's data (or a whole body); give the answer text that it brought.

        Raises:
            InferenceError: an error event (trap 3), or content that cannot be read.
        """
        if data == self.DONE:
            self.done = True
            return ""
        if not data.strip():
            return ""  # an event without data, as some proxies keep connections alive
        try:
            event = parse_event(data)
        except (ValueError, RecursionError):
            raise failures.unreadable() from None  # its text would quote the answer
        if failure := event.failure():
            raise failures.from_error_object({"error": failure}, self._asked)
        self._usage = _usage(event.usage) or self._usage
        return self._take_choice(event)

    def _take_choice(self, event: ChatEvent) -> str:
        # Events without choices are usage, or LocalAI's own additions: nothing to show.
        choice = next((each for each in event.choices or () if each and not each.index), None)
        if choice is None:
            return ""
        self.begun = True  # the first token is there, though it may be one of thought
        reason = choice.finish_reason
        if isinstance(reason, str) and 0 < len(reason) <= 32 and reason.isprintable():
            self._finish_reason = reason
        delta = choice.delta or choice.message
        if delta is None:
            return ""
        # Reasoning never becomes part of the answer; that there was some explains an empty one.
        if delta.reasoning or delta.reasoning_content:
            self._reasoned = True
            self._thoughts.told_apart()
        piece = self._thoughts.taken_out(delta.content or "")
        self._reasoned |= self._thoughts.found
        self._text_bytes += len(piece.encode("utf-8", "replace"))
        if self._text_bytes > self.MAX_TEXT_BYTES:
            raise failures.too_large("text", self.MAX_TEXT_BYTES)
        if piece:
            self._pieces.append(piece)
        return piece

    @property
    def finished(self) -> bool:
        """Whether a finish reason was told: the text is whole, with or without ``[DONE]``."""
        return bool(self._finish_reason)

    def outcome(self, *, simulated: bool) -> TextOutcome:
        """The whole answer.

        Raises:
            BackendUnreachableError: the answer broke off.
            BadResultError: there is no text in it (trap 16).
        """
        if not (self.done or self.finished) or self._finish_reason in BROKEN:
            raise failures.broke_off()
        text = self._thoughts.cut_off("".join([*self._pieces, self._thoughts.held_back()]))
        if not text.strip():
            raise failures.empty_answer(reasoned=self._reasoned, finish_reason=self._finish_reason)
        return TextOutcome(text, self._finish_reason or "unknown", self._usage, simulated)


class Thoughts:
    """Reasoning that stands in the answer itself, as ``<think>…</think>`` before all else.

    LocalAI takes it out since it names it ``reasoning``; older versions, and models whose form
    they do not know, leave it in. Only a block at the very start is one: later on the words may
    be the answer's own.
    """

    OPEN, CLOSE = "<think>", "</think>"
    _END = re.compile(r"(?:^|\n)[ \t]*</think>[ \t]*\n")

    def __init__(self) -> None:
        self.found = False
        self._apart = False
        self._part: Literal["start", "inside", "behind", "over"] = "start"
        self._held = ""

    def taken_out(self, piece: str) -> str:
        """Add the next piece; give what is certainly no reasoning."""
        self._held += piece
        if self._part == "start":
            self._look_for_a_beginning()
        if self._part == "inside":
            _, closed, rest = self._held.partition(self.CLOSE)
            self._part = "behind" if closed else "inside"
            self._held = rest if closed else self._held[1 - len(self.CLOSE) :]
        if self._part == "behind":
            self._held = self._held.lstrip()
            self._part = "over" if self._held else "behind"
        return self.held_back() if self._part == "over" else ""

    def told_apart(self) -> None:
        """LocalAI knows this model's form: tags in its answer are the answer's own."""
        self._apart = True
        if self._part == "start":
            self._part = "over"

    def cut_off(self, text: str) -> str:
        """The answer behind a tag that only closes, in a line of its own: some models' templates
        write the opening one themselves.
        """  # noqa: D205  # one sentence
        end = None if self.found or self._apart else self._END.search(text)
        if end is None or self.OPEN in text[: end.start()]:
            return text
        self.found = True
        return text[end.end() :].lstrip()

    def held_back(self) -> str:
        """What was kept for a tag that may have come."""
        held, self._held = self._held, ""
        return "" if self._part == "inside" else held

    def _look_for_a_beginning(self) -> None:
        begun = self._held.lstrip()
        if begun.startswith(self.OPEN):
            self.found, self._part = True, "inside"
        elif not self.OPEN.startswith(begun):  # the tag may come in pieces
            self._part = "over"


def _usage(found: object) -> Usage | None:
    if not isinstance(found, dict):
        return None
    told = (found.get(f"{name}_tokens") for name in ("prompt", "completion", "total"))
    numbers = [number for number in told if type(number) is int and number >= 0]
    return Usage(*numbers) if len(numbers) == 3 else None


def read_picture(body: bytes, asked: Asked, *, simulated: bool) -> ImageOutcome:
    """The picture in the answer of ``/v1/images/generations``; its bytes are not looked into.

    Raises:
        BadResultError: no picture, an empty one, or one that is not base64 (trap 7).
        InferenceError: an error inside a 200.
    """
    try:
        answer = PictureAnswer.model_validate_json(body)
    except ValidationError:
        raise failures.unreadable() from None
    if answer.error:
        raise failures.from_error_object({"error": answer.error}, asked)
    if not answer.data:
        raise failures.bad_picture("there is none in the answer")
    told = answer.data[0].b64_json or ""
    if not told and answer.data[0].url:
        raise failures.bad_picture("it sent an address in its place")
    if told.startswith("data:"):
        told = told.partition(",")[2]
    try:
        data = decode_base64(told, padded=False)
    except ValueError:
        raise failures.bad_picture("it is not valid base64") from None
    if not data:
        raise failures.bad_picture("its backend failed without an error")
    return ImageOutcome(data, simulated)
