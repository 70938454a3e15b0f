"""Where lines go: a stream such as stderr, and a file that several processes write.

A host gives the same environment to every process that it starts, so all of them write one
file. Each takes a lock for each batch of lines, opens the file, appends and closes it again:
whoever writes may rotate, also where open files cannot be renamed; a file or folder that was
deleted is made anew; nothing is torn, for what did not fit is cut off again.

The file is readable by its owner alone, and beside it lies its lock. What is no plain file (a
device, a pipe) is written as it is. Nothing here knows what a line says; above is ``writing``,
whose thread may wait here. The lock's library is imported with the first write.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TextIO

if TYPE_CHECKING:
    from filelock import BaseFileLock

__all__ = ["FILES_KEPT", "FILE_BYTES", "SharedFile", "Stream"]

FILE_BYTES = 5 * 2**20
FILES_KEPT = 3
"""Older files beside the one that is written: some weeks of a home, and 20 MB at most."""

LOCK_S = 5.0
"""How long another process may hold the lock; one that was stopped may hold it for good."""

_POLL_S = 0.005
_NOT_NOW_S = 0.05


class SharedFile:
    """A rotating file, one for all processes that name it."""

    def __init__(
        self, path: Path, *, max_bytes: int = FILE_BYTES, files_kept: int = FILES_KEPT
    ) -> None:
        self._path = path
        self._max_bytes = max_bytes
        self._files_kept = files_kept
        self._lock: BaseFileLock | None = None

    def write(self, data: bytes) -> None:
        """Append whole lines, all of them or none.

        Raises:
            OSError: the folder, the file or its lock cannot be used now.
        """
        if self._is_special():
            with self._path.open("ab", buffering=0) as device:
                _write_all(device, data)
            return
        with self._locked():
            try:
                size = self._path.stat().st_size
            except FileNotFoundError:
                size = 0
            if size and size + len(data) > self._max_bytes:
                self._rotate()
            self._append(data)

    def _is_special(self) -> bool:
        try:
            return not stat.S_ISREG(self._path.stat().st_mode)
        except FileNotFoundError:
            return False

    def _locked(self) -> BaseFileLock:
        """The lock, to be taken by ``with``; its file is made in the log's folder."""
        from filelock import FileLock

        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        if self._lock is None:
            self._lock = FileLock(
                self._path.with_name(f"{self._path.name}.lock"),
                timeout=LOCK_S,
                mode=0o600,
                thread_local=False,
                poll_interval=_POLL_S,
                fallback_to_soft=False,  # such a lock would outlive a killed process
                preserve_lock_file=True,
            )
        return self._lock

    def _append(self, data: bytes) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        flags |= getattr(os, "O_BINARY", 0) | getattr(os, "O_CLOEXEC", 0)
        opened = os.open(self._path, flags, 0o600)
        try:
            found = os.fstat(opened)
            is_plain = stat.S_ISREG(found.st_mode)  # never change a device that came meanwhile
            if sys.platform != "win32" and is_plain and found.st_mode & 0o077:
                with suppress(PermissionError):  # another user's, who lets us write
                    os.fchmod(opened, 0o600)
            left = memoryview(data)
            try:
                while left:
                    left = left[os.write(opened, left) :]
            except OSError:  # the disk is full
                os.ftruncate(opened, found.st_size)
                raise
        finally:
            os.close(opened)

    def _rotate(self) -> None:
        """Unless somebody holds the file (on Windows: whoever reads it); then it grows."""
        with suppress(OSError):
            self._path.replace(self._older(0))
            for number in reversed(range(self._files_kept)):
                with suppress(OSError):
                    self._older(number).replace(self._older(number + 1))

    def _older(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class Stream:
    """A stream of this process, written past its buffer.

    The interpreter takes that buffer's lock at its end, and must not find it held by a thread
    that hangs in a pipe.
    """

    def __init__(self, stream: TextIO) -> None:
        self._text = stream
        self._raw: BinaryIO | None = None
        # In a test, or where there is none, it is not a file at all.
        with suppress(OSError, ValueError, AttributeError):
            self._raw = open(stream.fileno(), "wb", buffering=0, closefd=False)  # noqa: SIM115
        self._left = b""

    def write(self, data: bytes) -> None:
        """Write lines; what was left of them by a failure goes on where it ended.

        Raises:
            OSError, ValueError: the stream is closed, nobody is at its other end, or its disk
                is full.
        """
        if self._raw is None:
            self._text.write(data.decode())
            self._text.flush()
            return
        self._left = self._left or data
        while self._left:
            written = self._raw.write(self._left)
            if written is None:  # a pipe that does not block, and is full
                time.sleep(_NOT_NOW_S)
            else:
                self._left = self._left[written:]


def _write_all(stream: BinaryIO, data: bytes) -> None:
    left = memoryview(data)
    while left:
        left = left[stream.write(left) or 0 :]
