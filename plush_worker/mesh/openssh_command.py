"""The command line for the user's own ``ssh`` to a host. Pure, but for the file of pinned keys in memory.

What the entry says goes before what the user's configuration says, which it mostly came from. Entry points:
``ssh_arguments``, ``PinsFile``.
"""

from __future__ import annotations

import os

from plush_worker.mesh.jumps import jump_entries, proxy_command
from plush_worker.model import HostEntry, SliceSettings


def ssh_arguments(entry: HostEntry, settings: SliceSettings, pins_path: str, log_path: str) -> list[str]:
    """Up to the remote command. ``pins_path``: a file with the entry's keys; empty: the user's own files."""
    options = {
        "BatchMode": "yes",
        "LogLevel": "DEBUG1",
        "ConnectTimeout": str(settings.connect_timeout_s),
        "HostName": _escape(entry.address),
        "StrictHostKeyChecking": "accept-new" if entry.accept_new else "yes",
        "ClearAllForwardings": "yes",  # the user's ports may be taken by a session of theirs
        "PermitLocalCommand": "no",
        "RemoteCommand": "none",
    }
    files = [_escape(entry.known_hosts_file)] if entry.accept_new and entry.known_hosts_file else []  # gets new keys
    if pins_path:
        options |= {"GlobalKnownHostsFile": "/dev/null", "UpdateHostKeys": "no"}
        files.append(pins_path)
    if files:
        options["UserKnownHostsFile"] = " ".join(f'"{path}"' for path in files)
    if entry.forward_agent or settings.inner_login == "agent":
        options["ForwardAgent"] = "yes"
    options |= _options_of_entry(entry)
    arguments = ["ssh", "-T", "-x", "-E", log_path, "-p", str(entry.port)]
    for name, value in options.items():
        arguments += ["-o", f"{name}={value}"]
    for path in entry.identity_files:
        arguments += ["-i", _escape(path)]
    for path in entry.certificate_files:
        arguments += ["-o", f'CertificateFile="{_escape(path)}"']
    if entry.config_file:
        arguments += ["-F", entry.config_file]
    if entry.user:
        arguments += ["-l", entry.user]
    return [*arguments, "--", entry.name.rpartition("@")[2] or entry.address]


def _options_of_entry(entry: HostEntry) -> dict[str, str]:
    """Not HostKeyAlgorithms: given by hand, ssh would no longer prefer the types that it knows of the host."""
    options = {}
    if entry.identity_agent:
        options["IdentityAgent"] = f'"{_escape(entry.identity_agent)}"'
    if entry.identities_only:
        options["IdentitiesOnly"] = "yes"
    if entry.host_key_alias:
        options["HostKeyAlias"] = entry.host_key_alias
    if entry.address_family != "any":
        options["AddressFamily"] = entry.address_family
    if command := proxy_command(entry):
        options["ProxyCommand"] = _escape(command)
    elif jump_entries(entry):
        options["ProxyJump"] = entry.proxy_jump or ",".join(_jump_text(jump) for jump in jump_entries(entry))
    return options


def _escape(text: str) -> str:
    """Tokens were expanded when the entry was resolved."""
    return text.replace("%", "%%")


def _jump_text(jump: HostEntry) -> str:
    address = f"[{jump.address}]" if ":" in jump.address else jump.address
    return (f"{jump.user}@" if jump.user else "") + f"{address}:{jump.port}"


class PinsFile:
    """The entry's host keys as a known_hosts file in memory: nothing to remove, however the worker ends."""

    def __init__(self, entry: HostEntry) -> None:
        self.path = ""
        self._descriptor = -1
        if entry.known_hosts:
            self._descriptor = os.memfd_create("plush-known-hosts")
            with open(self._descriptor, "w", closefd=False, encoding="utf-8") as file:
                file.writelines(_for_any_name(line) for line in entry.known_hosts)
            self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"

    def close(self) -> None:
        """After login."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _for_any_name(line: str) -> str:
    marker, _, key = line.partition(" ") if line.startswith("@") else ("", "", line)
    return f"{marker} * {key}\n".lstrip()
