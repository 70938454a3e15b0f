"""Every failure that this program expects, as one tree.

The children are grouped by who can act on them. Each leaf has the ``code`` that a host
sees and carries its facts as attributes; none knows how MCP or HTTP writes it down.

    InferenceError
    ├── CallerError               the model that called can act: change the call
    │   ├── InvalidInputError         invalid_input
    │   ├── ImageRejectedError        image_rejected
    │   ├── ModelNotFoundError        model_not_found     .model, .nearest
    │   ├── ModelUnsuitableError      model_unsuitable    .model
    │   └── JobNotFoundError          job_not_found
    ├── BackendError              LocalAI or its operator can act   .transient, .retry_after_s
    │   ├── BackendUnreachableError   backend_unreachable
    │   ├── BackendAuthError          backend_auth
    │   ├── BackendBusyError          backend_busy
    │   ├── BackendFailedError        backend_error
    │   └── BadResultError            bad_result
    └── QueueError                the queue's own decision: call again later, or not at all
        ├── QueueFullError            queue_full          .depth, .wait_s
        ├── DeadlineExceededError     deadline_exceeded
        ├── JobCancelledError         cancelled
        └── ShuttingDownError         shutting_down

``SettingsError``, ``StartError`` and ``HostError`` stand apart: they are for the person who
started the program, before anything is served.
"""

from __future__ import annotations

from pathlib import PurePath
from typing import ClassVar

__all__ = [
    "BackendAuthError",
    "BackendBusyError",
    "BackendError",
    "BackendFailedError",
    "BackendUnreachableError",
    "BadResultError",
    "CallerError",
    "DeadlineExceededError",
    "HostError",
    "ImageRejectedError",
    "InferenceError",
    "InvalidInputError",
    "JobCancelledError",
    "JobNotFoundError",
    "ModelNotFoundError",
    "ModelUnsuitableError",
    "QueueError",
    "QueueFullError",
    "SettingsError",
    "ShuttingDownError",
    "StartError",
    "place",
]


class InferenceError(Exception):
    """The root: what happened, and what to do next, each as one or more whole sentences.

    ``what`` never holds text that came from LocalAI, for that may quote the prompt or name
    paths of the server's machine (trap 22). ``what`` may hold the caller's own words back
    to the caller; ``sample`` is the same without them, fit for logs and error statistics.
    """

    code: ClassVar[str] = "error"

    def __init__(self, what: str, next_step: str = "", *, sample: str | None = None) -> None:
        super().__init__(what)
        self.what = what
        self.next_step = next_step
        self.sample = what if sample is None else sample


class CallerError(InferenceError):
    """The call itself is wrong; the same call will fail again."""


class InvalidInputError(CallerError):
    """An argument is missing, of the wrong type, out of range or misspelled."""

    code = "invalid_input"


class ImageRejectedError(CallerError):
    """A picture that was named cannot be used as input."""

    code = "image_rejected"


class ModelNotFoundError(CallerError):
    """LocalAI lists no model of exactly this name, or none for this type of request."""

    code = "model_not_found"

    def __init__(
        self,
        what: str,
        next_step: str = "",
        *,
        model: str | None,
        nearest: tuple[str, ...] = (),
        sample: str | None = None,
    ) -> None:
        super().__init__(what, next_step, sample=sample)
        self.model = model
        self.nearest = nearest


class ModelUnsuitableError(CallerError):
    """The model exists but is disabled, or is known not to do this type of request."""

    code = "model_unsuitable"

    def __init__(self, what: str, next_step: str = "", *, model: str) -> None:
        super().__init__(what, next_step)
        self.model = model


class JobNotFoundError(CallerError):
    """No job of this id is known: it never was, or its result's time is over."""

    code = "job_not_found"


class BackendError(InferenceError):
    """LocalAI did not do what was asked.

    ``transient`` says whether the same request may succeed later; it is decided where the
    failure is first seen and nowhere else. ``retry_after_s`` is how long the model is to be
    left alone, in seconds, where LocalAI told that or it is known. ``process_dead``: the
    model's backend process is gone, and LocalAI goes on sending requests to it (trap 13).
    ``answer_lost``: the connection broke after the request was sent, so LocalAI may compute on.
    ``not_ready``: the model is loading, stopping or resting, so that waiting for it is no try;
    ``loading`` is the first of these: it is on its way into memory (trap 20).
    """

    def __init__(
        self,
        what: str,
        next_step: str = "",
        *,
        transient: bool = False,
        retry_after_s: float | None = None,
        process_dead: bool = False,
        answer_lost: bool = False,
        not_ready: bool = False,
        loading: bool = False,
        sample: str | None = None,
    ) -> None:
        super().__init__(what, next_step, sample=sample)
        self.transient = transient
        self.retry_after_s = retry_after_s
        self.process_dead = process_dead
        self.answer_lost = answer_lost
        self.not_ready = not_ready
        self.loading = loading


class BackendUnreachableError(BackendError):
    """No connection, or one that broke before the answer was whole."""

    code = "backend_unreachable"


class BackendAuthError(BackendError):
    """LocalAI refused the key, or the key may not do this (401, 403)."""

    code = "backend_auth"


class BackendBusyError(BackendError):
    """LocalAI is there but will not take this request now (429, 503, cooldown, loading)."""

    code = "backend_busy"


class BackendFailedError(BackendError):
    """LocalAI or its backend process failed on this request."""

    code = "backend_error"


class BadResultError(BackendError):
    """LocalAI said success, but what it sent cannot be used (trap 7, trap 16)."""

    code = "bad_result"


class QueueError(InferenceError):
    """The scheduler ended the request without LocalAI's fault."""


class QueueFullError(QueueError):
    """No room among the waiting requests, or a better one took the place.

    ``depth`` counts the requests waiting; ``wait_s`` is the estimated wait in seconds,
    ``None`` until something was measured.
    """

    code = "queue_full"

    def __init__(
        self, what: str, next_step: str = "", *, depth: int, wait_s: float | None = None
    ) -> None:
        super().__init__(what, next_step)
        self.depth = depth
        self.wait_s = wait_s


class DeadlineExceededError(QueueError):
    """The request's time, counted from its submission, is over."""

    code = "deadline_exceeded"


class JobCancelledError(QueueError):
    """Somebody cancelled the job."""

    code = "cancelled"


class ShuttingDownError(QueueError):
    """This process is ending and takes nothing new."""

    code = "shutting_down"


class StartError(Exception):
    """The program cannot start here: a port, a file. One sentence, or two."""


class HostError(Exception):
    """A host's settings cannot be told or changed. One sentence, or two."""


class SettingsError(Exception):
    """A setting is unknown or unusable; ``str()`` is one line that names the variable."""


def place(error: BaseException) -> str:
    """An exception as its type and where it was raised; never its text (it may quote)."""
    last = error.__traceback__
    if last is None:
        return type(error).__name__
    while last.tb_next is not None:  # by hand, for ``traceback`` reads the sources
        last = last.tb_next
    name = PurePath(last.tb_frame.f_code.co_filename).name
    return f"{type(error).__name__} at {name}:{last.tb_lineno}"
