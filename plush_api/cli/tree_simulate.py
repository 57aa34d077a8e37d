"""``plush tree simulate``: how a tree would come up, and when each host is ready."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from .host_options import AsJson, DirectoryFile, Exclude, HostFiles, Hosts, Login, SliceName, SshConfig
from .tree_scenario import (
    AtOnce,
    Blind,
    ControllerCpu,
    Cores,
    CostsFile,
    Degree,
    Depth,
    HostCount,
    InnerLogin,
    Kex,
    RoundTrips,
    Rtt,
    Seed,
    Wanted,
    WorkerAtOnce,
    WorkerCount,
    WorkerRoundTrips,
    pose_scenario,
)

if TYPE_CHECKING:
    from plush_worker.trees.simulate import Summary, Trace


def simulate(
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    host_count: HostCount = 0,
    rtt: Rtt = "",
    seed: Seed = 1,
    planner: Annotated[str, typer.Option(metavar="P", help="auto, or one that compare lists; else the slice's.")] = "",
    workers: WorkerCount = 1,
    degree: Degree = 0,
    depth: Depth = -1,
    inner_login: InnerLogin = "",
    logins_at_once: AtOnce = 0,
    worker_logins_at_once: WorkerAtOnce = 0,
    kex: Kex = "",
    costs: CostsFile = "",
    round_trips: RoundTrips = 0.0,
    worker_round_trips: WorkerRoundTrips = 0.0,
    cores: Cores = 0.0,
    controller_cpu: ControllerCpu = 0.0,
    blind: Blind = False,
    series: Annotated[bool, typer.Option("--series", help="Also how many hosts are ready when.")] = False,
    as_json: AsJson = False,
) -> None:
    """Simulate how a tree of links comes up, by what links cost, without connecting to any host."""
    from plush_worker.trees.simulate import simulate as play

    named = (hosts, exclude, login, ssh_config, hostfiles, directory, slice_name)
    scenario = pose_scenario(
        Wanted(
            named, host_count, rtt, seed, workers, degree, depth, inner_login, logins_at_once, worker_logins_at_once,
            kex, costs, round_trips, worker_round_trips, cores, controller_cpu, blind,
            assume_inner_links=planner not in ("", "auto", "flat"),
        )
    )  # fmt: skip
    trace = play(scenario, planner or scenario.settings.planner)
    if as_json:
        found = trace.summary().as_json()
        print(json.dumps(found | ({"series": _series(trace)} if series else {})))
        return
    for line in summary_lines(trace.summary()):
        print(line)
    if series:
        for ready_s, count in _series(trace):
            print(f"{ready_s:9.3f} s {count}")


def summary_lines(summary: Summary) -> Iterator[str]:
    """For people."""
    yield (
        f"planner {summary.planner}: {summary.host_count} hosts, {summary.controller_links} of them linked to by "
        f"workers, {summary.depth} deep, {summary.degree} children at most"
    )
    yield f"ready: the last after {summary.last_s:.2f} s, median {summary.median_s:.2f} s, mean {summary.mean_s:.2f} s"
    yield f"the controller has heard of all after {summary.heard_s:.2f} s"
    if summary.unreachable_count:
        yield f"{summary.unreachable_count} hosts can't be linked to; plush tree plan says why"


def _series(trace: Trace) -> list[tuple[float, int]]:
    return [(round(ready_s, 3), count) for ready_s, count in trace.series()]
