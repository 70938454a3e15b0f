"""JSON schemas made small: what goes, what stays, and that it still means the same."""

from __future__ import annotations

from enum import StrEnum
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, Field

from inference_mcp.surface.compacting import compact


class Colour(StrEnum):
    """For the code's readers."""

    RED = "red"


class Part(BaseModel):
    """For the code's readers."""

    size: int = Field(ge=1, description="In pixels.")


class Whole(BaseModel):
    """For the code's readers."""

    title: str = Field(description="A parameter that is named as a keyword is.")
    colour: Colour = Field(Colour.RED, description="Which.")
    parts: list[Part] | None = Field(None, description="Of what.")


def test_a_schema_stands_alone_and_says_no_more_than_it_must() -> None:
    """References are written out, titles, nulls and code's docstrings gone."""
    assert compact(Whole.model_json_schema()) == {
        "type": "object",
        "properties": {
            "title": {
                "type": "string",
                "description": "A parameter that is named as a keyword is.",
            },
            "colour": {
                "type": "string",
                "enum": ["red"],
                "default": "red",
                "description": "Which.",
            },
            "parts": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "size": {"type": "integer", "minimum": 1, "description": "In pixels."}
                    },
                    "required": ["size"],
                },
                "description": "Of what.",
            },
        },
        "required": ["title"],
    }


@pytest.mark.parametrize(
    "value",
    [
        {"title": "a"},
        {"title": "a", "colour": "red", "parts": [{"size": 1}]},
        {},
        {"title": 1},
        {"title": "a", "colour": "blue"},
        {"title": "a", "parts": [{"size": 0}]},
        {"title": "a", "parts": [{}]},
    ],
)
def test_the_same_values_are_valid(value: dict[str, Any]) -> None:
    """But for ``null``, which counts as not given."""
    before, after = Whole.model_json_schema(), compact(Whole.model_json_schema())
    valid = jsonschema.Draft202012Validator(before).is_valid(value)
    assert jsonschema.Draft202012Validator(after).is_valid(value) is valid


def test_the_schema_that_was_given_is_left_as_it_is() -> None:
    """It belongs to the model."""
    schema = Whole.model_json_schema()
    compact(schema)
    assert schema == Whole.model_json_schema()
