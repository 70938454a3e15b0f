"""What LocalAI's distributed mode refused (trap 19): left out, remembered, explained."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from inference_mcp.errors import BackendBusyError, BackendFailedError
from inference_mcp.localai.revisions import Revisions
from inference_mcp.localai.rules import StaleRevisionError
from tests.localai.scripted import chat, image


class Clock:
    """A clock that stands still."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_seed_chosen_here_is_sent_until_localai_is_known_to_run_distributed() -> None:
    """Trap 19: it is worth having where it does no harm."""
    revisions = Revisions(Clock())
    asked, own = image(seed=7), image(seed=7, own_seed=True)
    for distributed in (None, False):
        revisions.distributed = distributed
        assert revisions.fitted(own) is own
    revisions.distributed = True
    assert revisions.fitted(own).seed is None
    assert revisions.fitted(asked).seed == 7


def test_a_picture_whose_own_seed_was_refused_is_tried_without() -> None:
    """Trap 19: once, for from then on none is sent; to wait for the model is no try (S14)."""
    revisions = Revisions(Clock())
    own = image(seed=7, own_seed=True)
    error = revisions.refused(own)
    assert isinstance(error, BackendBusyError)
    assert (error.transient, error.not_ready) == (True, True)
    bare = revisions.fitted(own)
    assert bare.seed is None
    revisions.check(bare)
    assert isinstance(revisions.refused(bare), StaleRevisionError)


@pytest.mark.parametrize(
    ("asked", "named"),
    [
        ({"temperature": 0.2, "max_tokens": 9}, "Leave out temperature and max_tokens,"),
        ({"stop": ("x",)}, "Leave out stop,"),
        ({"response_schema": {"type": "object"}}, "Leave out response_schema,"),
        ({}, "what that first request had, if you know it"),
    ],
)
def test_a_refusal_names_what_can_be_left_out(asked: dict[str, Any], named: str) -> None:
    """Trap 19: what happened and what to do, for the model and for the operator."""
    error = Revisions(Clock()).refused(chat(model="qwen", **asked))
    assert isinstance(error, StaleRevisionError)
    assert not error.transient
    assert '"qwen"' in error.what
    assert named in error.next_step


def test_what_was_refused_is_not_sent_again_in_that_form() -> None:
    """Trap 19: each such request would unload the model for everybody."""
    clock = Clock()
    revisions = Revisions(clock)
    warm = chat(temperature=0.2)
    revisions.refused(warm)
    with pytest.raises(StaleRevisionError):
        revisions.check(dataclasses.replace(warm, messages=chat("other words").messages))
    for other in (chat(), chat(temperature=0.3), chat(temperature=0.2, model="other")):
        revisions.check(other)
    clock.now = Revisions.KEEP_S
    revisions.check(warm)


def test_a_form_that_has_worked_is_not_held_against_anybody() -> None:
    """Trap 19: LocalAI hashes models of two use cases at random."""
    revisions = Revisions(Clock())
    revisions.worked(chat(temperature=0.2))
    revisions.refused(chat(temperature=0.2))
    revisions.check(chat(temperature=0.2))


class Forgetful(Revisions):
    """One with room for two."""

    MAX_FORMS = 2


def test_only_so_many_refusals_are_kept() -> None:
    """A caller who guesses must not fill the memory."""
    revisions = Forgetful(Clock())
    for seed in (1, 2, 3):
        revisions.refused(chat(seed=seed))
    revisions.check(chat(seed=1))
    for seed in (2, 3):
        with pytest.raises(StaleRevisionError):
            revisions.check(chat(seed=seed))


@pytest.mark.parametrize(("distributed", "dead"), [(True, False), (False, True), (None, True)])
def test_a_dead_process_needs_no_repair_where_localai_runs_distributed(
    distributed: bool | None, dead: bool
) -> None:
    """Trap 13 is that of one machine: distributed, a shutdown would stop the other replicas."""
    revisions = Revisions(Clock())
    revisions.distributed = distributed
    died = BackendFailedError("It died.", transient=True, process_dead=True)
    error = revisions.judged(died, chat())
    assert error is died
    assert (died.transient, died.process_dead) == (True, dead)
    assert died.retry_after_s == (None if dead else Revisions.REST_S)
