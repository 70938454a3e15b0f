"""Telemetry in the real program: off unless asked for, and never in the way of its end."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import anyio
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
)
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from tests.processes import Raw, environment

SECRET = "a red fox"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"

PROGRAM = """
import json, sys
from inference_mcp.cli import main
code = main([])
print(json.dumps(sorted(sys.modules)), file=sys.stderr, flush=True)
sys.exit(code)
"""

WITHOUT = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
"""


class Collector(ThreadingHTTPServer):
    """Takes OTLP over HTTP; ``mute``: it never answers."""

    daemon_threads = True

    def __init__(self, *, mute: bool = False) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.mute = threading.Event()
        if not mute:
            self.mute.set()
        self.bodies: list[tuple[str, bytes]] = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def endpoint(self) -> str:
        """What the variable takes."""
        return f"http://127.0.0.1:{self.server_address[1]}"

    def spans(self) -> list[Any]:
        """All spans that came."""
        found: list[Any] = []
        for body in (body for path, body in self.bodies if path == "/v1/traces"):
            for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
                found.extend(span for scope in resource.scope_spans for span in scope.spans)
        return found

    def services(self) -> set[str]:
        """The names under which metrics came."""
        return {
            attribute.value.string_value
            for path, body in self.bodies
            if path == "/v1/metrics"
            for resource in ExportMetricsServiceRequest.FromString(body).resource_metrics
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


class _Handler(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.bodies.append((self.path, body))
        self.server.mute.wait(30)
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """One that answers."""
    with Collector() as server:
        yield server
        server.shutdown()


@pytest.fixture
def mute() -> Iterator[Collector]:
    """One that does not."""
    with Collector(mute=True) as server:
        yield server
        server.mute.set()
        server.shutdown()


@pytest.fixture
def dead() -> Iterator[str]:
    """Where nobody listens: the port is taken, so that nobody else can."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}"


@asynccontextmanager
async def program(
    url: str, folder: Path, variables: Mapping[str, str], *, before: str = ""
) -> AsyncIterator[Raw]:
    """The program after one chat; its end, in time and with code 0, is proved here."""
    env = {**environment(url, folder), **variables}
    with (folder / "stderr").open("ab") as errlog, anyio.fail_after(40):
        async with await anyio.open_process(
            [sys.executable, "-c", before + PROGRAM],
            stdin=subprocess.PIPE,
            stderr=errlog,
            env=env,
            cwd=folder,
        ) as process:
            try:
                raw = Raw(process)
                await raw.initialize()
                await chat(raw, 1)
                yield raw
                assert process.stdin is not None
                await process.stdin.aclose()
                with anyio.fail_after(1.8):
                    assert await process.wait() == 0
                rest = await raw.rest()
                assert all(json.loads(line)["jsonrpc"] == "2.0" for line in rest.splitlines())
            finally:
                if process.returncode is None:
                    process.kill()


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what another process does."""
    with anyio.fail_after(10):
        while not condition():  # noqa: ASYNC110  # it sends no events
            await anyio.sleep(0.02)


async def chat(raw: Raw, id_: int) -> None:
    """A call and its answer, in a trace of the host's."""
    answer = await raw.ask(
        id_,
        "tools/call",
        name="txt2txt",
        arguments={"prompt": SECRET},
        _meta={"traceparent": f"00-{TRACE}-{PARENT}-01"},
    )
    assert not answer["result"].get("isError"), answer


def modules(folder: Path) -> list[str]:
    """What the program had loaded at its end."""
    loaded: list[str] = json.loads((folder / "stderr").read_text().splitlines()[-1])
    return loaded


def warnings(folder: Path) -> list[dict[str, Any]]:
    """The lines of its log that are no plain information."""
    lines = map(json.loads, (folder / "stderr").read_text().splitlines())
    found = [line for line in lines if isinstance(line, dict)]
    return [line for line in found if line["level"] != "info"]


def of_telemetry(names: list[str]) -> list[str]:
    """What of it the MCP SDK does not load by itself: that loads the API.

    What serves it over HTTP, and Prometheus' form of it, are never loaded over stdio.
    """
    ours = ("opentelemetry.sdk", "opentelemetry.exporter", "opentelemetry.metrics")
    assert not [name for name in names if name.startswith(("inference_mcp.web", "prometheus"))]
    return [name for name in names if name.startswith((*ours, "inference_mcp.telemetry."))]


@pytest.mark.parametrize(
    "variables", [{}, {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "otlp"}]
)
async def test_nothing_is_imported_unless_it_is_asked_for(
    url: str, tmp_path: Path, variables: dict[str, str]
) -> None:
    """Not even with the extra installed, as here."""
    async with program(url, tmp_path, variables):
        pass
    assert of_telemetry(modules(tmp_path)) == []
    assert warnings(tmp_path) == []


async def test_without_the_extra_one_line_says_what_to_install(url: str, tmp_path: Path) -> None:
    """And nothing else changes."""
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}
    async with program(url, tmp_path, variables, before=WITHOUT):
        pass
    [line] = warnings(tmp_path)
    assert (line["event"], line["level"]) == ("telemetry.off", "warning")
    assert "inference-mcp[otel]" in line["next_step"]
    assert of_telemetry(modules(tmp_path)) == []


async def test_a_collector_gets_spans_in_the_hosts_trace_the_last_ones_at_the_end(
    url: str, tmp_path: Path, collector: Collector
) -> None:
    """Metrics come on the way; spans, not due for a minute, with the end. Nothing private."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
        "OTEL_BSP_SCHEDULE_DELAY": "60000",
    }
    async with program(url, tmp_path, variables) as raw:
        await until(lambda: bool(collector.services()))  # the thread is at work
        await chat(raw, 2)
    assert collector.services() == {"inference-mcp"}
    names = [span.name for span in collector.spans()]
    assert sorted(names) == ["chat qwen3-8b"] * 2 + ["try"] * 2 + ["wait"] * 2
    assert {span.trace_id.hex() for span in collector.spans()} == {TRACE}
    parents = {span.parent_span_id.hex() for span in collector.spans() if "chat" in span.name}
    assert parents == {PARENT}
    sent = b"".join(body for _, body in collector.bodies)
    canaries = [SECRET, str(tmp_path), url.removeprefix("http://")]
    assert [each for each in canaries if each.encode() in sent] == []
    assert warnings(tmp_path) == []


async def test_a_dead_collector_delays_nothing_and_is_told_seldom(
    url: str, tmp_path: Path, dead: str
) -> None:
    """S20: the exporter tries again and again, the end does not wait for that."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": dead,
        "OTEL_METRIC_EXPORT_INTERVAL": "50",
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with program(url, tmp_path, variables) as raw:
        for id_ in range(2, 5):
            await chat(raw, id_)
        await until(lambda: any("exporter" in line["logger"] for line in warnings(tmp_path)))
    told = [(line.get("logger"), line["event"]) for line in warnings(tmp_path)]
    assert len(told) == len(set(told))
    assert dead not in (tmp_path / "stderr").read_text()


async def test_a_collector_that_never_answers_delays_nothing(
    url: str, tmp_path: Path, mute: Collector
) -> None:
    """S20: it took the spans, and the exporter waits for ten seconds."""
    variables = {
        "OTEL_EXPORTER_OTLP_ENDPOINT": mute.endpoint,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
    }
    async with program(url, tmp_path, variables) as raw:
        await until(lambda: bool(mute.bodies))
        await chat(raw, 2)
