"""A ``tools/call`` in the log: its name, its arrival and its end.

Each call gets a ``request_id`` of three parts, as in ``5f0c2a91-12:17``: a random name of this
process, the call's number in it, and after the colon the JSON-RPC id, which is what a host's own
log shows. Processes, connections and hosts that use an id twice cannot make two calls alike, and
who searches the log for ``:17"`` finds the host's call. An id that is no number and no short
name stands as a hash, for it is the host's to choose and may hold anything.

Above is ``protocol``. Nothing here knows what a tool does.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from mcp_types import CallToolRequestParams

from inference_mcp.logs import bound, log

__all__ = ["Calls"]

_PLAIN = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_JOB_ID = re.compile(r"job-[0-9a-f]{10}")


class Calls:
    """All calls of this process, over however many connections."""

    def __init__(self) -> None:
        self._process = secrets.token_hex(4)
        self._number = 0

    @contextmanager
    def told(self, rpc_id: object, params: CallToolRequestParams) -> Iterator[str]:
        """Log the arrival and the end of a call; gives its ``request_id``.

        All lines in between bear it, and the ``job_id`` that the call names.
        """
        self._number += 1
        request_id = f"{self._process}-{self._number}:{_shown(rpc_id)}"
        began, end = time.monotonic(), "call.cancelled"
        with bound(request_id=request_id, **_job_of(params.arguments)):
            log("debug", "call.received", tool=params.name)
            try:
                yield request_id
                end = "call.answered"
            except Exception:
                end = "call.failed"
                raise
            finally:
                took_s = round(time.monotonic() - began, 3)
                log("debug", end, tool=params.name, took_s=took_s)


def _shown(rpc_id: object) -> str:
    """An id as a host's log has it, if it is one that a line may hold."""
    text = str(rpc_id)
    if _PLAIN.fullmatch(text):
        return text
    return "~" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:8]


def _job_of(arguments: Mapping[str, Any] | None) -> dict[str, str]:
    """The job that a call names, where it is an id that this server could have given."""
    job_id = (arguments or {}).get("job_id")
    if isinstance(job_id, str) and _JOB_ID.fullmatch(job_id):
        return {"job_id": job_id}
    return {}
