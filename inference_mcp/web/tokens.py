"""The token's file: 256 random bits that only this user can read.

It is made once and kept, for hosts have it in their settings. Whoever makes it first wins: a
second process that starts at the same moment reads the first one's. What lies in its place and
is another's, a link, or open to others is not used: it may be known, or may have been planted.
On Windows the folder's place in the user's profile keeps others out. Above is ``serving``.
"""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path

from inference_mcp.errors import StartError

__all__ = ["keep_token", "token_file"]

_BYTES = 32
_TOKEN_BYTES = 43
_LOOKS = 50
_LOOK_EVERY_S = 0.01
_TOKEN = re.compile(rb"([A-Za-z0-9_-]{43})\r?\n?")
_ANEW = "Make a new one with --new-token, and give it to your hosts."
_READ = os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


def token_file() -> Path:
    """Where it is kept: state of this program's, which no backup of settings carries along."""
    import platformdirs

    return platformdirs.user_state_path("inference-mcp", appauthor=False) / "serve-token"


def keep_token(file: Path, *, new: bool = False) -> str:
    """The token that the file holds; with ``new``, or where there is none, a new one.

    Raises:
        StartError: it cannot be kept, or what is there must not be used.
    """
    try:
        _make_private(file.parent)
        if not new and (found := _read(file)) is not None:
            return found
        return _written(file, replace=new)
    except OSError as error:
        problem = error.strerror or type(error).__name__
        raise StartError(f"The token cannot be kept in {file}: {problem}.") from None


def _make_private(folder: Path) -> None:
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if sys.platform == "win32":
        return
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
    number = os.open(folder, flags)
    try:
        found = os.fstat(number)
        if found.st_uid != os.getuid():
            raise StartError(f"{folder} belongs to somebody else, so no token is kept there.")
        if stat.S_IMODE(found.st_mode) & 0o077:
            os.fchmod(number, 0o700)
    finally:
        os.close(number)


def _read(file: Path) -> str | None:
    """The token; ``None`` where there is no file. A short one may be about to be written."""
    for _ in range(_LOOKS):
        held = _held(file)
        if held is None:
            return None
        if match := _TOKEN.fullmatch(held):
            return match[1].decode()
        if len(held) >= _TOKEN_BYTES:
            break
        time.sleep(_LOOK_EVERY_S)
    raise StartError(f"{file} holds no token. {_ANEW}")


def _held(file: Path) -> bytes | None:
    """What the file holds now, once it is known to be ours alone."""
    try:
        number = os.open(file, _READ)
    except FileNotFoundError:
        return None
    with os.fdopen(number, "rb") as opened:
        found = os.fstat(number)
        if not stat.S_ISREG(found.st_mode):
            raise StartError(f"{file} is no file. {_ANEW}")
        if sys.platform != "win32":
            if found.st_uid != os.getuid():
                raise StartError(f"{file} belongs to somebody else. {_ANEW}")
            if stat.S_IMODE(found.st_mode) & 0o077:
                raise StartError(f"{file} could be read by others. {_ANEW}")
        return opened.read(100)


def _written(file: Path, *, replace: bool) -> str:
    """A new token, whole in its place at once; where one came first, that one."""
    token = secrets.token_urlsafe(_BYTES)
    draft = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    made = os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(made, "wb") as opened:
            opened.write(token.encode() + b"\n")
        if replace:
            draft.replace(file)
        elif sys.platform == "win32":
            draft.rename(file)  # which replaces nothing there
        elif not _is_linked(draft, file):
            _write_in_place(file, token)
            return _read(file) or _written(file, replace=replace)  # what the others will read
    except FileExistsError:
        return _read(file) or _written(file, replace=replace)
    finally:
        with suppress(FileNotFoundError):
            draft.unlink()
    return token


def _is_linked(draft: Path, file: Path) -> bool:
    """Whether it could be; exFAT and some network folders have no links, and say so variously.

    Raises:
        FileExistsError: somebody came first.
    """
    try:
        os.link(draft, file)
    except FileExistsError:
        raise
    except OSError:
        return False
    return True


def _write_in_place(file: Path, token: str) -> None:
    """One alone makes the file; whoever finds it empty waits for what comes (``_read``).

    Raises:
        FileExistsError: somebody came first.
    """
    made = os.open(file, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600)
    try:
        with os.fdopen(made, "wb", buffering=0) as opened:
            opened.write(token.encode() + b"\n")
            os.fsync(made)
    except OSError:
        file.unlink()  # nobody has read it: it holds no token
        raise
