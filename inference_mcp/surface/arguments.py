"""What each tool takes: one frozen model a tool, and one error for whatever does not fit.

The SDK would pass unknown arguments over in silence and show a model pydantic's own text with
the input in it, so arguments are checked here: an unknown name is an error that suggests the
nearest one, a number in a string is an error, and nothing that was sent is quoted back save
the names of parameters. The JSON schemas that hosts show to models come from the same models.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    WithJsonSchema,
    model_validator,
)
from pydantic_core import PydanticCustomError

from inference_mcp.errors import InvalidInputError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.surface.compacting import compact
from inference_mcp.surface.refusals import explain

__all__ = [
    "Arguments",
    "CancelJob",
    "ErrorMetrics",
    "GenerationArguments",
    "GetJob",
    "Img2Img",
    "Img2Txt",
    "ListModels",
    "NoArguments",
    "RequestMetrics",
    "Txt2Img",
    "Txt2Txt",
    "input_schema",
    "parse",
]

MAX_TEXT = 4_000_000
"""Characters of one text: LocalAI takes a body of 15 MB (trap 18), JSON may double it."""

MAX_SCHEMA_BYTES = 64 * 1024
MAX_SCHEMA_DEPTH = 32

MAX_NAMES = 100
"""Parameters of one call that are looked at; no tool takes as many."""

MAX_NAME_CHARS = 100
"""What is kept of a parameter's name; none has as many."""

MAX_STOPS = 16
MAX_IMAGES = 4

_HALF = re.compile("[\ud800-\udfff]")


def _whole(value: Any) -> Any:
    """JSON has one kind of number: 512.0 is as whole as 512."""
    if isinstance(value, float) and math.isfinite(value) and value == int(value):
        return int(value)
    return value


def _whole_text(value: Any) -> Any:
    if not isinstance(value, str) or value.isascii() or len(value) > MAX_TEXT:
        return value  # too long is refused by itself, and the search takes its time
    if _HALF.search(value):
        raise PydanticCustomError("wanted", "holds half a character (a lone surrogate)")
    return value


def _text(value: Any) -> Any:
    if isinstance(value, str) and not value.strip():
        raise PydanticCustomError("wanted", "must not be empty")
    return _whole_text(value)


def _word(value: Any) -> Any:
    """What an enumeration is looked up by: not a structure of any depth."""
    if not isinstance(value, str):
        raise PydanticCustomError("wanted", "must be a text")
    return value


def _few(most: int, words: str) -> BeforeValidator:
    """Refuses a list that is too long before each item of it is looked at."""

    def check(value: Any) -> Any:
        if isinstance(value, list) and len(value) > most:
            raise PydanticCustomError("call", words)
        return value

    return BeforeValidator(check)


_STOP_TAKES = "stop takes up to 16 texts of 1 to 1000 characters each."
_IMAGE_TAKES = "image takes one picture or a list of up to 4."


def _no_bar(value: Any) -> Any:
    if isinstance(value, str) and "|" in value:
        raise PydanticCustomError(
            "wanted",
            "must not hold '|': LocalAI would take what follows for the negative prompt. "
            "Put that into negative_prompt",
        )
    return value


def _bearable_schema(schema: Any) -> Any:
    """Bounds of a response schema: its size, its depth, and no reference that leaves it.

    Its size first, by a look that ends at the limit: a line may hold a thousand times as much,
    and all that is done here stops the event loop.
    """
    if not isinstance(schema, dict):
        return schema
    if _is_larger(schema, MAX_SCHEMA_BYTES):
        raise _too_large()
    if _depth_exceeds(schema, MAX_SCHEMA_DEPTH):
        raise PydanticCustomError(
            "call",
            "response_schema is nested deeper than {levels} levels.",
            {"levels": MAX_SCHEMA_DEPTH},
        )
    try:
        size_bytes = len(json.dumps(schema, ensure_ascii=False, allow_nan=False).encode())
    except ValueError:  # NaN, an infinity, a number of thousands of digits, half a character
        raise PydanticCustomError("call", "response_schema holds what JSON cannot carry.") from None
    if size_bytes > MAX_SCHEMA_BYTES:
        raise _too_large()
    if _has_remote_reference(schema):
        raise PydanticCustomError(
            "call", "response_schema refers to another document: a $ref must begin with '#'."
        )
    return schema


def _too_large() -> PydanticCustomError:
    return PydanticCustomError("call", "response_schema is larger than 64 kB.")


def _is_larger(node: Any, limit_bytes: int) -> bool:
    """Whether it must have more bytes as JSON, by what each value in it has at least."""
    least, nodes = 0, [node]
    while nodes and least <= limit_bytes:
        node = nodes.pop()
        least += len(node) + 2 if isinstance(node, str | dict | list) else 1
        if least > limit_bytes:  # before so many are put on the list
            break
        if isinstance(node, dict):
            nodes += [*node, *node.values()]
        elif isinstance(node, list):
            nodes += node
    return least > limit_bytes


def _depth_exceeds(node: Any, levels: int) -> bool:
    if not isinstance(node, dict | list):
        return False
    if levels == 0:
        return True
    children = node.values() if isinstance(node, dict) else node
    return any(_depth_exceeds(child, levels - 1) for child in children)


def _has_remote_reference(node: Any) -> bool:
    if isinstance(node, list):
        return any(_has_remote_reference(child) for child in node)
    if not isinstance(node, dict):
        return False
    for key in ("$ref", "$dynamicRef", "$recursiveRef"):
        target = node.get(key)
        if isinstance(target, str) and not target.startswith("#"):
            return True
    return any(_has_remote_reference(child) for child in node.values())


_Text = Annotated[str, Field(max_length=MAX_TEXT), BeforeValidator(_text)]
_PicturePrompt = Annotated[str, Field(max_length=20_000), BeforeValidator(_text)]
_Side = Annotated[int, Field(ge=64, le=2048, multiple_of=8), BeforeValidator(_whole)]
_Steps = Annotated[int, Field(ge=1, le=150), BeforeValidator(_whole)]
_Seed = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_whole)]
_TextSeed = Annotated[int, Field(ge=0, le=2**31 - 1), BeforeValidator(_whole)]
_Tokens = Annotated[int, Field(ge=1, le=2**31 - 1), BeforeValidator(_whole)]
_Samples = Annotated[int, Field(ge=1, le=100), BeforeValidator(_whole)]
_Seconds = Annotated[float, Field(ge=0, allow_inf_nan=False)]
_Image = Annotated[str, BeforeValidator(_text)]
_Name = Annotated[str, Field(max_length=1_000), BeforeValidator(_text)]
_Stop = Annotated[str, BeforeValidator(_whole_text)]

_STRING = {"type": "string"}
"""One or several are written as ``anyOf``, for some hosts refuse a list of types."""

_MODEL = Field(None, description="Exact model id from list_models; an alias becomes its target.")
_PRIORITY = Field(Priority.NORMAL, description="batch yields to all, critical goes first.")
_WAIT = Field(None, description="Seconds to wait before a job id is answered; 0: at once.")
_MAX_TOKENS = Field(None, description="Longest answer.")
_TEMPERATURE = Field(None, ge=0, le=2, allow_inf_nan=False, description="Randomness.")
_IMAGE_FORMS = "absolute path, id or inference:// URI of an earlier picture, or data: URI."


class Arguments(BaseModel):
    """What all tools share: no coercion, no unknown names, no changes."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, hide_input_in_errors=True)

    @model_validator(mode="before")
    @classmethod
    def _few_names(cls, given: Any) -> Any:
        """One name more than there are is enough to tell of an unknown one, and its beginning."""
        if not isinstance(given, dict):
            return given
        enough = islice(given.items(), len(cls.model_fields) + 1)
        return {name[:MAX_NAME_CHARS]: value for name, value in enough}


class NoArguments(Arguments):
    """A tool without parameters."""


class GenerationArguments(Arguments):
    """What the four generation tools share."""

    model: _Name | None = _MODEL
    priority: Annotated[Priority, Field(strict=False), BeforeValidator(_word)] = _PRIORITY
    wait_seconds: _Seconds | None = _WAIT


class ChatMessage(Arguments):
    """One turn."""

    role: Literal["system", "user", "assistant"]
    content: _Text


class Txt2Txt(GenerationArguments):
    """``prompt`` or ``messages``, never both."""

    prompt: _Text | None = Field(None, description="The user's message; or give messages.")
    messages: Annotated[list[ChatMessage], Field(min_length=1, max_length=1000)] | None = Field(
        None, description="A whole chat instead of prompt."
    )
    system: _Text | None = Field(None, description="System message.")
    max_tokens: _Tokens | None = _MAX_TOKENS
    temperature: float | None = _TEMPERATURE
    top_p: float | None = Field(
        None, ge=0, le=1, allow_inf_nan=False, description="Nucleus sampling."
    )
    stop: (
        Annotated[
            _Stop | list[_Stop],
            _few(MAX_STOPS, _STOP_TAKES),
            WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING}]}),
        ]
        | None
    ) = Field(None, description="Texts that end the answer.")
    seed: _TextSeed | None = Field(None, description="For repeatable answers.")
    response_schema: Annotated[dict[str, Any], BeforeValidator(_bearable_schema)] | None = Field(
        None, description="JSON schema that the answer must match."
    )

    @model_validator(mode="after")
    def _one_source(self) -> Txt2Txt:
        if (self.prompt is None) == (self.messages is None):
            raise PydanticCustomError("call", "Give either prompt or messages, and not both.")
        if self.system is not None and self.messages and self.messages[0].role == "system":
            raise PydanticCustomError("call", "Give the system message once: system or messages.")
        stops = [self.stop] if isinstance(self.stop, str) else self.stop or []
        if not all(0 < len(stop) <= 1000 for stop in stops):
            raise PydanticCustomError("call", _STOP_TAKES)
        return self


class Txt2Img(GenerationArguments):
    """A picture from words."""

    prompt: Annotated[_PicturePrompt, BeforeValidator(_no_bar)] = Field(description="What to show.")
    negative_prompt: Annotated[_PicturePrompt, BeforeValidator(_no_bar)] | None = Field(
        None, description="What to avoid."
    )
    width: _Side | None = Field(None, description="Pixels; default 512.")
    height: _Side | None = Field(None, description="Pixels; default 512.")
    steps: _Steps | None = Field(None, description="Default: the model's own.")
    seed: _Seed | None = Field(None, description="For repeatable pictures; told in the result.")


class Img2Img(Txt2Img):
    """A picture from a picture and words."""

    image: _Image = Field(description=f"One picture: {_IMAGE_FORMS}")
    width: _Side | None = Field(None, description="Pixels; default: the picture's own.")
    height: _Side | None = Field(None, description="Pixels; default: the picture's own.")


class Img2Txt(GenerationArguments):
    """Words about up to four pictures."""

    image: Annotated[
        _Image | list[_Image],
        _few(MAX_IMAGES, _IMAGE_TAKES),
        WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING, "maxItems": 4}]}),
    ] = Field(description=f"One picture or a list of up to 4: {_IMAGE_FORMS}")
    prompt: _Text | None = Field(None, description="Question; default: describe it.")
    max_tokens: _Tokens | None = _MAX_TOKENS
    temperature: float | None = _TEMPERATURE

    @model_validator(mode="after")
    def _one_to_four(self) -> Img2Txt:
        if not self.images:
            raise PydanticCustomError("call", _IMAGE_TAKES)
        return self

    @property
    def images(self) -> list[str]:
        """The pictures, one or several."""
        return [self.image] if isinstance(self.image, str) else list(self.image)


class GetJob(Arguments):
    """Which job, and how long to wait for it."""

    job_id: str = Field(description="As answered by the tool that started it.")
    wait_seconds: _Seconds = Field(30, description="Seconds to wait for its end; 0: at once.")


class CancelJob(Arguments):
    """Which job."""

    job_id: str = Field(description="As answered by the tool that started it.")


class ListModels(Arguments):
    """Which type, or all."""

    type: Annotated[RequestType, Field(strict=False), BeforeValidator(_word)] | None = Field(
        None, description="Only models for this."
    )


class RequestMetrics(Arguments):
    """How far back."""

    window_seconds: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = Field(
        None, description="Only the last so many seconds; default: since the start."
    )


class ErrorMetrics(Arguments):
    """How many samples."""

    limit: _Samples = Field(20, description="Newest samples shown.")


_ArgumentsT = TypeVar("_ArgumentsT", bound=Arguments)


def parse(model: type[_ArgumentsT], arguments: Mapping[str, Any] | None) -> _ArgumentsT:
    """The checked arguments of a tool; ``null`` counts as not given, as hosts send it so.

    Raises:
        InvalidInputError: something does not fit; the first problem is told.
    """
    if arguments is not None and len(arguments) > MAX_NAMES:
        raise InvalidInputError(
            f"The call has more than {MAX_NAMES} parameters.", "Send those that the tool takes."
        )
    try:
        given = {name: value for name, value in (arguments or {}).items() if value is not None}
        return model.model_validate(given)
    except ValidationError as error:
        what, next_step = explain(error, input_schema(model))
        raise InvalidInputError(what, next_step) from None
    except RecursionError:
        raise InvalidInputError(
            "The arguments are nested too deeply.", "Send a flatter structure."
        ) from None


def input_schema(model: type[Arguments]) -> dict[str, Any]:
    """The JSON schema of a tool's parameters, as small as it can truthfully be."""
    schema = compact(model.model_json_schema())
    shared = GenerationArguments.model_fields
    properties = schema.get("properties", {})
    schema["properties"] = dict(sorted(properties.items(), key=lambda item: item[0] in shared))
    schema["additionalProperties"] = False
    return schema
