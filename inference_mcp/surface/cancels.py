"""Whose cancel counts: rule S17.

A host's cancel arrives twice: the SDK cancels the handler of the call, and
``notifications/cancelled`` tells the reason. Only the second tells *why*, so only the second
cancels the job. Where the host's own time limit ran out nobody wanted the work stopped, and the
job lives on without a waiter; its result can be fetched with ``get_job``. What only waited for
a job (``get_job``) is never entered here, so cancelling it stops nothing but the waiting.

Over HTTP a stream that broke is no cancel in the ``initialize`` era; in that of 2026-07-28 its
closing is the only one there is, and has no reason (``server.protocol`` tells it here).
"""

from __future__ import annotations

import re
from collections import OrderedDict
from typing import TypeAlias

from inference_mcp.job import Job
from inference_mcp.jobs import Jobs

__all__ = ["MAX_REMEMBERED", "HostCancels", "is_time_out"]

MAX_REMEMBERED = 1_000
"""Calls remembered at most: a cancel comes while its call is open, or just after."""

_Key: TypeAlias = tuple[type, object]
"""An id with its type, for in JSON-RPC 1 and "1" are two."""

_TIME_OUT = re.compile(r"timed?[ -]?out")
"""How the SDKs' clients and others put it: ``Request timed out``, ``timed out after 0.8s``,
``aborted due to timeout``."""


def is_time_out(reason: object) -> bool:
    """Whether a cancel says that the host's own time limit ran out."""
    return isinstance(reason, str) and _TIME_OUT.search(reason.lower()) is not None


class HostCancels:
    """Which job each open call submitted; one for each connection to a host."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs
        self._submitted: OrderedDict[_Key, Job] = OrderedDict()

    def submitted(self, request_id: object, job: Job) -> None:
        """The call of this JSON-RPC id has submitted a job."""
        self._submitted[_key(request_id)] = job
        while len(self._submitted) > MAX_REMEMBERED:
            self._submitted.popitem(last=False)

    def answered(self, request_id: object) -> None:
        """The call was answered: a later cancel of its id means nothing."""
        self._submitted.pop(_key(request_id), None)

    def cancelled(self, request_id: object, reason: object) -> None:
        """The host has cancelled the call of this id."""
        job = self._submitted.pop(_key(request_id), None)
        if job is not None and not is_time_out(reason):
            self._jobs.cancel(job)


def _key(request_id: object) -> _Key:
    """No two ids share one; what is no id at all (a list, say) is that of no call."""
    return (type(request_id), request_id if isinstance(request_id, str | int) else None)
