"""All that is promised of speed, measured beside its peers: one table.

    python -m tests.benchmarks [--quick] [--json FILE] [--python PYTHON] [ROW ...]

Rows are P1 to P9, all unless named. ``--quick`` takes fewer pairs and shorter waits: its
figures say whether something is broken, not what to tell others. ``--python`` is the interpreter
that runs the programs: one of an environment that holds the package alone shows what users have.
The exit code is 1 where a goal was missed.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from tests.benchmarks.pairs import Line, say

ROWS = {
    "P1": ("overhead",),
    "P2": ("calls",),
    "P3": ("waits",),
    "P4": ("swaps",),
    "P5": ("deliveries", "recording"),
    "P6": ("startup", "idling"),
    "P7": ("large_pictures",),
    "P8": ("growth",),
    "P9": ("sharing",),
}
"""The modules behind each row, each with its ``lines``."""

LIBRARIES = ("anyio", "httpx", "mcp", "pydantic", "pillow", "structlog", "litellm")
WIDTHS = (3, 47, 11, 30, 11, 32, 9, 3)
TITLES = ("", "what", "ours", "beside", "", "ratio or difference (quartiles)", "goal", "met")


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table as it comes; the exit code tells whether all goals were met."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("rows", nargs="*", metavar="ROW", help="P1 to P9; all unless named")
    parser.add_argument("--quick", action="store_true", help="fewer pairs, shorter waits")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there as well")
    parser.add_argument("--python", metavar="PYTHON", help="what runs the programs; this one")
    options = parser.parse_args(arguments)
    if options.python is not None:
        os.environ["BENCHMARKS_PYTHON"] = options.python
    chosen = [row.upper() for row in options.rows] or list(ROWS)
    if unknown := sorted(set(chosen) - set(ROWS)):
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    machine = circumstances()
    say(f"{machine['cpu']}, {machine['cores']} cores, Python {machine['versions']['python']}")
    say(f"commit {machine['commit']}, {machine['date']}{', quick' if options.quick else ''}\n")
    say(shown(TITLES))
    lines: list[Line] = []
    for row in chosen:
        for name in ROWS[row]:
            module = importlib.import_module(f"tests.benchmarks.{name}")
            for line in module.lines(options.quick):
                lines.append(line)
                say(shown(line.cells()))
    if options.json is not None:
        found = {**machine, "quick": options.quick, "lines": [line.record() for line in lines]}
        options.json.write_text(json.dumps(found, indent=2) + "\n", encoding="utf-8")
    return 1 if any(line.met is False for line in lines) else 0


def shown(cells: Sequence[str]) -> str:
    """One line of the table; a cell that is too long pushes the others on."""
    return "  ".join(f"{cell:<{width}}" for cell, width in zip(cells, WIDTHS, strict=True)).rstrip()


def circumstances() -> dict[str, Any]:
    """Where and of what these figures are."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _git("describe", "--always", "--dirty", "--abbrev=12"),
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "versions": {"python": platform.python_version(), **_versions()},
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def _cpu() -> str:
    """Linux tells the model in ``/proc``."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.processor() or platform.machine()


def _versions() -> dict[str, str]:
    found = {}
    for library in LIBRARIES:
        try:
            found[library] = version(library)
        except PackageNotFoundError:
            continue
    return found


if __name__ == "__main__":
    sys.exit(main())
