"""Where the hosts of a wide-area scenario come from: the testbed, or sshd on loopback. Each gives the same ``Ground``.

A scenario has two halves. The outer one runs here, makes a ground and turns samples into an outcome. The inner one is a
function ``turns(area, options, outer)`` of the same module that runs on the controller (``driver.py``), so that what it
times contains no entering of namespaces.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ops.bench.field import Field, field_of_local_hosts
from ops.bench.scenarios import Settings
from plush_api.local_hosts import FASTER_KEX, LocalHosts

ROOT = Path(__file__).parents[2]
CONTROLLER = ""  # in place of a host's name
LAG_LIMIT_MS = 5.0


@dataclass(frozen=True, slots=True)
class Ground:
    """Hosts that are up."""

    area: Field
    start: Callable[..., subprocess.Popen[bytes]]  # a command on the controller, with Popen's keywords
    rtt_s: Callable[[str, str], float]  # between two hosts by their names; CONTROLLER is one
    lag_ms: Callable[[], dict[str, float]]  # p50, p99, max of the testbed's own delay; empty when there is no network
    settings: Mapping[str, object] = field(default_factory=dict)  # for the result


@contextmanager
def open_ground(
    settings: Settings,
    host_count: int,
    *,
    visible: tuple[Path, ...] = (),
    controller_cores: float = 0,
    disk_mib: int = 64,
) -> Iterator[Ground]:
    """``host_count`` hosts and a controller. ``visible`` are folders that the controller must see.

    ``controller_cores`` limits the controller's processors; 0: it has all. Raises TestbedError, LocalHostsError.
    """
    if settings.ground == "loopback":
        with LocalHosts(host_count) as hosts:
            area = field_of_local_hosts(hosts)
            place = {"hosts' place": "loopback", "key exchange": FASTER_KEX}
            yield Ground(area, _start_here, _no_distance, dict, place)
        return
    # Imported here: the other scenarios don't need a testbed.
    from ops.testbed.testbed import Settings as TestbedSettings
    from ops.testbed.testbed import Testbed

    wanted = TestbedSettings(
        host_count=host_count + 1,
        rtt=settings.rtt,
        seed=settings.seed,
        kex=FASTER_KEX,
        sshd_options=(f"KexAlgorithms {FASTER_KEX}",),  # hosts among each other too
        inner_login="agent",
        disk_mib=disk_mib,
        cpu_shares={0: controller_cores} if controller_cores else {},
        visible=(ROOT, Path(sys.prefix), *visible),
    )
    with Testbed(wanted) as testbed:
        numbers = {CONTROLLER: 0} | {f"h{number}": number for number in range(1, host_count + 1)}
        hosts_of = tuple(numbers)[1:]
        area = Field(
            hosts=hosts_of,
            names=f"h[1-{host_count}]" if host_count > 1 else "h1",
            addresses=tuple(testbed.address(numbers[name]) for name in hosts_of),
            port=22,
            user="tester",
            identity="/home/root/.ssh/id_ed25519",
            known_hosts="/etc/ssh/ssh_known_hosts",
            directory=Path(testbed.directory),
            slice="testbed",
            forwards_agent=True,
            device="wan0",
        )

        def lag_ms() -> dict[str, float]:
            lag = testbed.lag()
            return {"p50": lag.p50_ms, "p99": lag.p99_ms, "max": lag.max_ms}

        yield Ground(
            area,
            testbed.popen,
            lambda a, b: testbed.rtt_s(numbers[a], numbers[b]),
            lag_ms,
            {"matrix": settings.rtt, "seed": settings.seed, "key exchange": FASTER_KEX},
        )


def lag_words(ground: Ground, column: str) -> tuple[str, str]:
    """(the testbed's lag in words, a note when it was too great); both empty on loopback."""
    lag = ground.lag_ms()
    if not lag:
        return "", ""
    words = f"p50 {lag['p50']:.2f} ms, p99 {lag['p99']:.2f} ms, max {lag['max']:.1f} ms"
    if lag["p99"] <= LAG_LIMIT_MS:
        return words, ""
    return words, (
        f"With {column} the testbed itself delayed packets by more than {LAG_LIMIT_MS:g} ms beyond the matrix "
        f"({words}): the two share the processors, so times of every tool there are too long."
    )


def _no_distance(*_: str) -> float:
    return 0.0


def _start_here(argv: list[str], **keywords: Any) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, **keywords)
