"""Scenario: the first command on N hosts far apart, beside every peer; and with a controller of a tenth of a core.

``measure`` is the outer half; ``turns`` runs on the controller.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from ops.bench import tools, usage
from ops.bench.drive import drive
from ops.bench.driver import Outer, say
from ops.bench.field import Field
from ops.bench.ground import open_ground
from ops.bench.peer_environment import PeerEnvironment
from ops.bench.peers import PEERS, environ_of, read_plush, unheard
from ops.bench.results import Outcome
from ops.bench.samples import Samples, add_cells
from ops.bench.scenarios import Settings, scenario
from ops.bench.wide_area import Company, describe_ground, find_company
from plush_worker.errors import PlushError

COUNTS = (16, 64, 128, 256, 489)
COMMAND = "date +%s.%N"
PDSH, TAKTUK = "pdsh -f N", "taktuk"
TAKTUK_TIMES, PDSH_TIMES, FORCED_TIMES = 0.5, 1.0, 1.3
LONG_S = 60.0  # a command that takes longer is repeated LONG_REPETITIONS times at most
LONG_REPETITIONS = 3
LIMIT_S = 300.0
WEAK_CORES = 0.1
WEAK_HOSTS = 128
WEAK_LIMIT_S = 900.0
WEAK_READY_LIMIT_S = 120.0  # for a service


@dataclass(frozen=True, slots=True)
class PlushSetting:
    """How Plush is used."""

    planner: str = ""  # the default: by estimated cost
    workers: int = 1
    has_service: bool = True


PLUSH = {
    "plush": PlushSetting(),
    "plush --planner flat": PlushSetting("flat"),
    "plush --planner kary": PlushSetting("kary"),
    "plush --planner greedy": PlushSetting("greedy"),
    "plush (2 workers)": PlushSetting(workers=2),
    "plush (4 workers)": PlushSetting(workers=4),
    "plush (8 workers)": PlushSetting(workers=8),
    "plush (no service)": PlushSetting(has_service=False),
}
NOTES = {
    "plush": "service up with one worker, no mesh yet",
    "plush (no service)": "the start and end of its own server and worker included",
} | {name: peer.note for name, peer in PEERS.items() if peer.note}
FORCED = ("plush --planner kary", "plush --planner greedy")
WEAK_TOOLS = (PDSH, "plush", "plush --planner flat", *FORCED)
QUANTITIES = {
    "wall_s": ("wall time", "s"),
    "cpu_s": ("controller's CPU time", "s"),
    "memory_mib": ("controller's memory, greatest", "MiB"),
    "spread_s": ("start of the first to start of the last host", "s"),
}
REASONS = {
    "wall time": "With few hosts the fixed part shows: Plush plans, stores and coordinates the run, and each host "
    "unpacks and starts a node program, which a flat tool doesn't; see the steps below.",
    "controller's CPU time": "With few hosts the fixed part shows: the start of the command line, planning, storing "
    "what happens.",
    "controller's memory, greatest": "A server and a Celery worker take their memory whatever the number of hosts; "
    "a flat tool takes some for each.",
    "start of the first to start of the last host": "Each host starts as soon as it is ready; a run that asks to start "
    "together (`--together`) is not measured here.",
}
STEPS = ("submitted", "planned", "first host up", "last host up", "last end", "finished")


@scenario("cold", "The first command on N hosts far apart")
def measure(settings: Settings) -> Outcome:
    """Every tool by turns, for each number of hosts in a testbed of its own."""
    outcome = Outcome(settings={"command": COMMAND}, reasons=dict(REASONS))
    company = find_company(outcome)
    counts = settings.counts(*COUNTS)
    for count in counts:
        _measure_column(settings, outcome, company, count, f"{count} hosts")
    _add_targets(outcome, f"{counts[-1]} hosts")
    weak_count = min(WEAK_HOSTS, counts[-1])
    column = f"{weak_count} hosts, a tenth of a core"
    if settings.ground == "testbed":
        _measure_column(settings, outcome, company, weak_count, column, WEAK_CORES)
    _add_weak_targets(outcome, column)
    return outcome


def _measure_column(
    settings: Settings, outcome: Outcome, company: Company, count: int, column: str, cores: float = 0
) -> None:
    names = company.tools(settings, count, list(PLUSH))
    if cores:
        names = [name for name in names if name in WEAK_TOOLS]
    options = {
        "tools": names, "repetitions": settings.repetitions, "limit_s": WEAK_LIMIT_S if cores else LIMIT_S,
        "peers": company.made.to_mapping(),
    }  # fmt: skip
    with open_ground(settings, count, visible=company.visible, controller_cores=cores) as ground:
        say(f"{column}: {', '.join(names)}")
        samples = drive(ground, __name__, options)
        describe_ground(outcome, ground, column)
    add_cells(outcome, samples, column, QUANTITIES, NOTES)
    if samples["extra"].get("steps"):
        outcome.notes.append(f"Steps of `plush` with {column}, medians: {step_words(samples['extra']['steps'])}.")


def step_words(steps: Mapping[str, list[float]]) -> str:
    """The steps of a run, each with the median of its time since the command's start, in the order of STEPS."""
    known = [name for name in STEPS if steps.get(name)]
    return ", ".join(f"{name} {statistics.median(steps[name]):.2f} s" for name in known)


def _add_targets(outcome: Outcome, column: str) -> None:
    def find(tool: str) -> Any:
        return outcome.find("wall time", tool, column)

    forced = min(filter(None, map(find, FORCED)), key=lambda row: row.median, default=None)
    outcome.ratio_at_most(f"{column}: default planner / taktuk", TAKTUK_TIMES, find("plush"), find(TAKTUK))
    outcome.ratio_at_most(f"{column}: default planner / pdsh", PDSH_TIMES, find("plush"), find(PDSH))
    name = forced.tool.removeprefix("plush ") if forced else "forced tree"
    outcome.ratio_at_most(f"{column}: better forced tree ({name}) / pdsh", FORCED_TIMES, forced, find(PDSH))


def _add_weak_targets(outcome: Outcome, column: str) -> None:
    def find(tool: str) -> Any:
        return outcome.find("wall time", tool, column)

    tree = min(filter(None, map(find, FORCED)), key=lambda row: row.median, default=None)
    outcome.ratio_at_most(f"{column}: tree / flat", 1.0, tree, find("plush --planner flat"))
    outcome.ratio_at_most(f"{column}: tree / pdsh", 1.0, tree, find(PDSH))


# On the controller


def turns(area: Field, options: Mapping[str, Any], outer: Outer) -> dict[str, Any]:
    """One repetition in which memory is sampled and nothing timed, then the timed ones."""
    del outer
    samples = Samples(options["tools"])
    samples.extra["steps"] = {}
    runner = _Runner(area, PeerEnvironment(**options["peers"]), options["limit_s"], samples)
    for repetition in range(options["repetitions"] + 1):
        for tool in options["tools"]:
            taken = samples.values[tool].get("wall_s", [])
            is_long = bool(taken) and statistics.median(taken) > LONG_S and len(taken) >= LONG_REPETITIONS
            if not is_long and not samples.is_hopeless(tool):
                runner.run(tool, with_memory=repetition == 0)
    return samples.to_mapping()


class _Runner:
    """Runs one tool once and keeps what came of it."""

    def __init__(self, area: Field, made: PeerEnvironment, limit_s: float, samples: Samples) -> None:
        self._area, self._made, self._limit_s, self._samples = area, made, limit_s, samples

    def run(self, tool: str, *, with_memory: bool) -> None:
        """What fails is kept as a failure."""
        with ExitStack() as stack:
            peak = stack.enter_context(usage.memory_below(os.getpid())) if with_memory else None
            try:
                used, heard, values = self._run_plush(tool) if tool in PLUSH else self._run_peer(tool)
            except (tools.MeasurementFailed, PlushError) as error:
                self._fail(tool, str(error))
                return
        why = "" if used.in_time else f"not done after {self._limit_s:g} s"
        why = why or unheard(self._area.hosts, heard, used.stderr)
        if why:
            self._fail(tool, why)
        elif peak is not None:
            self._samples.add(tool, memory_mib=peak.mib)
        else:
            say(f"{tool}: {used.wall_s:.2f} s")
            self._samples.add(tool, wall_s=used.wall_s, spread_s=spread_s(heard), **values)

    def _fail(self, tool: str, why: str) -> None:
        say(f"{tool}: failed: {why}")
        self._samples.fail(tool, why)

    def _run_peer(self, tool: str) -> tuple[usage.Used, dict[str, str], dict[str, float]]:
        peer = PEERS[tool]
        call = peer.call(self._area, self._made, COMMAND)
        used = usage.run(call.argv, environ_of(call), self._limit_s, call.standard_input)
        return used, peer.read(used.stdout), {"cpu_s": used.cpu_s}

    def _run_plush(self, tool: str) -> tuple[usage.Used, dict[str, str], dict[str, float]]:
        """A service of its own for each, so that none finds a mesh, or memory that another has filled."""
        setting = PLUSH[tool]
        planner = ("--planner", setting.planner) if setting.planner else ()
        words = ("run", *tools.choice(self._area), "--json", *planner, "--", COMMAND)
        with ExitStack() as stack:
            if setting.has_service:
                plush = stack.enter_context(tools.standing(setting.workers, WEAK_READY_LIMIT_S))
            else:
                plush = tools.Plush(stack.enter_context(tools.sandbox()))
            before_s, began_at = usage.cpu_below_s(os.getpid()), time.time()
            used = usage.run(plush.command(*words), plush.environ(), self._limit_s)
            # The command's own use is in ``used``, the service's in the difference.
            cpu_s = used.cpu_s + usage.cpu_below_s(os.getpid()) - before_s
            if setting.has_service and used.code == 0:
                if tool == "plush":
                    self._keep_steps(plush, began_at)
                plush.mesh_down()
        return used, read_plush(used.stdout), {"cpu_s": cpu_s}

    def _keep_steps(self, plush: tools.Plush, began_at: float) -> None:
        for name, after_s in steps(plush.newest_run()[1], began_at).items():
            self._samples.extra["steps"].setdefault(name, []).append(after_s)


def steps(events: list[tuple[str, dict[str, Any]]], began_at: float) -> dict[str, float]:
    """When a run came to each of STEPS, in seconds after ``began_at`` (Unix time), by the store's clock."""
    times: dict[str, list[float]] = {}
    for event_id, event in events:
        times.setdefault(event["type"], []).append(tools.stream_time_s(event_id) - began_at)
    found = {
        "submitted": times.get("run_submitted", [])[:1],
        "planned": times.get("subtrees_assigned", [])[:1],
        "first host up": times.get("hosts_up", [])[:1],
        "last host up": times.get("hosts_up", [])[-1:],
        "last end": times.get("op_ended", [])[-1:],
        "finished": times.get("run_finished", [])[-1:],
    }
    return {name: at[0] for name, at in found.items() if at}


def spread_s(heard: Mapping[str, str]) -> float:
    """From the first to the last stamp; a host's is the first word of what it printed."""
    stamps = [float(text.split()[0]) for text in heard.values()]
    return max(stamps) - min(stamps)
