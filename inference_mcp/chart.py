"""A schedule as a picture and as text: who waited, who ran, who was interrupted.

Pure: rows in, PNG bytes or lines out; the same rows give the same drawing. Above it is
``demo``; below it are Pillow and the names of types and classes. It knows no jobs, no MCP, no
files and no clock: all times are seconds since a moment that the caller chose.

Drawn at twice the size and reduced, because Pillow does not smooth shapes.
"""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeAlias

from PIL import Image, ImageDraw, ImageFont

from inference_mcp.requests import Priority, RequestType

__all__ = ["WIDTH_PX", "Run", "ScheduleRow", "draw_schedule", "height_px", "schedule_bars"]

WIDTH_PX: Final = 1280
"""Wide enough for a README on a sharp screen, still readable at 800."""

_SCALE: Final = 2
_ROW_PX, _BAR_PX = 38, 22
_TOP_PX, _BOTTOM_PX = 122, 78
_MARGIN_PX, _LEFT_PX, _RIGHT_PX = 28, 330, 90
_MOST_LABEL_PX = 205

_Colour: TypeAlias = tuple[int, int, int]
_Box: TypeAlias = tuple[float, float, float, float]
_Font: TypeAlias = ImageFont.FreeTypeFont | ImageFont.ImageFont

_PAPER: Final[_Colour] = (255, 255, 255)
_BAND: Final[_Colour] = (246, 247, 249)
_LINE: Final[_Colour] = (222, 226, 231)
_INK: Final[_Colour] = (31, 35, 40)
_GREY: Final[_Colour] = (100, 108, 118)
_RED: Final[_Colour] = (207, 34, 46)

# Told apart also by those who do not tell red from green.
_TYPE_COLOURS: Final[dict[RequestType, _Colour]] = {
    RequestType.TXT2TXT: (37, 99, 200),
    RequestType.TXT2IMG: (224, 142, 11),
    RequestType.IMG2IMG: (130, 80, 190),
    RequestType.IMG2TXT: (17, 148, 126),
}
_CLASS_COLOURS: Final[dict[Priority, _Colour]] = {
    Priority.CRITICAL: _RED,
    Priority.NORMAL: (87, 96, 106),
    Priority.BATCH: (125, 133, 143),
}


@dataclass(frozen=True, slots=True)
class Run:
    """One stay at work, in seconds. ``cut`` where it was stopped before its end."""

    start_s: float
    end_s: float
    cut: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleRow:
    """One request: when it came, in seconds, and when it was worked on, in order.

    Between ``submitted_s`` and its last run it waited, save where a run covers the time, or
    the load of its model.
    """

    label: str
    kind: RequestType
    priority: Priority
    submitted_s: float
    load: Run | None = None
    runs: tuple[Run, ...] = ()
    preemptions: int = 0

    @property
    def started_s(self) -> float:
        """When it was first worked on; infinite if never."""
        return self.runs[0].start_s if self.runs else math.inf

    @property
    def ended_s(self) -> float:
        """When its last run ended; its submission if there was none."""
        return self.runs[-1].end_s if self.runs else self.submitted_s


# Text -----------------------------------------------------------------------------------


def schedule_bars(rows: Sequence[ScheduleRow], width: int) -> list[str]:
    """A bar of ASCII for each row: ``.`` waits, ``~`` loads, ``#`` runs, ``x`` a run cut short."""
    end_s = _end_s(rows)
    bars = []
    for row in rows:
        cells = [" "] * width
        _fill(cells, row.submitted_s / end_s, row.ended_s / end_s, ".")
        if row.load is not None:
            _fill(cells, row.load.start_s / end_s, row.load.end_s / end_s, "~")
        for run in row.runs:
            _fill(cells, run.start_s / end_s, run.end_s / end_s, "x" if run.cut else "#")
        bars.append("".join(cells).rstrip())
    return bars


def _fill(cells: list[str], start: float, end: float, mark: str) -> None:
    first = min(int(start * len(cells)), len(cells) - 1)
    # However short a run is, it is seen; a wait that short was none.
    last = max(round(end * len(cells)), first + (mark != "."))
    cells[first:last] = mark * (last - first)


def _end_s(rows: Sequence[ScheduleRow]) -> float:
    return max((row.ended_s for row in rows), default=0.0) or 1.0


# Picture --------------------------------------------------------------------------------


def height_px(row_count: int) -> int:
    """How high ``draw_schedule`` makes the picture of so many rows, in pixels."""
    return _TOP_PX + row_count * _ROW_PX + _BOTTOM_PX


def draw_schedule(rows: Sequence[ScheduleRow], title: str) -> bytes:
    """A PNG, ``WIDTH_PX`` by ``height_px``: a line for each row, seconds to the right."""
    canvas = _Canvas(WIDTH_PX, height_px(len(rows)))
    scale = _TimeScale(_end_s(rows))
    canvas.text((_MARGIN_PX, 22), title, size_px=27)
    _draw_legend(canvas, rows)
    _draw_axis(canvas, scale, len(rows))
    for number, row in enumerate(rows):
        _draw_row(canvas, scale, row, _TOP_PX + number * _ROW_PX)
    return canvas.png()


class _Canvas:
    """Drawing in pixels of the result, whatever is drawn on underneath."""

    def __init__(self, width_px: int, height: int) -> None:
        self._size = (width_px, height)
        self.image = Image.new("RGB", (width_px * _SCALE, height * _SCALE), _PAPER)
        self._draw = ImageDraw.Draw(self.image)

    def box(self, box: _Box, fill: _Colour, *, radius_px: float = 0) -> None:
        """A filled box with round corners; at least a pixel wide."""
        left, top, right, bottom = box
        self._draw.rounded_rectangle(
            _scaled((left, top, max(right, left + 1), bottom)), radius_px * _SCALE, fill=fill
        )

    def line(self, box: _Box, fill: _Colour, width_px: float = 1) -> None:
        """A straight line."""
        self._draw.line(_scaled(box), fill=fill, width=max(1, round(width_px * _SCALE)))

    def hatched(self, box: _Box, colour: _Colour) -> None:
        """A box of slanted lines with a border: work that was thrown away."""
        self._pattern(box, _PAPER, colour, border=True)

    def striped(self, box: _Box, colour: _Colour) -> None:
        """A box of pale slanted lines: the model is made ready."""
        self._pattern(box, _tint(colour), _tint(_tint(colour)), border=False)

    def _pattern(self, box: _Box, paper: _Colour, pen: _Colour, *, border: bool) -> None:
        left, top, right, bottom = (round(edge) for edge in _scaled(box))
        right = max(right, left + 2 * _SCALE)
        patch = Image.new("RGB", (right - left, bottom - top), paper)
        draw = ImageDraw.Draw(patch)
        width, height = patch.size
        for at in range(-height, width, 6 * _SCALE):
            draw.line((at, height, at + height, 0), fill=pen, width=2 * _SCALE)
        if border:
            draw.rectangle((0, 0, width - 1, height - 1), outline=pen, width=_SCALE)
        self.image.paste(patch, (left, top))

    def text(
        self,
        at: tuple[float, float],
        text: str,
        *,
        size_px: int = 19,
        fill: _Colour = _INK,
        anchor: str = "la",
    ) -> None:
        """Text, placed as Pillow's anchors say."""
        font = _font(size_px)
        self._draw.text((at[0] * _SCALE, at[1] * _SCALE), text, fill=fill, font=font, anchor=anchor)

    def text_px(self, text: str, size_px: int) -> float:
        """How wide a text is."""
        return self._draw.textlength(text, font=_font(size_px)) / _SCALE

    def png(self) -> bytes:
        """What was drawn."""
        out = io.BytesIO()
        self.image.resize(self._size, Image.Resampling.LANCZOS).save(out, "PNG", optimize=True)
        return out.getvalue()


def _scaled(box: _Box) -> _Box:
    left, top, right, bottom = box
    return (left * _SCALE, top * _SCALE, right * _SCALE, bottom * _SCALE)


def _font(size_px: int) -> _Font:
    return ImageFont.load_default(size=size_px * _SCALE)


@dataclass(frozen=True, slots=True)
class _TimeScale:
    end_s: float

    def x(self, at_s: float) -> float:
        """Where a moment is, in pixels from the left."""
        width_px = WIDTH_PX - _LEFT_PX - _RIGHT_PX
        return _LEFT_PX + max(0.0, at_s) / self.end_s * width_px

    def ticks(self) -> list[float]:
        """About eight round moments."""
        rough = self.end_s / 8
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= rough)
        return [number * step for number in range(math.floor(self.end_s / step) + 1)]


def _draw_legend(canvas: _Canvas, rows: Sequence[ScheduleRow]) -> None:
    """Only what the picture holds."""
    x, y = float(_MARGIN_PX), 70.0
    kinds = [kind for kind in RequestType if any(row.kind is kind for row in rows)]
    for kind in kinds:
        canvas.box((x, y, x + 30, y + 18), _TYPE_COLOURS[kind], radius_px=4)
        x = _legend_text(canvas, x + 38, y, kind.value)
    colour = _TYPE_COLOURS[kinds[0]] if kinds else _GREY
    canvas.box((x, y + 5, x + 30, y + 13), _tint(colour), radius_px=3)
    x = _legend_text(canvas, x + 38, y, "waits")
    if any(row.load is not None for row in rows):
        canvas.striped((x, y + 3, x + 30, y + 15), colour)
        x = _legend_text(canvas, x + 38, y, "its model loads")
    if any(run.cut for row in rows for run in row.runs):
        canvas.hatched((x, y, x + 30, y + 18), _RED)
        x = _legend_text(canvas, x + 38, y, "interrupted")


def _legend_text(canvas: _Canvas, x: float, y: float, text: str) -> float:
    canvas.text((x, y + 9), text, size_px=18, fill=_GREY, anchor="lm")
    return x + canvas.text_px(text, 18) + 28


def _draw_axis(canvas: _Canvas, scale: _TimeScale, row_count: int) -> None:
    bottom = _TOP_PX + row_count * _ROW_PX
    for number in range(0, row_count, 2):
        top = _TOP_PX + number * _ROW_PX
        canvas.box((_MARGIN_PX - 10, top, WIDTH_PX - _MARGIN_PX + 10, top + _ROW_PX), _BAND)
    for tick in scale.ticks():
        x = scale.x(tick)
        canvas.line((x, _TOP_PX - 4, x, bottom + 6), _LINE)
        canvas.text((x, bottom + 12), f"{tick:g}", size_px=18, fill=_GREY, anchor="ma")
    middle = (scale.x(0) + scale.x(scale.end_s)) / 2
    canvas.text(
        (middle, bottom + 40),
        "seconds since the first request",
        size_px=18,
        fill=_GREY,
        anchor="ma",
    )


def _draw_row(canvas: _Canvas, scale: _TimeScale, row: ScheduleRow, top: float) -> None:
    middle = top + _ROW_PX / 2
    colour = _TYPE_COLOURS[row.kind]
    label = _shortened(canvas, row.label)
    canvas.text((_MARGIN_PX, middle), label, anchor="lm")
    place = (_LEFT_PX - 22, middle)
    canvas.text(
        place, row.priority.value, size_px=17, fill=_CLASS_COLOURS[row.priority], anchor="rm"
    )
    if row.runs:
        start, end = scale.x(row.submitted_s), scale.x(row.ended_s)
        canvas.box((start, middle - 4, end, middle + 4), _tint(colour), radius_px=3)
    if row.load is not None:
        left, right = scale.x(row.load.start_s), scale.x(row.load.end_s)
        canvas.striped((left, middle - 6, right, middle + 6), colour)
    canvas.box(_around(scale.x(row.submitted_s), middle), _INK)
    for run in row.runs:
        box = (scale.x(run.start_s), middle - _BAR_PX / 2, scale.x(run.end_s), middle + _BAR_PX / 2)
        if run.cut:
            canvas.hatched(box, _RED)
        else:
            canvas.box(box, colour, radius_px=4)
    if row.preemptions:
        canvas.text(
            (scale.x(row.ended_s) + 8, middle), "preempted", size_px=16, fill=_RED, anchor="lm"
        )


def _around(x: float, middle: float) -> _Box:
    """The mark of the moment at which a request came."""
    return (x - 1, middle - 8, x + 1, middle + 8)


def _shortened(canvas: _Canvas, label: str) -> str:
    if canvas.text_px(label, 19) <= _MOST_LABEL_PX:
        return label
    while label and canvas.text_px(label + "…", 19) > _MOST_LABEL_PX:
        label = label[:-1]
    return label.rstrip() + "…"


def _tint(colour: _Colour) -> _Colour:
    """The same colour, three parts of paper."""
    red, green, blue = ((band + 3 * 255) // 4 for band in colour)
    return (red, green, blue)
