"""Answers that must match a JSON schema: checked in a worker process that can be killed.

A schema comes from the model, and a pattern in it can keep a regular expression busy for
hours; a thread cannot be stopped, a process can. ``jsonschema`` fetches remote ``$ref``s by
itself, so it is given a registry that holds nothing (``arguments`` refuses such schemas
anyway). Above stands ``jobs``; nothing here knows where the text came from.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_process

from inference_mcp.errors import BadResultError, InvalidInputError

if TYPE_CHECKING:
    from referencing import Specification
    from referencing._core import Resolver

__all__ = ["MAX_CHECK_S", "check_answer", "check_schema"]

MAX_CHECK_S = 2.0
"""How long a check may take; the start of the worker process is not counted in it."""


async def check_schema(schema: Mapping[str, Any]) -> None:
    """Return if ``schema`` is a JSON schema whose references lead somewhere.

    Raises:
        InvalidInputError: it is not, or finding out took longer than ``MAX_CHECK_S``.
    """
    await anyio.to_process.run_sync(_ready, cancellable=True)
    fault: str | None = "is not a valid JSON schema"
    with anyio.move_on_after(MAX_CHECK_S):
        fault = await anyio.to_process.run_sync(_fault, dict(schema), cancellable=True)
    if fault is not None:
        raise InvalidInputError(f"response_schema {fault}.", "Correct that and call again.")


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


def _fault(schema: dict[str, Any]) -> str | None:
    """In the worker: what is wrong with the schema, by the draft that it names."""
    import jsonschema
    from referencing.jsonschema import DRAFT202012, specification_with

    try:
        validator = jsonschema.validators.validator_for(
            schema, default=jsonschema.Draft202012Validator
        )
        validator.check_schema(schema)
    except Exception:
        return "is not a valid JSON schema"
    draft = specification_with(validator.META_SCHEMA["$schema"], default=DRAFT202012)
    try:
        _follow(schema, draft)
    except Exception:  # among them a chain of references too long to follow
        return "has a $ref that leads nowhere or in a circle"
    return None


def _follow(schema: dict[str, Any], draft: Specification[Any]) -> None:
    """Visit all that a schema is made of, references followed; raises where one is no use.

    A reference to what stands above is fine below ``properties`` or ``items``, where the answer
    has to go on for it; a way back that takes nothing of the answer would never end.
    """
    import referencing

    done: set[int] = set()
    under_way: set[int] = set()

    def visit(node: dict[str, Any], resolver: Resolver[Any]) -> None:
        here = id(node)
        if here in under_way:
            raise ValueError(here)
        if here in done:
            return
        under_way.add(here)
        for part in filter(_is_object, _in_place(node)):
            visit(part, resolver.in_subresource(draft.create_resource(part)))
        for name in ("$ref", "$dynamicRef"):
            if isinstance(target := node.get(name), str):
                found = resolver.lookup(target)
                if _is_object(found.contents):
                    visit(found.contents, found.resolver)
        under_way.discard(here)
        done.add(here)
        parts = filter(_is_object, draft.subresources_of(node))
        later.extend((part, resolver.in_subresource(draft.create_resource(part))) for part in parts)

    root = draft.create_resource(schema)
    later = [(schema, referencing.Registry().resolver_with_root(root))]
    while later:
        visit(*later.pop())


def _is_object(node: Any) -> bool:
    return isinstance(node, dict)


def _in_place(schema: Mapping[str, Any]) -> Iterator[Any]:
    """The subschemas that judge the very value which the schema judges."""
    for name in ("allOf", "anyOf", "oneOf"):
        yield from schema.get(name, ())
    for name in ("not", "if", "then", "else"):
        if name in schema:
            yield schema[name]
    for name in ("dependentSchemas", "dependencies"):
        yield from schema.get(name, {}).values()


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
