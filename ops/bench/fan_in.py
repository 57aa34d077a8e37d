"""Scenario: what a warm command costs the worker when there are more hosts below as many subtree roots."""

from __future__ import annotations

from ops.bench import process, tools
from ops.bench.results import Outcome
from ops.bench.scenarios import Settings, scenario
from plush_api.local_hosts import LocalHosts

ROOTS = 8
FEW, MANY = 32, 256
COMMANDS = 10  # a turn
TIMES = 1.3
COMMAND = "true"

NOTE = (
    "The worker's own work on a run's hosts (describing them, joining them) is about 2 ms for 256. The "
    "rest is probably frames: 256 hosts on two processors take so long that their answers would miss each "
    "other's merging window of 20 ms. The frames have not been counted."
)


@scenario("fan_in", "CPU time of the worker for a warm command, 8 subtree roots, 32 and 256 hosts")
def measure(settings: Settings) -> Outcome:
    """Two meshes with as many roots on one worker; commands on one and the other by turns."""
    shape = {"planner": "kary", "degree": ROOTS}
    outcome = Outcome(settings={"roots": ROOTS, "commands a turn": COMMANDS, "command": COMMAND, "workers": 1})
    times: dict[int, list[float]] = {FEW: [], MANY: []}
    with LocalHosts(FEW, slice_settings=shape) as few, LocalHosts(MANY, slice_settings=shape) as many:
        for hosts in (few, many):
            # A service for each, so that the idle cost of one mesh isn't counted to the other.
            with tools.standing(1) as plush:
                plush.run(hosts, COMMAND)
                roots = _roots(plush)
                outcome.settings[f"roots with {len(hosts.hosts)} hosts"] = roots
                for _ in range(settings.repetitions):
                    times[len(hosts.hosts)].append(_turn_ms(plush, hosts))
                plush.mesh_down()
    low = outcome.row(f"{FEW} hosts", "ms", times[FEW], "CPU time of the worker process for one command")
    high = outcome.row(f"{MANY} hosts", "ms", times[MANY])
    outcome.at_most(f"{MANY} hosts / {FEW} hosts", TIMES, high.median / low.median)
    outcome.notes.append(NOTE)
    return outcome


def _turn_ms(plush: tools.Plush, hosts: LocalHosts) -> float:
    pid = plush.workers()[0].pid
    before = process.cpu_s(pid)
    for _ in range(COMMANDS):
        plush.run(hosts, COMMAND)
    return (process.cpu_s(pid) - before) * 1000 / COMMANDS


def _roots(plush: tools.Plush) -> int:
    """Subtree roots of the newest run."""
    _, events = plush.newest_run()
    texts = [event["roots"] for _, event in events if event["type"] == "subtrees_assigned"]
    return sum(tools.count_of(text) for text in texts)
