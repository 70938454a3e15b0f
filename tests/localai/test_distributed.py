"""The client and LocalAI's distributed mode: trap 19's refusals, and how it is recognised."""

from __future__ import annotations

from typing import Any

import pytest

from inference_mcp.errors import BackendBusyError
from inference_mcp.localai.rules import StaleRevisionError
from tests.localai.scripted import (
    Exchange,
    Script,
    Scripted,
    chat,
    client_for,
    image,
    said,
    scripted,
)

STALE = (
    "failed to route model with internal loader: routing model m.gguf: "
    "establishing config revision for m: stale model config revision"
)
PICTURE = {"data": [{"b64_json": "aGVsbG8="}]}
DISTRIBUTED = {"endpoint_groups": {"monitoring": {"node_backend_logs": "/api/nodes/:id/…"}}}
ALONE = {"endpoint_groups": {"monitoring": {"backend_logs": "/api/backend-logs"}}}


def localai(*, pinned: dict[str, Any], about: Any = None) -> Script:
    """A LocalAI that takes requests with just these parameters."""

    async def script(exchange: Exchange) -> None:
        path = exchange.seen.path
        if path == "/.well-known/localai.json" and about is not None:
            await exchange.answer(200, about)
        elif path == "/v1/models/capabilities":
            await exchange.answer(200, {"data": [{"id": "m", "capabilities": ["image", "chat"]}]})
        elif exchange.seen.method == "GET":
            await exchange.answer(404, {})
        elif {k: exchange.seen.json().get(k) for k in ("seed", "temperature")} != {
            "seed": pinned.get("seed"),
            "temperature": pinned.get("temperature"),
        }:
            await exchange.answer(500, {"error": {"code": 500, "message": STALE, "type": ""}})
        elif path.endswith("/images/generations"):
            await exchange.answer(200, PICTURE)
        else:
            await exchange.events(said("hi", "stop"), "[DONE]")

    return script


def sent(server: Scripted) -> list[Any]:
    """The bodies of what was asked to be computed."""
    return [seen.json() for seen in server.seen if seen.method == "POST"]


async def test_a_seed_of_our_own_is_left_out_once_it_was_refused() -> None:
    """Trap 19: the next try goes without, and so does every later picture of any model."""
    async with scripted(localai(pinned={})) as server, client_for(server.url) as client:
        own = image(seed=7, own_seed=True)
        with pytest.raises(BackendBusyError) as failure:
            await client.generate_image(own, timeout_s=5)
        assert (failure.value.transient, failure.value.not_ready) == (True, True)
        assert (await client.generate_image(own, timeout_s=5)).seed is None
        await client.generate_image(image(seed=8, own_seed=True), timeout_s=5)
    assert [body.get("seed") for body in sent(server)] == [7, None, None]


@pytest.mark.parametrize(("about", "seed"), [(DISTRIBUTED, None), (ALONE, 7), ({}, 7), ([], 7)])
async def test_a_distributed_localai_is_recognised_before_it_can_refuse(
    about: Any, seed: int | None
) -> None:
    """Trap 19: a seed in the first request ever would pin the model for everybody."""
    script = localai(pinned={"seed": seed}, about=about)
    async with scripted(script) as server, client_for(server.url) as client:
        await client.list_models()
        outcome = await client.generate_image(image(seed=7, own_seed=True), timeout_s=5)
        assert outcome.seed == seed
        await client.list_models(refresh=True)
    asked = [seen.path for seen in server.seen].count("/.well-known/localai.json")
    assert asked == (1 if seed is None else 2)  # what is alone may grow behind the same address


async def test_the_caller_s_own_seed_is_never_left_out() -> None:
    """Trap 19: it is refused, explained, and then not sent again."""
    async with scripted(localai(pinned={})) as server, client_for(server.url) as client:
        for _ in range(3):
            with pytest.raises(StaleRevisionError, match="runs distributed"):
                await client.generate_image(image(seed=7), timeout_s=5)
        assert (await client.generate_image(image(seed=None), timeout_s=5)).seed is None
    assert [body.get("seed") for body in sent(server)] == [7, None]


async def test_a_chat_that_differs_is_explained_and_not_sent_again() -> None:
    """Trap 19: each such request would unload the model for everybody."""
    async with scripted(localai(pinned={})) as server, client_for(server.url) as client:
        for _ in range(3):
            with pytest.raises(StaleRevisionError) as failure:
                await client.generate_text(chat(temperature=0.2), timeout_s=5)
        assert "Leave out temperature" in failure.value.next_step
        assert (await client.generate_text(chat(), timeout_s=5)).text == "hi"
    assert [body.get("temperature") for body in sent(server)] == [0.2, None]


async def test_the_first_answer_of_a_model_makes_its_abilities_be_asked_anew() -> None:
    """5.1: vision may be found out at the first load; once for each model."""
    async with scripted(localai(pinned={})) as server, client_for(server.url) as client:

        def lists() -> int:
            return [seen.path for seen in server.seen].count("/v1/models/capabilities")

        for expected in (1, 2, 2):
            await client.list_models()
            assert lists() == expected
            await client.generate_text(chat(), timeout_s=5)


async def test_a_load_that_is_refused_is_left_to_the_request() -> None:
    """Trap 19: a load carries no parameters, and each one would unload the model anew."""

    async def script(exchange: Exchange) -> None:
        await exchange.answer(500, {"loaded": None, "message": f"failed to load model: {STALE}"})

    async with scripted(script) as server, client_for(server.url) as client:
        with pytest.raises(BackendBusyError) as failure:
            await client.load_model("m", timeout_s=5)
        assert (failure.value.not_ready, failure.value.retry_after_s) == (True, 2.0)
        for _ in range(3):
            assert await client.load_model("m", timeout_s=5) is True
    assert len(server.seen) == 1


async def test_a_model_that_our_own_first_picture_pinned_is_asked_with_its_seed() -> None:
    """Trap 19: where nothing told in time that LocalAI runs distributed."""
    pinned: dict[str, Any] = {}

    async def script(exchange: Exchange) -> None:
        if exchange.seen.method == "POST" and not pinned:
            pinned["seed"] = exchange.seen.json()["seed"]
        await localai(pinned=pinned)(exchange)

    async with scripted(script) as server, client_for(server.url) as client:
        assert (await client.generate_image(image(seed=5, own_seed=True), timeout_s=5)).seed == 5
        for _ in range(2):  # its own seed refused, then none
            with pytest.raises(BackendBusyError):
                await client.generate_image(image(seed=6, own_seed=True), timeout_s=5)
        assert (await client.generate_image(image(seed=6, own_seed=True), timeout_s=5)).seed == 5
        assert (await client.generate_image(image(seed=7, own_seed=True), timeout_s=5)).seed == 5
    assert [body.get("seed") for body in sent(server)] == [5, 6, None, 5, 5]


async def test_where_no_seed_of_ours_fits_it_is_explained() -> None:
    """Trap 19: another's first picture pinned the model; each form is tried once."""
    async with scripted(localai(pinned={"seed": 99})) as server, client_for(server.url) as client:
        with pytest.raises(BackendBusyError):
            await client.generate_image(image(seed=6, own_seed=True), timeout_s=5)
        for _ in range(3):
            with pytest.raises(StaleRevisionError):
                await client.generate_image(image(seed=6, own_seed=True), timeout_s=5)
    assert [body.get("seed") for body in sent(server)] == [6, None]
