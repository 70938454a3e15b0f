"""One request at the arbiter: what was decided for it is said to its owner, once and in order."""

from __future__ import annotations

from collections.abc import Callable

from inference_mcp.errors import BackendFailedError, QueueFullError
from inference_mcp.requests import Priority, RequestType
from inference_mcp.scheduling.state import Limits, Ticket
from inference_mcp.scheduling.succession import SharedCore
from inference_mcp.sharing import told
from inference_mcp.sharing.claim import Claim
from inference_mcp.sharing.wire import Message
from tests.sharing.counter import Clock

TICKET = Ticket("a", RequestType.TXT2TXT, Priority.NORMAL, "m", 1e9)


class Slate:
    """A desk that writes down what is said; the table as ``None``."""

    def __init__(self) -> None:
        self.core = SharedCore(Limits())
        self.clock: Callable[[], float] = Clock()
        self.deposed = False
        self.said: list[tuple[str, Message] | None] = []

    def say(self, owner: str, message: Message) -> None:
        """Write it down."""
        self.said.append((owner, message))

    def has_ended(self, id_: str) -> None:
        """Nothing is kept here."""

    def tell_table(self) -> None:
        """Write it down."""
        self.said.append(None)

    @property
    def words(self) -> list[Message | None]:
        """What was said, to whomever."""
        return [each[1] if each is not None else None for each in self.said]


def granted() -> tuple[Slate, Claim]:
    """A claim whose request has its grant."""
    slate = Slate()
    slate.core.seen_loaded(["m"], slate.clock())
    slate.core.submit(TICKET, slate.clock())
    return slate, Claim(slate, "me", TICKET, own=False)


def test_a_grant_is_said_after_number_and_table() -> None:
    """S23: the owner hears its number first, all others of the lease."""
    slate, claim = granted()
    claim.granted()
    assert slate.words == [
        told.Admitted(id="a", number=1),
        None,
        told.Grant(
            id="a", lease=1, attempt=1, aborts=0, load_s=0.0, carries_load=False, overdue=False
        ),
    ]
    assert {each[0] for each in slate.said if each is not None} == {"me"}


def test_a_number_is_told_once() -> None:
    """S1: and never again, also not of what an earlier arbiter took in."""
    slate, claim = granted()
    claim.admitted()
    claim.admitted()
    assert slate.words == [told.Admitted(id="a", number=1)]
    slate, claim = granted()
    claim.adopted(7)
    claim.admitted()
    claim.granted()
    assert slate.words[0] is None
    grant = slate.words[1]
    assert isinstance(grant, told.Grant)
    assert grant.lease == 8


def test_who_is_deposed_grants_nothing() -> None:
    """S23: the next arbiter's to grant."""
    slate, claim = granted()
    slate.deposed = True
    claim.granted()
    assert slate.said == []


def test_each_decision_names_the_lease_that_it_is_about() -> None:
    """S22: so that a word about an earlier one is known for what it is."""
    slate, claim = granted()
    claim.adopted(3)
    claim.stop()
    claim.abandon(slate.clock() + 2.5)
    claim.abandon(slate.clock() - 2.5)
    assert slate.words == [
        told.Stop(id="a", lease=3),
        told.Abandon(id="a", lease=3, for_s=2.5),
        told.Abandon(id="a", lease=3, for_s=0.0),
    ]


def test_ends_and_verdicts_are_told_with_their_errors() -> None:
    """S12, S14: the error is one that the owner can raise."""
    slate, claim = granted()
    claim.adopted(1)
    claim.ended(QueueFullError("Full.", depth=4))
    claim.load_failed(BackendFailedError("No.", transient=True), retried=True)
    claim.changed()
    ended, judged, changed = slate.words
    assert isinstance(ended, told.Ended)
    assert isinstance(judged, told.Judged)
    error = ended.error.error()
    assert isinstance(error, QueueFullError)
    assert error.depth == 4
    assert judged.retried
    assert judged.error is not None
    assert judged.error.what == "No."
    assert changed == told.Changed(id="a", loading=False)
