"""Keeps one catalogue for a while, and asks LocalAI for the next one only once at a time.

It knows no HTTP: the client gives it a function that fetches. Above it is ``client``; below
it is ``catalogue``. Who asks for the catalogue hears of a failed fetch; who only chooses a model
goes by the last one, for the queue waits out what passes.
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

    GOOD_S = 600.0
    """How long an old catalogue may serve to choose a model while LocalAI cannot be asked."""

    MISS_EVERY_S = 5.0
    """An unknown name may be a model installed just now, or a caller who guesses names."""

    def __init__(
        self, fetch: Callable[[], Awaitable[Catalogue]], clock: Callable[[], float]
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        self._round: anyio.Event | None = None  # set when the fetch under way ends
        # Fetches are numbered: the newest that began, that ended, and the oldest that still counts.
        self._begun = 0
        self._ended = 0
        self._wanted = 1
        self._last: Catalogue | BackendError | None = None
        self._good: Catalogue | None = None
        self._good_at_s = 0.0
        self._last_at_s = 0.0

    async def get(self, *, refresh: bool = False) -> Catalogue:
        """The catalogue, at most ``KEEP_S`` old; with ``refresh`` asked for after this call.

        Raises:
            BackendError: LocalAI could not be asked.
        """
        if not refresh and isinstance(self._last, Catalogue) and self._counts():
            return self._last
        wanted = max(self._wanted, 1 + (self._begun if refresh else self._ended))
        while self._ended < wanted:  # who waits while somebody else asks takes that answer
            if self._round is not None:
                await self._round.wait()
            else:
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
            return (await self._known()).choose(kind, name)
        except (ModelNotFoundError, ModelUnsuitableError):
            if self._age_s() < self.MISS_EVERY_S:
                raise
        return (await self._known(refresh=True)).choose(kind, name)

    async def lists(self, model: str) -> bool:
        """Whether a model is still there, as far as anybody knows; asks where that is old."""
        if self._good is None:
            return True
        try:
            return (await self._known()).lists(model)
        except BackendError:
            return True

    async def _known(self, *, refresh: bool = False) -> Catalogue:
        """The catalogue; where LocalAI cannot tell just now, the last one: what joins the queue
        waits for LocalAI there.
        """  # noqa: D205  # one sentence
        try:
            return await self.get(refresh=refresh)
        except BackendError as error:
            age_s = self._clock() - self._good_at_s
            if not error.transient or self._good is None or age_s > self.GOOD_S:
                raise
            return self._good

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
        self._round = anyio.Event()
        try:
            self._last = self._good = await self._fetch()
            self._good_at_s = self._clock()
        except BackendError as error:
            self._last = error
        finally:
            self._round.set()
            self._round = None
        # Not reached by a cancelled fetch: the next waiter then asks itself.
        self._last_at_s = self._clock()
        self._ended = number
