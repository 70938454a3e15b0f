"""Texts: pure, and different where anything of the input is."""

from __future__ import annotations

from typing import Any

import pytest

from inference_mcp.simulator.content import answer_for, describe_picture, instance_of
from tests.simulator.serving import plain_png


def test_an_answer_quotes_the_last_question_and_says_that_it_is_simulated() -> None:
    """A reader sees at once what this is, and for which prompt."""
    answer = answer_for([("user", "old"), ("assistant", "yes"), ("user", "why is the sky blue?")])
    assert "simulated" in answer
    assert "“why is the sky blue?”" in answer


def test_an_answer_depends_on_every_turn() -> None:
    """The fingerprint covers system messages and history, so a mix-up shows."""
    turns = [("user", "hi")]
    answers = {
        answer_for(turns),
        answer_for([("system", "be brief"), *turns]),
        answer_for([("user", "hi "), *turns]),
    }
    assert len(answers) == 3


@pytest.mark.parametrize(
    ("colour", "words"),
    [
        ("#102050", ("mostly black", "dark", "#102050")),
        ("#ff0000", ("mostly red", "#ff0000")),
        ("#fffff0", ("mostly white", "bright", "#fffff0")),
    ],
)
def test_a_description_is_of_the_real_pixels(colour: str, words: tuple[str, ...]) -> None:
    """Size, colour and brightness are measured."""
    description = describe_picture(plain_png(colour, 30, 20))
    assert description.startswith("30 by 20 pixels")
    assert all(word in description for word in words)


def test_bytes_that_are_no_picture_cannot_be_described() -> None:
    """``ValueError``, which the handler turns into the backend's refusal."""
    with pytest.raises(ValueError, match="decode"):
        describe_picture(plain_png("red")[:30])


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        ({"const": 5}, 5),
        ({"enum": ["b", "a"]}, "b"),
        ({"type": "string", "maxLength": 3}, "abc"),
        ({"type": "string", "minLength": 8}, "abcdef.."),
        ({"type": "integer", "minimum": 2}, 2),
        ({"type": "number", "exclusiveMinimum": 1}, 2),
        ({"type": "boolean"}, True),
        ({"type": "null"}, None),
        ({"type": ["null", "string"]}, None),
        ({"type": "array", "items": {"type": "boolean"}, "minItems": 2}, [True, True]),
        ({"type": "array"}, []),
        ({"anyOf": [{"type": "integer"}, {"type": "string"}]}, 0),
        ({"properties": {"a": {"$ref": "#/$defs/x"}}, "$defs": {"x": {"const": 1}}}, {"a": 1}),
        ({"type": "object", "properties": {"a": {}, "b": {}}, "required": ["b"]}, {"b": "abcdef"}),
        ({"$ref": "#/nowhere"}, None),
    ],
)
def test_an_instance_matches_its_schema(schema: dict[str, Any], expected: Any) -> None:
    """The ordinary kinds of schema."""
    assert instance_of(schema, "abcdef") == expected


def test_a_schema_that_refers_to_itself_ends() -> None:
    """Depth is bounded."""
    schema = {"type": "object", "properties": {"next": {"$ref": "#"}}}
    assert isinstance(instance_of(schema), dict)
