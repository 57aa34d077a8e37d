"""Scenario: the next commands on hosts that are connected already, 1, 10 and 100 in a row, beside pdsh on masters.

``measure`` is the outer half; ``turns`` runs on the controller.
"""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from ops.bench import peers, spawns, tools, usage
from ops.bench.drive import drive
from ops.bench.driver import Outer, say
from ops.bench.field import Field
from ops.bench.ground import CONTROLLER, Ground, open_ground
from ops.bench.peer_environment import PeerEnvironment
from ops.bench.results import Outcome
from ops.bench.samples import Samples, add_cells, chosen
from ops.bench.scenarios import Settings, scenario
from ops.bench.wide_area import describe_ground, find_company
from plush_worker.errors import PlushError

COUNTS = (64, 489)
IN_A_ROW = (1, 10, 100)
COMMAND = "date +%s.%N"
LOCAL_COMMAND = ("sh", "-c", COMMAND)
PDSH, SHELL, PYTHON = "pdsh -f N over ControlPersist", "plush from the shell", "plush from Python"
SPAWNS = "floor: N local `sh -c date`"
PDSH_TIMES, SPAWN_TIMES = 0.35, 1.5
ROW_LIMIT_S = 180.0  # commands in a row that would take longer are left out
LONG_S = 60.0
LONG_REPETITIONS = 3
LIMIT_S = 120.0
NOTES = {
    PDSH: "every connection kept open by a master process of its own",
    SHELL: "each command a new process of the command line",
    PYTHON: "one client for all; its output is fetched too",
}
ONE = "one command"
REASONS = dict.fromkeys(
    (ONE, *(f"each of {count} in a row" for count in IN_A_ROW[1:])),
    "With few hosts the command line's own start (an interpreter and its imports) and the way through the service "
    "outweigh what is saved on the hosts.",
)


@scenario("warm", "The next commands on hosts far apart, connected already")
def measure(settings: Settings) -> Outcome:
    """Masters and mesh stand side by side; commands by turns."""
    outcome = Outcome(settings={"command": COMMAND, "workers": 1}, reasons=dict(REASONS))
    company = find_company(outcome)
    counts = settings.counts(*COUNTS)
    for count in counts:
        column = f"{count} hosts"
        names = chosen([PDSH] * ("pdsh" in company.made.programs) + [SHELL, PYTHON, SPAWNS], settings.tools)
        options = {"tools": names, "repetitions": settings.repetitions, "peers": company.made.to_mapping()}
        with open_ground(settings, count, visible=company.visible) as ground:
            say(f"{column}: {', '.join(names)}")
            samples = drive(ground, __name__, options)
            describe_ground(outcome, ground, column)
            path_s = deepest_path_s(samples["extra"]["plan"], ground)
        add_cells(outcome, samples, column, {_key(n): (_name(n), "s") for n in IN_A_ROW}, NOTES)
        outcome.notes += [f"With {column}, {left_out}." for left_out in samples["extra"]["left out"]]
        outcome.settings[f"deepest planned path with {column}"] = f"{path_s * 1000:.0f} ms"
    _add_targets(outcome, column, path_s)
    return outcome


def _key(in_a_row: int) -> str:
    return f"each_of_{in_a_row}_s"


def _name(in_a_row: int) -> str:
    return ONE if in_a_row == 1 else f"each of {in_a_row} in a row"


def _add_targets(outcome: Outcome, column: str, path_s: float) -> None:
    shell, python = (outcome.find(ONE, tool, column) for tool in (SHELL, PYTHON))
    outcome.ratio_at_most(f"{column}: from the shell / pdsh", PDSH_TIMES, shell, outcome.find(ONE, PDSH, column))
    spawn = outcome.find(ONE, SPAWNS, column)
    for who, row in (("the shell", shell), ("Python", python)):
        text = f"{column}: from {who}, s, against the deepest path's round trip + 1.5 x local spawns"
        if row is None or spawn is None:
            outcome.ratio_at_most(text, 1.0, None, None)
        else:
            outcome.at_most(text, round(path_s + SPAWN_TIMES * spawn.median, 3), row.median)


def deepest_path_s(parents: Mapping[str, str | None], ground: Ground) -> float:
    """The greatest sum of round trips from the controller to a host; ``parents``: host -> parent, None: a worker."""
    found: dict[str, float] = {}

    def path_s(host: str) -> float:
        if host not in found:
            parent = parents[host]
            above = path_s(parent) if parent else 0.0  # plans are shallow
            found[host] = above + ground.rtt_s(parent or CONTROLLER, host)
        return found[host]

    return max(map(path_s, parents))


# On the controller


def turns(area: Field, options: Mapping[str, Any], outer: Outer) -> dict[str, Any]:
    """Connect all, then every tool by turns. Raises MeasurementFailed when it can't even connect."""
    del outer
    names = options["tools"]
    samples = Samples(names)
    left_out: dict[str, str] = {}
    with ExitStack() as stack:
        once: dict[str, Callable[[], object]] = {SPAWNS: lambda: spawns.spawn_all_s(LOCAL_COMMAND, len(area.hosts))}
        if PDSH in names:
            once[PDSH] = stack.enter_context(_pdsh_connected(area, PeerEnvironment(**options["peers"])))
        plush = stack.enter_context(tools.standing(1))
        plush.run(area, COMMAND, timeout_s=LIMIT_S)
        samples.extra["plan"] = _plan(plush, area)
        once[SHELL] = lambda: _from_shell(plush, area)
        if PYTHON in names:
            once[PYTHON] = stack.enter_context(_python_client(plush, area))
        for repetition in range(options["repetitions"]):
            for in_a_row in IN_A_ROW:
                for tool in names:
                    _take_turn(samples, tool, once[tool], in_a_row, left_out)
            say(f"repetition {repetition + 1}: " + ", ".join(_newest_words(samples, tool) for tool in names))
        plush.mesh_down()
    samples.extra["left out"] = list(left_out.values())
    return samples.to_mapping()


def _newest_words(samples: Samples, tool: str) -> str:
    values = samples.values[tool].get(_key(1), [])
    return f"{tool} {values[-1]:.3f} s" if values else f"{tool} failed"


def _take_turn(
    samples: Samples, tool: str, once: Callable[[], object], in_a_row: int, left_out: dict[str, str]
) -> None:
    """``in_a_row`` commands one after the other; the mean time of one. Too many are left out, and that is said."""
    taken = samples.values[tool]
    if tool == SPAWNS and in_a_row > 1:
        return
    single_s = statistics.median(taken[_key(1)]) if taken.get(_key(1)) else 0.0
    if in_a_row > 1 and (not single_s or single_s * in_a_row > ROW_LIMIT_S):
        left_out[f"{tool} {in_a_row}"] = f"{tool}: {in_a_row} in a row are left out at {single_s:.2f} s each"
        return
    if single_s * in_a_row > LONG_S and len(taken.get(_key(in_a_row), [])) >= LONG_REPETITIONS:
        return
    if samples.is_hopeless(tool):
        return
    try:
        began = time.perf_counter()
        for _ in range(in_a_row):
            once()
        samples.add(tool, **{_key(in_a_row): (time.perf_counter() - began) / in_a_row})
    except (tools.MeasurementFailed, PlushError) as error:
        say(f"{tool}: failed: {error}")
        samples.fail(tool, str(error))


def _from_shell(plush: tools.Plush, area: Field) -> None:
    words = plush.command("run", *tools.choice(area), "--json", "--", COMMAND)
    _check(area, usage.run(words, plush.environ(), LIMIT_S), peers.read_plush)


def _check(area: Field, used: usage.Used, read: Callable[[str], dict[str, str]]) -> None:
    """Raises MeasurementFailed unless every host was heard in time."""
    why = "" if used.in_time else f"not done after {LIMIT_S:g} s"
    why = why or peers.unheard(area.hosts, read(used.stdout), used.stderr)
    if why:
        raise tools.MeasurementFailed(why)


def _plan(plush: tools.Plush, area: Field) -> dict[str, str | None]:
    """host -> parent, None for a worker: the default planner's plan."""
    made = json.loads(plush("tree", "plan", *tools.choice(area), "--json").stdout.splitlines()[-1])
    return {row["host"]: row["parent"] for row in made["hosts"]}


@contextmanager
def _pdsh_connected(area: Field, made: PeerEnvironment) -> Iterator[Callable[[], None]]:
    """One command of pdsh over connections that stand; their masters end with the block."""
    with tools.sandbox() as folder:
        control = f"ControlPath={folder}/%n"
        persist = ("-o", "ControlMaster=auto", "-o", control, "-o", "ControlPersist=yes")
        call = peers.pdsh(area, made, COMMAND, *persist)

        def once() -> None:
            _check(area, usage.run(call.argv, peers.environ_of(call), LIMIT_S), peers.read_prefixed)

        try:
            once()
            yield once
        finally:
            _end_masters(area, folder, control)


def _end_masters(area: Field, folder: Path, control: str) -> None:
    """Ask every master that has a socket to exit. Raises MeasurementFailed when one stays."""

    def end(host: str) -> None:
        usage.run(("ssh", *area.ssh_options(), "-o", control, "-O", "exit", host), peers.environ_of(peers.Call(())), 30)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(end, [path.name for path in folder.iterdir() if path.is_socket()]))
    if left := [path.name for path in folder.iterdir() if path.is_socket()]:
        raise tools.MeasurementFailed(f"the ssh masters of {', '.join(left[:5])} did not end")


@contextmanager
def _python_client(plush: tools.Plush, area: Field) -> Iterator[Callable[[], None]]:
    """One command from Python: submitted, followed to its end, its output fetched."""
    from plush_api.cli.submission import make_spec
    from plush_api.client import connect
    from plush_worker.experiment.directory import HostOptions, resolve
    from plush_worker.run_state import RunState

    found = resolve([area.names], HostOptions(directory=str(area.directory), slice=area.slice))
    client = connect(plush.redis_url)

    def once() -> None:
        spec = make_spec(found.entries, found.settings, COMMAND)
        state, newest, fetched = RunState(spec), "", 0
        read_bytes: dict[str, int] = {}  # segment -> so far
        deadline = time.monotonic() + LIMIT_S
        client.submit(spec)
        while not state.finished:
            if time.monotonic() > deadline:
                raise tools.MeasurementFailed(f"run {spec.run_id} has not ended after {LIMIT_S:g} s")
            for event_id, event in client.events(spec.run_id, newest, 1000):
                newest = event_id
                state.fold(event)
                if event["type"] == "output":
                    start = read_bytes.get(event["segment"], 0)
                    fetched += sum(1 for _ in client.output(spec.run_id, event["segment"], start, event["bytes"]))
                    read_bytes[event["segment"]] = event["bytes"]
        counts = state.summary()
        if counts["ok"] != len(area.hosts) or not fetched:
            raise tools.MeasurementFailed(f"run {spec.run_id}: {counts}, {fetched} pieces of output")

    try:
        yield once
    finally:
        client.close()
