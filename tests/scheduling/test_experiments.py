"""The swap experiments, asserted: what the rules are worth where models must be exchanged.

The limits are those that the design sets; ``python -m tests.benchmarks.swaps`` prints the
figures themselves, beside the rules in use elsewhere.
"""

from __future__ import annotations

import pytest

from inference_mcp.requests import Priority, RequestType
from tests.scheduling.experiments import (
    BURST_SEEDS,
    MIXED_SEEDS,
    Outcome,
    Rule,
    burst,
    mixed,
    run_ours,
    run_rule,
)

CHAT, DRAW, LOOK = RequestType.TXT2TXT, RequestType.TXT2IMG, RequestType.IMG2TXT
SCALES = (1.0, 1.3, 1.5)
QUICK_AND_FULL = [
    pytest.param(seed, marks=[pytest.mark.slow] if seed else []) for seed in MIXED_SEEDS
]


def burst_by_rule(rule: Rule) -> Outcome:
    """All bursts under a rule that is not ours."""
    total = Outcome()
    for seed in BURST_SEEDS:
        total.absorb(run_rule(burst(seed), rule))
    return total


def burst_by_ours(chat: Priority) -> Outcome:
    """All bursts under ours, preemption off."""
    total = Outcome()
    for seed in BURST_SEEDS:
        total.absorb(run_ours(burst(seed, chat)))
    return total


# --- the yardstick ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rule", "chat_p95_s", "pictures_mean_s"),
    [
        ("first come first served", 264, 153),
        ("drain each model", 264, 153),
        ("strict type", 24, 294),
    ],
)
def test_the_rules_to_measure_against_give_their_known_figures(
    rule: Rule, chat_p95_s: int, pictures_mean_s: int
) -> None:
    """The experiment is the one that the limits were set in."""
    total = burst_by_rule(rule)
    assert total.p95_s(CHAT) == pytest.approx(chat_p95_s, rel=0.02)
    assert total.mean_s(DRAW) == pytest.approx(pictures_mean_s, rel=0.02)


# --- one resident model -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("chat", "chat_p95_s", "times"), [(Priority.NORMAL, 45.0, 1.6), (Priority.CRITICAL, 33.0, 1.7)]
)
def test_a_burst_of_pictures_neither_holds_up_chat_nor_starves(
    chat: Priority, chat_p95_s: float, times: float
) -> None:
    """S8, S9, S10: chats wait for one residency, pictures little more than in turn."""
    ours, in_turn = burst_by_ours(chat), burst_by_rule("first come first served")
    assert ours.p95_s(CHAT, chat) <= chat_p95_s
    assert ours.mean_s(DRAW) <= times * in_turn.mean_s(DRAW)


@pytest.mark.parametrize("seed", QUICK_AND_FULL)
@pytest.mark.parametrize(("scale", "chat_p95_s"), [(1.0, 35.0), (1.3, 50.0), (1.5, 55.0)])
def test_a_mixed_load_stays_stable(seed: int, scale: float, chat_p95_s: float) -> None:
    """S8, S9: a day of it; chats stay quick, and no type's queue grows with the day."""
    ours = run_ours(mixed(seed, scale))
    assert ours.p95_s(CHAT) <= chat_p95_s
    # What has come in is worked off in less than a fiftieth of the time that it took to come.
    assert ours.drained_s < 2_000.0
    assert ours.mean_s(DRAW) < 1_000.0
    assert ours.mean_s(LOOK) < 1_000.0
    assert ours.mean_s(CHAT, Priority.BATCH) < 1_000.0


def test_the_highest_of_these_loads_is_too_much_in_turn() -> None:
    """S9: first come first served swaps it to death, which shows what the stays are for."""
    in_turn = run_rule(mixed(0, 1.5), "first come first served")
    assert in_turn.drained_s > 10_000.0


# --- all models resident ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", QUICK_AND_FULL)
@pytest.mark.parametrize("scale", SCALES)
def test_preemption_halves_the_chats_wait_for_little_waste(seed: int, scale: float) -> None:
    """S6, S7: less than half of the wait without, at most 3 % thrown away, two at LocalAI."""
    arrivals = mixed(seed, scale)
    without = run_ours(arrivals, resident=0)
    with_it = run_ours(arrivals, resident=0, preemption="type")
    assert with_it.mean_s(CHAT) < 0.5 * without.mean_s(CHAT)
    assert 0.0 < with_it.wasted_share <= 0.03
    assert with_it.most_at_once <= 2
    assert without.wasted_s == 0.0
    assert without.most_at_once == 1
