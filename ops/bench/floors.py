"""Scenario: what this machine needs at least: N logins and nothing else, N local processes, N of them at one instant.

``measure`` is the outer half; ``turns`` runs on the controller.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ops.bench import spawns, usage
from ops.bench.drive import drive
from ops.bench.driver import Outer, say
from ops.bench.field import Field
from ops.bench.ground import open_ground
from ops.bench.results import Outcome
from ops.bench.samples import Samples, add_cells, chosen
from ops.bench.scenarios import Settings, scenario
from ops.bench.wide_area import describe_ground

COUNTS = (64, 489)
LOGINS = "N logins by asyncssh, `true` on each"
SPAWN_TRUE, SPAWN_DATE = "N local `true`", "N local `sh -c date`"
STAMP, EXEC = "N local processes told one instant: stamp", "N local processes told one instant: exec, then stamp"
TOOLS = (LOGINS, SPAWN_TRUE, SPAWN_DATE, STAMP, EXEC)
QUANTITIES = {
    "wall_s": ("wall time", "s"),
    "cpu_s": ("controller's CPU time", "s"),
    "spread_s": ("first to last stamp", "s"),
}


@scenario("floors", "Floors of this machine")
def measure(settings: Settings) -> Outcome:
    """No tool is measured here: no tool can be faster on this machine."""
    outcome = Outcome()
    for count in settings.counts(*COUNTS):
        column = f"{count} hosts"
        options = {"tools": chosen(TOOLS, settings.tools), "repetitions": settings.repetitions}
        with open_ground(settings, count) as ground:
            say(column)
            samples = drive(ground, __name__, options)
            describe_ground(outcome, ground, column)
        add_cells(outcome, samples, column, QUANTITIES)
        for tool in (STAMP, EXEC):  # these have a spread and no wall time
            values, failures = samples["values"].get(tool, {}), samples["failures"].get(tool, [])
            if failures and not values:
                outcome.notes.append(f"{tool}, {column}: failed: {failures[0]}")
    return outcome


# On the controller


def turns(area: Field, options: Mapping[str, Any], outer: Outer) -> dict[str, Any]:
    """Every floor by turns."""
    import asyncssh  # noqa: F401 - its import is no part of a login

    del outer
    samples = Samples(options["tools"])
    for _ in range(options["repetitions"]):
        for tool in options["tools"]:
            if samples.is_hopeless(tool):
                continue
            try:
                samples.add(tool, **_measure_once(tool, area))
            except OSError as error:
                say(f"{tool}: failed: {error}")
                samples.fail(tool, f"{type(error).__name__}: {error}")
    return samples.to_mapping()


def _measure_once(tool: str, area: Field) -> dict[str, float]:
    count = len(area.hosts)
    if tool == LOGINS:
        began, cpu_s = time.perf_counter(), time.process_time()
        asyncio.run(_log_in_everywhere(area))
        return {"wall_s": time.perf_counter() - began, "cpu_s": time.process_time() - cpu_s}
    if tool in (STAMP, EXEC):
        return {"spread_s": spawns.release_spread_s(count, "exec" if tool == EXEC else "stamp")}
    argv = ("true",) if tool == SPAWN_TRUE else ("sh", "-c", "date")
    before_s = usage.cpu_of_children_s()
    return {"wall_s": spawns.spawn_all_s(argv, count), "cpu_s": usage.cpu_of_children_s() - before_s}


async def _log_in_everywhere(area: Field) -> None:
    """All at once. Raises OSError when a login or its command fails."""
    import asyncssh

    key = asyncssh.read_private_key(area.identity)
    known = asyncssh.read_known_hosts(area.known_hosts)

    async def log_in(address: str) -> None:
        async with asyncssh.connect(
            address, area.port, username=area.user, client_keys=[key], known_hosts=known, agent_path=None, config=None,
            kex_algs=[area.key_exchange], login_timeout=120,
        ) as connection:  # fmt: skip
            ran = await connection.run("true")
            if ran.exit_status:
                raise OSError(f"{address}: `true` ended with {ran.exit_status}")

    try:
        await asyncio.gather(*(log_in(address) for address in area.addresses))
    except asyncssh.Error as error:
        raise OSError(f"a login failed: {error}") from error
