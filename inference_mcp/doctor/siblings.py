"""Who shares the queue of this LocalAI, and which of them keeps it (S21): asked from outside.

The look takes no seat and no lock, makes no folder and begins no generation: it reads the
meeting place, connects to the newest arbiter, and asks instead of introducing itself. All of it
is bounded by ``LOOK_S``.

Above is ``examining``; below is ``sharing``. It knows nothing of LocalAI.
"""

from __future__ import annotations

import os
import re
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

import anyio
import anyio.to_thread

from inference_mcp.doctor.checks import Check, variable_of
from inference_mcp.settings import Settings
from inference_mcp.sharing import asked, told
from inference_mcp.sharing.channel import ChannelClosedError, NonsenseError, connect
from inference_mcp.sharing.place import NoPlaceError, Place, share_folder
from inference_mcp.sharing.wire import MemberFault, encode

__all__ = ["LOOK_S", "check_siblings"]

LOOK_S = 2.0
"""An arbiter answers in milliseconds; one that does not is as good as none to its members."""

_NAME = "shared_queue"
_SHOWN = 20

_Found: TypeAlias = told.Table | Literal["nobody", "mute", "silent"]
"""The arbiter's table; or that nobody is there, tells nothing, or did not answer in time."""


async def check_siblings(settings: Settings, folder: Path | None = None) -> Check:
    """One check, which never fails: without others this server has a queue of its own.

    ``folder`` is the meeting place, for tests.
    """
    if settings.share == "off":
        told_off = f"off, as {variable_of('share')} says: each process has a queue of its own"
        return Check(_NAME, True, told_off, note=True)
    found: _Found = "silent"
    try:
        with anyio.move_on_after(LOOK_S):
            found = await _look(settings.base_url, folder)
    except NoPlaceError as error:
        detail = f"impossible, so each process has a queue of its own. {error}"
        where = folder or share_folder()
        step = f"Make {where} a folder that only this user can use, or set {_OFF}."
        return Check(_NAME, True, detail, step, note=True)
    if isinstance(found, told.Table):
        return Check(_NAME, True, _members(found))
    if found == "nobody":
        return Check(_NAME, True, "nobody runs now; the first process to start keeps the queue")
    if found == "mute":
        detail = "a process keeps the queue, but does not tell who shares it"
        step = "End the servers of other versions, so that all are of this one."
        return Check(_NAME, True, detail, step, note=True)
    detail = f"the process that keeps the queue did not answer within {LOOK_S:.0f} s"
    step = f"Check again; if it stays so, end and start the hosts of this LocalAI, or set {_OFF}."
    return Check(_NAME, True, detail, step, note=True)


_OFF = f"{variable_of('share')} to off"


async def _look(url: str, folder: Path | None) -> _Found:
    """Ask the newest arbiter.

    Raises:
        NoPlaceError: no process of this user could share here.
    """
    place = await anyio.to_thread.run_sync(partial(_place, url, folder), abandon_on_cancel=True)
    newest = place.newest() if place is not None else 0
    if place is None or not newest:
        return "nobody"
    try:
        channel = await connect(place, newest)
    except ChannelClosedError:  # it has died, and nobody has wanted the queue since
        return "nobody"
    except NonsenseError:
        return "mute"
    try:
        await channel.send(encode(asked.Look()))
        answer = told.parse(await channel.receive())
        return answer if isinstance(answer, told.Table) else "mute"
    except (ChannelClosedError, NonsenseError, MemberFault):
        return "mute"
    finally:
        await channel.aclose()


def _place(url: str, folder: Path | None) -> Place | None:
    """The meeting place where there is one; opening it makes nothing then.

    Raises:
        NoPlaceError: there can be none.
    """
    folder = folder or share_folder()
    there = os.path.lexists(folder)
    nearest = folder if there else next(each for each in folder.parents if each.exists())
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise NoPlaceError("The folder for sharing cannot be written.")
    return Place.open(url, folder) if there else None


def _members(table: told.Table) -> str:
    """Who sits there, the arbiter first; and what they have at LocalAI."""
    others = [seat for seat in table.seats if seat != table.arbiter]
    shown = [f"{_shown(table.arbiter)} keeps the queue", *map(_shown, others[:_SHOWN])]
    if len(others) > _SHOWN:
        shown.append(f"{len(others) - _SHOWN} more")
    count = f"{1 + len(others)} process{'es' * bool(others)}"
    at_work = f"{len(table.leases)} request{'s' * (len(table.leases) != 1)} at LocalAI"
    return f"{count}: {', '.join(shown)}; {at_work}"


def _shown(name: str) -> str:
    """A process by its number in the system, which its name begins with."""
    found = re.match(r"([0-9]{1,10})\.", name)
    if found:
        return f"process {found[1]}"
    return name if name.isprintable() else ascii(name)
