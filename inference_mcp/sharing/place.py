"""Where the processes of one user meet: a private folder, and in it a lock for each generation.

An arbiter belongs to a *generation* (1, 2, 3 …). It holds the OS lock on its generation's file
for as long as it lives; the system frees it when the process ends, however it ends (S22). Who
finds a generation dead, or leaves one that hangs, goes on to the next (S23). Generations only
rise, and a file with a higher number deposes all lower ones, so two arbiters that both believe
in themselves are told apart by looking at the folder.

The folder follows from the user alone: hosts pass on different environments, and two processes
that look in two folders are two queues (S21). Nothing here waits, opens a socket or knows what
is said there. Below is nothing of ours; above is ``channel`` and the rest of the room.
"""

from __future__ import annotations

import contextlib
import hashlib
import ipaddress
import json
import os
import re
import stat
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.parse import SplitResult, urlsplit

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = [
    "LAST_GENERATION",
    "PATH_LIMIT_BYTES",
    "Address",
    "Door",
    "Hold",
    "NoPlaceError",
    "Place",
    "normalised",
    "share_folder",
]

PATH_LIMIT_BYTES = 100
"""The longest path of a Unix socket: systems allow 103 (macOS) to 107 (Linux)."""

LAST_GENERATION = 999_999_999
"""A number of more digits would not fit the path that was checked."""

_LONGEST_NAME = f"{'0' * 16}.{LAST_GENERATION}.sock"
_DOOR_LIMIT_BYTES = 1024
_PORTS = {"http": 80, "https": 443}
_MACHINE = Path("/etc/machine-id")


class NoPlaceError(Exception):
    """Sharing is impossible here; one sentence says why, without a path in it."""


@dataclass(frozen=True)
class Address:
    """Where a generation's arbiter listens."""

    path: Path
    """The socket itself, or with ``tcp`` the file that tells port and token."""
    tcp: bool


@dataclass(frozen=True)
class Door:
    """What the file of an arbiter on TCP tells, to those who can read it."""

    port: int
    token: bytes = field(repr=False)


class Hold:
    """The lock of one generation, held until ``release``, the end of the process or of this."""

    def __init__(self, generation: int, lock: BaseFileLock) -> None:
        self.generation = generation
        self._lock = lock

    def release(self) -> None:
        """Let go. Again is harmless."""
        with contextlib.suppress(OSError):  # what cannot be let go ends with the process
            self._lock.release(force=True)


class Place:
    """The meeting place of the processes of one user with the same LocalAI."""

    def __init__(self, folder: Path, key: str, *, tcp: bool) -> None:
        self.folder = folder
        self.key = key
        self.tcp = tcp
        self._name = re.compile(rf"{key}\.([1-9][0-9]{{0,8}})\.(lock|sock|port|tmp)")
        self._taken: dict[int, tuple[Path, tuple[int, int]]] = {}

    @classmethod
    def open(
        cls, url: str, folder: Path | None = None, *, tcp: bool = sys.platform == "win32"
    ) -> Self:
        """The place for this LocalAI; makes its folder. Tests name another, and ``tcp``.

        Raises:
            NoPlaceError: there is no folder that only this user can use.
        """
        folder = share_folder() if folder is None else folder
        if not tcp and not _fits(folder):
            raise NoPlaceError("The path of the folder for sharing is too long for a socket.")
        _make_private(folder)
        text = f"{_machine()}\n{normalised(url)}"
        key = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]
        return cls(folder, key, tcp=tcp)

    def newest(self) -> int:
        """The highest generation that left a lock file here, held or not; 0 if none did."""
        locks = (generation for generation, kind, _ in self._names() if kind == "lock")
        return max(locks, default=0)

    def take(self, generation: int) -> Hold | None:
        """Try to become the arbiter of a generation, without waiting.

        The look back afterwards sees a higher generation that was begun in the meantime: a lower
        one never begins beside a higher (S23).

        Returns:
            ``None`` if another holds it, or there is a higher one.

        Raises:
            NoPlaceError: there are no locks here.
        """
        if not 0 < generation <= LAST_GENERATION:
            raise NoPlaceError("The generations of the shared queue are used up.")
        _make_private(self.folder)  # the library would make one that is open to all
        if self.newest() > generation:
            return None
        path = self._path(generation, "lock")
        lock = _locked(path)
        if lock is None:
            return None
        hold = Hold(generation, lock)
        identity = _identity(path)
        if identity is None or self.newest() > generation:
            hold.release()
            return None
        self._taken[generation] = path, identity
        return hold

    def is_dead(self, generation: int) -> bool:
        """Whether nobody holds that generation's lock; without a file nobody does.

        It is tried and let go at once, so for that moment another who asks hears that it lives,
        and one who wants it is refused: both look again.

        Raises:
            NoPlaceError: there are no locks here.
        """
        path = self._path(generation, "lock")
        if _identity(path) is None:
            return True
        lock = _locked(path)
        if lock is None:
            return False
        Hold(generation, lock).release()
        return True

    def deposed(self, generation: int) -> bool:
        """Whether a higher generation was begun, or the lock that was taken here is out of sight.

        A cleaner of temporary files may remove a file that is held: who comes then begins anew,
        and the holder must not go on beside him. Costs one look into the folder: it is asked
        before each grant, so it makes no new paths, whose parts Python would intern each time.
        """
        if self.newest() > generation:
            return True
        taken = self._taken.get(generation)
        return taken is not None and _identity(taken[0]) != taken[1]

    def sweep(self, generation: int) -> None:
        """Remove what generations lower than this one left; what cannot be removed stays."""
        for found, _, name in self._names():
            if found < generation:
                with contextlib.suppress(OSError):  # Windows keeps what is open
                    (self.folder / name).unlink()

    def address(self, generation: int) -> Address:
        """Where the arbiter of this generation listens, or would."""
        return Address(self._path(generation, "port" if self.tcp else "sock"), self.tcp)

    def publish(self, generation: int, door: Door) -> None:
        """Tell port and token of an arbiter on TCP: the whole file or none, for this user alone.

        Raises:
            OSError: it could not be written.
        """
        path, draft = self.address(generation).path, self._path(generation, "tmp")
        draft.unlink(missing_ok=True)  # of one who died while writing; we hold the lock
        content = json.dumps({"port": door.port, "token": door.token.hex()}).encode()
        with os.fdopen(os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
            file.write(content)
        draft.replace(path)

    def published(self, generation: int) -> Door | None:
        """What the arbiter on TCP told; ``None`` if nothing that can be used."""
        try:
            with self.address(generation).path.open("rb") as file:
                found = json.loads(file.read(_DOOR_LIMIT_BYTES))
            door = Door(int(found["port"]), bytes.fromhex(found["token"]))
        except (OSError, ValueError, TypeError, KeyError, RecursionError):
            return None
        return door if 0 < door.port < 65536 and len(door.token) >= 32 else None

    # --- files --------------------------------------------------------------------------

    def _path(self, generation: int, kind: str) -> Path:
        return self.folder / f"{self.key}.{generation}.{kind}"

    def _names(self) -> list[tuple[int, str, str]]:
        """Generation, kind and name of all that is here for this LocalAI."""
        try:
            names = os.listdir(self.folder)  # noqa: PTH208 - names alone: asked often
        except OSError:
            return []
        matches = [found for name in names if (found := self._name.fullmatch(name))]
        return [(int(each[1]), each[2], each[0]) for each in matches]


# --- the folder -------------------------------------------------------------------------


def share_folder() -> Path:
    """The folder of this user, whatever the environment and the settings say."""
    if sys.platform == "win32":
        import platformdirs  # asks the system; no other system needs it here

        return platformdirs.user_data_path("inference-mcp", appauthor=False, roaming=False)
    import pwd  # not on Windows

    uid = os.getuid()
    try:
        return _folder_of(Path(pwd.getpwuid(uid).pw_dir), uid)
    except KeyError:
        return _folder_of(None, uid)


def _folder_of(home: Path | None, uid: int) -> Path:
    """In the home, or where that cannot be. A home that comes and goes would split the queue."""
    spare = Path(f"/tmp/inference-mcp-{uid}")  # noqa: S108 - its owner is checked
    if home is None or not home.is_absolute():
        return spare
    folder = home / ".inference-mcp"
    used = folder if os.access(folder, os.F_OK) else home
    writable = os.access(used, os.W_OK | os.X_OK)
    return folder if writable and _fits(folder) else spare


def _fits(folder: Path) -> bool:
    """Whether the longest socket path in it does, so that no generation changes the answer."""
    return len(os.fsencode(folder / _LONGEST_NAME)) <= PATH_LIMIT_BYTES


def _make_private(folder: Path) -> None:
    """Make the folder, or see that it is this user's own and close it to others.

    Raises:
        NoPlaceError: it is another's, a link, no folder, or cannot be made.
    """
    with contextlib.suppress(FileExistsError):
        try:
            folder.mkdir(mode=0o700, parents=True)
        except FileExistsError:
            raise
        except OSError as error:
            raise NoPlaceError("The folder for sharing cannot be made.") from error
    if sys.platform == "win32":
        if folder.is_symlink() or not folder.is_dir():
            raise NoPlaceError("The folder for sharing is not a folder.")
    else:
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
        try:
            opened = os.open(folder, flags)
        except OSError as error:
            raise NoPlaceError("The folder for sharing is a link or no folder.") from error
        try:
            _close_to_others(opened)
        finally:
            os.close(opened)


def _close_to_others(folder: int) -> None:
    """By its descriptor, so that what is checked is what is changed."""
    if sys.platform != "win32":
        found = os.fstat(folder)
        if found.st_uid != os.getuid():
            raise NoPlaceError("The folder for sharing belongs to another user.")
        if stat.S_IMODE(found.st_mode) != 0o700:
            try:
                os.fchmod(folder, 0o700)
            except OSError as error:
                raise NoPlaceError("The folder for sharing is open to other users.") from error


# --- locks ------------------------------------------------------------------------------


def _locked(path: Path) -> BaseFileLock | None:
    """The lock on this file, ``None`` if another has it.

    A lock that is only a file's presence would outlive a killed process, so none is taken where
    the file system has no other; and on Windows the file stays when the lock goes, for it keeps
    the number. Children do not inherit it.

    Raises:
        NoPlaceError: there are no locks here.
    """
    from filelock import FileLock, Timeout  # here: the first answer does not wait for it

    try:
        lock = FileLock(
            path,
            mode=0o600,
            thread_local=False,
            blocking=False,
            fallback_to_soft=False,
            preserve_lock_file=True,
        )
        lock.acquire()
    except Timeout:
        return None
    except (OSError, NotImplementedError, ValueError) as error:
        raise NoPlaceError(
            "The folder for sharing cannot be written, or has no file locks."
        ) from error
    return lock


def _identity(path: Path) -> tuple[int, int] | None:
    """Which file bears this name; ``None`` if none does."""
    try:
        found = path.lstat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


# --- the name ---------------------------------------------------------------------------


def _machine() -> str:
    """What tells machines apart that share a home over the network: a socket reaches only one."""
    try:
        return _MACHINE.read_text(encoding="ascii").strip()
    except (OSError, ValueError):
        return ""


def normalised(url: str) -> str:
    """One text for all ways to write one LocalAI. Never raises; what is no URL is its own text."""
    try:
        parts = urlsplit(url.strip())
        host, port = _host(parts), parts.port or _PORTS.get(parts.scheme, 0)
    except ValueError:
        return url.strip()
    path = parts.path.rstrip("/").removesuffix("/v1").rstrip("/")
    return f"{parts.scheme}://{host}:{port}{path}"


def _host(parts: SplitResult) -> str:
    """All names of this machine are one; other addresses have one spelling."""
    host = (parts.hostname or "").rstrip(".")
    if host == "localhost" or host.endswith(".localhost"):
        return "localhost"
    with contextlib.suppress(ValueError):
        address = ipaddress.ip_address(host)
        address = getattr(address, "ipv4_mapped", None) or address
        local = address.is_loopback or address.is_unspecified
        return "localhost" if local else address.compressed
    with contextlib.suppress(UnicodeError):
        return host.encode("idna").decode("ascii")
    return host
