"""How a browser gets in."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from inference_mcp.web.passes import CODE_S, COOKIE_S, MAX_CODES, Passes


@dataclass
class Clock:
    """Both clocks of a machine."""

    s: float = 1_000.0

    def __call__(self) -> float:
        return self.s


def entered(passes: Passes) -> tuple[str, str]:
    """A room and its cookie."""
    found = passes.enter(passes.new_code())
    assert found is not None
    return found


def test_a_code_works_once() -> None:
    """Whoever comes second is told so, and knows that somebody was first."""
    passes = Passes("token", Clock(), Clock())
    code = passes.new_code()
    assert passes.enter(code) is not None
    assert passes.enter(code) is None


@pytest.mark.parametrize("code", ["", "x", "a" * 32])
def test_what_is_no_code_lets_nobody_in(code: str) -> None:
    """However long it is."""
    passes = Passes("token", Clock(), Clock())
    passes.new_code()
    assert passes.enter(code) is None


def test_a_code_works_for_a_minute() -> None:
    """And in no other process: that one knows it not."""
    clock = Clock()
    passes = Passes("token", clock, Clock())
    late, other = passes.new_code(), passes.new_code()
    assert Passes("token", clock, Clock()).enter(other) is None
    clock.s += CODE_S + 0.1
    assert passes.enter(late) is None


def test_codes_that_nobody_uses_are_few() -> None:
    """The oldest gives way."""
    passes = Passes("token", Clock(), Clock())
    codes = [passes.new_code() for _ in range(MAX_CODES + 1)]
    assert passes.enter(codes[0]) is None
    assert passes.enter(codes[1]) is not None


def test_a_cookie_opens_its_own_room_alone() -> None:
    """Also after a restart, for it is made of the token; not after that was replaced."""
    passes = Passes("token", Clock(), Clock())
    (room, cookie), (other, _) = entered(passes), entered(passes)
    assert room != other
    assert passes.opens(room, cookie)
    assert Passes("token", Clock(), Clock()).opens(room, cookie)
    assert not passes.opens(other, cookie)
    assert not Passes("token2", Clock(), Clock()).opens(room, cookie)


def test_a_cookie_is_out_of_date_in_the_end() -> None:
    """And cannot be made to last longer."""
    date = Clock()
    passes = Passes("token", Clock(), date)
    room, cookie = entered(passes)
    ends, signature = cookie.split(".")
    date.s += COOKIE_S + 1
    assert not passes.opens(room, cookie)
    assert not passes.opens(room, f"{int(ends) + 100}.{signature}")


@pytest.mark.parametrize("cookie", ["", ".", "1.2", "9" * 13 + "." + "0" * 64, "x." + "0" * 64])
def test_what_is_no_cookie_opens_nothing(cookie: str) -> None:
    """Nor does one for what is no room."""
    passes = Passes("token", Clock(), Clock())
    room, good = entered(passes)
    assert not passes.opens(room, cookie)
    assert not passes.opens("../" + room, good)
    assert not passes.opens("", good)
