"""The last failures, their codes and their rates, as ``get_error_metrics`` tells them.

Pure. Above is ``metrics``. A sample holds this server's own words and sanitized parameters,
for its event holds nothing else.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from inference_mcp.observe.events import JobFinished, JobRejected, JobRetried
from inference_mcp.requests import RequestType

__all__ = ["KEPT_ERRORS", "ErrorSample", "Errors"]

KEPT_ERRORS = 100

KEPT_FAILURES = 2_000
"""For health, which counts: more than LocalAI can fail in the minutes that it looks back."""


@dataclass(frozen=True, slots=True)
class ErrorSample:
    """One failure. ``at_s`` is monotonic; ``attempt`` is 0 where no call was made: its model did
    not load, say.
    """  # noqa: D205  # one sentence

    at_s: float
    timestamp: datetime
    error: str
    message: str
    kind: RequestType
    model: str
    attempt: int
    retried: bool
    parameters: Mapping[str, Any]

    def told(self) -> dict[str, Any]:
        """As the tool shows it."""
        return {
            "timestamp": self.timestamp.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
            "error": self.error,
            "message": self.message,
            "type": self.kind.value,
            "model": self.model,
            "attempt": self.attempt,
            "retried": self.retried,
            "parameters": dict(self.parameters),
        }


class Errors:
    """The newest ``KEPT_ERRORS`` samples, and how often each code ended a request."""

    def __init__(self) -> None:
        self._samples: deque[ErrorSample] = deque(maxlen=KEPT_ERRORS)
        # Without what the queue refused: a flood of that must not hide how LocalAI fares.
        self._failures: deque[ErrorSample] = deque(maxlen=KEPT_FAILURES)
        self.codes: Counter[str] = Counter()

    def ended(self, event: JobFinished | JobRejected, code: str, attempt: int) -> None:
        """A request failed, or was refused for want of room."""
        self.codes[code] += 1
        self._keep(event, code, attempt, retried=False)

    def retried(self, event: JobRetried) -> None:
        """A try failed and is repeated; that counts in no figure."""
        self._keep(event, event.code, event.attempt, retried=True)

    def newest(self, limit: int = KEPT_ERRORS) -> list[ErrorSample]:
        """The newest first."""
        return list(self._samples)[::-1][:limit]

    def failures(self) -> Iterator[ErrorSample]:
        """The newest ``KEPT_FAILURES`` of what LocalAI was asked for, the newest first."""
        return reversed(self._failures)

    def _keep(
        self,
        event: JobFinished | JobRejected | JobRetried,
        code: str,
        attempt: int,
        *,
        retried: bool,
    ) -> None:
        sample = ErrorSample(
            event.at_s,
            event.timestamp,
            code,
            event.message,
            event.kind,
            event.model,
            attempt,
            retried,
            event.parameters,
        )
        self._samples.append(sample)
        if code != "queue_full":
            self._failures.append(sample)
