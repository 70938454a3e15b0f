"""The log: JSON lines that hold no content, in the right places, and never in the way."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from inference_mcp.errors import place
from inference_mcp.logs import EventLog, Line, bound, configure, flush, heard, log, unbound
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
    "request_id": "a-1:7",
}


@pytest.fixture(autouse=True)
def _logging_as_before() -> Iterator[None]:
    """Logging belongs to the process: put back what ``configure`` changes."""
    root, ours = logging.getLogger(), logging.getLogger("inference_mcp")
    before = (root.handlers, root.level, ours.level, logging.raiseExceptions)
    hooks = (sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning)
    yield
    flush()
    sys.excepthook, threading.excepthook, sys.unraisablehook, warnings.showwarning = hooks
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
        assert flush(10)
        captured = capsys.readouterr()
        assert captured.out == "", "stdout belongs to the protocol"
        found = [json.loads(line) for line in captured.err.splitlines()]
        assert all(line.pop("pid") == os.getpid() for line in found)
        return found

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


def test_who_listens_hears_each_line_that_the_level_lets_through(lines: Any) -> None:
    """As it stands in the log, and only as long as it listens."""
    heard_lines: list[Line] = []
    with heard(heard_lines.append):  # nothing is set up yet
        configure("info", None)
    with heard(heard_lines.append), bound(request_id="abc-1:5"):
        log("debug", "too.small")
        log("warning", "something", model="m")
    log("warning", "later")
    [line] = heard_lines
    assert (line.level, line.event) == ("warning", "something")
    assert line.facts == {"pid": os.getpid(), "request_id": "abc-1:5", "model": "m"}
    assert [each["event"] for each in lines()] == ["something", "later"]


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
        (JobSubmitted(**FACTS), {"event": "job.submitted", "level": "debug"}),
        (
            JobStarted(**FACTS, attempt=1, waited_s=0.12345),
            {"event": "job.started", "level": "debug", "attempt": 1, "waited_s": 0.123},
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
                load_s=0.5,
                processing_s=2.0,
                input_tokens=7,
                output_tokens=9,
            ),
            {
                "event": "job.completed",
                "level": "info",
                "attempts": 1,
                "queue_s": 1.0,
                "load_s": 0.5,
                "processing_s": 2.0,
                "input_tokens": 7,
                "output_tokens": 9,
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
                "attempts": 0,
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
    configure("debug", None)
    EventLog()(event)
    [line] = lines()
    line.pop("timestamp")
    common = {
        "request_id": "a-1:7",
        "job_id": "job-1",
        "type": "txt2img",
        "model": "flux-dev",
        "priority": "batch",
    }
    assert line == expected | common


def test_a_log_file_gets_the_same_lines(tmp_path: Path, lines: Any) -> None:
    """Its folder is made; stderr gets them too."""
    file = tmp_path / "logs" / "inference.log"
    configure("info", file)
    log("info", "server.started", model="größer")
    told = lines()
    written = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert written[0].pop("timestamp") == told[0].pop("timestamp")
    assert written[0].pop("pid") == os.getpid()
    assert written == told == [{"event": "server.started", "level": "info", "model": "größer"}]


def test_a_file_that_cannot_be_written_is_told_once_without_its_path(
    tmp_path: Path, lines: Any
) -> None:
    """The server goes on with stderr alone."""
    occupied = tmp_path / "file"
    occupied.write_text("")
    configure("info", occupied / "inference.log")
    for number in range(300):  # more than go at once
        log("info", "something", number=number)
    told = lines()
    [problem] = [line for line in told if line["event"] == "log.not_written"]
    assert (problem["level"], problem["to"]) == ("warning", "file")
    assert str(tmp_path) not in json.dumps(told)
    assert len(told) == 301


def test_all_lines_of_a_block_bear_what_is_bound(lines: Any) -> None:
    """Also those that others log; what a block submits is named from then on."""
    configure("debug", None)
    with bound(request_id="a-1:7"):
        log("info", "one")
        EventLog()(JobSubmitted(**FACTS))
        logging.getLogger("httpx").info("HTTP Request: %s", SECRET)
        with unbound():
            log("info", "of nobody")
        log("info", "two")
    log("info", "three")
    told = [(each.get("request_id"), each.get("job_id")) for each in lines()]
    both = ("a-1:7", "job-1")
    assert told == [("a-1:7", None), both, both, (None, None), both, (None, None)]


def test_an_events_own_request_is_in_force(lines: Any) -> None:
    """A job may be ended while another request is served."""
    configure("debug", None)
    with bound(request_id="b-2:8", job_id="job-2"):
        EventLog()(JobStarted(**FACTS, attempt=1, waited_s=0.0))
    [line] = lines()
    assert (line["request_id"], line["job_id"]) == ("a-1:7", "job-1")


def test_what_others_put_together_is_withheld(lines: Any) -> None:
    """The event loop quotes an exception's text; what stands in their code is told."""
    configure("debug", None)
    others = logging.getLogger("asyncio")
    others.warning(f"Task exception was never retrieved: {SECRET}")
    others.warning(SECRET)
    others.info(f"Chatty: {SECRET}")  # nothing is left to be told
    _of_their_own(others)
    *told, kept = lines()
    assert kept["event"] == "stands in the code"
    assert [line["event"] for line in told] == ["(text withheld)"] * 2
    assert all(line["place"].startswith("test_logs.py:") for line in told)


def _of_their_own(others: logging.Logger) -> None:
    def warning() -> None:  # named as what of ``logging`` lies between
        others.warning("stands in the code")

    warning()


def test_what_python_would_print_is_a_line(lines: Any) -> None:
    """An uncaught fault, one in a thread or a finalizer, a warning: no text, no traceback."""
    configure("info", None)

    def fail() -> None:
        raise ValueError(SECRET)

    class Failing:
        def __del__(self) -> None:
            raise ValueError(SECRET)

    try:
        fail()
    except ValueError as error:
        sys.excepthook(ValueError, error, error.__traceback__)
    thread = threading.Thread(target=fail)
    thread.start()
    thread.join()
    Failing()
    assert flush(10)  # by the destination that the next line replaces
    with warnings.catch_warnings():  # puts ``showwarning`` back at its end
        configure("info", None)
        warnings.simplefilter("default")
        warnings.warn(SECRET, stacklevel=1)
    told = lines()
    assert [line["event"] for line in told] == [
        "server.crashed",
        "thread.fault",
        "finalizer.fault",
        "python.warning",
    ]
    assert SECRET not in json.dumps(told)
    assert all("test_logs.py:" in json.dumps(line) for line in told)


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
    assert flush(10)
