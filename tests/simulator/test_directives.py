"""Commands in a prompt."""

from __future__ import annotations

from inference_mcp.simulator.directives import Directives, parse_directives


def test_commands_are_found_anywhere_in_a_prompt() -> None:
    """Numbers become fields, the rest flags."""
    found = parse_directives("hello !sleep=1.5 !n=9 !dt=0.1 !think!", enabled=True)
    assert found == Directives(1.5, 9, 0.1, frozenset({"think"}))
    assert "think" in found
    assert "crash" not in found


def test_nothing_is_read_where_it_is_not_enabled() -> None:
    """A user's prompt is only a prompt."""
    assert parse_directives("!crash !n=9", enabled=False) == Directives()
