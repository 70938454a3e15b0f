"""The token's file: made once, read by its owner alone, never followed elsewhere."""

from __future__ import annotations

import errno
import os
import re
import stat
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from inference_mcp.errors import StartError
from inference_mcp.web.tokens import keep_token, token_file

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="rights and links of POSIX")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Where it is to be kept; neither the folder nor what is above it is there yet."""
    return tmp_path / "state" / "inference-mcp" / "serve-token"


def test_it_is_made_at_first_and_kept(file: Path) -> None:
    """256 bits; the same at each start, another one with ``new``."""
    token = keep_token(file)
    assert re.fullmatch(r"[A-Za-z0-9_-]{43}", token)
    assert keep_token(file) == token
    new = keep_token(file, new=True)
    assert new != token
    assert keep_token(file) == new
    assert [each.name for each in file.parent.iterdir()] == ["serve-token"], "no draft is left"


@POSIX
def test_nobody_else_can_read_it(file: Path) -> None:
    """Whatever the umask; a folder of ours that was open to others is closed."""
    before = os.umask(0)
    try:
        keep_token(file)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
        file.parent.chmod(0o755)
        keep_token(file, new=True)
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700
    finally:
        os.umask(before)


@POSIX
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_one_that_others_could_read_is_not_used(mode: int, file: Path) -> None:
    """It may be known already; only its owner can say that a new one is wanted."""
    token = keep_token(file)
    file.chmod(mode)
    with pytest.raises(StartError, match=r"could be read by others.*--new-token"):
        keep_token(file)
    assert keep_token(file, new=True) != token
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@POSIX
def test_a_link_is_not_followed(file: Path, tmp_path: Path) -> None:
    """Neither to read what another planted, nor to write where he points."""
    planted = tmp_path / "planted"
    planted.write_text("A" * 43 + "\n", encoding="ascii")
    planted.chmod(0o600)
    file.parent.mkdir(parents=True)
    file.symlink_to(planted)
    with pytest.raises(StartError):
        keep_token(file)
    token = keep_token(file, new=True)
    assert not file.is_symlink()
    assert token not in planted.read_text(encoding="ascii")


@POSIX
def test_a_link_to_nowhere_is_not_written_through(file: Path, tmp_path: Path) -> None:
    """It could make a file anywhere."""
    file.parent.mkdir(parents=True)
    file.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(StartError):
        keep_token(file)
    assert not (tmp_path / "elsewhere").exists()


@POSIX
def test_a_folder_that_is_a_link_is_not_used(file: Path, tmp_path: Path) -> None:
    """What lies behind it may be another's."""
    (tmp_path / "theirs").mkdir()
    file.parent.parent.mkdir()
    file.parent.symlink_to(tmp_path / "theirs")
    with pytest.raises(StartError):
        keep_token(file, new=True)
    assert not list((tmp_path / "theirs").iterdir())


@POSIX
@pytest.mark.skipif(sys.platform == "win32" or os.getuid() != 0, reason="gives files away")
@pytest.mark.parametrize("whose", ["file", "folder"])
def test_what_is_another_s_is_not_used(whose: str, file: Path) -> None:
    """He could read it, or has written it."""
    keep_token(file)
    if sys.platform != "win32":
        os.chown(file if whose == "file" else file.parent, 12345, 12345)
    with pytest.raises(StartError, match="belongs to somebody else"):
        keep_token(file)


@POSIX
def test_a_pipe_in_its_place_does_not_hang_the_start(file: Path) -> None:
    """Nobody may ever write to it."""
    file.parent.mkdir(parents=True)
    if sys.platform != "win32":
        os.mkfifo(file, 0o600)
    with pytest.raises(StartError, match="is no file"):
        keep_token(file)


@pytest.mark.parametrize(
    "content", [b"", b"\n", b"A" * 42, b"A" * 44, b"A" * 42 + b"!", b"A" * 43 + b"\n\n", b"\xff"]
)
def test_what_is_no_token_is_not_taken_for_one(content: bytes, file: Path) -> None:
    """A short one could be guessed."""
    keep_token(file)
    file.write_bytes(content)
    with pytest.raises(StartError, match=r"holds no token.*--new-token"):
        keep_token(file)


def test_of_many_first_starts_all_have_the_same(file: Path) -> None:
    """Whoever makes it first wins, and the file is never seen half written."""
    for turn in range(20):
        place = file.with_name(f"serve-token-{turn}")
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: keep_token(place), range(8)))  # noqa: B023
        assert found == {place.read_text(encoding="ascii").strip()}


@pytest.fixture
def _no_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on exFAT and some network folders."""

    def refuses(*_: object, **__: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuses)


@POSIX
@pytest.mark.usefixtures("_no_links")
def test_where_there_are_no_links_it_is_kept_all_the_same(file: Path) -> None:
    """As private, and alone in its folder; what is there already is not written over."""
    before = os.umask(0)
    try:
        token = keep_token(file)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert keep_token(file) == token
    assert keep_token(file, new=True) != token
    assert [each.name for each in file.parent.iterdir()] == ["serve-token"]


@POSIX
@pytest.mark.usefixtures("_no_links")
def test_of_many_first_starts_without_links_all_have_the_same(file: Path) -> None:
    """Who finds the file before its content waits for it."""
    for turn in range(20):
        place = file.with_name(f"serve-token-{turn}")
        with ThreadPoolExecutor(8) as pool:
            found = set(pool.map(lambda _: keep_token(place), range(8)))  # noqa: B023
        assert found == {place.read_text(encoding="ascii").strip()}


def test_one_that_is_being_written_is_waited_for(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start has made the file, and fills it while this one waits."""
    file.parent.mkdir(parents=True)
    file.touch(0o600)
    monkeypatch.setattr(time, "sleep", lambda _: file.write_bytes(b"A" * 43 + b"\n"))
    assert keep_token(file) == "A" * 43


def test_one_that_is_made_while_it_is_looked_for_is_waited_for(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another start makes the file, still empty, in the moment before this one opens it."""
    file.parent.mkdir(parents=True)
    opened = os.open

    def just_before(path: Path, flags: int, *mode: int) -> int:
        if Path(path) == file and not flags & os.O_CREAT and not file.exists():
            os.close(opened(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        return opened(path, flags, *mode)

    monkeypatch.setattr(os, "open", just_before)
    monkeypatch.setattr(time, "sleep", lambda _: file.write_bytes(b"A" * 43 + b"\n"))
    assert keep_token(file) == "A" * 43


@POSIX
@pytest.mark.usefixtures("_no_links")
def test_a_full_disk_without_links_leaves_nothing_behind(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty file would be taken for a token that is lost."""

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StartError, match="No space left"):
        keep_token(file)
    assert not list(file.parent.iterdir())


def test_a_place_that_cannot_be_had_is_told(tmp_path: Path) -> None:
    """One sentence with the reason."""
    (tmp_path / "state").write_text("a file", encoding="ascii")
    with pytest.raises(StartError, match="cannot be kept in"):
        keep_token(tmp_path / "state" / "inference-mcp" / "serve-token")


def test_it_lies_in_a_folder_of_the_user_s() -> None:
    """Of this program's own."""
    assert token_file().is_absolute()
    assert token_file().parent.name == "inference-mcp"


@POSIX
def test_a_full_disk_leaves_nothing_behind(file: Path) -> None:
    """Half a token beside the whole one would stay for good."""
    keep_token(file)
    if sys.platform != "win32":
        import resource

        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (8, before[1]))
        try:
            with pytest.raises(StartError, match="cannot be kept"):
                keep_token(file, new=True)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert [each.name for each in file.parent.iterdir()] == ["serve-token"]
