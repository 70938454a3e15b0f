"""What is said of arguments that do not fit: one problem, the one that matters, in words."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from inference_mcp.surface.compacting import compact
from inference_mcp.surface.refusals import explain


class Turn(BaseModel):
    """One of a list."""

    model_config = ConfigDict(extra="forbid", strict=True)

    text: str


class Call(BaseModel):
    """Some arguments."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=3)
    turns: list[Turn] = Field([], max_length=2)
    half: float = Field(0.5, ge=0.5, le=1.5)
    many: int = Field(5, ge=5)
    some: float = Field(1, gt=0.25)
    flag: bool = False
    either: str | int = ""


class Nothing(BaseModel):
    """No arguments."""

    model_config = ConfigDict(extra="forbid")


def said(given: dict[str, Any], model: type[BaseModel] = Call) -> tuple[str, str]:
    """What happened, and what to do next."""
    with pytest.raises(ValidationError) as caught:
        model.model_validate(given)
    return explain(caught.value, compact(model.model_json_schema()))


@pytest.mark.parametrize(
    ("given", "what", "next_step"),
    [
        ({}, "The parameter name is missing.", "Call again with it."),
        ({"name": "abcd"}, "name is longer than 3.", "Send less."),
        ({"name": 1}, "name must be a text.", "Correct that and call again."),
        ({"name": "a", "turns": [{}]}, "The parameter turns[0].text is missing.", "Call again"),
        ({"name": "a", "turns": [{"text": "a"}] * 3}, "turns is longer than 2.", "Send less."),
        ({"name": "a", "turns": {}}, "turns must be a list.", "Correct"),
        ({"name": "a", "turns": ["a"]}, "turns[0] must be an object.", "Correct"),
        ({"name": "a", "half": 2.0}, "half is out of range.", "Give 0.5 to 1.5."),
        ({"name": "a", "many": 4}, "many is out of range.", "Give 5 or more."),
        ({"name": "a", "some": 0}, "some is out of range.", "Give more than 0.25."),
        ({"name": "a", "flag": "yes"}, "flag must be true or false.", "Correct"),
        ({"name": "a", "either": []}, "either must be a text.", "Correct"),
    ],
)
def test_each_kind_of_problem_has_its_words(
    given: dict[str, Any], what: str, next_step: str
) -> None:
    """The parameter first, by its path."""
    told = said(given)
    assert told[0] == what
    assert told[1].startswith(next_step)


def test_an_unknown_name_is_told_first_for_it_may_be_why_another_is_missing() -> None:
    """A misspelled parameter is two problems, and one of them explains the other."""
    what, next_step = said({"nmae": "a"})
    assert what == "Unknown parameter 'nmae'."
    assert next_step.startswith("Did you mean name? It takes: name, turns, half, many,")


def test_an_unknown_name_inside_a_list_is_told_with_its_place() -> None:
    """And with what is taken there."""
    assert said({"name": "a", "turns": [{"text": "a"}, {"txt": "a", "text": "b"}]}) == (
        "Unknown parameter 'txt' in turns[1].",
        "Did you mean text? It takes: text.",
    )


def test_what_takes_nothing_says_so() -> None:
    """There is no nearest name."""
    assert said({"a": 1}, Nothing) == ("Unknown parameter 'a'.", "This tool takes none.")
