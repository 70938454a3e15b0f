"""Health: what can be computed now, why not, and what was observed of it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import pytest

from inference_mcp.backend import BackendHealth
from inference_mcp.errors import BackendUnreachableError
from inference_mcp.observe import JobEvent
from inference_mcp.requests import RequestType
from inference_mcp.scheduling.protocols import ModelView, QueueSnapshot, Sharing
from inference_mcp.scheduling.state import Counts, Limits
from inference_mcp.surface.health import Identity, MemoryFacts, Seen, health
from tests.assembled import assembled
from tests.fakes import FakeBackend
from tests.observe.told import finished, metrics_of, rejected

GOOD = BackendHealth(reachable=True, ready=True, version="v4.9.0")
IDENTITY = Identity("1.2.3", "http://localhost:8080")


def snapshot(*models: ModelView) -> QueueSnapshot:
    """An idle queue that knows these models."""
    return QueueSnapshot((), (), models, Limits(), Counts(), intake_open=True)


def judged(
    *models: ModelView,
    memory: MemoryFacts | None = None,
    events: Iterable[JobEvent] = (),
    found: BackendHealth = GOOD,
    now_s: float = 600.0,
    unserved: Sequence[RequestType] | None = (),
) -> dict[str, Any]:
    """Health after these events, where LocalAI itself is well unless ``found`` says else."""
    return health(
        Seen(
            found=found,
            identity=IDENTITY,
            queue=snapshot(*models),
            lately=metrics_of(*events).lately(now_s),
            memory=memory or MemoryFacts(),
            sharing=Sharing("member", processes=2),
            unserved=unserved,
        )
    )


@pytest.mark.parametrize(
    ("circuit", "blocked_for_s", "told"),
    [
        (
            "open",
            12.4,
            "m failed several times in a row; nothing starts on it for another 12 s.",
        ),
        ("open", 0.0, "m failed several times in a row; nothing starts on it for now."),
        ("open", None, "m failed several times in a row; nothing starts on it for now."),
        (
            "closed",
            7.0,
            "Nothing starts on m for another 7 s: LocalAI lets it rest after "
            "a failure, asked to be left alone, or cannot be reached.",
        ),
        (
            "closed",
            0.0,
            "Nothing starts on m for now: LocalAI lets it rest after a failure, asked to be left "
            "alone, or cannot be reached.",
        ),
        ("half-open", 0.0, None),
        ("half-open", None, None),
        ("closed", None, None),
    ],
)
def test_a_model_on_which_nothing_starts_degrades_health(
    circuit: str, blocked_for_s: float | None, told: str | None
) -> None:
    """S15: with its own sentence for an open circuit; a probe under way is no trouble."""
    body = judged(ModelView("m", "resident", 0, 1, circuit, blocked_for_s, None))
    assert body["problems"] == ([told] if told else [])
    assert body["status"] == ("degraded" if told else "ok")
    assert body["circuits"] == {"m": circuit}


@pytest.mark.parametrize(
    ("memory", "warned"),
    [
        (MemoryFacts(), False),
        (MemoryFacts(3, 2, "setting"), True),
        (MemoryFacts(2, 2, "setting"), False),
        (MemoryFacts(3, 0, "setting"), False),
        (MemoryFacts(3, None, "setting"), False),
        (MemoryFacts(2, 2, "localai"), False),
        (MemoryFacts(0, 2, "setting"), False),
    ],
)
def test_health_shows_the_memory_limit_and_warns_where_it_is_above_localai_s(
    memory: MemoryFacts, warned: bool
) -> None:
    """LocalAI would drop models that the queue takes for loaded."""
    body = judged(memory=memory)
    assert body["resident_models"] == {
        "limit": memory.in_force,
        "localai_limit": memory.localai,
        "source": memory.source,
    }
    assert body["status"] == ("degraded" if warned else "ok")
    assert any("INFERENCE_MCP_MAX_RESIDENT_MODELS" in told for told in body["problems"]) is warned


@pytest.mark.parametrize(
    ("found", "status"),
    [
        (BackendHealth(reachable=True, ready=True, version="v4.9.0"), "ok"),
        (
            BackendHealth(reachable=True, ready=True, problem="No model.", next_step="Add one."),
            "degraded",
        ),
        (BackendHealth(reachable=True, ready=False, problem="It starts."), "unavailable"),
        (
            BackendHealth(reachable=True, ready=True, key_accepted=False, problem="No."),
            "unavailable",
        ),
        (BackendHealth(reachable=False, ready=False, problem="Gone."), "unavailable"),
    ],
)
async def test_health_is_what_can_be_done(
    found: BackendHealth, status: str, tmp_path: Path
) -> None:
    """``unavailable`` if nothing can be computed, ``degraded`` if less."""
    async with assembled(tmp_path, FakeBackend(health=found)) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert (body["status"], body["localai_url"]) == (status, "http://localhost:8080")
        assert body["problems"] == [f"{found.problem} {found.next_step}".strip()] * bool(
            found.problem
        )


async def test_a_folder_that_cannot_be_written_degrades_health(tmp_path: Path) -> None:
    """The server serves all the same, and says what is amiss."""
    (tmp_path / "pictures").write_text("a file where the folder should be")
    async with assembled(tmp_path) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert body["status"] == "degraded"
        assert "cannot be written" in body["problems"][0]
        assert "INFERENCE_MCP_OUTPUT_DIR" in body["problems"][0], "the step"


async def test_the_tools_show_the_memory_limit_that_they_are_told(tmp_path: Path) -> None:
    """None, where nobody tells."""
    async with assembled(tmp_path) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert body["resident_models"] == {"limit": 0, "localai_limit": None, "source": "none"}
        tools = replace(app.tools, memory=lambda: MemoryFacts(4, 2, "setting"))
        told: Any = (await tools.call("get_health", {}, _silent)).structured_content
        assert told["resident_models"]["limit"] == 4
        assert told["status"] == "degraded"


async def _silent(_: float, __: str) -> None:
    await anyio.lowlevel.checkpoint()


async def test_a_localai_without_a_model_is_degraded(tmp_path: Path) -> None:
    """It answers well, and nothing can be computed on it until somebody installs one."""
    async with assembled(tmp_path, FakeBackend(models=())) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert body["status"] == "degraded"
        assert body["problems"] == [
            "LocalAI offers no model that can be used. Install one there, then call list_models."
        ]


async def test_a_list_that_cannot_be_fetched_is_not_taken_for_an_empty_one(tmp_path: Path) -> None:
    """It looks well, and yet no request can be begun."""
    failure = BackendUnreachableError("LocalAI does not answer.", "Start it.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        body: Any = (await app.call("get_health")).structured_content
        assert body["status"] == "degraded"
        assert body["problems"] == [
            "No model can be chosen, for LocalAI does not list any now: LocalAI does not answer. "
            "Start it."
        ]


def failed(at_s: float, code: str = "backend_error", model: str = "m") -> JobEvent:
    """A request on ``m`` failed so."""
    return finished(at_s, "failed", code=code, model=model)


@pytest.mark.parametrize("code", ["backend_unreachable", "backend_auth"])
def test_a_localai_that_looks_well_and_refuses_every_request_is_unavailable(code: str) -> None:
    """A ping is not all: nothing gets through, and what to do about it is said."""
    body = judged(events=[failed(n, code) for n in (10, 20, 30)])
    assert body["status"] == "unavailable"
    assert f"all of the last 3 requests failed with [{code}]" in body["problems"][0]
    assert ("LOCALAI_API_KEY" in body["problems"][0]) is (code == "backend_auth")


@pytest.mark.parametrize(
    "events",
    [
        [failed(10, "backend_auth"), failed(20, "backend_auth")],
        [*(failed(n, "backend_auth") for n in (10, 20, 30)), finished(40)],
        [*(failed(n, "backend_auth") for n in (10, 20)), failed(30, "invalid_input")],
        [failed(n, "deadline_exceeded") for n in (10, 20, 30)],
    ],
)
def test_some_failures_are_no_proof_that_nothing_gets_through(events: list[JobEvent]) -> None:
    """Too few; one that completed; one that was its caller's own fault."""
    assert judged(events=events)["status"] == "ok"


def test_refused_requests_say_nothing_of_localai() -> None:
    """S12: the queue had no room for them."""
    events = [*(failed(n, "backend_auth") for n in (10, 20, 30)), failed(40, "queue_full")]
    body = judged(events=events)
    assert body["status"] == "unavailable"
    assert "[backend_auth]" in body["problems"][0]


def test_health_counts_more_failures_than_are_shown() -> None:
    """Neither a flood of refusals nor many failures hide how LocalAI fares."""
    refused = [failed(n, "backend_auth") for n in range(3)]
    flood = [rejected(5) for _ in range(100)]
    assert judged(events=[*refused, *flood])["status"] == "unavailable"
    model = ModelView("m", "resident", 0, 1, "closed", None, None)
    many = [failed(n) if n % 5 < 3 else finished(n, model="m") for n in range(550)]
    assert judged(model, events=many)["problems"][0].startswith("m fails: 330 of 550 requests")


def test_what_was_mended_is_forgotten() -> None:
    """Ten minutes later only the counts remember."""
    events = [failed(n, "backend_auth") for n in (10, 20, 30)]
    assert judged(events=events, now_s=631)["status"] == "ok"
    assert judged(events=events, now_s=610)["status"] == "unavailable"


SILENT = BackendHealth(reachable=False, ready=False, problem="No answer in 5 s.", silent=True)
GONE = BackendHealth(reachable=False, ready=False, problem="Nobody is there.")


@pytest.mark.parametrize(
    ("found", "completed_at", "status"),
    [
        (SILENT, 590, "degraded"),
        (SILENT, 560, "unavailable"),
        (SILENT, None, "unavailable"),
        (GONE, 590, "unavailable"),
    ],
)
def test_a_localai_that_works_but_is_too_busy_to_say_so_is_degraded(
    found: BackendHealth, completed_at: float | None, status: str
) -> None:
    """What it has just done counts for more than a look that it let wait; a refusal does not."""
    body = judged(events=[] if completed_at is None else [finished(completed_at)], found=found)
    assert body["status"] == status
    assert any("overloaded" in problem for problem in body["problems"]) is (status == "degraded")


def test_a_model_that_fails_is_named_with_its_last_error() -> None:
    """Before its circuit opens, and in this server's own words."""
    model = ModelView("m", "resident", 0, 1, "closed", None, None)
    events = [failed(10), failed(20), failed(30, "bad_result"), finished(40, model="m")]
    body = judged(model, events=events)
    assert body["status"] == "degraded"
    assert body["problems"] == [
        "m fails: 3 of 4 requests failed in the last 10 minutes. Its last error: [bad_result] "
        "LocalAI failed. Look into LocalAI's log for why, or use another model."
    ]
    assert judged(model, events=events[:2])["problems"] == []
    healed = [*events, finished(50, model="m"), finished(60, model="m"), finished(70, model="m")]
    assert judged(model, events=healed)["problems"] == []
    theirs = [failed(n, "invalid_input") for n in range(5)]
    assert judged(model, events=theirs)["problems"] == [], "its callers' own faults"


def test_a_model_that_works_again_is_no_trouble() -> None:
    """After as many in a row as it takes to be one, however many failed before."""
    model = ModelView("m", "resident", 0, 1, "closed", None, None)
    broke = [failed(n) for n in range(10)]
    again = [finished(20 + n, model="m") for n in range(3)]
    assert judged(model, events=[*broke, *again[:2]])["status"] == "degraded"
    assert judged(model, events=[*broke, *again])["status"] == "ok"


def test_a_list_that_cannot_be_had_is_told_once() -> None:
    """Where LocalAI is gone, that says all."""
    assert len(judged(found=GONE, unserved=None)["problems"]) == 1


def test_an_open_circuit_is_told_with_the_last_error() -> None:
    """What it waits for, and why."""
    model = ModelView("m", "resident", 0, 1, "open", 12.0, None)
    body = judged(model, events=[failed(10)])
    assert body["problems"] == [
        "m failed several times in a row; nothing starts on it for another 12 s. "
        "Its last error: [backend_error] LocalAI failed. Look into LocalAI's log for why, or use "
        "another model."
    ]
    assert body["circuits"] == {"m": "open"}
    assert body["cooldowns"] == {"m": 12.0}


def test_loads_under_way_are_told_with_how_long_they_take() -> None:
    """Seconds, where one was measured before."""
    loading = ModelView("m", "loading", 0, 1, "closed", None, 41.5)
    first = ModelView("n", "loading", 0, 1, "closed", None, None)
    assert judged(loading, first)["loading"] == {"m": 41.5, "n": None}


def test_what_was_observed_is_told() -> None:
    """Counts of the last ten minutes, and the newest error."""
    observed = judged(events=[finished(10), failed(20), finished(30)])["observed"]
    assert observed == {
        "window_s": 600.0,
        "completed": 2,
        "failed": 1,
        "completed_ago_s": 570.0,
        "last_error": {
            "timestamp": "2026-11-23T10:00:20.000Z",
            "error": "backend_error",
            "message": "LocalAI failed.",
            "model": "m",
        },
    }
    assert judged()["observed"]["last_error"] is None


def test_what_localai_lacks_is_told_and_is_no_problem() -> None:
    """A type without a model, and what LocalAI cannot be asked for."""
    found = replace(GOOD, missing=("LocalAI does not tell X.",))
    body = judged(found=found, unserved=[RequestType.IMG2IMG, RequestType.IMG2TXT])
    assert body["status"] == "ok"
    assert body["missing"] == [
        "No model is known to do img2img or img2txt. Install one in LocalAI, or, if one of its "
        "models can, name it: INFERENCE_MCP_IMG2IMG_MODEL, INFERENCE_MCP_IMG2TXT_MODEL.",
        "LocalAI does not tell X.",
    ]
    assert judged(unserved=None)["missing"] == []


async def test_health_judges_by_the_requests_of_this_server(tmp_path: Path) -> None:
    """All the way through the tools."""
    failure = BackendUnreachableError("LocalAI does not answer.", "Start it.")
    async with assembled(tmp_path, FakeBackend(failure=failure)) as app:
        for _ in range(3):
            await app.call("txt2txt", prompt="Hello")
        app.backend.failure = None
        body: Any = (await app.call("get_health")).structured_content
        assert (body["status"], body["observed"]["failed"]) == ("unavailable", 3)
        await app.call("txt2txt", prompt="Hello")
        body = (await app.call("get_health")).structured_content
        assert (body["status"], body["observed"]["completed"]) == ("ok", 1)
