"""What is published: one version everywhere, and descriptions of the program that are true of it.

``server.json`` is for the MCP registry, ``manifest.json`` for bundles; both are written by hand
and held to the settings and the tools here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import pytest
from PIL import Image
from pydantic import SecretStr

from inference_mcp import __version__
from inference_mcp.settings import PREFIX, Settings
from inference_mcp.surface.tools import TOOL_NAMES

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
VERSION = PROJECT["version"]


def written(name: str) -> Any:
    """One of the two descriptions."""
    return json.loads((ROOT / name).read_text(encoding="utf-8"))


SERVER, MANIFEST = written("server.json"), written("manifest.json")
[PACKAGE] = SERVER["packages"]
VARIABLES: Mapping[str, Mapping[str, Any]] = {
    each["name"]: each for each in PACKAGE["environmentVariables"]
}
FIELDS = {
    str(field.validation_alias or PREFIX + name.upper()): field
    for name, field in Settings.model_fields.items()
}


def test_there_is_one_version() -> None:
    """It stands in ``pyproject.toml``; what cannot read it there must say the same."""
    assert __version__ == VERSION, "install the package anew"
    assert {SERVER["version"], PACKAGE["version"], MANIFEST["version"]} == {VERSION}
    shown = subprocess.run(
        [sys.executable, "-m", "inference_mcp", "--version"], capture_output=True, check=True
    )
    assert shown.stdout.decode().split() == ["inference-mcp", VERSION]


def test_the_newest_changes_are_of_this_version_or_of_the_next() -> None:
    """A release finds its notes under its own number."""
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (\S+)", text, re.MULTILINE)
    assert headings[0] in ("Unreleased", VERSION)


# --- the registry's description ---------------------------------------------------------------


def test_the_registry_is_told_each_setting() -> None:
    """None more, none less, none twice."""
    assert len(PACKAGE["environmentVariables"]) == len(VARIABLES)
    assert set(VARIABLES) == set(FIELDS)


@pytest.mark.parametrize("name", FIELDS)
def test_a_setting_is_described_as_it_is(name: str) -> None:
    """Its default, its kind, its choices, and whether it is secret."""
    field, told = FIELDS[name], VARIABLES[name]
    default = field.get_default(call_default_factory=True)
    shown = None if default in (None, (), {}) else str(default)
    assert told.get("default") == shown
    assert told.get("isSecret", False) == (SecretStr in get_args(field.annotation))
    kinds = get_args(field.annotation)
    assert (told["format"] == "filepath") == (Path in kinds and ... not in kinds)  # of lists, text
    assert (told["format"] == "number") == (type(default) in (int, float))
    words = [each for each in get_args(field.annotation) if isinstance(each, str)]
    assert told.get("choices", []) == words
    assert told["description"]
    assert not told.get("isRequired"), "the server starts without any"


def test_the_registrys_own_rules_are_kept() -> None:
    """Those of its schema that bind what is in the file; the release asks the registry itself."""
    assert re.fullmatch(r"[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+", SERVER["name"])
    assert 1 <= len(SERVER["description"]) <= 100
    assert 1 <= len(SERVER["title"]) <= 100
    assert re.fullmatch(
        r"https://\S+/schemas/\d{4}-\d\d-\d\d/server\.schema\.json", SERVER["$schema"]
    )
    assert set(SERVER["repository"]) == {"url", "source"}
    assert (PACKAGE["registryType"], PACKAGE["identifier"]) == ("pypi", PROJECT["name"])
    assert PACKAGE["transport"] == {"type": "stdio"}
    known = {"name", "description", "format", "isSecret", "choices", "default", "placeholder"}
    for told in VARIABLES.values():
        assert set(told) <= known
        assert all(isinstance(told.get(key, ""), str) for key in known - {"isSecret", "choices"})


def test_the_readme_tells_the_registry_whose_it_is() -> None:
    """The registry looks for this marker in what PyPI shows."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert re.findall(r"^<!-- mcp-name: (\S+) -->$", readme, re.MULTILINE) == [SERVER["name"]]
    owner, _, name = SERVER["name"].removeprefix("io.github.").partition("/")
    assert SERVER["repository"]["url"] == f"https://github.com/{owner}/{name}"
    assert SERVER["repository"]["url"] in PROJECT["urls"].values()


# --- the bundle's description -----------------------------------------------------------------


def test_the_bundle_tells_all_tools() -> None:
    """In their order."""
    assert [tool["name"] for tool in MANIFEST["tools"]] == list(TOOL_NAMES)


def test_each_option_of_the_bundle_becomes_a_setting() -> None:
    """A host fills each in where it stands alone; what is left out counts as not set."""
    options = MANIFEST["user_config"]
    variables = MANIFEST["server"]["mcp_config"]["env"]
    assert sorted(variables.values()) == sorted(f"${{user_config.{name}}}" for name in options)
    assert set(variables) <= set(FIELDS)
    for variable, placeholder in variables.items():
        option = options[placeholder.removeprefix("${user_config.").removesuffix("}")]
        assert option.get("sensitive", False) == VARIABLES[variable].get("isSecret", False)
        assert option.get("default") in (None, VARIABLES[variable].get("default"))
        assert not option["required"]
        assert "multiple" not in option, "no list fits into a variable"


def test_the_bundle_asks_for_what_the_project_asks_for() -> None:
    """The same Python, licence and summary; and its icon is of the size that hosts want."""
    assert MANIFEST["compatibility"]["runtimes"]["python"] == PROJECT["requires-python"]
    assert MANIFEST["license"] == PROJECT["license"]
    assert MANIFEST["description"] == SERVER["description"]
    assert (ROOT / MANIFEST["server"]["entry_point"]).is_file()
    with Image.open(ROOT / MANIFEST["icon"]) as icon:
        assert (icon.format, icon.size) == ("PNG", (512, 512))


# --- wheel and sdist --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both, built from this tree."""
    pytest.importorskip("hatchling", reason="the build backend is not installed")
    pytest.importorskip("hatch_fancy_pypi_readme", reason="a part of the build is not installed")
    folder = tmp_path_factory.mktemp("dist")
    building = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(building, cwd=ROOT, check=True, capture_output=True)
    return folder


def test_the_wheel_holds_the_package_and_nothing_else(distributions: Path) -> None:
    """No tests, no tools of ours."""
    [wheel] = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
    tops = {name.split("/")[0] for name in names}
    assert tops == {"inference_mcp", f"inference_mcp-{VERSION}.dist-info"}
    assert any(name.endswith("/licenses/LICENSE") for name in names)
    package = {str(path.relative_to(ROOT).as_posix()) for path in source_files()}
    assert {name for name in names if name.startswith("inference_mcp/")} == package


def test_the_readme_of_the_package_links_to_where_its_files_are(distributions: Path) -> None:
    """On the index's page nothing lies beside it; the pictures are shown, files are pages."""
    [wheel] = distributions.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        told = archive.read(f"inference_mcp-{VERSION}.dist-info/METADATA").decode()
    links = re.findall(r"(!?)\[[^\]]*\]\(([^)\s]+)\)", told)
    assert all(link.startswith(("https://", "#")) for _, link in links), links
    pictures = [link for shown, link in links if shown]
    assert len(pictures) >= 3
    raw = "https://raw.githubusercontent.com/inference-mcp/inference-mcp/HEAD/"
    for link in pictures:
        assert link.startswith(raw)
        assert (ROOT / link.removeprefix(raw)).is_file()
    assert f"{SERVER['repository']['url']}/blob/HEAD/LICENSE" in [link for _, link in links]


def source_files() -> list[Path]:
    """The package as it lies here."""
    found = (ROOT / "inference_mcp").rglob("*")
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def test_the_sdist_holds_what_builds_tests_and_bundles_need(distributions: Path) -> None:
    """And nothing of what lies beside it in somebody's folder."""
    [sdist] = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames()}
    tops = {name.split("/")[0] for name in names}
    files = {"CHANGELOG.md", "LICENSE", "PKG-INFO", "README.md", "SECURITY.md", "icon.png"}
    files |= {
        ".pre-commit-config.yaml",
        "CONTRIBUTING.md",
        "claude_desktop_config.example.json",
        "manifest.json",
        "pyproject.toml",
        "server.json",
    }
    assert tops == files | {".ci", ".github", ".gitignore", ".mcpbignore", "inference_mcp", "tests"}
    assert "tests/test_release.py" in names


def test_the_package_index_finds_no_fault_with_them(distributions: Path) -> None:
    """Metadata that is whole, and a README that can be shown."""
    pytest.importorskip("twine", reason="twine is not installed")
    files = [str(path) for path in distributions.iterdir() if path.suffix in (".whl", ".gz")]
    checking = [sys.executable, "-m", "twine", "check", "--strict", *files]
    done = subprocess.run(checking, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout
    assert done.stdout.count("PASSED") == 2
