"""One file, changed as a whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from inference_mcp.errors import HostError
from inference_mcp.hosts.files import MOST_BYTES, rewrite

STAMP = "20261123-120000"
posix = pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions and links")


def more(text: str) -> str:
    """A change."""
    return text + "more"


def listed(folder: Path) -> list[str]:
    """What lies in a folder."""
    return sorted(each.name for each in folder.iterdir())


def test_a_file_is_changed_and_what_it_was_lies_beside_it(tmp_path: Path) -> None:
    """Nothing else is left in the folder."""
    file = tmp_path / "mcp.json"
    file.write_bytes(b"old\r\n")
    done = rewrite(file, more, STAMP)
    assert (done.changed, done.file) == (True, file.resolve())
    assert file.read_bytes() == b"old\r\nmore"
    assert done.backup is not None
    assert done.backup.read_bytes() == b"old\r\n"
    assert listed(tmp_path) == ["mcp.json", f"mcp.json.bak-{STAMP}"]


def test_a_backup_never_takes_anothers_place(tmp_path: Path) -> None:
    """Twice within a second, and over a link that leads nowhere."""
    file = tmp_path / "mcp.json"
    file.write_text("0", encoding="utf-8")
    backups = [rewrite(file, more, STAMP).backup for _ in range(3)]
    texts = [backup.read_text(encoding="utf-8") for backup in backups if backup]
    assert texts == ["0", "0more", "0moremore"]


def test_without_a_change_nothing_is_written(tmp_path: Path) -> None:
    """Neither file nor backup."""
    file = tmp_path / "mcp.json"
    file.write_text("same", encoding="utf-8")
    before = file.stat()
    done = rewrite(file, lambda text: text, STAMP)
    assert (done.changed, done.backup) == (False, None)
    assert (listed(tmp_path), file.stat().st_mtime_ns) == (["mcp.json"], before.st_mtime_ns)


def test_a_file_that_is_not_there_is_made_in_its_hosts_folder(tmp_path: Path) -> None:
    """For its owner alone; there is nothing to keep a copy of."""
    file = tmp_path / "mcp.json"
    done = rewrite(file, more, STAMP)
    assert (done.changed, done.backup, file.read_text(encoding="utf-8")) == (True, None, "more")
    if sys.platform != "win32":
        assert file.stat().st_mode & 0o777 == 0o600


def test_no_folder_is_made_for_a_host_that_is_not_there(tmp_path: Path) -> None:
    """It is not installed, or keeps its settings elsewhere."""
    with pytest.raises(HostError, match="seems not to be installed"):
        rewrite(tmp_path / "Cursor" / "mcp.json", more, STAMP)
    assert listed(tmp_path) == []


def test_a_byte_order_mark_stays(tmp_path: Path) -> None:
    """And is no part of the text."""
    file = tmp_path / "mcp.json"
    file.write_bytes(b"\xef\xbb\xbfx")
    rewrite(file, lambda text: text + "y", STAMP)
    assert file.read_bytes() == b"\xef\xbb\xbfxy"


@posix
@pytest.mark.parametrize("mode", [0o600, 0o644, 0o660])
def test_permissions_stay_on_file_and_backup(tmp_path: Path, mode: int) -> None:
    """A backup is as secret as the file."""
    file = tmp_path / "mcp.json"
    file.write_text("x", encoding="utf-8")
    file.chmod(mode)
    done = rewrite(file, more, STAMP)
    assert done.backup is not None
    assert {each.stat().st_mode & 0o777 for each in (file, done.backup)} == {mode}


@posix
def test_a_link_is_followed_and_stays_one(tmp_path: Path) -> None:
    """People keep settings in a repository and link them; a dangling link makes its target."""
    (tmp_path / "dotfiles").mkdir()
    real = tmp_path / "dotfiles" / "real.json"
    link = tmp_path / "mcp.json"
    link.symlink_to(Path("dotfiles") / "real.json")
    assert rewrite(link, more, STAMP).file == real.resolve()
    done = rewrite(link, more, STAMP)
    assert link.is_symlink()
    assert real.read_text(encoding="utf-8") == "moremore"
    assert done.backup is not None
    assert done.backup.parent == real.resolve().parent


@posix
def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    """Without a traceback."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(HostError):
        rewrite(tmp_path / "a", more, STAMP)


@posix
def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A folder, and a pipe that nobody writes to, which must not be waited for."""
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    for name in ("folder", "pipe"):
        with pytest.raises(HostError):
            rewrite(tmp_path / name, more, STAMP)
    assert listed(tmp_path) == ["folder", "pipe"]


@pytest.mark.parametrize(
    ("content", "told"),
    [(b"\xff\xfe{\x00}\x00", "not UTF-8"), (b" " * (MOST_BYTES + 1), "too large")],
    ids=["UTF-16", "huge"],
)
def test_what_is_no_text_of_settings_is_refused(tmp_path: Path, content: bytes, told: str) -> None:
    """And stays as it was."""
    file = tmp_path / "mcp.json"
    file.write_bytes(content)
    with pytest.raises(HostError, match=told):
        rewrite(file, more, STAMP)
    assert (file.read_bytes() == content, listed(tmp_path)) == (True, ["mcp.json"])


def test_a_refused_change_leaves_all_as_it_was(tmp_path: Path) -> None:
    """No backup of what was not changed."""
    file = tmp_path / "mcp.json"
    file.write_text("x", encoding="utf-8")

    def refuse(_: str) -> str:
        raise HostError("no")

    with pytest.raises(HostError, match="no"):
        rewrite(file, refuse, STAMP)
    assert listed(tmp_path) == ["mcp.json"]


def test_what_a_host_wrote_meanwhile_is_not_lost(tmp_path: Path) -> None:
    """Hosts write their settings at any time."""
    file = tmp_path / "mcp.json"
    file.write_text("x", encoding="utf-8")

    def meanwhile(text: str) -> str:
        file.write_text("by the host", encoding="utf-8")
        return more(text)

    with pytest.raises(HostError, match="changed meanwhile"):
        rewrite(file, meanwhile, STAMP)
    assert file.read_text(encoding="utf-8") == "by the host"
    assert not any(name.startswith(".") for name in listed(tmp_path))


@posix
@pytest.mark.skipif(sys.platform != "win32" and os.geteuid() == 0, reason="root may all")
def test_a_file_that_may_not_be_written_is_refused(tmp_path: Path) -> None:
    """Though its folder would let it be replaced; and a folder that lets nothing in."""
    file = tmp_path / "mcp.json"
    file.write_text("x", encoding="utf-8")
    file.chmod(0o444)
    with pytest.raises(HostError, match="may not be written"):
        rewrite(file, more, STAMP)
    file.chmod(0o644)
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(HostError, match="cannot be changed"):
            rewrite(file, more, STAMP)
    finally:
        tmp_path.chmod(0o755)
    assert listed(tmp_path) == ["mcp.json"]


@posix
def test_a_full_disk_leaves_all_as_it_was(tmp_path: Path) -> None:
    """Neither half a file nor half a backup."""
    file = tmp_path / "mcp.json"
    file.write_text("x", encoding="utf-8")
    code = (
        "import sys, resource, pathlib\n"
        "from inference_mcp.errors import HostError\n"
        "from inference_mcp.hosts.files import rewrite\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))\n"
        "try:\n"
        "    rewrite(pathlib.Path(sys.argv[1]), lambda text: text + 'more', 's')\n"
        "except HostError as error:\n"
        "    raise SystemExit(f'refused: {error}')\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(file)], capture_output=True, text=True, check=False
    )
    assert done.stderr.startswith("refused: it cannot be changed: "), done.stderr
    assert (listed(tmp_path), file.read_text(encoding="utf-8")) == (["mcp.json"], "x")
