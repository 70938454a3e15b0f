"""From a path to bytes: roots, links, special files, and a path that changes under our hands."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from inference_mcp.pictures.opening import (
    FILE_FLAGS,
    Located,
    existing_roots,
    locate,
    open_and_compare,
    open_beneath,
    read_file,
)
from inference_mcp.pictures.rules import PictureFlawError
from tests.pictures.samples import posix_only


def read(path: Path | str, *roots: Path) -> bytes:
    """All of it, as sources does."""
    return read_file(locate(str(path), existing_roots(roots)), limit_bytes=1000)


def test_a_file_under_a_root_is_read(root: Path) -> None:
    """In the root and below it."""
    (root / "a" / "b").mkdir(parents=True)
    (root / "a" / "b" / "x.png").write_bytes(b"deep")
    (root / "y.png").write_bytes(b"flat")
    assert read(root / "a" / "b" / "x.png", root) == b"deep"
    assert read(root / "y.png", root) == b"flat"
    assert read(root / "a" / ".." / "y.png", root) == b"flat"


@posix_only
def test_each_root_and_each_folder_is_looked_at_once(root: Path) -> None:
    """A path may have two thousand folders, and a host a hundred roots."""
    looks = 0

    def count(frame: FrameType, event: str, called: Any) -> None:
        nonlocal looks
        looks += event == "c_call" and called is os.stat

    roots = tuple(f"{root}/{number}" for number in range(100))
    sys.setprofile(count)
    try:
        with pytest.raises(PictureFlawError, match="not under an input root"):
            locate("/none" * 50, roots)
    finally:
        sys.setprofile(None)
    assert 0 < looks <= 160


def test_a_file_outside_every_root_is_refused_whether_it_exists_or_not(
    root: Path, outside: Path
) -> None:
    """The answer does not tell what exists elsewhere."""
    (outside / "there.png").write_bytes(b"secret")
    flaws = set()
    for name in ("there.png", "not-there.png"):
        for path in (outside / name, root / ".." / "outside" / name):
            with pytest.raises(PictureFlawError) as caught:
                read(path, root)
            flaws.add(caught.value.flaw)
    assert flaws == {"is not under an input root"}


def test_a_folder_whose_name_begins_like_a_root_is_not_under_it(root: Path) -> None:
    """``/x/root-2`` is not in ``/x/root``."""
    sibling = root.with_name("root-2")
    sibling.mkdir()
    (sibling / "x.png").write_bytes(b"x")
    with pytest.raises(PictureFlawError, match="not under an input root"):
        read(sibling / "x.png", root)


def test_without_any_existing_root_everything_is_refused(tmp_path: Path, root: Path) -> None:
    """Missing roots are passed over; a root that is a file is none."""
    (root / "x.png").write_bytes(b"x")
    with pytest.raises(PictureFlawError) as caught:
        read(root / "x.png", tmp_path / "missing", root / "x.png")
    assert "none of them exists now" in caught.value.next_step


def test_a_root_may_appear_later(tmp_path: Path) -> None:
    """Roots are looked at on each use."""
    late = tmp_path / "late"
    assert existing_roots([late]) == ()
    late.mkdir()
    (late / "x.png").write_bytes(b"x")
    assert read(late / "x.png", late) == b"x"


@posix_only
def test_a_link_out_of_the_root_is_refused_and_one_within_is_followed(
    root: Path, outside: Path
) -> None:
    """Links count for where they lead."""
    (outside / "secret.png").write_bytes(b"secret")
    (root / "x.png").write_bytes(b"x")
    (root / "out.png").symlink_to(outside / "secret.png")
    (root / "out").symlink_to(outside)
    (root / "in.png").symlink_to(root / "x.png")
    (outside / "back.png").symlink_to(root / "x.png")
    for path in (root / "out.png", root / "out" / "secret.png"):
        with pytest.raises(PictureFlawError, match="not under an input root"):
            read(path, root)
    assert read(root / "in.png", root) == b"x"
    assert read(outside / "back.png", root) == b"x"


@posix_only
def test_a_root_that_is_a_link_is_a_root(tmp_path: Path, root: Path) -> None:
    """By its own name and by that of its target."""
    (root / "x.png").write_bytes(b"x")
    linked = tmp_path / "linked"
    linked.symlink_to(root)
    assert read(linked / "x.png", linked) == b"x"
    assert read(root / "x.png", linked) == b"x"


@posix_only
def test_a_link_in_a_circle_and_a_link_to_nothing_are_refused(root: Path) -> None:
    """Neither hangs nor crashes."""
    (root / "a.png").symlink_to(root / "b.png")
    (root / "b.png").symlink_to(root / "a.png")
    (root / "c.png").symlink_to(root / "nothing.png")
    for name in ("a.png", "b.png", "c.png"):
        with pytest.raises(PictureFlawError, match=r"leads nowhere|does not exist"):
            read(root / name, root)


@posix_only
def test_system_folders_are_refused_after_resolving_too(root: Path) -> None:
    """Even where the operator made the whole disk a root."""
    (root / "fd").symlink_to("/proc/self/fd")
    (root / "null.png").symlink_to("/dev/null")
    for path in (root / "fd" / "0", root / "null.png", Path("/sys/power/state")):
        with pytest.raises(PictureFlawError, match=r"system folder|not under"):
            read(path, Path("/"))


@pytest.mark.parametrize("name", ["", "sub"])
def test_a_folder_is_refused_as_such(root: Path, name: str) -> None:
    """The root itself and one below it."""
    (root / "sub").mkdir()
    with pytest.raises(PictureFlawError, match="is a folder"):
        read(root / name, root)


@posix_only
def test_pipes_and_sockets_are_refused_without_waiting(tmp_path: Path, root: Path) -> None:
    """A pipe that nobody writes to would hold an ordinary open for ever."""
    os.mkfifo(root / "pipe.png")
    # A socket's path has a short limit of its own, which the temp folder may exceed.
    with socket.socket(socket.AF_UNIX) as listener, pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        listener.bind("socket.png")
        for name in ("pipe.png", "socket.png"):
            with pytest.raises(PictureFlawError, match="pipe, socket or device"):
                read(root / name, root)


@posix_only
@pytest.mark.skipif(os.name != "posix" or os.geteuid() != 0, reason="only root makes devices")
def test_a_device_in_a_root_is_refused(root: Path) -> None:
    """/dev/zero by another name has no end."""
    try:
        os.mknod(root / "zero.png", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("this container makes no devices")
    with pytest.raises(PictureFlawError, match="pipe, socket or device"):
        read(root / "zero.png", root)


def test_missing_empty_and_large_files_are_refused(root: Path) -> None:
    """Each with its own reason."""
    (root / "empty.png").write_bytes(b"")
    (root / "large.png").write_bytes(bytes(1001))
    (root / "fits.png").write_bytes(bytes(1000))
    with pytest.raises(PictureFlawError, match="does not exist"):
        read(root / "missing.png", root)
    with pytest.raises(PictureFlawError, match="does not exist"):
        read(root / ("n" * 300), root)
    with pytest.raises(PictureFlawError, match="empty file"):
        read(root / "empty.png", root)
    with pytest.raises(PictureFlawError, match="larger than"):
        read(root / "large.png", root)
    assert len(read(root / "fits.png", root)) == 1000


OPENERS = [
    pytest.param(open_beneath, marks=posix_only, id="handles"),
    pytest.param(open_and_compare, id="compare"),
]


def read_with(opener: Callable[[Located], int], located: Located) -> bytes:
    """Open a resolution that may be stale, and read."""
    with os.fdopen(opener(located), "rb") as file:
        return file.read()


@pytest.mark.parametrize("opener", OPENERS)
def test_both_ways_to_open_read_the_same(root: Path, opener: Callable[[Located], int]) -> None:
    """The way for systems without folder handles is tried everywhere."""
    (root / "sub").mkdir()
    (root / "sub" / "x.png").write_bytes(b"x")
    located = locate(str(root / "sub" / "x.png"), existing_roots([root]))
    assert read_with(opener, located) == b"x"


@posix_only
@pytest.mark.parametrize("opener", OPENERS)
def test_a_file_that_became_a_link_after_it_was_judged_is_not_followed(
    root: Path, outside: Path, opener: Callable[[Located], int]
) -> None:
    """The race between resolving and opening, at the last part of the path."""
    (outside / "secret.png").write_bytes(b"secret")
    (root / "x.png").write_bytes(b"x")
    located = locate(str(root / "x.png"), existing_roots([root]))
    (root / "x.png").unlink()
    (root / "x.png").symlink_to(outside / "secret.png")
    with pytest.raises((PictureFlawError, OSError)):
        read_with(opener, located)
    with pytest.raises(PictureFlawError, match="changed while it was opened"):
        read_file(located, limit_bytes=1000)


@posix_only
@pytest.mark.parametrize("opener", OPENERS)
def test_a_folder_that_became_a_link_after_it_was_judged_is_not_followed(
    root: Path, outside: Path, opener: Callable[[Located], int]
) -> None:
    """The same race, in the middle of the path."""
    (outside / "x.png").write_bytes(b"secret")
    (root / "sub").mkdir()
    (root / "sub" / "x.png").write_bytes(b"x")
    located = locate(str(root / "sub" / "x.png"), existing_roots([root]))
    (root / "sub").rename(root / "old")
    (root / "sub").symlink_to(outside)
    with pytest.raises((PictureFlawError, OSError)):
        read_with(opener, located)
    with pytest.raises(PictureFlawError, match="changed while it was opened"):
        read_file(located, limit_bytes=1000)


@posix_only
def test_the_open_itself_follows_no_link_and_waits_for_nobody(root: Path, outside: Path) -> None:
    """What is put there between the look and the open meets the open's own flags."""
    (outside / "secret.png").write_bytes(b"secret")
    (root / "x.png").symlink_to(outside / "secret.png")
    with pytest.raises(OSError, match="symbolic links"):
        os.open(root / "x.png", FILE_FLAGS)
    os.mkfifo(root / "pipe.png")
    os.close(os.open(root / "pipe.png", FILE_FLAGS))


@posix_only
@pytest.mark.parametrize("opener", OPENERS)
def test_a_refused_open_leaves_no_descriptor_behind(
    root: Path, outside: Path, opener: Callable[[Located], int]
) -> None:
    """A caller who tries a thousand times does not use them up."""
    (root / "sub").mkdir()
    (outside / "x.png").write_bytes(b"secret")
    located = Located(str(root), ("sub", "x.png"))
    (root / "sub").rmdir()
    (root / "sub").symlink_to(outside)
    lowest_before = os.dup(0)
    os.close(lowest_before)
    for _ in range(5):
        with pytest.raises((PictureFlawError, OSError)):
            opener(located)
    lowest_after = os.dup(0)
    os.close(lowest_after)
    assert lowest_after == lowest_before


def test_a_root_that_cannot_be_looked_at_costs_no_other(tmp_path: Path) -> None:
    """A name too long, one with a NUL: they are no folders, and that is all."""
    good = tmp_path / "good"
    good.mkdir()
    bad = [tmp_path / ("x" * 5_000), Path("/" + "y" * 300), Path("a\0b")]
    assert existing_roots([*bad, good]) == (str(good.resolve()),)
    assert existing_roots([good], bad) == (str(good.resolve()),)


def test_of_many_roots_only_some_are_named(tmp_path: Path) -> None:
    """An error must keep to what a host takes."""
    roots = [str(tmp_path / str(number)) for number in range(5_000)]
    with pytest.raises(PictureFlawError) as flaw:
        locate(str(tmp_path / "x.png"), roots)
    assert "and 4994 more" in flaw.value.next_step
    assert len(flaw.value.next_step) < 2_000


@posix_only
@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="open files are counted there")
def test_a_file_that_becomes_a_folder_leaves_nothing_open(
    root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the look and the opening; a folder opens like a file."""
    (root / "x.png").write_bytes(b"file")
    looked = os.stat

    def replace(path: Any, **how: Any) -> os.stat_result:
        found = looked(path, **how)
        if path == "x.png":
            (root / "x.png").unlink()
            (root / "x.png").mkdir()
        return found

    located = locate(str(root / "x.png"), existing_roots((root,)))
    before = len(list(Path("/proc/self/fd").iterdir()))
    monkeypatch.setattr(os, "stat", replace)
    with pytest.raises(PictureFlawError, match="is a folder"):
        read_file(located, limit_bytes=1000)
    assert len(list(Path("/proc/self/fd").iterdir())) == before
