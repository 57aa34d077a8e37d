"""``plush doctor``: looks at this machine and at the service, and says what to do. Changes nothing."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from plush_worker.errors import EXIT_FAILURE, EXIT_OK, PlushError

from .host_options import AsJson, DirectoryFile, SliceName, SshConfig

if TYPE_CHECKING:
    from pathlib import Path

    from plush_api.doctor import Finding
    from plush_worker.model import HostEntry

_MARKS = {"ok": "ok", "warning": "WARNING", "problem": "PROBLEM"}


def doctor(
    hosts: Annotated[
        list[str] | None, typer.Option("-w", "--hosts", metavar="HOSTS", help="Log in to these, too: node[1-8], @all.")
    ] = None,
    ssh_config: SshConfig = "",
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    as_json: AsJson = False,
) -> None:
    """Check Redis, workers, clock, limits, keys, folders and programs, and say what to do.

    Exit code 0 without problems (warnings are none), 1 with.
    """
    from plush_api import doctor as checks
    from plush_worker.config import load_settings

    findings = [checks.check_settings()]
    try:
        state = load_settings().state_dir
    except PlushError:
        from plush_worker import xdg

        state = xdg.state_dir()  # the finding about settings says why
    findings += _service_findings()
    entries, found = _host_findings(hosts or [], ssh_config, directory, slice_name)
    findings += _machine_findings(entries, state)
    findings += found
    for finding in findings:
        _show(finding, as_json)
    problems = sum(finding.state == "problem" for finding in findings)
    if not as_json:
        warnings = sum(finding.state == "warning" for finding in findings)
        print(f"{problems} problem{'s' if problems != 1 else ''}, {warnings} warning{'s' if warnings != 1 else ''}")
    raise typer.Exit(EXIT_FAILURE if problems else EXIT_OK)


def _service_findings() -> list[Finding]:
    """Of Redis and workers, where there is a service."""
    import time

    from plush_api import doctor as checks
    from plush_worker.service_file import find_service
    from plush_worker.store.address import parse_url
    from plush_worker.store.light import LightStore
    from plush_worker.store.wire import Wire

    try:
        service = find_service()
    except PlushError as error:
        return [checks.Finding("service", "problem", str(error), "mend the setting")]
    if service is None:
        detail = "none is configured or running: plush run starts one for each command"
        return [checks.Finding("service", "ok", detail), checks.check_server_program()]
    with Wire(parse_url(service.redis_url)) as wire:
        findings = checks.check_redis(wire)
    findings.insert(0, checks.Finding("service", "ok", f"known from {service.source}"))
    try:
        with LightStore.connect(service.redis_url) as store:
            findings += checks.judge_workers(store.live_workers(), time.time())
    except PlushError as error:
        findings.append(checks.Finding("workers", "problem", str(error), "see what is said about redis"))
    return findings


def _machine_findings(entries: list[HostEntry], state: Path) -> list[Finding]:
    import resource

    from plush_api import doctor as checks

    return [
        checks.judge_open_files(*resource.getrlimit(resource.RLIMIT_NOFILE)),
        *checks.check_state_folder(state),
        *checks.check_private_files(checks.private_files(state, entries)),
        *checks.check_programs(),
    ]


def _host_findings(
    hosts: list[str], ssh_config: str, directory: str, slice_name: str
) -> tuple[list[HostEntry], list[Finding]]:
    """The hosts that were named, and whether each can be logged in to."""
    if not hosts and not slice_name:
        return [], []
    import asyncio

    from plush_api.doctor import Finding

    from .host_check import check_hosts
    from .host_options import resolved_hosts

    try:
        resolved = resolved_hosts(hosts, None, "", ssh_config, None, directory, slice_name)
    except PlushError as error:
        return [], [Finding("hosts", "problem", str(error), "mend the list or the host directory")]
    findings = [
        Finding(f"host {name}", "problem", why, "mend the host directory") for name, why in resolved.rejected.items()
    ]
    done = asyncio.run(check_hosts(resolved.entries, resolved.settings, lambda _checked: None))
    for checked in done:
        if checked.code:
            advice = f"try it by hand: ssh -v {checked.name}; keys: plush hosts trust -w {checked.name}"
            findings.append(Finding(f"host {checked.name}", "problem", f"{checked.code}: {checked.error}", advice))
    works = sum(not checked.code for checked in done)
    findings.append(Finding("hosts", "ok", f"{works} of {len(done) + len(resolved.rejected)} can be logged in to"))
    return list(resolved.entries), findings


def _show(finding: Finding, as_json: bool) -> None:
    from .console import printable

    if as_json:
        print(json.dumps(asdict(finding)))
        return
    print(f"{_MARKS[finding.state]:<8} {finding.check}: {printable(finding.detail)}")
    if finding.advice:
        print(f"{'':<8} -> {printable(finding.advice)}")
