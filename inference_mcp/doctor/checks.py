"""One check, and how all of them are told: lines for a person, one JSON object for programs.

It knows nothing that is checked. Above are the modules that check.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from inference_mcp import __version__
from inference_mcp.settings import PREFIX

__all__ = ["Check", "has_passed", "json_of", "text_of", "unchecked", "variable_of"]


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at. ``note`` is how it is told, not whether it passed.

    A note with a ``next_step`` is a warning: the server works, but not as well as it might.
    """

    name: str
    ok: bool
    detail: str
    next_step: str = ""
    note: bool = False

    @property
    def mark(self) -> str:
        """How its line begins."""
        if self.note:
            return "warn" if self.next_step else "note"
        return "ok" if self.ok else "FAIL"


def unchecked(name: str, because: str) -> Check:
    """What could not be checked; the check that failed before it says what to do."""
    return Check(name, False, f"not checked: {because}", note=True)


def variable_of(field: str) -> str:
    """The environment variable of a settings field."""
    return field.upper() if field.startswith("localai_") else PREFIX + field.upper()


def has_passed(checks: Iterable[Check]) -> bool:
    """Whether nothing failed and nothing was left unchecked."""
    return all(check.ok for check in checks)


def text_of(checks: Iterable[Check]) -> str:
    """A line for each check, and one for its next step."""
    checks = list(checks)
    lines = [f"inference-mcp {__version__}"]
    for check in checks:
        lines.append(f"{check.mark:<4}  {check.name.replace('_', ' ')}: {check.detail}")
        if check.next_step:
            lines.append(f"      -> {check.next_step}")
    if not has_passed(checks):
        lines.append("Not all is well; take the steps and check again.")
    elif any(check.mark == "warn" for check in checks):
        lines.append("It works; the warnings say what may go wrong.")
    else:
        lines.append("All is well.")
    return "\n".join(lines)


def json_of(checks: Iterable[Check]) -> str:
    """One object; ``ok`` is that of all checks together."""
    checks = list(checks)
    told = [
        {"name": c.name, "ok": c.ok, "detail": c.detail, "next_step": c.next_step} for c in checks
    ]
    return json.dumps({"ok": has_passed(checks), "version": __version__, "checks": told})
