"""The MCP Inspector's command line as the host: a client that is none of ours.

It is a Node program, which ``npm`` installs.
"""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.surface.tools import TOOL_NAMES
from tests.npm import installed, node
from tests.processes import COMMAND

pytestmark = [pytest.mark.inspector, pytest.mark.timeout(180)]

PACKAGE, MAJOR = "@modelcontextprotocol/inspector", "2"
TOOL_ERROR = 5


@pytest.fixture(scope="session")
def inspector() -> Path:
    """The Inspector's entry, installed if it is not there yet."""
    return installed(PACKAGE, MAJOR, "clients/launcher/build/index.js")


class Inspector:
    """Runs the Inspector once for each request; each run starts the server anew."""

    def __init__(self, entry: Path, folder: Path) -> None:
        self._entry = entry
        self._env = os.environ | {"MCP_CATALOG_PATH": str(folder / "catalog.json")}
        settings = {
            "INFERENCE_MCP_OUTPUT_DIR": folder / "pictures",
            "INFERENCE_MCP_INPUT_ROOTS": folder,
        }
        self._settings = [part for name in settings for part in ("-e", f"{name}={settings[name]}")]

    def run(self, method: str, *options: str) -> subprocess.CompletedProcess[str]:
        """One request."""
        server = [*COMMAND, "--simulate"]
        program = ["--cli", *self._settings, *server, "--method", method, *options]
        return node(self._entry, *program, env=self._env)

    def call(self, tool: str, **arguments: object) -> dict[str, Any]:
        """Call a tool; its result as the Inspector shows it."""
        pairs = [pair for name in arguments for pair in ("--tool-arg", f"{name}={arguments[name]}")]
        done = self.run("tools/call", "--tool-name", tool, *pairs)
        assert done.returncode == 0, done.stderr
        result: dict[str, Any] = json.loads(done.stdout)
        return result


@pytest.fixture
def host(inspector: Path, tmp_path: Path) -> Inspector:
    """An Inspector whose server keeps its pictures apart."""
    return Inspector(inspector, tmp_path)


@pytest.mark.parametrize("era", ["legacy", "modern"])
def test_it_lists_the_tools_and_finds_no_fault_with_their_schemas(
    era: str, host: Inspector
) -> None:
    """``--strict`` is the Inspector's own check of what hosts can digest."""
    done = host.run("tools/list", "--strict", "--protocol-era", era)
    assert done.returncode == 0, done.stderr
    assert [tool["name"] for tool in json.loads(done.stdout)["tools"]] == list(TOOL_NAMES)


def test_it_runs_all_four_kinds_of_inference(host: Inspector) -> None:
    """From words to a picture, to another picture, to words."""
    chat = host.call("txt2txt", prompt="Hello", max_tokens=99, temperature=0.5)
    assert "simulated answer" in chat["content"][0]["text"]
    fox = host.call("txt2img", prompt="a red fox", width=128, height=64, seed=7)
    assert [block["type"] for block in fox["content"]] == ["text", "image", "resource_link"]
    path = fox["_meta"]["inference-mcp/job"]["path"]
    assert Path(path).is_file()
    blue = host.call("img2img", prompt="make it blue", image=path)
    assert blue["_meta"]["inference-mcp/job"]["state"] == "completed"
    seen = host.call("img2txt", image=path)
    assert "128 by 64 pixels" in seen["content"][0]["text"]
    listed = json.loads(host.run("resources/list").stdout)["resources"]
    uri = fox["_meta"]["inference-mcp/job"]["uri"]
    assert uri in [resource["uri"] for resource in listed]
    done = host.run("resources/read", "--uri", uri)
    assert done.returncode == 0, done.stderr
    [picture] = json.loads(done.stdout)["contents"]
    assert base64.b64decode(picture["blob"]) == Path(path).read_bytes()


def test_it_is_told_that_all_is_well(host: Inspector) -> None:
    """Structured, and the same as text."""
    health = host.call("get_health")
    assert health["structuredContent"]["status"] == "ok"
    assert json.loads(health["content"][0]["text"]) == health["structuredContent"]


def test_it_sees_an_error_as_one(host: Inspector) -> None:
    """Its exit code tells a tool's error from a broken server."""
    done = host.run("tools/call", "--tool-name", "txt2txt", "--tool-arg", "promt=Hello")
    assert done.returncode == TOOL_ERROR
    assert "[invalid_input] Unknown parameter 'promt'" in done.stdout


def test_the_node_of_the_wheel_is_used() -> None:
    """Whatever Node the machine may have: the Inspector wants 22.19 at least."""
    shown = node("--version").stdout.strip("v \n")
    assert tuple(int(part) for part in shown.split(".")) >= (22, 19), sys.version
