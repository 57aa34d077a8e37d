"""``plush run`` on a service elsewhere: an experiment over HTTP, whose hosts are looked up where the service runs.

What only this machine can read (standard input, files of hosts) is read here; what is to be looked up in another
place than the service's own host directory is refused.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from plush_worker.errors import EXIT_INTERRUPTED, UsageError

from .control import LEASE_S, Abandoned, RunControl
from .options import RunOptions
from .submission import TTL_S

JOIN_ONLY = ":"  # for hosts that are only to join the mesh: an experiment has to run something

if TYPE_CHECKING:
    from plush_worker.experiment.spec import Experiment

    from .console import Console
    from .service import RemoteService


def run_remotely(options: RunOptions, service: RemoteService, console: Console) -> int:
    """Submit the command as an experiment and stay with it to its end. Returns the exit code."""
    from plush_worker.experiment.directory import Resolved
    from plush_worker.model import HostEntry, SliceSettings

    from .watch import RunWatch

    if options.workers:
        console.say(f"--workers {options.workers} has no effect: the workers of {service.remote.url} are used")
    experiment = experiment_of(options, sys.stdin.read)
    client = service.connect()
    try:
        began_s = time.monotonic()
        # Ctrl-C before the answer: nobody renews the lease, and the run is stopped within a minute.
        spec = client.submit_experiment(experiment, os.getcwd())
        if not options.command:
            spec = replace(spec, command="")  # as RunWatch knows a run that only joins the mesh
        entries = [HostEntry(str(host["name"]), "") for host in spec.hosts]
        resolved = Resolved(entries, SliceSettings(), {}, [], service.remote.url)
        with RunControl(service.connect, spec.run_id) as control:
            return RunWatch(options, resolved, spec, console).to_the_end(client, control, None, began_s)
    except Abandoned:
        console.say(f"left without waiting for the end of run {spec.run_id}", always=True)
        return EXIT_INTERRUPTED
    finally:
        client.close()


def experiment_of(options: RunOptions, read_stdin: Callable[[], str]) -> Experiment:
    """What the options ask for. Raises UsageError for those that only this machine could carry out, SpecErrors."""
    from plush_worker.experiment.spec import experiment_from_options

    for flag, value in (
        ("-F", options.ssh_config),
        ("--directory", options.directory),
        ("--planner", options.planner),
        ("-t", options.connect_timeout_s),
    ):
        if value:
            raise UsageError(f"{flag} {value}: how hosts are reached is said where the service runs, in its slices")
    return experiment_from_options(
        host_texts(options.hosts, options.hostfiles, read_stdin),
        options.command or JOIN_ONLY,
        exclude=host_texts(options.exclude, (), read_stdin),
        login=options.login,
        slice=options.slice,
        timeout_s=options.timeout_s,
        together=options.together,
        fanout=options.fanout,
        ttl_s=TTL_S,
        client_lease_s=LEASE_S,
    )


def host_texts(texts: Sequence[str], hostfiles: Sequence[str], read_stdin: Callable[[], str]) -> list[str]:
    """``-w`` texts with the names in standard input and in files in their place; ``@groups`` stay as they are.

    Raises HostListError.
    """
    from plush_worker.experiment.host_list import read_host_list

    found = []
    for text in texts:
        if any(item == "-" or item.startswith("^") for item in text.replace(",", " ").split()):
            names = read_host_list([text], group=_no_group, read_stdin=read_stdin).names
            found.append(",".join(names))
        else:
            found.append(text)
    if hostfiles:
        found.append(",".join(read_host_list([], hostfiles=hostfiles, group=_no_group).names))
    return found


def _no_group(name: str) -> list[str]:
    raise LookupError(
        f"@{name} is known to the service only: give it in a -w of its own, not with ^FILE, - or in a file"
    )
