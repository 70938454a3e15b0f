"""What the page makes of one look at the queue after another; its script alone, run by Node."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import inference_mcp.view.page
from tests.npm import node

PARTS = Path(inference_mcp.view.page.__file__).parent / "parts"

LOOKING = """
const seen = new History();
for (const [now, queue] of %s) seen.look(queue, now);
console.log(JSON.stringify({ runs: seen.runs, moments: seen.moments }));
"""

JOB = {"job_id": "job-a", "type": "txt2txt", "model": "qwen3-8b"}


def looked(*looks: tuple[float, dict[str, Any]]) -> dict[str, Any]:
    """What is known after these looks, each with its second on the page's clock."""
    parts = [(PARTS / name).read_text(encoding="utf-8") for name in ("text.js", "history.js")]
    told = json.dumps([[at_s * 1000, queue] for at_s, queue in looks])
    done = node("--input-type=module", "-e", "\n".join([*parts, LOOKING % told]))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def runs(for_s: float, job_id: str = "job-a") -> dict[str, Any]:
    """A running request, which the server has counted so long."""
    return {**JOB, "job_id": job_id, "running_s": for_s}


def test_a_clock_that_jumps_preempts_nobody() -> None:
    """A machine that slept: the page's clock ran on, and the server's count did not."""
    found = looked((100, {"running": [runs(10)]}), (3_700, {"running": [runs(12)]}))
    assert found["moments"] == []
    (run,) = found["runs"]
    assert (run["start"], run["end"]) == (3_688_000, None)


def test_what_began_anew_between_two_looks_has_made_room() -> None:
    """The server counts from nothing again. Where nothing is preempted, it was another try."""
    queues = {"running": [runs(10)]}, {"running": [runs(0.5)]}
    found = looked((100, queues[0]), (102, queues[1]))
    assert [run["state"] for run in found["runs"]] == ["preempted", ""]
    assert [run["end"] for run in found["runs"]] == [101_500, None]
    off = {"limits": {"preemption": "off"}}
    found = looked((100, queues[0] | off), (102, queues[1] | off))
    assert [run["state"] for run in found["runs"]] == ["retrying", ""]


def test_how_another_program_s_request_ended_is_not_made_up() -> None:
    """Nobody tells it; nor is it drawn over the time in which nobody looked."""
    (run,) = looked((100, {"running": [runs(10)]}), (300, {}))["runs"]
    assert (run["state"], run["end"]) == ("ended", 100_000)


def test_an_end_that_is_told_is_taken_as_it_is() -> None:
    """Of this program's own jobs; by the server's clock, which need not be the page's."""
    ended = {"job_id": "job-a", "state": "failed", "finished": "2026-01-01T00:00:03Z"}
    queue = {"recent": [ended], "timestamp": "2026-01-01T00:00:04Z"}
    (run,) = looked((100, {"running": [runs(10)]}), (102, queue))["runs"]
    assert (run["state"], run["end"]) == ("failed", 101_000)


def test_moments_are_told_apart_and_forgotten() -> None:
    """Two of the same model in the same look too, however many there were before."""
    both = [runs(1, job_id) for job_id in ("job-a", "job-b")]
    states = [(at, {"slots": {"m": {"state": f"{at}"}}}) for at in range(12)]
    waiting = [{**JOB, "job_id": each["job_id"]} for each in both]
    looks: list[tuple[float, dict[str, Any]]]
    looks = [*states, (20, {"running": both}), (22, {"waiting": waiting})]
    moments = looked(*looks)["moments"]
    assert [each["after"] for each in moments[:2]] == ["made room for a better one"] * 2
    assert len({each["key"] for each in moments}) == len(moments) == 8
    assert looked(*looks, (600, {}))["moments"] == []
