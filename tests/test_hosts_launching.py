"""How this program is started by somebody else, told from what the process is."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from inference_mcp.errors import HostError
from inference_mcp.hosts.launching import Launch, Running, find_launch, running

SUFFIX = ".exe" if sys.platform == "win32" else ""


def process(folder: Path, *, called: str = "-c", installed: bool = True, **env: str) -> Running:
    """A process whose environment lies in a folder."""
    (folder / "bin").mkdir(parents=True, exist_ok=True)
    return Running(
        called=called,
        python=str(folder / "bin" / "python"),
        prefix=folder,
        scripts=folder / "bin",
        installed=installed,
        environ=env,
    )


def program(file: Path) -> Path:
    """A program that nobody runs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text("#!/bin/sh\n", encoding="utf-8")
    file.chmod(0o755)
    return file


def test_the_console_script_of_the_environment_is_named(tmp_path: Path) -> None:
    """Also when the program was started with ``-m``."""
    script = program(tmp_path / "bin" / f"inference-mcp{SUFFIX}")
    called = str(tmp_path / "lib" / "inference_mcp" / "__main__.py")
    assert find_launch(process(tmp_path, called=called)) == Launch(str(script))


def test_a_script_that_lies_elsewhere_is_named_as_it_was_called(tmp_path: Path) -> None:
    """As after ``pip install --user``, or through a link of pipx."""
    script = program(tmp_path / "elsewhere" / f"inference-mcp{SUFFIX}")
    called = str(script).removesuffix(SUFFIX)  # as Windows' wrappers say it
    assert find_launch(process(tmp_path / "env", called=called)) == Launch(str(script))


def test_a_relative_call_becomes_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A host starts it from another folder."""
    script = program(tmp_path / "elsewhere" / f"inference-mcp{SUFFIX}")
    monkeypatch.chdir(tmp_path)
    called = os.path.join("elsewhere", "inference-mcp")  # noqa: PTH118
    assert find_launch(process(tmp_path / "env", called=called)) == Launch(str(script))


def test_without_a_script_it_is_this_python(tmp_path: Path) -> None:
    """With ``-m``, which needs no script."""
    now = process(tmp_path)
    assert find_launch(now) == Launch(now.python, ("-m", "inference_mcp"))


def test_another_program_of_the_same_folder_is_not_taken_for_it(tmp_path: Path) -> None:
    """A script is ours by its name or by its environment, not by its neighbours."""
    program(tmp_path / "elsewhere" / f"inference-mcp{SUFFIX}")
    called = str(program(tmp_path / "elsewhere" / "other"))
    now = process(tmp_path / "env", called=called)
    assert find_launch(now).command == now.python


def test_sources_that_are_not_installed_are_refused(tmp_path: Path) -> None:
    """A host would not find them from its own folder."""
    with pytest.raises(HostError, match="not installed"):
        find_launch(process(tmp_path, installed=False))


def uv_cache(folder: Path) -> Path:
    """An environment as uvx makes them."""
    environment = folder / "uv" / "archive-v0" / "Ab3"
    environment.mkdir(parents=True)
    (folder / "uv" / "CACHEDIR.TAG").write_text("Signature: …", encoding="utf-8")
    (environment / "pyvenv.cfg").write_text("home = /usr\nuv = 0.9.5\n", encoding="utf-8")
    program(environment / "bin" / f"inference-mcp{SUFFIX}")
    return environment


def test_uvx_is_named_by_its_own_path(tmp_path: Path) -> None:
    """And not the place in its cache, which is cleared some day."""
    uv = program(tmp_path / "tools" / f"uv{SUFFIX}")
    uvx = program(tmp_path / "tools" / f"uvx{SUFFIX}")
    found = find_launch(process(uv_cache(tmp_path), UV=str(uv)))
    assert (found.command, found.arguments) == (str(uvx), ("inference-mcp",))
    assert "temporary" in found.note
    assert found.with_arguments("--simulate").note == found.note


def test_an_environment_that_uv_keeps_is_named_itself(tmp_path: Path) -> None:
    """``uv tool install`` and ``uv venv`` make lasting ones."""
    environment = uv_cache(tmp_path)
    (tmp_path / "uv" / "CACHEDIR.TAG").unlink()
    found = find_launch(process(environment, UV=str(program(tmp_path / "tools" / f"uv{SUFFIX}"))))
    assert found == Launch(str(environment / "bin" / f"inference-mcp{SUFFIX}"))


def test_an_environment_inside_of_another_cache_is_not_of_uvx(tmp_path: Path) -> None:
    """A person may keep a common one in any folder."""
    environment = uv_cache(tmp_path)
    (environment / "pyvenv.cfg").write_text("home = /usr\n", encoding="utf-8")
    assert find_launch(process(environment)).command.startswith(str(environment))


def test_a_runner_that_cannot_be_found_is_no_guess(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It says how to install for good."""
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="uv tool install"):
        find_launch(process(uv_cache(tmp_path)))


@pytest.mark.parametrize(("folder", "lasting"), [("venvs", True), (".cache", False)])
def test_pipx_runs_what_it_does_not_keep(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str, lasting: bool
) -> None:
    """What ``pipx run`` makes is gone after a fortnight, what ``pipx install`` makes stays."""
    pipx = program(tmp_path / "tools" / f"pipx{SUFFIX}")
    monkeypatch.setenv("PATH", str(pipx.parent))
    environment = tmp_path / "pipx" / folder / "x"
    script = program(environment / "bin" / f"inference-mcp{SUFFIX}")
    (environment / "pipx_metadata.json").write_text("{}", encoding="utf-8")
    found = find_launch(process(environment))
    kept = (str(script), ())
    assert (found.command, found.arguments) == (
        kept if lasting else (str(pipx), ("run", "inference-mcp"))
    )


def test_this_very_process_can_be_started_again() -> None:
    """What is found is there."""
    assert Path(find_launch(running(os.environ)).command).is_file()
