"""The hosts of one measurement as tools on the controller reach them. Plain data: it travels to the driver as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from plush_api.local_hosts import FASTER_KEX, SLICE, LocalHosts


@dataclass(frozen=True, slots=True)
class Field:
    """``names`` are all of ``hosts`` folded, as ``-w`` takes them. Logins need nothing that isn't named here."""

    hosts: tuple[str, ...]
    names: str
    addresses: tuple[str, ...]  # in the order of ``hosts``
    port: int
    user: str
    identity: str  # file of the private key that every host accepts
    known_hosts: str
    directory: Path  # Plush's
    slice: str
    ssh_config: str = ""  # empty: the user's own names the hosts
    forwards_agent: bool = False  # hosts log in to each other with a forwarded agent; else with ``ssh_config``
    key_exchange: str = FASTER_KEX  # the only one that the hosts accept
    device: str = ""  # through which everything from the hosts arrives, and nothing else; empty: there is none

    def ssh_options(self) -> tuple[str, ...]:
        """What ``ssh`` needs to be told to log in."""
        return ("-F", self.ssh_config) if self.ssh_config else ()

    def to_mapping(self) -> dict[str, Any]:
        """As JSON takes it."""
        return {**asdict(self), "directory": str(self.directory)}

    @classmethod
    def from_mapping(cls, mapping: dict[str, Any]) -> Field:
        """Undo to_mapping, also behind JSON."""
        lists = {name: tuple(mapping[name]) for name in ("hosts", "addresses")}
        return cls(**{**mapping, **lists, "directory": Path(mapping["directory"])})


def field_of_local_hosts(hosts: LocalHosts) -> Field:
    """Local hosts, which are up."""
    first = next(iter(hosts.hosts.values()))
    return Field(
        hosts=tuple(hosts.hosts),
        names=hosts.names,
        addresses=tuple(host.address for host in hosts.hosts.values()),
        port=first.port,
        user=first.user,
        identity=str(hosts.identity),
        known_hosts=str(hosts.known_hosts),
        directory=hosts.directory,
        slice=SLICE,
        ssh_config=str(hosts.ssh_config),
    )
