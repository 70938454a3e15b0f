"""The rules that tell one refusal of LocalAI from another: a ``Report`` → the error. Pure.

One table, most specific rule first. Whether the same request may succeed later (``transient``)
is decided here, for what the network does in ``failures``, for what LocalAI's distributed mode
refuses in ``revisions``, and nowhere else; so is whether the model was only not ready
(``not_ready``): to wait for a load or a rest is no try (S14). Above it is ``failures``, which
makes the reports; below it is ``errors``.

LocalAI's text is read to find the rule and is then dropped: it may quote the prompt or name
paths of the server's machine (trap 22). Only numbers are taken from it. What a backend said
stands behind ``rpc error: code = …``, and may quote the prompt whatever it is about: rules
about LocalAI itself look at its own words alone, which come before.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeAlias

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

__all__ = [
    "MAX_WAIT_S",
    "NOTHING",
    "Asked",
    "ModelDisabledError",
    "Report",
    "StaleRevisionError",
    "judge",
    "own_words",
    "shown",
]

_TRY_LATER = "Try again in a moment."


class ModelDisabledError(ModelUnsuitableError):
    """LocalAI says that the model is disabled, which its lists need not tell."""


class StaleRevisionError(BackendFailedError):
    """LocalAI's distributed mode refused a request's parameters (trap 19)."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What a failure depends on besides LocalAI: the request. Empty for a look at LocalAI."""

    model: str = ""
    with_picture: bool = False


NOTHING = Asked()


@dataclass(frozen=True, slots=True)
class Report:
    """One failure as LocalAI told it. ``status`` is 0 inside a stream, which has none.

    ``text`` is LocalAI's in lower case, ``tag`` its ``type`` and ``code`` together.
    """

    status: int
    text: str = field(default="", repr=False)
    tag: str = ""
    retry_after_s: float | None = None


def shown(name: str) -> str:
    """A model's name, in quotes and fit for a sentence: one line of at most 80 characters."""
    plain = name if name.isprintable() else ascii(name)[1:-1]
    return f'"{plain if len(plain) <= 80 else plain[:79] + "…"}"' if name else "the model"


_Fits: TypeAlias = Callable[[Report, Asked], bool]
_Maker: TypeAlias = Callable[[Report, Asked], InferenceError]
_Rule: TypeAlias = tuple[_Fits, _Maker]


def judge(report: Report, asked: Asked) -> InferenceError:
    """The error of the first rule that fits; the last one always does."""
    return next(make(report, asked) for fits, make in _RULES if fits(report, asked))


def _status(*statuses: int) -> _Fits:
    return lambda report, _: report.status in statuses


def _says(pattern: str) -> _Fits:
    found = re.compile(pattern)
    return lambda report, _: found.search(report.text) is not None


def _localai_says(pattern: str) -> _Fits:
    found = re.compile(pattern)
    return lambda report, _: found.search(f"{report.tag} {own_words(report.text)}") is not None


def _grpc(*codes: str) -> _Fits:
    return lambda report, _: _grpc_code(report.text) in codes


_RPC_ERROR = re.compile(r"rpc error: code = (\w+)")


def own_words(text: str) -> str:
    """What LocalAI itself said, in lower case, without what a backend did."""
    return _RPC_ERROR.split(text, maxsplit=1)[0]


def _grpc_code(text: str) -> str:
    found = _RPC_ERROR.search(text)
    return found[1] if found else ""


def _with_picture(_: Report, asked: Asked) -> bool:
    return asked.with_picture


def _both(one: _Fits, other: _Fits) -> _Fits:
    return lambda report, asked: one(report, asked) and other(report, asked)


def _says_of_picture(pattern: str) -> _Fits:
    return _both(_with_picture, _says(pattern))


def _always(report: Report, asked: Asked) -> bool:
    return True


def _raiser(
    kind: type[BackendError],
    what: str,
    next_step: str,
    *,
    transient: bool = False,
    process_dead: bool = False,
    answer_lost: bool = False,
    not_ready: bool = False,
    loading: bool = False,
) -> _Maker:
    def make(report: Report, _: Asked) -> InferenceError:
        wait_s = None
        if transient and report.retry_after_s is not None:
            wait_s = min(report.retry_after_s, MAX_WAIT_S)
        later = f"Try again in {wait_s:.0f} s." if wait_s and next_step is _TRY_LATER else next_step
        return kind(
            what,
            later,
            transient=transient,
            retry_after_s=wait_s,
            process_dead=process_dead,
            answer_lost=answer_lost,
            not_ready=not_ready,
            loading=loading,
        )

    return make


MAX_WAIT_S = 300.0
"""The longest that LocalAI itself asks for. One answer, which need not even be LocalAI's, must not
silence a model for longer. A quota may come back in hours: then it is no use to wait."""


def _quota(report: Report, _: Asked) -> InferenceError:
    wait_s = report.retry_after_s
    hopeless = wait_s is not None and wait_s > MAX_WAIT_S
    when = f"in about {math.ceil(wait_s / 60)} min" if wait_s is not None and hopeless else "later"
    return BackendBusyError(
        "The quota of LocalAI's key is used up.",
        f"Try again {when}.",
        transient=not hopeless,
        retry_after_s=None if hopeless else wait_s,
    )


def _forbidden(report: Report, asked: Asked) -> InferenceError:
    if "model_disabled" in report.tag:
        return ModelDisabledError(
            f"{shown(asked.model)} is disabled in LocalAI.",
            "Use another model (see list_models) or enable it in LocalAI.",
            model=asked.model,
        )
    return BackendAuthError(
        "LocalAI's key may not do this.", "Set LOCALAI_API_KEY to a key that has the right to it."
    )


def _missing(report: Report, asked: Asked) -> InferenceError:
    # An empty body is LocalAI with opaque errors on; the route itself is known to exist.
    named = not report.text or re.search(r"model .*not found", report.text)
    if report.status == 404 and asked.model and named:
        return ModelNotFoundError(
            f"LocalAI does not list {shown(asked.model)} any more.",
            "Choose one from list_models.",
            model=asked.model,
        )
    return BackendFailedError(
        "The server does not know this part of LocalAI's API.",
        "Check that LOCALAI_URL is LocalAI's base address.",
    )


def _too_big(_: Report, asked: Asked) -> InferenceError:
    if asked.with_picture:
        return ImageRejectedError(
            "The picture is larger than LocalAI, or a proxy before it, takes in one request.",
            "Use a smaller picture; the operator may raise LOCALAI_UPLOAD_LIMIT, or the proxy's.",
        )
    return InvalidInputError(
        "The text is larger than LocalAI, or a proxy before it, takes.", "Shorten the prompt."
    )


def _invalid(report: Report, asked: Asked) -> InferenceError:
    if "pii_blocked" in report.tag:
        return InvalidInputError(
            "LocalAI's filter for personal data refused the text.",
            "Take the personal data out of the prompt.",
        )
    if "alias" in report.text:
        return ModelUnsuitableError(
            f"{shown(asked.model)} is an alias whose target cannot be used.",
            "Use another model (see list_models).",
            model=asked.model,
        )
    return InvalidInputError(
        "LocalAI refused the request as invalid.", "Leave out optional parameters and try again."
    )


_TOKENS = re.compile(r"\((\d{1,9}) tokens\).*context size \((\d{1,9}) tokens\)")


def _overflow(report: Report, _: Asked) -> InferenceError:
    numbers = _TOKENS.search(report.text)
    told = f" ({numbers[1]} tokens; it takes {numbers[2]})" if numbers else ""
    return InvalidInputError(
        f"The prompt does not fit the model's context{told}.",
        "Shorten the prompt or use a model with a larger context.",
    )


def _undecodable(_: Report, __: Asked) -> InferenceError:
    return ImageRejectedError(
        "LocalAI's backend cannot decode the picture.", "Save it anew as PNG or use another one."
    )


def _bad_size(_: Report, __: Asked) -> InferenceError:
    return InvalidInputError("LocalAI refused the picture's size.", "Use another width and height.")


def _unable(_: Report, asked: Asked) -> InferenceError:
    return ModelUnsuitableError(
        f"The backend of {shown(asked.model)} cannot do this kind of request.",
        "Use another model (see list_models).",
        model=asked.model,
    )


_busy = _raiser(
    BackendBusyError, "LocalAI does not take this request now.", _TRY_LATER, transient=True
)
_full = _raiser(
    BackendBusyError,
    "LocalAI takes no more requests for the model at once.",
    "Try again in a moment; the operator sets INFERENCE_MCP_MODEL_CONCURRENCY to what LocalAI "
    "takes (its limits.max_concurrent).",
    transient=True,
    not_ready=True,
)
_loading = _raiser(
    BackendBusyError,
    "LocalAI is still loading the model.",
    _TRY_LATER,
    transient=True,
    not_ready=True,
    loading=True,
)
_resting = _raiser(
    BackendBusyError,
    "LocalAI is stopping the model, or lets it rest after a failed load.",
    _TRY_LATER,
    transient=True,
    not_ready=True,
)
_stale = _raiser(
    StaleRevisionError,
    "LocalAI runs distributed and refused the request's parameters.",
    "Leave out optional parameters.",
)
_memory = _raiser(
    BackendFailedError,
    "LocalAI's machine ran out of memory.",
    "Ask for a smaller picture or a shorter answer, use a smaller model, or free memory there.",
)
_load_failed = _raiser(
    BackendFailedError,
    "LocalAI could not load the model.",
    "Look at LocalAI's log, and whether its memory is enough; or use another model.",
)
_gone = _raiser(
    BackendFailedError,
    "The model's backend process at LocalAI died or cannot be reached.",
    "Try again in half a minute; if it happens again, look at LocalAI's log.",
    transient=True,
    process_dead=True,
)
_cancelled = _raiser(
    BackendFailedError,
    "LocalAI broke the request off, or the load that it waited for.",
    _TRY_LATER,
    transient=True,
)
_node_lost = _raiser(
    BackendFailedError,
    "The machine of LocalAI's that had the model cannot be reached.",
    "Try again in a minute; if it happens again, look at LocalAI's log.",
    transient=True,
    not_ready=True,
)
_no_node = _raiser(
    BackendBusyError,
    "None of LocalAI's machines has room for the model now.",
    "Try again later; if it happens again, look whether its workers run.",
    transient=True,
    not_ready=True,
)
_mismatch = _raiser(
    BackendFailedError,
    "LocalAI's backend does not hold the model that LocalAI believes it holds.",
    _TRY_LATER,
    transient=True,
    not_ready=True,
)
_gateway = _raiser(
    BackendUnreachableError,
    "A gateway in front of LocalAI got no answer from it.",
    "Look whether LocalAI runs and whether the gateway waits long enough.",
    transient=True,
    answer_lost=True,
)
_no_key = _raiser(
    BackendAuthError,
    "LocalAI asks for a key, or refused the one that it was given.",
    "Set LOCALAI_API_KEY to a key that LocalAI accepts.",
)
_failed = _raiser(
    BackendFailedError,
    "LocalAI's backend failed on this request.",
    "Look at LocalAI's log for the reason.",
)

_OVERFLOW = (
    r"exceeds? the (available )?context|exceeds? context window|context (size|length|window) exceed"
    r"|maximum context length|maximum model length|prompt is too long"
)
_MEMORY = (
    r"out ?of ?(device ?)?memory|bad_alloc|cannot allocate memory|failed to allocate"
    r"|cublas_status_alloc_failed"
)

_WRONG_MODEL = r"model not loaded|model identity mismatch"

# Order is meaning. Statuses that LocalAI's own middleware decides come first, for there the
# text adds nothing; then texts, most specific first, for behind a 500 or inside a stream
# they are all there is; then what a status alone can tell.
_RULES: tuple[_Rule, ...] = (
    (_status(401), _no_key),
    (_status(403), _forbidden),
    (_status(404, 405, 501), _missing),
    (_status(413), _too_big),
    (_localai_says(r"quota_exceeded"), _quota),
    (_status(429), _busy),
    (_says(_OVERFLOW), _overflow),
    (_says_of_picture(r"failed to decode image|cannot identify image"), _undecodable),
    (_status(400, 415, 422), _invalid),
    (_localai_says(r"stale model config revision"), _stale),  # trap 19
    (_both(_with_picture, _grpc("invalidargument")), _undecodable),
    (_localai_says(r"invalid value for 'size'"), _bad_size),  # trap 8
    (_localai_says(r"in cooldown|is stopping|is still busy"), _resting),
    (_localai_says(r"model_loading|is still loading"), _loading),
    (_localai_says(r"\bmodel .{1,256} is (loading|staging|installing|pending)\b"), _loading),  # 20
    (_localai_says(r"timed out waiting for model|load finished but the model is not"), _loading),
    (_localai_says(r"admission_rejected|max_concurrent|capacity reached"), _full),  # trap 17
    (_localai_says(r"no responders available|nats: timeout"), _node_lost),  # trap 21
    (_localai_says(r"all models busy|no healthy nodes"), _no_node),
    (_says(_MEMORY), _memory),
    (_localai_says(r"all backends returned error"), _load_failed),  # trap 2: each tried in turn
    (_grpc("unavailable"), _gone),  # trap 13
    (_localai_says(r"dial tcp .*connection refused"), _gone),
    (_grpc("canceled", "aborted"), _cancelled),
    (
        _both(_grpc("", "failedprecondition"), _says(_WRONG_MODEL)),
        _mismatch,
    ),
    (_localai_says(r"could not load model|failed to load model|backend not found"), _load_failed),
    (_localai_says(r"grpc service not ready|loading model .* on node"), _load_failed),
    (_grpc("unimplemented"), _unable),
    (_status(503), _busy),
    (_status(408, 502, 504), _gateway),
    (_always, _failed),
)
