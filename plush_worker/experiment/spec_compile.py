"""From an experiment to the run that is submitted: hosts resolved, files read, every reference followed."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from plush_worker import xdg
from plush_worker.model import HostEntry, RunSpec, SliceSettings

from .directory import HostOptions, Resolved, find_directory, load_directory, nearest, resolve
from .directory_yaml import Path
from .host_list import HostListError, NoHostsError, bare_host, read_host_list
from .spec_fields import STDIN_BLOB, Chosen, Experiment, FileEntry
from .spec_files import FolderReader, digest_of
from .spec_load import Problems, experiment_from_mapping, packed_file, problems_of

_COMMAND_CHARS = 500  # of what stands for several processes in lists


class Blobs(Protocol):
    """Where the content of files goes (``plush_worker.blobs.BlobStore``)."""

    def put_file(self, path: str, /) -> str: ...
    def missing(self, digests: list[str], /) -> list[str]: ...


class Packed(NamedTuple):
    """An experiment that refers to no file of this machine any more."""

    experiment: Experiment  # files and stdin by SHA-256; ``to_mapping()`` is what is sent to a service
    contents: dict[str, str]  # SHA-256 -> path of the file here whose content it is, to be uploaded


def pack_experiment(experiment: Experiment, base_dir: str) -> Packed:
    """Reads the files named in the experiment, relative to ``base_dir`` (the folder of its file), which they can't
    leave; for a client of a service elsewhere. Raises SpecErrors."""
    contents: dict[str, str] = {}

    def take(path: str) -> str:
        digest = digest_of(path)
        contents[digest] = path
        return digest

    problems = problems_of(experiment)
    reader = FolderReader(base_dir, take, problems)
    values = experiment.to_mapping()
    entries: list[dict[str, Any]] = []
    for number, entry in enumerate(experiment.files):
        if entry.src is None:
            entries.append(values["files"][number])
            continue
        chosen = {k: v for k, v in values["files"][number].items() if k in ("hosts", "index")}
        entries += [packed_file(file) | chosen for file in reader.files(("files", number), entry)]
    if entries:
        values["files"] = entries
    for number, process in enumerate(experiment.processes):
        if process.stdin and not STDIN_BLOB.fullmatch(process.stdin):
            digest = reader.stdin(("processes", number, "stdin"), process.stdin)
            values["processes"][number]["stdin"] = f"sha256:{digest}"
    problems.check()
    return Packed(experiment_from_mapping(values, experiment._path), contents)


def compile_experiment(
    experiment: Experiment,
    *,
    owner: str,
    blobs: Blobs | None = None,
    base_dir: str | None = None,
    directory: str = "",
    config_file: str = "",
    cache: str | None = None,
    run_id: str = "",
    client_lease_s: int | None = None,
    submitted_at_s: float | None = None,
) -> RunSpec:
    """The run to submit.

    ``directory`` and ``config_file`` are the host directory (path) and OpenSSH configuration to resolve hosts by, as
    in ``HostOptions``; empty: the usual places. ``base_dir`` is the folder of the experiment's file, for its files;
    None refuses ``src`` and takes only packed files, as a service must. ``blobs`` takes the files' content, and is
    asked for that of packed ones; None: they are only read. ``client_lease_s`` overrides the experiment's. A host that
    isn't known is an error. Blocks: on files, and on ``ssh -G`` for hosts it hasn't asked about before.

    Raises SpecErrors with all that is wrong; DirectoryError and SshConfigError for files that can't be used.
    """
    problems = problems_of(experiment)
    options = HostOptions(
        exclude=tuple(experiment.exclude),
        login=experiment.login,
        config_file=config_file,
        directory=directory,
        slice=experiment.slice or "",
    )
    hosts = _Hosts(experiment, options, cache, problems)
    contents = _Contents(blobs, base_dir, problems)
    processes = _processes(experiment, hosts, contents)
    files = _files(experiment, hosts, contents)
    contents.check_packed()
    success = _success(experiment, len(hosts.entries), problems)
    if processes and not problems:
        _check_busy(hosts, processes, files, problems)
    problems.check()
    return RunSpec(
        run_id=run_id or str(uuid.uuid4()),
        owner=owner,
        command=_summary(experiment, processes, files),
        hosts=tuple(_changed_fields(entry) for entry in hosts.entries),
        slice=_fields(hosts.settings),
        env=experiment.env,
        timeout_s=experiment.timeout,
        ttl_s=experiment.ttl,
        together=experiment.together,
        fanout=experiment.fanout,
        client_lease_s=experiment.client_lease if client_lease_s is None else client_lease_s,
        submitted_at=time.time() if submitted_at_s is None else submitted_at_s,
        submitter_host=xdg.machine_id(),
        submitter_uid=os.getuid(),
        name=experiment.name or "",
        kind="fetch" if experiment.fetch else "run" if processes else "deploy",
        processes=tuple(processes),
        files=tuple(files),
        fetch=tuple(experiment.fetch or ()),
        success=success,
        keep_s=experiment.keep,
    )


class _Hosts:
    """The hosts of the run, and which of them something is for."""

    def __init__(self, experiment: Experiment, options: HostOptions, cache: str | None, problems: Problems) -> None:
        self._problems = problems
        self._options, self._cache = options, cache
        self.entries: list[HostEntry] = []
        self.settings = SliceSettings()
        self._known: dict[tuple[str, ...], list[int]] = {}  # texts -> indexes: many files are for the same hosts
        resolved = self._resolve(experiment)
        if resolved is None:
            return
        for name, reason in resolved.rejected.items():
            problems.add(("hosts",), f"{name}: {reason}")
        self.settings, self.entries = resolved.settings, resolved.entries
        if experiment.count is not None and not resolved.rejected:
            if experiment.count > len(self.entries):
                problems.add(("count",), f"{experiment.count} of {len(self.entries)} hosts can't be chosen")
            self.entries = self.entries[: experiment.count]

    def chosen(self, place: Path, chosen: Chosen) -> list[int] | None:
        """Indexes into ``entries``; None: all of them."""
        if not self.entries:
            return None  # what is wrong with them is said already
        if chosen.index is not None:
            return self._by_index((*place, "index"), chosen.index)
        if chosen.hosts is None:
            return None
        texts = tuple(chosen.hosts)
        if texts not in self._known:
            self._known[texts] = self._by_name((*place, "hosts"), chosen.hosts)
        return self._known[texts]

    def _resolve(self, experiment: Experiment) -> Resolved | None:
        try:
            return resolve(experiment.hosts or [], self._options, cache=self._cache)
        except HostListError as error:
            for line in str(error).split("\n"):
                field = "exclude" if line.startswith("-x:") else "hosts"
                self._problems.add((field,), line.removeprefix("-w: ").removeprefix("-x: "))
            return None

    def _by_index(self, place: Path, text: str) -> list[int]:
        last = len(self.entries) - 1
        found: set[int] = set()
        for part in text.split(","):
            low, dash, high = part.partition("-")
            first, end = int(low), int(high) if high else (last if dash else int(low))
            if max(first, end) > last or first > end:
                self._problems.add(place, f"{part}: there are {last + 1} hosts, numbered from 0 to {last}")
                return []
            found.update(range(first, end + 1))
        return sorted(found)

    def _by_name(self, place: Path, texts: list[str]) -> list[int]:
        try:
            names = read_host_list(texts, group=self._group()).names
        except NoHostsError:
            names = ()
        except HostListError as error:
            for line in str(error).split("\n"):
                self._problems.add(place, line.removeprefix("-w: "))
            return []
        by_name: dict[str, list[int]] = {}
        for index, entry in enumerate(self.entries):
            for name in {entry.name, bare_host(entry.name)}:
                by_name.setdefault(name, []).append(index)
        found = sorted({index for name in names for index in by_name.get(name, ())})
        if not found:
            hint = nearest(names[0], by_name) if names else ""
            self._problems.add(place, f"none of these is a host of the experiment{hint}")
        return found

    def _group(self) -> Callable[[str], Sequence[str]]:
        path = find_directory(self._options)
        if path:
            return load_directory(path, self._cache).group

        def no_group(name: str) -> Sequence[str]:
            if name == "all":
                return [entry.name for entry in self.entries]
            raise LookupError("there is no host directory that could define groups")

        return no_group


class _Contents:
    """The content of files and standard inputs: read here, or packed and already with the service."""

    def __init__(self, blobs: Blobs | None, base_dir: str | None, problems: Problems) -> None:
        self._blobs, self._problems = blobs, problems
        take = blobs.put_file if blobs is not None else digest_of
        self._reader = None if base_dir is None else FolderReader(base_dir, take, problems)
        self._packed: dict[str, list[Path]] = {}

    def stdin(self, place: Path, text: str) -> str:
        if blob := STDIN_BLOB.fullmatch(text):
            self._packed.setdefault(blob[1], []).append(place)
            return blob[1]
        if self._reader is None:
            self._refuse(place)
            return ""
        return self._reader.stdin(place, text)

    def files(self, place: Path, entry: FileEntry) -> list[dict[str, Any]]:
        if entry.src is None:
            if entry.sha256:
                self._packed.setdefault(entry.sha256, []).append((*place, "sha256"))
            usual = {"file": 0o644, "dir": 0o755}.get(str(entry.kind), 0o777)
            mode = usual if entry.mode is None else int(entry.mode, 8)
            fields = {"size": entry.size or 0, "sha256": entry.sha256 or "", "target": entry.target or ""}
            return [{"dest": entry.dest, "kind": entry.kind, "mode": mode, **fields, "hosts": None}]
        if self._reader is None:
            self._refuse((*place, "src"))
            return []
        return self._reader.files(place, entry)

    def check_packed(self) -> None:
        """Every packed content has to be there."""
        if self._blobs is None:
            return
        for digest in self._blobs.missing(list(self._packed)):
            for place in self._packed[digest]:
                self._problems.add(place, f"no content with SHA-256 {digest} was sent: upload it first")

    def _refuse(self, place: Path) -> None:
        self._problems.add(place, "names a file here, and the service has only what was sent to it: submit the "
                           "experiment with `plush submit` or the client, which send its files")  # fmt: skip


def _processes(experiment: Experiment, hosts: _Hosts, contents: _Contents) -> list[dict[str, Any]]:
    if experiment.command is not None:
        usual: dict[str, Any] = {"hosts": None, "cwd": "", "env": {}, "stdin": "", "timeout_s": experiment.timeout}
        return [{"name": "", "command": experiment.command, **usual}]
    found = []
    for number, process in enumerate(experiment.processes):
        place: Path = ("processes", number)
        found.append(
            {
                "name": process.name or "",
                "command": process.command,
                "hosts": hosts.chosen(place, process),
                "cwd": process.cwd,
                "env": process.env,
                "stdin": contents.stdin((*place, "stdin"), process.stdin) if process.stdin else "",
                "timeout_s": experiment.timeout if process.timeout is None else process.timeout,
            }
        )
    return found


def _files(experiment: Experiment, hosts: _Hosts, contents: _Contents) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    for number, entry in enumerate(experiment.files):
        place: Path = ("files", number)
        chosen = hosts.chosen(place, entry)
        found += [{**file, "hosts": chosen} for file in contents.files(place, entry)]
    return found


def _success(experiment: Experiment, host_count: int, problems: Problems) -> dict[str, Any]:
    wanted = experiment.success
    if wanted == "all" or not host_count:
        return {}
    if isinstance(wanted, str):
        return {"at_least": -(-host_count * int(wanted.removesuffix("%")) // 100)}
    if wanted > host_count:
        problems.add(("success",), f"{wanted} of {host_count} hosts can't end well")
    return {"at_least": wanted}


def _check_busy(
    hosts: _Hosts, processes: Sequence[dict[str, Any]], files: Sequence[dict[str, Any]], problems: Problems
) -> None:
    """A host for which there is nothing to do is a slip of whoever chose the processes' hosts."""
    busy: set[int] = set()
    for part in (*processes, *files):
        if part["hosts"] is None:
            return
        busy.update(part["hosts"])
    idle = [entry.name for index, entry in enumerate(hosts.entries) if index not in busy]
    if idle:
        more = f" and {len(idle) - 1} more" if len(idle) > 1 else ""
        problems.add(("processes",), f"none of them is for {idle[0]}{more}; leave such hosts out of hosts")


def _summary(experiment: Experiment, processes: Sequence[dict[str, Any]], files: Sequence[dict[str, Any]]) -> str:
    """What lists of runs show as the command."""
    if experiment.fetch:
        return "fetch " + " ".join(experiment.fetch)
    if not processes:
        size_bytes = sum(file["size"] for file in files)
        return f"deploy {len(files)} files, {size_bytes} bytes"
    if len(processes) == 1:
        return str(processes[0]["command"])
    return "; ".join(f"{process['name']}: {process['command']}" for process in processes)[:_COMMAND_CHARS]


def _fields(record: HostEntry | SliceSettings) -> dict[str, Any]:
    return {name: getattr(record, name) for name in type(record).__dataclass_fields__}


_BLANK = HostEntry("", "")


def _changed_fields(entry: HostEntry) -> dict[str, Any]:
    """The fields that aren't at their defaults: a spec of 1,000 hosts shrinks to a third."""
    return {name: value for name, value in _fields(entry).items() if value != getattr(_BLANK, name)}
