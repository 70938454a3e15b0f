"""GitHub's workflows, by the tools that know them; neither of the two asks the network."""

from __future__ import annotations

import subprocess
import sysconfig
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
WORKFLOWS = sorted(str(path) for path in (ROOT / ".github" / "workflows").glob("*.yml"))


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
    program = Path(sysconfig.get_path("scripts"), tool)
    if not (program.exists() or program.with_suffix(".exe").exists()):
        pytest.skip(f"{tool} is not installed")
    assert len(WORKFLOWS) == 2
    done = subprocess.run(
        [str(program), *arguments, *WORKFLOWS], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
