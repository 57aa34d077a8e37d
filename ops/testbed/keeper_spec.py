"""What the harness tells the keeper at its start: plain data that goes through JSON. Nothing is decided here."""

from __future__ import annotations

import base64
import json
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Self

from .forwarder_client import PathSettings


@dataclass(frozen=True, slots=True)
class HostSpec:
    """One host, all of whose files are known."""

    name: str
    address: str
    host_key: str  # private, in OpenSSH's format
    sshd_config: str
    files: Mapping[str, str]  # path below a home -> text; 0600, the home's owner
    visible: Sequence[str]  # of the machine's own files, what masked folders must not hide
    hidden: Sequence[str] = ()  # folders masked besides the usual ones
    start: str = ""  # sh, run as root at each power on behind sshd's start; must end
    cpu_share: float | None = None  # cores


@dataclass(frozen=True, slots=True)
class KeeperSpec:
    """The whole testbed."""

    testbed: str  # its id
    seed: int
    disk_mib: int
    sshd: str  # path
    etc: Mapping[str, str]  # path below /etc -> text, in place of the machine's own
    hosts: Sequence[HostSpec]
    paths: PathSettings
    network: Sequence[Mapping[str, Any]] = ()  # requests about the network (faults.py) that hold from the start

    def to_json(self) -> str:
        """One line."""
        data = asdict(self)
        data["paths"]["one_way_s"] = base64.b64encode(self.paths.one_way_s.tobytes()).decode()
        return json.dumps(data)

    @classmethod
    def from_json(cls, text: str | bytes) -> Self:
        """Inverse of to_json."""
        data = json.loads(text)
        one_way_s = array("f")
        one_way_s.frombytes(base64.b64decode(data["paths"]["one_way_s"]))
        paths = PathSettings(**data.pop("paths") | {"one_way_s": one_way_s})
        hosts = [HostSpec(**host) for host in data.pop("hosts")]
        return cls(**data, hosts=hosts, paths=paths)
