"""What ``plush deploy`` and ``plush fetch`` have in common: hosts, service, submission, and staying to the end.

Through a service of this machine (or one started for the command) the run is made here; through one elsewhere
(``PLUSH_URL``) it is sent as an experiment, whose hosts are looked up there.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from plush_worker.errors import EXIT_INTERRUPTED, UsageError

from .console import Console
from .control import LEASE_S, Abandoned, RunControl
from .options import RunOptions
from .run import resolve_hosts
from .service import find_or_start_service, find_remote_service
from .submission import TTL_S, make_spec
from .watch import RunWatch, report_rejected

if TYPE_CHECKING:
    from plush_api.client import Client
    from plush_api.sdk import Plush
    from plush_worker.experiment.directory import Resolved
    from plush_worker.model import RunSpec

    from .service import FoundService, RemoteService

MakeWatch = Callable[[RunOptions, "Resolved", "RunSpec", Console], RunWatch]
Take = Callable[[str], tuple[str, int]]  # a file's path -> its SHA-256 and size in bytes; its content is kept


@dataclass(frozen=True, slots=True)
class Copy:
    """What is to be copied. ``files`` makes the entries of a deploy, given what takes the files' content."""

    kind: str  # deploy | fetch
    command: str  # as lists of runs show it
    files: Callable[[Take], Sequence[Mapping[str, Any]]] = lambda _: ()
    fetch: Sequence[str] = ()


def options_of(
    hosts: list[str] | None,
    exclude: list[str] | None,
    login: str,
    ssh_config: str,
    hostfiles: list[str] | None,
    directory: str,
    slice_name: str,
    quiet: bool,
    as_json: bool,
) -> RunOptions:
    """The options that both commands have, as ``plush run`` has them."""
    options = RunOptions()
    options.hosts, options.exclude, options.hostfiles = list(hosts or ()), list(exclude or ()), list(hostfiles or ())
    options.login, options.ssh_config = login, ssh_config
    options.directory, options.slice = directory, slice_name
    options.quiet, options.json = quiet, as_json
    return options


def copy(options: RunOptions, what: Copy, make_watch: MakeWatch = RunWatch) -> int:
    """Submit it and stay with it to its end; returns the exit code. Raises PlushError."""
    console = Console(quiet=options.quiet)
    remote = find_remote_service()
    if remote is not None:
        return _copy_remotely(options, what, remote, console, make_watch)
    resolved = resolve_hosts(options)
    for note in resolved.notes:
        console.say(note)
    if not resolved.entries:
        return report_rejected(options, resolved, console)
    with ExitStack() as stack:
        service = find_or_start_service(0, console, stack)
        client = service.connect()
        stack.callback(client.close)
        spec = make_spec(
            resolved.entries,
            resolved.settings,
            what.command,
            kind=what.kind,
            files=tuple(what.files(_into_blobs(service))),
            fetch=tuple(what.fetch),
            client_lease_s=LEASE_S,
        )
        client.submit(spec)
        return _stay(options, resolved, spec, console, client, service, make_watch)


def _into_blobs(service: FoundService) -> Take:
    from plush_worker.blobs import BlobStore

    blobs = BlobStore(service.state_dir or _workers_state_dir(service))

    def take(path: str) -> tuple[str, int]:
        digest = blobs.put_file(path)
        return digest, blobs.size(digest)

    return take


def _workers_state_dir(service: FoundService) -> str:
    """Where workers of this machine look for blobs, when the service was named by its Redis only."""
    from plush_worker import xdg

    client, here = service.connect(), xdg.machine_id()
    try:
        found = [worker.state_dir for worker in client.workers() if worker.host == here]
    finally:
        client.close()
    return os.environ.get("PLUSH_STATE_DIR") or next(iter(found), str(xdg.state_dir()))


def _copy_remotely(
    options: RunOptions, what: Copy, service: RemoteService, console: Console, make_watch: MakeWatch
) -> int:
    from plush_api.sdk import Plush
    from plush_worker.experiment.directory import Resolved
    from plush_worker.experiment.spec import experiment_from_options
    from plush_worker.model import HostEntry, SliceSettings

    from .remote_run import host_texts

    if options.directory or options.ssh_config:
        flag = "--directory" if options.directory else "-F"
        raise UsageError(f"{flag}: hosts are looked up where the service runs, at {service.remote.url}")
    with Plush(service.remote.url, service.remote.token) as plush:
        files = what.files(_into_service(plush))
    experiment = experiment_from_options(
        host_texts(options.hosts, options.hostfiles, sys.stdin.read),
        exclude=host_texts(options.exclude, (), sys.stdin.read),
        login=options.login,
        slice=options.slice,
        ttl_s=TTL_S,
        client_lease_s=LEASE_S,
        files=files,
        fetch=what.fetch,
    )
    client = service.connect()
    try:
        spec = client.submit_experiment(experiment, os.getcwd())
        entries = [HostEntry(str(host["name"]), "") for host in spec.hosts]
        resolved = Resolved(entries, SliceSettings(), {}, [], service.remote.url)
        return _stay(options, resolved, spec, console, client, service, make_watch)
    finally:
        client.close()


def _into_service(plush: Plush) -> Take:
    from plush_worker.experiment.spec_files import digest_of

    def take(path: str) -> tuple[str, int]:
        digest, size_bytes = digest_of(path), os.stat(path).st_size
        plush.put_blob(digest, path)
        return digest, size_bytes

    return take


def _stay(
    options: RunOptions,
    resolved: Resolved,
    spec: RunSpec,
    console: Console,
    client: Client,
    service: FoundService,
    make_watch: MakeWatch,
) -> int:
    try:
        with RunControl(service.connect, spec.run_id) as control:
            watch = make_watch(options, resolved, spec, console)
            return watch.to_the_end(client, control, service.failure, time.monotonic())
    except Abandoned:
        console.say(f"left without waiting for the end of run {spec.run_id}", always=True)
        return EXIT_INTERRUPTED
