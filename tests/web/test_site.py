"""The paths: MCP's own refusals, and what a person's monitoring reads."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families
from starlette.types import Message, Receive, Scope, Send

from inference_mcp.server.stdio import MAX_LINE_BYTES
from inference_mcp.web.site import OpenCalls
from tests.web.served import Served, served, started

PROGRAM = """
import sys
class Without:
    def find_spec(self, name, path=None, target=None):
        if name.startswith(("opentelemetry.sdk", "opentelemetry.exporter")):
            raise ModuleNotFoundError(name)
sys.meta_path.insert(0, Without())
from inference_mcp.cli import main
sys.exit(main(sys.argv[1:]))
"""
WITHOUT = [sys.executable, "-c", PROGRAM]
"""The program, where the extra is not installed."""


async def messages() -> Message:
    """A request without a body."""
    return {"type": "http.request", "body": b""}


async def nowhere(message: Message) -> None:
    """Nobody reads the answer."""


# --- MCP's own ----------------------------------------------------------------------------------


async def test_the_end_waits_for_calls_and_not_for_listeners() -> None:
    """Only a POST is owed an answer."""
    let_go = anyio.Event()

    async def mcp(scope: Scope, receive: Receive, send: Send) -> None:
        await let_go.wait()

    calls = OpenCalls(mcp)
    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(calls, {"method": "GET"}, messages, nowhere)
            await anyio.wait_all_tasks_blocked()
            await calls.answered()
            for _ in range(2):
                tasks.start_soon(calls, {"method": "POST"}, messages, nowhere)
            await anyio.wait_all_tasks_blocked()
            with anyio.move_on_after(0) as waited:
                await calls.answered()
            assert waited.cancelled_caught
            let_go.set()
            await calls.answered()


async def test_a_call_that_fails_is_open_no_more() -> None:
    """Whatever its endpoint does."""

    async def mcp(scope: Scope, receive: Receive, send: Send) -> None:
        raise LookupError

    calls = OpenCalls(mcp)
    with pytest.raises(LookupError):
        await calls({"method": "POST"}, messages, nowhere)
    with anyio.fail_after(1):
        await calls.answered()


async def test_what_is_asked_for_wrongly_is_refused(url: str, tmp_path: Path) -> None:
    """Each with its status; the process serves on."""
    async with served(url, tmp_path) as server, server.http() as http:
        found = {
            "no token": await http.get("/health", headers={"Authorization": ""}),
            "no token, no path": await http.get("/nope", headers={"Authorization": ""}),
            "no path": await http.get("/nope"),
            "no such method": await http.post("/health"),
            "no MCP method": await http.put("/mcp"),
            "no session": await http.get("/mcp", headers={"Accept": "text/event-stream"}),
            "unknown session": await http.get("/mcp", headers={"Mcp-Session-Id": "x"}),
            "no JSON type": await http.post("/mcp", content=b"{}"),
            "other host": await http.get("/health", headers={"Host": "evil.example"}),
            "other origin": await http.get("/mcp", headers={"Origin": "https://evil.example"}),
            "preflight": await http.options("/mcp", headers={"Authorization": ""}),
            "large": await _large(server),
        }
        assert {name: answer.status_code for name, answer in found.items()} == {
            "no token": 401,
            "no token, no path": 401,
            "no path": 404,
            "no such method": 405,
            "no MCP method": 405,
            "no session": 400,
            "unknown session": 404,
            "no JSON type": 400,
            "other host": 421,
            "other origin": 403,
            "preflight": 401,
            "large": 413,
        }
        assert found["no path"].json() == {"error": "Not Found"}
        assert (await http.get("/health")).status_code == 200


async def _large(server: Served) -> httpx.Response:
    """More than a line over stdio may hold, in pieces whose sum nobody has announced."""

    async def body() -> AsyncIterator[bytes]:
        for _ in range(MAX_LINE_BYTES // 2**20 + 1):
            yield b" " * 2**20

    async with server.http() as http:
        headers = {"Content-Type": "application/json", "Accept": "*/*"}
        return await http.post("/mcp", content=body(), headers=headers)


@pytest.mark.parametrize("path", ["/mcp", "/mcp/"])
async def test_the_endpoint_needs_no_redirect(path: str, url: str, tmp_path: Path) -> None:
    """Clients lose their token on one."""
    message = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
    async with served(url, tmp_path) as server, server.http() as http:
        headers = {"Accept": "application/json, text/event-stream"}
        assert (await http.post(path, json=message, headers=headers)).status_code == 200


@pytest.mark.parametrize("text", ['"\\ud83d"', "[" * 50_000 + "]" * 50_000, "9" * 5_000])
async def test_bodies_that_cannot_be_read_are_answered(text: str, url: str, tmp_path: Path) -> None:
    """In both eras, with an error and no fault of the server's."""
    whole = '{"jsonrpc":"2.0","id":1,"method":"tools/list","params":{"a":' + text + "}}"
    async with served(url, tmp_path) as server, server.wire() as wire:
        newer = {**wire.headers, "MCP-Protocol-Version": "2026-07-28", "Mcp-Method": "tools/list"}
        for headers in (wire.headers, newer):
            answer = await wire.http.post(
                "/mcp", content=whole, headers={**headers, "Content-Type": "application/json"}
            )
            assert answer.status_code in (200, 400)
            assert answer.text
        assert "result" in await wire.call(2, "get_health")
        assert "http.fault" not in server.stderr.read_text(encoding="utf-8")


async def test_who_leaves_in_the_middle_of_a_request_is_no_fault(url: str, tmp_path: Path) -> None:
    """Networks break; the log is not told."""
    async with served(url, tmp_path) as server:
        host, port = server.url.removeprefix("http://").split(":")
        for version in ("2025-11-25", "2026-07-28"):
            async with await anyio.connect_tcp(host, int(port)) as stream:
                await stream.send(
                    b"POST /mcp HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99\r\n"
                    b"Content-Type: application/json\r\nAccept: */*\r\n"
                    b"MCP-Protocol-Version: " + version.encode() + b"\r\n"
                    b"Authorization: Bearer " + server.token.encode() + b"\r\n\r\n{"
                )
        async with server.http() as http:
            assert (await http.get("/health")).status_code == 200
        assert '"error"' not in server.stderr.read_text(encoding="utf-8")


# --- monitoring ---------------------------------------------------------------------------------


async def test_health_and_queue_are_the_tools_own(url: str, tmp_path: Path) -> None:
    """The same bodies; a monitor needs no MCP."""
    async with served(url, tmp_path) as server, server.http() as http:
        async with server.host("legacy") as client:
            await client.call_tool("txt2txt", {"prompt": "Hello"})
            health = (await client.call_tool("get_health")).structured_content or {}
            queue = (await client.call_tool("get_queue_status")).structured_content or {}
        seen = await http.get("/health")
        shown = seen.json()
        for each in (shown, health):
            assert each["observed"].pop("completed_ago_s") is not None
        assert (seen.status_code, shown) == (200, health)
        assert seen.headers["cache-control"] == "no-store"
        body = (await http.get("/queue-status")).json()
        assert body.keys() == queue.keys()
        assert [job["state"] for job in body["recent"]] == ["completed"]


async def test_health_says_by_its_status_that_localai_is_away(tmp_path: Path) -> None:
    """503, with the body that says why."""
    async with served("http://127.0.0.1:9", tmp_path) as server, server.http() as http:
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (503, "unavailable")
        assert (await http.get("/queue-status")).status_code == 200


async def test_a_degraded_server_still_serves(url: str, tmp_path: Path) -> None:
    """200: nobody should restart it for that."""
    folder = tmp_path / "file" / "pictures"
    folder.parent.write_bytes(b"")
    async with served(url, tmp_path, OUTPUT_DIR=folder) as server, server.http() as http:
        answer = await http.get("/health")
        assert (answer.status_code, answer.json()["status"]) == (200, "degraded")


Samples = dict[str, list[tuple[dict[str, str], float]]]


def samples(text: str) -> Samples:
    """All samples by name, as Prometheus would take them in."""
    found: Samples = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append((sample.labels, sample.value))
    return found


def total(found: Samples, name: str, **labels: str) -> float:
    """The sum of the samples with these labels."""
    wanted = labels.items()
    return sum(value for given, value in found.get(name, []) if wanted <= given.items())


async def test_the_metrics_are_those_of_the_tool(url: str, tmp_path: Path) -> None:
    """Counts and sums, to the last request, at the moment of the scrape."""
    async with served(url, tmp_path) as server, server.http() as http:
        async with server.host("legacy") as client:
            for _ in range(3):
                await client.call_tool("txt2txt", {"prompt": "a red fox"})
            await client.call_tool("txt2img", {"prompt": "a fox", "width": 64, "height": 64})
            failed = await client.call_tool("txt2txt", {"prompt": "x", "model": "badload"})
            assert failed.is_error
            body: dict[str, Any] = (
                await client.call_tool("get_request_metrics")
            ).structured_content or {}
        answer = await http.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    found = samples(answer.text)
    ended, state = "gen_ai_client_operation_duration_seconds_count", "inference_mcp_job_state"
    counts = body["counts"]
    assert counts["completed"] == 4
    for name in ("completed", "failed", "cancelled"):
        assert total(found, ended, **{state: name}) == counts[name]
    assert total(found, "inference_mcp_retries_total") == counts["retries"]
    assert total(found, "inference_mcp_jobs") == 0
    for kind, figures in body["by_type"].items():
        of = {"inference_mcp_job_type": kind}
        for figure, name in (("queue", "queue"), ("process", "processing")):
            took = total(found, f"inference_mcp_{name}_duration_seconds_sum", **of)
            number = total(found, f"inference_mcp_{name}_duration_seconds_count", **of)
            assert number == figures["counts"]["completed"], "of those that were granted"
            assert took / number == pytest.approx(figures[f"avg_{figure}_time"], abs=0.001)
    assert total(found, "target_info", service_name="inference-mcp") == 1
    assert "fox" not in answer.text


async def test_a_scraper_may_ask_for_open_metrics(url: str, tmp_path: Path) -> None:
    """Prometheus does; and the first scrape comes before the first job."""
    async with served(url, tmp_path) as server, server.http() as http:
        accept = {"Accept": "application/openmetrics-text;version=1.0.0"}
        first = await http.get("/metrics", headers=accept)
        assert first.headers["content-type"].startswith("application/openmetrics-text")
        async with server.host("legacy") as client:
            await client.call_tool("txt2txt", {"prompt": "Hello"})
        second = await http.get("/metrics", headers=accept)
    assert first.text.endswith("# EOF\n")
    assert "gen_ai_client_operation_duration_seconds_count" in second.text


async def test_without_the_extra_only_the_metrics_are_missing(url: str, tmp_path: Path) -> None:
    """501, with what to install; the rest works."""
    async with started(WITHOUT, url, tmp_path) as server, server.http() as http:
        answer = await http.get("/metrics")
        assert answer.status_code == 501
        assert "pip install 'inference-mcp[otel]'" in answer.text
        assert (await http.get("/health")).status_code == 200
        async with server.wire() as wire:
            assert "result" in await wire.call(1, "txt2txt", prompt="Hello")


async def test_who_turned_the_sdk_off_is_reminded(url: str, tmp_path: Path) -> None:
    """An empty answer would be taken for a queue at rest."""
    async with served(url, tmp_path, OTEL_SDK_DISABLED="true") as server, server.http() as http:
        answer = await http.get("/metrics")
        assert (answer.status_code, "OTEL_SDK_DISABLED" in answer.text) == (501, True)
