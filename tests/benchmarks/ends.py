"""How long each of the eight ways to end takes, from its beginning to the end of the process (S20).

python -m tests.benchmarks.ends [--times 5]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import anyio

from tests.ends import CASES, end


async def measure(times: int) -> bool:
    """Print the middle and the worst of each; whether all kept to their limits."""
    well = True
    for case in CASES:
        seconds = []
        for _ in range(times):
            with tempfile.TemporaryDirectory() as folder:
                ended = await end(case, Path(folder))
            seconds.append(ended.seconds)
            well = well and ended.code == 0 and not ended.left and ended.seconds < case.limit_s
        seconds.sort()
        line = f"{seconds[times // 2]:6.2f} {seconds[-1]:6.2f} s  (at most {case.limit_s} s)"
        sys.stdout.write(f"{case.name:<46} {line}\n")
    return well


def main() -> int:
    """The exit code tells whether all ended as they should."""
    parser = argparse.ArgumentParser(description="How long each way to end takes.")
    parser.add_argument("--times", type=int, default=5, help="how often each is tried")
    return 0 if anyio.run(measure, parser.parse_args().times) else 1


if __name__ == "__main__":
    raise SystemExit(main())
