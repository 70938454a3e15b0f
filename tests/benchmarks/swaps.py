"""P4: what the rules are worth where models must be exchanged: ours beside those in use elsewhere.

    python -m tests.benchmarks P4
    python -m tests.benchmarks.swaps [--json FILE] [--seeds N]    # all columns

Virtual time and fixed seeds: the same figures on every machine, in about half a minute.
*Burst*: chats every 20 s on average, 30 pictures at once, 40 seeds. *Mixed*: five streams on
three models for 100,000 s, rates × 1.0, 1.3 and 1.5, four seeds. Swaps take 8 s, one model is
resident, everything is of class normal (but for the batch texts of the mixed load), preemption
is off. The last rows have all models resident and compare preemption ``type`` with ``off``.

Waits are seconds. ``behind`` is how long after the last arrival the last request ended, in the
worst seed: more than some minutes means that the rule could not keep up.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import TypeAlias, get_args

from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Preemption
from tests.benchmarks.pairs import Goal, Line, line
from tests.scheduling.experiments import (
    BURST_SEEDS,
    MIXED_SEEDS,
    Arrival,
    Outcome,
    Rule,
    burst,
    mixed,
    run_ours,
    run_rule,
)

__all__ = ["lines", "main", "measure"]

Row: TypeAlias = dict[str, str | float]
Run: TypeAlias = Callable[[Sequence[Arrival]], Outcome]

SCALES = (1.0, 1.3, 1.5)
PREEMPTIONS: tuple[Preemption, ...] = ("off", "type")
CHAT, DRAW, LOOK = RequestType.TXT2TXT, RequestType.TXT2IMG, RequestType.IMG2TXT


def measure(mixed_seeds: Sequence[int] = MIXED_SEEDS) -> Iterator[Row]:
    """Each row as it is known."""
    rules: dict[str, Run] = {rule: partial(run_rule, rule=rule) for rule in get_args(Rule)}
    rules["ours"] = run_ours
    for name, run in rules.items():
        yield _row("burst", name, [run(burst(seed)) for seed in BURST_SEEDS])
    critical = [run_ours(burst(seed, Priority.CRITICAL)) for seed in BURST_SEEDS]
    yield _row("burst", "ours, chat critical", critical, chat=Priority.CRITICAL)
    for scale in SCALES:
        for name, run in rules.items():
            outcomes = [run(mixed(seed, scale)) for seed in mixed_seeds]
            yield _row(f"mixed x {scale}", name, outcomes)
    for scale in SCALES:
        for preemption in PREEMPTIONS:
            outcomes = [
                run_ours(mixed(seed, scale), resident=0, preemption=preemption)
                for seed in mixed_seeds
            ]
            yield _row(f"all resident x {scale}", f"ours, preemption {preemption}", outcomes)


def _row(
    load: str, rule: str, outcomes: Iterable[Outcome], chat: Priority = Priority.NORMAL
) -> Row:
    total = Outcome()
    for outcome in outcomes:
        total.absorb(outcome)
    row: Row = {
        "load": load,
        "rule": rule,
        "chat_mean_s": total.mean_s(CHAT, chat),
        "chat_p95_s": total.p95_s(CHAT, chat),
        "pictures_mean_s": total.mean_s(DRAW),
        "loads": total.loads,
        "wasted_percent": 100 * total.wasted_share,
        "most_at_once": total.most_at_once,
        "behind_s": total.drained_s,
    }
    if (LOOK, Priority.NORMAL) in total.waits_s:
        row["looks_mean_s"] = total.mean_s(LOOK)
        row["batch_mean_s"] = total.mean_s(CHAT, Priority.BATCH)
    return row


def lines(quick: bool) -> Iterator[Line]:
    """P4: the figures of the table that have goals, and each rule's beside them."""
    rows = {(row["load"], row["rule"]): row for row in measure(MIXED_SEEDS[: 1 if quick else None])}
    for load in ("burst", *(f"mixed x {scale}" for scale in SCALES)):
        for rule in get_args(Rule):
            for column, what, unit, goal in _JUDGED:
                pair = [(float(rows[load, each][column]) or 0.0) for each in ("ours", rule)]
                judged = goal if load == "burst" and rule == _IN_TURN else None
                told = f"{load}, {what}"
                yield line("P4", told, unit, [(pair[0], pair[1])], rule, judged)
    for scale in SCALES:
        load = f"all resident x {scale}"
        off, on = (rows[load, f"ours, preemption {each}"] for each in PREEMPTIONS)
        chat = (float(on["chat_mean_s"]), float(off["chat_mean_s"]))
        goal = Goal(0.5, "ratio")
        yield line("P4", f"{load}, chats' mean", "s", [chat], "preemption off", goal)
        waste = (float(on["wasted_percent"]), float(off["wasted_percent"]))
        goal = Goal(3.0, "ours")
        told = f"{load}, GPU time wasted"
        yield line("P4", told, "%", [waste], "preemption off", goal, by="difference")


_IN_TURN: Rule = "first come first served"
_JUDGED = (
    ("chat_p95_s", "chats' p95", "s", Goal(45.0, "ours")),
    ("pictures_mean_s", "pictures' mean", "s", Goal(1.6, "ratio")),
    ("loads", "swaps", "", None),
)

COLUMNS = {
    "chat_mean_s": "chat mean",
    "chat_p95_s": "chat p95",
    "pictures_mean_s": "pictures",
    "looks_mean_s": "looks",
    "batch_mean_s": "batch",
    "loads": "loads",
    "wasted_percent": "wasted %",
    "most_at_once": "at once",
    "behind_s": "behind",
}


def _line(row: Row) -> str:
    cells = [f"{row['load']:<19}", f"{row['rule']:<24}"]
    for name, title in COLUMNS.items():
        value = row.get(name)
        digits = 0 if name in ("loads", "most_at_once", "behind_s") else 1
        text = f"{value:,.{digits}f}" if isinstance(value, int | float) else "-"
        cells.append(f"{text:>{max(9, len(title))}}")
    return " ".join(cells)


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.swaps", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the rows there as well")
    parser.add_argument("--seeds", type=int, default=len(MIXED_SEEDS), help="of the mixed load")
    options = parser.parse_args(arguments)
    titles = (f"{title:>{max(9, len(title))}}" for title in COLUMNS.values())
    print(f"{'load':<19} {'rule':<24}", *titles)  # noqa: T201  # its output is the purpose
    rows = []
    for row in measure(range(options.seeds)):
        rows.append(row)
        print(_line(row), flush=True)  # noqa: T201  # as above
    if options.json is not None:
        options.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
