"""Who runs next: a pure core that decides and a thin shell that waits.

Above it stand jobs, which ask for leases and make their calls inside them. It knows no HTTP,
no MCP, no pictures and no log; below it are only the records and the errors.

The shell (anyio):
    ``protocols``   what a job sees: ``Scheduler``, ``Admission``, ``Lease``
    ``scheduler``   performs the core's actions: wakes, loads, repairs, the one timer
    ``admission``   one job's waits and leases, wherever the queue is kept

The core (pure; time and chance are arguments):
    ``succession``  the events of a queue that several processes share
    ``core``        the events: what happened in, what to do about it out
    ``memory``      the events of models: loads, limits, what is forgotten
    ``ledger``      the bookkeeping that events are made of
    ``decisions``   who starts next, where, and in whose stead
    ``giving_way``  who gives way to a better request, and who is protected
    ``residency``   which models may be in memory, stay, and leave
    ``intake``      who may wait at all
    ``verdicts``    why a request's time was over, in words
    ``queues``      one model's queue
    ``retry``       backoff, budget, circuit breaker
    ``estimates``   how long things take, from what was measured
    ``lifecycle``   the states of a request and the table of transitions
    ``world``, ``state``, ``steps``   the records

Where each rule is kept:

S1  rank is (class, type), first in first out within          ``requests``, ``queues``
S2  a queue a model; costs do not grow with depth             ``queues``
S3  places, slots, resident models                            ``decisions``, ``residency``
S4  work-conserving, no polling                               ``decisions``, ``scheduler``
S5  a higher rank overtakes all that wait                     ``decisions``
S6  taking a place: abort or lend, and repay                  ``giving_way``, ``decisions``
S7  who is protected from an abort                            ``giving_way``
S8  turns for what is overdue                                 ``decisions``
S9  a loaded model stays a while                              ``residency``
S10 whose model comes next, and which leaves                  ``residency``, ``decisions``
S11 loads belong to the scheduler                             ``decisions``, ``scheduler``
S12 a bounded queue, and who is displaced                     ``intake``
S13 deadlines, and what is refused at once                    ``core``, ``intake``
S14 retries: backoff, budget                                  ``retry``, ``core``
S15 circuits and repairs                                      ``retry``, ``core``
S16 cancelling in any state; abandoned pictures               ``core``, ``ledger``
S18 one terminal state, by a table                            ``lifecycle``
S19 the balance of counts                                     ``steps``, ``core``

S22 who leaves takes what waits along                         ``succession``
S23 a successor counts what was held                          ``succession``

S17 (whose cancel counts) is kept by ``surface.tools``, S20 (the end of the process) by
``server``, S21 to S23 beside what stands here by ``sharing``.
"""
