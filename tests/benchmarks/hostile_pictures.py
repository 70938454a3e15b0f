"""Hostile pictures, data URIs, answers and paths through the real code: what each may cost.

    python -m tests.benchmarks.hostile_pictures [--inputs N] [--seed S] [--show]

First the largest and the slowest that the limits let in and what is just beyond them, each in a
process of its own; then N mutated ones and N paths, in one process each; then a path that turns
into a link and back while it is read N times. Printed are inputs, how they ended, the most
memory above the interpreter's start, the most seconds of the processor, and how many opened
anything outside the roots. Beyond 200 MB, 2 s or the roots the exit code is 1.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from tests.benchmarks.pairs import say
from tests.pictures.hostile import Case, extremes, mutations
from tests.pictures.hostile_paths import OUTSIDE, references, swapping, tree
from tests.pictures.watched import MOST_BYTES, MOST_S, Fate, Watched


@dataclass
class Figures:
    """Of one kind of input. ``bad`` are the inputs that broke a bound."""

    name: str
    show: bool
    ends: Counter[str] = field(default_factory=Counter)
    peak_bytes: int = 0
    cpu_s: float = 0.0
    strayed: int = 0
    bad: list[str] = field(default_factory=list)
    began_s: float = field(default_factory=time.perf_counter)

    def add(self, name: str, fate: Fate, *allowed: Path) -> None:
        """Count one."""
        self.ends[fate.outcome] += 1
        self.peak_bytes = max(self.peak_bytes, fate.peak_bytes)
        self.cpu_s = max(self.cpu_s, fate.cpu_s)
        strayed = bool(fate.strays(*allowed)) or fate.seen == OUTSIDE
        self.strayed += strayed
        within = fate.peak_bytes <= MOST_BYTES and fate.cpu_s <= MOST_S
        if strayed or not fate.is_well or not within:
            self.bad.append(f"{name}: {fate}")
        if self.show:
            say(f"  {name:<48}{fate.outcome:<16}{fate.peak_bytes / 1e6:>6.0f}{fate.cpu_s:>7.2f}")

    def told(self) -> str:
        """One line of the table."""
        ends = ", ".join(f"{count} {end}" for end, count in self.ends.most_common())
        took_s = time.perf_counter() - self.began_s
        return (
            f"{self.name:<20}{self.ends.total():>8}{self.peak_bytes / 1e6:>8.0f}"
            f"{self.cpu_s:>8.2f}{self.strayed:>9}{took_s:>8.0f}   {ends}"
        )


def written(cases: Iterator[Case], folder: Path) -> Iterator[tuple[Case, Path]]:
    """Each with the file that holds it."""
    for case in cases:
        file = folder / ("root/case.bin" if case.how == "file" else "case.bin")
        file.write_bytes(case.data)
        yield case, file


def largest(figures: Figures, folder: Path) -> None:
    """Each alone, for what an allocator keeps must not count for the next."""
    for case, file in written(extremes(), folder):
        with Watched(folder / "root", folder / "output") as watched:
            figures.add(case.name, watched.run(case.how, file), folder / "root", folder / "output")


def mutated(figures: Figures, folder: Path, seed: int, count: int) -> None:
    """All in one process."""
    with Watched(folder / "root", folder / "output") as watched:
        for case, file in written(mutations(seed, count), folder):
            figures.add(case.name, watched.run(case.how, file), folder / "root", folder / "output")


def paths(figures: Figures, folder: Path, seed: int, count: int) -> None:
    """References by path, URL and id."""
    root, outside = tree(folder)
    with Watched(root, folder / "output") as watched:
        for reference in references(root, outside, seed, count):
            (folder / "case.bin").write_bytes(reference.encode("utf-8", "surrogatepass"))
            fate = watched.run("reference", folder / "case.bin")
            figures.add(repr(reference), fate, root, folder / "output")


def swapped(figures: Figures, folder: Path, count: int) -> None:
    """Between looking and opening."""
    root, outside = tree(folder)
    with Watched(root, folder / "output") as watched, swapping(root, outside) as found:
        for number in range(count):
            figures.add("swapped", watched.run("file", found[number % 2]), root)


def main() -> int:
    """See the module's docstring."""
    parser = argparse.ArgumentParser(description="What hostile pictures cost.")
    parser.add_argument("--inputs", type=int, default=5_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="each of the largest")
    given = parser.parse_args()
    say(f"{'':<20}{'inputs':>8}{'MB':>8}{'s':>8}{'strayed':>9}{'took s':>8}   ends")
    bad: list[str] = []
    for name in ("largest", "mutated", "paths", "swapped"):
        figures = Figures(name, given.show and name == "largest")
        with tempfile.TemporaryDirectory() as made:
            folder = Path(made).resolve()
            if name in ("largest", "mutated"):
                (folder / "root").mkdir()
            match name:
                case "largest":
                    largest(figures, folder)
                case "mutated":
                    mutated(figures, folder, given.seed, given.inputs)
                case "paths":
                    paths(figures, folder, given.seed, given.inputs)
                case "swapped":
                    swapped(figures, folder, given.inputs)
        say(figures.told())
        bad += figures.bad
    for each in bad[:20]:
        say(f"! {each[:300]}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
