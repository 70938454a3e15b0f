"""One file of a host's, changed as a whole or not at all.

Links are followed to the file itself; permissions, owner, byte order mark and line ends stay.
What it was lies beside it under a new name before anything is replaced, and the change arrives
by one rename. Anything odd (no regular file, too large, not UTF-8, changed meanwhile) is
refused before that. It knows no host and no notation.
"""

from __future__ import annotations

import os
import secrets
import stat
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from inference_mcp.errors import HostError

__all__ = ["Written", "rewrite"]

MOST_BYTES = 4_000_000
"""Settings that people write are a thousandth of that."""
_MARK = b"\xef\xbb\xbf"
_READ = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
_MAKE = os.O_CREAT | os.O_EXCL | os.O_WRONLY | getattr(os, "O_BINARY", 0)
_PRIVATE = 0o600
"""For a file that was not there: a secret may be put into it later."""


@dataclass(frozen=True)
class Written:
    """``changed`` is false where nothing had to be; ``backup`` is what the file was before."""

    file: Path
    changed: bool
    backup: Path | None = None


@dataclass(frozen=True)
class _Found:
    content: bytes
    about: os.stat_result


def rewrite(file: Path, change: Callable[[str], str], stamp: str) -> Written:
    """Change a file's text. ``stamp`` is the time, for the backup's name.

    Raises:
        HostError: it cannot be read, changed or written; it is as it was.
    """
    try:
        real = file.resolve()
        if not real.parent.is_dir():
            raise HostError(f"{real.parent} is not there, so the host seems not to be installed")
        found = _read(real)
        mark = _MARK if found is not None and found.content.startswith(_MARK) else b""
        before = "" if found is None else found.content.removeprefix(_MARK).decode()
        after = change(before)
        if found is not None and after == before:
            return Written(real, changed=False)
        backup = None if found is None else _back_up(real, found, stamp)
        _replace(real, mark + after.encode(), found)
    except UnicodeDecodeError:
        raise HostError("it is not UTF-8") from None
    except (OSError, RuntimeError) as error:  # RuntimeError: links in a circle, before 3.13
        problem = getattr(error, "strerror", None) or type(error).__name__
        raise HostError(f"it cannot be changed: {problem}") from None
    return Written(real, changed=True, backup=backup)


def _read(file: Path) -> _Found | None:
    try:
        number = os.open(file, _READ)
    except FileNotFoundError:
        return None
    with os.fdopen(number, "rb") as opened:
        about = os.fstat(number)
        if not stat.S_ISREG(about.st_mode):
            raise HostError("it is no file")
        content = opened.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise HostError("it is too large for a file of settings")
    if not os.access(file, os.W_OK):
        raise HostError("it may not be written")
    return _Found(content, about)


def _back_up(file: Path, found: _Found, stamp: str) -> Path:
    """A copy under a name that nothing had."""
    tried = 0
    while True:
        backup = file.with_name(f"{file.name}.bak-{stamp}" + (f"-{tried}" if tried else ""))
        try:
            _make(backup, found.content, found.about)
        except FileExistsError:
            tried += 1
        else:
            return backup


def _replace(file: Path, content: bytes, found: _Found | None) -> None:
    draft = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    try:
        _make(draft, content, None if found is None else found.about)
        _check_unchanged(file, found)
        draft.replace(file)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()


def _make(file: Path, content: bytes, like: os.stat_result | None) -> None:
    """A new file, whole on the disk, with another's permissions; none where that fails."""
    number = os.open(file, _MAKE, _PRIVATE)
    try:
        with os.fdopen(number, "wb") as opened:
            if like is not None and hasattr(os, "fchmod"):
                made = os.fstat(number)
                if (made.st_uid, made.st_gid) != (like.st_uid, like.st_gid):
                    os.fchown(number, like.st_uid, like.st_gid)
                os.fchmod(number, stat.S_IMODE(like.st_mode))
            opened.write(content)
            opened.flush()
            os.fsync(number)
    except BaseException:
        file.unlink(missing_ok=True)
        raise


def _check_unchanged(file: Path, found: _Found | None) -> None:
    try:
        now = file.stat()
    except FileNotFoundError:
        now = None
    before = None if found is None else found.about
    if _state(now) != _state(before):
        raise HostError("it was changed meanwhile; try again")


def _state(about: os.stat_result | None) -> tuple[int, int, int] | None:
    return None if about is None else (about.st_ino, about.st_size, about.st_mtime_ns)
