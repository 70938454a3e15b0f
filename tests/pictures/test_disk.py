"""A disk that hangs: who waits goes on, who comes later is not held, and what was left is counted.

The disk hangs in a thread until the test lets go of it, as a dead network mount does.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import anyio
import pytest

from inference_mcp.errors import ImageRejectedError
from inference_mcp.pictures.disk import MAX_LEFT, Disk, DiskHangsError
from inference_mcp.pictures.sources import PictureSources
from inference_mcp.pictures.store import PictureFacts, PictureStore
from tests.pictures.samples import data_uri, encoded, plain

SOON_S = 0.02


class Dead:
    """A disk without answers; ``alive`` brings them."""

    def __init__(self) -> None:
        self.alive = threading.Event()

    def work(self) -> bytes:
        """Hang."""
        assert self.alive.wait(30)
        return b"late"

    def read(self, path: str, roots: Sequence[Path], offered: Sequence[Path]) -> bytes:
        """Hang where the path says so."""
        return self.work() if Path(path).name == "dead.png" else Path(path).read_bytes()


@pytest.fixture
def dead() -> Iterator[Dead]:
    """Lets go at the end, for a test run waits for all threads."""
    found = Dead()
    yield found
    found.alive.set()


async def no_more_left(disk: Disk) -> None:
    """Wait until the threads that were left behind have ended."""
    with anyio.fail_after(5):
        while disk.statistics():  # noqa: ASYNC110  # a thread ends, which no event tells
            await anyio.sleep(0.001)


async def test_a_disk_that_answers_is_waited_for() -> None:
    """Its answer, or its error; nothing is left behind."""
    disk = Disk()
    assert await disk.run(lambda: 7) == 7
    with pytest.raises(ZeroDivisionError):
        await disk.run(lambda: 1 // 0)
    assert disk.statistics() == 0


async def test_a_disk_that_hangs_is_left_after_a_bounded_time(dead: Dead) -> None:
    """And counted, until it answers after all."""
    disk = Disk(patience_s=SOON_S)
    with anyio.fail_after(5), pytest.raises(DiskHangsError, match=r"within 0\.02 s"):
        await disk.run(dead.work)
    assert disk.statistics() == 1
    dead.alive.set()
    await no_more_left(disk)
    assert await disk.run(lambda: 7) == 7


async def test_who_is_cancelled_does_not_wait_for_the_disk(dead: Dead) -> None:
    """A host's cancel, or the end of the server."""
    disk, begun = Disk(), anyio.Event()

    async def read() -> None:
        begun.set()
        await disk.run(dead.work)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await begun.wait()
            tasks.cancel_scope.cancel()
    dead.alive.set()
    await no_more_left(disk)


async def test_no_more_than_so_many_are_left_hanging(dead: Dead) -> None:
    """Each may hold a picture and a thread; later ones are refused without a wait."""
    disk = Disk(patience_s=SOON_S)
    for _ in range(MAX_LEFT):
        with pytest.raises(DiskHangsError, match="within"):
            await disk.run(dead.work)
    began: list[bool] = []
    with pytest.raises(DiskHangsError, match="earlier accesses"):
        await disk.run(lambda: began.append(True))
    assert not began
    assert disk.statistics() == MAX_LEFT
    dead.alive.set()
    await no_more_left(disk)
    assert await disk.run(lambda: 7) == 7


async def test_what_begins_at_once_is_bounded_too(dead: Dead) -> None:
    """A crowd at a disk that hangs: some threads, not one for each."""
    disk, refused = Disk(patience_s=SOON_S), 0

    async def read() -> None:
        nonlocal refused
        with pytest.raises(DiskHangsError):
            await disk.run(dead.work)
        refused += 1

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(50):
                tasks.start_soon(read)
    assert refused == 50
    assert MAX_LEFT <= disk.statistics() < 2 * MAX_LEFT


async def test_a_picture_on_a_dead_disk_is_refused_and_others_are_served(
    dead: Dead, root: Path, store: PictureStore
) -> None:
    """More calls than are let in at a time hang; data: URIs and live disks go on."""
    disk = Disk(patience_s=0.5)  # what lives must answer within it
    sources = PictureSources(roots=[root], store=store, disk=disk, read=dead.read)
    (root / "live.png").write_bytes(encoded(plain()))

    async def ask() -> None:
        with pytest.raises(ImageRejectedError) as refused:
            await sources.load(str(root / "dead.png"))
        assert "could not be read: its disk did not answer" in refused.value.what
        assert "data: URI" in refused.value.next_step

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(ask)
        assert (await sources.load(str(root / "live.png"))).data == encoded(plain())
        assert (await sources.load(data_uri(encoded(plain())))).data == encoded(plain())


async def test_a_picture_is_not_lost_where_the_output_folder_hangs(
    dead: Dead, tmp_path: Path, facts: PictureFacts
) -> None:
    """It is handed back unsaved, and says so; what needs the folder says that it hangs."""
    disk = Disk(patience_s=SOON_S)
    store = PictureStore(tmp_path, disk=disk)
    for _ in range(MAX_LEFT):
        with pytest.raises(DiskHangsError):
            await disk.run(dead.work)
    kept = await store.save(encoded(plain()), facts)
    assert kept.path is None
    assert kept.uri is None
    assert kept.data
    assert kept.note.startswith("The picture was not kept on disk (earlier accesses")
    assert "earlier accesses" in (await store.check_writable() or "")
    assert await store.newest(5) == []
    with pytest.raises(ImageRejectedError, match="could not be read"):
        await store.read(kept.id)
