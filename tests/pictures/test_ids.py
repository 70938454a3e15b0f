"""Ids: sortable by time, without a prompt, and harmless in a path."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from inference_mcp.pictures.ids import created_at, id_of, is_id, new_id, random_suffix, uri_of
from inference_mcp.requests import RequestType

GOOD = "20261103T141516123Z-txt2img-k3v9qa".replace("9", "2")


def test_a_new_id_is_an_id_and_tells_its_time() -> None:
    """Milliseconds survive the way into the name and back."""
    now = datetime(2026, 11, 3, 14, 15, 16, 123_999, tzinfo=UTC)
    picture_id = new_id(RequestType.IMG2IMG, now, "abc234")
    assert picture_id == "20261103T141516123Z-img2img-abc234"
    assert is_id(picture_id)
    assert created_at(picture_id) == now.replace(microsecond=123_000)


def test_ids_sort_by_time_whatever_zone_the_clock_is_in() -> None:
    """An id is in UTC."""
    early = datetime(2026, 11, 3, 23, 0, tzinfo=timezone(timedelta(hours=5)))
    late = datetime(2026, 11, 3, 19, 0, tzinfo=UTC)
    kind = RequestType.TXT2IMG
    assert new_id(kind, early, "zzzzzz") < new_id(kind, late, "aaaaaa")


def test_random_suffixes_make_ids_and_differ() -> None:
    """Two pictures of one millisecond get two names."""
    now = datetime.now(UTC)
    ids = {new_id(RequestType.TXT2IMG, now, random_suffix()) for _ in range(100)}
    assert len(ids) == 100
    assert all(map(is_id, ids))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "../" + GOOD,
        GOOD + "/..",
        GOOD + ".png",
        GOOD + "\n",
        GOOD.upper(),
        GOOD.replace("txt2img", "txt2txt"),
        GOOD.replace("2026", "２０２６"),  # full-width digits are the point
    ],
)
def test_anything_but_an_exact_id_is_none(text: str) -> None:
    """Neither a path nor a look-alike digit passes."""
    assert is_id(GOOD)
    assert not is_id(text)
    assert id_of(uri_of(text)) is None
    assert created_at(text) is None


def test_an_impossible_time_is_no_time() -> None:
    """A file that somebody named by hand does not break a list."""
    assert is_id("99999999T999999999Z-txt2img-aaaaaa")
    assert created_at("99999999T999999999Z-txt2img-aaaaaa") is None


def test_uris_and_ids_are_two_ways_to_say_the_same() -> None:
    """Only this scheme and this host lead to an id."""
    assert uri_of(GOOD) == f"inference://images/{GOOD}"
    assert id_of(uri_of(GOOD)) == GOOD
    assert id_of(f"inference://queue/{GOOD}") is None
    assert id_of(GOOD) is None
