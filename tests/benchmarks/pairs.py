"""Two things measured in turn, and one line of the table that says how they compare.

Whatever else the machine does falls on both of a pair, so a pair's ratio or difference means
more than either figure. Told are medians, the comparison's over the pairs, with its quartiles.

A row of the table is a module with ``lines(quick) -> Iterator[Line]``; ``__main__`` names them.
Nothing here knows what is measured.
"""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict, dataclass
from statistics import median, quantiles
from typing import Any, Literal, TypeAlias

__all__ = [
    "Goal",
    "Line",
    "Spread",
    "alternate",
    "alternate_async",
    "line",
    "missing",
    "say",
    "spread",
]

Of: TypeAlias = Literal["ours", "ratio", "difference"]
Pair: TypeAlias = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Spread:
    """A median between the quartiles."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True, slots=True)
class Goal:
    """What must be within ``limit``: our figure, its ratio to the peer's, or the difference."""

    limit: float
    of: Of
    at_least: bool = False

    def met(self, value: float) -> bool:
        """Whether this figure is good enough."""
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {_ratio(self.limit)}" if self.of == "ratio" else f"{sign} {self.limit:,g}"


@dataclass(frozen=True, slots=True)
class Line:
    """One comparison. ``compared`` is the pairs' ratio or difference, as ``by`` says; ``met`` is
    ``None`` where there is no goal. ``note`` says why there is no figure.
    """  # noqa: D205  # one sentence

    row: str
    what: str
    unit: str
    ours: Spread | None
    peer: str
    beside: Spread | None
    by: Literal["ratio", "difference"]
    compared: Spread | None
    goal: Goal | None
    met: bool | None
    note: str = ""

    def record(self) -> dict[str, Any]:
        """For a program."""
        return asdict(self)

    def cells(self) -> tuple[str, ...]:
        """For a person: row, what, ours, peer, beside, compared, goal, met."""
        compared = self.note
        if self.compared is not None:
            show = _ratio if self.by == "ratio" else _signed
            low, middle, high = (
                show(each) for each in (self.compared.low, self.compared.middle, self.compared.high)
            )
            compared = f"{middle} ({low} to {high})"
        met = {None: "", True: "yes", False: "NO"}[self.met]
        return (
            self.row,
            self.what,
            _amount(self.ours, self.unit),
            self.peer,
            _amount(self.beside, self.unit),
            compared,
            str(self.goal or ""),
            met,
        )


def line(
    row: str,
    what: str,
    unit: str,
    pairs: Sequence[Pair],
    peer: str,
    goal: Goal | None = None,
    *,
    by: Literal["ratio", "difference"] = "ratio",
) -> Line:
    """Ours beside the peer's; a goal for what is no figure of ``by`` is one for ours."""
    ours, beside = spread([pair[0] for pair in pairs]), spread([pair[1] for pair in pairs])
    ways: dict[str, Callable[[float, float], float]] = {
        "ratio": lambda a, b: a / b if b else float("inf"),
        "difference": lambda a, b: a - b,
    }
    compared = spread([ways[by](*pair) for pair in pairs])
    met = None
    if goal is not None:
        judged = ours if goal.of == "ours" else spread([ways[goal.of](*pair) for pair in pairs])
        met = goal.met(judged.middle)
    return Line(row, what, unit, ours, peer, beside, by, compared, goal, met)


def missing(row: str, what: str, peer: str, why: str) -> Line:
    """A comparison that could not be made here."""
    return Line(row, what, "", None, peer, None, "ratio", None, None, None, why)


def alternate(
    ours: Callable[[], float], beside: Callable[[], float], rounds: int, *, warm: bool = True
) -> list[Pair]:
    """Measure both in turn; who goes first changes with each pair. One pair before is not told."""
    pairs = []
    for number in range(-1 if warm else 0, rounds):
        if number % 2:
            second, first = beside(), ours()
        else:
            first, second = ours(), beside()
        pairs.append((first, second))
    return pairs[-rounds:]


async def alternate_async(
    ours: Callable[[], Awaitable[float]], beside: Callable[[], Awaitable[float]], rounds: int
) -> list[Pair]:
    """See ``alternate``."""
    pairs = []
    for number in range(-1, rounds):
        if number % 2:
            second, first = await beside(), await ours()
        else:
            first, second = await ours(), await beside()
        pairs.append((first, second))
    return pairs[-rounds:]


def spread(values: Sequence[float]) -> Spread:
    """The quartiles; of one value, three times that."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, _, high = quantiles(values, n=4, method="inclusive")
    return Spread(low, median(values), high)


def say(text: str) -> None:
    """Print a line for a person, at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _amount(value: Spread | None, unit: str) -> str:
    return "-" if value is None else f"{_number(value.middle)} {unit}".rstrip()


def _number(value: float) -> str:
    size = abs(value)
    return f"{value:,.{0 if size >= 100 else 1 if size >= 10 else 2 if size >= 0.1 else 3}f}"


def _signed(value: float) -> str:
    return f"{'+' if value >= 0 else ''}{_number(value)}"


def _ratio(value: float) -> str:
    return f"{value:.2f} ×"
