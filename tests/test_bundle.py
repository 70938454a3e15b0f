"""The bundle for hosts that install by a click: packed by the official tool, and started."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

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


def test_its_entry_starts_by_its_path(bundle: Path, tmp_path: Path) -> None:
    """Hosts that start the file instead of the command find the package all the same."""
    with zipfile.ZipFile(bundle) as archive:
        archive.extractall(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    entry = tmp_path / manifest["server"]["entry_point"]
    hello = {"protocolVersion": "2025-06-18", "capabilities": {}}
    hello["clientInfo"] = {"name": "test", "version": "1"}
    asked = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": hello})
    left_out = manifest["server"]["mcp_config"]["env"]  # as hosts hand it over
    done = subprocess.run(
        [sys.executable, str(entry)],
        input=asked + "\n",
        env=os.environ | left_out | {"INFERENCE_MCP_SHARE": "off"},
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        timeout=40,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["result"]["serverInfo"]["version"] == manifest["version"]
