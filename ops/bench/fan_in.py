"""Scenario: what a warm command costs the worker when there are more hosts below as many subtree roots."""

from __future__ import annotations

import time
from collections import Counter

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
    "Without the idle worker's own share (lease, beats, Celery's events), which passes with the time that a command "
    "takes, not with what it does. A command over {many} hosts gives the worker {many_frames} output and {many_events} "
    "events in all, one over {few} hosts {few_frames} and {few_events}: what its hosts say is merged below it. What "
    "remains of the difference is two processors that {many} hosts share with the worker."
)
IDLE_S = 2.0


@scenario("fan_in", "CPU time of the worker for a warm command, 8 subtree roots, 32 and 256 hosts")
def measure(settings: Settings) -> Outcome:
    """Two meshes with as many roots on one worker; commands on one and the other by turns."""
    shape = {"planner": "kary", "degree": ROOTS}
    outcome = Outcome(settings={"roots": ROOTS, "commands a turn": COMMANDS, "command": COMMAND, "workers": 1})
    times: dict[int, list[float]] = {FEW: [], MANY: []}
    said: dict[int, Counter[str]] = {}
    with LocalHosts(FEW, slice_settings=shape) as few, LocalHosts(MANY, slice_settings=shape) as many:
        for hosts in (few, many):
            # A service for each, so that the idle cost of one mesh isn't counted to the other.
            with tools.standing(1) as plush:
                plush.run(hosts, COMMAND)
                roots = _roots(plush)
                outcome.settings[f"roots with {len(hosts.hosts)} hosts"] = roots
                for _ in range(settings.repetitions):
                    times[len(hosts.hosts)].append(_turn_ms(plush, hosts))
                said[len(hosts.hosts)] = Counter(event["type"] for _, event in plush.newest_run()[1])
                plush.mesh_down()
    low = outcome.row(f"{FEW} hosts", "ms", times[FEW], "CPU time of the worker process for one command")
    high = outcome.row(f"{MANY} hosts", "ms", times[MANY])
    outcome.at_most(f"{MANY} hosts / {FEW} hosts", TIMES, high.median / low.median)
    outcome.notes.append(
        NOTE.format(
            few=FEW,
            few_frames=said[FEW]["output"],
            few_events=said[FEW].total(),
            many=MANY,
            many_frames=said[MANY]["output"],
            many_events=said[MANY].total(),
        )
    )
    return outcome


def _turn_ms(plush: tools.Plush, hosts: LocalHosts) -> float:
    """CPU time of one command, the idle worker's share taken off."""
    pid = plush.workers()[0].pid
    before = process.cpu_s(pid)
    time.sleep(IDLE_S)
    idle_share = (process.cpu_s(pid) - before) / IDLE_S
    before, began = process.cpu_s(pid), time.monotonic()
    for _ in range(COMMANDS):
        plush.run(hosts, COMMAND)
    spent_s = process.cpu_s(pid) - before - idle_share * (time.monotonic() - began)
    return spent_s * 1000 / COMMANDS


def _roots(plush: tools.Plush) -> int:
    """Subtree roots of the newest run."""
    _, events = plush.newest_run()
    texts = [event["roots"] for _, event in events if event["type"] == "subtrees_assigned"]
    return sum(tools.count_of(text) for text in texts)
