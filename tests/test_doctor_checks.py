"""How checks are marked and summed up."""

from __future__ import annotations

import json

import pytest

from inference_mcp.doctor.checks import Check, has_passed, json_of, text_of, unchecked, variable_of

FINE = Check("a", True, "fine")
NOTE = Check("b_c", True, "so it is", note=True)
WARNING = Check("d", True, "might fail", "Do this.", note=True)
FAILURE = Check("e", False, "broken", "Do that.")


@pytest.mark.parametrize(
    ("checks", "passed", "end"),
    [
        ((FINE, NOTE), True, "All is well."),
        ((FINE, WARNING), True, "It works; the warnings say what may go wrong."),
        ((WARNING, FAILURE), False, "Not all is well; take the steps and check again."),
        ((FINE, unchecked("f", "g")), False, "Not all is well; take the steps and check again."),
    ],
)
def test_only_what_failed_or_was_not_checked_is_not_passed(
    checks: tuple[Check, ...], passed: bool, end: str
) -> None:
    """A warning is none of both."""
    assert has_passed(checks) is passed
    assert json.loads(json_of(checks))["ok"] is passed
    assert text_of(checks).splitlines()[-1] == end


def test_each_line_begins_with_its_mark_and_has_its_step_below() -> None:
    """All marks are of one width."""
    lines = text_of((FINE, NOTE, WARNING, FAILURE, unchecked("f", "g"))).splitlines()
    assert lines[1:-1] == [
        "ok    a: fine",
        "note  b c: so it is",
        "warn  d: might fail",
        "      -> Do this.",
        "FAIL  e: broken",
        "      -> Do that.",
        "note  f: not checked: g",
    ]


@pytest.mark.parametrize(
    ("field", "variable"),
    [("localai_url", "LOCALAI_URL"), ("timeout_s", "INFERENCE_MCP_TIMEOUT_S")],
)
def test_a_setting_is_named_by_its_variable(field: str, variable: str) -> None:
    """LocalAI's own two have no prefix."""
    assert variable_of(field) == variable
