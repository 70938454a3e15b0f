"""One model's queue: the best that waits, and the one that is longest overdue. Pure.

Two heaps over the same requests: one by (rank, admission number), whose head is the best of
S1, one by (due time, number), whose head is the first to become overdue (S8). A request that
leaves stays in both until it comes up or the dead outnumber the living: leaving costs the same
at any depth (S2), and memory stays bounded. Entering is O(1) for a newcomer (its number is the
highest, so it stays at the bottom of its rank) and O(log n) for one that comes back.
"""

from __future__ import annotations

import heapq
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

__all__ = ["ModelQueue", "Waiting"]

_Item: TypeAlias = tuple[Any, int, str]
"""What is sorted by, the admission number, the id."""

_SLACK = 16
"""Dead entries that are never worth a clean-up."""


class Waiting(Protocol):
    """What may wait: its place is told by its rank, its admission number and its due time."""

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def rank(self) -> Any: ...  # noqa: D102

    @property
    def number(self) -> int: ...  # noqa: D102

    @property
    def due_at(self) -> float: ...  # noqa: D102


_T = TypeVar("_T", bound=Waiting)


class ModelQueue(Generic[_T]):
    """The waiting requests of one model."""

    def __init__(self) -> None:
        self._waiting: dict[str, _T] = {}
        self._by_key: list[_Item] = []
        self._by_due: list[_Item] = []

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, id_: object) -> bool:
        return id_ in self._waiting

    def push(self, entry: _T) -> None:
        """Put a request at its place by rank and number."""
        id_, number = entry.id, entry.number
        if id_ in self._waiting:
            raise ValueError(f"{id_!r} waits already")
        self._waiting[id_] = entry
        heapq.heappush(self._by_key, (entry.rank, number, id_))
        heapq.heappush(self._by_due, (entry.due_at, number, id_))

    def remove(self, id_: str) -> None:
        """Take a request out, wherever it is. Raises ``KeyError`` if it does not wait."""
        del self._waiting[id_]
        limit = 2 * len(self._waiting) + _SLACK
        if len(self._by_key) > limit:
            self._by_key = _living(self._by_key, self._waiting)
        if len(self._by_due) > limit:
            self._by_due = _living(self._by_due, self._waiting)

    def best(self) -> _T:
        """The head of S1. Raises ``IndexError`` if nothing waits."""
        return _head(self._by_key, self._waiting)

    def first_due(self) -> _T:
        """The one overdue longest, or the first to be. Raises ``IndexError`` if none waits."""
        return _head(self._by_due, self._waiting)


def _head(heap: list[_Item], waiting: dict[str, _T]) -> _T:
    # An id that came back with another number leaves its old place behind, too.
    while (head := waiting.get(heap[0][2])) is None or head.number != heap[0][1]:
        heapq.heappop(heap)
    return head


def _living(heap: list[_Item], waiting: dict[str, _T]) -> list[_Item]:
    """Each living request once: one that came back may stand in the heap twice."""
    kept = {i[2]: i for i in heap if i[2] in waiting and waiting[i[2]].number == i[1]}
    living = list(kept.values())
    heapq.heapify(living)
    return living
