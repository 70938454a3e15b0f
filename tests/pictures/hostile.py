"""Hostile pictures, references and answers, from a seed: nothing here is a test.

    seeds → mutated by bytes, by parts, by what a header claims → ``Case``

An own generator and not Hypothesis: each case runs in a process that is measured, where nothing
is gained by shrinking, and a case is found again by seed and number. ``watched`` runs them,
``tests/pictures/test_hostile.py`` and ``tests.benchmarks.hostile_pictures`` say how many.
"""

from __future__ import annotations

import base64
import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Final, Literal

from PIL import Image

from tests.pictures.samples import PNG_SIGNATURE, chunk, data_uri, encoded, halves, plain

__all__ = ["Case", "extremes", "mutations", "of_width"]

How = Literal["file", "uri", "reference", "answer"]


@dataclass(frozen=True)
class Case:
    """One input. ``data`` is a file's bytes, a reference's text, or LocalAI's answer."""

    name: str
    how: How
    data: bytes = field(repr=False)


# --- seeds ------------------------------------------------------------------------------------


@cache
def seeds() -> dict[str, bytes]:
    """All four formats and their odd kinds, small."""
    chance = random.Random(1)  # noqa: S311 - not for secrets
    noise = Image.frombytes("RGB", (40, 30), chance.randbytes(3600))
    exif = Image.Exif()
    exif[0x0112] = 6
    frames: dict[str, Any] = {"save_all": True, "append_images": [halves(40, 30)], "duration": 50}
    return {
        "png": encoded(noise),
        "png rgba": encoded(noise.convert("RGBA")),
        "png grey": encoded(noise.convert("L"), transparency=7),
        "png bits": encoded(noise.convert("1")),
        "png palette": encoded(noise.quantize(16), transparency=3),
        "png 16 bit": encoded(Image.new("I;16", (40, 30), 40_000)),
        "png wide": of_width(40, 30, 16, 6),
        "png interlaced": of_width(40, 30, 8, 2, interlaced=True),
        "png animated": encoded(noise, **frames),
        "png turned": encoded(noise, exif=exif, icc_profile=chance.randbytes(300)),
        "jpeg": encoded(noise, "JPEG"),
        "jpeg progressive": encoded(noise, "JPEG", progressive=True),
        "jpeg cmyk": encoded(noise.convert("CMYK"), "JPEG"),
        "jpeg grey": encoded(noise.convert("L"), "JPEG", restart_marker_blocks=2),
        "jpeg turned": encoded(noise, "JPEG", exif=exif, icc_profile=chance.randbytes(300)),
        "jpeg several": encoded(noise, "MPO", save_all=True, append_images=[plain(40, 30)]),
        "webp": encoded(noise, "WebP", exif=exif),
        "webp lossless": encoded(noise.convert("RGBA"), "WebP", lossless=True),
        "webp animated": encoded(noise, "WebP", **frames),
        "gif": encoded(noise.quantize(8), "GIF", transparency=2, comment=b"hello"),
        "gif animated": encoded(noise, "GIF", **frames),
    }


def of_width(
    width_px: int, height_px: int, depth: int, colour: int, *, interlaced: bool = False
) -> bytes:
    """A PNG of zeros, of any kind and size; packed, it has a thousandth of its rows' bytes."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour]
    header = struct.pack(">IIBBBBB", width_px, height_px, depth, colour, 0, 0, int(interlaced))
    packer = zlib.compressobj(1)
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    packed = []
    for left, top, across, down in passes:
        wide, high = -((left - width_px) // across), -((top - height_px) // down)
        row = bytes(1 + (wide * channels * depth + 7) // 8)
        packed += [packer.compress(row) for _ in range(high if wide > 0 else 0)]
    rows = b"".join(packed) + packer.flush()
    middle = chunk(b"PLTE", bytes(768)) if colour == 3 else b""
    parts = (chunk(b"IHDR", header), middle, chunk(b"IDAT", rows), chunk(b"IEND", b""))
    return PNG_SIGNATURE + b"".join(parts)


_ADAM7: Final = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4)),
    *((0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2)),
)


# --- mutations --------------------------------------------------------------------------------


def mutations(seed: int, count: int) -> Iterator[Case]:
    """So many cases, each found again by seed and number."""
    for number in range(count):
        chance = random.Random(f"{seed}/{number}")  # noqa: S311
        name = chance.choice(sorted(seeds()))
        data = seeds()[name]
        for _ in range(chance.choice((0, 1, 1, 2, 4))):
            data = chance.choice(_MUTATIONS)(data, chance)
        how: How = chance.choice(("file", "uri", "uri", "answer"))
        if how == "uri":
            data = _uri(data, chance).encode("utf-8", "surrogatepass")
        elif how == "answer":
            data = _answer(data, chance)
        yield Case(f"{seed}/{number} {name}", how, data)


def _bytes(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice((1, 3, 20))):
        if changed:
            at = chance.randrange(len(changed))
            changed[at] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, chance.randrange(256)))
    return bytes(changed)


def _cut(data: bytes, chance: random.Random) -> bytes:
    return data[: chance.randrange(len(data) + 1)]


def _splice(data: bytes, chance: random.Random) -> bytes:
    other = seeds()[chance.choice(sorted(seeds()))]
    return data[: chance.randrange(len(data) + 1)] + other[chance.randrange(len(other)) :]


def _repeat(data: bytes, chance: random.Random) -> bytes:
    begin = chance.randrange(len(data) + 1)
    piece = data[begin : begin + chance.randrange(1, 40)]
    return data[:begin] + piece * chance.choice((2, 30, 3_000)) + data[begin:]


def _size(data: bytes, chance: random.Random) -> bytes:
    """What the header claims, its checksum mended."""
    sides = [chance.choice((0, 1, 2, 39, 41, 5_000, 16_384, 65_535, 2**31 - 1)) for _ in "wh"]
    short = struct.pack("<HH", *(side & 0xFFFF for side in sides))
    if data.startswith(PNG_SIGNATURE) and len(data) > 33:
        kinds = bytes(chance.choice((0, 1, 2, 3, 4, 6, 8, 16)) for _ in range(5))
        tail = kinds if chance.random() < 0.5 else data[24:29]
        header = b"IHDR" + struct.pack(">II", *sides) + tail
        return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]
    if data.startswith(b"GIF"):
        return data[:6] + short + data[10:]
    if data.startswith(b"RIFF"):
        return data[:24] + chance.choice((short, b"\xff\xff\xff\xff")) + data[28:]
    for marker in (b"\xff\xc0", b"\xff\xc2"):
        head, found, tail = data.partition(marker)
        if found:
            sizes = struct.pack(">HH", *(side & 0xFFFF for side in sides))
            return head + found + tail[:3] + sizes + tail[7:]
    return data


def _parts(data: bytes, chance: random.Random) -> bytes:
    """Whole parts dropped, doubled, swapped, or taken from another picture."""
    parts = split(data)
    at = chance.randrange(len(parts))
    match chance.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.insert(at, parts[at])
        case 2:
            chance.shuffle(parts)
        case 3:
            parts[at:at] = [parts[at]] * chance.choice((100, 60_000 // (len(parts[at]) + 1) + 1))
        case 4:
            parts.insert(at, chance.choice(split(seeds()[chance.choice(sorted(seeds()))])))
    return b"".join(parts)


def _metadata(data: bytes, chance: random.Random) -> bytes:
    """Directories in circles, texts that unpack to much, frames without number."""
    body = chance.choice((_exif_bomb(), chance.randbytes(60)))
    if data.startswith(PNG_SIGNATURE):
        kind = chance.choice(
            (b"eXIf", b"zTXt", b"iTXt", b"iCCP", b"acTL", b"fcTL", b"tRNS", b"PLTE")
        )
        packed = b"key\0\0" + zlib.compress(bytes(3_000_000))
        return data[:33] + chunk(kind, chance.choice((body, packed, b"\xff" * 26))) + data[33:]
    if data.startswith(b"\xff\xd8"):
        head = chance.choice((b"Exif\0\0", b"MPF\0", b"ICC_PROFILE\0\1\1", b"Adobe", b"JFIF\0"))
        marker = chance.choice((0xE0, 0xE1, 0xE2, 0xEE, 0xFE, 0xDB, 0xC4, 0xDD, 0xDC))
        body = (head + body)[:65_000]
        return data[:2] + struct.pack(">BBH", 0xFF, marker, len(body) + 2) + body + data[2:]
    return data


def _exif_bomb(entries: int = 4_000, quoted: int = 60_000) -> bytes:
    """Each entry quotes the whole, and the next directory is this one."""
    told = b"".join(struct.pack(">HHII", 1000 + n, 7, quoted, 8) for n in range(entries))
    directory = struct.pack(">H", entries) + told + struct.pack(">I", 8)
    return (b"MM\0*\0\0\0\x08" + directory).ljust(quoted + 8, b"\0")


_MUTATIONS: Final[tuple[Callable[[bytes, random.Random], bytes], ...]] = (
    _bytes,
    _cut,
    _splice,
    _repeat,
    _size,
    _size,
    _parts,
    _parts,
    _metadata,
)


def split(data: bytes) -> list[bytes]:
    """A file's parts as far as its own lengths lead; the rest is the last one."""
    if data.startswith(PNG_SIGNATURE):
        at, parts, form = 8, [data[:8]], ">I"
    elif data.startswith(b"\xff\xd8"):
        at, parts, form = 2, [data[:2]], ">xxH"
    elif data.startswith(b"RIFF"):
        at, parts, form = 12, [data[:12]], "<xxxxI"
    else:
        return [data[n : n + 200] for n in range(0, len(data), 200)] or [b""]
    beside = {">I": 12, ">xxH": 2, "<xxxxI": 8}[form]
    while at + struct.calcsize(form) <= len(data) and len(parts) < 50:
        end = at + beside + struct.unpack_from(form, data, at)[0]
        parts.append(data[at:end])
        at = end
    return [*parts, data[at:]]


# --- how a picture is named, or answered ------------------------------------------------------


def _uri(data: bytes, chance: random.Random) -> str:
    whole = data_uri(
        data, chance.choice(("image/png", "image/jpeg", "text/html;x=%2C", "", "\ud83d"))
    )
    at = chance.randrange(len(whole))
    return chance.choice(
        (
            whole,
            whole,
            whole[:at],
            whole[:at]
            + chance.choice((" ", "\n", "=", "%3D", "\0", "é", "-_", "\ud83d"))
            + whole[at:],
            whole.replace("data:", chance.choice(("DATA:", "data: ", "data:;;;;", "data:,"))),
            whole.replace(
                ";base64", chance.choice((";BASE64 ", "", ";base64;base64", ";charset=x"))
            ),
            whole.replace("+", "%2B").replace("/", "%2F"),
            whole + "," + whole,
        )
    )


def _answer(data: bytes, chance: random.Random) -> bytes:
    text = base64.b64encode(data).decode()
    told = chance.choice(
        (text, text, text, f"data:image/png;base64,{text}", text[:-3], f"{text}=A", "")
    )
    return chance.choice(
        (
            b'{"data":[{"b64_json":"%s"}]}' % told.encode(),
            b'{"data":[{"b64_json":"%s"}]}' % told.encode(),
            b'{"data":[{"b64_json":"\\ud83d%s"}]}' % told.encode(),
            b'{"data":[{"b64_json":%s}]}' % chance.choice((b"null", b"5", b"[]", b"1e999")),
            b'{"data":%s}' % (b"[" * 5_000 + b"]" * 5_000),
            b'{"data":[{"url":"file:///etc/passwd"}]}',
            data,
        )
    )


# --- extremes --------------------------------------------------------------------------------


def extremes() -> Iterator[Case]:
    """The largest and the slowest that the limits let in, and what is just beyond them."""
    for depth, colour in ((16, 6), (16, 2), (16, 0), (8, 6), (8, 2), (8, 4), (8, 3), (1, 0)):
        data = of_width(8_000, 5_000, depth, colour)
        yield Case(f"40 MP png, {depth} bit, colour {colour}", "file", data)
    for depth, colour in ((16, 6), (8, 2), (8, 0), (1, 3)):
        yield Case(
            f"32 MP png, {depth} bit, colour {colour}, interlaced",
            "file",
            of_width(8_000, 4_000, depth, colour, interlaced=True),
        )
    yield from _large_photos()
    yield from _many_parts()
    yield Case("40 MP png answered", "answer", _answered(of_width(8_000, 5_000, 8, 6)))
    yield Case("8 MP jpeg answered", "answer", _answered(encoded(_noise(3_300, 2_500), "JPEG")))


def _noise(width_px: int, height_px: int, mode: str = "RGB") -> Image.Image:
    chance = random.Random(3)  # noqa: S311
    raw = chance.randbytes(width_px * height_px * len(mode))
    return Image.frombytes(mode, (width_px, height_px), raw)


def _answered(data: bytes) -> bytes:
    return b'{"data":[{"b64_json":"%s"}]}' % base64.b64encode(data)


def _large_photos() -> Iterator[Case]:
    exif = Image.Exif()
    exif[0x0112] = 6
    flat = Image.new("RGB", (8_000, 5_000), (10, 200, 30))
    photo = _noise(1_000, 625).resize((8_000, 5_000))
    near = {"quality": 93, "exif": exif}
    yield Case("40 MP jpeg, turned, 20 MB", "uri", _uri_of(encoded(photo, "JPEG", **near)))
    yield Case(
        "40 MP jpeg, progressive", "file", encoded(photo, "JPEG", progressive=True, exif=exif)
    )
    whole = {"progressive": True, "subsampling": 0}
    yield Case("40 MP jpeg, progressive, all colours", "file", encoded(flat, "JPEG", **whole))
    yield Case("20 MP jpeg, progressive, all colours", "file", _part(photo, 4_000, "JPEG", **whole))
    yield Case("40 MP jpeg, CMYK", "file", encoded(photo.convert("CMYK"), "JPEG", quality=60))
    yield Case("40 MP gif", "file", encoded(photo.quantize(4), "GIF"))
    yield Case("40 MP webp", "file", encoded(flat, "WebP", method=0))
    for lossless in (False, True):
        small = photo.resize((3_200, 2_500)).convert("RGBA")
        small = small.quantize(64).convert("RGBA") if lossless else small
        data = encoded(small, "WebP", lossless=lossless, quality=0, method=0, exif=exif)
        yield Case(f"8 MP webp, lossless {lossless}", "uri", _uri_of(data))
    wide = encoded(_noise(2_600, 2_500), compress_level=0)
    yield Case("png of noise, 20 MB", "uri", _uri_of(wide))
    drawing = encoded(photo.quantize(16).convert("RGB"), compress_level=6)
    yield Case(f"40 MP png, {len(drawing) // 1_000_000} MB", "uri", _uri_of(drawing))
    data = encoded(photo.resize((8_000, 4_000)), "JPEG", progressive=True)
    yield Case("32 MP jpeg of scans", "file", _with_scans(data, 18))
    data = encoded(photo.resize((2_000, 1_500)), "JPEG", progressive=True, quality=20)
    yield Case("3 MP jpeg of scans", "file", _with_scans(data, 198))


def _part(photo: Image.Image, width_px: int, file_format: str, **options: object) -> bytes:
    return encoded(photo.crop((0, 0, width_px, photo.height)), file_format, **options)


def _uri_of(data: bytes) -> bytes:
    return data_uri(data).encode()


def _with_scans(data: bytes, scans: int) -> bytes:
    """The last scan, again and again."""
    at = data.rindex(b"\xff\xda")
    return data[:-2] + data[at:-2] * (scans - data.count(b"\xff\xda")) + data[-2:]


def _many_parts() -> Iterator[Case]:
    png, jpeg, gif = (encoded(plain(), kind) for kind in ("PNG", "JPEG", "GIF"))
    webp = encoded(plain(), "WebP", exif=Image.Exif())
    most = 19_000_000
    begun = 13 + (3 << ((gif[10] & 7) + 1))
    for count in (49_000, most // 12):
        yield Case(
            f"png of {count} chunks", "file", png[:33] + chunk(b"prVt", b"") * count + png[33:]
        )
        rows = chunk(b"IDAT", b"") * count
        yield Case(f"png of {count} rows' chunks", "file", png[:33] + rows + png[33:])
        notes = b"\xff\xfe\0\2" * count
        yield Case(f"jpeg of {count} notes", "file", jpeg[:2] + notes + jpeg[2:])
        note = b"!\xfe\1x\0" * count
        yield Case(f"gif of {count} notes", "file", gif[:begun] + note + gif[begun:])
        body = webp[8:] + b"nope\0\0\0\0" * count
        yield Case(f"webp of {count} chunks", "file", b"RIFF" + struct.pack("<I", len(body)) + body)
    blocks = b"!\xfe" + b"\1x" * (most // 2) + b"\0"
    yield Case("gif of a note in single letters", "file", gif[:begun] + blocks + gif[begun:])
    filler = b"\xff" * most
    yield Case("jpeg of filler", "file", jpeg[:2] + filler + jpeg[2:])
    exif = chunk(b"eXIf", _exif_bomb(60_000, most - 100))
    yield Case("png of an exif bomb", "file", png[:33] + exif + png[33:])
    for kind in (b"Exif\0\0", b"MPF\0"):
        body = kind + _exif_bomb(4_900, 64_900)
        marker = b"\xff\xe1" if kind.startswith(b"E") else b"\xff\xe2"
        part = marker + struct.pack(">H", len(body) + 2) + body
        yield Case(f"jpeg of {kind!r} bombs", "file", jpeg[:2] + part * 250 + jpeg[2:])
    for kind in (b"zTXt", b"iCCP"):
        body = b"key\0\0" + zlib.compress(bytes(100_000_000), 9)
        yield Case(f"png of {kind!r} bombs", "file", png[:33] + chunk(kind, body) * 100 + png[33:])
