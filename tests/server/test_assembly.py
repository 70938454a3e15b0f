"""The settings on their way into the parts."""

from __future__ import annotations

from dataclasses import fields

from inference_mcp.scheduling.state import Limits
from inference_mcp.server.assembly import limits_of
from inference_mcp.settings import load_settings

BUILT_IN = {"max_queue_bytes"}
"""What no setting changes."""


def test_every_limit_that_an_operator_sets_reaches_the_scheduler() -> None:
    """S3, S6, S8, S11, S12, S14: none is left at its default."""
    limits = limits_of(
        load_settings(
            {
                "INFERENCE_MCP_MAX_CONCURRENCY": "3",
                "INFERENCE_MCP_MODEL_CONCURRENCY": "m=2",
                "INFERENCE_MCP_MAX_RESIDENT_MODELS": "4",
                "INFERENCE_MCP_PREEMPTION": "class",
                "INFERENCE_MCP_OVERDUE_NORMAL_S": "61",
                "INFERENCE_MCP_OVERDUE_BATCH_S": "301",
                "INFERENCE_MCP_MAX_QUEUE": "7",
                "INFERENCE_MCP_MAX_ATTEMPTS": "5",
                "INFERENCE_MCP_LOAD_TIMEOUT_S": "900",
            }
        )
    )
    unset = Limits()
    same = {f.name for f in fields(Limits) if getattr(limits, f.name) == getattr(unset, f.name)}
    assert same == BUILT_IN
    assert limits.slots_of("m") == 2
    assert limits.load_timeout_s == 900.0
