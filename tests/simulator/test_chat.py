"""Chat and vision: what is sent, what arrives, what stops."""

from __future__ import annotations

import base64
import json
import time

import anyio
import httpx
import pytest

from inference_mcp.simulator.content import answer_for
from tests.simulator.serving import (
    CHAT,
    chat_body,
    plain_png,
    recorded_world,
    serving,
    vision_body,
)


def text_of(answer: httpx.Response) -> str:
    """The content of the only choice."""
    return str(answer.json()["choices"][0]["message"]["content"])


async def test_the_answer_depends_on_the_prompt_alone() -> None:
    """Two chats at once get each their own answer, the one that ``content`` computes."""
    async with serving(recorded_world()) as client:
        answers = {}

        async def ask(prompt: str) -> None:
            answers[prompt] = text_of(await client.post(CHAT, json=chat_body(prompt)))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(ask, "one")
            tasks.start_soon(ask, "two")
    assert answers == {prompt: answer_for([("user", prompt)]) for prompt in ("one", "two")}


async def test_a_stream_and_a_whole_answer_say_the_same() -> None:
    """The pieces of a stream make up the text that is sent whole."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=chat_body("hello", stream=True))
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    deltas = [json.loads(event)["choices"][0]["delta"] for event in events[:-1]]
    assert "".join(delta["content"] or "" for delta in deltas) == answer_for([("user", "hello")])
    assert events[-1] == "[DONE]"


async def test_nothing_is_sent_before_the_first_token() -> None:
    """Trap 4: headers come with the first event, so a held backend sends not even those."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("qwen3-8b")
        started = anyio.Event()

        async def stream() -> None:
            async with client.stream("POST", CHAT, json=chat_body("hi", stream=True)):
                started.set()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(stream)
            await world.wait_for_event("stream_start")
            await anyio.wait_all_tasks_blocked()
            assert not started.is_set()
            world.release("qwen3-8b")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_disconnect_stops_a_chat(stream: bool) -> None:
    """Trap 11: text stops with its client, streaming or not, and frees the slot."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_ask_quietly, client, chat_body("hi", stream=stream))
            kind = "stream" if stream else "predict"
            await world.wait_for_event(f"{kind}_start")
            tasks.cancel_scope.cancel()
        await world.wait_for_event(f"{kind}_cancelled")
        world.release("qwen3-8b")
        assert (await client.post(CHAT, json=chat_body("next"))).status_code == 200
    assert world.peak_in_flight == 1
    assert world.in_flight_of.total() == 0


async def _ask_quietly(client: httpx.AsyncClient, body: dict[str, object]) -> None:
    await client.post(CHAT, json=body)


async def test_a_chat_that_waits_for_a_slot_leaves_on_a_disconnect() -> None:
    """A client that goes while its chat is queued in the backend never starts it."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("qwen3-8b")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_ask_quietly, client, chat_body("first"))
            await world.wait_for_event("predict_start")
            async with anyio.create_task_group() as inner:
                inner.start_soon(_ask_quietly, client, chat_body("second"))
                await world.until(lambda: world.resident["qwen3-8b"].users == 2)
                inner.cancel_scope.cancel()
            await world.until(lambda: world.resident["qwen3-8b"].users == 1)
            world.release("qwen3-8b")
    assert [event.facts["prompt"] for event in world.events_of("predict_start")] == ["first"]


async def test_only_a_data_uri_reaches_a_vision_backend() -> None:
    """Trap 6: raw base64, a bare string and a local URL are dropped with 200."""
    picture = base64.b64encode(plain_png("red")).decode()
    wrong = [{"url": picture}, f"data:image/png;base64,{picture}", {"url": "http://127.0.0.1/x"}]
    world = recorded_world()
    async with serving(world) as client:
        for image_url in wrong:
            part = {"type": "image_url", "image_url": image_url}
            messages = [{"role": "user", "content": [part]}]
            answer = await client.post(CHAT, json={"model": "llava", "messages": messages})
            assert answer.status_code == 200
        await client.post(CHAT, json=vision_body(plain_png("red")))
    sent = [len(event.facts["images"]) for event in world.events_of("predict_start")]
    assert sent == [0, 0, 0, 1]


async def test_a_vision_answer_tells_which_pictures_arrived() -> None:
    """Each picture has its clause, in order, from its real pixels."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=vision_body(plain_png("red"), plain_png("blue", 9)))
    text = text_of(answer)
    assert "Picture 1 is 8 by 8 pixels" in text
    assert "#ff0000" in text
    assert "Picture 2 is 9 by 8 pixels" in text
    assert "#0000ff" in text


async def test_an_undecodable_picture_is_an_error_of_the_backend() -> None:
    """Bytes that are no picture give the 500 that llama.cpp's refusal becomes."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=vision_body(b"no picture"))
    assert answer.status_code == 500
    assert "InvalidArgument" in answer.json()["error"]["message"]


async def test_a_stop_word_and_a_token_limit_cut_the_answer() -> None:
    """``stop`` ends before the word, ``max_tokens`` after so many, with its reason."""
    async with serving(recorded_world()) as client:
        stopped = await client.post(CHAT, json=chat_body("!n=9", stop=["w3"]))
        limited = await client.post(CHAT, json=chat_body("!n=9", max_tokens=2))
    assert text_of(stopped) == "w0 w1 w2"
    assert text_of(limited) == "w0 w1"
    assert limited.json()["choices"][0]["finish_reason"] == "length"


@pytest.mark.parametrize(
    ("model", "prompt", "told"),
    [
        ("qwen3-8b", "!crash", "EOF"),
        ("qwen3-8b", "!errmid", "simulated mid-stream failure"),
        ("qwen3-8b", "!ctx", "exceeds"),
        ("llava", "!invalid", "InvalidArgument"),
        ("badload", "hi", "could not load model"),
        ("slowload", "hi", "retry after 9s"),
    ],
)
async def test_a_stream_fails_with_200_and_no_header(model: str, prompt: str, told: str) -> None:
    """Trap 3: an ``error`` event and ``[DONE]``; seconds to wait stand in the text alone."""
    world = recorded_world()
    world.cooldowns["slowload"] = (time.monotonic() + 9, 1)
    async with serving(world) as client:
        answer = await client.post(CHAT, json=chat_body(prompt, model, stream=True))
    error, done = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line][-2:]
    assert answer.status_code == 200
    assert "retry-after" not in answer.headers
    assert told in json.loads(error)["error"]["message"]
    assert done == "[DONE]"


async def test_an_empty_answer_is_asked_for_six_times() -> None:
    """Trap 16: LocalAI retries an empty answer five times and then returns it as 200."""
    world = recorded_world()
    async with serving(world) as client:
        answer = await client.post(CHAT, json=chat_body("!empty"))
    assert text_of(answer) == ""
    assert len(world.events_of("predict_start")) == 6


async def test_a_context_overflow_comes_first_as_text_and_then_as_an_error() -> None:
    """Trap 5: llama.cpp writes its error text as a normal delta before the error event."""
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=chat_body("!ctx", stream=True))
    events = [line.removeprefix("data: ") for line in answer.text.split("\n\n") if line]
    assert answer.status_code == 200
    assert "exceeds" in json.loads(events[1])["choices"][0]["delta"]["content"]
    assert json.loads(events[2])["error"]["type"] == "server_error"
    assert events[3] == "[DONE]"


@pytest.mark.parametrize("stream", [False, True])
async def test_a_full_model_refuses_with_an_honest_status(stream: bool) -> None:
    """Trap 17: 503 with ``Retry-After`` on streams too, and an error without a code."""
    world = recorded_world()
    async with serving(world) as client:
        world.hold("capped")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(_ask_quietly, client, chat_body("first", "capped"))
            await world.wait_for_event("predict_start")
            refused = await client.post(CHAT, json=chat_body("second", "capped", stream=stream))
            world.release("capped")
        after = await client.post(CHAT, json=chat_body("third", "capped"))
    assert refused.status_code == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"].keys() == {"message", "type"}
    assert after.status_code == 200


async def test_a_schema_is_answered_with_json_that_matches_it() -> None:
    """``response_format`` gives an instance of the schema."""
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer", "minimum": 3}, "b": {"enum": ["x", "y"]}},
        "required": ["a", "b"],
    }
    wanted = {"type": "json_schema", "json_schema": {"name": "s", "schema": schema}}
    async with serving(recorded_world()) as client:
        answer = await client.post(CHAT, json=chat_body("hi", response_format=wanted))
    assert json.loads(text_of(answer)) == {"a": 3, "b": "x"}


async def test_a_lone_surrogate_does_not_break_the_answer() -> None:
    """Half a character in a prompt is replaced, as Go does, and the answer is UTF-8."""
    raw = b'{"model":"qwen3-8b","messages":[{"role":"user","content":"a\\ud800b"}]}'
    async with serving(recorded_world()) as client:
        headers = {"Content-Type": "application/json"}
        answer = await client.post(CHAT, content=raw, headers=headers)
    assert "a\ufffdb" in text_of(answer)


async def test_prompts_command_nothing_where_directives_are_off() -> None:
    """A user's ``!crash`` is only a word."""
    world = recorded_world(directives=False)
    async with serving(world) as client:
        answer = await client.post(CHAT, json=chat_body("!crash !empty"))
    assert text_of(answer) == answer_for([("user", "!crash !empty")])
