"""The drawing of a schedule: its size, and that each part of the picture tells what happened."""

from __future__ import annotations

import io

from PIL import Image

from inference_mcp.chart import (
    WIDTH_PX,
    Run,
    ScheduleRow,
    draw_schedule,
    height_px,
    schedule_bars,
)
from inference_mcp.requests import Priority, RequestType

FIRST_ROW = 123, 159
"""The lines of pixels of the first row."""


def a_row(
    *runs: Run,
    submitted_s: float = 0.0,
    kind: RequestType = RequestType.TXT2IMG,
    load: Run | None = None,
    preemptions: int = 0,
    label: str = "poster",
) -> ScheduleRow:
    """A row with these runs."""
    return ScheduleRow(
        label=label,
        kind=kind,
        priority=Priority.BATCH,
        submitted_s=submitted_s,
        load=load,
        runs=runs,
        preemptions=preemptions,
    )


def decoded(png: bytes) -> Image.Image:
    """The whole picture."""
    with Image.open(io.BytesIO(png)) as opened:
        assert opened.format == "PNG"
        return opened.convert("RGB")


def colours(picture: Image.Image, from_x: int = 340) -> set[tuple[int, int, int]]:
    """The colours of the first row's bars, beside its labels."""
    top, bottom = FIRST_ROW
    found = picture.crop((from_x, top, WIDTH_PX, bottom)).getcolors(1_000_000)
    return {colour for _, colour in found or ()}  # type: ignore[misc]


def is_red(colour: tuple[int, int, int]) -> bool:
    """Whether this is the red of what was interrupted, however smoothed."""
    return colour[0] > 150 and colour[1] < 120 and colour[2] < 120


def test_the_picture_is_as_wide_as_promised_and_grows_with_its_rows() -> None:
    """Its size follows from the number of rows alone."""
    for count in (0, 1, 12):
        picture = decoded(draw_schedule([a_row(Run(0, 1))] * count, "title"))
        assert picture.size == (WIDTH_PX, height_px(count))
    assert 1000 <= WIDTH_PX <= 1400


def test_the_same_rows_give_the_same_bytes() -> None:
    """Nothing of the moment gets into the picture."""
    rows = [a_row(Run(0.5, 1.0)), a_row(Run(1.0, 2.0), submitted_s=0.2)]

    assert draw_schedule(rows, "one") == draw_schedule(rows, "one")
    assert draw_schedule(rows, "one") != draw_schedule(rows, "two")


def test_a_type_has_a_colour_of_its_own() -> None:
    """A run is a solid bar in the colour of its type."""
    middle = (700, sum(FIRST_ROW) // 2)
    seen = {
        decoded(draw_schedule([a_row(Run(0, 1), kind=kind)], "")).getpixel(middle)
        for kind in RequestType
    }

    assert len(seen) == len(RequestType)


def test_waiting_is_paler_than_running() -> None:
    """The left half waits, the right half runs."""
    picture = decoded(draw_schedule([a_row(Run(5, 10))], ""))
    middle_y = sum(FIRST_ROW) // 2
    waits, runs = (picture.getpixel((x, middle_y)) for x in (500, 1000))

    assert isinstance(waits, tuple)
    assert isinstance(runs, tuple)
    assert min(waits) > 150
    assert min(runs) < 50


def test_only_what_was_interrupted_is_marked_red() -> None:
    """A hatched run and the word appear with a cut run and with a preemption, else never."""
    plain = a_row(Run(0, 1), Run(2, 3))
    cut = a_row(Run(0, 1, cut=True), Run(2, 3))
    lent = a_row(Run(0, 1), Run(2, 3), preemptions=1)

    red = [
        any(is_red(colour) for colour in colours(decoded(draw_schedule([row], ""))))
        for row in (plain, cut, lent)
    ]
    assert red == [False, True, True]


def test_the_legend_names_only_what_is_there() -> None:
    """A load, a cut run and a second type each add to it."""

    def legend_px(row: ScheduleRow) -> int:
        legend = decoded(draw_schedule([row], "")).crop((0, 66, WIDTH_PX, 96))
        inverted = legend.convert("L").point([255 - value for value in range(256)])
        box = inverted.getbbox()
        assert box is not None
        return box[2]

    plain = legend_px(a_row(Run(0, 1)))
    assert legend_px(a_row(Run(1, 2), load=Run(0, 1))) > plain
    assert legend_px(a_row(Run(0, 1, cut=True))) > plain


def test_a_long_label_stays_in_its_column() -> None:
    """It is shortened; the bars begin where they always do."""
    long = decoded(draw_schedule([a_row(Run(0, 1), label="harbour " * 40)], ""))
    short = decoded(draw_schedule([a_row(Run(0, 1), label="harbour")], ""))

    assert long.crop((240, 0, *long.size)).tobytes() == short.crop((240, 0, *short.size)).tobytes()


def test_a_request_that_never_ran_has_a_row_without_bars() -> None:
    """Nothing fails, nothing is invented."""
    row = a_row(submitted_s=1.0)

    assert decoded(draw_schedule([row], "")).size == (WIDTH_PX, height_px(1))
    assert schedule_bars([row, a_row(Run(0, 2))], 10)[0].strip() == ""


def test_bars_of_text_tell_the_same() -> None:
    """Dots wait, tildes load, hashes run, crosses were cut short; all on one scale."""
    rows = [
        a_row(Run(2, 4, cut=True), Run(8, 10), load=Run(1, 2)),
        a_row(Run(4, 8), submitted_s=2.0),
    ]

    assert schedule_bars(rows, 10) == [".~xx....##", "  ..####"]


def test_the_shortest_run_is_still_seen() -> None:
    """What takes no time at all, at the very end, has a mark too."""
    bars = schedule_bars([a_row(Run(0, 10)), a_row(Run(10, 10), submitted_s=10)], 8)

    assert bars == ["########", "       #"]
