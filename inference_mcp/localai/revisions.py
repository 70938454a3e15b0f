"""Which parameters LocalAI's distributed mode lets a model have (trap 19). No I/O.

There the first request ever made for a model pins its parameters: temperature, top_p,
max_tokens, seed, stop and response_format, of pictures the seed. One that differs is refused
*and unloads the model for everybody*. Who asks while it stops, a tenth of a second, makes
LocalAI refuse it to all for 15 s more. So:

- A seed that nobody asked for is left out once LocalAI is known to run distributed, or has
  refused one. The picture's seed is then not known.
- What was refused is not sent again in that form for ``KEEP_S`` seconds: it is refused here, at
  no cost to the others. A form that has worked before is not remembered, for LocalAI hashes some
  models (those of two use cases) at random.

- After a refusal, or a crash, the model is left alone for ``REST_S`` seconds.

Nothing else can be left out, for nothing else is sent that the caller did not ask for. And a
dead process is no trap there (13): LocalAI begins another one by itself. Above it is
``client``; below it are the request records and ``errors``.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TypeAlias, TypeVar

from inference_mcp.errors import BackendBusyError, BackendError, InferenceError
from inference_mcp.localai.rules import StaleRevisionError, shown
from inference_mcp.requests import ChatRequest, GenerationRequest, ImageRequest

__all__ = ["Revisions"]

_Value = TypeVar("_Value")

_Form: TypeAlias = tuple[str, str]
"""A model, and the parameters that LocalAI compares, as JSON."""


class Revisions:
    """What was learned of one LocalAI; ``clock`` is monotonic, in seconds.

    ``distributed`` is ``None`` until LocalAI has told.
    """

    KEEP_S = 300.0
    MAX_FORMS = 1000
    REST_S = 2.0
    """Seconds; a tenth was enough for a backend that stops at once."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.distributed: bool | None = None
        self._clock = clock
        self._refused: OrderedDict[_Form, float] = OrderedDict()
        self._worked: OrderedDict[_Form, None] = OrderedDict()
        self._unloadable: OrderedDict[_Form, None] = OrderedDict()
        # By model: the seed of the first picture that was ours, and those that are sent again.
        self._first_seeds: dict[str, int] = {}
        self._pinned: dict[str, int] = {}

    def fitted(self, picture: ImageRequest) -> ImageRequest:
        """The request as it is to be sent: a seed chosen here stays behind where it hurts.

        Where the first picture of all was one of ours, sent before LocalAI was known to run
        distributed, its seed is the one that is taken.
        """
        if not (picture.own_seed and self.distributed):
            return picture
        return replace(picture, seed=self._pinned.get(picture.model))

    def check(self, request: GenerationRequest) -> None:
        """Return if this may be sent.

        Raises:
            StaleRevisionError: LocalAI refused this very form a short while ago.
        """
        refused_at_s = self._refused.get(_form(request))
        if refused_at_s is None or self._clock() - refused_at_s >= self.KEEP_S:
            return
        raise _explained(request, "refused these parameters a short while ago, and would again")

    def worked(self, request: GenerationRequest) -> None:
        """LocalAI took this form."""
        if isinstance(request, ImageRequest) and request.own_seed and request.seed is not None:
            self._first_seeds.setdefault(request.model, request.seed)
        _keep(self._worked, _form(request), None, self.MAX_FORMS)

    def _may_do_without(self, picture: ImageRequest) -> bool:
        """Whether there is another form of this request to try; each is tried once."""
        first = self._first_seeds.get(picture.model)
        if picture.seed is None and first is not None and picture.model not in self._pinned:
            self._pinned[picture.model] = first
            return True
        return picture.seed is not None and picture.seed != self._pinned.get(picture.model)

    def may_load(self, model: str) -> bool:
        """Whether the model can be loaded for nobody: that is a request without parameters."""
        return (model, "") not in self._unloadable

    def load_refused(self, model: str) -> InferenceError:
        """The error for a load that was refused; requests that fit load the model by themselves."""
        self.distributed = True
        _keep(self._unloadable, (model, ""), None, self.MAX_FORMS)
        return BackendBusyError(
            "LocalAI, which runs distributed, does not load the model without parameters.",
            "It is loaded by the next request that it takes.",
            transient=True,
            not_ready=True,
            retry_after_s=self.REST_S,
        )

    def judged(self, error: BackendError, request: GenerationRequest) -> InferenceError:
        """What a failure of this request is, distributed or not."""
        if isinstance(error, StaleRevisionError):
            return self.refused(request)
        if self.distributed and error.process_dead:
            # Trap 13 is that of one machine: here LocalAI clears it away, and must not be hurried.
            error.process_dead = False
            error.retry_after_s = error.retry_after_s or self.REST_S
        return error

    def refused(self, request: GenerationRequest) -> InferenceError:
        """The error for a refusal; a picture that may do without its seed is tried again."""
        self.distributed = True
        if isinstance(request, ImageRequest) and request.own_seed and self._may_do_without(request):
            return BackendBusyError(
                "LocalAI, which runs distributed, refused the seed that was chosen here.",
                "The picture is tried again with another one, or none.",
                transient=True,
                not_ready=True,
                retry_after_s=self.REST_S,
            )
        form = _form(request)
        if form not in self._worked:
            _keep(self._refused, form, self._clock(), self.MAX_FORMS)
        error = _explained(request, "refused this request, and unloaded the model for it")
        error.retry_after_s = self.REST_S
        return error


def _keep(kept: OrderedDict[_Form, _Value], form: _Form, value: _Value, most: int) -> None:
    kept[form] = value
    kept.move_to_end(form)
    while len(kept) > most:
        kept.popitem(last=False)


def _form(request: GenerationRequest) -> _Form:
    return request.model, json.dumps(_compared(request), sort_keys=True, default=str)


def _compared(request: GenerationRequest) -> dict[str, object]:
    """What LocalAI compares of a request, by the tools' names; only what is sent."""
    found: dict[str, object] = {"seed": request.seed}
    if isinstance(request, ChatRequest):
        found |= {
            "temperature": request.temperature,
            "top_p": request.top_p,
            "max_tokens": request.max_tokens,
            "stop": request.stop or None,
            "response_schema": request.response_schema,
        }
    return {name: value for name, value in found.items() if value is not None}


def _explained(request: GenerationRequest, did: str) -> StaleRevisionError:
    asked = _compared(request)
    if asked:
        remedy = f"Leave out {' and '.join(asked)}, or ask for what that first request had."
    else:
        remedy = "Ask for what that first request had, if you know it, or use another model."
    return StaleRevisionError(
        f"LocalAI runs distributed and {did}: it takes {shown(request.model)} with the "
        "parameters of the first request that it ever got for it only.",
        f"{remedy} Later versions of LocalAI do without this.",
    )
