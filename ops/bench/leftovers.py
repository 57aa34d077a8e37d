"""Scenario: a command leaves seven kinds of process behind on every host; then Ctrl-C twice and SIGTERM on the tool.

``measure`` is the outer half; ``turns`` runs on the controller. How many remain, by tool and kind.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ops.bench import tools
from ops.bench.drive import drive
from ops.bench.driver import Outer, say
from ops.bench.field import Field
from ops.bench.ground import open_ground
from ops.bench.interrupting import Foreground, foreground, wait_for
from ops.bench.peer_environment import PeerEnvironment
from ops.bench.peers import PEERS, environ_of
from ops.bench.results import Outcome
from ops.bench.runaways import ITSELF, KINDS, command, hosts_left
from ops.bench.samples import Samples, failure_words
from ops.bench.scenarios import Settings, scenario
from ops.bench.wide_area import describe_ground, find_company
from plush_worker.errors import PlushError

HOST_COUNT = 8
PLUSH = "plush"
PEER_NAMES = ("pdsh -f N", "clush -f N", "taktuk", "ansible -m raw -f N", "parallel-ssh")
NAME = "hosts with one of them left"
START_LIMIT_S = 60.0
BETWEEN_S = 0.5  # the two Ctrl-C: pdsh ends at a second one within a second
AFTER_CTRL_C_S = 3.0  # before SIGTERM
END_LIMIT_S = 10.0  # after it, then SIGKILL
SETTLE_S = 10.0  # for what a tool ends behind itself


@scenario("leftovers", "What is left on the hosts after Ctrl-C twice and SIGTERM")
def measure(settings: Settings) -> Outcome:
    """One tool after the other; what it left is counted, then swept away from outside."""
    count = settings.counts(HOST_COUNT)[-1]
    outcome = Outcome(settings={"hosts": count})
    company = find_company(outcome)
    names = company.tools(settings, count, [PLUSH], PEER_NAMES)
    options = {"tools": names, "repetitions": min(settings.repetitions, 3), "peers": company.made.to_mapping()}
    with open_ground(settings, count, visible=company.visible) as ground:
        say(f"{count} hosts: {', '.join(names)}")
        samples = drive(ground, __name__, options)
        describe_ground(outcome, ground, f"{count} hosts")
    for tool in names:
        for kind in (ITSELF, *KINDS):
            values = samples["values"][tool].get(kind, [])
            failed = failure_words(samples["failures"][tool], len(values)) if kind == ITSELF else ""
            if values or failed:
                note = samples["extra"].get(tool, "") if kind == ITSELF else ""
                outcome.cell(NAME, "hosts", tool, kind, values, failed=failed, note=note)
    return outcome


# On the controller


def turns(area: Field, options: Mapping[str, Any], outer: Outer) -> dict[str, Any]:
    """Every tool by turns."""
    samples = Samples(options["tools"])
    made = PeerEnvironment(**options["peers"])
    for _ in range(options["repetitions"]):
        for tool in options["tools"]:
            if samples.is_hopeless(tool):
                continue
            mark = f"runaway{os.urandom(6).hex()}"
            try:
                with _started(tool, area, made, mark) as running:
                    left = _interrupt(running, tool, area, outer, mark, samples)
                samples.add(tool, **left)
                say(f"{tool}: {left}")
            except (tools.MeasurementFailed, PlushError) as error:
                say(f"{tool}: failed: {error}")
                samples.fail(tool, str(error))
            finally:
                outer.sweep(mark)
    return samples.to_mapping()


@contextmanager
def _started(tool: str, area: Field, made: PeerEnvironment, mark: str) -> Iterator[Foreground]:
    if tool == PLUSH:
        with tools.standing(1) as plush:
            words = plush.command("run", *tools.choice(area), "--", command(mark))
            with foreground(words, plush.environ()) as running:
                yield running
        return
    call = PEERS[tool].call(area, made, command(mark))
    with foreground(call.argv, environ_of(call), call.standard_input) as running:
        yield running


def _interrupt(
    running: Foreground, tool: str, area: Field, outer: Outer, mark: str, samples: Samples
) -> dict[str, float]:
    """Start, Ctrl-C twice, SIGTERM, SIGKILL where that is not enough; kind -> hosts that still have one.

    Raises MeasurementFailed when the runaways don't even start.
    """
    count = len(area.hosts)

    def left() -> dict[str, int]:
        return hosts_left(outer.marked(mark), mark)

    if not wait_for(lambda: min(left().values()) == count, START_LIMIT_S):
        raise tools.MeasurementFailed(f"after {START_LIMIT_S:g} s the processes run on so many hosts: {left()}")
    running.ctrl_c()
    time.sleep(BETWEEN_S)
    running.ctrl_c()
    if not running.wait(AFTER_CTRL_C_S):
        running.running.send_signal(signal.SIGTERM)
        if running.wait(END_LIMIT_S):
            samples.extra[tool] = "ended at SIGTERM"
        else:
            samples.extra[tool] = f"had to be killed {END_LIMIT_S:g} s after SIGTERM"
            running.running.kill()
    else:
        samples.extra[tool] = "ended at Ctrl-C"
    wait_for(lambda: not any(left().values()), SETTLE_S)
    return {kind: float(hosts) for kind, hosts in left().items()}
