"""``plush tree compare``: all planners on one network, as a table and as a plot."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Any

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
    from collections.abc import Sequence
    from pathlib import Path

    from plush_worker.trees.simulate import Scenario, Summary, Trace

_COLUMNS = ("PLANNER", "LAST s", "MEDIAN s", "MEAN s", "HEARD s", "DEPTH", "DEGREE", "CONTROLLER LINKS")


def compare(
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
    planners: Annotated[str, typer.Option(metavar="A,B", help="Only these planners.")] = "",
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
    plot: Annotated[str, typer.Option(metavar="FILE.png", help="Draw how many hosts are ready when.")] = "",
    as_json: AsJson = False,
) -> None:
    """Simulate every planner on the same hosts and costs, and compare them, the quickest first."""
    from pathlib import Path

    if plot:
        _figure()  # before the work
    chosen = chosen_planners(planners)
    named = (hosts, exclude, login, ssh_config, hostfiles, directory, slice_name)
    scenario = pose_scenario(
        Wanted(
            named, host_count, rtt, seed, workers, degree, depth, inner_login, logins_at_once, worker_logins_at_once,
            kex, costs, round_trips, worker_round_trips, cores, controller_cpu, blind, assume_inner_links=True,
        )
    )  # fmt: skip
    traces = play_all(scenario, chosen, all_must=bool(planners))
    if as_json:
        for trace in traces:
            print(json.dumps(trace.summary().as_json()))
    else:
        from .ps import print_table

        print_table(_COLUMNS, [_cells(trace.summary()) for trace in traces])
    if plot:
        draw(traces, Path(plot), f"{len(scenario.entries)} hosts; {scenario.network.note}")


def chosen_planners(text: str) -> list[str]:
    """The planners of ``--planners``; all when it is empty. Raises UsageError."""
    from plush_worker.errors import UsageError
    from plush_worker.trees.simulate import ALL_PLANNERS

    chosen = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in chosen if name not in ALL_PLANNERS]
    if unknown:
        raise UsageError(f"--planners {text}: there is no {', '.join(unknown)}, but {', '.join(ALL_PLANNERS)}")
    return list(dict.fromkeys(chosen)) or list(ALL_PLANNERS)


def play_all(scenario: Scenario, planners: Sequence[str], *, all_must: bool) -> list[Trace]:
    """Every planner's tree, the quickest first. One that can't be used here is left out, with a word on stderr.

    Raises PlanError when ``all_must`` and one can't, or none can.
    """
    from plush_worker.trees.plan import PlanError
    from plush_worker.trees.simulate import simulate

    from .app import say

    traces = []
    for planner in planners:
        try:
            traces.append(simulate(scenario, planner))
        except PlanError as error:
            if all_must:
                raise
            say(f"without {planner}: {error}")
    if not traces:
        raise PlanError("no planner can be used for these hosts")
    return sorted(traces, key=lambda trace: trace.summary().last_s)


def _cells(summary: Summary) -> list[str]:
    times_s = (summary.last_s, summary.median_s, summary.mean_s, summary.heard_s)
    counts = (summary.depth, summary.degree, summary.controller_links)
    return [summary.planner, *(f"{s:.2f}" for s in times_s), *(str(count) for count in counts)]


def draw(traces: Sequence[Trace], path: Path, title: str) -> None:
    """Hosts ready over time, a line for each planner. Raises UsageError without matplotlib, or for a bad file."""
    from plush_worker.errors import UsageError

    figure = _figure()(figsize=(9, 5), layout="constrained")
    axes = figure.subplots()
    for trace in traces:
        points = [(0.0, 0), *trace.series(500)]
        label = f"{trace.planner} ({trace.summary().last_s:.1f} s)"
        axes.plot([s for s, _ in points], [count for _, count in points], label=label, drawstyle="steps-post")
    axes.set(xlabel="seconds", ylabel="hosts ready", xlim=(0, None), ylim=(0, None))
    axes.set_title(title, fontsize="small", wrap=True)
    axes.legend()
    axes.grid(visible=True, alpha=0.3)
    try:
        figure.savefig(path)
    except (OSError, ValueError) as error:
        raise UsageError(f"--plot {path}: {error}") from error


def _figure() -> Any:
    """matplotlib's class of pictures. Raises UsageError where it isn't installed."""
    from importlib import import_module

    from plush_worker.errors import UsageError

    try:
        return import_module("matplotlib.figure").Figure
    except ImportError as error:
        raise UsageError(f"--plot needs matplotlib ({error}): pip install 'plush[plots]'") from error
