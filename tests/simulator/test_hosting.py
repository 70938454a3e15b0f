"""Which of the two hosts a world has, and what of a request changes a configuration."""

from __future__ import annotations

from typing import Any

import pytest

from inference_mcp.simulator import backends, nodes
from inference_mcp.simulator.hosting import host_of, merged_by_chat, merged_by_image
from inference_mcp.simulator.world import World


def test_the_world_chooses_its_host() -> None:
    """One machine unless it says otherwise."""
    assert host_of(World([])) is backends
    assert host_of(World([], distributed=True)) is nodes


@pytest.mark.parametrize(
    ("body", "merged"),
    [
        ({"model": "m", "messages": [], "stream": True, "top_k": 4, "n": 2}, {}),
        ({"temperature": 0, "seed": 0}, {"temperature": 0, "seed": 0}),
        ({"temperature": None, "stop": [], "frequency_penalty": 0}, {}),
        ({"max_tokens": 5}, {"max_tokens": 5}),
        ({"max_tokens": 5, "max_completion_tokens": 6}, {"max_tokens": 6}),
        ({"stop": "x", "reasoning_effort": "low"}, {"stop": "x", "reasoning_effort": "low"}),
    ],
)
def test_a_chat_merges_eight_fields(body: dict[str, Any], merged: dict[str, Any]) -> None:
    """Trap 19: what is not sent, or sent as nothing, is not merged."""
    assert merged_by_chat(body) == merged


def test_a_picture_merges_its_seed() -> None:
    """Trap 19: and nothing else."""
    assert merged_by_image({"seed": 5, "step": 4, "response_format": "b64_json"}) == {"seed": 5}
    assert merged_by_image({"seed": None}) == {}
