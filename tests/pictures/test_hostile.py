"""Hostile pictures, paths and answers through the real code: bounded, and nothing strays.

A few hundred here; ``tests.benchmarks.hostile_pictures`` runs as many as one likes, and the
largest of each kind. Seconds are the processor's, not the clock's.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests.pictures.hostile import Case, mutations, of_width
from tests.pictures.hostile_paths import INSIDE, OUTSIDE, references, swapping, tree
from tests.pictures.samples import chunk, encoded, plain, posix_only
from tests.pictures.watched import MOST_BYTES, MOST_S, Fate, Watched

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="measured by POSIX's means")


def check(name: str, fate: Fate, *allowed: Path) -> None:
    """What must hold for each input, whatever becomes of it."""
    assert fate.is_well, (name, fate)
    assert fate.peak_bytes <= MOST_BYTES, (name, fate)
    assert fate.cpu_s <= MOST_S, (name, fate)
    assert fate.strays(*allowed) == [], (name, fate)


def run(watched: Watched, folder: Path, case: Case) -> Fate:
    """One input; a file's goes into the root."""
    file = folder / ("root/case.bin" if case.how == "file" else "case.bin")
    file.write_bytes(case.data)
    return watched.run(case.how, file)


def test_mutated_pictures_are_taken_or_refused_within_bounds(tmp_path: Path) -> None:
    """All formats as files, data URIs and LocalAI's answers; both ends are met often."""
    (tmp_path / "root").mkdir()
    ends = dict.fromkeys(("taken", "image_rejected", "bad_result"), 0)
    with Watched(tmp_path / "root", tmp_path / "output") as watched:
        for case in mutations(20, 400):
            fate = run(watched, tmp_path, case)
            check(case.name, fate, tmp_path / "root", tmp_path / "output")
            ends[fate.outcome] = ends.get(fate.outcome, 0) + 1
    assert min(ends["taken"], ends["image_rejected"], ends["bad_result"]) > 20, ends


PNG, JPEG = encoded(plain()), encoded(plain(), "JPEG")
LARGEST = [
    Case("40 MP of 16 bit", "file", of_width(8_000, 5_000, 16, 6)),
    Case("40 MP of 8 bit", "file", of_width(8_000, 5_000, 8, 6)),
    Case("PNG of chunks", "file", PNG[:33] + chunk(b"prVt", b"") * 1_600_000 + PNG[33:]),
    Case("JPEG of notes", "file", JPEG[:2] + b"\xff\xfe\0\2" * 4_900_000 + JPEG[2:]),
]


@pytest.mark.parametrize("case", LARGEST, ids=lambda case: case.name)
def test_the_largest_keep_within_the_bounds(case: Case, tmp_path: Path) -> None:
    """As many pixels, or parts, as 20 MB can claim: 586, 213 and 370 MB by Pillow alone."""
    (tmp_path / "root").mkdir()
    with Watched(tmp_path / "root", tmp_path / "output") as watched:
        fate = run(watched, tmp_path, case)
    check(case.name, fate, tmp_path / "root")
    assert (fate.outcome == "taken") is case.name.startswith("40 MP")


@posix_only
def test_no_path_leads_out_of_the_roots(tmp_path: Path) -> None:
    """Traversal, links, devices, pipes, URLs, shares, streams: nothing else is opened."""
    root, outside = tree(tmp_path)
    taken = 0
    with Watched(root, tmp_path / "output") as watched:
        for reference in references(root, outside, 20, 300):
            (tmp_path / "case.bin").write_bytes(reference.encode("utf-8", "surrogatepass"))
            fate = watched.run("reference", tmp_path / "case.bin")
            check(repr(reference), fate, root, tmp_path / "output")
            assert fate.seen in ((), INSIDE), reference
            taken += fate.outcome == "taken"
    assert taken > 5


@posix_only
def test_a_path_swapped_while_it_is_read_leads_nowhere_else(tmp_path: Path) -> None:
    """A file or a folder that becomes a link out between looking and opening."""
    root, outside = tree(tmp_path)
    seen = set()
    with Watched(root, tmp_path / "output") as watched, swapping(root, outside) as paths:
        for number in range(200):
            fate = watched.run("file", paths[number % 2])
            check(str(paths), fate, root, tmp_path / "output")
            seen.add(fate.seen)
    assert OUTSIDE not in seen
    assert INSIDE in seen
