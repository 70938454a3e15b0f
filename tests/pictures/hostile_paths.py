"""A folder full of traps beside a folder that nobody may read: nothing here is a test.

All pictures inside are red and the one outside is blue, so that what was read shows in what came
back, by whatever way it got there.
"""

from __future__ import annotations

import os
import random
import socket
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from tests.pictures.samples import BLUE, RED, encoded, plain

__all__ = ["INSIDE", "OUTSIDE", "references", "swapping", "tree"]

INSIDE, OUTSIDE = RED, BLUE


def tree(folder: Path) -> tuple[Path, Path]:
    """The root and the folder outside it."""
    root, outside = folder / "root", folder / "root-outside"
    (root / "deep" / "er").mkdir(parents=True)
    outside.mkdir()
    for inside in ("x.png", "deep/er/x.png", "trailing. ", "space .png", "CASE.PNG", "ünï.png"):
        with suppress(OSError):  # not every system takes every name
            (root / inside).write_bytes(encoded(plain()))
    (outside / "x.png").write_bytes(encoded(Image.new("RGB", (32, 24), OUTSIDE)))
    (root / "empty.png").touch()
    if sys.platform != "win32":
        _links(root, outside)
    return root, outside


def _links(root: Path, outside: Path) -> None:
    links = {
        "in.png": root / "x.png",
        "out.png": outside / "x.png",
        "folder-out": outside,
        "circle.png": root / "circle.png",
        "circle-a": root / "circle-b",
        "circle-b": root / "circle-a",
        "nowhere.png": root / "nothing",
        "environ.png": Path("/proc/self/environ"),
        "zero.png": Path("/dev/zero"),
        "fd.png": Path("/proc/self/fd/0"),
        "up": Path(),
        "relative.png": Path("../root-outside/x.png"),
        "passwd.png": Path("/etc/passwd"),
    }
    for name, target in links.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "pipe.png")
    (root / "two\nlines.png").write_bytes(encoded(plain()))
    chain = root / "x.png"
    for number in range(60):  # more than any system follows
        link = root / f"chain-{number}"
        link.symlink_to(chain)
        chain = link
    with suppress(OSError), socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.png"))


def references(root: Path, outside: Path, seed: int, count: int) -> Iterator[str]:
    """Fixed ones first, then so many made of their parts."""
    fixed = [*(str(root / name) for name in sorted(os.listdir(root))), *_odd(root, outside)]  # noqa: PTH208
    yield from fixed
    chance = random.Random(seed)  # noqa: S311 - not for secrets
    steps = ["..", ".", "", "up", "deep", "er", "folder-out", "x.png", "root", "root-outside", "\0"]
    steps += [
        "in.png",
        "out.png",
        "circle-a",
        "x.png ",
        "x.png.",
        "X.PNG",
        "x.png::$DATA",
        "\ud83d",
    ]
    steps += ["..\\", "%2e%2e", "..%2fx.png", "．．", "\n", "CON", "pipe.png", "a" * 300, "*"]
    for _ in range(count):
        start = chance.choice((str(root), str(outside), "", "/proc/self/root", str(root) + "/up"))
        parts = [chance.choice(steps) for _ in range(chance.randrange(1, 7))]
        yield start + "/" + chance.choice(("/", "/", "//", "\\")).join(parts)


def _odd(root: Path, outside: Path) -> list[str]:
    other = f"{outside}/x.png"
    return [
        *(str(root), f"{root}/", f"{root}/.", f"{root}/..", f"{root}/x.png/", f"{root}/x.png/.."),
        *(
            other,
            f"{root}/../root-outside/x.png",
            f"{root}-outside/x.png",
            f"{root}/folder-out/x.png",
        ),
        *(
            f"{root}//x.png",
            f"/{root}/x.png",
            f"//localhost{root}/x.png",
            f"\\\\host\\share{other}",
        ),
        *(f"file://{other}", f"FILE:{other}", f"file:///{root}/x.png", f"http://localhost{other}"),
        *("/proc/self/environ", "/proc/self/cmdline", "/dev/stdin", "/dev/fd/0", "/dev/tty"),
        *(f"/proc/self/root{other}", f"/proc/self/cwd/{other}", "/proc/1/../self/environ"),
        *(f"{root}/x.png\0", f"{root}/x.png\n", f"{root}/\ud83d.png", f"{root}/{'a' * 5_000}"),
        *(
            f"{root}/" + "a/" * 2_000 + "x",
            f"{root}/" + "../" * 1_000 + other,
            "~/x.png",
            "~root/x",
        ),
        *(
            "C:\\x.png",
            "C:x.png",
            "\\\\?\\C:\\x.png",
            "\\\\.\\pipe\\x",
            "NUL",
            f"{root}/x.png:stream",
        ),
        *("x.png", "./x.png", "", " ", f" {root}/x.png", f"{root}/x.png ", f"{root}/X.PNG"),
        *("inference://images/../../root-outside/x", "inference://images/%2e%2e/x.png"),
        "20261103T141516123Z-txt2img-zzzzzz",
        "20261103T141516123Z-txt2img-../../x",
    ]


@contextmanager
def swapping(root: Path, outside: Path) -> Iterator[list[Path]]:
    """A file and a folder that turn into links and back, as fast as can be; their paths."""
    file, folder, spare = root / "swapped.png", root / "swapped", root / "spare"
    (root / "kept").mkdir()
    (root / "kept" / "x.png").write_bytes(encoded(plain()))
    done = threading.Event()

    def swap() -> None:
        while not done.is_set():
            for target in (root / "kept", outside):
                spare.unlink(missing_ok=True)
                spare.symlink_to(target)
                spare.replace(folder)
                spare.unlink(missing_ok=True)
                if target == outside:
                    spare.symlink_to(outside / "x.png")
                else:
                    spare.write_bytes(encoded_red)
                spare.replace(file)

    encoded_red = encoded(plain())
    thread = threading.Thread(target=swap)
    thread.start()
    try:
        yield [file, folder / "x.png"]
    finally:
        done.set()
        thread.join()
