"""Answers that must match a JSON schema: checked in a worker process that can be killed.

A schema comes from the model, and a pattern in it can keep a regular expression busy for
hours; a thread cannot be stopped, a process can. ``jsonschema`` fetches remote ``$ref``s by
itself, so it is given a registry that holds nothing (``arguments`` refuses such schemas
anyway). Above stands ``jobs``; nothing here knows where the text came from.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import anyio
import anyio.to_process

from inference_mcp.errors import BadResultError, InvalidInputError

__all__ = ["MAX_CHECK_S", "check_answer", "check_schema"]

MAX_CHECK_S = 2.0
"""How long a check may take; the start of the worker process is not counted in it."""


async def check_schema(schema: Mapping[str, Any]) -> None:
    """Return if ``schema`` is a JSON schema.

    Raises:
        InvalidInputError: it is not, or finding out took longer than ``MAX_CHECK_S``.
    """
    await anyio.to_process.run_sync(_ready, cancellable=True)
    valid = False
    with anyio.move_on_after(MAX_CHECK_S):
        valid = await anyio.to_process.run_sync(_is_schema, dict(schema), cancellable=True)
    if not valid:
        raise InvalidInputError(
            "response_schema is not a valid JSON schema.", "Correct that and call again."
        )


async def check_answer(text: str, schema: Mapping[str, Any]) -> None:
    """Return if ``text`` is JSON that matches ``schema``.

    Raises:
        BadResultError: it is not, or the check took longer than ``MAX_CHECK_S``.
    """
    await anyio.to_process.run_sync(_ready, cancellable=True)
    problem: str | None = "could not be checked in time"
    with anyio.move_on_after(MAX_CHECK_S):
        problem = await anyio.to_process.run_sync(_problem, text, dict(schema), cancellable=True)
    if problem is not None:
        raise BadResultError(
            f"The model's answer {problem}, so it does not fit response_schema.",
            "Call again, with a simpler schema, a larger max_tokens or another model.",
        )


def _ready() -> None:
    """Start the worker and pay its imports."""
    import jsonschema  # noqa: F401


def _is_schema(schema: dict[str, Any]) -> bool:
    """In the worker: whether the schema keeps to the draft that it names."""
    import jsonschema

    try:
        jsonschema.validators.validator_for(
            schema, default=jsonschema.Draft202012Validator
        ).check_schema(schema)
    except Exception:
        return False
    return True


def _problem(text: str, schema: dict[str, Any]) -> str | None:
    """In the worker: what is wrong with the answer, in words of our own."""
    import jsonschema
    import referencing

    try:
        answer = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return "is not JSON"
    try:
        validator = jsonschema.validators.validator_for(
            schema, default=jsonschema.Draft202012Validator
        )(schema, registry=referencing.Registry())
        valid = validator.is_valid(answer)
    except Exception:
        return "could not be checked, for the schema itself is not valid"
    return None if valid else "does not match it"


def _no_constant(name: str) -> None:
    """``NaN`` and the infinities: Python would read them, JSON has none."""
    raise ValueError(name)
