"""Answers against schemas: what fits, what does not, and what would never end."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import anyio
import pytest

from inference_mcp.errors import BadResultError, InvalidInputError
from inference_mcp.schemas import check_answer, check_schema

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
SECRET = "a red fox"

ENDLESS = {"type": "string", "pattern": "^(a+)+$"}
"""A pattern that takes 2^n steps to refuse n letters and a different last one."""


async def refusal(answer: str, schema: dict[str, Any]) -> str:
    """What an answer is refused with."""
    with anyio.fail_after(10), pytest.raises(BadResultError) as caught:
        await check_answer(answer, schema)
    return caught.value.what


@pytest.mark.parametrize(
    ("answer", "schema"),
    [
        ('{"name": "Ada", "age": 36}', PERSON),
        ('  {"name": "Ada"}\n', PERSON),
        ("[1, 2]", {"type": "array", "items": {"type": "integer"}}),
        ("null", {}),
        ('{"a": 1}', {"$ref": "#/$defs/x", "$defs": {"x": {"required": ["a"]}}}),
    ],
)
async def test_an_answer_that_matches_is_let_through(answer: str, schema: dict[str, Any]) -> None:
    """Objects, lists, scalars, and references inside the schema."""
    with anyio.fail_after(10):
        await check_answer(answer, schema)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (f"Sure! {SECRET}", "is not JSON"),
        ("", "is not JSON"),
        ('{"name": "Ada"', "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        (f'{{"name": "{SECRET}", "age": -1}}', "does not match it"),
        (f'{{"nick": "{SECRET}"}}', "does not match it"),
        ("[]", "does not match it"),
    ],
)
async def test_an_answer_that_does_not_match_is_a_bad_result(answer: str, told: str) -> None:
    """The caller hears which of both it was; the answer is not quoted."""
    what = await refusal(answer, PERSON)
    assert told in what
    assert SECRET not in what


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
async def test_numbers_that_json_does_not_have_are_not_json(constant: str) -> None:
    """Python would read them; whoever asked for JSON could not."""
    assert "is not JSON" in await refusal(constant, {"type": "number"})


async def test_a_pattern_that_never_ends_is_given_up() -> None:
    """A thread could not be stopped; the process is killed, and another serves the next."""
    assert "could not be checked in time" in await refusal(json.dumps("a" * 60 + "!"), ENDLESS)
    with anyio.fail_after(10):
        await check_answer('{"name": "Ada"}', PERSON)


async def test_a_reference_elsewhere_is_never_fetched() -> None:
    """The library would go and get it; here it is a schema that cannot be used."""
    listener = await anyio.create_tcp_listener(local_host="127.0.0.1")
    async with listener, anyio.create_task_group() as tasks:
        asked = False

        async def note(stream: anyio.abc.SocketStream) -> None:
            nonlocal asked
            asked = True
            await stream.aclose()

        tasks.start_soon(listener.serve, note)
        port = listener.extra(anyio.abc.SocketAttribute.local_port)  # noqa: S610 - not Django
        what = await refusal("1", {"$ref": f"http://127.0.0.1:{port}/schema.json"})
        tasks.cancel_scope.cancel()
    assert "could not be checked" in what
    assert not asked


@pytest.mark.parametrize(
    "schema",
    [PERSON, {}, ENDLESS, {"$schema": "http://json-schema.org/draft-07/schema#", "type": "null"}],
)
async def test_a_schema_that_is_one_is_let_through(schema: dict[str, Any]) -> None:
    """Of any draft that the library knows; a dangerous pattern is still a pattern."""
    with anyio.fail_after(10):
        await check_schema(schema)


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "text"},
        {"type": 5},
        {"properties": []},
        {"required": "name"},
        {"minimum": "0"},
        {"pattern": "("},
        {"$schema": 5},
        {"enum": SECRET},
    ],
)
async def test_a_schema_that_is_none_is_refused_before_anything_is_submitted(
    schema: dict[str, Any],
) -> None:
    """LocalAI would drop it in silence and the model would answer anything."""
    with anyio.fail_after(10), pytest.raises(InvalidInputError) as caught:
        await check_schema(schema)
    assert "response_schema" in caught.value.what
    assert SECRET not in caught.value.what


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/nope"},
        {"properties": {"a": {"$ref": "#/$defs/nope"}}},
        {"items": {"$ref": "#nope"}},
        {"$defs": {"a": {"anyOf": [{"$ref": "#/$defs/nope"}]}}},
        {"$ref": "#"},
        {"$dynamicRef": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"not": {"$ref": "#"}},
        {"properties": {"a": {"if": True, "then": {"$ref": "#/properties/a"}}}},
        {
            "$ref": "#/$defs/a",
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"oneOf": [{"$ref": "#/$defs/a"}]}},
        },
        {"dependentSchemas": {"a": {"$ref": "#"}}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "dependencies": {"a": {"$ref": "#"}},
        },
    ],
)
async def test_a_reference_to_nowhere_or_in_a_circle_is_refused_before_anything_is_submitted(
    schema: dict[str, Any],
) -> None:
    """No answer could ever be held against it."""
    with anyio.fail_after(10), pytest.raises(InvalidInputError) as caught:
        await check_schema(schema)
    assert caught.value.what == "response_schema has a $ref that leads nowhere or in a circle."


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": {"child": {"$ref": "#"}}},
        {"items": {"anyOf": [{"type": "null"}, {"$ref": "#"}]}},
        {"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"y": {"$ref": "#/$defs/x"}}}}},
        {"allOf": [{"$ref": "#/$defs/x"}, {"$ref": "#/$defs/x"}], "$defs": {"x": {}}},
        {"$ref": "#x", "$defs": {"x": {"$anchor": "x", "type": "null"}}},
        {"$id": "urn:a", "properties": {"b": {"$ref": "#/$defs/c"}}, "$defs": {"c": True}},
        {"properties": {"$ref": {"type": "string"}}, "const": {"$ref": "#/nope"}},
        {"dependentRequired": {"a": ["b"]}},
        {
            "$schema": "http://json-schema.org/draft-07/schema#",
            "dependencies": {"a": ["b"], "c": {"$ref": "#/definitions/d"}},
            "definitions": {"d": {}},
        },
    ],
)
async def test_references_that_lead_somewhere_are_let_through(schema: dict[str, Any]) -> None:
    """Trees refer to themselves; what only looks like a reference is none."""
    with anyio.fail_after(10):
        await check_schema(schema)
        with contextlib.suppress(BadResultError):
            await check_answer('{"child": {"y": []}}', schema)


async def test_a_cancelled_check_ends_at_once() -> None:
    """Nobody waits for a pattern that nobody wants any more."""
    with anyio.fail_after(10):
        await check_answer("1", {})  # the process is there
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check_answer, json.dumps("a" * 60 + "!"), ENDLESS)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
