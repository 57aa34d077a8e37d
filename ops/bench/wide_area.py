"""What the wide-area scenarios share on their outer side: which tools there are, and what is said of the ground."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ops.bench.ground import Ground, lag_words
from ops.bench.peer_environment import PeerEnvironment, make_peer_environment
from ops.bench.peers import PEERS
from ops.bench.results import Outcome
from ops.bench.samples import chosen
from ops.bench.scenarios import Settings

LOOPBACK_NOTE = "Measured on loopback without any distance between the hosts: not what this scenario is for."


@dataclass(frozen=True, slots=True)
class Company:
    """The peers that take part, and where they are."""

    made: PeerEnvironment

    @property
    def visible(self) -> tuple[Path, ...]:
        """Folders that the controller must see."""
        return (Path(self.made.folder),) if self.made.folder else ()

    def tools(self, settings: Settings, host_count: int, ours: Sequence[str], peers: Sequence[str] = ()) -> list[str]:
        """Names of what is to be measured: peers that there are and take so many hosts, then ours."""
        able = [
            name
            for name, peer in PEERS.items()
            if peer.program in self.made.programs
            and (not peer.max_hosts or host_count <= peer.max_hosts)
            and (not peers or name in peers)
        ]
        return chosen([*able, *ours], settings.tools)


def find_company(outcome: Outcome) -> Company:
    """The peers' environment; those that are missing are named in the outcome."""
    made = make_peer_environment()
    outcome.settings["peers"] = ", ".join(f"{name} {version}" for name, version in sorted(made.versions.items()))
    outcome.notes += [f"Not measured: {peer}, {why}." for peer, why in sorted(made.missing.items())]
    return Company(made)


def describe_ground(outcome: Outcome, ground: Ground, column: str) -> None:
    """Say in the outcome on what its column was measured; to be called when the measurement is over."""
    outcome.settings |= ground.settings
    words, note = lag_words(ground, column)
    if words:
        outcome.settings[f"testbed's lag with {column}"] = words
    elif LOOPBACK_NOTE not in outcome.notes:
        outcome.notes.append(LOOPBACK_NOTE)
    if note:
        outcome.notes.append(note)
