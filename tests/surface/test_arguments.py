"""What each tool takes, and how it says no: by name, and without quoting what was sent."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import pytest
from pydantic import ValidationError

from inference_mcp.errors import InvalidInputError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.surface import arguments as args
from inference_mcp.surface.content import error_text

SENT = "SENT-BY-THE-CALLER"
HALF = SENT + "\ud800"

SMALLEST: Mapping[type[args.Arguments], Mapping[str, Any]] = {
    args.Txt2Txt: {"prompt": "Hello"},
    args.Txt2Img: {"prompt": "a fox"},
    args.Img2Img: {"prompt": "a fox", "image": "/fox.png"},
    args.Img2Txt: {"image": "/fox.png"},
    args.GetJob: {"job_id": "job-1"},
    args.CancelJob: {"job_id": "job-1"},
    args.ListModels: {},
    args.RequestMetrics: {},
    args.ErrorMetrics: {},
    args.NoArguments: {},
}
"""Of each tool the fewest arguments that it takes."""


def nested(levels: int, innermost: Any = None) -> Any:
    """Objects in objects."""
    value = innermost
    for _ in range(levels):
        value = {"a": value}
    return value


HOSTILE: Mapping[str, Any] = {
    "nan": math.nan,
    "infinity": math.inf,
    "minus infinity": -math.inf,
    "bool": True,
    "huge number": 10**400,
    "minus one": -1,
    "zero": 0,
    "half": 0.5,
    "number as text": "12",
    "empty": "",
    "blank": "  ",
    "half a character": HALF,
    "zero byte": "\0",
    "text": SENT,
    "long text": SENT * 300_000,
    "empty list": [],
    "list of text": [SENT],
    "list of number": [1],
    "list of half": [HALF],
    "object": {SENT: 1},
    "deep object": nested(5_000),
    "deep list": [nested(5_000)],
    "message without content": [{"role": "user"}],
    "message of parts": [{"role": "user", "content": [SENT]}],
    "message of nobody": [{"role": SENT, "content": "x"}],
}


def refusal(model: type[args.Arguments], **given: Any) -> str:
    """What these arguments are refused with, as a model reads it."""
    with pytest.raises(InvalidInputError) as caught:
        args.parse(model, given)
    return error_text(caught.value)


def test_the_smallest_call_of_each_tool_is_taken() -> None:
    """Whatever can have a default has one."""
    for model, given in SMALLEST.items():
        assert isinstance(args.parse(model, given), model)


@pytest.mark.parametrize(
    ("model", "parameter"),
    [(model, name) for model in SMALLEST for name in model.model_fields],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_hostile_values_are_taken_or_refused_by_name(
    model: type[args.Arguments], parameter: str
) -> None:
    """Never an exception of another kind, never a word of what was sent."""
    for kind, value in HOSTILE.items():
        given = {**SMALLEST[model], parameter: value}
        if parameter == "messages":
            del given["prompt"]
        try:
            args.parse(model, given)
        except InvalidInputError as error:
            told = error_text(error)
            assert told.startswith("[invalid_input] "), kind
            assert parameter in told, kind
            assert SENT not in told, kind
            assert len(told) < 300, kind


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        (args.Txt2Txt, {}, "Give either prompt or messages, and not both."),
        (
            args.Txt2Txt,
            {"prompt": "a", "messages": [{"role": "user", "content": "b"}]},
            "Give either prompt or messages, and not both.",
        ),
        (args.Txt2Txt, {"messages": []}, "messages must not be empty."),
        (
            args.Txt2Txt,
            {"messages": [{"role": "tool", "content": "b"}]},
            "messages[0].role is none of its values. Give 'system', 'user' or 'assistant'.",
        ),
        (
            args.Txt2Txt,
            {"messages": [{"role": "user", "content": "a"}, {"role": "user"}]},
            "The parameter messages[1].content is missing.",
        ),
        (
            args.Txt2Txt,
            {"messages": [{"role": "user", "content": "a", "name": SENT}]},
            "Unknown parameter 'name' in messages[0]. Did you mean content? It takes: role,",
        ),
        (
            args.Txt2Txt,
            {"messages": [{"role": "system", "content": "a"}], "system": "b"},
            "Give the system message once",
        ),
        (args.Txt2Txt, {"prompt": "a", "temperature": 2.1}, "Give 0 to 2."),
        (args.Txt2Txt, {"prompt": "a", "temperature": "1"}, "temperature must be a number."),
        (args.Txt2Txt, {"prompt": "a", "top_p": -0.1}, "Give 0 to 1."),
        (args.Txt2Txt, {"prompt": "a", "max_tokens": 0}, "max_tokens is out of range."),
        (args.Txt2Txt, {"prompt": "a", "max_tokens": "9"}, "max_tokens must be a whole number."),
        (args.Txt2Txt, {"prompt": "a", "stop": ["x"] * 17}, "stop takes up to 16 texts"),
        (args.Txt2Txt, {"prompt": "a", "stop": [""]}, "stop takes up to 16 texts"),
        (args.Txt2Txt, {"prompt": "a", "priority": "urgent"}, "'critical', 'normal' or 'batch'"),
        (args.Txt2Txt, {"prompt": "a", "wait_seconds": -1}, "Give 0 or more."),
        (args.Txt2Img, {}, "The parameter prompt is missing."),
        (args.Txt2Img, {"prompt": "a|b"}, "prompt must not hold '|'"),
        (args.Txt2Img, {"prompt": "a", "negative_prompt": "|"}, "negative_prompt must not hold"),
        (args.Txt2Img, {"prompt": 5}, "prompt must be a text."),
        (args.Txt2Img, {"prompt": "a", "width": 56}, "Give 64 to 2048, a multiple of 8."),
        (args.Txt2Img, {"prompt": "a", "width": 2056}, "Give 64 to 2048, a multiple of 8."),
        (args.Txt2Img, {"prompt": "a", "height": 100}, "height is out of range."),
        (args.Txt2Img, {"prompt": "a", "height": 512.5}, "height must be a whole number."),
        (args.Txt2Img, {"prompt": "a", "steps": 151}, "Give 1 to 150."),
        (args.Txt2Img, {"prompt": "a", "steps": 0}, "Give 1 to 150."),
        (args.Txt2Img, {"prompt": "a", "seed": 0}, "Give 1 to 2147483647."),
        (args.Txt2Img, {"prompt": "a", "seed": 2**31}, "Give 1 to 2147483647."),
        (args.Img2Img, {"prompt": "a"}, "The parameter image is missing."),
        (args.Img2Txt, {"image": []}, "image takes one picture or a list of up to 4."),
        (args.Img2Txt, {"image": ["/a.png"] * 5}, "image takes one picture or a list of up to 4."),
        (args.Img2Txt, {"image": ["/a.png", 5]}, "must be a text"),
        (args.GetJob, {}, "The parameter job_id is missing."),
        (args.ListModels, {"type": "txt2vid"}, "'txt2txt', 'txt2img', 'img2img' or 'img2txt'"),
        (args.RequestMetrics, {"window_seconds": 0}, "Give more than 0."),
        (args.ErrorMetrics, {"limit": 101}, "Give 1 to 100."),
        (args.NoArguments, {"verbose": True}, "Unknown parameter 'verbose'. This tool takes none."),
    ],
)
def test_what_does_not_fit_is_told_with_what_does(
    model: type[args.Arguments], given: dict[str, Any], told: str
) -> None:
    """Each row of the interface's table, and what a model should send instead."""
    assert told in refusal(model, **given)


@pytest.mark.parametrize(
    ("name", "meant"),
    [("promt", "prompt"), ("Prompt", "prompt"), ("maxTokens", "max_tokens"), ("sede", "seed")],
)
def test_an_unknown_parameter_suggests_the_nearest_and_lists_all(name: str, meant: str) -> None:
    """Even where it is why another one is missing."""
    told = refusal(args.Txt2Txt, **{name: SENT})
    assert f"Unknown parameter '{name}'. Did you mean {meant}? It takes: " in told
    assert all(each in told for each in args.Txt2Txt.model_fields)
    assert SENT not in told


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("size", "Give width and height."),
        ("resolution", "Give width and height."),
        ("n", "Each call makes one picture."),
        ("num_images", "Each call makes one picture."),
        ("negative", "Did you mean negative_prompt?"),
    ],
)
def test_names_of_other_picture_interfaces_are_answered_with_what_to_do(
    name: str, told: str
) -> None:
    """The nearest name would be nonsense, and nothing where there are no pictures to make."""
    assert f"Unknown parameter '{name}'. {told} It takes: " in refusal(args.Txt2Img, **{name: 1})
    assert "width" not in refusal(args.Txt2Txt, **{name: 1})


@pytest.mark.parametrize("name", ["x\ny", "x\u202ey", "\ud800", "x" * 1000])
def test_a_hostile_name_is_shown_harmless_and_short(name: str) -> None:
    """It is the only thing of the caller's that is shown."""
    told = refusal(args.NoArguments, **{name: 1})
    assert told.isprintable()
    assert len(told) < 200


@pytest.mark.parametrize(
    ("parameter", "value", "taken"),
    [
        ("width", 512.0, 512),
        ("steps", 20.0, 20),
        ("seed", 2147483647.0, 2**31 - 1),
        ("width", 64, 64),
        ("width", 2048, 2048),
        ("wait_seconds", 0, 0),
        ("wait_seconds", 1e9, 1e9),
        ("priority", "batch", Priority.BATCH),
        ("negative_prompt", "rain", "rain"),
    ],
)
def test_values_at_the_edges_are_taken(parameter: str, value: Any, taken: Any) -> None:
    """JSON has one kind of number: 512.0 is as whole as 512."""
    parsed = args.parse(args.Txt2Img, {"prompt": "a", parameter: value})
    assert getattr(parsed, parameter) == taken
    assert type(getattr(parsed, parameter)) in (type(taken), float)


@pytest.mark.parametrize(
    ("model", "name"),
    [
        (model, name)
        for model in SMALLEST
        for name, field in model.model_fields.items()
        if not field.is_required() and name != "prompt"
    ],
)
def test_null_counts_as_not_given(model: type[args.Arguments], name: str) -> None:
    """Hosts send every optional parameter so."""
    assert args.parse(model, {**SMALLEST[model], name: None}) == args.parse(model, SMALLEST[model])


def test_null_for_what_must_be_given_is_missing() -> None:
    """It is not given either."""
    assert "The parameter prompt is missing." in refusal(args.Txt2Img, prompt=None)


def test_no_arguments_at_all_are_an_empty_object() -> None:
    """Hosts leave them out for tools without any."""
    assert args.parse(args.ListModels, None) == args.ListModels()


@pytest.mark.parametrize(
    ("schema", "told"),
    [
        (nested(33), "response_schema is nested deeper than 32 levels."),
        (nested(5_000), "response_schema is nested deeper than 32 levels."),
        (nested(100_000), "response_schema is larger than 64 kB."),
        ({"description": "x" * 65_536}, "response_schema is larger than 64 kB."),
        ({"description": "é" * 33_000}, "response_schema is larger than 64 kB."),
        ({"$ref": "http://localhost/x"}, "a $ref must begin with '#'."),
        ({"items": [{"$ref": "other.json#/a"}]}, "a $ref must begin with '#'."),
        ({"$dynamicRef": "other"}, "a $ref must begin with '#'."),
        ({"minimum": math.nan}, "response_schema holds what JSON cannot carry."),
        ({"maximum": math.inf}, "response_schema holds what JSON cannot carry."),
        ({"minimum": 10**5000}, "response_schema holds what JSON cannot carry."),
        ({"const": HALF}, "response_schema holds what JSON cannot carry."),
    ],
)
def test_a_response_schema_keeps_to_its_bounds(schema: dict[str, Any], told: str) -> None:
    """Size, depth, no other document, and nothing that is no JSON."""
    assert told in refusal(args.Txt2Txt, prompt="a", response_schema=schema)


@pytest.mark.parametrize(
    "schema", [{}, nested(31, {}), {"$ref": "#/$defs/a"}, {"properties": {"$ref": {"type": "x"}}}]
)
def test_a_response_schema_within_them_is_taken(schema: dict[str, Any]) -> None:
    """Whether it is a schema at all is found out elsewhere."""
    parsed = args.parse(args.Txt2Txt, {"prompt": "a", "response_schema": schema})
    assert parsed.response_schema == schema


def test_arguments_cannot_be_changed() -> None:
    """What was checked is what is used."""
    with pytest.raises(ValueError, match="frozen"):
        args.parse(args.GetJob, {"job_id": "a"}).job_id = "b"  # type: ignore[misc]


@pytest.mark.parametrize("model", SMALLEST)
def test_each_parameter_has_one_sentence(model: type[args.Arguments]) -> None:
    """A model reads them on every turn of every chat."""
    for name, schema in args.input_schema(model)["properties"].items():
        description = schema["description"]
        assert description.endswith("."), name
        assert len(description) <= 120, name
        assert ". " not in description, name


@pytest.mark.parametrize("model", SMALLEST)
def test_input_schemas_stand_alone_and_refuse_unknown_names(model: type[args.Arguments]) -> None:
    """No references, no titles: some hosts resolve none, all pay for them."""
    schema = args.input_schema(model)
    told = json.dumps(schema)
    assert schema["type"] == "object"
    assert schema["additionalProperties"] is False
    assert list(schema["properties"]) == sorted(schema["properties"], key=_shared_last(model))
    assert not any(word in told for word in ("$ref", "$defs", '"title"', '"null"'))


@pytest.mark.parametrize("model", SMALLEST)
def test_no_type_is_a_list_of_types(model: type[args.Arguments]) -> None:
    """Some converters refuse them; one or several is said as ``anyOf``."""
    properties = args.input_schema(model)["properties"]
    assert '"type": [' not in json.dumps(properties)
    for name in {"stop", "image"} & set(properties):
        if model is not args.Img2Img:
            assert [option["type"] for option in properties[name]["anyOf"]] == ["string", "array"]


def _shared_last(model: type[args.Arguments]) -> Any:
    """A tool's own parameters first, in the order in which they are declared."""
    shared, declared = args.GenerationArguments.model_fields, list(model.model_fields)
    return lambda name: (name in shared, declared.index(name))


def test_a_schema_allows_what_is_taken_and_a_wait_has_no_maximum() -> None:
    """A longer wait is taken for the longest there is; a host must not refuse it."""
    schema = args.input_schema(args.Img2Img)
    properties = schema["properties"]
    assert schema["required"] == ["prompt", "image"]
    assert "maximum" not in properties["wait_seconds"]
    assert properties["width"]["multipleOf"] == 8
    assert (properties["width"]["minimum"], properties["width"]["maximum"]) == (64, 2048)
    assert properties["priority"]["enum"] == [priority.value for priority in Priority]
    kinds = args.input_schema(args.ListModels)["properties"]["type"]["enum"]
    assert kinds == [kind.value for kind in RequestType]


class Unread(dict[str, Any]):
    """An object that nobody may walk through, only measure."""

    def values(self) -> Any:
        """Fail."""
        raise AssertionError("walked through")

    def __iter__(self) -> Any:
        """Fail."""
        raise AssertionError("walked through")


def test_a_vast_schema_is_refused_before_it_is_walked_through() -> None:
    """A line may hold sixty megabytes of it, and the event loop stands still meanwhile."""
    vast = Unread({f"k{number}": 0 for number in range(70_000)})
    told = refusal(args.Txt2Txt, prompt="a", response_schema={"properties": vast})
    assert "response_schema is larger than 64 kB." in told


@pytest.mark.parametrize(
    ("model", "given", "told"),
    [
        (args.Txt2Txt, {"prompt": "a", "stop": [0] * 17}, "stop takes up to 16 texts"),
        (args.Img2Txt, {"image": [0] * 5}, "image takes one picture or a list of up to 4"),
        (args.Txt2Txt, {f"k{n}": 0 for n in range(101)}, "more than 100 parameters"),
    ],
)
def test_what_is_too_many_is_refused_before_each_is_looked_at(
    model: type[args.Arguments], given: dict[str, Any], told: str
) -> None:
    """A line may hold millions, and each fault of each costs microseconds."""
    assert told in refusal(model, **given)


def test_of_many_unknown_names_few_are_looked_at() -> None:
    """A message with millions of them took seconds; and of a long name its beginning counts."""
    message = {"role": "user", "content": "a"} | {f"k{n}": 0 for n in range(1_000)}
    with pytest.raises(ValidationError) as refused:
        args.ChatMessage.model_validate(message)
    assert refused.value.error_count() == 1
    with pytest.raises(ValidationError) as refused:
        args.ChatMessage.model_validate({"role": "user", "content": "a", "k" * 1_000: 0})
    assert refused.value.errors()[0]["loc"] == ("k" * 100,)
