"""Ready-made troubles of reachability: what the network, sshd and the host directory say in each. Pure.

Entry point: ``make_fixture``. Every fixture leaves host 0 the controller, and describes itself in ``note``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from . import host_files
from .errors import BadInput
from .faults import Fault

SLOW_MBIT = 2.0
SLOW_ONE_WAY_S = 0.15
SLOW_LOSS = 0.01


@dataclass(frozen=True, slots=True)
class Fixture:
    """What differs from a testbed without one."""

    note: str = ""
    network: tuple[Fault, ...] = ()  # hold from the start
    sshd_options: Mapping[int, tuple[str, ...]] = field(default_factory=dict)
    host_fields: Mapping[int, Mapping[str, object]] = field(default_factory=dict)  # of the host directory


def make_fixture(name: str, host_count: int) -> Fixture:
    """The fixture of this name; "" is none. Raises BadInput."""
    if not name:
        return Fixture()
    if name not in FIXTURES:
        raise BadInput(f"there is no fixture {name!r}; there are: {', '.join(FIXTURES)}")
    least, make = FIXTURES[name]
    if host_count < least:
        raise BadInput(f"fixture {name} needs at least {least} hosts, not {host_count}: say --hosts {least}")
    return make(host_count)


def _private_network(host_count: int) -> Fixture:
    """The upper half has a network of its own; only the gateway h1 has a foot in both."""
    private = tuple(range(host_count // 2 + 1, host_count))
    outside = tuple(host for host in range(host_count) if host not in private and host != 1)
    fields = {host: {"tags": ["private"], "reachable_from": ["h1", "@private"]} for host in private}
    note = f"{_names(private)} can be reached only from each other and from the gateway h1"
    return Fixture(note, network=(Fault("cut", private, outside),), host_fields=fields)


def _peer_only(host_count: int) -> Fixture:
    """Every second host lets in only its neighbour: its sshd refuses the logins of all others."""
    guarded = tuple(range(2, host_count, 2))
    options = {host: (f"AllowUsers *@{host_files.address(host - 1)}",) for host in guarded}
    fields = {host: {"reachable_from": [host_files.name(host - 1)]} for host in guarded}
    note = f"{_names(guarded)} accept logins only from the host numbered one below"
    return Fixture(note, sshd_options=options, host_fields=fields)


def _slow_region(host_count: int) -> Fixture:
    """The last quarter is far away behind narrow links that lose packets."""
    slow = tuple(range(host_count - max(1, host_count // 4), host_count))
    others = tuple(range(slow[0]))
    network = (
        Fault("rate", slow, value=SLOW_MBIT),
        Fault("delay", slow, others, value=SLOW_ONE_WAY_S),
        Fault("loss", slow, others, value=SLOW_LOSS),
    )
    note = (
        f"{_names(slow)} are {SLOW_ONE_WAY_S * 2000:.0f} ms away from all others, lose {SLOW_LOSS:.0%} of the packets "
        f"on that way and have {SLOW_MBIT:g} Mbit/s each"
    )
    return Fixture(note, network, host_fields={host: {"tags": ["slow"]} for host in slow})


def _names(hosts: tuple[int, ...]) -> str:
    return ", ".join(host_files.name(host) for host in hosts[:5]) + (" and so on" if len(hosts) > 5 else "")


FIXTURES: Mapping[str, tuple[int, Callable[[int], Fixture]]] = {  # name -> (least hosts, maker)
    "private-network": (4, _private_network),
    "peer-only": (3, _peer_only),
    "slow-region": (4, _slow_region),
}
