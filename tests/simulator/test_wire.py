"""Bodies that LocalAI refuses or takes."""

from __future__ import annotations

import pytest

from tests.simulator.serving import CHAT, chat_body, recorded_world, serving

JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": "hot"},
        {"max_tokens": 1.5},
        {"stream": "yes"},
        {"seed": True},
        {"messages": {"role": "user"}},
        {"metadata": {"a": 1}},
        {"metadata": "x"},
    ],
)
async def test_a_field_of_the_wrong_type_makes_the_whole_body_a_400(
    wrong: dict[str, object],
) -> None:
    """1.2: LocalAI's parser refuses what does not fit its struct."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json={**chat_body("hi"), **wrong})
    assert answer.status_code == 400
    assert "failed parsing request body" in answer.json()["error"]["message"]


async def test_an_unknown_field_is_ignored() -> None:
    """1.2: no priority, no timeout, no user."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=chat_body("hi", priority="critical", user="me"))
    assert answer.status_code == 200


@pytest.mark.parametrize("body", [b"[" * 100_000, b"[]", b"nonsense", b'{"model":'])
async def test_a_body_that_is_no_object_is_a_400(body: bytes) -> None:
    """However broken."""
    async with serving(recorded_world()) as client:
        assert (await client.post(CHAT, content=body, headers=JSON)).status_code == 400


async def test_messages_of_any_shape_reach_the_model() -> None:
    """1.2: there is no check that messages are there or make sense."""
    async with serving(recorded_world()) as client:
        for messages in (None, [], [1, "x"], [{"role": "user", "content": [1, {"type": "x"}]}]):
            body = {"model": "qwen3-8b", "messages": messages}
            assert (await client.post(CHAT, json=body)).status_code == 200
