"""Keeps one catalogue for a while, and asks LocalAI for the next one only once at a time.

It knows no HTTP: the client gives it a function that fetches. Above it is ``client``; below
it is ``catalogue``. A failed fetch is never covered by an old catalogue: who asks hears of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio

from inference_mcp.errors import BackendError, ModelNotFoundError, ModelUnsuitableError
from inference_mcp.localai.catalogue import Catalogue
from inference_mcp.requests import RequestType

__all__ = ["CatalogueCache"]


class CatalogueCache:
    """``fetch`` raises ``BackendError``; ``clock`` is monotonic, in seconds."""

    KEEP_S = 30.0
    """LocalAI learns of some abilities only after a model's first load, so not for long."""

    MISS_EVERY_S = 5.0
    """An unknown name may be a model installed just now, or a caller who guesses names."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Catalogue]], clock: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._lock = anyio.Lock()
        # Fetches are numbered: the newest that began, that ended, and the oldest that still counts.
        self._begun = 0
        self._ended = 0
        self._wanted = 1
        self._last: Catalogue | BackendError | None = None
        self._last_at_s = 0.0

    async def get(self, *, refresh: bool = False) -> Catalogue:
        """The catalogue, at most ``KEEP_S`` old; with ``refresh`` asked for after this call.

        Raises:
            BackendError: LocalAI could not be asked.
        """
        if not refresh and isinstance(self._last, Catalogue) and self._counts():
            return self._last
        wanted = max(self._wanted, 1 + (self._begun if refresh else self._ended))
        async with self._lock:
            # Who waited here while somebody else asked takes that answer, or that failure.
            if self._ended < wanted:
                await self._ask()
        if isinstance(self._last, BackendError):
            raise self._last
        assert self._last is not None  # noqa: S101 - a round has ended, so there is one
        return self._last

    async def choose(self, kind: RequestType, name: str | None) -> str:
        """``Catalogue.choose``, with one fresh look where a model is missing or unsuitable.

        Raises:
            ModelNotFoundError, ModelUnsuitableError: as ``Catalogue.choose``.
            BackendError: LocalAI could not be asked.
        """
        try:
            return (await self.get()).choose(kind, name)
        except (ModelNotFoundError, ModelUnsuitableError):
            if self._age_s() < self.MISS_EVERY_S:
                raise
        return (await self.get(refresh=True)).choose(kind, name)

    def expire(self) -> None:
        """Ask anew when the catalogue is wanted next; one that is on its way is too old already."""
        self._wanted = self._begun + 1

    def _counts(self) -> bool:
        return self._ended >= self._wanted and self._age_s() < self.KEEP_S

    def _age_s(self) -> float:
        return self._clock() - self._last_at_s

    async def _ask(self) -> None:
        self._begun += 1
        number = self._begun
        try:
            self._last = await self._fetch()
        except BackendError as error:
            self._last = error
        # Not reached by a cancelled fetch: the next waiter then asks itself.
        self._last_at_s = self._clock()
        self._ended = number
