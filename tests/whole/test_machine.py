"""The whole server under random calls, cancels, faults and time: S3, S16 to S20.

The quick run is part of the suite; the long one prints its figures:

    pytest -m slow -s tests/whole/test_machine.py
"""

from __future__ import annotations

import re
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from tests.whole.machine import Machine
from tests.whole.planted import PLANTED
from tests.whole.town_machine import TownMachine
from tests.whole.world import Parts

QUICK = settings(
    max_examples=20,
    stateful_step_count=25,
    deadline=None,
    database=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
)
TOWN = settings(QUICK, max_examples=14)
"""Its worlds take three times as long."""

LONG = settings(QUICK, max_examples=2_000, stateful_step_count=60, derandomize=False)
"""Each run draws anew; a failure prints the shortest way to it."""

HUNT = settings(QUICK, max_examples=1_000, phases=[Phase.generate])


def run(machine: type[Machine | TownMachine], how: settings) -> Counter[str]:
    """What happened, summed up; the figures are printed."""
    machine.seen = Counter()
    began = time.perf_counter()
    run_state_machine_as_test(machine, settings=how)
    took_s = time.perf_counter() - began
    hours = machine.seen["virtual seconds"] / 3600
    told = ", ".join(f"{name} {count}" for name, count in sorted(machine.seen.items()))
    print(f"{told}; {hours:.1f} virtual hours in {took_s:.1f} s")  # noqa: T201  # shown with -s
    return machine.seen


def test_the_whole_server_keeps_its_word() -> None:
    """S3, S16 to S20, after each step."""
    seen = run(Machine, QUICK)
    happened = ("host cancels", "cancel_job", "told completed", "told failed", "turns of LocalAI")
    assert all(seen[what] for what in happened), seen


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_whole_server_keeps_its_word_for_long() -> None:
    """The same, two hundred times as much."""
    assert run(Machine, LONG)["worlds"] >= 2_000


AT_ONCE = {"EndsTwice", "TellsTwice", "MixesResults", "IsDeaf", "Miscounts"}
"""Found in the first worlds; the others take seconds each."""


def _case(parts: Parts, shows: str) -> object:
    name = re.findall(r"_(\w+)'", str(parts))[0]
    return pytest.param(parts, shows, id=name, marks=[] if name in AT_ONCE else [pytest.mark.slow])


@pytest.mark.timeout(300)
@pytest.mark.parametrize(("parts", "shows"), [_case(*each) for each in PLANTED])
def test_the_machine_finds_a_planted_fault(parts: Parts, shows: str) -> None:
    """What such a server may get wrong shows, by its own name."""
    faulty = type("Faulty", (Machine,), {"parts": parts})
    with pytest.raises(AssertionError, match=shows):
        run(faulty, HUNT)


# --- several servers, one queue -----------------------------------------------------------------


def test_servers_that_share_a_queue_keep_their_word() -> None:
    """S3, S16 to S19, S21 to S23, after each step."""
    seen = run(TownMachine, TOWN)
    happened = ("host cancels", "cancel_job", "answers", "deaths", "deaths of the arbiter")
    assert all(seen[what] for what in happened), seen
