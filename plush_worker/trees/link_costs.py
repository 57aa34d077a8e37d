"""What one link costs on a given machine: CPU time at both ends, round trips, waiting. Measured or built in.

Owns the parameters of the simulator and the file in which ``plush tree calibrate`` leaves them. Entry points:
``LinkCosts``, ``read_costs``, ``write_costs``.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from plush_worker import xdg
from plush_worker.errors import ConfigurationError

from .costs import CostTable
from .network import Network

FILE = "link_costs.json"  # below the state folder
VERSION = 1
WORKER = -2  # the cluster of the workers in a cost table; never one of hosts, and UNKNOWN is -1
DEFAULT_KEX = "default"  # what OpenSSH chooses when told nothing


@dataclass(frozen=True, slots=True)
class LinkCosts:
    """One link's costs in seconds; without measurements those by which trees are planned (``CostTable``)."""

    worker_connect_s: float = 0.004  # CPU, a worker's for one of its links: asyncssh, in bulk
    host_connect_s: float = 0.050  # CPU, a parent host's: its ssh process
    server_s: float = 0.020  # CPU, the child's: sshd up to the command, login shell
    node_s: float = 0.025  # CPU, the child's: the node program up to READY
    wait_s: float = 0.055  # what else passes, without CPU and whatever the distance
    round_trips: float = 14.3  # of a host's ssh, from the first packet to the end of the node program's bytes
    worker_round_trips: float = 13.2  # the same of asyncssh
    agent_round_trips: float = 4.0  # of a host's link with inner_login agent: from the parent to the worker's agent

    def table(self, network: Network, worker_count: int) -> CostTable:
        """The same costs as planners take them, where every host has a processor of its own.

        Planners know one number of round trips for all links. A worker's take another, so its distances are given
        shorter.
        """
        rtt_s, controller = network.rtt_s, network.controller
        share = self.worker_round_trips / self.round_trips if self.round_trips else 1.0

        def seeming_rtt_s(a: int, b: int) -> float:
            return share * rtt_s(controller, b) if a == WORKER else rtt_s(a, b)

        return CostTable(
            network.clusters,
            seeming_rtt_s,
            worker_clusters=[WORKER] * worker_count,
            worker_connect_s=self.worker_connect_s,
            host_connect_s=self.host_connect_s,
            round_trips=self.round_trips,
            start_s=self.server_s + self.node_s + self.wait_s,
        )


@dataclass(frozen=True, slots=True)
class MeasuredCosts:
    """What was measured on one machine: key exchange -> costs; DEFAULT_KEX is always there."""

    key_exchanges: Mapping[str, LinkCosts]
    measured_at: str = ""  # ISO 8601
    about: Mapping[str, Any] = field(default_factory=dict)  # machine, versions, repetitions, spread: for people

    def choose(self, kex: str) -> LinkCosts:
        """The costs with a key exchange; empty means OpenSSH's default. Raises ConfigurationError."""
        try:
            return self.key_exchanges[kex or DEFAULT_KEX]
        except KeyError:
            there = ", ".join(self.key_exchanges)
            raise ConfigurationError(
                f"no costs were measured for the key exchange {kex}, but for {there}; plush tree calibrate --kex {kex}"
            ) from None


def costs_path() -> Path:
    """Where the measured costs of this machine are, if they are."""
    return xdg.state_dir() / FILE


def write_costs(measured: MeasuredCosts, path: Path) -> None:
    """Replaces the file. Raises ConfigurationError when it can't be written."""
    data = {
        "version": VERSION,
        "measured_at": measured.measured_at,
        "about": dict(measured.about),
        "key_exchanges": {kex: asdict(costs) for kex, costs in measured.key_exchanges.items()},
    }
    new = path.with_name(path.name + ".new")
    try:
        new.write_text(json.dumps(data, indent=1) + "\n")
        new.replace(path)
    except OSError as error:
        raise ConfigurationError(f"can't write the measured costs to {path}: {error.strerror}") from error


def read_costs(path: Path) -> MeasuredCosts:
    """What ``write_costs`` wrote. Raises ConfigurationError, which names the file and what is wrong with it."""
    try:
        data = json.loads(path.read_text())
    except OSError as error:
        raise ConfigurationError(f"can't read measured costs from {path}: {error.strerror}") from error
    except ValueError as error:
        raise ConfigurationError(f"{path} is no JSON: {error}; plush tree calibrate writes it anew") from error
    try:
        return _decode(data)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ConfigurationError(
            f"{path} holds no measured costs ({error or type(error).__name__}); plush tree calibrate writes it anew"
        ) from error


def _decode(data: Any) -> MeasuredCosts:
    if data["version"] != VERSION:
        raise ValueError(f"version {data['version']}, {VERSION} is wanted")
    names = {f.name for f in fields(LinkCosts)}
    found = {}
    for kex, costs in data["key_exchanges"].items():
        if costs.keys() != names:
            raise ValueError(f"{kex}: {', '.join(sorted(costs.keys() ^ names))} missing or unknown")
        for name, value in costs.items():
            if not isinstance(value, int | float) or isinstance(value, bool) or not math.isfinite(value) or value < 0:
                raise ValueError(f"{kex}: {name} is {value!r}")
        found[kex] = LinkCosts(**costs)
    if DEFAULT_KEX not in found:
        raise ValueError(f"nothing for the key exchange {DEFAULT_KEX}")
    return MeasuredCosts(found, str(data.get("measured_at", "")), dict(data.get("about", {})))
