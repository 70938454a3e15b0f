"""OpenTelemetry's spans and metrics of real jobs: names, times, and nothing private."""

from __future__ import annotations

import contextvars
import json
import logging
import threading
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry import context, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import (
    HistogramDataPoint,
    InMemoryMetricReader,
    NumberDataPoint,
)
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import REGISTRY, generate_latest
from trio.testing import MockClock

from inference_mcp.backend import Usage
from inference_mcp.errors import BackendBusyError, BackendFailedError
from inference_mcp.observe import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobStarted,
    JobSubmitted,
)
from inference_mcp.requests import Priority, RequestType
from inference_mcp.telemetry import asked_for, open_telemetry, why_not_scraped
from inference_mcp.telemetry.exporting import Seldom
from inference_mcp.telemetry.observer import (
    MAX_BEHIND,
    SCRAPE_S,
    Exposition,
    Opened,
    Telemetry,
)
from inference_mcp.telemetry.recorder import Recorder
from inference_mcp.telemetry.scraping import scraping
from tests.assembled import NOW, assembled, busy
from tests.fakes import CHAT_MODEL, IMAGE_MODEL, FakeBackend

BASE = "http://gpu.lan:8080/api"
SECRET = "a red fox"
BUSY = BackendBusyError("It is busy.", "Wait.", transient=True)


@pytest.fixture
def anyio_backend() -> tuple[str, dict[str, Any]]:
    """Virtual time: what a job took is a whole number of seconds."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Kept:
    """A recorder whose spans and metrics are kept in memory."""

    def __init__(self, events: Iterable[JobEvent] = ()) -> None:
        self._spans, self._reader = InMemorySpanExporter(), InMemoryMetricReader()
        traces = TracerProvider(shutdown_on_exit=False)
        traces.add_span_processor(SimpleSpanProcessor(self._spans))
        metrics = MeterProvider([self._reader], shutdown_on_exit=False)
        self.recorder = Recorder(traces.get_tracer("test"), metrics.get_meter("test"), BASE)
        for event in events:
            self.recorder.record(event)

    def roots(self) -> list[ReadableSpan]:
        """The spans of jobs, in the order in which these ended."""
        spans = self._spans.get_finished_spans()
        return [span for span in spans if span.name not in ("wait", "try")]

    def children(self, root: ReadableSpan) -> list[ReadableSpan]:
        """What is directly below a span, in the order of time."""
        own = root.get_span_context()
        assert own is not None
        spans = self._spans.get_finished_spans()
        found = [span for span in spans if span.parent and span.parent.span_id == own.span_id]
        return sorted(found, key=lambda span: span.start_time or 0)

    def points(self, name: str) -> list[tuple[dict[str, Any], Any, int]]:
        """Attributes, value or sum, and count of each series of a metric."""
        data = self._reader.get_metrics_data()
        found: list[tuple[dict[str, Any], Any, int]] = []
        for resource in data.resource_metrics if data else ():
            for scope in resource.scope_metrics:
                for metric in scope.metrics:
                    points = metric.data.data_points if metric.name == name else ()
                    found.extend(_series(point) for point in points)
        return found

    def total(self, name: str, **attributes: str) -> float:
        """The sum over the series with these attributes, underscores standing for dots."""
        wanted = {key.replace("__", "."): value for key, value in attributes.items()}
        return float(
            sum(value for found, value, _ in self.points(name) if wanted.items() <= found.items())
        )

    def everything(self) -> str:
        """All that would be sent, as text."""
        spans = self._spans.get_finished_spans()
        data = self._reader.get_metrics_data()
        return "".join(span.to_json() for span in spans) + (data.to_json() if data else "")


def _series(point: object) -> tuple[dict[str, Any], float, int]:
    assert isinstance(point, HistogramDataPoint | NumberDataPoint)
    attributes = dict(point.attributes or {})
    if isinstance(point, HistogramDataPoint):
        return attributes, point.sum, point.count
    return attributes, point.value, 1


def shape(span: ReadableSpan) -> tuple[str, Any, Any]:
    """A span's name, and its begin and end in seconds after all began."""
    begin = int(NOW.timestamp()) * 10**9
    assert span.start_time is not None
    assert span.end_time is not None
    return span.name, (span.start_time - begin) / 1e9, (span.end_time - begin) / 1e9


def told(span: ReadableSpan) -> dict[str, Any]:
    """A span's attributes."""
    return dict(span.attributes or {})


# --- spans --------------------------------------------------------------------------------


async def test_a_job_is_a_span_with_its_wait_and_its_try(tmp_path: Path) -> None:
    """Names, kinds, times and the tree, against what the job itself told."""
    backend = FakeBackend(held=True, load_gate=anyio.Event(), usage=Usage(11, 7, 18))
    async with assembled(tmp_path, backend) as app:
        await app.chat(max_tokens=50, temperature=0.5, seed=3)
        await anyio.sleep(2)
        assert backend.load_gate is not None
        backend.load_gate.set()
        [call] = await backend.wait_for_calls(1)
        await anyio.sleep(5)
        call.let_go.set()
        with anyio.fail_after(5):
            while not app.ends():
                await anyio.lowlevel.checkpoint()
        [end] = app.ends()
    kept = Kept(app.events)
    [root] = kept.roots()
    wait, try_ = kept.children(root)
    assert [shape(each) for each in (root, wait, try_)] == [
        (f"chat {CHAT_MODEL}", 0.0, pytest.approx(7.0, abs=1e-6)),
        ("wait", 0.0, pytest.approx(2.0, abs=1e-6)),
        ("try", pytest.approx(2.0, abs=1e-6), pytest.approx(7.0, abs=1e-6)),
    ]
    assert end.load_s == pytest.approx(2.0)
    assert end.processing_s == pytest.approx(5.0)
    assert [each.kind for each in (root, wait, try_)] == [
        SpanKind.CLIENT,
        SpanKind.INTERNAL,
        SpanKind.CLIENT,
    ]
    assert root.parent is None
    assert {each.status.status_code for each in (root, wait, try_)} == {StatusCode.UNSET}
    server = {"server.address": "gpu.lan", "server.port": 8080}
    assert told(root) == server | {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "localai",
        "gen_ai.request.model": CHAT_MODEL,
        "gen_ai.request.max_tokens": 50,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.seed": 3,
        "gen_ai.output.type": "text",
        "gen_ai.usage.input_tokens": 11,
        "gen_ai.usage.output_tokens": 7,
        "gen_ai.response.finish_reasons": ("stop",),
        "inference_mcp.job.id": end.job_id,
        "inference_mcp.job.type": "txt2txt",
        "inference_mcp.job.priority": "normal",
        "inference_mcp.job.state": "completed",
        "inference_mcp.job.attempts": 1,
        "inference_mcp.job.preemptions": 0,
        "inference_mcp.queue.duration": end.queue_s,
        "inference_mcp.load.duration": end.load_s,
        "inference_mcp.processing.duration": end.processing_s,
    }
    assert told(wait) == {"inference_mcp.load.duration": pytest.approx(2.0)}
    assert told(try_) == server | {
        "inference_mcp.try.number": 1,
        "inference_mcp.try.outcome": "completed",
    }


async def test_a_repeated_try_is_a_span_of_its_own_with_its_error(tmp_path: Path) -> None:
    """S14: the job ends well, its first try did not."""
    rests = BackendBusyError("Busy.", transient=True, retry_after_s=5.0)
    backend = FakeBackend(failure=rests)
    async with assembled(tmp_path, backend, max_attempts=2) as app:
        await app.chat()
        await backend.wait_for_calls(1)
        await anyio.sleep(1)  # the second try comes after five
        backend.failure = None
        await anyio.sleep(100)
    kept = Kept(app.events)
    [root] = kept.roots()
    names = [(span.name, told(span).get("error.type")) for span in kept.children(root)]
    assert names == [("wait", None), ("try", BUSY.code), ("wait", None), ("try", None)]
    outcomes = [told(span).get("inference_mcp.try.outcome") for span in kept.children(root)]
    assert outcomes == [None, "retried", None, "completed"]
    assert kept.children(root)[1].status.status_code is StatusCode.ERROR
    assert root.status.status_code is StatusCode.UNSET
    assert told(root)["inference_mcp.job.attempts"] == 2
    assert kept.total("inference_mcp.retries", error__type=BUSY.code) == 1


async def test_a_preempted_try_is_no_failure_and_the_job_waits_again(tmp_path: Path) -> None:
    """S6: no error anywhere; both waits and both tries are there."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend, preemption="class") as app:
        await app.chat(priority="batch")
        await backend.wait_for_calls(1)
        await app.chat(priority="critical")
        (await backend.wait_for_calls(2))[1].let_go.set()
        (await backend.wait_for_calls(3))[2].let_go.set()
        await anyio.sleep(1)
    kept = Kept(app.events)
    batch = kept.roots()[1]
    assert [span.name for span in kept.children(batch)] == ["wait", "try", "wait", "try"]
    assert told(kept.children(batch)[1])["inference_mcp.try.outcome"] == "preempted"
    assert not any("error.type" in told(span) for span in (batch, *kept.children(batch)))
    assert told(batch)["inference_mcp.job.preemptions"] == 1
    assert kept.total("inference_mcp.preemptions") == 1


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_each_end_has_its_state_and_only_a_failure_is_an_error(tmp_path: Path) -> None:
    """Completed, failed, cancelled; what the end of the process closes fails too."""
    async with assembled(tmp_path) as app:
        await busy(app)
    kept = Kept(app.events)
    ends = [
        (span.name, told(span)["inference_mcp.job.state"], told(span).get("error.type"))
        for span in kept.roots()
    ]
    picture = f"generate_content {IMAGE_MODEL}"
    assert ends == [
        (f"chat {CHAT_MODEL}", "completed", None),
        (picture, "completed", None),
        (f"chat {CHAT_MODEL}", "failed", "backend_unreachable"),
        (picture, "cancelled", None),
        (picture, "failed", "shutting_down"),
        (picture, "failed", "shutting_down"),
    ]
    errors = [span.status.status_code is StatusCode.ERROR for span in kept.roots()]
    assert errors == [False, False, True, False, True, True]
    assert all(span.status.description is None for span in kept.roots()), "no message is sent"
    assert told(kept.roots()[1])["gen_ai.output.type"] == "image"
    assert told(kept.roots()[1])["inference_mcp.image.width"] == 64
    [waited] = kept.children(kept.roots()[3])
    assert (waited.name, told(waited)) == ("wait", {})


async def test_a_request_refused_for_want_of_room_is_a_span_without_children(
    tmp_path: Path,
) -> None:
    """S12: rejected, and in no duration; so is one that a better request displaced."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend, max_queue=1) as app:
        await app.chat()
        await backend.wait_for_calls(1)
        await app.chat(priority="batch")
        await app.call("txt2txt", prompt=SECRET, priority="batch")
        await app.chat(priority="critical")
        kept = Kept(app.events)
    refused, displaced = kept.roots()
    for span in (refused, displaced):
        assert told(span)["inference_mcp.job.state"] == "rejected"
        assert told(span)["error.type"] == "queue_full"
        assert span.status.status_code is StatusCode.ERROR
    assert kept.children(refused) == []
    assert [span.name for span in kept.children(displaced)] == ["wait"]
    assert kept.total("inference_mcp.rejections", error__type="queue_full") == 2
    assert kept.points("gen_ai.client.operation.duration") == []


def event(cls: Callable[..., JobEvent], at_s: float, job_id: str = "job-1", **more: Any) -> Any:
    """An event of a chat."""
    facts = {"job_id": job_id, "kind": RequestType.TXT2TXT, "model": CHAT_MODEL, "at_s": at_s}
    return cls(**({**facts, "priority": Priority.NORMAL, "timestamp": NOW} | more))


def finished(at_s: float, **more: Any) -> Any:
    """A chat's good end."""
    usual: dict[str, Any] = {
        "state": "completed",
        "granted": True,
        "attempt": 1,
        "queue_s": 1.0,
        "load_s": None,
    }
    return event(JobFinished, at_s, **({**usual, "processing_s": 2.0} | more))


def test_a_try_that_only_met_a_loading_model_is_a_part_of_the_wait() -> None:
    """Trap 20: no failure was told, and the next grant is the first that counts."""
    kept = Kept(
        [
            event(JobSubmitted, 0),
            event(JobStarted, 1, attempt=1, waited_s=1.0),
            event(JobStarted, 6, attempt=1, waited_s=6.0, load_s=4.0),
            finished(8),
        ]
    )
    [root] = kept.roots()
    assert [shape(span) for span in kept.children(root)] == [("wait", 0, 6), ("try", 6, 8)]


def test_time_before_the_admission_is_the_jobs_too() -> None:
    """A sibling that keeps the queue may take a moment to say yes."""
    kept = Kept(
        [
            event(JobSubmitted, 100, admission_s=0.25),
            event(JobStarted, 101, attempt=1, waited_s=1.25),
            finished(104),
        ]
    )
    [root] = kept.roots()
    assert shape(root)[1:] == (-0.25, 4)
    assert [shape(span)[1:] for span in kept.children(root)] == [(-0.25, 1), (1, 3)]


def test_what_is_told_of_a_job_after_its_end_is_not_heard() -> None:
    """Its call may be kept open for a while."""
    late = [event(JobStarted, 3, attempt=2, waited_s=3.0), event(JobPreempted, 4), finished(5)]
    kept = Kept([event(JobSubmitted, 0), finished(2), *late])
    assert len(kept.roots()) == 1
    assert kept.total("inference_mcp.jobs") == 0


def test_a_finish_reason_of_localais_own_and_half_a_character_are_not_sent() -> None:
    """Both come from outside: one may be any text, the other spoils a whole delivery."""
    begun = event(JobSubmitted, 0, model="a\ud800")
    kept = Kept([begun, finished(2, model="a\ud800", finish_reason=SECRET)])
    assert SECRET not in kept.everything()
    assert kept.roots()[0].name == "chat a?"


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_nothing_private_is_in_spans_or_metrics(tmp_path: Path) -> None:
    """No prompt, answer, path or picture, not even their fingerprints."""
    backend = FakeBackend(text=f"It is {SECRET}.")
    async with assembled(tmp_path, backend) as app:
        await app.call("txt2txt", prompt=SECRET, system=SECRET, stop=[SECRET])
        made = await app.call("txt2img", prompt=SECRET, negative_prompt=SECRET, width=64, height=64)
        assert made.meta is not None
        path = made.meta["inference-mcp/job"]["path"]
        await app.call("img2txt", prompt=SECRET, image=path)
        await app.call("img2img", prompt=SECRET, image=path)
        backend.failure = BackendFailedError(f"It said {SECRET}.", "Look.", sample="It failed.")
        await app.call("txt2txt", prompt=SECRET)
    kept = Kept(app.events)
    sent = kept.everything()
    assert len(kept.roots()) == 5
    canaries = [SECRET, str(tmp_path), "pictures", Path(path).stem, "hash", "It failed", "iVBOR"]
    assert [each for each in canaries if each in sent] == []


# --- metrics ------------------------------------------------------------------------------


async def test_metrics_are_the_jobs_own_figures(tmp_path: Path) -> None:
    """Two chats one after the other, 5 s each, the first after 2 s of loading."""
    backend = FakeBackend(held=True, load_gate=anyio.Event(), usage=Usage(11, 7, 18))
    async with assembled(tmp_path, backend) as app:
        await app.chat()
        await app.chat()
        await anyio.sleep(2)
        assert backend.load_gate is not None
        backend.load_gate.set()
        for number in (1, 2):
            call = (await backend.wait_for_calls(number))[-1]
            await anyio.sleep(5)
            call.let_go.set()
        await anyio.sleep(1)
        ends = app.ends()
    kept = Kept(app.events)
    [(attributes, seconds, count)] = kept.points("gen_ai.client.operation.duration")
    assert (seconds, count) == (pytest.approx(7 + 12), 2)
    assert attributes == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "localai",
        "gen_ai.request.model": CHAT_MODEL,
        "server.address": "gpu.lan",
        "server.port": 8080,
        "inference_mcp.job.type": "txt2txt",
        "inference_mcp.job.priority": "normal",
        "inference_mcp.job.state": "completed",
    }
    for name, figure in (
        ("queue", sum(end.queue_s for end in ends)),
        ("load", sum(end.load_s or 0 for end in ends)),
        ("processing", sum(end.processing_s or 0 for end in ends)),
    ):
        [(_, seconds, count)] = kept.points(f"inference_mcp.{name}.duration")
        assert (seconds, count) == (pytest.approx(figure), 2)
    tokens = {found["gen_ai.token.type"]: value for found, value, _ in kept.points(TOKENS)}
    assert tokens == {"input": 22, "output": 14}


TOKENS = "gen_ai.client.token.usage"


async def test_what_waits_and_runs_can_be_seen_at_any_time(tmp_path: Path) -> None:
    """Up with a submission, over to running with a grant, down with the end."""
    backend = FakeBackend(held=True)
    async with assembled(tmp_path, backend) as app:
        for _ in range(3):
            await app.chat()
        calls = await backend.wait_for_calls(1)
        kept = Kept(app.events)
        found = {a["inference_mcp.job.state"]: n for a, n, _ in kept.points("inference_mcp.jobs")}
        assert found == {"waiting": 2, "running": 1}
        backend.held = False
        calls[0].let_go.set()
        await anyio.sleep(1)
    kept = Kept(app.events)
    assert {number for _, number, _ in kept.points("inference_mcp.jobs")} == {0}


# --- the observer -------------------------------------------------------------------------


def opened(kept: Kept, flushed: list[str]) -> Callable[[], Opened]:
    """What the thread works with."""
    return lambda: Opened(kept.recorder, lambda: flushed.append(threading.current_thread().name))


def test_events_are_worked_on_in_a_thread_and_delivered_at_the_end() -> None:
    """The event loop only hands them over."""
    kept, flushed = Kept(), list[str]()
    telemetry = Telemetry(opened(kept, flushed))
    telemetry(event(JobSubmitted, 0))
    telemetry(finished(3))
    telemetry.close(5)
    telemetry(event(JobSubmitted, 4, "job-2"))
    assert [span.name for span in kept.roots()] == [f"chat {CHAT_MODEL}"]
    assert flushed == ["telemetry"]


def test_a_job_becomes_a_part_of_the_trace_in_which_it_was_submitted() -> None:
    """The host's, which the SDK takes from ``_meta``; the end is told from elsewhere."""
    kept = Kept()
    telemetry = Telemetry(opened(kept, []))
    remote = trace.SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=trace.TraceFlags(1))

    def submit() -> None:
        context.attach(trace.set_span_in_context(trace.NonRecordingSpan(remote)))
        telemetry(event(JobSubmitted, 0))

    contextvars.copy_context().run(submit)
    telemetry(finished(3))
    telemetry.close(5)
    [root] = kept.roots()
    assert root.parent == remote
    ids = [span.context.trace_id for span in (root, *kept.children(root)) if span.context]
    assert ids == [0xABC, 0xABC]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_the_end_waits_for_a_delivery_that_hangs_no_longer_than_it_may() -> None:
    """S20: the thread is left behind, and nothing more is taken in."""
    let_go = threading.Event()
    telemetry = Telemetry(lambda: Opened(Kept().recorder, lambda: let_go.wait(30)))
    try:
        with anyio.fail_after(5):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(telemetry.run)
                await anyio.lowlevel.checkpoint()
                telemetry(event(JobSubmitted, 0))
                tasks.cancel_scope.cancel()
    finally:
        let_go.set()


def test_an_exporter_that_cannot_be_made_turns_it_off(caplog: pytest.LogCaptureFixture) -> None:
    """Whatever it raises: one line, without its text, and the queue goes on."""

    def broken() -> Opened:
        raise ValueError(SECRET)

    telemetry = Telemetry(broken)
    telemetry(event(JobSubmitted, 0))
    telemetry.close(5)
    [line] = caplog.records
    assert line.getMessage() == "telemetry.off"
    assert SECRET not in str(vars(line))


def test_a_thread_that_cannot_keep_up_is_given_up() -> None:
    """Memory is bounded, whatever an exporter does."""
    let_go = threading.Event()

    def slow() -> None:
        let_go.wait(30)

    telemetry = Telemetry(slow)
    for number in range(2 * MAX_BEHIND):
        telemetry(event(JobSubmitted, number))
    behind = telemetry.behind
    let_go.set()
    assert behind <= MAX_BEHIND + 1


# --- the metrics in Prometheus' form --------------------------------------------------------


def shown() -> tuple[MeterProvider, Telemetry]:
    """An observer whose metrics can be shown."""
    reader, expose = scraping()
    metrics = MeterProvider([reader], shutdown_on_exit=False)
    recorder = Recorder(trace.NoOpTracer(), metrics.get_meter("test"), BASE)
    return metrics, Telemetry(lambda: Opened(recorder, lambda: None, expose), scraped=True)


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_scrape_shows_all_events_so_far() -> None:
    """Also the one that came just before, and also where it is the first thing asked."""
    metrics, telemetry = shown()
    with anyio.fail_after(10):
        assert (await telemetry.scrape()) is not None
        for number in range(50):
            telemetry(event(JobSubmitted, 0, f"job-{number}"))
            found = await telemetry.scrape()
            assert found is not None
            [line] = [each for each in found.body.decode().splitlines() if "waiting" in each]
            assert line.endswith(f" {number + 1}.0")
    telemetry.close(5)
    assert await telemetry.scrape() is None
    metrics.shutdown()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_two_registries_know_nothing_of_each_other() -> None:
    """Nothing goes to the one that all of a process share."""
    first, one = shown()
    second, other = shown()
    with anyio.fail_after(10):
        one(event(JobSubmitted, 0))
        assert b"waiting" in ((await one.scrape()) or Exposition(b"", "")).body
        assert b"waiting" not in ((await other.scrape()) or Exposition(b"waiting", "")).body
    assert "waiting" not in generate_latest(REGISTRY).decode()
    for telemetry, metrics in ((one, first), (other, second)):
        telemetry.close(5)
        metrics.shutdown()


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
@pytest.mark.parametrize("opened", ["nothing", "no metrics", "a fault"])
async def test_who_asks_for_metrics_that_are_not_there_hears_so_at_once(opened: str) -> None:
    """And is not left waiting for a thread that has ended."""

    def open_() -> Opened | None:
        if opened == "a fault":
            raise ValueError(SECRET)
        return None if opened == "nothing" else Opened(Kept().recorder, lambda: None)

    telemetry = Telemetry(open_)
    with anyio.fail_after(SCRAPE_S / 2):
        assert await telemetry.scrape() is None
    telemetry.close(5)


def test_metrics_are_kept_for_a_scraper_only_where_one_is_served() -> None:
    """Whatever the variables ask for; and not where they turn all of it off."""
    assert open_telemetry({}, BASE, "1.2.3") is None
    made = open_telemetry({}, BASE, "1.2.3", scraped=True)
    assert made is not None
    assert made.scraped
    asked = open_telemetry({"OTEL_METRICS_EXPORTER": "otlp"}, BASE, "1.2.3")
    assert asked is not None
    assert not asked.scraped
    off = {"OTEL_SDK_DISABLED": "true"}
    assert open_telemetry(off, BASE, "1.2.3", scraped=True) is None
    assert why_not_scraped({}) is None
    assert "OTEL_SDK_DISABLED" in (why_not_scraped(off) or "")


# --- what the variables ask for -----------------------------------------------------------

OTLP = ("otlp",)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, {}),
        ({"OTEL_SERVICE_NAME": "x", "OTEL_EXPORTER_OTLP_HEADERS": "a=b"}, {}),
        ({"ENDPOINT": ""}, {}),
        ({"ENDPOINT": "http://c:4318"}, {"traces": OTLP, "metrics": OTLP}),
        ({"TRACES_ENDPOINT": "http://c:4318"}, {"traces": OTLP}),
        ({"METRICS_ENDPOINT": "http://c:4318"}, {"metrics": OTLP}),
        ({"OTEL_TRACES_EXPORTER": " OTLP "}, {"traces": OTLP}),
        ({"OTEL_METRICS_EXPORTER": "otlp,prometheus"}, {"metrics": ("otlp", "prometheus")}),
        ({"ENDPOINT": "http://c", "OTEL_METRICS_EXPORTER": "none"}, {"traces": OTLP}),
        ({"ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "True"}, {}),
        ({"ENDPOINT": "http://c", "OTEL_SDK_DISABLED": "no"}, {"traces": OTLP, "metrics": OTLP}),
    ],
)
def test_a_variable_that_names_an_exporter_or_an_endpoint_turns_it_on(
    variables: dict[str, str], expected: dict[str, tuple[str, ...]]
) -> None:
    """OpenTelemetry's own; an empty value counts as not set."""
    environ = {
        name if name.startswith("OTEL_") else f"OTEL_EXPORTER_OTLP_{name}": value
        for name, value in variables.items()
    }
    assert asked_for(environ) == expected


@pytest.mark.parametrize(
    ("variables", "problem"),
    [
        ({"OTEL_TRACES_EXPORTER": "console"}, "writes to stdout"),
        ({"OTEL_METRICS_EXPORTER": "console"}, "writes to stdout"),
        ({"OTEL_TRACES_EXPORTER": "jaeger"}, "not installed"),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "x"}, "not installed"),
    ],
)
def test_an_exporter_that_cannot_be_had_is_told_once(
    variables: dict[str, str],
    problem: str,
    caplog: pytest.LogCaptureFixture,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """With the first job; and stdout stays the protocol's."""
    telemetry = open_telemetry(variables, BASE, "1.2.3")
    assert telemetry is not None
    telemetry(event(JobSubmitted, 0))
    telemetry(finished(1))
    telemetry.close(5)
    [line] = caplog.records
    assert problem in json.dumps(vars(line)["facts"])
    assert capsys.readouterr().out == ""


def test_a_logger_says_the_same_thing_once_in_a_while(caplog: pytest.LogCaptureFixture) -> None:
    """A collector may be down for days; what is filled in differs, what is said does not."""
    logger = logging.getLogger("tests.seldom")
    seldom = Seldom()
    logger.addFilter(seldom)
    for number in range(5):
        logger.warning("try %d failed", number)
        logger.error("given up")
    for number in range(300):
        logger.error(f"text {number}")
    logger.removeFilter(seldom)
    told = [record.msg for record in caplog.records]
    assert told[:2] == ["try %d failed", "given up"]
    assert len(told) == 302


def test_an_events_time_is_utc() -> None:
    """Whatever the zone of the machine."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    kept = Kept([event(JobSubmitted, 50, timestamp=noon), finished(51)])
    assert kept.roots()[0].start_time == int(noon.timestamp()) * 10**9


def test_a_rejection_is_told_at_its_time() -> None:
    """It has no wait and no end of its own."""
    no_room = event(JobRejected, 7, code="queue_full", message=SECRET, parameters={})
    kept = Kept([no_room])
    [root] = kept.roots()
    assert shape(root)[1:] == (0, 0)
    assert SECRET not in kept.everything()
