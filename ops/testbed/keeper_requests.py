"""Requests to the keeper, performed: faults, and questions about a testbed that is up."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from . import faults
from .faults import Fault
from .forwarder_client import ForwarderClient
from .keeper_hosts import Hosts


class Requests:
    """``network``: requests that hold from the start, and again after heal-all."""

    def __init__(
        self, hosts: Hosts, forwarder: ForwarderClient, network: Sequence[Mapping[str, Any]], rate_mbit: float
    ) -> None:
        self._hosts = hosts
        self._forwarder = forwarder
        self._network = [Fault.from_request(request) for request in network]
        self._rate_mbit = rate_mbit
        self._everyone = tuple(range(len(hosts.hosts)))
        self._faults: dict[str, Callable[[Fault], None]] = {
            "power-off": lambda fault: hosts.power_off(fault.hosts),
            "power-on": lambda fault: hosts.power_on(fault.hosts),
            "freeze": lambda fault: hosts.freeze(fault.hosts, frozen=True),
            "thaw": lambda fault: hosts.freeze(fault.hosts, frozen=False),
            "cut": lambda fault: forwarder.cut(fault.hosts, fault.others, fault.both),
            "heal": lambda fault: forwarder.heal(fault.hosts, fault.others),
            "partition": lambda fault: forwarder.cut(fault.hosts, self._rest(fault), fault.both),
            "rejoin": lambda fault: forwarder.heal(fault.hosts, self._rest(fault)),
            "loss": self._loss,
            "delay": self._delay,
            "rate": self._rate,
            "stop-sshd": lambda fault: hosts.stop_sshd(fault.hosts),
            "start-sshd": lambda fault: hosts.start_sshd(fault.hosts),
            "fill-disk": lambda fault: hosts.fill_disk(fault.hosts, full=True),
            "free-disk": lambda fault: hosts.fill_disk(fault.hosts, full=False),
            "heal-all": lambda _: self._heal_all(),
        }

    def perform(self, request: Mapping[str, Any]) -> object:
        """Do it; returns the answer as plain data. Raises TestbedError."""
        do = request["do"]
        if do == "where":
            return self._hosts.where(int(request["host"]))
        if do == "lag":
            return asdict(self._forwarder.lag(bool(request.get("reset"))))
        if do == "log":
            return self._hosts.log(int(request["host"]))
        if do == "status":
            return self._status()
        fault = faults.check(Fault.from_request(request), len(self._everyone))
        self._faults[fault.do](fault)
        return None

    def set_network(self) -> None:
        """What holds from the start."""
        self._again(*(fault.do for fault in self._network))

    def _again(self, *kinds: str) -> None:
        for fault in self._network:
            if fault.do in kinds:
                self._faults[fault.do](fault)

    def _rest(self, fault: Fault) -> list[int]:
        return [host for host in self._everyone if host not in fault.hosts]

    def _loss(self, fault: Fault) -> None:
        self._forwarder.loss(fault.hosts, fault.others, fault.value)
        if fault.value is None:
            self._again("loss")

    def _delay(self, fault: Fault) -> None:
        self._forwarder.delay(fault.hosts, fault.others, fault.value)
        if fault.value is None:
            self._again("delay")

    def _rate(self, fault: Fault) -> None:
        mbit = self._rate_mbit if fault.value is None else fault.value
        self._forwarder.rate(fault.hosts, mbit, mbit)
        if fault.value is None:
            self._again("rate")

    def _heal_all(self) -> None:
        everyone = self._everyone
        self._forwarder.heal(everyone, everyone)
        for kind in ("loss", "delay", "rate"):
            self._faults[kind](Fault(kind, everyone, everyone))
        self._again("cut", "partition")

    def _status(self) -> dict[str, Any]:
        hosts = {
            host.name: "off" if not host.pid else "frozen" if host.is_frozen else "on" for host in self._hosts.hosts
        }
        return {"host_count": len(hosts), "hosts": hosts, "lag": asdict(self._forwarder.lag())}
