"""From what OpenSSH's configuration says of a host to HostEntry: tokens expanded, jump hosts and host keys looked up.

Entry point: ``entries_from_answers``. What ``ssh -G`` says is asked in ``ssh_config.py``, known_hosts files are read
in ``known_hosts.py`` (imported only when the answers aren't remembered).
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from plush_worker.model import HostEntry

from .file_cache import FileCache, look_at
from .host_list import bare_host, name_problem
from .ssh_config import Answer, expand_home, home_folder, query

_ACCEPT_NEW: Final = ("accept-new", "no", "off", "false")
_FAMILIES: Final = ("inet", "inet6")
_MAX_JUMPS: Final = 8  # jump hosts behind jump hosts
_MAX_REMEMBERED: Final = 20_000  # host keys looked up, in one cache file; beyond, it is begun anew

Target = tuple[str, int, str]  # address, port, HostKeyAlias or ""


class EntryBuilder:
    """Makes entries of one configuration; what is the same for all hosts is looked up once."""

    def __init__(self, config_file: str = "", extra_known_hosts: Sequence[str] = (), cache: str | None = None) -> None:
        self._config_file, self._extra, self._cache = config_file, tuple(extra_known_hosts), cache
        self._home = home_folder()
        self._agent = os.environ.get("SSH_AUTH_SOCK", "")
        self._usable: dict[str, bool] = {}
        self._jumps: dict[str, tuple[str, ...]] = {}  # ProxyJump as written -> JSON of its hosts' entries
        self.rejected: dict[str, str] = {}

    def entries(
        self, answers: Mapping[str, Answer], overrides: Mapping[str, Mapping[str, Any]] | None = None, jumped: int = 0
    ) -> list[HostEntry]:
        """One entry per answer, in their order. ``overrides``: name -> fields of HostEntry that a directory sets.

        Overridden address, port and user count before tokens are expanded and host keys are looked up. An entry gets
        host keys from known_hosts unless the directory pins some. What can't be used goes to ``rejected``.
        """
        drafts: list[tuple[dict[str, Any], tuple[str, ...]]] = []
        wanted: dict[tuple[str, ...], list[Target]] = {}
        for name, answer in answers.items():
            fields, files = self._fields(name, answer, (overrides or {}).get(name, {}))
            problem = name_problem(fields["address"]) or (fields["user"] and name_problem(fields["user"] + "@x"))
            if problem:
                self.rejected[name] = f"address {fields['address']!r} or login {fields['user']!r} {problem}"
                continue
            drafts.append((fields, files))
            if "known_hosts" not in fields:
                wanted.setdefault(files, []).append(_target(fields))
        found = {files: lookup_host_keys(files, targets, self._cache) for files, targets in wanted.items()}
        entries = []
        for fields, files in drafts:
            if "known_hosts" not in fields:
                fields["known_hosts"] = found[files][_target(fields)]
            if fields["proxy_jump"]:
                fields["jumps"] = self._jump_entries(fields, jumped)
            if fields["name"] not in self.rejected:
                entries.append(HostEntry(**fields))
        return entries

    def _fields(self, name: str, answer: Answer, override: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
        """The fields of HostEntry but for host keys and jump hosts, and the known_hosts files to look into."""
        host = bare_host(name)
        address = override.get("address") or answer.get("hostname", host)
        port = override.get("port") or int(answer.get("port", 22))
        user = override.get("user") or answer.get("user", "")
        alias = override.get("host_key_alias") or _unless_none(answer, "hostkeyalias")
        jump, command = _unless_none(answer, "proxyjump"), _unless_none(answer, "proxycommand")
        tokens = {"n": host, "h": address, "p": str(port), "r": user, "k": alias or host, "d": self._home, "j": jump}
        fields: dict[str, Any] = {
            "address": address,
            "port": port,
            "user": user,
            "identity_files": tuple(filter(self._is_usable, self._paths(answer.get("identityfile", ()), tokens))),
            "certificate_files": self._paths(answer.get("certificatefile", ()), tokens),
            "identity_agent": self._identity_agent(answer, tokens),
            "identities_only": answer.get("identitiesonly") == "yes",
            "proxy_jump": expand_tokens(jump, tokens),
            "proxy_command": expand_tokens(command, tokens),
            "host_key_alias": expand_tokens(alias, tokens),
            "host_key_algorithms": answer.get("hostkeyalgorithms", ""),
            "accept_new": answer.get("stricthostkeychecking") in _ACCEPT_NEW,
            "address_family": family if (family := answer.get("addressfamily")) in _FAMILIES else "any",
            "forward_agent": answer.get("forwardagent", "no") != "no",
            "config_file": self._config_file,
        }
        own_files = self._paths(answer.get("userknownhostsfile", "").split(), tokens)
        fields["known_hosts_file"] = own_files[0] if own_files else ""
        if override.get("proxy_jump") or override.get("proxy_command"):
            fields["proxy_jump"] = fields["proxy_command"] = ""  # one way in: the directory's
        fields.update(override, name=name)
        if "proxy_command" in override:
            fields["proxy_command"] = expand_tokens(override["proxy_command"], tokens)
        files = (*self._extra, *own_files, *self._paths(answer.get("globalknownhostsfile", "").split(), tokens))
        return fields, files

    def _jump_entries(self, fields: Mapping[str, Any], jumped: int) -> tuple[str, ...]:
        """JSON of the entries of a ProxyJump's hosts, the first to connect to first."""
        written = fields["proxy_jump"]
        if written not in self._jumps:
            try:
                self._jumps[written] = self._resolve_jumps(written, jumped)
            except LookupError as error:
                self.rejected[fields["name"]] = f"ProxyJump {written}: {error.args[0]}"
                return ()
        return self._jumps[written]

    def _resolve_jumps(self, written: str, jumped: int) -> tuple[str, ...]:
        """As ssh does: the first jump host goes through its own ProxyJump, each next one through the one before it."""
        if jumped >= _MAX_JUMPS:
            raise LookupError(f"more than {_MAX_JUMPS} jump hosts behind each other: they lead back to themselves")
        result: list[str] = []
        for index, text in enumerate(written.split(",")):
            name, port = split_jump(text)
            if problem := name_problem(name):
                raise LookupError(f"jump host {name!r} {problem}")
            found, rejected = query([name], config_file=self._config_file, cache=self._cache)
            if name in rejected:
                raise LookupError(f"jump host {name!r}: {rejected[name]}")
            override: dict[str, Any] = {"port": port} if port else {}
            override |= {"user": name.rpartition("@")[0]} if "@" in name else {}
            if index:
                found[name] = {**found[name], "proxyjump": "none", "proxycommand": "none"}
            made = self.entries(found, {name: override}, jumped + 1)
            if not made:
                raise LookupError(f"jump host {name!r}: {self.rejected.pop(name, 'no entry')}")
            result += (*made[0].jumps, made[0].to_json())
        return tuple(result)

    def _identity_agent(self, answer: Answer, tokens: Mapping[str, str]) -> str:
        """IdentityAgent: a path, ``none``, ``SSH_AUTH_SOCK`` or ``$VARIABLE``; unset: SSH_AUTH_SOCK of this process."""
        value = str(answer.get("identityagent", ""))
        if value in ("", "SSH_AUTH_SOCK"):
            return self._agent
        if value == "none":
            return value
        if value.startswith("$") and not value.startswith("${"):
            return os.environ.get(value[1:], "") or "none"
        return self._paths((value,), tokens)[0]

    def _paths(self, values: Sequence[str], tokens: Mapping[str, str]) -> tuple[str, ...]:
        """Paths with ``~`` and tokens expanded; ``none`` left out."""
        return tuple(
            expand_tokens(self._home + value[1:] if value.startswith("~/") else expand_home(value), tokens)
            for value in values
            if value and value != "none"
        )

    def _is_usable(self, path: str) -> bool:
        """Whether a key file is there, or its public half (then the agent may hold the key)."""
        if path not in self._usable:
            self._usable[path] = os.path.exists(path) or os.path.exists(path + ".pub")
        return self._usable[path]


# What ssh uses without any configuration, for directories that say all themselves.
_USUAL: Final[Answer] = {
    "identityfile": ["~/.ssh/id_rsa", "~/.ssh/id_ecdsa", "~/.ssh/id_ed25519"],
    "userknownhostsfile": "~/.ssh/known_hosts ~/.ssh/known_hosts2",
    "globalknownhostsfile": "/etc/ssh/ssh_known_hosts /etc/ssh/ssh_known_hosts2",
}


def usual_answers(names: Sequence[str]) -> dict[str, Answer]:
    """What ssh would say of each name without any configuration file."""
    return {name: dict(_USUAL) for name in names}


def lookup_host_keys(
    paths: Sequence[str], targets: Sequence[Target], cache: str | None = None
) -> dict[Target, tuple[str, ...]]:
    """``KnownHosts.lines_for`` of many targets in the same files; remembered until one of the files changes."""
    wanted = dict.fromkeys(targets)
    store = FileCache("known_hosts", paths, cache)
    remembered: dict[str, list[str]] = (store.load() or {}).get("hosts", {})
    missing = [target for target in wanted if _cache_key(target) not in remembered]
    if missing:
        from .known_hosts import KnownHosts

        watched = look_at(paths)
        if watched != store.watched or len(remembered) > _MAX_REMEMBERED:
            remembered, missing = {}, list(wanted)  # the files changed since, or enough is enough
        known = KnownHosts.read(paths)
        for target in missing:
            remembered[_cache_key(target)] = list(known.lines_for(*target))
        store.save(watched, {"hosts": remembered})
    return {target: tuple(remembered[_cache_key(target)]) for target in wanted}


def split_jump(text: str) -> tuple[str, int]:
    """One jump host as ``ssh -J`` takes it, to (``user@host``, port or 0). Raises LookupError."""
    text = text.strip().removeprefix("ssh://").rstrip("/")
    user, at, rest = text.rpartition("@")
    host, port = rest, ""
    if rest.startswith("["):
        host, _, port = rest[1:].partition("]")
        port = port.removeprefix(":")
    elif rest.count(":") == 1:
        host, _, port = rest.partition(":")
    if port and not (port.isascii() and port.isdigit() and 0 < int(port) < 65536):
        raise LookupError(f"{port!r} is no port")
    return user + at + host, int(port or 0)


def expand_tokens(text: str, tokens: Mapping[str, str]) -> str:
    """``%h`` and the other tokens of ssh_config(5), and ``${VARIABLE}``. Unknown ones stay as they are."""
    if "%" not in text and "${" not in text:
        return text
    import re

    def value(match: re.Match[str]) -> str:
        if match["variable"]:
            return os.environ.get(match["variable"], match[0])
        found = tokens.get(match["token"])
        return (_rare_token(match["token"], tokens) or match[0]) if found is None else found

    return re.sub(r"%(?P<token>.)|\$\{(?P<variable>[A-Za-z_][A-Za-z0-9_]*)\}", value, text)


def _rare_token(token: str, tokens: Mapping[str, str]) -> str:
    """The tokens that cost a look at the machine; "" for what is no token."""
    if token == "%":
        return token
    if token == "i":
        return str(os.getuid())
    machine = os.uname().nodename
    if token == "C":
        from hashlib import sha1

        parts = (machine, *(tokens.get(t, "") for t in "hprj"))
        return sha1("".join(parts).encode(), usedforsecurity=False).hexdigest()
    if token == "u":
        from pwd import getpwuid

        return getpwuid(os.getuid()).pw_name
    return {"l": machine, "L": machine.partition(".")[0]}.get(token, "")


def _unless_none(answer: Answer, option: str) -> str:
    value = str(answer.get(option, ""))
    return "" if value == "none" else value


def _target(fields: Mapping[str, Any]) -> Target:
    return fields["address"], fields["port"], fields["host_key_alias"]


def _cache_key(target: Target) -> str:
    return f"{target[0]} {target[1]} {target[2]}"
