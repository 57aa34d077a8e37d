"""``plush run``: a command on many hosts, from the command line to the exit code.

Owns the order of things: options, hosts, service, submission, following, summary. Imported by ``app`` before anything
else, so nothing here may import what it doesn't need before the first request (150 ms from the start of the process).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from plush_worker.errors import EXIT_INTERRUPTED, UsageError
from plush_worker.model import SliceSettings

from .console import Console
from .options import RunOptions, help_text, parse
from .submission import make_spec

if TYPE_CHECKING:
    from plush_api.client import Client
    from plush_worker.experiment.directory import Resolved

    from .service import FoundService


def main(words: Sequence[str]) -> int:
    """Run ``plush run WORDS`` and return its exit code."""
    options = parse(words)
    if options.help:
        sys.stdout.write(help_text())
        return 0
    console = Console(quiet=options.quiet)
    from .service import find_remote_service

    if (remote := find_remote_service()) is not None:
        from .remote_run import run_remotely

        if options.outdir:
            make_outdir(options.outdir)
        return run_remotely(options, remote, console)
    resolved = resolve_hosts(options)
    for note in resolved.notes:
        console.say(note)
    settings = settings_of(options, resolved.settings)
    if settings.planner not in ("auto", "flat") and settings.inner_login == "none":
        console.say(
            f"planner {settings.planner}: hosts don't log in to each other here, so the tree is flat; "
            "a slice with inner_login (agent or key) changes that"
        )
    if options.outdir:
        make_outdir(options.outdir)
    if not resolved.entries:
        from .watch import report_rejected

        return report_rejected(options, resolved, console)
    with ExitStack() as stack:
        from .service import find_or_start_service

        service = find_or_start_service(options.workers, console, stack)
        client = service.connect()
        stack.callback(client.close)
        return follow_run(options, resolved, settings, console, client, service)


def resolve_hosts(options: RunOptions) -> Resolved:
    """The hosts that were named. Raises PlushError when there are none."""
    from plush_worker.experiment.directory import HostOptions, resolve

    return resolve(
        options.hosts,
        HostOptions(
            exclude=tuple(options.exclude),
            login=options.login,
            config_file=options.ssh_config,
            hostfiles=tuple(options.hostfiles),
            directory=options.directory,
            slice=options.slice,
        ),
        read_stdin=sys.stdin.read,
    )


def settings_of(options: RunOptions, settings: SliceSettings) -> SliceSettings:
    """The slice's settings with what the command line says instead."""
    from dataclasses import replace

    if options.planner:
        settings = replace(settings, planner=options.planner)
    if options.connect_timeout_s:
        settings = replace(settings, connect_timeout_s=options.connect_timeout_s)
    return settings


def make_outdir(folder: str) -> None:
    """Make the folder for output, before anything is run. Raises UsageError."""
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as error:
        raise UsageError(f"--outdir {folder}: {error.strerror}") from error
    if not os.access(folder, os.W_OK | os.X_OK):
        raise UsageError(f"--outdir {folder}: no permission to write there")


def follow_run(
    options: RunOptions,
    resolved: Resolved,
    settings: SliceSettings,
    console: Console,
    client: Client,
    service: FoundService,
) -> int:
    """Submit the run and stay with it to its end. Returns the exit code."""
    from .control import LEASE_S, Abandoned, RunControl

    spec = make_spec(
        resolved.entries,
        settings,
        options.command,
        timeout_s=options.timeout_s,
        together=options.together,
        fanout=options.fanout,
        client_lease_s=LEASE_S,
    )
    began_s = time.monotonic()
    try:
        with RunControl(service.connect, spec.run_id) as control:
            client.submit(spec)
            from .watch import RunWatch  # not before: the workers are at it meanwhile

            return RunWatch(options, resolved, spec, console).to_the_end(client, control, service.failure, began_s)
    except Abandoned:
        console.say(f"left without waiting for the end of run {spec.run_id}", always=True)
        return EXIT_INTERRUPTED
