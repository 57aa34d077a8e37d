"""From what people name to entries: host lists, the host directory and OpenSSH's configuration brought together.

Owns the order in which sources are looked up and which setting wins; the YAML file itself is read and checked in
``directory_file.py``, imported only when its checked form isn't remembered. Entry point: ``resolve``. On a warm
cache 64 hosts take a few milliseconds, imports included: no pydantic, YAML or subprocess on that path.

Per setting the first that says something wins: the name itself (``user@``), ``-l``, the slice, the host directory,
OpenSSH's configuration.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from plush_worker.errors import ConfigurationError
from plush_worker.model import HostEntry, SliceSettings

from .file_cache import FileCache, look_at
from .host_list import HostListError, bare_host, fold, name_problem, read_host_list, split_login
from .ssh_config import SshAnswers, listed_names, query
from .ssh_entry import EntryBuilder, usual_answers


class DirectoryError(ConfigurationError):
    """A host directory that can't be used; one line for each thing that is wrong, with file, line and path."""


class HostOptions(NamedTuple):
    """The options that commands taking hosts share, but for ``-w`` itself."""

    exclude: tuple[str, ...] = ()  # -x
    login: str = ""  # -l
    config_file: str = ""  # -F; "none": no configuration at all, as for ssh
    hostfiles: tuple[str, ...] = ()  # --hostfile
    directory: str = ""  # --directory
    slice: str = ""  # --slice


class Resolved(NamedTuple):
    """What a command works with."""

    entries: list[HostEntry]  # in the order the names were written
    settings: SliceSettings
    rejected: dict[str, str]  # name -> why there is no entry for it
    notes: list[str]  # for people: what was done without being asked
    source: str  # where names were looked up, for messages


class Directory(NamedTuple):
    """A host directory in its checked form: every range expanded, every reference known to lead somewhere."""

    path: str
    hosts: dict[str, dict[str, Any]]  # name -> fields of HostEntry that the directory sets
    groups: dict[str, list[str]]
    slices: dict[str, dict[str, Any]]  # name -> fields of SliceSettings, and hosts, user, accept_new
    known_hosts: list[str]  # files
    ssh_config: str  # "": OpenSSH's own files; "none": the directory says all

    def group(self, name: str) -> list[str]:
        """The hosts of a group, else of a slice, else with a tag, else at a site. LookupError says what there is."""
        if name == "all":
            return list(self.hosts)
        if name in self.groups:
            return self.groups[name]
        if name in self.slices:
            return list(self.slices[name]["hosts"])
        members = [h for h, fields in self.hosts.items() if name in fields.get("tags", ())]
        members = members or [h for h, fields in self.hosts.items() if name == fields.get("site")]
        if not members:
            tags = {tag for fields in self.hosts.values() for tag in (*fields.get("tags", ()), fields.get("site", ""))}
            known = ["all", *self.groups, *self.slices, *sorted(tags - {""})]
            raise LookupError(f"{self.path} has no group, slice, tag or site of that name{nearest(name, known)}")
        return members


def resolve(
    texts: Sequence[str],
    options: HostOptions | None = None,
    *,
    read_stdin: Callable[[], str] | None = None,
    cache: str | None = None,
) -> Resolved:
    """The entries and settings for ``-w`` texts (``[]``: the hosts of ``--hostfile``, else of ``--slice``).

    A name that nothing is known of, or that ssh refuses, is rejected with a reason; the others stand. Raises
    HostListError for a list that can't be read or is empty, DirectoryError and SshConfigError for files that can't
    be used. ``cache`` is the cache's folder, by default under the XDG cache folder.
    """
    options = options or HostOptions()
    if options.login and (problem := name_problem(options.login + "@host")):
        raise HostListError(f"-l: {options.login!r} {problem}")
    if options.config_file and options.config_file != "none":
        options = options._replace(config_file=os.path.abspath(options.config_file))  # workers have another folder
    path = find_directory(options)
    if path:
        return _from_directory(load_directory(path, cache), texts, options, read_stdin, cache)
    if options.slice:
        raise DirectoryError(f"--slice {options.slice}: there is no host directory that could define slices; {_LOOKED}")
    return _from_openssh(texts, options, read_stdin, cache)


_LOOKED = "looked for --directory, PLUSH_DIRECTORY and plush/hosts.yaml in the XDG config folder"


def find_directory(options: HostOptions) -> str:
    """The host directory's path: --directory, PLUSH_DIRECTORY, ``plush/hosts.yaml`` in the XDG config folder if it is
    there; "" when OpenSSH's own files are to be used, which ``-F`` on its own asks for, too."""
    named = options.directory or os.environ.get("PLUSH_DIRECTORY", "")
    if options.directory or (named and not options.config_file):
        if not os.path.isfile(named):
            where = "--directory" if options.directory else "PLUSH_DIRECTORY"
            raise DirectoryError(f"{where}: there is no file {named!r}")
        return os.path.abspath(named)
    if options.config_file:
        return ""
    root = os.environ.get("XDG_CONFIG_HOME", "")
    path = (root if root.startswith("/") else os.path.expanduser("~/.config")) + "/plush/hosts.yaml"
    return path if os.path.isfile(path) else ""


def load_directory(path: str, cache: str | None = None) -> Directory:
    """The host directory in its checked form, remembered until the file changes. Raises DirectoryError."""
    store = FileCache("directory", (path,), cache)
    data = store.load()
    if data is None:
        from .directory_file import read_directory_file

        watched = look_at([path])
        data = read_directory_file(path)
        store.save(watched, data)
    return Directory(path=path, **data)


def nearest(word: str, known: Iterable[str]) -> str:
    """A question to put behind an error: whether the known word most like this one was meant; "" if none is like it."""
    from difflib import get_close_matches

    close = get_close_matches(word, list(known), n=1)
    return f"; did you mean {close[0]!r}?" if close else ""


def _from_openssh(
    texts: Sequence[str], options: HostOptions, read_stdin: Callable[[], str] | None, cache: str | None
) -> Resolved:
    """Without a host directory names mean what they mean to ssh."""

    def group(name: str) -> list[str]:
        if name != "all":
            raise LookupError(f"there is no host directory that could define groups; {_LOOKED}")
        names = [n for n in listed_names(options.config_file) if not name_problem(n)]
        if not names:
            raise LookupError("OpenSSH's configuration lists no hosts")
        return names

    listed = read_host_list(
        texts, exclude=options.exclude, hostfiles=options.hostfiles, group=group, read_stdin=read_stdin
    )
    found = query(listed.names, config_file=options.config_file, login=options.login, cache=cache)
    builder = EntryBuilder(options.config_file, cache=cache)
    entries = builder.entries(found.answers)
    return Resolved(
        entries,
        _usual_settings(entries, found),
        {**found.rejected, **builder.rejected},
        [*listed.notes, *_notes(found)],
        options.config_file or "OpenSSH's configuration",
    )


def _from_directory(
    directory: Directory,
    texts: Sequence[str],
    options: HostOptions,
    read_stdin: Callable[[], str] | None,
    cache: str | None,
) -> Resolved:
    chosen = _slice(directory, options.slice)
    if not texts and not options.hostfiles and options.slice:
        texts = [",".join(chosen["hosts"])]
    listed = read_host_list(
        texts, exclude=options.exclude, hostfiles=options.hostfiles, group=directory.group, read_stdin=read_stdin
    )
    rejected: dict[str, str] = {}
    overrides: dict[str, dict[str, Any]] = {}
    allowed = frozenset(chosen["hosts"]) if options.slice else directory.hosts.keys()
    for name in listed.names:
        host = bare_host(name)
        if host not in directory.hosts:
            rejected[name] = f"not in the host directory {directory.path}{nearest(host, directory.hosts)}"
        elif host not in allowed:
            rejected[name] = f"not a host of slice {options.slice!r} in {directory.path}"
        else:
            overrides[name] = _override(name, directory.hosts[host], chosen, options.login)
    config_file = options.config_file or directory.ssh_config
    found = _ask(list(overrides), config_file, options.login, cache)
    builder = EntryBuilder(config_file, directory.known_hosts, cache)
    entries = builder.entries(found.answers, overrides)
    settings = _slice_settings(options.slice, chosen) if options.slice else _usual_settings(entries, found)
    rejected |= found.rejected | builder.rejected
    return Resolved(entries, settings, rejected, [*listed.notes, *_notes(found)], directory.path)


def _slice_settings(name: str, chosen: Mapping[str, Any]) -> SliceSettings:
    known = SliceSettings.__dataclass_fields__
    values = {key: value for key, value in chosen.items() if key in known}
    return SliceSettings.from_mapping({**values, "name": name})


def _slice(directory: Directory, name: str) -> dict[str, Any]:
    if not name:
        return {}
    if name not in directory.slices:
        hint = nearest(name, directory.slices) or f"; there are: {', '.join(directory.slices) or 'none'}"
        raise DirectoryError(f"{directory.path} has no slice {name!r}{hint}")
    return directory.slices[name]


def _override(name: str, fields: Mapping[str, Any], chosen: Mapping[str, Any], login: str) -> dict[str, Any]:
    """The directory's fields for one name, under what the slice, ``-l`` and the name itself say."""
    override = {key: tuple(value) if isinstance(value, list) else value for key, value in fields.items()}
    user = split_login(name)[0] or login or chosen.get("user", "")
    if user:
        override["user"] = user
    if "accept_new" in chosen:
        override["accept_new"] = chosen["accept_new"]
    return override


def _ask(names: list[str], config_file: str, login: str, cache: str | None) -> SshAnswers:
    """OpenSSH's answers for the hosts of a directory; with ``ssh_config: false`` only its usual files."""
    if config_file != "none":
        return query(names, config_file=config_file, login=login, cache=cache)
    return SshAnswers(usual_answers(names), {})


def _usual_settings(entries: Sequence[HostEntry], found: SshAnswers) -> SliceSettings:
    """Settings without a slice: flat, but through the agent where the configuration forwards it to every host."""
    settings = SliceSettings()
    if entries and all(entry.forward_agent for entry in entries):
        settings = replace(settings, inner_login="agent")
    timeouts = [int(t) for a in found.answers.values() if (t := a.get("connecttimeout", "none")).isdigit() and int(t)]
    if timeouts:
        settings = replace(settings, connect_timeout_s=max(timeouts))
    return settings


def _notes(found: SshAnswers) -> list[str]:
    careless = [name for name, a in found.answers.items() if a.get("stricthostkeychecking") in ("no", "off", "false")]
    if not careless:
        return []
    meaning = "taken for accept-new: an unknown key is accepted and recorded, a changed one never"
    return [f"StrictHostKeyChecking no of {fold(careless)} is {meaning}"]
