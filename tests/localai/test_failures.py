"""What the network and LocalAI's envelopes become."""

from __future__ import annotations

import json
from typing import Any

import pytest

from inference_mcp.errors import (
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    DeadlineExceededError,
)
from inference_mcp.localai.failures import (
    Answer,
    Network,
    from_answer,
    from_error_object,
    from_network,
)
from inference_mcp.localai.rules import Asked

URL = "http://localhost:8080"
ASKED = Asked("m")


def judged(status: int, body: Any, retry_after: str = "", date: str = "") -> BackendError:
    """The error for this answer, which must be a BackendError."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    error = from_answer(Answer(status, raw, retry_after, date), ASKED, URL)
    assert isinstance(error, BackendError)
    return error


@pytest.mark.parametrize("cause", Network)
def test_everything_the_network_does_has_its_sentence(cause: Network) -> None:
    """None is forgotten, none ends without a next step."""
    error = from_network(cause, URL)
    assert error.what.endswith(".")
    assert error.next_step.endswith(".")


def test_only_what_may_pass_is_transient() -> None:
    """A wrong address or certificate stays wrong."""
    passing = {
        cause
        for cause in Network
        if isinstance(error := from_network(cause, URL), BackendUnreachableError)
        and error.transient
    }
    assert passing == {Network.UNREACHABLE, Network.BROKEN, Network.PROXY}
    assert isinstance(from_network(Network.TIMEOUT, URL), DeadlineExceededError)


def test_a_localai_that_is_not_there_is_named_with_what_to_do() -> None:
    """The sentence that a newcomer sees first."""
    error = from_network(Network.UNREACHABLE, URL)
    assert error.what == "LocalAI cannot be reached at http://localhost:8080."
    assert error.next_step == "Start LocalAI or set LOCALAI_URL."


@pytest.mark.parametrize(
    "body",
    [
        {"error": {"code": 500, "message": "Load is in Cooldown", "type": ""}},
        {"error": {"code": "server_error", "message": "load is in cooldown"}},
        {"error": {"message": "x", "type": "model_loading"}},
        {"error": {"code": "model_loading", "message": None}, "loading": {}},
        {"error": "load is in cooldown"},
        {"loaded": None, "message": "failed to load model: load is in cooldown"},
        b"code=500, message=load is in cooldown",
        b"<html>load is in cooldown</html>",
    ],
)
def test_every_envelope_is_read(body: Any) -> None:
    """An int, a string or no code; /backend/load's own (trap 14); echo's; a proxy's HTML."""
    assert isinstance(judged(500, body), BackendBusyError)


@pytest.mark.parametrize(
    "body",
    [b"", b" ", [], None, 7, {}, {"error": None}, {"error": []}, {"message": {}}, b"\xff{", b"["],
)
def test_an_envelope_that_says_nothing_leaves_the_status(body: Any) -> None:
    """Opaque errors have no body, and a liar's body may be anything."""
    assert isinstance(judged(500, body), BackendFailedError)
    assert isinstance(judged(503, body), BackendBusyError)


def test_a_body_nested_beyond_reason_is_only_text() -> None:
    """A crash of the parser must not hide the failure."""
    assert isinstance(judged(503, b"[" * 60_000), BackendBusyError)


@pytest.mark.parametrize(
    ("header", "date", "expected_s"),
    [
        ("5", "", 5.0),
        (" 300 ", "", 300.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "Wed, 21 Oct 2026 07:28:00 GMT", 30.0),
        ("Wed, 21 Oct 2026 07:28:00 GMT", "Wed, 21 Oct 2026 07:28:30 GMT", 0.0),
        ("Wed, 21 Oct 2026 07:28:30 GMT", "", None),
        ("soon", "Wed, 21 Oct 2026 07:28:00 GMT", None),
        ("-5", "", None),
        ("9" * 50, "", None),
        ("nan", "", None),
        ("", "", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(header: str, date: str, expected_s: float | None) -> None:
    """A date counts from the answer's own; nonsense is no wish."""
    assert judged(503, b"", retry_after=header, date=date).retry_after_s == expected_s


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [
        ("in cooldown; retry after 9s", 9.0),
        ("in cooldown; retry after 1m30s", 90.0),
        ("in cooldown; retry after 1h0m0s", 300.0),
        ("in cooldown; retry after 350ms", None),
        ("in cooldown; retry after 2.5s", 2.5),
        ("in cooldown; retry after a while", None),
        ("in cooldown", None),
    ],
)
def test_in_a_stream_the_wish_stands_in_the_text(text: str, expected_s: float | None) -> None:
    """There is no header (trap 3)."""
    error = from_error_object({"error": {"message": text}}, ASKED)
    assert isinstance(error, BackendBusyError)
    assert error.retry_after_s == expected_s


def test_the_header_goes_before_the_text() -> None:
    """It is rounded up, the text is not."""
    body = {"error": {"message": "in cooldown; retry after 9s"}}
    assert judged(503, body, retry_after="10").retry_after_s == 10.0


def test_a_redirect_is_not_followed_but_explained() -> None:
    """The key must not go elsewhere."""
    error = judged(307, b"")
    assert isinstance(error, BackendUnreachableError)
    assert not error.transient


def test_a_long_text_is_searched_only_at_its_start() -> None:
    """A stranger's text must not cost time, for some patterns cost the square of it."""
    assert isinstance(judged(500, {"error": "x" * 100 + "in cooldown"}), BackendBusyError)
    assert isinstance(judged(500, {"error": "x" * 9000 + "in cooldown"}), BackendFailedError)
