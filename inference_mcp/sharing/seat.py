"""One process at the arbiter's desk: its name, its requests, and who can be written to.

Above is ``desk``, which hears what it says.
"""

from __future__ import annotations

from typing import Protocol

from inference_mcp.sharing import asked
from inference_mcp.sharing.claim import Claim
from inference_mcp.sharing.post import Recipient

__all__ = ["Hearing", "Seat"]


class Hearing(Protocol):
    """What a seat needs of its desk."""

    def hear(self, seat: Seat, message: asked.FromMember) -> None:
        """Take in what a process says."""
        ...


class Seat:
    """One process at the desk. ``looks`` while a look at the queue is still to be answered."""

    def __init__(self, desk: Hearing, name: str, recipient: Recipient, *, own: bool) -> None:
        self.name = name
        self.own = own
        self.recipient = recipient
        self.looks = False
        self.claims: dict[str, Claim] = {}
        self._desk = desk

    def hear(self, message: asked.FromMember) -> None:
        """Take in what this process says.

        Raises:
            MemberFault: it contradicts itself.
        """
        self._desk.hear(self, message)
