"""What happened in the last day, and since the start, in bounded memory.

The newest ``KEPT_RECORDS`` records are kept one by one: a window that they cover is exact, to the
second. Older ones are condensed into slots of ``SLOT_S`` seconds, of which a day is kept; a
window that begins among them begins with its slot, so it is a little longer than was asked for,
and whoever asks is told where it began. What is older than a day counts in the totals alone.

Pure; times come in with the records. Above is ``metrics``; below are the tallies.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from math import floor, inf
from typing import TypeAlias

from inference_mcp.observe.figures import Key, Spans, Tally

__all__ = ["DAY_S", "KEPT_RECORDS", "MAX_CELLS", "SLOT_S", "History", "Record"]

KEPT_RECORDS = 10_000
"""Records kept one by one: of about 5,000 requests, more than most days of one GPU have. They
take 2 MB, and 10 ms to be added up."""

CHUNK = 500
"""Records condensed at a time, some 2 ms: a request now and then pays for those before it."""

SLOT_S = 900.0
"""How long a slot is: a day of them is merged in some 10 ms for each type and model."""

DAY_S = 86_400.0

MAX_CELLS = 1_000
"""Slots times types and models that are kept, about 5 kB each: hundreds of models in use cost
the oldest slots, not memory."""

Record: TypeAlias = tuple[float, str, Key, Spans | None]
"""When something happened (seconds, monotonic), what, of which type and model, and the times of a
request that finished after it had run."""

_Cells: TypeAlias = dict[Key, Tally]


class History:
    """Records in the order in which they happened."""

    def __init__(self) -> None:
        self._records: deque[Record] = deque()
        self._slots: OrderedDict[int, _Cells] = OrderedDict()
        self._past: _Cells = {}  # all that was condensed, also what no slot holds any more
        self._condensed_to_s: float | None = None
        self._dropped_to_s = -inf

    def add(self, record: Record) -> None:
        """Take in the newest record."""
        self._records.append(record)
        if len(self._records) >= KEPT_RECORDS + CHUNK:
            for _ in range(CHUNK):
                self._condense(self._records.popleft())
            self._drop_old()

    def all(self) -> _Cells:
        """Everything since the start."""
        return _added({key: _copy(cell) for key, cell in self._past.items()}, self._records)

    def since(self, since_s: float) -> tuple[float, _Cells]:
        """What happened from ``since_s`` on, and from when on that truly is."""
        if self._condensed_to_s is None or since_s > self._condensed_to_s:
            return since_s, _added({}, self.newest(since_s))
        first = floor(since_s / SLOT_S)
        if first in self._slots:
            since_s = first * SLOT_S
        cells: _Cells = {}
        for number, slot in self._slots.items():
            if number >= first:
                for key, cell in slot.items():
                    _cell(cells, key).merge(cell)
        return max(since_s, self._dropped_to_s), _added(cells, self._records)

    def newest(self, since_s: float) -> Iterator[Record]:
        """The records from ``since_s`` on that are still kept one by one, the newest first."""
        for record in reversed(self._records):
            if record[0] < since_s:
                return
            yield record

    def statistics(self) -> dict[str, int]:
        """How much is held: records, slots, and cells in those."""
        cells = sum(len(slot) for slot in self._slots.values())
        return {"records": len(self._records), "slots": len(self._slots), "cells": cells}

    def _condense(self, record: Record) -> None:
        at_s, what, key, spans = record
        slot = self._slots.setdefault(floor(at_s / SLOT_S), {})
        for cells in (slot, self._past):
            _cell(cells, key).condense(what, spans)
        self._condensed_to_s = at_s

    def _drop_old(self) -> None:
        oldest_needed = floor((self._records[-1][0] - DAY_S) / SLOT_S)
        held = self.statistics()["cells"]
        while len(self._slots) > 1:
            number, slot = next(iter(self._slots.items()))
            if number >= oldest_needed and held <= MAX_CELLS:
                return
            held -= len(slot)
            del self._slots[number]
            self._dropped_to_s = (number + 1) * SLOT_S


def _added(cells: _Cells, records: Iterable[Record]) -> _Cells:
    for _, what, key, spans in records:
        _cell(cells, key).add(what, spans)
    return cells


def _cell(cells: _Cells, key: Key) -> Tally:
    cell = cells.get(key)
    if cell is None:
        cell = cells[key] = Tally()
    return cell


def _copy(cell: Tally) -> Tally:
    copy = Tally()
    copy.merge(cell)
    return copy
