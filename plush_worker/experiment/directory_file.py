"""The host directory's file: YAML read and checked, ranges expanded, references followed.

Every error names the file, the line and the path (``hosts.node[1-4].port``), and all of them are reported at once.
The result is plain JSON, so that ``directory.py`` can remember it and need neither pydantic nor YAML the next time.
Entry point: ``read_directory_file``. The format is described by the models below and by ``examples/hosts.yaml``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from .directory import Directory, nearest
from .directory_yaml import Path, Report, parse_yaml
from .host_list import HostListError, NoHostsError, name_problem, read_host_list
from .host_ranges import RangeSyntaxError, expand
from .known_hosts import KnownHosts
from .ssh_config import expand_home


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_text(value: object) -> object:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


Texts = Annotated[list[str], BeforeValidator(_as_list)]  # one text or a list of them
Pattern = Annotated[str, BeforeValidator(_as_text)]  # a text, or as many as there are hosts: "10.0.0.[1-64]"


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class HostFields(_Strict):
    """What can be said of hosts, under ``defaults:`` and under a name or range in ``hosts:``."""

    address: Pattern | None = None
    port: Pattern | None = None
    user: str | None = None
    site: str | None = None
    tags: Texts | None = None
    host_key: Texts | None = None  # "ssh-ed25519 AAAA...", also with @cert-authority or @revoked in front
    host_keys: Texts | None = None  # the same
    identity: Texts | None = None
    certificate: Texts | None = None
    identity_agent: str | None = None
    identities_only: bool | None = None
    proxy_jump: str | None = None
    proxy_command: str | None = None
    host_key_alias: Pattern | None = None
    host_key_algorithms: str | None = None
    accept_new: bool | None = None
    known_hosts_file: str | None = None
    address_family: Literal["any", "inet", "inet6"] | None = None
    forward_agent: bool | None = None
    reachable_from: Texts | None = None


class SliceFields(_Strict):
    """A slice: its hosts and every setting of how to reach them. Unset ones are SliceSettings' defaults."""

    hosts: Texts = ["@all"]
    user: str | None = None
    accept_new: bool | None = None
    first_link: Literal["asyncssh", "openssh"] | None = None
    inner_login: Literal["none", "agent", "key"] | None = None
    inner_identity: str | None = None
    inner_ssh_options: Texts | None = None
    planner: Literal["auto", "flat", "kary", "site", "greedy"] | None = None
    degree: int | None = Field(None, ge=1, le=1000)
    depth: int | None = Field(None, ge=0, le=100)
    logins_at_once: int | None = Field(None, ge=1, le=1000)
    worker_logins_at_once: int | None = Field(None, ge=1, le=10_000)
    connect_timeout_s: int | None = Field(None, ge=1, le=3600)
    idle_timeout_s: int | None = Field(None, ge=0, le=30 * 86400)
    spool_full: Literal["gap", "block"] | None = None


class DirectoryFile(_Strict):
    """The whole file."""

    ssh_config: bool | str = True  # fill in from OpenSSH's configuration: true (its own files), a path, or false
    known_hosts: Texts = []  # files of host keys, looked into before OpenSSH's own
    defaults: HostFields = HostFields()
    groups: dict[str, Texts] = {}
    hosts: dict[str, HostFields | None] = {}
    slices: dict[str, SliceFields] = {}


def read_directory_file(path: str) -> dict[str, Any]:
    """The fields of ``Directory`` but for its path. Raises DirectoryError."""
    value, lines, doubles = parse_yaml(path)
    report = Report(path, lines)
    for double in doubles:
        report.add(double, "is given twice; the file would silently use the last")
    try:
        parsed = DirectoryFile.model_validate(value)
    except ValidationError as error:
        for problem in error.errors(include_url=False):
            report.add(_cleaned(problem["loc"], lines), _sentence(problem))
        raise report.error() from None
    reader = _Reading(parsed, report, os.path.dirname(path))
    data = reader.data()
    if report.problems:
        raise report.error()
    return data


def _cleaned(place: Path, lines: dict[Path, int]) -> Path:
    """pydantic's path without the steps that name types ("function-before[...]") and so stand in no file."""
    result: Path = ()
    for index, step in enumerate(place):
        if (*result, step) in lines or index == len(place) - 1 == len(result):
            result = (*result, step)
    return result


def _sentence(problem: Any) -> str:
    """One pydantic error in words."""
    given = problem.get("input")
    if problem["type"] == "extra_forbidden":
        field = str(problem["loc"][-1])
        known = list(DirectoryFile.model_fields)
        if len(problem["loc"]) > 1:
            known = list((SliceFields if problem["loc"][0] == "slices" else HostFields).model_fields)
        return f"no such field{nearest(field, known) or '; there are: ' + ', '.join(known)}"
    message = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"{message}, not {given!r:.80}" if given is not None else message


class _Reading:
    """The checked file on its way to plain data."""

    def __init__(self, parsed: DirectoryFile, report: Report, folder: str) -> None:
        self._parsed, self._report, self._folder = parsed, report, folder
        self._hosts: dict[str, dict[str, Any]] = {}
        self._groups: dict[str, list[str]] = {}
        self._following: list[str] = []

    def data(self) -> dict[str, Any]:
        self._read_hosts()
        for name in self._parsed.groups:
            self._group(name)
        slices = {name: self._slice(name, fields) for name, fields in self._parsed.slices.items()}
        self._check_reach()
        config = self._parsed.ssh_config
        return {
            "hosts": self._hosts,
            "groups": self._groups,
            "slices": slices,
            "known_hosts": [self._path(p) for p in self._parsed.known_hosts],
            "ssh_config": self._path(config) if isinstance(config, str) else "" if config else "none",
        }

    def _read_hosts(self) -> None:
        usual = self._parsed.defaults.model_dump(exclude_none=True)
        for pattern, given in self._parsed.hosts.items():
            place: Path = ("hosts", pattern)
            fields = given.model_dump(exclude_none=True) if given else {}
            try:
                names = read_host_list([pattern]).names
            except HostListError as error:
                self._report.add(place, str(error).removeprefix("-w: "))
                continue
            if any("@" in name for name in names):
                self._report.add(place, "a login belongs under user:")
                continue
            for name, own in zip(names, self._spread(place, fields, len(names)), strict=True):
                if name not in self._hosts:
                    first = next(self._spread(("defaults",), usual, 1))
                    self._hosts[name] = first
                self._hosts[name] = {**self._hosts[name], **own}

    def _spread(self, place: Path, fields: dict[str, Any], count: int) -> Iterator[dict[str, Any]]:
        """The fields of HostEntry for each of ``count`` hosts: patterns are dealt out in order."""
        shared = self._shared(place, fields)
        dealt: dict[str, list[Any]] = {}
        for key in ("address", "port", "host_key_alias"):
            if key in fields:
                dealt[key] = self._deal((*place, key), fields[key], count)
        if "address" in dealt:
            self._check_words((*place, "address"), dealt["address"])
        if "port" in dealt:
            dealt["port"] = [self._port((*place, "port"), text) for text in dealt["port"]]
        for index in range(count):
            yield {**shared, **{key: values[index] for key, values in dealt.items()}}

    def _check_words(self, place: Path, words: list[str]) -> None:
        """Addresses, or logins as ``login@host``: they reach command lines."""
        for word in words:
            if word and (problem := name_problem(word)):
                self._report.add(place, f"{word.removesuffix('@host')!r} {problem}")
                return

    def _port(self, place: Path, text: str) -> int:
        if text.isascii() and text.isdigit() and 0 < int(text) < 65536:
            return int(text)
        if text:
            self._report.add(place, f"{text!r} is no port")
        return 22

    def _deal(self, place: Path, pattern: str, count: int) -> list[str]:
        try:
            values = [pattern[1:-1]] if pattern.startswith("[") and "::" in pattern else expand(pattern)
        except RangeSyntaxError as error:
            self._report.add(place, str(error))
            return [""] * count
        if len(values) not in (1, count):
            self._report.add(place, f"{pattern!r} stands for {len(values)} values, and there are {count} hosts")
            values = values[:1]
        return values * count if len(values) == 1 else values

    def _shared(self, place: Path, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields that are the same for each host of a range, under HostEntry's names."""
        same = ("site", "tags", "identities_only", "proxy_jump", "proxy_command", "host_key_algorithms", "user",
                "accept_new", "address_family", "forward_agent", "reachable_from")  # fmt: skip
        result = {key: fields[key] for key in same if key in fields}
        if "user" in fields:
            self._check_words((*place, "user"), [fields["user"] + "@host"])
        if "identity" in fields:
            result["identity_files"] = [self._path(p) for p in fields["identity"]]
        if "certificate" in fields:
            result["certificate_files"] = [self._path(p) for p in fields["certificate"]]
        for key in ("identity_agent", "known_hosts_file"):
            if key in fields:
                result[key] = fields[key] if fields[key] == "none" else self._path(fields[key])
        if "reachable_from" in fields:
            result["reachable_from"] = self._reach((*place, "reachable_from"), fields["reachable_from"])
        keys = [*fields.get("host_key", ()), *fields.get("host_keys", ())]
        if keys:
            result["known_hosts"] = [self._key(place, key) for key in keys]
        return result

    def _reach(self, place: Path, texts: list[str]) -> list[str]:
        result: list[str] = []
        for text in texts:
            try:
                result += [text] if text.startswith("@") else expand(text)
            except RangeSyntaxError as error:
                self._report.add(place, str(error))
        return result

    def _key(self, place: Path, text: str) -> str:
        """A host key line, its comment dropped."""
        known = KnownHosts()
        words = text.split()
        known.add(" ".join([words[0], "x", *words[1:]] if text.startswith("@") else ["x", *words]))
        lines = known.lines_for("x")
        if not lines:
            self._report.add((*place, "host_key"), f"{text[:60]!r} is no host key: write it as ssh-keyscan shows it, "
                             "'ssh-ed25519 AAAA...', with @cert-authority in front for an authority")  # fmt: skip
        return lines[0] if lines else ""

    def _path(self, path: str) -> str:
        return os.path.normpath(os.path.join(self._folder, expand_home(path)))

    def _members(self, place: Path, texts: list[str]) -> list[str]:
        """The hosts of a group's or slice's text; each has to stand under ``hosts:``."""
        try:
            names = list(read_host_list(texts, group=self._group).names)
        except NoHostsError:
            if not self._report.problems:  # else it may be for one of those
                self._report.add(place, "names no hosts")
            return []
        except HostListError as error:
            for line in str(error).split("\n"):
                self._report.add(place, line.removeprefix("-w: "))
            return []
        unknown = [name for name in names if name not in self._hosts]
        if unknown:
            hint = nearest(unknown[0], self._hosts)
            self._report.add(place, f"{unknown[0]!r} is not under hosts:{hint}")
        return [name for name in names if name in self._hosts]

    def _group(self, name: str) -> list[str]:
        if name in self._groups:
            return self._groups[name]
        if name not in self._parsed.groups:
            return Directory("this file", self._hosts, {}, {}, [], "").group(name)
        if name in self._following:
            raise LookupError(f"groups lead back to themselves: {' -> '.join([*self._following, name])}")
        if name == "all":
            self._report.add(("groups", name), "@all always means every host of the directory; choose another name")
        self._following.append(name)
        members = self._members(("groups", name), self._parsed.groups[name])
        self._following.pop()
        self._groups[name] = members
        return members

    def _slice(self, name: str, fields: SliceFields) -> dict[str, Any]:
        values = fields.model_dump(exclude_none=True)
        values["hosts"] = self._members(("slices", name, "hosts"), fields.hosts)
        if fields.user:
            self._check_words(("slices", name, "user"), [fields.user + "@host"])
        for option in fields.inner_ssh_options or ():
            if "=" not in option or option.startswith("-") or not option.isprintable():
                self._report.add(("slices", name, "inner_ssh_options"), f"{option!r} is not of the form Name=value")
        return values

    def _check_reach(self) -> None:
        """Whoever reachable_from names has to be a host, a tag (with @) or a site."""
        sites = {fields["site"] for fields in self._hosts.values() if "site" in fields}
        tags = {"@" + tag for fields in self._hosts.values() for tag in fields.get("tags", ())}
        known = {*self._hosts, *sites, *tags, "@worker"}
        lost = {
            item: name for name, f in self._hosts.items() for item in f.get("reachable_from", ()) if item not in known
        }
        for item, host in lost.items():
            self._report.add(self._place_of(host, item), f"{item!r} is neither a host nor a site nor a @tag nor @worker"
                             f"{nearest(item, known)}")  # fmt: skip

    def _place_of(self, host: str, item: str) -> Path:
        for pattern, fields in self._parsed.hosts.items():
            if fields and fields.reachable_from and item in self._reach((), fields.reachable_from):
                return ("hosts", pattern, "reachable_from")
        return ("defaults", "reachable_from") if self._parsed.defaults.reachable_from else ("hosts", host)
