"""One model's queue: its two orders, and what entering and leaving cost (S1, S2, S8)."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass

import pytest

from inference_mcp.requests import Priority, Rank, RequestType, rank_of
from inference_mcp.scheduling.queues import ModelQueue

CHAT = rank_of(Priority.NORMAL, RequestType.TXT2TXT)
PICTURE = rank_of(Priority.NORMAL, RequestType.TXT2IMG)


@dataclass(frozen=True)
class Waiter:
    """What a queue knows of a request."""

    id: str
    rank: Rank
    number: int
    due_at: float


Queue = ModelQueue[Waiter]


class Counting(tuple[int, int]):
    """A rank that counts how often it is compared."""

    compared = 0

    def __lt__(self, other: object) -> bool:
        Counting.compared += 1
        return tuple.__lt__(self, other)  # type: ignore[operator]

    def __eq__(self, other: object) -> bool:
        Counting.compared += 1
        return tuple.__eq__(self, other)

    __hash__ = tuple.__hash__


def filled(ranks: Iterable[Rank], first: int = 1) -> Queue:
    """A queue of these ranks, named by their numbers."""
    queue = Queue()
    for number, rank in enumerate(ranks, first):
        queue.push(Waiter(str(number), rank, number, 60.0 + number))
    return queue


def drained(queue: Queue) -> list[str]:
    """All that waits, best first."""
    order = []
    while len(queue):
        order.append(queue.best().id)
        queue.remove(order[-1])
    return order


def test_s1_the_better_rank_comes_first_then_the_smaller_number() -> None:
    """S1: rank, then first in, first out."""
    assert drained(filled([PICTURE, CHAT, PICTURE, CHAT])) == ["2", "4", "1", "3"]


def test_s1_the_number_decides_and_not_the_id() -> None:
    """S1: never by id, not even between 9 and 10."""
    assert drained(filled([CHAT] * 12)) == [str(n) for n in range(1, 13)]


def test_s1_one_that_comes_back_takes_its_old_place() -> None:
    """S1, S6, S14: by number."""
    queue = filled([CHAT] * 3)
    queue.remove("1")
    assert queue.best().id == "2"
    queue.push(Waiter("1", CHAT, 1, 61.0))
    assert drained(queue) == ["1", "2", "3"]


def test_s8_the_first_due_is_found_whatever_its_rank() -> None:
    """S8: longest past its own limit, not longest waiting and not best."""
    queue = Queue()
    queue.push(Waiter("batch", PICTURE, 1, 300.0))
    queue.push(Waiter("normal", CHAT, 2, 90.0))
    queue.push(Waiter("later", CHAT, 3, 95.0))
    assert queue.first_due().id == "normal"
    queue.remove("normal")
    assert queue.first_due().id == "later"
    queue.remove("later")
    assert queue.first_due().id == "batch"


def test_s8_of_two_due_at_once_the_smaller_number_is_first() -> None:
    """S8, S1: a tie is broken by number, never by id."""
    queue = Queue()
    queue.push(Waiter("a", CHAT, 2, 90.0))
    queue.push(Waiter("b", CHAT, 1, 90.0))
    assert queue.first_due().id == "b"


def test_an_empty_queue_has_neither() -> None:
    """Nothing waits: nobody is best, nobody is due."""
    queue = filled([CHAT])
    queue.remove("1")
    assert len(queue) == 0
    for asked in (queue.best, queue.first_due):
        with pytest.raises(IndexError):
            asked()


def test_nobody_waits_twice() -> None:
    """A second push of the same id raises and changes nothing."""
    queue = filled([CHAT])
    with pytest.raises(ValueError, match="waits already"):
        queue.push(Waiter("1", CHAT, 1, 61.0))
    assert drained(queue) == ["1"]


def test_who_does_not_wait_cannot_leave() -> None:
    """Removing a stranger raises and changes nothing."""
    queue = filled([CHAT])
    with pytest.raises(KeyError):
        queue.remove("2")
    assert "1" in queue
    assert len(queue) == 1


@pytest.mark.parametrize("seed", range(5))
def test_s1_the_order_holds_under_any_coming_and_going(seed: int) -> None:
    """S1, S8: against a sorted list, with returns to the old place."""
    rng, queue = random.Random(seed), Queue()  # noqa: S311  # a seed, no secret
    everyone: dict[str, tuple[Rank, int, float]] = {}
    waiting: set[str] = set()
    for number in range(1, 600):
        gone = sorted(everyone.keys() - waiting)
        if gone and rng.random() < 0.3:
            id_ = rng.choice(gone)
        else:
            id_ = str(number)
            everyone[id_] = ((rng.randrange(3), rng.randrange(4)), number, rng.random())
        queue.push(Waiter(id_, *everyone[id_]))
        waiting.add(id_)
        while waiting and rng.random() < 0.48:
            left = rng.choice(sorted(waiting))
            queue.remove(left)
            waiting.discard(left)
        assert len(queue) == len(waiting)
        if waiting:
            assert queue.best().id == min(waiting, key=lambda i: everyone[i][:2])
            due = min(waiting, key=lambda i: (everyone[i][2], everyone[i][1]))
            assert queue.first_due().id == due


def cost_of(depth: int) -> tuple[float, float]:
    """Comparisons for a newcomer's entering and for a leaving, at this depth, on average."""
    queue = filled(Counting(CHAT) for _ in range(depth))
    Counting.compared = 0
    for number in range(depth + 1, depth + 101):
        queue.push(Waiter(str(number), Counting(CHAT), number, 60.0 + number))
    entering = Counting.compared / 100
    Counting.compared = 0
    for number in range(depth + 1, depth + 101):
        queue.remove(str(number))
    return entering, Counting.compared / 100


def test_s2_entering_and_leaving_cost_the_same_at_any_depth() -> None:
    """S2: comparisons at depth 1 and at depth 10,000, counted and not timed."""
    shallow, deep = cost_of(1), cost_of(10_000)
    assert deep[0] <= shallow[0] + 1
    assert deep[1] <= shallow[1] + 1


def test_s2_taking_the_best_costs_little_at_any_depth() -> None:
    """S2: a heap's logarithm, not its length."""
    queue = filled(Counting(CHAT) for _ in range(10_000))
    Counting.compared = 0
    for _ in range(100):
        queue.remove(queue.best().id)
    assert Counting.compared / 100 < 100


def test_s2_what_has_left_does_not_stay_in_memory() -> None:
    """S2: many that come and go behind one that stays leave nothing behind."""
    queue = filled([CHAT])
    for number in range(2, 5_000):
        queue.push(Waiter(str(number), CHAT, number, 60.0 + number))
        queue.remove(str(number))
    assert len(queue._by_key) < 64
    assert len(queue._by_due) < 64
