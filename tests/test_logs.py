"""The log: JSON lines that hold no content, in the right places, and never in the way."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.errors import place
from inference_mcp.logs import EventLog, configure, log
from inference_mcp.observe import JobEvent, JobFinished, JobRejected, JobStarted, JobSubmitted
from inference_mcp.requests import Priority, RequestType

SECRET = "a red fox"
FACTS: dict[str, Any] = {
    "job_id": "job-1",
    "kind": RequestType.TXT2IMG,
    "model": "flux-dev",
    "priority": Priority.BATCH,
    "at_s": 12.0,
    "timestamp": datetime(2026, 11, 23, tzinfo=UTC),
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Logging belongs to the process: put back what ``configure`` changes."""
    root, ours = logging.getLogger(), logging.getLogger("inference_mcp")
    before = (root.handlers, root.level, ours.level, logging.raiseExceptions)
    yield
    for handler in root.handlers:
        if handler not in before[0]:
            handler.close()
    root.handlers, logging.raiseExceptions = before[0], before[3]
    root.setLevel(before[1])
    ours.setLevel(before[2])


@pytest.fixture
def lines(capsys: pytest.CaptureFixture[str]) -> Callable[[], list[dict[str, Any]]]:
    """A function that gives the lines on stderr since it was last called."""

    def read() -> list[dict[str, Any]]:
        captured = capsys.readouterr()
        assert captured.out == "", "stdout belongs to the protocol"
        return [json.loads(line) for line in captured.err.splitlines()]

    return read


def test_a_line_is_json_with_level_time_and_facts(lines: Any) -> None:
    """Fields, not sentences: programs read it."""
    configure("info", None)
    log("info", "server.started", version="1.2", models=["qwen3-8b", "flux-dev"])
    [line] = lines()
    assert datetime.fromisoformat(line.pop("timestamp")).utcoffset() is not None
    assert line == {
        "event": "server.started",
        "level": "info",
        "version": "1.2",
        "models": ["qwen3-8b", "flux-dev"],
    }


@pytest.mark.parametrize(
    ("level", "told"),
    [
        ("debug", ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"]),
        ("warning", ["warning", "error"]),
        ("critical", []),
    ],
)
def test_the_level_decides_what_is_told(level: str, told: list[str], lines: Any) -> None:
    """As the setting says."""
    configure(level, None)
    for each in ("debug", "info", "warning", "error"):
        log(each, "something")
    assert [line["level"] for line in lines()] == told


def test_what_others_log_is_told_from_warning_on(lines: Any) -> None:
    """The SDK and the HTTP client are chatty at ``info``."""
    configure("info", None)
    logging.getLogger("httpx").info("HTTP Request: POST")
    logging.getLogger("mcp.server").warning("malformed")
    [line] = lines()
    assert (line["event"], line["logger"], line["level"]) == ("malformed", "mcp.server", "warning")


def test_what_others_fill_into_their_lines_is_not_told(lines: Any) -> None:
    """The SDK logs frames that it could not read, and those may hold a prompt."""
    configure("debug", None)
    logging.getLogger("mcp.shared").debug("dropped a frame: %r", {"prompt": SECRET})
    [line] = lines()
    assert line["event"] == "dropped a frame: %r"
    assert SECRET not in json.dumps(line)


def test_an_exception_is_its_type_and_place(lines: Any) -> None:
    """No traceback, and never its text, which may quote a prompt."""
    configure("info", None)
    try:
        int(SECRET)
    except ValueError as error:
        logging.getLogger("mcp").exception("handler for %r raised", SECRET)
        log("error", "tool.fault", exception=place(error))
    theirs, ours = lines()
    assert theirs["exception"].startswith("ValueError at test_logs.py:")
    assert ours["exception"] == theirs["exception"]
    assert SECRET not in json.dumps([theirs, ours])
    assert "Traceback" not in json.dumps([theirs, ours])


def test_an_exception_that_was_never_raised_has_no_place() -> None:
    """It still has a type."""
    assert place(KeyError(SECRET)) == "KeyError"


def test_a_line_break_in_a_fact_stays_in_its_line(lines: Any) -> None:
    """A model's name comes from outside, and must not forge a line."""
    configure("info", None)
    log("info", "job.started", model='x\n{"event": "forged"}')
    assert [line["event"] for line in lines()] == ["job.started"]


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (JobSubmitted(**FACTS), {"event": "job.submitted", "level": "info"}),
        (
            JobStarted(**FACTS, attempt=1, waited_s=0.12345),
            {"event": "job.started", "level": "info", "attempt": 1, "waited_s": 0.123},
        ),
        (
            JobRejected(
                **FACTS, code="queue_full", message="No room.", parameters={"prompt": SECRET}
            ),
            {"event": "job.rejected", "level": "warning", "error": "queue_full"},
        ),
        (
            JobFinished(
                **FACTS,
                state="completed",
                granted=True,
                attempt=1,
                queue_s=1.0,
                load_s=None,
                processing_s=2.0,
            ),
            {
                "event": "job.completed",
                "level": "info",
                "attempt": 1,
                "queue_s": 1.0,
                "processing_s": 2.0,
            },
        ),
        (
            JobFinished(
                **FACTS,
                state="failed",
                granted=False,
                attempt=0,
                queue_s=1.0,
                load_s=None,
                processing_s=None,
                code="deadline_exceeded",
                message="Its time was over.",
                parameters={"prompt": SECRET},
            ),
            {
                "event": "job.failed",
                "level": "warning",
                "attempt": 0,
                "queue_s": 1.0,
                "error": "deadline_exceeded",
                "message": "Its time was over.",
            },
        ),
    ],
)
def test_each_event_of_a_job_is_one_line(
    event: JobEvent, expected: dict[str, Any], lines: Any
) -> None:
    """What was asked for is not in it, sanitized or not."""
    configure("info", None)
    EventLog()(event)
    [line] = lines()
    line.pop("timestamp")
    common = {"job_id": "job-1", "type": "txt2img", "model": "flux-dev", "priority": "batch"}
    assert line == expected | common


def test_a_log_file_gets_the_same_lines(tmp_path: Path, lines: Any) -> None:
    """Its folder is made; stderr gets them too."""
    file = tmp_path / "logs" / "inference.log"
    assert configure("info", file) is None
    log("info", "server.started", model="größer")
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    told = lines()
    assert [written[0].pop("timestamp"), told[0].pop("timestamp")]
    assert written == told == [{"event": "server.started", "level": "info", "model": "größer"}]


def test_a_log_file_rotates(tmp_path: Path) -> None:
    """Some files of some megabytes, and not one that fills a disk."""
    file = tmp_path / "inference.log"
    configure("critical", file)
    logging.getLogger("inference_mcp").setLevel(logging.INFO)
    for _ in range(24):
        log("info", "padding", text="x" * 2**20)
    files = sorted(path.name for path in tmp_path.iterdir())
    assert files == ["inference.log", *(f"inference.log.{n}" for n in (1, 2, 3))]
    assert all(path.stat().st_size <= 6 * 2**20 for path in tmp_path.iterdir())


def test_a_file_that_cannot_be_written_is_told_without_its_path(tmp_path: Path) -> None:
    """The server goes on with stderr alone."""
    occupied = tmp_path / "file"
    occupied.write_text("")
    problem = configure("info", occupied / "inference.log")
    assert problem is not None
    assert problem.endswith(").")
    assert str(tmp_path) not in problem


def test_a_stderr_that_is_gone_harms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host may close it; neither an exception nor a word may follow."""

    class Closed:
        def isatty(self) -> bool:
            return False

        def write(self, _: str) -> int:
            raise BrokenPipeError

        def flush(self) -> None:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stderr", Closed())
    configure("info", None)
    log("info", "server.started")
