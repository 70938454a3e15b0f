"""The command line as a shell sees it: exit codes, stdout, stderr."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from inference_mcp import __version__
from inference_mcp.settings import PREFIX, Settings

_COMMANDS = ("demo", "doctor", "serve", "config", "--simulate", "--version")


def run(*arguments: str, **environ: str) -> subprocess.CompletedProcess[str]:
    """The program with nothing on its stdin."""
    inherited = {name: value for name, value in os.environ.items() if "INFERENCE" not in name}
    return subprocess.run(
        [sys.executable, "-m", "inference_mcp", *arguments],
        env=inherited | environ,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=30,
        check=False,
    )


def test_version_is_told_on_stdout() -> None:
    """For people and for installers."""
    done = run("--version")
    assert (done.returncode, done.stdout, done.stderr) == (0, f"inference-mcp {__version__}\n", "")


def test_help_lists_exactly_the_settings_in_force_once_each() -> None:
    """A setting that nothing obeys is not offered, and none that counts is missing."""
    done = run("--help")
    found = re.findall(r"\b(?:INFERENCE_MCP|LOCALAI)_[A-Z0-9_]+", done.stdout)
    listed = set(found)
    assert sorted(found) == sorted(listed), "each setting once"
    for kind in ("TXT2IMG", "IMG2IMG", "IMG2TXT"):  # "likewise"
        listed |= {f"{PREFIX}{kind}_MODEL", f"{PREFIX}{kind}_MODELS"}
    in_force = {
        name.upper() if name.startswith("localai_") else PREFIX + name.upper()
        for name in Settings.model_fields
    }
    assert (done.returncode, done.stderr) == (0, "")
    assert listed == in_force


def test_help_names_the_commands() -> None:
    """And the switch that needs no LocalAI."""
    told = run("--help").stdout
    assert all(word in told for word in _COMMANDS)


@pytest.mark.parametrize(
    ("variable", "value", "told"),
    [
        ("LOCALAI_URL", "localhost:8080", "LOCALAI_URL takes an http:// or https:// URL."),
        ("INFERENCE_MCP_WAIT_S", "0", "INFERENCE_MCP_WAIT_S takes 1 or more."),
        ("INFERENCE_MCP_PREVIEW", "big", "INFERENCE_MCP_PREVIEW takes 'thumb', 'none' or 'full'."),
        (
            "INFERENCE_MCP_MAX_CONCURENCY",
            "2",
            "INFERENCE_MCP_MAX_CONCURENCY is not a setting. "
            "Did you mean INFERENCE_MCP_MAX_CONCURRENCY?",
        ),
    ],
)
def test_a_bad_setting_is_one_line_on_stderr_and_exit_code_2(
    variable: str, value: str, told: str
) -> None:
    """Nothing on stdout, for a host reads that."""
    done = run(**{variable: value})
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"inference-mcp: {told}\n"


@pytest.mark.parametrize("command", ["demo", "doctor", "serve", "config", "--simulate"])
def test_every_command_refuses_a_bad_setting(command: str) -> None:
    """Whatever was asked for, a setting that cannot be obeyed comes first."""
    done = run(command, INFERENCE_MCP_MAX_QUEUE="-1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "inference-mcp: INFERENCE_MCP_MAX_QUEUE takes 1 or more.\n"


def test_an_unknown_command_is_refused_on_stderr() -> None:
    """As any program does; stdout stays empty."""
    done = run("dmo")
    assert (done.returncode, done.stdout) == (2, "")
    assert "dmo" in done.stderr


def test_a_log_file_that_cannot_be_written_does_not_stop_the_server() -> None:
    """It says so in the log, serves, and ends with its stdin."""
    done = run(INFERENCE_MCP_LOG_FILE=os.path.join(sys.executable, "under-a-file.log"))  # noqa: PTH118
    assert (done.returncode, done.stdout) == (0, "")
    assert "log.not_written" in done.stderr
