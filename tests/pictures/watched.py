"""Inputs through the real code in a process of their own, which is measured and listened to.

``Watched`` starts it; run as a module, this is that process. For each input it tells what became
of it, the memory at its peak above what the interpreter had when it began, before it imported
anything of the package, the processor's seconds, and each path that was opened meanwhile.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

__all__ = ["MOST_BYTES", "MOST_S", "Fate", "Watched"]

MOST_BYTES = 200_000_000
MOST_S = 2.0

_HIGH_WATER = Path("/proc/self/status")


@dataclass(frozen=True)
class Fate:
    """What became of one input. ``outcome`` is ``taken``, an error's code, or a fault's name."""

    outcome: str
    peak_bytes: int
    cpu_s: float
    opened: tuple[str, ...]
    seen: tuple[int, ...]
    note: str

    @property
    def is_well(self) -> bool:
        """Taken, or refused by one of the errors that are foreseen."""
        return self.outcome in ("taken", "image_rejected", "bad_result", "backend_error")

    def strays(self, *allowed: Path) -> list[str]:
        """What was opened elsewhere."""
        roots = [*allowed, Path(sys.prefix), Path(sys.base_prefix)]
        return [
            path for path in self.opened if not any(Path(path).is_relative_to(r) for r in roots)
        ]


class Watched:
    """The process. ``root`` is its one input root, ``output`` its folder for pictures."""

    def __init__(self, root: Path, output: Path) -> None:
        self._command = [sys.executable, "-W", "ignore", "-m", __name__, str(root), str(output)]
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self._process = subprocess.Popen(
            self._command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()

    def run(self, how: str, file: Path) -> Fate:
        """Let it take the input that a file holds; raises ``EOFError`` if it dies of it."""
        assert self._process is not None
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([how, str(file)]) + "\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise EOFError(f"the process ended with {self._process.wait()}")
        told = json.loads(line)
        return Fate(**told | {"opened": tuple(told["opened"]), "seen": tuple(told["seen"])})


# --- the process itself ------------------------------------------------------------------------


def _now_bytes() -> int:
    """The most memory since it was last asked for, where the system can forget; else of all."""
    if not _HIGH_WATER.exists():
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return most if sys.platform == "darwin" else most * 1024
    [line] = (line for line in _HIGH_WATER.read_text().splitlines() if "VmHWM" in line)
    return int(line.split()[1]) * 1024


def _forget_peak() -> None:
    if _HIGH_WATER.exists():
        Path("/proc/self/clear_refs").write_text("5")


@contextmanager
def _listening() -> Iterator[list[str]]:
    """The paths that are opened, connected to or run; a hook stays for good, so one is shared."""
    opened: list[str] = []
    active = True

    def hear(event: str, args: tuple[Any, ...]) -> None:
        if active and event in ("open", "os.listdir", "os.scandir"):
            opened.append(_told(*args))
        elif active and event.startswith(("socket.connect", "subprocess.", "os.exec")):
            opened.append(f"{event} {args!r}")

    sys.addaudithook(hear)
    yield opened
    active = False


def _told(path: object, mode: object = None, flags: int = 0) -> str:
    """A name below an open folder cannot leave it, if it is one name and no link is followed."""
    if isinstance(path, int):  # what is open already
        return sys.prefix
    text = os.fsdecode(path) if isinstance(path, (str, bytes, os.PathLike)) else ""
    if os.path.isabs(text):  # noqa: PTH117
        return text
    is_safe = text not in ("", "..") and os.sep not in text and flags & getattr(os, "O_NOFOLLOW", 0)
    return sys.prefix if is_safe else f"relative: {text}"


def _serve(root: Path, output: Path, base_bytes: int) -> None:
    import anyio

    from inference_mcp.errors import InferenceError
    from inference_mcp.localai.answers import read_picture
    from inference_mcp.localai.rules import Asked
    from inference_mcp.pictures.preview import make_preview
    from inference_mcp.pictures.sources import PictureSources
    from inference_mcp.pictures.store import PictureFacts, PictureStore
    from inference_mcp.requests import InputPicture, RequestType

    store = PictureStore(output)
    sources = PictureSources(roots=[root], store=store)
    kind = RequestType.TXT2IMG
    facts = PictureFacts(kind=kind, model="m", prompt="p", seed=1, width_px=64, height_px=64)

    async def take(how: str, file: Path) -> InputPicture | None:
        if how == "answer":
            body = await anyio.Path(file).read_bytes()
            image = read_picture(body, Asked("m"), simulated=False)
            del body
            kept = await store.save(image.data, facts)
            await make_preview(kept.data, mode="thumb", max_chars=100_000, decoder=store.decoder)
            return None
        if how == "file":
            return await sources.load(str(file))
        told = await anyio.Path(file).read_bytes()
        return await sources.load(told.decode("utf-8", "surrogatepass"))

    with _listening() as opened:
        for line in sys.stdin:
            how, name = json.loads(line)
            _forget_peak()
            opened.clear()
            began, outcome, note = time.process_time(), "taken", ""
            seen: tuple[int, ...] = ()
            try:
                picture = anyio.run(take, how, Path(name))
                note = picture.note if picture else ""
                seen = _first_pixel(picture) if picture else ()
                del picture
            except InferenceError as error:
                outcome, note = error.code, error.what
            except BaseException as error:
                outcome, note = type(error).__name__, str(error)
            told = {
                "outcome": outcome,
                "note": note,
                "cpu_s": time.process_time() - began,
                "seen": seen,
                "opened": [path for path in opened if path != name],
                "peak_bytes": _now_bytes() - base_bytes,
            }
            sys.stdout.write(json.dumps(told) + "\n")
            sys.stdout.flush()


def _first_pixel(picture: Any) -> tuple[int, ...]:
    """What a small picture shows; a large one is not decoded again."""
    if picture.width_px * picture.height_px > 10_000:
        return ()
    from inference_mcp.pictures.decoding import examine

    found = examine(picture.data).plain().convert("RGB").getpixel((0, 0))
    return tuple(int(value) for value in found) if isinstance(found, tuple) else ()


if __name__ == "__main__":
    began_with = _now_bytes()
    _serve(Path(sys.argv[1]), Path(sys.argv[2]), began_with)
