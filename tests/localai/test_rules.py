"""One refusal of LocalAI → one error."""

from __future__ import annotations

import re

import pytest

from inference_mcp.errors import (
    BackendAuthError,
    BackendBusyError,
    BackendError,
    BackendFailedError,
    BackendUnreachableError,
    ImageRejectedError,
    InferenceError,
    InvalidInputError,
    ModelNotFoundError,
    ModelUnsuitableError,
)
from inference_mcp.localai.rules import MAX_WAIT_S, Asked, ModelDisabledError, Report, judge, shown

TEXT, VISION = Asked("m"), Asked("m", with_picture=True)
LOADING = "failed to route model with internal loader: routing model m.gguf: "
UNAVAILABLE = "rpc error: code = unavailable desc = "

BUSY = [
    Report(429),
    Report(429, "x", "quota_exceeded 429"),
    Report(503),
    Report(503, "sorry, waiting for nodes to connect"),
    Report(503, 'model "m" is at capacity (max_concurrent=1)', "admission_rejected"),
    Report(503, "backend inference capacity reached (max_concurrent=1024)"),
    Report(503, "model m is staging on node w", "model_loading model_loading"),
    Report(500, 'model "m" load is in cooldown after a recent failure; retry after 9s'),
    Report(0, 'model "m" load is in cooldown after a recent failure; retry after 9s'),
    Report(0, LOADING + "model m is loading on node worker-1"),
    Report(500, LOADING + "m is stopping"),
    Report(500, "model m is still loading"),
    Report(0, LOADING + "model m is pending"),
    Report(503, "model m is staging on node w (41%, eta ~11m0s)"),
    Report(500, "timed out waiting for model m to load"),
    Report(500, "loading model m: the load finished but the model is not available"),
    Report(500, "model is still busy"),
    Report(500, "no available nodes: no healthy nodes available: all models busy, cannot evict"),
]
PASSING = [
    Report(500, UNAVAILABLE + "error reading from server: eof"),
    Report(0, UNAVAILABLE + 'connection error: desc = "dial tcp: connect: connection refused"'),
    Report(500, "could not load model: rpc error: code = canceled desc = context canceled"),
    Report(500, "rpc error: code = failedprecondition desc = model not loaded"),
    Report(500, "no available nodes: installing backend: nats request: no responders available"),
    Report(500, "installing backend on node w: nats request to w: nats: timeout"),
]
FAILED = [
    Report(500),
    Report(500, "inference failed"),
    Report(500, "rpc error: code = internal desc = simulated"),
    Report(500, "rpc error: code = deadlineexceeded desc = context deadline exceeded"),
    Report(0, "rpc error: code = unknown desc = exception calling application: cuda out of memory"),
    Report(500, "failed to load model with internal loader: could not load model (no success): x"),
    Report(500, "backend not found: x"),
    Report(500, "grpc service not ready"),
    Report(500, LOADING + "loading model m.gguf on node worker-1: simulated load failure"),
    Report(500, f"could not load model - all backends returned error: {UNAVAILABLE} eof"),
    Report(500, LOADING + "establishing config revision for m: stale model config revision"),
    Report(404, "<html>no such page</html>"),
    Report(405),
    Report(501),
]


@pytest.mark.parametrize("report", BUSY, ids=lambda r: f"{r.status} {r.text[-40:]}")
def test_who_is_busy_may_be_asked_again(report: Report) -> None:
    """Capacity, loads, cooldowns, quotas: with a status or only a text (traps 3, 17, 20)."""
    error = judge(report, TEXT)
    assert isinstance(error, BackendBusyError)
    assert error.transient


@pytest.mark.parametrize("report", PASSING, ids=lambda r: f"{r.status} {r.text[-40:]}")
def test_a_dead_backend_process_may_be_asked_again(report: Report) -> None:
    """LocalAI starts a new one, sooner or later (traps 13, 21)."""
    error = judge(report, TEXT)
    assert isinstance(error, BackendFailedError)
    assert error.transient


@pytest.mark.parametrize("report", FAILED, ids=lambda r: f"{r.status} {r.text[-40:]}")
def test_what_will_fail_again_is_permanent(report: Report) -> None:
    """Memory, loads, stale revisions (trap 19) and all that is unknown."""
    error = judge(report, TEXT)
    assert isinstance(error, BackendFailedError)
    assert not error.transient


@pytest.mark.parametrize("report", [*BUSY, *PASSING, *FAILED], ids=lambda r: r.text[-40:])
def test_only_a_model_that_loads_stops_or_rests_is_not_ready(report: Report) -> None:
    """To wait for that is no try (S14), nor for a machine that is lost (trap 21) or has no room;
    a full model is something else.
    """  # noqa: D205  # one sentence
    error = judge(report, TEXT)
    words = "cooldown|staging|is loading on|stopping|still|model not loaded|no responders|"
    words += "nats: timeout|cannot evict|pending|timed out|finished|max_concurrent"
    assert isinstance(error, BackendError)
    assert error.not_ready is bool(re.search(words, report.text))


@pytest.mark.parametrize(
    ("wait_s", "transient", "kept_s", "when"),
    [
        (None, True, None, "later"),
        (300.0, True, 300.0, "later"),
        (301.0, False, None, "in about 6 min"),
        (7200.0, False, None, "in about 120 min"),
    ],
)
def test_a_quota_that_stays_used_up_for_long_is_not_waited_for(
    wait_s: float | None, transient: bool, kept_s: float | None, when: str
) -> None:
    """No request lives that long."""
    error = judge(Report(429, "x", "quota_exceeded 429", wait_s), TEXT)
    assert isinstance(error, BackendBusyError)
    assert (error.transient, error.retry_after_s) == (transient, kept_s)
    assert error.next_step == f"Try again {when}."


@pytest.mark.parametrize("status", [408, 502, 504])
def test_a_gateways_own_failure_may_pass(status: int) -> None:
    """LocalAI itself has no such statuses."""
    error = judge(Report(status, "<html>bad gateway</html>"), TEXT)
    assert isinstance(error, BackendUnreachableError)
    assert error.transient


@pytest.mark.parametrize(
    ("report", "asked", "kind"),
    [
        (Report(401, "an authentication key is required"), TEXT, BackendAuthError),
        (Report(403, "admin access required", "authorization_error 403"), TEXT, BackendAuthError),
        (Report(403, 'model "m" is disabled', "model_disabled 403"), TEXT, ModelDisabledError),
        (Report(404, 'model "m" not found. to see'), TEXT, ModelNotFoundError),
        (Report(404), TEXT, ModelNotFoundError),
        (Report(404), Asked(), BackendFailedError),
        (Report(413), TEXT, InvalidInputError),
        (Report(413), VISION, ImageRejectedError),
        (Report(400, "code=400, message=failed parsing"), TEXT, InvalidInputError),
        (Report(400, "blocked", "pii_blocked 400"), TEXT, InvalidInputError),
        (Report(400, "alias target missing"), TEXT, ModelUnsuitableError),
        (Report(400, "request exceeds the available context size"), TEXT, InvalidInputError),
        (Report(500, "invalid value for 'size'"), TEXT, InvalidInputError),
        (Report(0, "rpc error: code = invalidargument desc = x"), VISION, ImageRejectedError),
        (Report(500, "rpc error: code = invalidargument desc = x"), TEXT, BackendFailedError),
        (Report(500, "failed to decode image"), VISION, ImageRejectedError),
        (Report(500, "cannot identify image file '/a/b'"), VISION, ImageRejectedError),
        (Report(500, "rpc error: code = unimplemented desc = x"), TEXT, ModelUnsuitableError),
    ],
)
def test_what_the_caller_or_operator_can_act_on_has_its_own_error(
    report: Report, asked: Asked, kind: type[InferenceError]
) -> None:
    """Most specific first: a status, then what the text says, then the request's kind."""
    assert type(judge(report, asked)) is kind


def test_an_overflow_tells_the_numbers_where_it_can() -> None:
    """Whole numbers are all that is taken from LocalAI's text (trap 22)."""
    text = "request (9000 tokens) exceeds the available context size (4096 tokens), try more"
    assert "9000 tokens; it takes 4096" in judge(Report(500, text), TEXT).what


@pytest.mark.parametrize("report", [*BUSY, *PASSING, *FAILED, Report(400, "alias")])
def test_every_error_is_two_whole_sentences_of_our_own(report: Report) -> None:
    """Nothing of LocalAI's text is repeated (trap 22)."""
    marked = Report(report.status, report.text + " /srv/secret prompt", report.tag)
    error = judge(marked, TEXT)
    assert error.what.endswith(".")
    assert error.next_step.endswith(".")
    assert "secret" not in error.what + error.next_step + error.sample


def test_localais_wish_is_kept_only_where_a_retry_is_of_use() -> None:
    """A permanent failure has no time to wait for."""
    busy = judge(Report(503, retry_after_s=9.0), TEXT)
    failed = judge(Report(500, retry_after_s=9.0), TEXT)
    assert isinstance(busy, BackendError)
    assert isinstance(failed, BackendError)
    assert (busy.retry_after_s, failed.retry_after_s) == (9.0, None)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("é", '"é"'), ("", "the model"), ("a\nb", '"a\\nb"'), ("x" * 99, f'"{"x" * 79}…"')],
)
def test_a_name_in_a_sentence_is_one_short_line(name: str, expected: str) -> None:
    """It is the caller's or LocalAI's text."""
    assert shown(name) == expected


PROMPTS = [
    "a poster that says connection refused",
    "a car that is stopping",
    "model train is loading coal",
    "stale model config revision",
    "retry after 9999s in cooldown, all models busy, no responders available, max_concurrent",
    "rpc error: code = unavailable",
]


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("code", ["unknown", "internal", "invalidargument", "unimplemented"])
def test_a_prompt_that_a_backend_quotes_steers_nothing(code: str, prompt: str) -> None:
    """Trap 22: what stands behind the code is not LocalAI's own word."""
    desc = f"exception calling application: cannot draw {prompt}"
    plain = judge(Report(500, f"rpc error: code = {code} desc = no"), TEXT)
    quoting = judge(Report(500, f"rpc error: code = {code} desc = {desc}"), TEXT)
    assert (type(quoting), quoting.what) == (type(plain), plain.what)
    assert vars(quoting) == vars(plain)


def test_a_wish_is_bounded_and_told() -> None:
    """One answer, which need not even be LocalAI's, must not silence a model for hours."""
    error = judge(Report(503, retry_after_s=999_999_999.0), TEXT)
    assert isinstance(error, BackendBusyError)
    assert error.retry_after_s == MAX_WAIT_S
    assert error.next_step == "Try again in 300 s."


@pytest.mark.parametrize(
    "text",
    [
        "this model's maximum context length is 4096 tokens",
        "longer than the maximum model length of 4096",
        "the request exceeds context window of 4096",
        "prompt is too long",
    ],
)
def test_other_words_for_too_long_a_prompt(text: str) -> None:
    """Backends other than llama.cpp have their own."""
    error = judge(Report(500, f"rpc error: code = unknown desc = {text}"), TEXT)
    assert isinstance(error, InvalidInputError)
