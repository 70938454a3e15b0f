"""What another program may import, and that nothing else is promised."""

from __future__ import annotations

from importlib import resources

import anyio
import httpx

import inference_mcp
from inference_mcp import simulator
from inference_mcp.simulator import Fault, SimModel, World, default_world, running


async def test_another_program_can_ask_the_stand_in_as_it_would_localai() -> None:
    """By the names of the package alone: models of one's own, what they saw, a failure."""
    world = World([SimModel("qwen3-8b")])
    with anyio.fail_after(5):
        async with running(world) as url, httpx.AsyncClient(base_url=url) as client:
            body = {"model": "qwen3-8b", "messages": [{"role": "user", "content": "Hello"}]}
            answer = await client.post("/v1/chat/completions", json=body)
            world.inject(Fault(kind="refuse", status=429))
            refused = await client.post("/v1/chat/completions", json=body)
    assert answer.json()["choices"][0]["message"]["content"]
    assert [event.model for event in world.events_of("predict_end")] == ["qwen3-8b"]
    assert refused.status_code == 429


def test_a_newcomer_s_world_has_a_model_for_each_type() -> None:
    """What ``--simulate`` and the demo use."""
    assert {"qwen3-8b", "llava-1.6-7b", "flux-dev", "sd15-edit"} <= set(default_world().models)


def test_what_may_be_imported_is_named() -> None:
    """All that is promised; a name more or less is a change that users must be told of."""
    assert inference_mcp.__all__ == ["__version__"]
    assert set(simulator.__all__) == {
        "Event",
        "Fault",
        "SimModel",
        "Timing",
        "World",
        "default_world",
        "running",
    }
    assert all(hasattr(simulator, name) for name in simulator.__all__)


def test_its_types_are_known_to_other_programs_checkers() -> None:
    """PEP 561: the marker is part of the package."""
    assert resources.files(inference_mcp).joinpath("py.typed").is_file()
