"""Scenario: one command on many loopback hosts, cold and warm, beside pdsh."""

from __future__ import annotations

import statistics

from ops.bench import tools
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_api.local_hosts import FASTER_KEX, LocalHosts

COMMAND = "date"
FIRST_TIMES_PDSH = 1.6
STACK_S = 1.5  # what a standalone run may add for its own stack
WARM_TIMES_PDSH = 4.0  # from the shell
WARM_WORKER_TIMES_PDSH = 8.0

WARM_NOTE = (
    "At the worker the second command is bound by the two processors that all hosts share: its time on both of them is "
    "{each_ms:.1f} ms a host; bash and date alone took 2.9 ms when one host was profiled. Hosts with processors of "
    "their own don't wait for each other so."
)


@scenario("loopback", "One command on 64 loopback hosts, beside pdsh")
def measure(settings: Settings) -> Outcome:
    """pdsh, a first command on a fresh mesh, a second on the standing one, and a standalone run, by turns."""
    outcome = Outcome(
        settings={"hosts": settings.host_count, "key exchange": FASTER_KEX, "command": COMMAND, "workers": 2}
    )
    times: dict[str, list[float]] = {}
    with LocalHosts(settings.host_count) as hosts, tools.standing(2) as plush, tools.sandbox() as folder:
        alone = tools.Plush(folder)
        plush.run(hosts, COMMAND)  # caches of the file system and of ssh -G
        plush.mesh_down()
        for _ in range(settings.repetitions):
            _take_turns(hosts, plush, alone, times)
    peer = outcome.row("pdsh -f 64", "s", times["pdsh"], "leaves nothing to use again")
    first = outcome.row("plush run, service up, no mesh yet", "s", times["first"])
    warm = outcome.row("plush run again on the standing mesh, from the shell", "s", times["warm"])
    worker = outcome.row(
        "the same at the worker", "s", times["worker"], "from the order to the last host's end, by the store's clock"
    )
    single = outcome.row(
        "plush run with its own stack", "s", times["alone"], "Valkey and a worker up and down again included"
    )
    outcome.at_most("first command / pdsh", FIRST_TIMES_PDSH, _ratio(times, "first", "pdsh"))
    outcome.at_most("(standalone run - 1.5 s) / pdsh", FIRST_TIMES_PDSH, (single.median - STACK_S) / peer.median)
    outcome.at_least("pdsh / second command from the shell", WARM_TIMES_PDSH, _ratio(times, "pdsh", "warm"))
    outcome.at_least("pdsh / second command at the worker", WARM_WORKER_TIMES_PDSH, _ratio(times, "pdsh", "worker"))
    outcome.notes.append(f"Whole run of the first command over that of the second: {first.median / warm.median:.1f}; "
                         f"time outside of the worker in the second: {warm.median - worker.median:.3f} s.")  # fmt: skip
    outcome.notes.append(WARM_NOTE.format(each_ms=worker.median * 2 * 1000 / settings.host_count))
    return outcome


def _take_turns(hosts: LocalHosts, plush: tools.Plush, alone: tools.Plush, times: dict[str, list[float]]) -> None:
    def note(name: str, seconds: float) -> None:
        times.setdefault(name, []).append(seconds)

    note("pdsh", tools.pdsh(hosts, COMMAND, len(hosts.hosts)).wall_s)
    note("first", plush.run(hosts, COMMAND)[0].wall_s)
    note("warm", plush.run(hosts, COMMAND)[0].wall_s)
    note("worker", _at_worker_s(plush))
    plush.mesh_down()
    note("alone", alone.run(hosts, COMMAND)[0].wall_s)


def _at_worker_s(plush: tools.Plush) -> float:
    """From the order of the newest run's op to its last host's end, as appended to the run's stream."""
    _, events = plush.newest_run()
    ordered = [tools.stream_time_s(i) for i, event in events if event["type"] == "op_ordered"]
    ended = [tools.stream_time_s(i) for i, event in events if event["type"] == "op_ended"]
    return max(ended) - min(ordered)


def _ratio(times: dict[str, list[float]], over: str, under: str) -> float:
    """Median of the ratios within each turn."""
    return statistics.median(a / b for a, b in zip(times[over], times[under], strict=True))
