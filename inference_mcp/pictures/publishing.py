"""Putting a whole file under its final name: all at once, and never over another one.

Synchronous, for a worker thread. ``store`` stands above. Knows nothing of pictures.

The bytes go to a temporary file beside the final one, reach the disk, and then get the final
name by a hard link, which fails where the name is taken. Where a disk has no hard links (FAT,
some shares) an empty file reserves the name first and is then replaced; so readers take an
empty file for none.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

__all__ = ["publish", "rename_reserved", "write_temporary"]


def publish(data: bytes, target: Path) -> bool:
    """Write ``target``; ``False``, with nothing changed, where a file of that name exists.

    Raises:
        OSError: the folder cannot be made or written, or the disk is full.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = write_temporary(data, target.parent)
    try:
        try:
            os.link(temporary, target)
        except FileExistsError:
            return False
        except (OSError, NotImplementedError):
            return rename_reserved(temporary, target)
        return True
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_temporary(data: bytes, folder: Path) -> Path:
    """Write a new hidden file to the disk itself; leaves nothing behind where it fails."""
    path = folder / f".{secrets.token_hex(8)}.part"
    with path.open("xb") as file:
        try:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        except BaseException:
            file.close()  # Windows removes no open file
            path.unlink(missing_ok=True)
            raise
    return path


def rename_reserved(temporary: Path, target: Path) -> bool:
    """Reserve the name with an empty file, then replace that. As ``publish``."""
    try:
        target.open("xb").close()
    except FileExistsError:
        return False
    try:
        temporary.replace(target)
    except BaseException:
        target.unlink(missing_ok=True)
        raise
    return True
