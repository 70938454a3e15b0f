"""Who runs next: a pure core that decides and a thin shell that waits.

Above it stand jobs, which ask for leases and make their calls inside them. It knows no HTTP,
no MCP, no pictures and no log; below it are only the records and the errors.

    ``lifecycle``   the states of a request and the table of transitions (S18)
    ``core``        order, slots, cancelling, counts: events with a time in, actions out
    ``estimates``   how long a type takes on a model, robust to outliers; silent until measured
    ``scheduler``   the anyio shell: admissions, leases, waiting

The rules in force, each told where it is kept:

S1  rank is (class, type); first in, first out within by admission number    ``core``
S2  each model has its own queue; costs do not grow with depth                ``core``
S3  at most so many run over all models, and so many on one model             ``core``
S4  work-conserving: no slot stays free while a request could start; no polls ``core``
S5  a higher rank overtakes every waiting lower one                           ``core``
S16 cancelling works in any state, at once, and is idempotent; a cancelled
    picture is abandoned: it keeps its model's slot while the GPU computes    ``core``
S18 one terminal state, one resolution; transitions are a table               ``lifecycle``
S19 submitted = waiting + running + completed + failed + cancelled + rejected ``core``
"""
