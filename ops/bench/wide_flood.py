"""Scenario: 10 MB of output from every host, equal and distinct, and how long a kill takes while all of them print.

``measure`` is the outer half; ``turns`` runs on the controller. ``flood.py`` is its neighbour on loopback.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from ops.bench import tools, usage
from ops.bench.drive import drive
from ops.bench.driver import Outer, say
from ops.bench.field import Field
from ops.bench.ground import open_ground
from ops.bench.interrupting import Foreground, foreground, wait_for
from ops.bench.peer_environment import PeerEnvironment
from ops.bench.peers import PEERS, Call, environ_of
from ops.bench.results import Outcome
from ops.bench.samples import Samples, failure_words
from ops.bench.scenarios import Settings, scenario
from ops.bench.wide_area import describe_ground, find_company
from plush_worker.errors import PlushError

HOST_COUNT = 64
LINE_BYTES, LINE_COUNT = 1000, 10_000
EACH_MB = LINE_BYTES * LINE_COUNT / 1e6
# Name -> further options. A forced tree, since the default may be flat, where nothing merges on the way.
PLUSH: dict[str, tuple[str, ...]] = {"plush": (), "plush --planner kary": ("--planner", "kary")}
PEER_NAMES = ("pdsh -f N", "clush -f N", "taktuk")
MAX_REPETITIONS = 3  # a repetition moves gigabytes
LIMIT_S = 600.0
SAMPLE_S = 0.25
FLOWING_LIMIT_S = 120.0
KILL_LIMIT_S = 60.0
SECOND_CTRL_C_S = 0.5
SIGTERM_S = 5.0
DISK_MIB = 8192  # the controller keeps what Plush stores, in memory
KINDS = ("equal", "distinct")
# Lines of the same text on every host, and of the host's own.
WORDS = {"equal": "the same everywhere", "distinct": "$$ $SSH_CONNECTION"}
QUANTITIES = {
    "equal_received_mb": ("equal output: received by the controller", "MB"),
    "distinct_received_mb": ("distinct output: received by the controller", "MB"),
    "equal_wall_s": ("equal output: wall time", "s"),
    "distinct_wall_s": ("distinct output: wall time", "s"),
    "equal_memory_mib": ("equal output: controller's memory, greatest", "MiB"),
    "distinct_memory_mib": ("distinct output: controller's memory, greatest", "MiB"),
    "kill_s": ("kill while all print", "s"),
}
_STORED = "Plush writes and syncs everything to a file before it is shown"
_FIXED = "A server and a Celery worker take their memory whatever is printed."
REASONS = {
    "distinct output: wall time": f"{_STORED}; in a tree, the output of a subtree passes through its root.",
    "equal output: wall time": f"{_STORED}.",
    "equal output: controller's memory, greatest": _FIXED,
    "distinct output: controller's memory, greatest": _FIXED,
    "kill while all print": "A kill passes through the service and is journalled on the host before it is done; peers "
    "drop their connections, and the next write ends a host's process.",
}


@scenario("wide_flood", "10 MB from every host far away at once, and a kill meanwhile")
def measure(settings: Settings) -> Outcome:
    """Tools by turns; every line is counted."""
    count = settings.counts(HOST_COUNT)[-1]
    repetitions = min(MAX_REPETITIONS, settings.repetitions)
    outcome = Outcome(
        settings={"MB from each host": EACH_MB, "repetitions of each": repetitions}, reasons=dict(REASONS)
    )
    company = find_company(outcome)
    names = company.tools(settings, count, list(PLUSH), PEER_NAMES)
    options = {"tools": names, "repetitions": repetitions, "peers": company.made.to_mapping()}
    column = f"{count} hosts"
    with open_ground(settings, count, visible=company.visible, disk_mib=DISK_MIB) as ground:
        say(f"{column}: {', '.join(names)}")
        samples = drive(ground, __name__, options)
        describe_ground(outcome, ground, column)
    _add_cells(outcome, samples, column)
    outcome.notes.append(
        "Memory is sampled while the output flows. A kill is Ctrl-C, another one after "
        f"{SECOND_CTRL_C_S:g} s and SIGTERM after {SIGTERM_S:g} s as long as a host still prints; its time is from the "
        "first Ctrl-C until no host does."
    )
    return outcome


def _add_cells(outcome: Outcome, samples: Mapping[str, Any], column: str) -> None:
    """A failure stands where it happened: its text begins with the first word of the quantity's name."""
    for quantity, (name, unit) in QUANTITIES.items():
        what = quantity.partition("_")[0]
        for tool, values in samples["values"].items():
            found = values.get(quantity, [])
            failures = [why for why in samples["failures"][tool] if why.startswith(what)]
            if found or failures:
                outcome.cell(name, unit, tool, column, found, failed=failure_words(failures, len(found)))


# On the controller


def turns(area: Field, options: Mapping[str, Any], outer: Outer) -> dict[str, Any]:
    """Every tool by turns: equal, distinct, kill."""
    samples = Samples(options["tools"])
    made = PeerEnvironment(**options["peers"])
    for _ in range(options["repetitions"]):
        for tool in options["tools"]:
            for kind in KINDS:
                _keep(samples, tool, kind, partial(_flood, tool, area, made, kind))
            _keep(samples, tool, "kill", partial(_kill, tool, area, made, outer))
    return samples.to_mapping()


def _keep(samples: Samples, tool: str, what: str, measure_once: Callable[[], dict[str, float]]) -> None:
    try:
        values = measure_once()
    except (tools.MeasurementFailed, PlushError) as error:
        say(f"{tool}, {what}: failed: {error}")
        samples.fail(tool, f"{what}: {error}")
    else:
        say(f"{tool}, {what}: {', '.join(f'{name} {value:.3g}' for name, value in values.items())}")
        samples.add(tool, **values)


def _flood(tool: str, area: Field, made: PeerEnvironment, kind: str) -> dict[str, float]:
    """Raises MeasurementFailed when not every line of every host came."""
    line = f'yes "$(printf \'%{LINE_BYTES - 1}s\' "{WORDS[kind]}")" | head -n {LINE_COUNT}'
    with ExitStack() as stack:
        call = stack.enter_context(_call(tool, area, made, line))
        before_bytes = received_bytes(area.device)
        peak = stack.enter_context(usage.memory_below(os.getpid(), sample_s=SAMPLE_S))
        began = time.perf_counter()
        running = stack.enter_context(foreground(call.argv, call.environ, call.standard_input))
        in_time = running.wait(LIMIT_S)
        wall_s = time.perf_counter() - began
        after_bytes = received_bytes(area.device)
    wanted = len(area.hosts) * LINE_COUNT
    if not in_time or running.lines_read < wanted or running.bytes_read < wanted * LINE_BYTES:
        raise tools.MeasurementFailed(
            f"{running.lines_read} of {wanted} lines came"
            + ("" if in_time else f", and it was not done after {LIMIT_S:g} s")
        )
    values = {f"{kind}_wall_s": wall_s, f"{kind}_memory_mib": peak.mib}
    if area.device:
        values[f"{kind}_received_mb"] = (after_bytes - before_bytes) / 1e6
    return values


def _kill(tool: str, area: Field, made: PeerEnvironment, outer: Outer) -> dict[str, float]:
    """From the first Ctrl-C until no host prints any more. Raises MeasurementFailed."""
    mark = f"printer{os.urandom(6).hex()}"
    # Put together on the host: the tool's own command line must not have it.
    line = f'a={mark[:8]}; b={mark[8:]}; yes "$a$b $(printf \'%900s\' "$SSH_CONNECTION")"'
    try:
        with ExitStack() as stack:
            call = stack.enter_context(_call(tool, area, made, line))
            running = stack.enter_context(foreground(call.argv, call.environ, call.standard_input))

            def flows() -> bool:
                enough = running.bytes_read > len(area.hosts) * 100_000
                return enough and len(outer.marked(mark)) >= len(area.hosts)

            if not wait_for(flows, FLOWING_LIMIT_S):
                raise tools.MeasurementFailed(f"not all hosts print after {FLOWING_LIMIT_S:g} s")
            return {"kill_s": _interrupted_s(running, lambda: not outer.marked(mark))}
    finally:
        outer.sweep(mark)


def _interrupted_s(running: Foreground, is_over: Callable[[], bool]) -> float:
    began = time.perf_counter()
    for act, patience_s in (
        (running.ctrl_c, SECOND_CTRL_C_S),
        (running.ctrl_c, SIGTERM_S - SECOND_CTRL_C_S),
        (lambda: running.running.send_signal(signal.SIGTERM), KILL_LIMIT_S - SIGTERM_S),
    ):
        act()
        if wait_for(is_over, patience_s):
            return time.perf_counter() - began
    raise tools.MeasurementFailed(f"hosts still print {KILL_LIMIT_S:g} s after the first Ctrl-C")


@contextmanager
def _call(tool: str, area: Field, made: PeerEnvironment, command: str) -> Iterator[Call]:
    """What to run, with its whole environment; for Plush with a service of its own, on which no mesh stands yet."""
    if tool not in PLUSH:
        call = PEERS[tool].call(area, made, command)
        yield Call(call.argv, environ_of(call), call.standard_input)
        return
    with tools.standing(1) as plush:
        yield Call(tuple(plush.command("run", *tools.choice(area), *PLUSH[tool], "--", command)), plush.environ())


def received_bytes(device: str) -> int:
    """What a network device of this network namespace has received; 0 without a device."""
    if not device:
        return 0
    # Not from /sys, which shows the devices of the namespace that it was mounted in.
    return received_in_table(Path("/proc/self/net/dev").read_text(), device)


def received_in_table(table: str, device: str) -> int:
    """Received bytes of a device in the text of /proc/net/dev. Raises KeyError when it isn't there."""
    lines = (line.partition(":") for line in table.splitlines())
    return {name.strip(): int(rest.split()[0]) for name, colon, rest in lines if colon}[device]
