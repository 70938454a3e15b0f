"""Files that appear whole and never replace another one."""

from __future__ import annotations

from pathlib import Path

import pytest

from inference_mcp.pictures.publishing import publish, rename_reserved, write_temporary


def names(folder: Path) -> list[str]:
    """What is in the folder, hidden files too."""
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_published_whole_and_nothing_else_stays(tmp_path: Path) -> None:
    """Folders above it are made."""
    target = tmp_path / "a" / "b" / "x.png"
    assert publish(b"data", target)
    assert target.read_bytes() == b"data"
    assert names(target.parent) == ["x.png"]


def test_an_existing_file_is_never_overwritten(tmp_path: Path) -> None:
    """By hard link or by reservation; the temporary file goes in both cases."""
    target = tmp_path / "x.png"
    target.write_bytes(b"old")
    assert not publish(b"new", target)
    temporary = write_temporary(b"new", tmp_path)
    assert not rename_reserved(temporary, target)
    temporary.unlink()
    assert target.read_bytes() == b"old"
    assert names(tmp_path) == ["x.png"]


def test_an_unfinished_file_is_hidden_and_has_another_ending(tmp_path: Path) -> None:
    """A list of pictures never shows it."""
    path = write_temporary(b"half", tmp_path)
    assert path.name.startswith(".")
    assert path.suffix == ".part"
    assert path.read_bytes() == b"half"


def test_without_hard_links_a_name_is_reserved_and_then_filled(tmp_path: Path) -> None:
    """The way for FAT and some shares."""
    target = tmp_path / "x.png"
    assert rename_reserved(write_temporary(b"data", tmp_path), target)
    assert target.read_bytes() == b"data"
    assert names(tmp_path) == ["x.png"]


def test_a_reservation_that_cannot_be_filled_is_taken_back(tmp_path: Path) -> None:
    """No empty file stays under the final name."""
    with pytest.raises(FileNotFoundError):
        rename_reserved(tmp_path / "gone.part", tmp_path / "x.png")
    assert names(tmp_path) == []


def test_a_folder_that_cannot_be_is_an_os_error(tmp_path: Path) -> None:
    """What the caller makes of it is the caller's affair."""
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises((NotADirectoryError, FileNotFoundError)):  # POSIX, Windows
        publish(b"x", tmp_path / "file" / "below" / "x.png")
