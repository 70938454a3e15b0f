"""JSON with comments: read as JSON is, and changed in one place only."""

from __future__ import annotations

import json

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from inference_mcp.errors import HostError
from inference_mcp.hosts.jsonc import inserted, parsed

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner),
    max_leaves=8,
)
INDENTS = st.sampled_from([None, 0, 1, 2, 4, "\t"])
GAPS = st.sampled_from(["", " ", "\n", "\r\n", "// it's, [a] {comment}\n", "/* \n } */"])


@given(VALUES, INDENTS, st.booleans())
def test_json_is_read_as_json(value: object, indent: int | str | None, comments: bool) -> None:
    """With or without what is more than JSON."""
    assert parsed(json.dumps(value, indent=indent), comments=comments).value == value


@given(st.data())
def test_comments_and_trailing_commas_are_read_over(data: st.DataObject) -> None:
    """Wherever a blank may stand."""
    gap = [data.draw(GAPS) for _ in range(8)]
    text = (
        f'{gap[0]}{{{gap[1]}"a"{gap[2]}:{gap[3]}[1,{gap[4]}2,{gap[5]}]{gap[6]},{gap[7]}}}{gap[0]}'
    )
    assert parsed(text, comments=True).value == {"a": [1, 2]}


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("", "line 1, column 1"),
        ("{", "line 1, column 2"),
        ('{\n  "a": 1\n  "b": 2\n}', "line 3, column 3: a comma"),
        ('{\n  "a" 1\n}', "line 2, column 7: a colon"),
        ("{\n  a: 1\n}", "line 2, column 3: a name in double quotes"),
        ('{"a": tru}', "line 1, column 7"),
        ('{"a": NaN}', "line 1, column 7: NaN is no JSON"),
        ('{"a": "\n"}', "line 1, column 8"),
        ('{"a": 1,\n\n"a": 2}', 'line 3, column 1: "a" is there twice'),
        ("[1, 2", "line 1, column 6: a comma or a closing bracket"),
        ("{} {}", "line 1, column 4: there is more"),
        ("{} /* open", "line 1, column 4: there is more"),
        ("[" * 100, "column 66: it is nested too deeply"),
    ],
)
@pytest.mark.parametrize("comments", [False, True])
def test_what_is_malformed_is_said_with_its_place(text: str, place: str, comments: bool) -> None:
    """Line and column, counted from one."""
    with pytest.raises(HostError) as caught:
        parsed(text, comments=comments)
    assert place in str(caught.value)


@pytest.mark.parametrize("text", ["{} // no", "/* no */ {}", "[1,]", '{"a": 1,}'])
def test_a_host_that_reads_plain_json_has_a_malformed_file(text: str) -> None:
    """It would not read it itself."""
    assert parsed(text, comments=True).end
    with pytest.raises(HostError):
        parsed(text, comments=False)


@given(st.dictionaries(st.text(max_size=4), VALUES, max_size=3), VALUES, INDENTS, st.booleans())
@example({}, {"x": []}, None, True)
@example({"a": {}}, {"x": {}}, 2, False)
def test_a_member_is_added_and_every_other_character_stays(
    value: dict[str, object], new: object, indent: int | str | None, crlf: bool
) -> None:
    """At the end of the object."""
    assume("new" not in value)
    text = json.dumps(value, indent=indent)
    text = text.replace("\n", "\r\n") if crlf else text
    changed = inserted(text, parsed(text, comments=False), new, "new")
    assert parsed(changed, comments=False).value == {**value, "new": new}
    assert kept(text, changed)
    if crlf and "\n" in text:
        assert changed.count("\n") == changed.count("\r\n")


@given(st.lists(VALUES, max_size=3), VALUES, INDENTS)
def test_an_element_is_added_likewise(
    value: list[object], new: object, indent: int | str | None
) -> None:
    """At the end of the array."""
    text = json.dumps(value, indent=indent)
    changed = inserted(text, parsed(text, comments=False), new)
    assert parsed(changed, comments=False).value == [*value, new]
    assert kept(text, changed)


@given(st.data())
def test_comments_stay_where_a_member_is_added(data: st.DataObject) -> None:
    """Before the comma, after it, and before the closing brace."""
    gap = [data.draw(GAPS) for _ in range(5)]
    comma = data.draw(st.sampled_from(["", ","]))
    text = f'{{{gap[0]}"a": {{{gap[1]}}}{gap[2]}{comma}{gap[3]}}}{gap[4]}'
    changed = inserted(text, parsed(text, comments=True), 1, "new")
    assert parsed(changed, comments=True).value == {"a": {}, "new": 1}
    assert kept(text, changed)


def kept(text: str, changed: str) -> bool:
    """Whether all characters are there still, in their order."""
    rest = iter(changed)
    return all(character in rest for character in text)


@pytest.mark.parametrize(
    ("text", "changed"),
    [
        ("{}", '{\n  "n": 1\n}'),
        ('{\n\t"a": 0\n}\n', '{\n\t"a": 0,\n\t"n": 1\n}\n'),
        ('{\n    "a": 0 // why\n}', '{\n    "a": 0, // why\n    "n": 1\n}'),
        ('{\n  "a": 0,\n}', '{\n  "a": 0,\n  "n": 1\n}'),
        ("{\r\n}", '{\r\n  "n": 1\r\n}'),
        ('{"a": 0}', '{"a": 0,\n  "n": 1\n}'),
    ],
)
def test_the_new_member_looks_like_its_neighbours(text: str, changed: str) -> None:
    """In its indentation and line ends."""
    assert inserted(text, parsed(text, comments=True), 1, "n") == changed
