"""One request of some process, at the arbiter: what was decided for it goes to its seat.

It stands for the request before the queue (``scheduling.protocols.Holder``). Above is ``desk``,
which makes claims of what members submit, and takes their words to the core.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from inference_mcp.errors import InferenceError
from inference_mcp.scheduling.state import Ticket
from inference_mcp.scheduling.succession import SharedCore
from inference_mcp.sharing import told
from inference_mcp.sharing.wire import Message, WireError

__all__ = ["Claim", "ClaimDesk"]


class ClaimDesk(Protocol):
    """What a claim needs of its desk."""

    core: SharedCore
    clock: Callable[[], float]

    @property
    def deposed(self) -> bool:
        """Whether a later generation has begun, so that nothing may be granted here."""
        ...

    def say(self, owner: str, message: Message) -> None:
        """Post a message to a process; if that is gone, nothing."""
        ...

    def tell_table(self) -> None:
        """Post the lease table to all."""
        ...

    def has_ended(self, id_: str) -> None:
        """The queue has ended it; forget it once it holds nothing."""
        ...


class Claim:
    """See ``Holder``. ``lease`` numbers its grants; ``owner`` is the name of its process."""

    def __init__(self, desk: ClaimDesk, owner: str, ticket: Ticket, *, own: bool) -> None:
        self.ticket = ticket
        self.owner = owner
        self.own = own
        self.lease = 0
        self._desk = desk
        self._admitted = False

    def admitted(self) -> None:
        """Tell its owner, once, that it is in the queue and under which number."""
        entry = self._desk.core.entry(self.ticket.id)
        if not self._admitted and entry is not None:
            self._admitted = True
            loading = self._desk.core.is_loading(self.ticket.id)
            self._say(told.Admitted(id=self.ticket.id, number=entry.number, loading=loading))

    def adopted(self, lease: int) -> None:
        """It comes from an earlier arbiter, which had granted it so often."""
        self._admitted = True
        self.lease = lease

    def granted(self) -> None:
        """S23: the table goes to all before the grant goes to its owner."""
        if self._desk.deposed:
            return  # the next arbiter's to grant
        self.admitted()
        self.lease += 1
        entry = self._desk.core.world.entries[self.ticket.id]
        self._desk.tell_table()
        self._say(
            told.Grant(
                id=self.ticket.id,
                lease=self.lease,
                attempt=entry.attempts,
                aborts=entry.aborts,
                load_s=None if entry.carries_load else entry.load_s,
                carries_load=entry.carries_load,
                overdue=entry.granted_overdue,
            )
        )

    def stop(self) -> None:
        """Have the call closed."""
        self._say(told.Stop(id=self.ticket.id, lease=self.lease))

    def abandon(self, until: float) -> None:
        """Have the call kept open, though nobody wants its answer (S16)."""
        for_s = max(0.0, until - self._desk.clock())
        self._say(told.Abandon(id=self.ticket.id, lease=self.lease, for_s=for_s))

    def ended(self, error: InferenceError) -> None:
        """The queue has ended it."""
        self.admitted()
        self._desk.has_ended(self.ticket.id)
        self._say(told.Ended(id=self.ticket.id, error=WireError.of(error)))

    def load_failed(self, error: InferenceError, *, retried: bool) -> None:
        """The load that it asked for failed, and that was its try."""
        wire = WireError.of(error)
        self._say(told.Judged(id=self.ticket.id, retried=retried, error=wire))

    def changed(self) -> None:
        """How it stands has changed."""
        loading = self._desk.core.is_loading(self.ticket.id)
        self._say(told.Changed(id=self.ticket.id, loading=loading))

    def _say(self, message: Message) -> None:
        self._desk.say(self.owner, message)
