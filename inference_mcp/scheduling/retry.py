"""When to try again: backoff, the retry budget, the circuit breaker. Pure.

No clock and no randomness: times and the jitter are arguments. ``core`` asks; nothing here
knows queues or LocalAI.

S14 Full jitter (Brooker, *Exponential Backoff and Jitter*, 2015): a delay is drawn evenly from
zero to a bound that doubles from ``BACKOFF_BASE_S`` to ``BACKOFF_CAP_S``, and is never below
what LocalAI asked for. Retries are limited to a share of what was started lately, so that a
LocalAI that fails at everything is not asked three times as often as one that works.

S15 A circuit opens after ``FAILURES_TO_OPEN`` transient failures in a row, for
``OPEN_BASE_S``, doubling to ``OPEN_CAP_S``; when that time is over one request goes through as
a probe, and its end closes the circuit or opens it for longer.
"""

from __future__ import annotations

from collections import deque

__all__ = [
    "BACKOFF_BASE_S",
    "BACKOFF_CAP_S",
    "BUDGET_FLOOR",
    "BUDGET_SHARE",
    "BUDGET_WINDOW_S",
    "FAILURES_TO_OPEN",
    "OPEN_BASE_S",
    "OPEN_CAP_S",
    "Circuit",
    "RetryBudget",
    "backoff_s",
]

BACKOFF_BASE_S = 0.5
BACKOFF_CAP_S = 30.0

BUDGET_WINDOW_S = 60.0
BUDGET_SHARE = 0.2
BUDGET_FLOOR = 3

FAILURES_TO_OPEN = 5
OPEN_BASE_S = 10.0
OPEN_CAP_S = 300.0


def backoff_s(attempt: int, jitter: float, retry_after_s: float | None = None) -> float:
    """Seconds to wait after the ``attempt``-th try (1 for the first); ``jitter`` is 0 to 1."""
    bound = min(BACKOFF_CAP_S, BACKOFF_BASE_S * 2.0 ** min(attempt - 1, 30))
    return max(retry_after_s or 0.0, jitter * bound)


class RetryBudget:
    """At most a share of the requests started in the last minute may be retries."""

    def __init__(self) -> None:
        self._starts: deque[float] = deque()
        self._retries: deque[float] = deque()

    def started(self, now: float) -> None:
        """A request made a try."""
        self._starts.append(now)
        self._forget(self._starts, now)

    def spend(self, now: float) -> bool:
        """Take one retry from the budget; ``False`` if there is none left."""
        self._forget(self._starts, now)
        self._forget(self._retries, now)
        if len(self._retries) + 1 > BUDGET_SHARE * len(self._starts) + BUDGET_FLOOR:
            return False
        self._retries.append(now)
        return True

    @staticmethod
    def _forget(times: deque[float], now: float) -> None:
        while times and times[0] <= now - BUDGET_WINDOW_S:
            times.popleft()


class Circuit:
    """One model's breaker: closed, open until a time, or letting one probe through."""

    def __init__(self) -> None:
        self.failures_in_a_row = 0
        self.open_until: float | None = None
        self._open_s = OPEN_BASE_S
        self._probe: str | None = None

    def state(self, now: float) -> str:
        """``closed``, ``open`` or ``half-open``."""
        if self.open_until is None:
            return "closed"
        return "open" if now < self.open_until else "half-open"

    def admits(self, now: float) -> bool:
        """Whether a request may start now; half-open admits one at a time."""
        return self.open_until is None or (now >= self.open_until and self._probe is None)

    def started(self, id_: str) -> None:
        """A request that was admitted started; half-open, it is the probe."""
        if self.open_until is not None:
            self._probe = id_

    def succeeded(self) -> bool:
        """A request ended well, or not by the model's fault; whether that closed it."""
        closed = self.open_until is not None
        self.failures_in_a_row = 0
        self.open_until = None
        self._open_s = OPEN_BASE_S
        self._probe = None
        return closed

    def failed(self, id_: str | None, now: float) -> float | None:
        """A request failed transiently; for how many seconds that opened it, if it did.

        ``id_`` is ``None`` for a load that was nobody's try.

        While a probe is out, it alone tells how the model is; and what was under way as the
        circuit opened tells nothing new.
        """
        state = self.state(now)
        if state == "open" or (self._probe is not None and id_ not in (None, self._probe)):
            return None
        self.failures_in_a_row += 1
        if state == "half-open":
            self._open_s = min(OPEN_CAP_S, self._open_s * 2)
        elif self.failures_in_a_row < FAILURES_TO_OPEN:
            return None
        self._probe = None
        self.open_until = now + self._open_s
        return self._open_s

    def gave_up(self, id_: str) -> None:
        """A request was cancelled or aborted: if it was the probe, the next one is."""
        if self._probe == id_:
            self._probe = None
