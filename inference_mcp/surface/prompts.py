"""Prompts for common tasks: what a person picks from a menu, and what a model then reads.

Each teaches the tools in their order, what is worth a ``priority`` and how to wait. Pure: no
prompt looks at a file, a model or the queue, so the list never changes, and says only what is
true of every host: this server lists no folder and reads no attachment.

What a person filled in is quoted as one JSON string, so that nothing in it can pass for a step
of the prompt. Above is ``server``; what can be filled in is completed by ``completing``.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeAlias

from mcp_types import GetPromptResult, Prompt, PromptArgument, PromptMessage, TextContent

from inference_mcp.requests import RequestType

__all__ = ["PROMPTS", "Argument", "PromptError", "Spec", "get_prompt", "list_prompts"]

MAX_CHARS = 10_000
"""Of one argument: more is no wish of a person's, and every character is read by the model."""

_HALF = re.compile("[\ud800-\udfff]")

Given: TypeAlias = Mapping[str, str]
"""The arguments of a prompt: each that was given, quoted, by name."""

Completes: TypeAlias = RequestType | Literal["picture"] | tuple[str, ...] | None
"""What an argument is completed by: the models of a type, pictures, or a few words."""


class PromptError(Exception):
    """A prompt that is not there, or arguments that do not fit; ``str()`` says what to do."""


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument. ``allowed``, where it is given, are its only values."""

    name: str
    description: str
    required: bool = False
    completes: Completes = None
    allowed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Spec:
    """One prompt; ``text`` writes it from arguments that fit."""

    name: str
    title: str
    description: str
    text: Callable[[Given], str]
    arguments: tuple[Argument, ...] = ()


_STYLES = ("photograph", "watercolour", "oil painting", "line drawing", "3D render", "pixel art")
_COUNTS = tuple(str(number) for number in range(1, 9))

_BATCH = (
    "with priority batch and wait_seconds 0, so that each answers at once with a job id and "
    "nobody else has to wait"
)
_COLLECT = (
    "Then fetch each result with get_job, one job at a time; where it still runs, call get_job "
    "again. If a call fails, tell which and why, and go on with the others."
)
_LONG = "If the answer is a job id instead of the result, call get_job with it until it is done."
_NAMED = (
    "A picture is named by its absolute path or by the id of an earlier one; a file attached to "
    "the chat does not reach this server, so ask the user for its path."
)


def _model(kind: RequestType) -> Argument:
    return Argument("model", f"A model for {kind}; default: the server's.", completes=kind)


def _picture(name: str, description: str) -> Argument:
    how = "Absolute path, or the id of an earlier picture."
    return Argument(name, f"{description} {how}", required=True, completes="picture")


def _with_model(given: Given) -> str:
    return f" Use the model {given['model']}." if "model" in given else ""


def _make_picture(given: Given) -> str:
    style = f" Style: {given['style']}." if "style" in given else ""
    return (
        f"Make a picture of this idea: {given['idea']}.{style}\n\n"
        "1. Call txt2txt to turn the idea into one prompt for an image model: subject, setting, "
        "light, composition and style, in concrete English words of at most 60, without the "
        "character |. Ask for the prompt alone.\n"
        f"2. Call txt2img with that prompt.{_with_model(given)} {_LONG}\n"
        "3. Tell the user the path of the picture, the prompt and the seed: with the same seed "
        "and other words a next one can be a small change of it."
    )


def _vary_picture(given: Given) -> str:
    what = f"Keep to this wish: {given['change']}." if "change" in given else "Vary them freely."
    return (
        f"Make {given.get('count', '4')} variations of the picture {given['image']}. {what}\n\n"
        f"{_NAMED}\n\n"
        "1. Call img2txt on it once, to know what it shows.\n"
        "2. For each variation write a prompt of its own that says the whole picture as it "
        "should become (img2img knows no words of the first), and call img2img with it and that "
        f"image, {_BATCH}.{_with_model(given)}\n"
        f"3. {_COLLECT}\n"
        "4. List the variations: path, prompt, seed. The first picture stays as it was."
    )


def _caption_folder(given: Given) -> str:
    want = given.get("want", '"one sentence that says what it shows"')
    return (
        f"Caption the pictures in the folder {given['folder']}. For each: {want}.\n\n"
        "1. List its PNG, JPEG, WebP and GIF files with a file tool of yours. This server has "
        "none: without one, ask the user for the absolute paths, and do not guess names.\n"
        f"2. Call img2txt once for each file by its absolute path, {_BATCH}.{_with_model(given)} "
        "Keep to 20 jobs at a time and collect them before the next 20.\n"
        f"3. {_COLLECT} If a file is rejected because its folder is not an input root, stop: the "
        "user has to allow the folder (INFERENCE_MCP_INPUT_ROOTS), the error says how.\n"
        "4. Answer with a table of file and caption. Write files only if the user asks for it."
    )


def _compare_pictures(given: Given) -> str:
    question = given.get("question", '"What do they share, and how do they differ?"')
    return (
        f"Compare the pictures {given['first']} and {given['second']}: {question}.\n\n"
        f"{_NAMED}\n\n"
        "1. Call img2txt once with both in image, as a list in this order, and with the "
        f"question as prompt.{_with_model(given)} {_LONG}\n"
        "2. If the model mixes them up or sees one alone, call img2txt for each by itself, and "
        "compare the two descriptions yourself.\n"
        "3. Answer the question, and say that a local model did the looking."
    )


def _extract_data(given: Given) -> str:
    return (
        f"Read these fields from the picture {given['image']}: {given['fields']}.\n\n"
        f"{_NAMED}\n\n"
        "1. Call img2txt with a prompt that asks for all text and figures that bear on these "
        f"fields, word for word, and for nothing that cannot be read.{_with_model(given)} "
        f"{_LONG}\n"
        "2. Call txt2txt with that text, temperature 0 and a response_schema: an object with "
        "one property for each field, all required, each of its type or null where the text "
        "does not tell.\n"
        "3. Answer with the JSON and name the fields that are null. A local model may misread: "
        "whoever relies on a figure should look at the picture."
    )


def _explain_queue(given: Given) -> str:
    about = f" It is about: {given['about']}." if "about" in given else ""
    return (
        f"Explain what the local inference queue is doing, and why it may be slow.{about}\n\n"
        "1. Call get_queue_status: what runs, what waits and in which order, and the results "
        "that nobody has fetched.\n"
        "2. Call get_health: whether LocalAI can be used, models whose circuit is open, loads "
        "under way, and its hints for waiting less.\n"
        "3. Only if that does not explain it, call get_request_metrics with window_seconds 3600 "
        "(waiting against processing time) and get_error_metrics.\n"
        "4. Say in a few sentences what runs, what is waited for and how long it may take, with "
        "the figures, and what the user can do. Start and cancel nothing unless they ask."
    )


_SPECS = (
    Spec(
        "make_picture",
        "Turn an idea into a picture",
        "A local language model writes the prompt, an image model makes the picture.",
        _make_picture,
        (
            Argument("idea", "What the picture should show, in your own words.", required=True),
            Argument(
                "style",
                "Such as watercolour.",
                completes=_STYLES,
            ),
            _model(RequestType.TXT2IMG),
        ),
    ),
    Spec(
        "vary_picture",
        "Make variations of a picture",
        "Several new pictures from one, in the background.",
        _vary_picture,
        (
            _picture("image", "The picture to start from."),
            Argument("change", "What should change; default: anything."),
            Argument("count", "How many, 1 to 8; default 4.", completes=_COUNTS, allowed=_COUNTS),
            _model(RequestType.IMG2IMG),
        ),
    ),
    Spec(
        "caption_folder",
        "Caption a folder of pictures",
        "Each picture described in the background; needs a host that can list files.",
        _caption_folder,
        (
            Argument("folder", "Absolute path of the folder.", required=True),
            Argument("want", "What a caption should be; default: one sentence."),
            _model(RequestType.IMG2TXT),
        ),
    ),
    Spec(
        "compare_pictures",
        "Compare two pictures",
        "What they share and how they differ, or a question of yours.",
        _compare_pictures,
        (
            _picture("first", "The one picture."),
            _picture("second", "The other picture."),
            Argument("question", "What to find out; default: how they differ."),
            _model(RequestType.IMG2TXT),
        ),
    ),
    Spec(
        "extract_data",
        "Read data from a picture",
        "Fields of a receipt, form, label or chart, as JSON of a fixed shape.",
        _extract_data,
        (
            _picture("image", "The picture to read."),
            Argument("fields", "What to read, such as: date, shop, total.", required=True),
            _model(RequestType.IMG2TXT),
        ),
    ),
    Spec(
        "explain_queue",
        "What is the queue doing?",
        "What runs and waits, and why it may be slow.",
        _explain_queue,
        (Argument("about", "What is slow: a job id, a model; default: all of it."),),
    ),
)

PROMPTS: Mapping[str, Spec] = {spec.name: spec for spec in _SPECS}


def list_prompts() -> list[Prompt]:
    """The ``prompts/list`` answer."""
    return [
        Prompt(
            name=spec.name,
            title=spec.title,
            description=spec.description,
            arguments=[
                PromptArgument(name=each.name, description=each.description, required=each.required)
                for each in spec.arguments
            ],
        )
        for spec in _SPECS
    ]


def get_prompt(name: str, arguments: Mapping[str, str] | None) -> GetPromptResult:
    """The ``prompts/get`` answer.

    Raises:
        PromptError: no such prompt, or arguments that do not fit.
    """
    spec = PROMPTS.get(name)
    if spec is None:
        raise PromptError(f"Unknown prompt. There are: {', '.join(PROMPTS)}.")
    text = spec.text(_fitting(spec, arguments or {}))
    return GetPromptResult(
        description=spec.description,
        messages=[PromptMessage(role="user", content=TextContent(text=text))],
    )


def _fitting(spec: Spec, arguments: Mapping[str, str]) -> Given:
    """Each argument that was given, quoted; hosts send what was left empty as empty."""
    names = [each.name for each in spec.arguments]
    for name in arguments:
        if name not in names:
            near = difflib.get_close_matches(name[:64].lower(), names, n=1, cutoff=0.5)
            meant = f"Did you mean {near[0]}? " if near else ""
            raise PromptError(
                f"Unknown argument {name[:64]!a}. {meant}{spec.name} takes: {', '.join(names)}."
            )
    given: dict[str, str] = {}
    for each in spec.arguments:
        value = arguments.get(each.name, "").strip()
        if value:
            given[each.name] = _quoted(each, value)
        elif each.required:
            raise PromptError(f"The argument {each.name} is missing: {each.description}")
    return given


def _quoted(argument: Argument, value: str) -> str:
    if argument.allowed:
        if value not in argument.allowed:
            listed = ", ".join(argument.allowed)
            raise PromptError(f"{argument.name} has none of its values. Give one of: {listed}.")
        return value
    if len(value) > MAX_CHARS:
        raise PromptError(f"{argument.name} is longer than {MAX_CHARS} characters. Send less.")
    if _HALF.search(value):
        raise PromptError(f"{argument.name} holds half a character (a lone surrogate). Correct it.")
    return json.dumps(value, ensure_ascii=False)
