"""Answers against schemas: what fits, what does not, and what would never end."""

from __future__ import annotations

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


async def test_a_cancelled_check_ends_at_once() -> None:
    """Nobody waits for a pattern that nobody wants any more."""
    with anyio.fail_after(10):
        await check_answer("1", {})  # the process is there
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(check_answer, json.dumps("a" * 60 + "!"), ENDLESS)
            await anyio.wait_all_tasks_blocked()
            tasks.cancel_scope.cancel()
