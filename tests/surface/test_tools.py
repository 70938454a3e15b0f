"""The eleven tools: what a model reads of them, and what each answers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import jsonschema
import pytest
import trio
from trio.testing import MockClock

from inference_mcp.backend import AbilitySource, ModelInfo
from inference_mcp.errors import BackendFailedError
from inference_mcp.requests import RequestType
from inference_mcp.surface.tools import TOOL_NAMES, list_tools, unserved
from tests.assembled import META, Assembled, assembled, busy, facts, texts
from tests.fakes import IMAGE_MODEL, FakeBackend, png

TOOLS = {tool.name: tool for tool in list_tools()}
GENERATION = ("txt2txt", "txt2img", "img2img", "img2txt", "get_job")
STATUS = tuple(name for name in TOOL_NAMES if name not in GENERATION)


def listing() -> str:
    """The ``tools/list`` answer as it is sent."""
    tools = [tool.model_dump(by_alias=True, exclude_none=True) for tool in list_tools()]
    return json.dumps({"tools": tools})


def test_the_tools_are_those_of_the_interface() -> None:
    """Names are fixed."""
    assert TOOL_NAMES == (
        "txt2txt",
        "txt2img",
        "img2img",
        "img2txt",
        "get_job",
        "cancel_job",
        "list_models",
        "get_queue_status",
        "get_request_metrics",
        "get_error_metrics",
        "get_health",
    )


def test_the_whole_listing_stays_under_its_budget() -> None:
    """4,000 tokens, reckoned as a quarter of the characters: every chat pays for them."""
    assert len(listing()) / 4 < 4_000


@pytest.mark.parametrize("name", TOOL_NAMES)
def test_each_tool_has_title_description_and_annotations(name: str) -> None:
    """Written for a model, and short."""
    tool = TOOLS[name]
    assert tool.title
    assert tool.description
    assert tool.description.endswith(".")
    assert len(tool.description) < 450
    assert tool.annotations is not None
    assert tool.annotations.open_world_hint is False


@pytest.mark.parametrize(
    ("name", "reads_only", "destructive", "idempotent"),
    [
        ("txt2txt", True, False, False),
        ("txt2img", False, False, False),
        ("img2img", False, False, False),
        ("img2txt", True, False, False),
        ("get_job", True, False, True),
        ("cancel_job", False, True, True),
        *((name, True, False, True) for name in STATUS if name != "cancel_job"),
    ],
)
def test_annotations_are_true(
    name: str, reads_only: bool, destructive: bool, idempotent: bool
) -> None:
    """Pictures are written to disk; a cancel throws work away; text changes nothing."""
    annotations = TOOLS[name].annotations
    assert annotations is not None
    assert annotations.read_only_hint is reads_only
    assert bool(annotations.destructive_hint) is destructive
    assert bool(annotations.idempotent_hint) is idempotent


@pytest.mark.parametrize("name", GENERATION)
def test_generation_tools_have_no_output_schema(name: str) -> None:
    """Several hosts drop all other content where there is one."""
    assert TOOLS[name].output_schema is None


@pytest.mark.parametrize("name", STATUS)
def test_output_schemas_name_the_top_level_fields_only(name: str) -> None:
    """More would break the budget."""
    schema = TOOLS[name].output_schema
    assert schema is not None
    jsonschema.Draft202012Validator.check_schema(schema)
    assert set(schema) == {"type", "properties", "required"}
    assert all(set(field) <= {"type"} for field in schema["properties"].values())
    assert schema["required"] == list(schema["properties"])


@pytest.mark.parametrize("name", ["img2img", "img2txt"])
def test_it_is_said_how_to_name_a_picture(name: str) -> None:
    """A chat attachment never reaches a server."""
    description = TOOLS[name].description or ""
    assert "absolute path" in description
    assert "attached" in description


@pytest.mark.parametrize("name", STATUS)
async def test_a_status_answer_keeps_to_its_schema(name: str, tmp_path: Path) -> None:
    """Fresh and busy, with the same as text for hosts that show only it."""
    async with assembled(tmp_path) as app:
        for full in (False, True):
            given = {"job_id": await busy(app)} if full and name == "cancel_job" else {}
            if name == "cancel_job" and not full:
                continue
            if full and not given:
                await busy(app)
            result = await app.call(name, **given)
            assert not result.is_error
            assert result.structured_content is not None
            schema = TOOLS[name].output_schema or {}
            jsonschema.validate(result.structured_content, schema)
            assert set(result.structured_content) == set(schema["properties"])
            assert [json.loads(text) for text in texts(result)] == [result.structured_content]
        assert app.faults == []


async def test_a_fault_of_this_server_is_an_error_that_quotes_nothing(tmp_path: Path) -> None:
    """The model hears that it was one, the log which."""

    class Faulty(FakeBackend):
        async def choose_model(self, kind: Any, name: str | None) -> str:
            raise KeyError("my secret")

    async with assembled(tmp_path, Faulty()) as app:
        result = await app.call("txt2txt", prompt="Hello")
        assert result.is_error
        assert texts(result)[0].startswith("[backend_error] This server failed")
        assert "secret" not in texts(result)[0]
        assert [(tool, type(error)) for tool, error in app.faults] == [("txt2txt", KeyError)]


@pytest.mark.parametrize(
    ("tool", "given", "code"),
    [
        ("txt2txt", {}, "invalid_input"),
        ("txt2txt", {"prompt": "a", "model": "qwen"}, "model_not_found"),
        ("txt2txt", {"prompt": "a", "model": IMAGE_MODEL}, "model_unsuitable"),
        ("txt2txt", {"prompt": "a", "response_schema": {"type": "text"}}, "invalid_input"),
        ("img2img", {"prompt": "a", "image": "fox.png"}, "image_rejected"),
        ("img2txt", {"image": "https://example.org/fox.png"}, "image_rejected"),
        ("img2txt", {"image": ["data:image/png;base64,AAAA"]}, "image_rejected"),
        ("get_job", {"job_id": "job-0"}, "job_not_found"),
        ("cancel_job", {"job_id": "job-0"}, "job_not_found"),
    ],
)
async def test_bad_calls_are_answered_before_anything_is_submitted(
    tool: str, given: dict[str, Any], code: str, tmp_path: Path
) -> None:
    """S19: they count as nothing, for nothing was asked of the queue."""
    async with assembled(tmp_path) as app:
        result = await app.call(tool, **given)
        assert result.is_error
        assert result.structured_content is None
        assert texts(result)[0].startswith(f"[{code}] ")
        assert (app.events, app.backend.calls, app.lines) == ([], [], [])


async def test_a_longer_wait_than_the_longest_is_taken_for_it(tmp_path: Path) -> None:
    """The host would give up first, and the answer would be lost."""
    async with assembled(tmp_path, FakeBackend(held=True), wait_s=0.01) as app:
        result = await app.call("txt2txt", prompt="Hello", wait_seconds=1e9)
        assert not result.is_error
        assert facts(result)["state"] == "processing"


VIRTUAL = pytest.mark.parametrize(
    "anyio_backend", [("trio", {"clock": MockClock(autojump_threshold=0)})], ids=["virtual"]
)
"""Time that jumps to the next deadline as soon as everybody waits."""


class Slow(FakeBackend):
    """It takes ``delay_s`` to tell its models."""

    delay_s: float = 0

    async def choose_model(self, kind: Any, name: str | None) -> str:
        await anyio.sleep(self.delay_s)
        return await super().choose_model(kind, name)

    async def list_models(self, *, refresh: bool = False) -> Any:
        await anyio.sleep(self.delay_s)
        return await super().list_models(refresh=refresh)


def slow(delay_s: float) -> Slow:
    """One that holds its calls, too."""
    backend = Slow(held=True)
    backend.delay_s = delay_s
    return backend


@VIRTUAL
@pytest.mark.parametrize("tool", ["txt2txt", "txt2img"])
async def test_the_wait_counts_from_the_start_of_the_call(tool: str, tmp_path: Path) -> None:
    """So does the host's limit: a slow LocalAI takes of the wait, and does not lengthen it."""
    async with assembled(tmp_path, slow(30)) as app:
        began = trio.current_time()
        result = await app.call(tool, prompt="a fox")
        assert trio.current_time() - began == pytest.approx(40)
        assert facts(result)["state"] == "processing"


@VIRTUAL
@pytest.mark.parametrize(("asked", "given_up_after_s"), [({}, 40), ({"wait_seconds": 0}, 5)])
async def test_a_localai_that_tells_no_models_in_time_is_an_error(
    asked: dict[str, Any], given_up_after_s: float, tmp_path: Path
) -> None:
    """Within the wait, or a short while where the caller waits for nothing."""
    async with assembled(tmp_path, slow(1000)) as app:
        began = trio.current_time()
        result = await app.call("txt2txt", prompt="Hello", **asked)
        assert trio.current_time() - began == pytest.approx(given_up_after_s)
        assert texts(result)[0].startswith("[backend_unreachable] LocalAI did not answer in time")
        assert (app.events, app.backend.calls) == ([], [])


@VIRTUAL
async def test_a_short_wait_leaves_time_to_submit(tmp_path: Path) -> None:
    """``wait_seconds`` 0 is answered with a job id as soon as there is one."""
    async with assembled(tmp_path, slow(3)) as app:
        began = trio.current_time()
        result = await app.call("txt2txt", prompt="Hello", wait_seconds=0)
        assert trio.current_time() - began == pytest.approx(3)
        assert not result.is_error


@VIRTUAL
async def test_a_list_of_models_that_does_not_come_is_given_up(tmp_path: Path) -> None:
    """The host would give up first, and nobody would hear why."""
    async with assembled(tmp_path, slow(1000)) as app:
        began = trio.current_time()
        result = await app.call("list_models")
        assert trio.current_time() - began == pytest.approx(40)
        assert texts(result)[0].startswith("[backend_unreachable] ")


def test_it_is_said_that_an_alias_becomes_its_target() -> None:
    """Else a model wonders why its job reports another name."""
    assert "alias runs on its target" in (TOOLS["list_models"].description or "")


@pytest.mark.parametrize("tool", ["txt2txt", "txt2img", "img2img", "img2txt"])
async def test_each_type_reaches_the_backend_as_its_request(tool: str, tmp_path: Path) -> None:
    """And is answered with what the backend said."""
    given: dict[str, Any] = {"prompt": "a fox"}
    if tool.startswith("img"):
        given["image"] = _fox(tmp_path)
    async with assembled(tmp_path) as app:
        result = await app.call(tool, **given)
        assert not result.is_error, texts(result)
        assert app.backend.calls[0].request.kind.value == tool
        assert (result.meta or {})[META]["type"] == tool


def _fox(folder: Path) -> str:
    path = folder / "fox.png"
    path.write_bytes(png())
    return str(path)


async def listed_models(app: Assembled) -> list[dict[str, Any]]:
    """What ``list_models`` tells of each."""
    body = (await app.call("list_models")).structured_content
    assert body is not None
    found: list[dict[str, Any]] = body["models"]
    return found


async def test_models_are_listed_with_what_the_queue_has_seen_of_them(tmp_path: Path) -> None:
    """Their circuit and measured times; an alias has its target's."""
    does: dict[RequestType, AbilitySource] = {RequestType.TXT2TXT: "localai"}
    backend = FakeBackend(
        models=(
            ModelInfo("alias", does, alias_of="chat"),
            ModelInfo("chat", does, default_for=(RequestType.TXT2TXT,)),
            ModelInfo("other", does),
        )
    )
    async with assembled(tmp_path, backend) as app:
        await app.call("txt2txt", prompt="Hello")
        listed = await listed_models(app)
        for model in listed[:2]:
            assert model["circuit"] == "closed"
            assert model["load_s"] >= 0
            assert list(model["processing_s"]) == ["txt2txt"]
        assert listed[2]["circuit"] == "closed"
        assert not listed[2].keys() & {"load_s", "processing_s"}
        backend.failure = BackendFailedError("No.", transient=True)
        for _ in range(5):
            await app.call("txt2txt", prompt="Hello")
        backend.failure = None
        listed = await listed_models(app)
        assert [model["circuit"] for model in listed] == ["open", "open", "closed"]


async def test_a_list_that_hangs_does_not_hold_up_health() -> None:
    """Who asks how things are wants to know now."""

    class Hanging(FakeBackend):
        async def list_models(self, *, refresh: bool = False) -> tuple[ModelInfo, ...]:
            await anyio.sleep_forever()
            return ()

    with anyio.fail_after(5):
        assert await unserved(Hanging(), 0.01) == "It did not answer within 0 s."
