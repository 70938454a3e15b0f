"""P7: a picture of 2048² from LocalAI's answer to the host, beside one decoding and re-encoding.

    python -m tests.benchmarks P7

The least of a LocalAI answers at once, so a call's time is that of the way: read, decode Base64,
verify all pixels, write the file with its facts, make a preview, tell the host. Beside it stands
Pillow in a process of its own, which decodes the same PNG and encodes it once, and does nothing
else. The picture is noise, which no coder likes. Peak memory is what each process takes beyond
what it held before (Linux tells; elsewhere only the time is compared).
"""

from __future__ import annotations

import io
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image

from tests.benchmarks.idling import peak_bytes, reset_peak
from tests.benchmarks.least import least, noise
from tests.benchmarks.pairs import Goal, Line, Pair, line, missing, say
from tests.benchmarks.programs import OURS, Program, program

__all__ = ["lines"]

SIDE_PX = 2048
PEER = "Pillow: decode, encode once"
MEMORY_TOLD = sys.platform == "linux"


def lines(quick: bool) -> Iterator[Line]:
    """Seconds, then bytes."""
    with (
        tempfile.TemporaryDirectory() as folder,
        least(SIDE_PX) as url,
        program(OURS, url, Path(folder)) as ours,
    ):
        ours.shake_hands()
        source = Path(folder) / "noise.png"
        source.write_bytes(noise(SIDE_PX))
        times: list[Pair] = []
        peaks: list[Pair] = []
        for number in range((2 if quick else 9) + 1):
            mine, theirs = _delivered(ours, number), _recoded(source)
            if number:  # the first one loads what the others find loaded
                times.append((mine[0], theirs[0]))
                peaks.append((mine[1], theirs[1]))
    what, goal = f"a picture of {SIDE_PX}² to the host", Goal(1.5, "ratio")
    yield line("P7", f"{what}, time", "s", times, PEER, goal)
    if MEMORY_TOLD:
        yield line("P7", f"{what}, peak memory", "MB", peaks, PEER, goal)
    else:
        yield missing("P7", f"{what}, peak memory", PEER, "only Linux tells")


def _delivered(server: Program, number: int) -> Pair:
    before = reset_peak(server.pid) if MEMORY_TOLD else 0
    took_s = server.call_s(
        "txt2img", prompt="noise", width=SIDE_PX, height=SIDE_PX, seed=number + 1
    )
    peak = peak_bytes(server.pid) - before if MEMORY_TOLD else 0
    return took_s, peak / 2**20


def _recoded(source: Path) -> Pair:
    command = [sys.executable, "-m", "tests.benchmarks.large_pictures", str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    took_s, peak_mb = json.loads(done.stdout)
    return took_s, peak_mb


def recode(source: Path) -> Pair:
    """In its own process: seconds, and megabytes beyond what was there before."""
    _once(noise(64))  # the coders are loaded
    data = source.read_bytes()
    before = reset_peak() - len(data) if MEMORY_TOLD else 0
    began = time.perf_counter()
    _once(data)
    took_s = time.perf_counter() - began
    return took_s, (peak_bytes() - before) / 2**20 if MEMORY_TOLD else 0.0


def _once(data: bytes) -> bytes:
    out = io.BytesIO()
    with Image.open(io.BytesIO(data)) as picture:
        picture.load()
        picture.save(out, "PNG")
    return out.getvalue()


if __name__ == "__main__":
    say(json.dumps(recode(Path(sys.argv[1]))))
