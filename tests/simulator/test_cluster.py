"""The cluster's records by themselves: statuses, workers, what is forgotten when."""

from __future__ import annotations

import math
import time

from inference_mcp.simulator.cluster import Cluster, LoadJob, Stop
from inference_mcp.simulator.wire import Refusal


def test_a_status_has_localais_keys() -> None:
    """The node where there is one, bytes while they move, seconds where they are known."""
    job = LoadJob("m")
    keys = ["model", "state", "progress", "bytes_sent", "total_bytes", "file_index", "total_files"]
    assert list(job.status()) == keys
    job.worker = Cluster(1).workers[0]
    job.state, job.sent_bytes, job.total_bytes = "staging", 25, 100
    job.staging_since_s = time.monotonic() - 10
    status = job.status()
    assert {"node", "eta_seconds"} == status.keys() - set(keys)
    assert (status["progress"], status["file_index"], status["total_files"]) == (25, 1, 1)
    assert 29 <= status["eta_seconds"] <= 31
    job.state = "loading"
    assert job.status()["bytes_sent"] == 0


def test_a_failed_job_names_no_node_and_is_kept_for_its_time() -> None:
    """``failed`` without a reason; then there is no load."""
    cluster = Cluster(1)
    job = cluster.jobs["m"] = LoadJob("m", worker=cluster.workers[0])
    assert cluster.job_of("m") is job
    job.fail(Refusal(500, "no"), math.inf)
    assert cluster.job_of("m") is job
    assert job.status()["state"] == "failed"
    assert "node" not in job.status()
    job.kept_until_s = 0
    assert cluster.job_of("m") is None
    assert cluster.jobs == {}


def test_workers_have_names_and_ids_of_their_own() -> None:
    """A new one never takes the name of one that is there."""
    cluster = Cluster(2)
    assert [worker.name for worker in cluster.workers] == ["worker-1", "worker-2"]
    cluster.workers[0].lost_until_s = 0.001
    cluster.drop_the_lost()
    assert cluster.add_worker().name == "worker-3"
    assert len({worker.id for worker in cluster.workers}) == 2


def test_a_lost_worker_stays_in_the_list_until_it_is_missed() -> None:
    """LocalAI believes in it for so long."""
    cluster = Cluster(1)
    cluster.workers[0].lost_until_s = time.monotonic() + 60
    cluster.drop_the_lost()
    assert [worker.lost for worker in cluster.workers] == [True]


def test_a_stop_ends_with_its_time() -> None:
    """Then the model may be loaded again."""
    cluster = Cluster(1)
    worker = cluster.workers[0]
    cluster.stopping["m"] = Stop(time.monotonic() + 60, worker)
    assert cluster.stop_of("m") is not None
    cluster.stopping["m"] = Stop(0, worker)
    assert cluster.stop_of("m") is None


def test_a_reset_forgets_all_but_loads_under_way() -> None:
    """Pins, stops and failures go, lost workers come back."""
    cluster = Cluster(2)
    cluster.jobs |= {"a": LoadJob("a"), "b": LoadJob("b")}
    cluster.jobs["b"].fail(Refusal(500, "no"), math.inf)
    cluster.pins["a"] = {"seed": 1}
    cluster.staged.add("a")
    cluster.workers.pop()
    cluster.reset()
    assert list(cluster.jobs) == ["a"]
    assert (cluster.pins, cluster.staged, cluster.stopping) == ({}, set(), {})
    assert len(cluster.workers) == 2
