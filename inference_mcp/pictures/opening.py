"""From an absolute path to the bytes of one regular file under an allowed folder.

``references`` has judged the text; here the file system is asked, in a worker thread.
``sources`` and ``store`` stand above. Knows nothing of pictures.

The path is resolved first (links, ``..``), must then lie under a root, and is opened once:
what is read is what was opened. Between resolving and opening somebody may put a link in the
path, so the open itself follows none: where the system can, it walks down from the root one
folder handle at a time; elsewhere (Windows) what was opened is compared with what the path
means afterwards. A path outside every root gets the same answer whether it exists or not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from inference_mcp.pictures.references import system_folder
from inference_mcp.pictures.rules import PictureFlawError

__all__ = [
    "FILE_FLAGS",
    "Located",
    "existing_roots",
    "locate",
    "open_and_compare",
    "open_beneath",
    "read_file",
]

FILE_FLAGS: Final = (
    os.O_RDONLY
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_NONBLOCK", 0)  # a pipe without a writer must not hold the thread
    | getattr(os, "O_NOCTTY", 0)
    | getattr(os, "O_CLOEXEC", 0)
    | getattr(os, "O_BINARY", 0)
)
_FOLDER_FLAGS: Final = (
    getattr(os, "O_PATH", os.O_RDONLY)
    | getattr(os, "O_NOFOLLOW", 0)
    | getattr(os, "O_DIRECTORY", 0)
    | getattr(os, "O_CLOEXEC", 0)
)
_MAX_SHOWN: Final = 6
_CAN_WALK: Final = os.open in os.supports_dir_fd and os.stat in os.supports_dir_fd


@dataclass(frozen=True, slots=True)
class Located:
    """A resolved path: ``folder`` is (or was) an allowed one, ``parts`` lead down from it."""

    folder: str
    parts: tuple[str, ...]

    @property
    def path(self) -> str:
        """The whole resolved path."""
        return os.path.join(self.folder, *self.parts)  # noqa: PTH118  # strings throughout


def existing_roots(roots: Sequence[Path], offered: Sequence[Path] = ()) -> tuple[str, ...]:
    """The roots that are folders now, resolved; looked at on each use, for folders come and go.

    ``offered`` are a host's: of those a file system's root is none, nor what holds the home
    folder, for with it a model could read all that its user can.
    """
    resolved = [root for each in roots if (root := _resolved(each)) is not None]
    found = [root for each in offered if (root := _resolved(each)) is not None]
    resolved += [root for root in found if not _is_too_wide(root)]
    # Not ``Path.is_dir``, which raises for some that cannot be looked at.
    return tuple(dict.fromkeys(root for root in resolved if os.path.isdir(root)))  # noqa: PTH112


def _resolved(root: Path) -> str | None:
    try:
        return os.path.realpath(root)
    except (OSError, ValueError):
        return None


def _is_too_wide(root: str) -> bool:
    try:
        home = Path(os.path.realpath(Path.home()))
    except RuntimeError:  # no home: then nothing can be told from it
        return True
    return _any_of([str(folder) for folder in (home, *home.parents, Path(root).anchor)])(root)


def locate(path: str, roots: Sequence[str]) -> Located:
    """Resolve ``path`` and find the root that it lies under.

    Raises:
        PictureFlawError: under no root, or in a folder of the system's own.
    """
    try:
        # Not strict: whether something outside the roots exists is nobody's business.
        resolved = Path(os.path.realpath(path))
    except (OSError, ValueError):
        raise PictureFlawError("cannot be found") from None
    if os.name == "posix" and system_folder(str(resolved)):
        raise PictureFlawError("is in a system folder, which this server does not open")
    is_root = _any_of(roots)
    for folder in (resolved, *resolved.parents):
        if is_root(str(folder)):
            if folder == resolved:
                raise _is_folder()
            return Located(str(folder), resolved.relative_to(folder).parts)
    shown = ", ".join(roots[:_MAX_SHOWN]) or "none of them exists now"
    if len(roots) > _MAX_SHOWN:
        shown += f" and {len(roots) - _MAX_SHOWN} more"
    raise PictureFlawError(
        "is not under an input root",
        f"Ask for the picture to be put into an input root ({shown}) and name it there, or send"
        " it as a base64 data: URI.",
    )


def read_file(located: Located, *, limit_bytes: int) -> bytes:
    """The whole file.

    Raises:
        PictureFlawError: not there, not readable, not a regular file, too large, empty, or the
            path came to mean something else meanwhile.
    """
    opener = open_beneath if _CAN_WALK else open_and_compare
    try:
        # One more byte than allowed: a file may grow after it was measured.
        data = _read(opener(located), limit_bytes + 1)
    except OSError as error:
        raise _flaw_of(error) from None
    if len(data) > limit_bytes:
        raise PictureFlawError(
            f"is larger than {limit_bytes // 1_000_000} MB", "Use a smaller picture."
        )
    if not data:
        raise PictureFlawError("is an empty file")
    return data


def _read(descriptor: int, count_bytes: int) -> bytes:
    """So many bytes of a regular file, or fewer; the descriptor is closed in any case."""
    try:
        # What was a file when it was looked at may be none now, and a folder opens like one.
        _require_regular(os.fstat(descriptor))
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read(count_bytes)
    finally:
        os.close(descriptor)


def open_beneath(located: Located) -> int:
    """Open by walking down folder handles, no link followed at any step; returns a descriptor.

    Raises:
        OSError: ``ELOOP`` or ``ENOTDIR`` where a part has become a link.
        PictureFlawError: there is no regular file.
    """
    folder = os.open(located.folder, _FOLDER_FLAGS)
    try:
        for name in located.parts[:-1]:
            below = os.open(name, _FOLDER_FLAGS, dir_fd=folder)
            os.close(folder)
            folder = below
        name = located.parts[-1]
        # Looked at first, for to open a device may already do something.
        _require_regular(os.stat(name, dir_fd=folder, follow_symlinks=False))
        return os.open(name, FILE_FLAGS, dir_fd=folder)
    finally:
        os.close(folder)


def open_and_compare(located: Located) -> int:
    """Open by the whole path, then check that the path still means what was opened.

    For systems without folder handles. Raises as ``open_beneath``, and ``PictureFlawError``
    where the path has changed.
    """
    path = located.path
    _require_regular(os.stat(path, follow_symlinks=False))  # noqa: PTH116  # as os.fstat below
    descriptor = os.open(path, FILE_FLAGS)
    try:
        _require_unchanged(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _require_unchanged(descriptor: int, path: str) -> None:
    now = os.stat(path, follow_symlinks=False)  # noqa: PTH116  # as above
    same = os.path.samestat(os.fstat(descriptor), now)
    if not same or not _same_text(os.path.realpath(path), path):
        raise PictureFlawError("changed while it was opened")


def _same_text(one: str, other: str) -> bool:
    return os.path.normcase(one) == os.path.normcase(other)


def _any_of(roots: Sequence[str]) -> Callable[[str], bool]:
    """Tells whether a folder is one of these, each of which is looked at once: a path may have
    two thousand folders above it, and a host a hundred roots.
    """  # noqa: D205  # one sentence
    # By text, and where that fails by identity: a disk may ignore case (macOS) where
    # normcase does not.
    texts = {os.path.normcase(root) for root in roots}
    identities = {found for root in roots if (found := _identity(root)) is not None}

    def is_one(folder: str) -> bool:
        return os.path.normcase(folder) in texts or _identity(folder) in identities

    return is_one


def _identity(folder: str) -> tuple[int, int] | None:
    """Disk and number; some network disks number nothing: 0 says nothing."""
    try:
        found = os.stat(folder)  # noqa: PTH116  # as above
    except (OSError, ValueError):
        return None
    return (found.st_dev, found.st_ino) if found.st_ino else None


def _require_regular(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise _is_folder()
    if stat.S_ISLNK(status.st_mode):
        # Resolving leaves none: a circle of links, or one that was put there since.
        raise PictureFlawError("is a link that leads nowhere, or changed while it was opened")
    if not stat.S_ISREG(status.st_mode):
        raise _not_regular()


def _is_folder() -> PictureFlawError:
    return PictureFlawError("is a folder", "Name one picture file inside it.")


def _not_regular() -> PictureFlawError:
    return PictureFlawError("is not a regular file but a pipe, socket or device")


def _flaw_of(error: OSError) -> PictureFlawError:
    if error.errno in (errno.ENOENT, errno.ENAMETOOLONG):
        return PictureFlawError("does not exist", "Check the spelling of the path.")
    if error.errno in (errno.EACCES, errno.EPERM):
        return PictureFlawError(
            "cannot be read: permission denied", "Ask for leave to read it, or for a copy."
        )
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return PictureFlawError("does not exist, or changed while it was opened")
    return PictureFlawError("cannot be read")
