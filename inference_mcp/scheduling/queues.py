"""One model's queue: the best that waits, and the one that is longest overdue. Pure.

Two heaps over the same requests: one by (rank, admission number), whose head is the best of
S1, one by (due time, number), whose head is the first to become overdue (S8). A request that
leaves stays in both until it comes up or the dead outnumber the living: leaving costs the same
at any depth (S2), and memory stays bounded. Entering is O(1) for a newcomer (its number is the
highest, so it stays at the bottom of its rank) and O(log n) for one that comes back.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from typing import Any, TypeAlias

from inference_mcp.requests import Rank

__all__ = ["ModelQueue"]

_Item: TypeAlias = tuple[Any, int, str]
"""What is sorted by, the admission number, the id."""

_SLACK = 16
"""Dead entries that are never worth a clean-up."""


class ModelQueue:
    """The waiting requests of one model, by id."""

    def __init__(self) -> None:
        self._waiting: dict[str, int] = {}
        self._by_key: list[_Item] = []
        self._by_due: list[_Item] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[str]:
        """The ids, in no order."""
        return iter(self._waiting)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._waiting

    def push(self, id_: str, rank: Rank, number: int, due_at: float) -> None:
        """Put a request at its place by rank and number."""
        if id_ in self._waiting:
            raise ValueError(f"{id_!r} waits already")
        self._waiting[id_] = number
        heapq.heappush(self._by_key, (rank, number, id_))
        heapq.heappush(self._by_due, (due_at, number, id_))

    def remove(self, id_: str) -> None:
        """Take a request out, wherever it is. Raises ``KeyError`` if it does not wait."""
        del self._waiting[id_]
        limit = 2 * len(self._waiting) + _SLACK
        if len(self._by_key) > limit:
            self._by_key = _living(self._by_key, self._waiting)
        if len(self._by_due) > limit:
            self._by_due = _living(self._by_due, self._waiting)

    def best(self) -> str | None:
        """The head of S1."""
        return _head(self._by_key, self._waiting)

    def first_due(self) -> str | None:
        """The one that is overdue longest, or will be first."""
        return _head(self._by_due, self._waiting)


def _head(heap: list[_Item], waiting: dict[str, int]) -> str | None:
    while heap and heap[0][2] not in waiting:
        heapq.heappop(heap)
    return heap[0][2] if heap else None


def _living(heap: list[_Item], waiting: dict[str, int]) -> list[_Item]:
    """Each living request once: one that came back may stand in the heap twice."""
    kept = {item[2]: item for item in heap if item[2] in waiting}
    living = list(kept.values())
    heapq.heapify(living)
    return living
