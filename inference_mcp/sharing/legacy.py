"""What the last arbiter left (S23): its table, and who of its seats is not back yet. Pure.

A successor counts what members bring; of the rest only the table tells, until it goes on. Should
this successor die before that, the next one has nobody else to tell it: so its own table has
that rest too. Above is ``desk``.
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from inference_mcp.scheduling.core import Core
from inference_mcp.sharing import told, views
from inference_mcp.sharing.wire import HeldLease

__all__ = ["Legacy"]


class Legacy:
    """``expected`` are those who sat at the last desk and have not spoken here.

    ``dead`` are the processes that are known not to live any more.
    """

    def __init__(
        self, table: told.Table | None, dead: Collection[str], clock: Callable[[], float]
    ) -> None:
        self.expected = set(table.seats) - set(dead) if table is not None else set()
        self.highest = table.highest if table is not None else 0
        self._table = table
        self._clock = clock
        self._since = clock()

    @property
    def table(self) -> told.Table | None:
        """It as of now; ``None`` where none came."""
        if self._table is None:
            return None
        return self._table.older(self._clock() - self._since)

    def held(self, id_: str) -> HeldLease | None:
        """What the table tells of one request's lease."""
        rows = self._table.leases if self._table is not None else ()
        return next((row.held for row in rows if row.id == id_), None)

    def has_spoken(self, owner: str, seats: Collection[str]) -> bool:
        """Whether this process sits here and has told all that it holds."""
        return owner in seats and owner not in self.expected

    def unspoken(self, core: Core, seats: Collection[str]) -> list[told.LeaseRow]:
        """The leases of which nobody but the table tells."""
        table = self.table
        return [
            row
            for row in (table.leases if table is not None else ())
            # A failed picture that LocalAI computes on is no request any more; its slot is held.
            if not self.has_spoken(row.owner, seats)
            or (row.held.abandoned and row.kind.makes_picture)
            if core.entry(row.id) is None
        ]

    def added_to(self, table: told.Table, core: Core, seats: Collection[str]) -> told.Table:
        """A successor's table before it goes on."""
        if self._table is None:
            return table
        return views.joined(table, self._table, self.unspoken(core, seats), self.expected)
