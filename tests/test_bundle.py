"""The bundle for hosts that install by a click: packed by the official tool, and started."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.npm import installed, node

pytestmark = [pytest.mark.npm, pytest.mark.timeout(240)]

ROOT = Path(__file__).parent.parent
PACKAGE, VERSION = "@anthropic-ai/mcpb", "2.1.2"


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The bundle, packed from this tree; the packer validates the manifest first."""
    packer = installed(PACKAGE, VERSION, "dist/cli/cli.js")
    packed = tmp_path_factory.mktemp("bundle") / "inference-mcp.mcpb"
    done = node(packer, "pack", str(ROOT), str(packed))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Manifest schema validation passes" in done.stdout
    return packed


def test_it_holds_what_a_host_needs_to_build_it(bundle: Path) -> None:
    """The package, what it is built from, and nothing else that lies in the folder."""
    with zipfile.ZipFile(bundle) as archive:
        names = set(archive.namelist())
    package = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "inference_mcp").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    tops = {"LICENSE", "README.md", "icon.png", "manifest.json", "pyproject.toml"}
    assert names == package | tops


def hello(command: list[str], folder: Path, variables: Mapping[str, str]) -> Any:
    """What the started program answers to ``initialize``; it ends with its input."""
    params = {"protocolVersion": "2025-06-18", "capabilities": {}}
    params |= {"clientInfo": {"name": "test", "version": "1"}}
    asked = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": params}
    done = subprocess.run(
        command,
        input=json.dumps(asked) + "\n",
        env=os.environ | variables | {"INFERENCE_MCP_SHARE": "off"},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        timeout=150,
        check=False,
    )
    if "Failed to fetch" in done.stderr:
        pytest.skip("uv cannot reach the package index")
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)["result"]


@pytest.mark.parametrize("way", ["command", "entry"])
def test_it_starts_as_a_host_starts_it(way: str, bundle: Path, tmp_path: Path) -> None:
    """By the manifest's command, from elsewhere, with every option left out; or by its entry."""
    unpacked = tmp_path / "unpacked"
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(unpacked)
    manifest = json.loads((unpacked / "manifest.json").read_text(encoding="utf-8"))
    config = manifest["server"]["mcp_config"]
    left_out = config["env"]  # hosts hand over the placeholders
    if way == "entry":  # some start the file with a Python of theirs
        command = [sys.executable, str(unpacked / manifest["server"]["entry_point"])]
    else:
        program = shutil.which(config["command"], path=sysconfig.get_path("scripts"))
        if program is None:
            pytest.skip("uv is not installed")
        arguments = [each.replace("${__dirname}", str(unpacked)) for each in config["args"]]
        command, left_out = [program, *arguments], left_out | {"UV_PYTHON": sys.executable}
    told = hello(command, tmp_path, left_out)
    assert told["serverInfo"]["version"] == manifest["version"]
