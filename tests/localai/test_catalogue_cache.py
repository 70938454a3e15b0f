"""One catalogue for a while, one fetch at a time."""

from __future__ import annotations

import anyio
import pytest

from inference_mcp.backend import AbilitySource, ModelInfo
from inference_mcp.errors import (
    BackendUnreachableError,
    ModelNotFoundError,
    ModelUnsuitableError,
)
from inference_mcp.localai.catalogue import Catalogue
from inference_mcp.localai.catalogue_cache import CatalogueCache
from inference_mcp.requests import RequestType


class Source:
    """A LocalAI of one model per fetch, on a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.fetches = 0
        self.fails = False
        self.gate = anyio.Event()
        self.gate.set()
        self.cache = CatalogueCache(self.fetch, lambda: self.now_s)

    async def fetch(self) -> Catalogue:
        self.fetches += 1
        number = self.fetches
        await self.gate.wait()
        if self.fails:
            raise BackendUnreachableError("Gone.", transient=True)
        return Catalogue(tuple(ModelInfo(f"m{n}", {}) for n in range(1, number + 1)))


async def test_a_catalogue_is_kept_for_a_while() -> None:
    """Half a minute, or until a fresh one is asked for."""
    source = Source()
    await source.cache.get()
    source.now_s += CatalogueCache.KEEP_S - 1
    await source.cache.get()
    assert source.fetches == 1
    source.now_s += 1
    await source.cache.get()
    assert source.fetches == 2
    await source.cache.get(refresh=True)
    assert source.fetches == 3


async def test_many_who_ask_at_once_make_one_fetch() -> None:
    """Single flight; a burst of requests must not become a burst of lists."""
    source = Source()
    source.gate = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(20):
                tasks.start_soon(source.cache.get)
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
    assert source.fetches == 1


async def test_all_who_waited_hear_of_the_failure() -> None:
    """And the next who asks tries again: no old catalogue covers a failure."""
    source = Source()
    await source.cache.get()
    source.fails, source.gate = True, anyio.Event()
    failures = 0

    async def ask() -> None:
        nonlocal failures
        with pytest.raises(BackendUnreachableError):
            await source.cache.get(refresh=True)
        failures += 1

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
        assert (failures, source.fetches) == (5, 3)
        with pytest.raises(BackendUnreachableError):
            await source.cache.get()
        source.fails = False
        await source.cache.get()


async def test_a_cancelled_fetch_leaves_the_next_waiter_to_ask() -> None:
    """The one who asked gave up; the other did not."""
    source = Source()
    source.gate = anyio.Event()
    asking = anyio.CancelScope()
    found: list[Catalogue] = []

    async def ask_and_give_up() -> None:
        with asking:
            found.append(await source.cache.get())

    async def ask() -> None:
        found.append(await source.cache.get())

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask_and_give_up)
            await anyio.wait_all_tasks_blocked()
            tasks.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            asking.cancel()
            await anyio.wait_all_tasks_blocked()
            source.gate.set()
    assert source.fetches == 2
    assert [len(catalogue.models) for catalogue in found] == [2]


async def test_a_name_that_is_missing_is_looked_for_once_more() -> None:
    """It may be a model installed just now."""
    source = Source()
    await source.cache.get()
    source.now_s += CatalogueCache.MISS_EVERY_S
    assert await source.cache.choose(RequestType.TXT2TXT, "m2") == "m2"


async def test_guessing_names_does_not_become_a_flood() -> None:
    """One fresh look in a few seconds."""
    source = Source()
    await source.cache.get()
    source.now_s += CatalogueCache.MISS_EVERY_S
    for _ in range(10):
        with pytest.raises(ModelNotFoundError):
            await source.cache.choose(RequestType.TXT2TXT, "never")
    assert source.fetches == 2


async def test_who_asks_for_a_fresh_one_never_gets_one_that_was_on_its_way() -> None:
    """What is on its way may have left LocalAI before what the asker knows of had happened."""
    source = Source()
    source.gate = anyio.Event()
    found: list[Catalogue] = []

    async def ask() -> None:
        found.append(await source.cache.get(refresh=True))

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for _ in range(5):
                tasks.start_soon(ask)
                await anyio.wait_all_tasks_blocked()
            source.gate.set()
    assert source.fetches == 2
    assert sorted(len(each.models) for each in found) == [1, 2, 2, 2, 2]


async def test_an_expired_catalogue_is_fetched_anew_when_it_is_wanted_next() -> None:
    """And not before; one that is on its way as it expires is too old already."""
    source = Source()
    await source.cache.get()
    source.cache.expire()
    assert source.fetches == 1
    source.gate = anyio.Event()
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.cache.get)
            await anyio.wait_all_tasks_blocked()
            source.cache.expire()
            source.gate.set()
    assert source.fetches == 2
    assert len((await source.cache.get()).models) == 3
    await source.cache.get()
    assert source.fetches == 3


async def test_an_ability_that_is_missing_may_have_come_meanwhile() -> None:
    """Vision is found out at a model's first load: one fresh look, as for an unknown name."""
    sees: dict[RequestType, AbilitySource] = {RequestType.IMG2TXT: "localai"}
    chats: dict[RequestType, AbilitySource] = {RequestType.TXT2TXT: "localai"}
    told = [chats, chats, chats | sees]
    now_s = 0.0

    async def fetch() -> Catalogue:
        return Catalogue((ModelInfo("m", told.pop(0)),))

    cache = CatalogueCache(fetch, lambda: now_s)
    for _ in range(2):  # at most one look in five seconds
        with pytest.raises(ModelUnsuitableError):
            await cache.choose(RequestType.IMG2TXT, "m")
    now_s = CatalogueCache.MISS_EVERY_S
    with pytest.raises(ModelUnsuitableError):
        await cache.choose(RequestType.IMG2TXT, "m")
    now_s *= 2
    assert await cache.choose(RequestType.IMG2TXT, "m") == "m"


async def test_a_model_is_chosen_by_the_last_catalogue_while_localai_is_away() -> None:
    """The job then waits for LocalAI in the queue; who asks for the list hears the truth."""
    source = Source()
    await source.cache.get()
    source.fails = True
    source.now_s += CatalogueCache.KEEP_S
    assert await source.cache.choose(RequestType.TXT2TXT, "m1") == "m1"
    with pytest.raises(BackendUnreachableError):
        await source.cache.get()
    source.now_s += CatalogueCache.GOOD_S
    with pytest.raises(BackendUnreachableError):
        await source.cache.choose(RequestType.TXT2TXT, "m1")


async def test_whether_a_model_is_still_listed_is_looked_up_where_that_is_old() -> None:
    """Traps 2 and 14: a name that is gone would become a phantom; where nobody knows, it may be."""
    source = Source()
    assert await source.cache.lists("m9")
    assert source.fetches == 0
    await source.cache.get()
    assert await source.cache.lists("m1")
    assert not await source.cache.lists("m2")
    source.now_s += CatalogueCache.KEEP_S
    assert await source.cache.lists("m2")
    source.fails = True
    source.now_s += CatalogueCache.GOOD_S + 1
    assert await source.cache.lists("m9")


async def test_nobody_waits_behind_a_fetch_that_others_need() -> None:
    """Who would take the one under way takes it, though somebody wants a later one."""
    source = Source()
    source.gate = anyio.Event()
    done: list[str] = []

    async def ask(name: str, refresh: bool) -> None:
        await source.cache.get(refresh=refresh)
        done.append(name)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            for name, refresh in (("first", False), ("fresh", True), ("third", False)):
                tasks.start_soon(ask, name, refresh)
                await anyio.wait_all_tasks_blocked()
            gate, source.gate = source.gate, anyio.Event()
            gate.set()
            await anyio.wait_all_tasks_blocked()
            assert sorted(done) == ["first", "third"]
            source.gate.set()
    assert source.fetches == 2
