"""``plush hosts``: which hosts there are, whether they can be logged in to, and which keys they show."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from plush_worker.errors import EXIT_FAILURE, EXIT_OK, EXIT_UNREACHABLE, PlushError, UsageError

from .host_options import (
    AsJson,
    DirectoryFile,
    Exclude,
    HostFiles,
    Hosts,
    Login,
    SliceName,
    SshConfig,
    resolved_hosts,
)

if TYPE_CHECKING:
    from plush_worker.experiment.directory import Resolved
    from plush_worker.experiment.host_trust import Scanned
    from plush_worker.model import HostEntry

    from .host_check import Checked

_COLUMNS = ("HOST", "LOGIN", "SITE", "TAGS", "KEYS", "VIA")

app = typer.Typer(no_args_is_help=True, help="List, check and trust hosts.")


@app.command("list")
def list_hosts(
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    as_json: AsJson = False,
) -> None:
    """List hosts as the host directory or OpenSSH's configuration describes them; without -w all of them."""
    from .ps import print_table

    resolved = resolved_hosts(
        hosts, exclude, login, ssh_config, hostfiles, directory, slice_name, all_by_default=True
    )  # fmt: skip
    if as_json:
        for entry in resolved.entries:
            print(entry.to_json())
        for name, why in resolved.rejected.items():
            print(json.dumps({"name": name, "error": why}))
    elif resolved.entries:
        print_table(_COLUMNS, [_row(entry) for entry in resolved.entries])
    raise typer.Exit(_report_rejected(resolved, silent=as_json))


@app.command("check")
def check_hosts(
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    timeout: Annotated[
        int | None, typer.Option("-t", min=1, max=3600, metavar="SECONDS", help="Connect timeout.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Log in to all of them at once, say which fail and why. Exit code 0, or 255 when one can't be logged in to."""
    import asyncio
    from dataclasses import replace

    from .host_check import check_hosts as check

    resolved = resolved_hosts(
        hosts, exclude, login, ssh_config, hostfiles, directory, slice_name, all_by_default=True
    )  # fmt: skip
    settings = replace(resolved.settings, connect_timeout_s=timeout) if timeout else resolved.settings
    done = asyncio.run(check(resolved.entries, settings, _print_checked if as_json else _ignore))
    if as_json:
        for name, why in resolved.rejected.items():
            print(json.dumps({"host": name, "ok": False, "code": "rejected", "error": why}))
    else:
        _print_summary(done, resolved.rejected)
    failed = resolved.rejected or any(checked.code for checked in done)
    raise typer.Exit(EXIT_UNREACHABLE if failed else EXIT_OK)


@app.command("trust")
def trust_hosts(
    hosts: Hosts = None,
    exclude: Exclude = None,
    login: Login = "",
    ssh_config: SshConfig = "",
    hostfiles: HostFiles = None,
    directory: DirectoryFile = "",
    slice_name: SliceName = "",
    timeout: Annotated[int, typer.Option("-t", min=1, max=3600, metavar="SECONDS", help="Connect timeout.")] = 10,
    yes: Annotated[bool, typer.Option("--yes", help="Record new keys without asking.")] = False,
    replace_changed: Annotated[
        bool, typer.Option("--replace-changed", help="Replace keys on record by different ones, too.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the keys that hosts present and record them in known_hosts after confirmation.

    Compare the fingerprints with those that the hosts' owner gives you: a scan believes whoever answers. Exit code 0
    when all keys are on record, 255 when a host showed none, 1 when a changed key was left as it was.
    """
    from plush_worker.experiment.host_trust import Status, scan

    resolved = resolved_hosts(hosts, exclude, login, ssh_config, hostfiles, directory, slice_name)
    scanned = scan(resolved.entries, timeout)
    wanted = [s for s in scanned if s.status == Status.NEW or (s.status == Status.CHANGED and replace_changed)]
    if not as_json:
        for host in scanned:
            print(_scan_text(host, replace_changed))
    recorded: dict[str, str] = {}
    if wanted and (yes or _confirmed(wanted, replace_changed)):
        recorded = _record(wanted, replace_changed)
    if as_json:
        for host in scanned:
            print(json.dumps(_scan_json(host, recorded.get(host.entry.name, ""))))
        for name, why in resolved.rejected.items():
            print(json.dumps({"host": name, "status": "rejected", "error": why}))
    elif recorded:
        print(f"recorded: {_folded(recorded)} in {', '.join(dict.fromkeys(recorded.values()))}")
    code = _report_rejected(resolved, silent=as_json)
    if code == EXIT_OK and any(host.status == Status.UNREACHABLE for host in scanned):
        code = EXIT_UNREACHABLE
    open_ones = [s for s in scanned if s.status != Status.KNOWN and s.entry.name not in recorded]
    raise typer.Exit(code or (EXIT_FAILURE if open_ones else EXIT_OK))


def _row(entry: HostEntry) -> list[str]:
    port = f":{entry.port}" if entry.port != 22 else ""
    login = f"{entry.user}@{entry.address}{port}" if entry.user else f"{entry.address}{port}"
    via = entry.proxy_jump or ("proxy command" if entry.proxy_command else ",".join(entry.reachable_from))
    keys = str(len(entry.known_hosts)) if entry.known_hosts else "accept-new" if entry.accept_new else "none"
    return [entry.name, login, entry.site or "-", ",".join(entry.tags) or "-", keys, via or "-"]


def _report_rejected(resolved: Resolved, *, silent: bool = False) -> int:
    """Says on stderr which names were rejected, and why; the exit code for them."""
    from .app import say

    if not silent:
        for name, why in resolved.rejected.items():
            say(f"{name}: {why}")
    return EXIT_UNREACHABLE if resolved.rejected else EXIT_OK


def _print_checked(checked: Checked) -> None:
    record: dict[str, Any] = {"host": checked.name, "ok": not checked.code}
    if checked.code:
        record |= {"code": checked.code, "error": checked.error}
    print(json.dumps({**record, "connect_s": round(checked.connect_s, 3)}), flush=True)


def _ignore(checked: Checked) -> None:
    """The summary says it all."""


def _print_summary(done: Sequence[Checked], rejected: Mapping[str, str]) -> None:
    """Hosts that work under their folded names, failures folded by reason."""
    works = [checked for checked in done if not checked.code]
    if works:
        slowest = max(works, key=lambda checked: checked.connect_s)
        print(
            f"ok ({len(works)}): {_folded([c.name for c in works])}; slowest {slowest.name}, {slowest.connect_s:.2f} s"
        )
    reasons: dict[str, list[str]] = {}
    for checked in done:
        if checked.code:
            reasons.setdefault(f"{checked.code}: {checked.error}", []).append(checked.name)
    for name, why in rejected.items():
        reasons.setdefault(why, []).append(name)
    for reason, names in sorted(reasons.items(), key=lambda item: -len(item[1])):
        print(f"failed ({len(names)}): {_folded(names)}: {reason}")


def _folded(names: Sequence[str] | Mapping[str, str]) -> str:
    from plush_worker.experiment.host_list import fold

    return fold(names)


def _scan_text(host: Scanned, replace_changed: bool) -> str:
    from plush_worker.experiment.host_trust import Status, fingerprint_of

    entry = host.entry
    where = "" if entry.address == entry.name and entry.port == 22 else f" ({entry.address} port {entry.port})"
    if host.status == Status.UNREACHABLE:
        return f"{entry.name}{where}: {host.error}"
    lines = [f"{entry.name}{where}: {host.status}"]
    lines += [f"    on record  {fingerprint_of(key)}" for key in host.old_keys]
    if host.status != Status.KNOWN:
        lines += [f"    shows      {fingerprint_of(key)}" for key in host.keys]
    if host.status == Status.CHANGED and not replace_changed:
        lines.append("    Someone may be in between. If the host was set up anew, repeat with --replace-changed.")
    return "\n".join(lines)


def _scan_json(host: Scanned, recorded_in: str) -> dict[str, Any]:
    from plush_worker.experiment.host_trust import fingerprint_of

    record: dict[str, Any] = {"host": host.entry.name, "address": host.entry.address, "port": host.entry.port}
    record |= {"status": str(host.status), "keys": [fingerprint_of(key) for key in host.keys]}
    if host.old_keys:
        record["old_keys"] = [fingerprint_of(key) for key in host.old_keys]
    return {**record, "recorded_in": recorded_in} | ({"error": host.error} if host.error else {})


def _confirmed(wanted: Sequence[Scanned], replace_changed: bool) -> bool:
    if not sys.stdin.isatty():
        raise UsageError("standard input is no terminal to confirm on: compare the fingerprints, then add --yes")
    changed = " and replace the changed ones" if replace_changed else ""
    return typer.confirm(f"Record the keys of {len(wanted)} hosts{changed}?", err=True)


def _record(wanted: Sequence[Scanned], replace_changed: bool) -> dict[str, str]:
    """Host -> the file its keys are in now; a host whose keys couldn't be recorded doesn't stop the others."""
    from plush_worker.experiment.host_trust import record

    from .app import say

    recorded = {}
    for host in wanted:
        try:
            recorded[host.entry.name] = record(host, replace=replace_changed)
        except PlushError as error:
            say(str(error))
    return recorded
