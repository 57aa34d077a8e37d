"""The options that ``plush tree simulate`` and ``compare`` share, and what they describe together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from plush_worker.model import HostEntry, SliceSettings
    from plush_worker.trees.link_costs import LinkCosts
    from plush_worker.trees.network import Network
    from plush_worker.trees.simulate import Scenario

LARGEST_ON_MATRIX = 5000  # hosts: above it, a network is made up unless one is named

HostCount = Annotated[int, typer.Option("--hosts", min=0, max=1_000_000, help="So many hosts, made up; instead of -w.")]
Rtt = Annotated[
    str, typer.Option("--rtt", metavar="planetlab|zero|plane|FILE", help="Round trips; see docs/simulator.md.")
]
Seed = Annotated[int, typer.Option(help="For what is drawn: hosts beyond a matrix's rows, a made-up network.")]
WorkerCount = Annotated[int, typer.Option("--workers", min=1, max=1000, help="So many workers.")]
Degree = Annotated[int, typer.Option(min=0, max=1000, help="Children of a host, at most; 0: the slice's.")]
Depth = Annotated[int, typer.Option(min=-1, max=1000, help="Links from worker to leaf; 0: no limit, -1: the slice's.")]
AtOnce = Annotated[int, typer.Option("--logins-at-once", min=0, help="Of a host; 0: the slice's.")]
WorkerAtOnce = Annotated[int, typer.Option("--worker-logins-at-once", min=0, help="Of a worker; 0: the slice's.")]
InnerLogin = Annotated[str, typer.Option(metavar="agent|key", help="How hosts log in to each other; else the slice's.")]
Kex = Annotated[str, typer.Option(metavar="NAME", help="Costs measured with this key exchange; else ssh's default.")]
CostsFile = Annotated[str, typer.Option("--costs", metavar="FILE", help="Costs from plush tree calibrate.")]
RoundTrips = Annotated[float, typer.Option(min=0, help="Round trips of a host's link; 0: those of the costs.")]
WorkerRoundTrips = Annotated[float, typer.Option(min=0, help="Round trips of a worker's link; 0: those of the costs.")]
Cores = Annotated[float, typer.Option(min=0, help="All hosts share so many cores, as in a testbed; 0: they don't.")]
ControllerCpu = Annotated[float, typer.Option(min=0, help="The workers have this share of a core; 0: one each.")]
Blind = Annotated[bool, typer.Option("--blind", help="Plan as a run does, which knows no round trips but sites.")]


@dataclass(frozen=True, slots=True)
class Wanted:
    """The options together; those that name hosts as ``resolved_hosts`` takes them."""

    named: tuple[Any, ...]  # hosts, exclude, login, ssh_config, hostfiles, directory, slice_name
    host_count: int
    rtt: str
    seed: int
    workers: int
    degree: int
    depth: int
    inner_login: str
    logins_at_once: int
    worker_logins_at_once: int
    kex: str
    costs: str
    round_trips: float
    worker_round_trips: float
    cores: float
    controller_cpu: float
    blind: bool
    assume_inner_links: bool  # where the slice has none: hosts link to each other all the same


def pose_scenario(wanted: Wanted) -> Scenario:
    """What is to be simulated; says on stderr which network and costs are used. Raises PlushError."""
    from plush_worker.errors import UsageError
    from plush_worker.model import WorkerInfo
    from plush_worker.trees.simulate import Scenario

    from .app import say

    if wanted.inner_login not in ("", "agent", "key"):
        raise UsageError(f"--inner-login {wanted.inner_login}: must be agent or key")
    entries, settings, network = _hosts(wanted)
    costs, note = link_costs(wanted)
    say(network.note)
    say(note)
    own = [WorkerInfo(f"worker{n}", "", "", 1) for n in range(1, wanted.workers + 1)]
    return Scenario(entries, own, settings, network, costs, wanted.cores, wanted.controller_cpu, wanted.blind)


def link_costs(wanted: Wanted) -> tuple[LinkCosts, str]:
    """(costs, a line that says whose they are): the file's, else those measured here, else the built-in ones."""
    from dataclasses import replace
    from pathlib import Path

    from plush_worker.errors import UsageError
    from plush_worker.trees.link_costs import LinkCosts, costs_path, read_costs

    file, kex = wanted.costs, wanted.kex
    path = Path(file) if file else costs_path()
    if file or path.exists():
        measured = read_costs(path)
        found = measured.choose(kex)
        note = f"costs of a link as measured {measured.measured_at}, key exchange {kex or 'default'} ({path})"
    elif kex:
        raise UsageError(f"--kex {kex}: no costs have been measured on this machine; plush tree calibrate does that")
    else:
        found = LinkCosts()
        note = "costs of a link as built in; plush tree calibrate measures this machine's"
    found = replace(
        found,
        round_trips=wanted.round_trips or found.round_trips,
        worker_round_trips=wanted.worker_round_trips or found.worker_round_trips,
    )
    return found, note


def _hosts(wanted: Wanted) -> tuple[Sequence[HostEntry], SliceSettings, Network]:
    from plush_worker.errors import UsageError
    from plush_worker.model import SliceSettings

    names, _, _, _, hostfiles, _, slice_name = wanted.named
    if wanted.host_count and (names or hostfiles or slice_name):
        raise UsageError("--hosts makes hosts up, and -w, --hostfile and --slice name some: give one of them")
    if not wanted.host_count:
        return _named_hosts(wanted)
    network = read_network(wanted.rtt or ("planetlab" if wanted.host_count <= LARGEST_ON_MATRIX else "plane"), wanted)
    settings = SliceSettings(inner_login=wanted.inner_login or "agent")
    return made_up_entries(wanted.host_count, network), _limits(wanted, settings), network


def _named_hosts(wanted: Wanted) -> tuple[Sequence[HostEntry], SliceSettings, Network]:
    from plush_worker.errors import UserError
    from plush_worker.trees.network import by_site

    from .app import say
    from .host_options import resolved_hosts
    from .tree import with_inner_links

    resolved = resolved_hosts(*wanted.named)
    for name, why in resolved.rejected.items():
        say(f"{name}: {why}")
    if not resolved.entries:
        raise UserError("no hosts to simulate")
    settings, entries = resolved.settings, resolved.entries
    if wanted.assume_inner_links or wanted.inner_login:
        settings, entries = with_inner_links(settings, entries, wanted.inner_login)
    network = read_network(wanted.rtt, wanted, len(entries)) if wanted.rtt else by_site(entries)
    return entries, _limits(wanted, settings), network


def read_network(rtt: str, wanted: Wanted, host_count: int = 0) -> Network:
    """The network that ``--rtt`` names, for ``host_count`` hosts or as many as are made up. Raises MatrixError."""
    from pathlib import Path

    from plush_worker.trees import matrix, network
    from plush_worker.trees.coordinates import plane

    count = host_count or wanted.host_count
    if rtt == "zero":
        return network.zero(count)
    if rtt == "plane":
        return plane(count, wanted.seed)
    path = matrix.PLANETLAB if rtt == "planetlab" else Path(rtt)
    return network.from_matrix(matrix.read_matrix(path), count, wanted.seed)


def made_up_entries(count: int, network: Network) -> list[HostEntry]:
    """Hosts h1, h2 and so on at the network's sites, with keys that are taken to be known."""
    from plush_worker.model import HostEntry

    sites = network.sites or [""] * count
    return [HostEntry(f"h{n}", f"h{n}", known_hosts=("made up",), site=site) for n, site in enumerate(sites[:count], 1)]


def _limits(wanted: Wanted, settings: SliceSettings) -> SliceSettings:
    from dataclasses import replace

    return replace(
        settings,
        degree=wanted.degree or settings.degree,
        depth=settings.depth if wanted.depth < 0 else wanted.depth,
        logins_at_once=wanted.logins_at_once or settings.logins_at_once,
        worker_logins_at_once=wanted.worker_logins_at_once or settings.worker_logins_at_once,
    )
