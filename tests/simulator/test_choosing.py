"""Which model a request gets where it names none, or a broken one."""

from __future__ import annotations

from inference_mcp.simulator.world import SimModel, World
from tests.simulator.serving import CHAT, chat_body, serving


async def test_without_a_name_any_chat_model_may_answer() -> None:
    """Trap 1: the default is the first of a list without order."""
    world = World([SimModel(name) for name in "abcd"] + [SimModel("picture", ("image",))])
    async with serving(world) as client:
        names = set()
        for _ in range(20):
            names.add((await client.post(CHAT, json=chat_body("hi", ""))).json()["model"])
    assert len(names) > 1
    assert "picture" not in names


async def test_the_name_may_stand_in_the_query_or_be_the_key() -> None:
    """1.1: the body's name wins; the query's and the bearer's count without one."""
    async with serving(World([SimModel("a"), SimModel("b")])) as client:
        by_query = await client.post(f"{CHAT}?model=b", json=chat_body("hi", ""))
        headers = {"Authorization": "Bearer a"}
        by_key = await client.post(CHAT, json=chat_body("hi", ""), headers=headers)
        by_body = await client.post(f"{CHAT}?model=b", json=chat_body("hi", "a"))
    assert [one.json()["model"] for one in (by_query, by_key, by_body)] == ["b", "a", "a"]


async def test_an_alias_of_nothing_is_the_callers_error() -> None:
    """1.1: a broken alias is a 400; no candidate at all is one too."""
    async with serving(World([SimModel("lost", None, alias_of="gone")])) as client:
        assert (await client.post(CHAT, json=chat_body("hi", "lost"))).status_code == 400
        assert (await client.post(CHAT, json=chat_body("hi", ""))).status_code == 400
