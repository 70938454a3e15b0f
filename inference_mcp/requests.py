"""What is asked for: the four request types and their rank, as frozen records.

Nothing here knows how a request is written on the wire, who sent it or when. The unit of a
number stands in its field's name (``_px``, ``_tokens``); ``None`` always means "the caller
did not say", and what the caller did not say is not sent to LocalAI (trap 19). The one
exception is a picture's seed, which is chosen here so that it can be reported.

Rank (rule S1) is (class, type): class first, then type, each in the order of declaration
below; smaller sorts first and is served first.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, TypeAlias

__all__ = [
    "ChatRequest",
    "GenerationRequest",
    "ImageRequest",
    "InputPicture",
    "Message",
    "Priority",
    "Rank",
    "RequestType",
    "rank_of",
]


class RequestType(StrEnum):
    """The four kinds of inference, best rank first (S1)."""

    TXT2TXT = "txt2txt"
    TXT2IMG = "txt2img"
    IMG2IMG = "img2img"
    IMG2TXT = "img2txt"

    @property
    def makes_picture(self) -> bool:
        """Whether the answer is a picture.

        LocalAI computes a picture to its end whatever the client does (trap 11); text stops
        within 10 ms of a disconnect. So this also tells whether an abort frees the GPU.
        """
        return self in (RequestType.TXT2IMG, RequestType.IMG2IMG)


class Priority(StrEnum):
    """The three classes, best first (S1)."""

    CRITICAL = "critical"
    NORMAL = "normal"
    BATCH = "batch"


Rank: TypeAlias = tuple[int, int]
"""(class, type), each 0 for the best; tuples compare as the rule says."""

_CLASS_ORDER = {priority: order for order, priority in enumerate(Priority)}
_TYPE_ORDER = {kind: order for order, kind in enumerate(RequestType)}


def rank_of(priority: Priority, kind: RequestType) -> Rank:
    """The rank of S1: class before type; first in, first out within is the queue's part."""
    return (_CLASS_ORDER[priority], _TYPE_ORDER[kind])


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat."""

    role: Literal["system", "user", "assistant"]
    content: str


@dataclass(frozen=True, slots=True)
class InputPicture:
    """A picture that was checked and is in a form that LocalAI's backends decode.

    ``data`` are the bytes to send, ``mime`` their true type (``image/png`` or
    ``image/jpeg``). ``note`` is one sentence for the caller where the bytes are not the
    ones that were named (converted, turned upright, shrunk), else empty.
    """

    data: bytes = field(repr=False)
    mime: str
    width_px: int
    height_px: int
    note: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ChatRequest:
    """txt2txt, or img2txt where ``pictures`` go with the last user message.

    ``temperature`` is 0–2, ``top_p`` 0–1, ``response_schema`` a JSON schema that the answer
    must match.
    """

    kind: Literal[RequestType.TXT2TXT, RequestType.IMG2TXT]
    model: str
    messages: tuple[Message, ...] = field(repr=False)
    pictures: tuple[InputPicture, ...] = field(default=(), repr=False)
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    stop: tuple[str, ...] = field(default=(), repr=False)
    seed: int | None = None
    response_schema: Mapping[str, Any] | None = field(default=None, repr=False)

    @property
    def input_bytes(self) -> int:
        """What this request holds in memory while it waits, in bytes."""
        text = sum(len(message.content.encode("utf-8", "replace")) for message in self.messages)
        return text + sum(len(picture.data) for picture in self.pictures)


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageRequest:
    """txt2img, or img2img where ``source`` is given.

    Neither prompt holds a ``|``: LocalAI splits the prompt there, and what follows becomes
    the negative prompt. ``seed`` is 1–2147483647: a larger one wraps at LocalAI (trap 8)
    and some backends ignore 0. ``own_seed``: it was chosen here, so it may be left out where it
    does harm (trap 19).
    """

    MAX_SEED: ClassVar[int] = 2**31 - 1

    kind: Literal[RequestType.TXT2IMG, RequestType.IMG2IMG]
    model: str
    prompt: str = field(repr=False)
    negative_prompt: str | None = field(default=None, repr=False)
    width_px: int
    height_px: int
    steps: int | None = None
    seed: int | None
    own_seed: bool = False
    source: InputPicture | None = None

    @property
    def input_bytes(self) -> int:
        """What this request holds in memory while it waits, in bytes."""
        text = len(self.prompt.encode("utf-8", "replace"))
        text += len((self.negative_prompt or "").encode("utf-8", "replace"))
        return text + (len(self.source.data) if self.source else 0)


GenerationRequest: TypeAlias = ChatRequest | ImageRequest
