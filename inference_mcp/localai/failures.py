"""The one mapper from what LocalAI or the network did to ``inference_mcp.errors``.

A failure comes in one of four forms: no whole answer (``from_network``), an HTTP answer that
is not a success (``from_answer``), an error event inside a stream that began with 200
(``from_error_object``, trap 3), or a success whose content cannot be used. The second and
third become a report, which ``rules`` judges.

It does no I/O and knows no HTTP library: ``transport`` names what the network did with a
``Network`` member. Above it are ``answers``, ``health``, ``transport`` and ``client``; below it
are ``rules`` and ``errors``. Every sentence is our own, never LocalAI's (trap 22).
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from enum import Enum, auto
from typing import Any

from inference_mcp.errors import (
    BackendFailedError,
    BackendUnreachableError,
    BadResultError,
    DeadlineExceededError,
    InferenceError,
    ShuttingDownError,
)
from inference_mcp.localai.rules import Asked, Report, judge, own_words

__all__ = [
    "Answer",
    "Network",
    "bad_environment",
    "bad_picture",
    "broke_off",
    "closed",
    "deadline_exceeded",
    "empty_answer",
    "from_answer",
    "from_error_object",
    "from_network",
    "is_envelope",
    "load_timed_out",
    "model_gone",
    "no_answer",
    "not_localai",
    "too_large",
    "unreadable",
    "upload_refused",
]

_CHECK_LOG = "Look at LocalAI's log for the reason."
_CHECK_URL = "Check that LOCALAI_URL is LocalAI's base address."
_START = "Start LocalAI or set LOCALAI_URL."

# The rules' patterns are searched in text that a stranger may have written: a bound on its
# length bounds their time. LocalAI's own sentences are far shorter.
_MAX_TEXT_CHARS = 4000


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole HTTP answer in plain values; the headers are text, empty where missing.

    ``date`` is the answer's own, else when it came: a wish for a date counts from it.
    """

    status: int
    body: bytes = field(default=b"", repr=False)
    retry_after: str = ""
    date: str = ""
    simulated: bool = False


class Network(Enum):
    """What the network did instead of carrying an answer."""

    UNREACHABLE = auto()
    BROKEN = auto()
    TIMEOUT = auto()
    PROXY = auto()
    UNTRUSTED = auto()
    BAD_ADDRESS = auto()
    GARBLED = auto()
    MISUSED = auto()


# What the network did -------------------------------------------------------------------


def from_network(cause: Network, url: str) -> InferenceError:
    """The error for a call that got no whole answer; ``url`` holds no credentials."""
    if cause is Network.TIMEOUT:
        return DeadlineExceededError(
            "LocalAI did not answer in the time that was left.", _SLOW_NEXT_STEP
        )
    if cause is Network.MISUSED:
        return BackendFailedError(
            "The request could not be written as HTTP.",
            "Check LOCALAI_URL and LOCALAI_API_KEY for characters that do not belong there.",
        )
    what, next_step, transient = _SENTENCES[cause]
    return BackendUnreachableError(
        what.format(url=url),
        next_step,
        transient=transient,
        answer_lost=cause is Network.BROKEN,
    )


_SLOW_NEXT_STEP = (
    "Ask for less (fewer tokens or steps, a smaller picture) or raise INFERENCE_MCP_TIMEOUT_S."
)

_SENTENCES: dict[Network, tuple[str, str, bool]] = {
    Network.UNREACHABLE: ("LocalAI cannot be reached at {url}.", _START, True),
    Network.BROKEN: (
        "The connection to LocalAI at {url} broke before the answer was whole.",
        "Try again; if it happens again, look at LocalAI's log.",
        True,
    ),
    Network.PROXY: (
        "The proxy between here and LocalAI at {url} refused the connection.",
        "Check HTTP_PROXY, HTTPS_PROXY and NO_PROXY.",
        True,
    ),
    Network.UNTRUSTED: (
        "The certificate of {url} is not trusted.",
        "Use a certificate that this machine trusts, or name its authority in SSL_CERT_FILE.",
        False,
    ),
    Network.BAD_ADDRESS: ("{url} is not an address that can be asked.", "Set LOCALAI_URL.", False),
    Network.GARBLED: (
        "The answer from {url} was packed in a way that cannot be unpacked.",
        "Look at what stands between here and LocalAI.",
        False,
    ),
}


def bad_environment() -> BackendUnreachableError:
    """There can be no HTTP client: this process was started with unusable variables."""
    return BackendUnreachableError(
        "The HTTP client cannot be made with this environment's proxy or certificate variables.",
        "Check ALL_PROXY, HTTP_PROXY, HTTPS_PROXY, NO_PROXY and SSL_CERT_FILE.",
    )


def closed() -> ShuttingDownError:
    """The connections were closed for good before this request."""
    return ShuttingDownError("This server is ending.", "Start it again.")


def deadline_exceeded(timeout_s: float) -> DeadlineExceededError:
    """LocalAI was given ``timeout_s`` seconds and was not done."""
    return DeadlineExceededError(
        f"LocalAI was not done within the {timeout_s:.0f} s that were left.", _SLOW_NEXT_STEP
    )


def load_timed_out(timeout_s: float) -> BackendFailedError:
    """A load took longer than it may (S11)."""
    return BackendFailedError(
        f"LocalAI did not load the model within {timeout_s:.0f} s.",
        "Look at LocalAI's log, or raise INFERENCE_MCP_LOAD_TIMEOUT_S.",
    )


def no_answer(url: str, waited_s: float) -> BackendUnreachableError:
    """A look at LocalAI, which needs no inference, got nothing in ``waited_s`` seconds."""
    return BackendUnreachableError(
        f"LocalAI at {url} did not answer within {waited_s:.0f} s.",
        "Look whether LocalAI's machine is overloaded or LocalAI hangs.",
        transient=True,
    )


def model_gone(model: str) -> InferenceError:
    """LocalAI listed this model, and does not any more."""
    return judge(Report(404), Asked(model))


def not_localai(url: str) -> BackendUnreachableError:
    """Something answered that does not speak LocalAI's API."""
    return BackendUnreachableError(f"What answers at {url} is not LocalAI.", _CHECK_URL)


def broke_off() -> BackendUnreachableError:
    """A stream that ended before LocalAI said that it is whole."""
    return BackendUnreachableError(
        "The answer broke off before it was whole.",
        "Try again; if it happens again, look at LocalAI's log.",
        transient=True,
        answer_lost=True,
    )


def upload_refused(asked: Asked) -> InferenceError:
    """The connection was closed while a large body was still on its way.

    So ends a body over the limit (trap 18): LocalAI answers 413 without reading it and
    closes, and the answer is lost with the connection. A retry would send it all again. Whether
    LocalAI is still there, and has not just ended, was looked at.
    """
    return judge(Report(413), asked)


# Answers of 200 that cannot be used -----------------------------------------------------


def empty_answer(*, reasoned: bool, finish_reason: str) -> BadResultError:
    """No text (trap 16); LocalAI has tried several times itself, so a retry is no use."""
    if finish_reason == "length":
        return BadResultError(
            "The model used up its tokens before it wrote an answer.",
            "Raise max_tokens or leave it out: a reasoning model needs tokens to think first.",
        )
    if reasoned:
        return BadResultError(
            "The model thought, and then wrote no answer.",
            "Say the prompt in other words, or raise max_tokens: a reasoning model needs more.",
        )
    return BadResultError(
        "The model answered with nothing.",
        "Say the prompt in other words, raise max_tokens (a reasoning model needs more) "
        "or use another model.",
    )


def bad_picture(reason: str) -> BadResultError:
    """LocalAI said success, but there is no picture (trap 7); ``reason`` is our own clause."""
    return BadResultError(
        f"LocalAI reported success but sent no usable picture: {reason}.",
        "Try another size, fewer steps or another model, and look at LocalAI's log.",
    )


def unreadable() -> BadResultError:
    """An answer of 200 whose content is not what LocalAI sends."""
    return BadResultError("LocalAI's answer cannot be read.", _CHECK_LOG)


def too_large(what: str, limit_bytes: int) -> BadResultError:
    """An answer beyond what is ever kept in memory."""
    return BadResultError(
        f"LocalAI's answer holds more than {limit_bytes // 1_000_000} MB of {what}.",
        {"text": "Set max_tokens.", "picture": "Ask for a smaller picture."}.get(what, _CHECK_URL),
    )


# What LocalAI said ----------------------------------------------------------------------


def from_answer(answer: Answer, asked: Asked, url: str) -> InferenceError:
    """The error for an HTTP answer that is not a success; ``url`` holds no credentials."""
    status, body = answer.status, answer.body
    if 300 <= status < 400:
        return BackendUnreachableError(
            f"{url} sends its callers on to another address.",
            "Set LOCALAI_URL to the final address; redirects are not followed with a key.",
        )
    wish_s = _retry_after_s(answer.retry_after, answer.date)
    try:
        decoded: Any = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError):
        decoded = body.decode("utf-8", "replace")
    return from_error_object(decoded, asked, status=status, retry_after_s=wish_s)


def from_error_object(
    found: object, asked: Asked, *, status: int = 0, retry_after_s: float | None = None
) -> InferenceError:
    """The error for a JSON body, or for an error event in a stream (trap 3).

    The envelopes: ``{"error": {"message", "type", "code": int | str | missing}}``,
    ``{"error": "text"}``, and ``{"loaded": null, "message"}`` (trap 14).
    """
    inner = found.get("error", found) if isinstance(found, dict) else found
    if isinstance(inner, dict):
        message, tag = inner.get("message"), f"{inner.get('type')} {inner.get('code')}"
    else:
        message, tag = inner, ""
    text = message[:_MAX_TEXT_CHARS].lower() if isinstance(message, str) else ""
    # In a stream a cooldown's seconds stand in the text alone (trap 3).
    wish_s = _seconds_in(own_words(text)) if retry_after_s is None else retry_after_s
    return judge(Report(status, text, tag[:200].lower(), wish_s), asked)


def is_envelope(body: bytes) -> bool:
    """Whether this is LocalAI's: JSON, or nothing at all, as with its opaque errors."""
    try:
        return not body.strip() or isinstance(json.loads(body), dict)
    except (ValueError, RecursionError):
        return False


def _retry_after_s(header: str, date: str) -> float | None:
    # A date counts from the answer's own, so that the two machines' clocks need not agree.
    header = header.strip()
    if re.fullmatch(r"[0-9]{1,9}(\.[0-9]{1,9})?", header):
        return float(header)
    try:
        wait_s = (parsedate_to_datetime(header) - parsedate_to_datetime(date)).total_seconds()
    except (ValueError, TypeError, OverflowError):
        return None
    return max(0.0, wait_s)


_WISH = re.compile(r"retry after (?:(\d{1,3})h)?(?:(\d{1,3})m(?!s))?(?:(\d{1,6}(?:\.\d{1,9})?)s)?")


def _seconds_in(text: str) -> float | None:
    found = _WISH.search(text)
    if found is None or not any(found.groups()):
        return None
    hours, minutes, seconds = (float(part or 0) for part in found.groups())
    return hours * 3600 + minutes * 60 + seconds
