"""What a model reads when its arguments do not fit: the parameter, and what it takes.

Pure: pydantic's findings and the tool's schema in, two sentences out. Nothing that was sent
is quoted save the names of parameters. Above stands ``arguments``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

from pydantic import ValidationError

__all__ = ["explain"]

_CORRECT = "Correct that and call again."

_WANTS = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "finite_number": "must be a finite number",
    "string_type": "must be a text",
    "bool_type": "must be true or false",
    "dict_type": "must be an object",
    "list_type": "must be a list",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
}

_KNOWN_ELSEWHERE = (
    ({"size", "resolution", "dimensions"}, "width", "Give width and height."),
    ({"n", "num_images", "batch_size"}, "width", "Each call makes one picture."),
)
"""Names that other picture interfaces have: where ``needed`` is a parameter, what to do."""


def explain(error: ValidationError, schema: Mapping[str, Any]) -> tuple[str, str]:
    """The first problem: what is wrong, and what to do about it; ``schema`` is the tool's."""
    problem = _first(error)
    path = _path(problem["loc"])
    context = problem.get("ctx", {})
    match problem["type"]:
        case "extra_forbidden":
            return _unknown(schema, problem["loc"])
        case "missing":
            return f"The parameter {path} is missing.", "Call again with it."
        case "call":
            return problem["msg"], _CORRECT
        case "wanted":
            return f"{path} {problem['msg']}.", _CORRECT
        case "greater_than_equal" | "less_than_equal" | "greater_than" | "multiple_of":
            return f"{path} is out of range.", f"Give {_range(schema, problem['loc'])}."
        case "enum" | "literal_error":
            return f"{path} is none of its values.", f"Give {context['expected']}."
        case "too_long" | "string_too_long":
            return f"{path} is longer than {context['max_length']}.", "Send less."
        case "too_short":
            return f"{path} must not be empty.", _CORRECT
        case kind:
            return f"{path} {_WANTS.get(kind, 'is not valid')}.", _CORRECT


def _first(error: ValidationError) -> Any:
    """The problem to tell: an unknown name first, for it is often why another is missing."""
    problems = error.errors(include_url=False, include_input=False)
    return next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])


def _path(loc: tuple[int | str, ...]) -> str:
    """``messages[2].content``; pydantic's own names of union members left out."""
    text = ""
    for part in loc:
        if isinstance(part, int):
            text += f"[{part}]"
        elif part.isidentifier() and part not in ("str", "int", "float"):
            text += f".{part}" if text else part
    return text or "The arguments"


def _unknown(schema: Mapping[str, Any], loc: tuple[int | str, ...]) -> tuple[str, str]:
    nested = len(loc) > 1
    taken = schema["properties"][loc[0]]["items"]["properties"] if nested else schema["properties"]
    name = str(loc[-1])[:64]
    what = f"Unknown parameter {name!a}{f' in {_path(loc[:-1])}' if nested else ''}."
    if not taken:
        return what, "This tool takes none."
    for names, needed, hint in _KNOWN_ELSEWHERE:
        if name.lower() in names and needed in taken:
            return what, f"{hint} It takes: {', '.join(taken)}."
    nearest = difflib.get_close_matches(name.lower(), taken, n=1, cutoff=0.0)
    return what, f"Did you mean {nearest[0]}? It takes: {', '.join(taken)}."


def _range(schema: Mapping[str, Any], loc: tuple[int | str, ...]) -> str:
    """The bounds of a parameter in words, from its schema."""
    bounds = schema["properties"].get(str(loc[0]), {})
    low, high = bounds.get("minimum"), bounds.get("maximum")
    if "exclusiveMinimum" in bounds:
        return f"more than {_plain(bounds['exclusiveMinimum'])}"
    words = f"{_plain(low)} to {_plain(high)}" if high is not None else f"{_plain(low)} or more"
    step = bounds.get("multipleOf")
    return f"{words}, a multiple of {step}" if step else words


def _plain(number: float | None) -> str:
    return str(int(number)) if number is not None and number == int(number) else str(number)
