"""What happened, as frozen records, and the figures that follow from them.

Jobs tell; metrics, the log and telemetry listen. Above stand the surface (which shows what
``Metrics`` tells) and the listeners; below are only the request records. Nothing here knows MCP,
logging or HTTP, and nothing here holds a prompt, a path, a picture or a key.

    ``events``      the records
    ``sanitizing``  a request's parameters without its content
    ``metrics``     takes events in, and is asked
    ``history``     what happened when, in bounded memory
    ``figures``     counts, means and percentiles of a number of requests
    ``samples``     the last failures
    ``lately``      the last minutes, for health
    ``series``      the last hour in steps, for charts

Definitions, each in force wherever the figure appears:

- *submitted*: every request handed to the queue, also those refused there. Bad input is
  answered before anything is submitted, and is not counted.
- *finished* = completed + failed. *failed* excludes *rejected*: refused for want of room, at once
  or later, when a better request took the place in the queue (S12), or because it could not be
  done in time (S13). What was *cancelled* is
  neither.
- *queue time*: from submission to result, less load and processing time. A wait ends with the
  grant; what a preemption adds, the aborted call and the new wait, is queue time, and so are a
  try that failed, the pause after it and the next wait. A preemption counts when the call is
  closed, and a retry when the try has failed; a request may have several of both.
- *processing time*: from the grant to LocalAI's answer, of the last try alone; of one that failed
  to its failure.
- *load time*: what of the wait went into loading models, where it can be told apart; else it is
  part of the processing time, and ``None``.
- Averages and percentiles are over the finished requests that were granted at least once; one
  whose time was over while its model loaded is in none of them.
- *throughput*: finished requests divided by the minutes of the window.
- *success rate*: completed / (completed + failed); ``None`` before the first.
- A window holds what happened in it: a request submitted before and finished in it is one of its
  finished, not of its submitted ones. Its beginning belongs to it.

Counts and averages are exact. Percentiles are exact, too, over the newest
``history.KEPT_RECORDS`` records; over more they are within 1 % of the true value, and
``percentile_error`` says so.
"""

from inference_mcp.observe.events import (
    JobEvent,
    JobFinished,
    JobPreempted,
    JobRejected,
    JobRetried,
    JobStarted,
    JobSubmitted,
    Observer,
)
from inference_mcp.observe.figures import PERCENTILE_ERROR, percentile
from inference_mcp.observe.history import KEPT_RECORDS
from inference_mcp.observe.lately import LATELY_S, Lately, ModelLately
from inference_mcp.observe.metrics import Metrics
from inference_mcp.observe.samples import KEPT_ERRORS, ErrorSample
from inference_mcp.observe.sanitizing import sanitized

__all__ = [
    "KEPT_ERRORS",
    "KEPT_RECORDS",
    "LATELY_S",
    "PERCENTILE_ERROR",
    "ErrorSample",
    "JobEvent",
    "JobFinished",
    "JobPreempted",
    "JobRejected",
    "JobRetried",
    "JobStarted",
    "JobSubmitted",
    "Lately",
    "Metrics",
    "ModelLately",
    "Observer",
    "percentile",
    "sanitized",
]
