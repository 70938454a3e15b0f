"""GitHub's workflows and forms, by the tools that know them; none of these asks the network."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))
FORMS = ROOT / ".github" / "ISSUE_TEMPLATE"


def run(tool: str, *arguments: str) -> None:
    """Run a tool of the environment, which must find nothing."""
    program = Path(sysconfig.get_path("scripts"), tool)
    if not (program.exists() or program.with_suffix(".exe").exists()):
        pytest.skip(f"{tool} is not installed")
    done = subprocess.run([str(program), *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("tool", "arguments"),
    [
        ("check-jsonschema", ["--builtin-schema", "vendor.github-workflows"]),
        ("zizmor", ["--offline", "--pedantic", "--config", str(ROOT / ".github" / "zizmor.yml")]),
    ],
)
def test_the_workflows_have_the_right_shape_and_no_known_weakness(
    tool: str, arguments: list[str]
) -> None:
    """Names and types by GitHub's schema; permissions, pins and injections by zizmor."""
    assert len(WORKFLOWS) == 2
    run(tool, *arguments, *WORKFLOWS)


@pytest.mark.parametrize(
    ("schema", "names"), [("forms", ["bug.yml", "idea.yml"]), ("config", ["config.yml"])]
)
def test_the_forms_for_issues_have_the_right_shape(schema: str, names: list[str]) -> None:
    """By GitHub's schemas: a form that is none is not shown, and nobody is told."""
    forms = [str(FORMS / name) for name in names]
    run("check-jsonschema", "--builtin-schema", f"vendor.github-issue-{schema}", *forms)
