"""The store: only whole pictures, never lost, never overwritten, found again."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import anyio
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngImageFile

from inference_mcp.errors import BadResultError, ImageRejectedError
from inference_mcp.pictures.rules import MAX_FILE_BYTES
from inference_mcp.pictures.store import PictureFacts, PictureStore, id_of, uri_of
from inference_mcp.requests import RequestType
from tests.pictures.conftest import NOW
from tests.pictures.samples import (
    chunk,
    decoded,
    encoded,
    is_near,
    noise,
    plain,
    png_of,
    posix_only,
)

ID = "20261103T141516123Z-txt2img-abc234"


async def test_a_picture_is_kept_and_found_by_its_id(
    store: PictureStore, facts: PictureFacts
) -> None:
    """Path, URI and bytes agree, and the folders above were made."""
    with anyio.fail_after(5):
        kept = await store.save(encoded(plain()), facts)
        again = await store.read(kept.id)
    assert kept.path is not None
    assert kept.path.is_absolute()
    assert kept.path == store.path_of(kept.id)
    assert kept.path.name == f"{kept.id}.png"
    assert kept.id.startswith("20261103T141516123Z-txt2img-")
    assert kept.uri == uri_of(kept.id)
    assert id_of(kept.uri) == kept.id
    assert kept.path.read_bytes() == kept.data == again
    assert (kept.width_px, kept.height_px, kept.note) == (32, 24, "")
    assert kept.size_bytes == len(again)


async def test_a_picture_outlives_the_process(store: PictureStore, facts: PictureFacts) -> None:
    """A new store on the same folder knows it, for ids live in file names alone."""
    kept = await store.save(encoded(plain()), facts)
    restarted = PictureStore(store.folder)
    assert await restarted.read(kept.id) == kept.data
    assert [entry.id for entry in await restarted.newest(10)] == [kept.id]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "I;16"])
async def test_a_png_keeps_its_pixels_and_its_mode(
    store: PictureStore, facts: PictureFacts, mode: str
) -> None:
    """To the last bit."""
    image = Image.new("I;16", (32, 24), 40_000) if mode == "I;16" else noise(32, 24).convert(mode)
    kept = await store.save(encoded(image), facts)
    result = decoded(kept.data)
    assert result.mode == decoded(encoded(image)).mode
    assert result.tobytes() == image.tobytes()


@pytest.mark.parametrize("file_format", ["JPEG", "WebP"])
async def test_other_formats_become_png(
    store: PictureStore, facts: PictureFacts, file_format: str
) -> None:
    """What is kept is a PNG with the pixels that the other decoded to, turned upright."""
    exif = Image.Exif()
    exif[0x0112] = 6
    sent = encoded(plain(24, 32), file_format, exif=exif)
    kept = await store.save(sent, facts)
    result = decoded(kept.data)
    assert result.format == "PNG"
    assert result.size == (kept.width_px, kept.height_px) == (32, 24)
    assert is_near(result.getpixel((3, 3)), (200, 30, 40))


async def test_the_facts_stand_in_the_picture(store: PictureStore, facts: PictureFacts) -> None:
    """Where other programs look for them, in any script."""
    kept = await store.save(encoded(plain()), dataclasses.replace(facts, prompt="赤い畑 | ü"))
    image = decoded(kept.data)
    assert isinstance(image, PngImageFile)
    assert image.text == {
        "Description": "赤い畑 | ü",
        "Software": "inference-mcp",
        "Creation Time": "2026-11-03T14:15:16+00:00",
        "prompt": "赤い畑 | ü",
        "negative_prompt": "no sheep",
        "model": "flux-dev",
        "seed": "7",
        "steps": "20",
        "size": "32x24",
    }


async def test_what_was_not_said_is_not_written(store: PictureStore, facts: PictureFacts) -> None:
    """No ``None`` as a text."""
    bare = dataclasses.replace(facts, negative_prompt=None, steps=None)
    image = decoded((await store.save(encoded(plain()), bare)).data)
    assert isinstance(image, PngImageFile)
    assert "negative_prompt" not in image.text
    assert "steps" not in image.text


async def test_no_word_of_the_prompt_is_in_the_file_name(
    store: PictureStore, facts: PictureFacts
) -> None:
    """Names show up in lists and logs."""
    secret = dataclasses.replace(facts, prompt="secret/../../etc", kind=RequestType.IMG2IMG)
    kept = await store.save(encoded(plain()), secret)
    assert "secret" not in kept.id
    assert "-img2img-" in kept.id


WHOLE = encoded(noise(32, 24))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "is empty"),
        (b"inference failed", "is text"),
        (WHOLE[: len(WHOLE) // 2], "cut off"),
        (WHOLE[:-12], "cut off"),
        (encoded(plain(), "JPEG")[:-20], "cut off"),
        (encoded(plain(), "GIF"), "GIF"),
        (encoded(plain(), "BMP"), "BMP"),
        (png_of(60_000, 60_000, chunk(b"IDAT", b"")), "megapixels"),
        (WHOLE + bytes(MAX_FILE_BYTES), "larger than 20 MB"),
    ],
)
async def test_what_is_no_whole_picture_is_a_bad_result(
    store: PictureStore, facts: PictureFacts, data: bytes, reason: str
) -> None:
    """LocalAI answers 200 for pictures that failed (trap 7); nothing of them is kept."""
    with pytest.raises(BadResultError) as caught:
        await store.save(data, facts)
    assert reason in caught.value.what
    assert caught.value.next_step
    assert not caught.value.transient
    assert not store.folder.exists()


async def test_another_size_than_asked_for_is_told(
    store: PictureStore, facts: PictureFacts
) -> None:
    """Some pipelines ignore the size that was asked for."""
    kept = await store.save(encoded(plain(16, 16)), facts)
    assert kept.note == "LocalAI sent 16x16 pixels instead of the 32x24 asked for."
    assert (kept.width_px, kept.height_px) == (16, 16)


@pytest.mark.parametrize("below", ["", "below"])
async def test_a_picture_is_not_lost_where_the_folder_cannot_be_written(
    tmp_path: Path, facts: PictureFacts, below: str
) -> None:
    """It comes back unsaved, and says so without naming the folder."""
    (tmp_path / "occupied").write_bytes(b"a file")
    store = PictureStore(tmp_path / "occupied" / below)
    kept = await store.save(encoded(plain(8, 8)), facts)
    assert kept.path is None
    assert kept.uri is None
    assert decoded(kept.data).size == (8, 8)
    assert "not kept on disk" in kept.note
    assert "LocalAI sent 8x8" in kept.note
    assert "occupied" not in kept.note
    assert await store.newest(5) == []
    problem = await store.check_writable()
    assert problem is not None
    assert problem.startswith("The output folder cannot be written: ")


@posix_only
async def test_a_picture_is_not_lost_where_the_disk_is_full(
    store: PictureStore, facts: PictureFacts
) -> None:
    """A limit on the size of files stands for the full disk; no half file stays behind."""
    import resource  # POSIX only

    store.folder.mkdir(parents=True)
    data = encoded(noise(100, 100))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        kept = await store.save(data, facts)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert kept.path is None
    assert "not kept on disk" in kept.note
    assert decoded(kept.data).tobytes() == decoded(data).tobytes()
    assert list(store.folder.iterdir()) == []


async def test_a_writable_folder_has_no_problem_and_stays_empty(store: PictureStore) -> None:
    """The check really writes, and cleans up."""
    assert await store.check_writable() is None
    assert list(store.folder.iterdir()) == []


def counted(suffixes: list[str]) -> Iterator[str]:
    """The suffixes in turn; the last one for ever."""
    yield from suffixes
    while True:
        yield suffixes[-1]


async def test_a_taken_name_is_left_alone_and_another_one_found(
    tmp_path: Path, facts: PictureFacts
) -> None:
    """Two processes in the same millisecond with the same luck."""
    suffixes = counted(["aaaaaa", "aaaaaa", "bbbbbb"])
    store = PictureStore(tmp_path, clock=lambda: NOW, suffix=lambda: next(suffixes))
    first = await store.save(encoded(plain()), facts)
    second = await store.save(encoded(noise(32, 24)), facts)
    assert first.id.endswith("aaaaaa")
    assert second.id.endswith("bbbbbb")
    assert first.path is not None
    assert first.path.read_bytes() == first.data
    assert await store.read(second.id) == second.data


async def test_a_name_that_stays_taken_loses_no_picture(
    tmp_path: Path, facts: PictureFacts
) -> None:
    """After some tries it comes back unsaved, and the other one is whole."""
    store = PictureStore(tmp_path, clock=lambda: NOW, suffix=lambda: "aaaaaa")
    first = await store.save(encoded(plain()), facts)
    second = await store.save(encoded(plain()), facts)
    assert second.path is None
    assert second.note
    assert await store.read(first.id) == first.data


async def test_pictures_of_one_moment_are_all_kept(
    store: PictureStore, facts: PictureFacts
) -> None:
    """Four jobs that end together, none of which sees another's unfinished file."""
    sent = [encoded(noise(32, 24)) for _ in range(4)]
    kept = []

    async def save(data: bytes) -> None:
        kept.append(await store.save(data, facts))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for data in sent:
                tasks.start_soon(save, data)
    assert len({picture.id for picture in kept}) == 4
    assert {entry.id for entry in await store.newest(9)} == {picture.id for picture in kept}
    assert len(list(store.folder.iterdir())) == 4


async def test_the_newest_come_first_and_page_by_page(tmp_path: Path, facts: PictureFacts) -> None:
    """Pages meet without a gap, and tell what a list shows."""
    times = iter(NOW + timedelta(seconds=i) for i in range(5))
    store = PictureStore(tmp_path, clock=lambda: next(times))
    kept = [await store.save(encoded(plain()), facts) for _ in range(5)]
    first = await store.newest(2)
    second = await store.newest(2, after=first[-1].id)
    third = await store.newest(2, after=second[-1].id)
    assert [e.id for e in first + second + third] == [p.id for p in reversed(kept)]
    assert await store.newest(2, after=third[-1].id) == []
    newest = first[0]
    assert newest.created == datetime(2026, 11, 3, 14, 15, 20, 123_000, tzinfo=UTC)
    assert (newest.path, newest.uri) == (kept[-1].path, kept[-1].uri)
    assert newest.size_bytes == kept[-1].size_bytes


async def test_a_list_shows_whole_pictures_of_ours_only(
    store: PictureStore, facts: PictureFacts
) -> None:
    """No unfinished file, no reserved name, nobody else's picture, no folder."""
    kept = await store.save(encoded(plain()), facts)
    (store.folder / ".0123456789abcdef.part").write_bytes(b"half")
    (store.folder / f"{ID}.png").write_bytes(b"")
    (store.folder / "holiday.png").write_bytes(encoded(plain()))
    (store.folder / "99999999T999999999Z-txt2img-aaaaaa.png").write_bytes(b"x")
    (store.folder / f"{ID.replace('abc', 'xyz')}.png").mkdir()
    (store.folder / f"{ID.replace('abc', 'uvw')}.jpg").write_bytes(b"x")
    assert [entry.id for entry in await store.newest(10)] == [kept.id]
    assert store.path_of(ID) is None


@pytest.mark.parametrize("text", [ID, "../x", "", ID + "/../x", "/etc/passwd", "x" * 9999])
async def test_what_is_no_kept_picture_is_refused(store: PictureStore, text: str) -> None:
    """An unknown id and what is none at all; no path is ever made of the latter."""
    assert store.path_of(text) is None
    with pytest.raises(ImageRejectedError) as caught:
        await store.read(text)
    assert "Check the id" in caught.value.next_step
    assert len(caught.value.what) < 400
    assert text == "" or text not in caught.value.sample


async def test_a_file_that_is_no_png_any_more_is_refused(store: PictureStore) -> None:
    """The type told to a host must be that of the bytes."""
    store.folder.mkdir(parents=True)
    (store.folder / f"{ID}.png").write_bytes(encoded(plain(), "JPEG"))
    with pytest.raises(ImageRejectedError, match="no longer a PNG"):
        await store.read(ID)


@posix_only
async def test_a_link_in_the_folder_is_not_followed(store: PictureStore, outside: Path) -> None:
    """Whoever can write there cannot make us read elsewhere."""
    (outside / "secret.png").write_bytes(encoded(plain()))
    store.folder.mkdir(parents=True)
    (store.folder / f"{ID}.png").symlink_to(outside / "secret.png")
    assert store.path_of(ID) is None
    assert await store.newest(5) == []
    with pytest.raises(ImageRejectedError):
        await store.read(ID)


@posix_only
async def test_the_folder_itself_may_be_a_link(
    tmp_path: Path, outside: Path, facts: PictureFacts
) -> None:
    """Its owner set it."""
    (tmp_path / "linked").symlink_to(outside)
    store = PictureStore(tmp_path / "linked")
    kept = await store.save(encoded(plain()), facts)
    assert await store.read(kept.id) == kept.data


async def test_the_folder_may_vanish_while_the_server_runs(
    store: PictureStore, facts: PictureFacts
) -> None:
    """It is made again; what was in it is gone, and that is told."""
    first = await store.save(encoded(plain()), facts)
    shutil.rmtree(store.folder)
    assert await store.newest(5) == []
    assert store.path_of(first.id) is None
    with pytest.raises(ImageRejectedError, match="does not exist"):
        await store.read(first.id)
    second = await store.save(encoded(plain()), facts)
    assert await store.read(second.id) == second.data
