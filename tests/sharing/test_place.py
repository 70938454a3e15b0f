"""Where the processes of one user meet: the folder, the generations and their locks."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.abc
import pytest
from anyio.streams.buffered import BufferedByteReceiveStream
from hypothesis import given
from hypothesis import strategies as st

from inference_mcp.sharing import place as place_module
from inference_mcp.sharing.place import (
    LAST_GENERATION,
    PATH_LIMIT_BYTES,
    Door,
    NoPlaceError,
    Place,
    _folder_of,
    normalised,
    share_folder,
)

URL = "http://localhost:8080"

posix = pytest.mark.skipif(sys.platform == "win32", reason="owners, modes and links of POSIX")
root = pytest.mark.skipif(
    sys.platform == "win32" or os.getuid() != 0, reason="only root gives files away"
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A path short enough for a socket, wherever the tests run."""
    with tempfile.TemporaryDirectory(prefix="im", ignore_cleanup_errors=True) as found:
        yield Path(found) / "s"


@pytest.fixture
def place(folder: Path) -> Place:
    """A place of which nobody knows."""
    return Place.open(URL, folder)


HOLDER = """
import sys, pathlib
from inference_mcp.sharing.place import Place
place = Place.open(sys.argv[1], pathlib.Path(sys.argv[2]))
hold = place.take(int(sys.argv[3]))
print("held" if hold else "refused", flush=True)
sys.stdin.read()
"""


@asynccontextmanager
async def holder(folder: Path, generation: int) -> AsyncIterator[tuple[anyio.abc.Process, str]]:
    """Another process that tries a lock, says what came of it, and stays."""
    command = [sys.executable, "-c", HOLDER, URL, str(folder), str(generation)]
    async with await anyio.open_process(command, stderr=None) as process:
        try:
            assert process.stdout is not None
            with anyio.fail_after(20):
                line = await BufferedByteReceiveStream(process.stdout).receive_until(b"\n", 100)
            yield process, line.strip().decode()
        finally:
            if process.returncode is None:
                process.kill()


# --- one name for one LocalAI -----------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        "http://LOCALHOST:8080",
        "HTTP://localhost:8080/",
        "http://127.0.0.1:8080/v1",
        "http://127.8.9.1:8080/v1///",
        "http://[::1]:8080",
        "http://[::ffff:127.0.0.1]:8080",
        "http://0.0.0.0:8080",
        "http://[::]:8080",
        "http://localhost.:8080",
        "http://me:secret@localhost:8080/?a=b#c",
        "  http://localhost:8080 ",
    ],
)
def test_all_ways_to_write_one_localai_are_one(url: str, folder: Path) -> None:
    """S21: the siblings must meet, however their hosts wrote the address."""
    assert normalised(url) == "http://localhost:8080"
    assert Place.open(url, folder).key == Place.open(URL, folder).key


@pytest.mark.parametrize(
    ("url", "other"),
    [
        ("http://a", "http://a:80"),
        ("https://a/", "https://a:443"),
        ("http://[2001:db8:0:0::1]", "http://[2001:DB8::1]:80"),
        ("http://bücher.example", "http://xn--bcher-kva.example"),
    ],
)
def test_default_ports_and_spellings_make_no_difference(url: str, other: str) -> None:
    """S21, for another machine's LocalAI."""
    assert normalised(url) == normalised(other)


@pytest.mark.parametrize(
    "other",
    [
        "https://localhost:8080",
        "http://localhost:8081",
        "http://localhost:8080/ai",
        "http://b:8080",
    ],
)
def test_another_localai_is_another_place(other: str, folder: Path) -> None:
    """Their queues have nothing to do with one another."""
    first, second = Place.open(URL, folder), Place.open(other, folder)
    assert first.key != second.key
    hold = first.take(5)
    assert hold is not None
    assert second.newest() == 0
    hold.release()


@given(st.one_of(st.text(), st.text().map("http://{}".format), st.text().map("http://h:{}".format)))
def test_no_text_makes_normalising_fail(url: str) -> None:
    """Settings judge the address, not this."""
    assert normalised(url) == normalised(url)


@pytest.mark.parametrize("url", ["http://[", "http://h:99999", "http://h:x", "", "http://\ud800/"])
def test_what_is_no_address_has_a_place_all_the_same(url: str, folder: Path) -> None:
    """Nothing is raised but ``NoPlaceError``."""
    assert len(Place.open(url, folder).key) == 16


# --- the folder -------------------------------------------------------------------------


@posix
def test_the_folder_follows_from_the_user_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """S21: hosts pass on different environments."""
    before = share_folder()
    for name in ("HOME", "XDG_RUNTIME_DIR", "XDG_DATA_HOME", "TMPDIR", "USER", "LOGNAME"):
        monkeypatch.setenv(name, "/nowhere")
    assert share_folder() == before


@posix
def test_a_home_that_cannot_be_used_is_replaced(tmp_path: Path, folder: Path) -> None:
    """Without one, without a name, or with one too long for a socket."""
    spare = Path("/tmp/inference-mcp-7")  # noqa: S108
    assert _folder_of(None, 7) == spare
    assert _folder_of(Path(), 7) == spare
    assert _folder_of(tmp_path / "missing", 7) == spare
    long = tmp_path / ("x" * PATH_LIMIT_BYTES)
    long.mkdir()
    assert _folder_of(long, 7) == spare
    assert _folder_of(folder.parent, 7) == folder.parent / ".inference-mcp"


@posix
def test_the_choice_stays_when_the_folder_is_there(folder: Path) -> None:
    """The second process must come to where the first is."""
    found = _folder_of(folder.parent, 7)
    Place.open(URL, found)
    assert _folder_of(folder.parent, 7) == found


@posix
def test_the_folder_is_made_for_this_user_alone(folder: Path) -> None:
    """Whatever the umask."""
    umask = os.umask(0)
    try:
        Place.open(URL, folder)
    finally:
        os.umask(umask)
    assert folder.stat().st_mode & 0o777 == 0o700


@posix
def test_a_folder_of_ours_that_is_open_is_closed(folder: Path) -> None:
    """It may have been made by hand."""
    folder.mkdir()
    folder.chmod(0o777)
    Place.open(URL, folder)
    assert folder.stat().st_mode & 0o777 == 0o700


@root
def test_a_folder_of_another_user_is_refused_and_left_as_it_is(folder: Path) -> None:
    """Anybody can make one in the system's folder for temporary files."""
    folder.mkdir(mode=0o755)
    if sys.platform != "win32":
        os.chown(folder, 12345, -1)
    with pytest.raises(NoPlaceError, match="another user"):
        Place.open(URL, folder)
    assert folder.stat().st_mode & 0o777 == 0o755


@posix
def test_a_link_is_refused_even_to_a_folder_of_ours(folder: Path) -> None:
    """Who made it may turn it elsewhere later."""
    (folder.parent / "real").mkdir(mode=0o700)
    folder.symlink_to(folder.parent / "real")
    with pytest.raises(NoPlaceError, match="link"):
        Place.open(URL, folder)


def test_a_file_in_its_place_is_refused(folder: Path) -> None:
    """There is nothing that could be put in it."""
    folder.write_text("")
    with pytest.raises(NoPlaceError, match="no folder"):
        Place.open(URL, folder)


def test_a_folder_that_cannot_be_made_is_refused(folder: Path) -> None:
    """The sentence holds no path."""
    folder.write_text("")
    with pytest.raises(NoPlaceError) as caught:
        Place.open(URL, folder / "below")
    assert str(folder) not in str(caught.value)


@posix
def test_a_folder_too_long_for_a_socket_is_refused(tmp_path: Path) -> None:
    """Before anything is made there, and for all generations alike."""
    long = tmp_path / ("x" * PATH_LIMIT_BYTES)
    with pytest.raises(NoPlaceError, match="too long"):
        Place.open(URL, long)
    assert not long.exists()


@posix
def test_the_longest_socket_path_keeps_to_what_was_checked(place: Place) -> None:
    """The last generation has the longest name."""
    name = place.address(LAST_GENERATION).path.name
    assert name == place_module._LONGEST_NAME.replace("0" * 16, place.key)


@posix
def test_a_folder_that_was_replaced_is_seen_when_a_lock_is_taken(place: Place) -> None:
    """It was private when it was opened; the lock decides later."""
    place.folder.rename(place.folder.parent / "old")
    place.folder.symlink_to(place.folder.parent / "old")
    with pytest.raises(NoPlaceError):
        place.take(1)


# --- generations ------------------------------------------------------------------------


def test_a_new_place_has_no_generation(place: Place) -> None:
    """And what never was is dead, which leaves no file either."""
    assert place.newest() == 0
    assert place.is_dead(1)
    assert not place.deposed(1)
    assert list(place.folder.iterdir()) == []


def test_one_of_two_takers_gets_the_lock(place: Place, folder: Path) -> None:
    """Two of one process are two: each has its own place."""
    other = Place.open("http://127.0.0.1:8080/v1", folder)
    hold = place.take(1)
    assert hold is not None
    assert hold.generation == 1
    assert other.take(1) is None
    assert not other.is_dead(1)
    assert other.newest() == 1
    hold.release()
    hold.release()
    assert other.is_dead(1)
    assert other.newest() == 1
    again = other.take(1)
    assert again is not None
    again.release()


def test_a_lock_file_is_for_this_user_alone(place: Place) -> None:
    """The folder is private already; this is the second door."""
    hold = place.take(1)
    assert hold is not None
    if sys.platform != "win32":
        assert (place.folder / f"{place.key}.1.lock").stat().st_mode & 0o777 == 0o600
    hold.release()


def test_a_higher_generation_deposes_the_lower(place: Place, folder: Path) -> None:
    """S23: the arbiter that hung finds it before it grants again."""
    other = Place.open(URL, folder)
    first = place.take(1)
    assert first is not None
    assert not place.deposed(1)
    second = other.take(2)
    assert second is not None
    assert place.deposed(1)
    assert not other.deposed(2)
    first.release()
    second.release()


def test_a_lower_generation_is_not_taken_beside_a_higher(place: Place, folder: Path) -> None:
    """Neither while the higher one lives nor after it, and its file is not made anew."""
    hold = place.take(7)
    assert hold is not None
    assert Place.open(URL, folder).take(6) is None
    hold.release()
    assert place.take(6) is None
    assert not (folder / f"{place.key}.6.lock").exists()


def test_a_higher_generation_that_came_in_between_is_seen_after_the_lock(folder: Path) -> None:
    """S23: between the first look and the lock another may have gone on."""

    class Overtaken(Place):
        """The first look is of before."""

        looks = 0

        def newest(self) -> int:
            self.looks += 1
            if self.looks == 1:
                (self.folder / f"{self.key}.3.lock").touch()
                return 0
            return super().newest()

    place = Overtaken.open(URL, folder)
    assert place.take(2) is None
    assert place.looks == 2
    assert place.is_dead(2), "it let go"


def test_generations_have_an_end(place: Place) -> None:
    """A number of more digits would not be found again."""
    for generation in (0, -1, LAST_GENERATION + 1):
        with pytest.raises(NoPlaceError):
            place.take(generation)
    hold = place.take(LAST_GENERATION)
    assert hold is not None
    assert place.newest() == LAST_GENERATION
    hold.release()


def test_foreign_names_are_no_generations(place: Place) -> None:
    """Only the name as it is written here counts."""
    key = place.key
    names = [f"{key}.9.sock", f"{key}.07.lock", f"{key}.x.lock", f"{key}.8.lock.old", "8.lock"]
    for name in [*names, f"{key}.1234567890.lock", f"{key}.٣.lock"]:
        (place.folder / name).touch()
    assert place.newest() == 0


@posix
def test_a_lock_that_was_cleaned_away_deposes_its_holder(place: Place, folder: Path) -> None:
    """Who comes then begins anew with the same number; the two must not both grant."""
    hold = place.take(1)
    assert hold is not None
    (folder / f"{place.key}.1.lock").unlink()
    assert place.deposed(1)
    other = Place.open(URL, folder)
    second = other.take(1)
    assert second is not None
    assert place.deposed(1)
    assert not other.deposed(1)
    hold.release()
    second.release()


@posix
@pytest.mark.parametrize("kind", ["folder", "link"])
def test_a_lock_that_cannot_be_had_is_no_place(place: Place, kind: str) -> None:
    """Not the same as one that another has: then one would wait for nobody."""
    path = place.folder / f"{place.key}.1.lock"
    if kind == "folder":
        path.mkdir()
    else:
        path.symlink_to(place.folder / "elsewhere")
    with pytest.raises(NoPlaceError, match="file locks"):
        place.take(1)
    with pytest.raises(NoPlaceError, match="file locks"):
        place.is_dead(1)


def test_sweeping_removes_what_lower_generations_left(place: Place, folder: Path) -> None:
    """And nothing of this one, of higher ones, of another LocalAI or of unknown name."""
    other = Place.open("http://elsewhere", folder)
    for generation in (1, 2, 3, 4):
        for kind in ("lock", "sock", "port", "tmp"):
            (folder / f"{place.key}.{generation}.{kind}").touch()
    (folder / f"{other.key}.1.lock").touch()
    (folder / f"{place.key}.1.txt").touch()
    (folder / f"{place.key}.1.lock").unlink()
    (folder / f"{place.key}.1.lock").mkdir()
    place.sweep(3)
    kept = {f"{place.key}.{n}.{kind}" for n in (3, 4) for kind in ("lock", "sock", "port", "tmp")}
    kept |= {f"{other.key}.1.lock", f"{place.key}.1.txt", f"{place.key}.1.lock"}
    assert {path.name for path in folder.iterdir()} == kept
    assert place.newest() == 4


def test_a_folder_that_is_gone_is_empty(place: Place) -> None:
    """Asked once a second by one who holds a lock; it must not fail."""
    hold = place.take(1)
    assert hold is not None
    hold.release()
    place.folder.rename(place.folder.parent / "gone")
    assert place.newest() == 0
    assert place.deposed(1)
    place.sweep(2)


# --- what an arbiter on TCP tells -------------------------------------------------------


def test_a_door_is_told_whole_and_to_this_user_alone(folder: Path) -> None:
    """The token is in no text that could be logged."""
    place = Place.open(URL, folder, tcp=True)
    door = Door(4321, b"\x01" * 32)
    place.address(1).path.with_suffix(".tmp").write_text("of one who died")
    place.publish(1, Door(1234, b"\x02" * 32))
    place.publish(1, door)
    assert place.published(1) == door
    assert place.published(2) is None
    assert [path.name for path in folder.iterdir()] == [f"{place.key}.1.port"]
    if sys.platform != "win32":
        assert place.address(1).path.stat().st_mode & 0o777 == 0o600
    assert "01" not in repr(door)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\xff",
        b"[]",
        b"{}",
        b'{"port": 1, "token": 5}',
        b'{"port": 1, "token": "xx"}',
        b'{"port": 1, "token": "00"}',
        b'{"port": 65536, "token": "' + b"00" * 32 + b'"}',
        b'{"port": null, "token": "' + b"00" * 32 + b'"}',
        b'{"port": 1, "token": "' + b"00" * 4096 + b'"}',
        b"[" * 1024,
    ],
)
def test_a_file_that_tells_nonsense_tells_nothing(folder: Path, content: bytes) -> None:
    """As if nobody listened."""
    place = Place.open(URL, folder, tcp=True)
    place.address(1).path.write_bytes(content)
    assert place.published(1) is None


# --- other processes --------------------------------------------------------------------


async def test_the_lock_of_a_killed_process_is_free_at_once(place: Place, folder: Path) -> None:
    """S22: also by SIGKILL, and its number stays the newest."""
    async with holder(folder, 1) as (process, said):
        assert said == "held"
        assert not place.is_dead(1)
        assert place.take(1) is None
        process.kill()
        with anyio.fail_after(5):
            await process.wait()
        assert place.is_dead(1)
        assert place.newest() == 1
        hold = place.take(2)
        assert hold is not None
        hold.release()


async def test_of_processes_that_start_at_once_one_becomes_the_arbiter(folder: Path) -> None:
    """S21: a host starts its servers in one moment."""
    said: list[str] = []
    done = anyio.Event()

    async def run() -> None:
        async with holder(folder, 1) as (_, word):
            said.append(word)
            if len(said) == 3:
                done.set()
            await done.wait()

    with anyio.fail_after(30):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(run)
    assert sorted(said) == ["held", "refused", "refused"]


async def test_a_child_does_not_inherit_the_lock(place: Place, folder: Path) -> None:
    """Else a program that was started from here would keep it beyond our end."""
    hold = place.take(1)
    assert hold is not None
    command = [sys.executable, "-c", "import sys; print(flush=True); sys.stdin.read()"]
    async with await anyio.open_process(command, stderr=None, stdin=subprocess.PIPE) as child:
        assert child.stdout is not None
        with anyio.fail_after(20):
            await child.stdout.receive()
        hold.release()
        assert Place.open(URL, folder).is_dead(1)
        child.kill()
