"""What is installed: the two lists of exact versions fit ``pyproject.toml``, and carry hashes."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@cache
def listed(name: str) -> Mapping[str, Version]:
    """The exact version of each package in one of the lists."""
    text = (ROOT / ".ci" / name).read_text(encoding="utf-8")
    entries = [Requirement(line.rstrip(" \\")) for line in text.splitlines() if line[:1].isalnum()]
    return {
        canonicalize_name(entry.name): Version(str(entry.specifier).removeprefix("=="))
        for entry in entries
    }


def wanted(*extras: str) -> list[Requirement]:
    """What the project asks for, with what its extras name in turn."""
    found = [Requirement(each) for each in PROJECT["dependencies"]]
    for extra in extras:
        for each in map(Requirement, PROJECT["optional-dependencies"][extra]):
            found += wanted(*each.extras) if each.name == PROJECT["name"] else [each]
    return found


@pytest.mark.parametrize("name", ["locked.txt", "lowest.txt"])
def test_each_package_is_held_to_its_hashes(name: str) -> None:
    """Installers refuse anything else; and no registry's address is in the list."""
    text = (ROOT / ".ci" / name).read_text(encoding="utf-8")
    for entry in re.split(r"\n(?=[a-z0-9])", text.strip()):
        assert "--hash=sha256:" in entry, entry
    assert "://" not in text


@pytest.mark.parametrize(
    "requirement", wanted("dev"), ids=lambda requirement: str(requirement.name)
)
def test_what_developers_install_is_what_the_project_allows(requirement: Requirement) -> None:
    """After a change of ``pyproject.toml``, run ``.ci/lock``."""
    version = listed("locked.txt")[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(version)


@pytest.mark.parametrize(
    "requirement", wanted("test"), ids=lambda requirement: str(requirement.name)
)
def test_the_oldest_versions_tested_are_the_oldest_allowed(requirement: Requirement) -> None:
    """A lower bound that nobody tries is a guess."""
    (oldest,) = (each.version for each in requirement.specifier if each.operator == ">=")
    tried = listed("lowest.txt")[canonicalize_name(requirement.name)]
    assert tried.release[:2] == Version(oldest).release[:2]
