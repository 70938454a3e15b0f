"""Where lines go: a file that processes share, devices, and stderr."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from inference_mcp.logs.files import SharedFile, Stream

POSIX = pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such modes")

WRITING = """
import sys, time
from pathlib import Path
from inference_mcp.logs.files import SharedFile
name, path, lines = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
file = SharedFile(path, max_bytes=20_000, files_kept=200)
sys.stdin.read()
for number in range(lines):
    text = "x" * (number % 300)
    file.write(f'{{"by": "{name}", "number": {number}, "text": "{text}"}}\\n'.encode())
"""


def everything(folder: Path) -> list[str]:
    """All lines of a log and its older files, in no order."""
    files = [path for path in folder.iterdir() if path.suffix != ".lock"]
    return [line for path in files for line in path.read_text(encoding="utf-8").splitlines()]


def test_processes_share_one_rotating_file(tmp_path: Path) -> None:
    """A host gives all of them the same variable: no line is lost, doubled or torn."""
    processes, lines = 6, 300
    path = tmp_path / "log" / "inference.log"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", WRITING, str(name), str(path), str(lines)],
            stdin=subprocess.PIPE,
        )
        for name in range(processes)
    ]
    for each in started:  # all at once, now that all are ready
        assert each.stdin is not None
        each.stdin.close()
    assert [each.wait(30) for each in started] == [0] * processes
    found = [json.loads(line) for line in everything(path.parent)]
    told = sorted((int(each["by"]), each["number"]) for each in found)
    assert told == [(by, number) for by in range(processes) for number in range(lines)]
    files = [each for each in path.parent.iterdir() if each.suffix != ".lock"]
    assert len(files) > 10, "it rotated"
    assert all(each.stat().st_size <= 20_000 for each in files)


def test_a_file_rotates_and_the_oldest_goes(tmp_path: Path) -> None:
    """Some files of some megabytes, and not one that fills a disk."""
    file = SharedFile(tmp_path / "log", max_bytes=10, files_kept=2)
    for number in range(5):
        file.write(b"line %d\n" % number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["log", "log.1", "log.2", "log.lock"]
    assert (tmp_path / "log.2").read_bytes() == b"line 2\n"
    assert (tmp_path / "log.1").read_bytes() == b"line 3\n"
    assert (tmp_path / "log").read_bytes() == b"line 4\n"


def test_a_file_that_cannot_be_renamed_grows(tmp_path: Path) -> None:
    """On Windows whoever reads it holds its name; the older files stay as they are."""
    file = SharedFile(tmp_path / "log", max_bytes=10, files_kept=2)
    (tmp_path / "log.1").write_bytes(b"older\n")
    (tmp_path / "log.0").mkdir()  # in the way of a rename
    (tmp_path / "log.0" / "full").touch()
    for number in range(3):
        file.write(b"line %d\n" % number)
    assert (tmp_path / "log").read_bytes() == b"line 0\nline 1\nline 2\n"
    assert (tmp_path / "log.1").read_bytes() == b"older\n"


@POSIX
def test_only_its_owner_can_read_a_log(tmp_path: Path) -> None:
    """Nor its folder, its lock, or its older files."""
    path = tmp_path / "folder" / "log"
    file = SharedFile(path, max_bytes=10)
    file.write(b"line 1\n")
    file.write(b"line 2\n")
    assert sorted(each.name for each in path.parent.iterdir()) == ["log", "log.1", "log.lock"]
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert {stat.S_IMODE(each.stat().st_mode) for each in path.parent.iterdir()} == {0o600}


@POSIX
def test_a_file_with_wider_rights_is_narrowed(tmp_path: Path) -> None:
    """An older version made it so, or a person did."""
    path = tmp_path / "log"
    path.touch(mode=0o666)
    path.chmod(0o666)
    SharedFile(path).write(b"line\n")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_folder_that_was_deleted_is_made_anew(tmp_path: Path) -> None:
    """Somebody tidied up; nothing is written into a file that has no name."""
    path = tmp_path / "folder" / "log"
    file = SharedFile(path)
    file.write(b"line 1\n")
    for each in path.parent.iterdir():
        each.unlink()
    path.parent.rmdir()
    file.write(b"line 2\n")
    assert path.read_bytes() == b"line 2\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no such device here")
def test_a_full_device_is_an_error_and_stays_as_it_is() -> None:
    """Nothing is made beside it, and its rights are the system's."""
    before = Path("/dev/full").stat()
    with pytest.raises(OSError, match="No space left"):
        SharedFile(Path("/dev/full")).write(b"line\n")
    assert Path("/dev/full").stat().st_mode == before.st_mode
    assert not Path("/dev/full.lock").exists()


LIMITED = """
import resource, signal, sys
from pathlib import Path
from inference_mcp.logs.files import SharedFile
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
file = SharedFile(Path(sys.argv[1]))
resource.setrlimit(resource.RLIMIT_FSIZE, (25, hard))
file.write(b"0123456789\\n")
for _ in range(2):
    try:
        file.write(b"torn in the middle\\n")
    except OSError:
        print("full")
resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
file.write(b"room again\\n")
"""


@POSIX
def test_a_disk_that_fills_tears_no_line(tmp_path: Path) -> None:
    """What did not fit is cut off again, and what comes later stands on a line of its own."""
    path = tmp_path / "log"
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)],
        capture_output=True,
        text=True,
        timeout=30,
        check=True,
    )
    assert done.stdout == "full\nfull\n"
    assert path.read_bytes() == b"0123456789\nroom again\n"


@POSIX
def test_a_pipe_is_written_as_it_is(tmp_path: Path) -> None:
    """No lock, no rotation: whoever reads it keeps what there is."""
    path = tmp_path / "pipe"
    if sys.platform != "win32":
        os.mkfifo(path)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(path.read_bytes()))
    reader.start()
    SharedFile(path, max_bytes=1).write(b"line\n")
    reader.join(5)
    assert found == [b"line\n"]
    assert [each.name for each in tmp_path.iterdir()] == ["pipe"]


def test_a_stream_goes_on_where_a_failure_ended_it(tmp_path: Path) -> None:
    """What was written stays written: the rest follows, and nothing comes twice."""
    read, write = os.pipe()
    with os.fdopen(write, "w") as text:
        os.set_blocking(write, False)
        stream = Stream(text)
        data = b"0123456789" * 20_000 + b"\n"  # more than a pipe holds
        writing = threading.Thread(target=stream.write, args=(data,))
        writing.start()
        found = b""
        while len(found) < len(data):
            found += os.read(read, 2**16)
        writing.join(5)
        os.close(read)
        assert found == data
        with pytest.raises(BrokenPipeError):
            stream.write(b"gone\n")
