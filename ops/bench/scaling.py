"""Scenario: what more workers do for the first command on many loopback hosts, and what each of them spends."""

from __future__ import annotations

import statistics

from ops.bench import process, tools
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_api.local_hosts import FASTER_KEX, LocalHosts

COUNTS = (1, 2, 4, 8)
COMMAND = "date"


@scenario("scaling", "Connecting 64 loopback hosts with 1, 2, 4 and 8 workers")
def measure(settings: Settings) -> Outcome:
    """A first command on a fresh mesh, with so many workers; each count on a service of its own."""
    outcome = Outcome(settings={"hosts": settings.host_count, "key exchange": FASTER_KEX, "command": COMMAND})
    with LocalHosts(settings.host_count) as hosts:
        for count in COUNTS:
            with tools.standing(count) as plush:
                plush.run(hosts, COMMAND)
                plush.mesh_down()
                turns = [_turn(plush, hosts) for _ in range(settings.repetitions)]
            words = f"{count} worker{'s' * (count > 1)}"
            outcome.row(f"{words}: until all are connected", "s", [connect_s for connect_s, _ in turns])
            spent = [statistics.mean(each) * 1000 for _, each in turns]
            most = statistics.median(max(each) * 1000 for _, each in turns)
            outcome.row(f"{words}: CPU of one", "ms", spent, f"the mean of them; the busiest {most:.0f} ms")
    outcome.notes.append(
        "The hosts share the processors with the workers, so more workers can't connect faster here; what "
        "they show is that the work is divided, and what each adds."
    )
    return outcome


def _turn(plush: tools.Plush, hosts: LocalHosts) -> tuple[float, list[float]]:
    """(time until all hosts were connected, CPU seconds of each worker)."""
    pids = [worker.pid for worker in plush.workers()]
    before = {pid: process.cpu_s(pid) for pid in pids}
    _, summary = plush.run(hosts, COMMAND)
    spent = [process.cpu_s(pid) - before[pid] for pid in pids]
    plush.mesh_down()
    return float(summary["connect_s"]), spent
