"""Every key name in Redis, in one place. Pure; no imports, since the command line needs it before its first request.

A function called with an empty name gives the prefix of its family, for scripts that make the names of several keys.
Redis Cluster is not supported: scripts reach keys whose names they learn from other keys.
"""

from __future__ import annotations

PREFIX = "plush:"

STORE = PREFIX + "store"  # string: random identity of this data set
SYNC = PREFIX + "sync"  # string: written before a WAIT

WORKERS = PREFIX + "workers"  # set of worker names, dead ones removed by whoever lists them
MESHES = PREFIX + "meshes"  # sorted set: mesh id -> last use, ms
MESH_IDS = PREFIX + "mesh-ids"  # hash: JSON [slice, owner] -> mesh id
REMOVED_RUNS = PREFIX + "removed-runs"  # sorted set: run id -> removal, ms; whose files may go
RUNS = PREFIX + "runs"  # sorted set: run id -> submission, ms


def worker(name: str) -> str:
    """Hash with a TTL, the worker's lease: incarnation, info (JSON of WorkerInfo)."""
    return f"{PREFIX}worker:{name}"


def mesh(mesh_id: str) -> str:
    """Hash: slice, owner, state, counter (generation << 32 | count), next_host, created_at, last_used (ms)."""
    return f"{PREFIX}mesh:{mesh_id}"


def mesh_hosts(mesh_id: str) -> str:
    """Hash: host number -> JSON of HostEntry."""
    return f"{PREFIX}mesh-hosts:{mesh_id}"


def mesh_digests(mesh_id: str) -> str:
    """Hash: digest of a host entry -> host number."""
    return f"{PREFIX}mesh-digests:{mesh_id}"


def mesh_roots(mesh_id: str) -> str:
    """Set of the root numbers of the mesh's subtrees."""
    return f"{PREFIX}mesh-roots:{mesh_id}"


def subtree(mesh_id: str, root: int | str) -> str:
    """Hash: the fields of SubtreeRecord, and request (of the assignment that made it)."""
    return f"{PREFIX}subtree:{mesh_id}:{root}"


def subtree_family() -> str:
    """The prefix of all subtrees' keys, to be followed by ``mesh:root``."""
    return f"{PREFIX}subtree:"


def run(run_id: str) -> str:
    """Hash: what is known of a run, term of its coordinator included. While it exists, the run does."""
    return f"{PREFIX}run:{run_id}"


def run_spec(run_id: str) -> str:
    """String: JSON of RunSpec."""
    return f"{PREFIX}run-spec:{run_id}"


def run_lease(run_id: str) -> str:
    """String with a TTL, the coordinator's lease: term and request."""
    return f"{PREFIX}run-lease:{run_id}"


def run_client(run_id: str) -> str:
    """String with a TTL: the client of `plush run` lives."""
    return f"{PREFIX}run-client:{run_id}"


def run_events(run_id: str) -> str:
    """Stream: e (JSON of the event), t (token of the request that appended it)."""
    return f"{PREFIX}run-events:{run_id}"


def run_snapshot(run_id: str) -> str:
    """Hash: event (id of the last event folded in), data (JSON)."""
    return f"{PREFIX}run-snapshot:{run_id}"


def run_ops(run_id: str) -> str:
    """Hash: op number -> JSON of OpRecord."""
    return f"{PREFIX}run-ops:{run_id}"


def run_orders(run_id: str) -> str:
    """Hash: token of the request that ordered an op -> op number, so that a repeated request orders nothing twice."""
    return f"{PREFIX}run-orders:{run_id}"


def run_output(run_id: str) -> str:
    """Hash: segment name -> committed bytes."""
    return f"{PREFIX}run-output:{run_id}"


def run_writers(run_id: str) -> str:
    """Hash: segment name -> incarnation of the worker that writes it."""
    return f"{PREFIX}run-writers:{run_id}"


def all_of_run(run_id: str) -> list[str]:
    """Every key of a run, the one that says that it exists first."""
    families = (run, run_spec, run_lease, run_client, run_events, run_snapshot)
    return [f(run_id) for f in (*families, run_ops, run_orders, run_output, run_writers)]
