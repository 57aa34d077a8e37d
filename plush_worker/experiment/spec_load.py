"""Text or a mapping to an ``Experiment``, with everything that is wrong in it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import BaseModel, ValidationError

from plush_worker.errors import ConfigurationError

from .directory import nearest
from .directory_yaml import Lines, Path, YamlError, line_of, parse_text, written_path
from .host_list import HostListError, NoHostsError, read_host_list
from .spec_fields import Experiment, FileEntry, Process

MAX_TEXT_BYTES = 1 << 20
MAX_VALUES = 50_000
_MAX_ERRORS = 100


class SpecError(NamedTuple):
    """One thing that is wrong."""

    file: str
    line: int  # from 1; 0 when the experiment didn't come as text
    path: str  # in the document: "processes.0.command"; "" for the whole
    message: str

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}" if self.line else self.file
        return f"{place}: {self.path + ': ' if self.path else ''}{self.message}"


class SpecErrors(ConfigurationError):
    """Everything that is wrong with an experiment, in the order of lines; as text, one line each."""

    code = "bad_experiment"

    def __init__(self, errors: Sequence[SpecError]) -> None:
        super().__init__("\n".join(str(error) for error in errors))
        self.errors = tuple(errors)


class Problems:
    """What is wrong with one experiment, collected."""

    def __init__(self, path: str, lines: Lines | None) -> None:
        self._path, self._lines = path, lines
        self._found: list[SpecError] = []

    def add(self, place: Path, message: str) -> None:
        line = 0 if self._lines is None else line_of(place, self._lines)
        self._found.append(SpecError(self._path, line, written_path(place), message))

    def add_all(self, found: Iterable[tuple[Path, str]]) -> None:
        for place, message in found:
            self.add(place, message)

    def __bool__(self) -> bool:
        return bool(self._found)

    def check(self) -> None:
        """Raises SpecErrors if there is anything."""
        errors = sorted(dict.fromkeys(self._found), key=lambda error: error.line)
        if errors:
            more = len(errors) - _MAX_ERRORS
            rest = [SpecError(self._path, 0, "", f"and {more} more errors")] if more > 0 else []
            raise SpecErrors([*errors[:_MAX_ERRORS], *rest])


def problems_of(experiment: Experiment) -> Problems:
    """To collect what is found wrong with it later."""
    return Problems(experiment._path, experiment._lines)


def load_experiment(text: str | bytes, path: str) -> Experiment:
    """The experiment in ``text`` (YAML, of which JSON is a part; at most 1 MiB), named ``path`` in errors.

    Checks form only: no file or host is looked up. Raises SpecErrors.
    """
    if len(text) > MAX_TEXT_BYTES:
        raise SpecErrors([SpecError(path, 0, "", f"longer than {MAX_TEXT_BYTES >> 20} MiB")])
    try:
        decoded = text.decode() if isinstance(text, bytes) else text
        value, lines, doubles = parse_text(decoded, MAX_VALUES)
    except UnicodeDecodeError as error:
        raise SpecErrors(
            [SpecError(path, 0, "", f"is not UTF-8 text: {error.reason} at byte {error.start}")]
        ) from error
    except YamlError as error:
        raise SpecErrors([SpecError(path, error.line, "", str(error))]) from error
    problems = Problems(path, lines)
    for double in doubles:
        problems.add(double, "is given twice; the last would silently be used")
    experiment = _checked(value, problems)
    experiment._path, experiment._lines = path, lines
    return experiment


def experiment_from_mapping(values: Mapping[str, Any], path: str = "experiment") -> Experiment:
    """The same from what JSON was decoded to, so without lines. Raises SpecErrors."""
    experiment = _checked(values, Problems(path, None))
    experiment._path = path
    return experiment


def experiment_from_options(
    hosts: Sequence[str],
    command: str = "",
    *,
    exclude: Sequence[str] = (),
    login: str = "",
    slice: str = "",  # noqa: A002 - as the option and the field are called
    env: Mapping[str, str] | None = None,
    timeout_s: int = 0,
    together: bool = False,
    fanout: int = 0,
    ttl_s: int = 86400,
    client_lease_s: int = 0,
    name: str = "",
    files: Sequence[Mapping[str, Any]] = (),
    fetch: Sequence[str] = (),
) -> Experiment:
    """What the options of ``plush run`` (or deploy, fetch) say, as an experiment to be sent to a service.

    ``hosts`` and ``exclude`` are texts as for -w, without ``-`` and ``^FILE``, which only the client can read.
    ``files`` are as in ``RunSpec.files`` (their content uploaded already). Raises SpecErrors.
    """
    values = {
        "name": name,
        "slice": slice,
        "hosts": list(hosts),
        "exclude": list(exclude),
        "login": login,
        "env": dict(env or {}),
        "files": [packed_file(file) for file in files],
        "command": command,
        "fetch": list(fetch),
        "timeout": timeout_s,
        "together": together,
        "fanout": fanout,
        "client_lease": client_lease_s,
    }
    return experiment_from_mapping({**{k: v for k, v in values.items() if v}, "ttl": ttl_s}, "options")


def packed_file(file: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of ``RunSpec.files`` as one of an experiment; hosts by their indexes."""
    kind = file["kind"]
    entry: dict[str, Any] = {"dest": file["dest"], "kind": kind}
    if kind != "link":
        entry["mode"] = f"{file['mode'] & 0o777:04o}"
    if kind == "file":
        entry |= {"size": file["size"], "sha256": file["sha256"]}
    if kind == "link":
        entry["target"] = file["target"]
    if file.get("hosts") is not None:
        entry["index"] = ",".join(str(index) for index in file["hosts"])
    return entry


def experiment_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of an experiment, for editors."""
    schema = Experiment.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema}


def _checked(value: Any, problems: Problems) -> Experiment:
    experiment: Experiment | None = None
    if not isinstance(value, Mapping):
        problems.add((), f"an experiment is a mapping of fields to values, not {type(value).__name__}")
    else:
        try:
            experiment = Experiment.model_validate({str(key): item for key, item in value.items()})
        except ValidationError as error:
            for problem in error.errors(include_url=False):
                problems.add(_place(problem["loc"], value, problem["type"]), _sentence(problem))
        problems.add_all(_contradictions(value))
    problems.check()
    assert experiment is not None  # else there was a problem
    return experiment


def _place(loc: Path, value: Any, kind: str) -> Path:
    """pydantic's path without the steps that name types and so stand in no document."""
    place: Path = ()
    for index, step in enumerate(loc):
        keyed = isinstance(value, Mapping) and step in value
        numbered = isinstance(value, list) and isinstance(step, int) and step < len(value)
        if keyed or numbered:
            value = value[step]
        elif kind != "missing" or index < len(loc) - 1:
            continue
        place = (*place, step)
    return place


def _sentence(problem: Any) -> str:
    """One pydantic error in words."""
    kind, given = problem["type"], problem.get("input")
    if kind == "extra_forbidden":
        known = list(_model_at(problem["loc"]).model_fields)
        return f"no such field{nearest(str(problem['loc'][-1]), known) or '; there are: ' + ', '.join(known)}"
    if kind == "missing":
        return "is missing"
    if kind == "value_error":
        return str(problem["msg"]).removeprefix("Value error, ")
    message = str(problem["msg"]).replace("Input should", "should", 1)
    return f"{message[:1].lower()}{message[1:]}, not {given!r:.80}"


def _model_at(loc: Path) -> type[BaseModel]:
    if len(loc) > 2 and loc[0] == "files":
        return FileEntry
    return Process if len(loc) > 2 and loc[0] == "processes" else Experiment


def _contradictions(value: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What is wrong between fields; found in the value as written, to be said together with the fields' own errors."""
    asked = [field for field in ("command", "processes", "fetch") if value.get(field)]
    if len(asked) > 1:
        yield (asked[1],), f"can't be given beside {asked[0]}: an experiment has one of command, processes and fetch"
    if value.get("fetch") and value.get("files"):
        yield ("files",), "can't be given beside fetch"
    if not asked and not value.get("files"):
        yield (), "nothing to do: it has no command, processes, files or fetch"
    if not value.get("hosts") and not value.get("slice"):
        yield (), "no hosts: name some under hosts, or a slice"
    for field in ("hosts", "exclude"):
        yield from _host_list_problems((field,), value.get(field))
    processes, files = _mappings(value.get("processes")), _mappings(value.get("files"))
    yield from _process_names(processes)
    for index, entry in processes:
        yield from _choice_problems(("processes", index), entry)
    for index, entry in files:
        yield from _choice_problems(("files", index), entry)
        yield from _file_problems(("files", index), entry)


def _mappings(value: Any) -> list[tuple[int, Mapping[str, Any]]]:
    return [(i, v) for i, v in enumerate(value) if isinstance(v, Mapping)] if isinstance(value, list) else []


def _process_names(processes: Sequence[tuple[int, Mapping[str, Any]]]) -> Iterator[tuple[Path, str]]:
    seen: set[str] = set()
    for index, process in processes:
        name = process.get("name")
        if name is None and len(processes) > 1:
            yield ("processes", index), "needs a name, since there are several processes"
        if isinstance(name, str):
            if name in seen:
                yield ("processes", index, "name"), f"{name[:80]!r} is the name of another process"
            seen.add(name)


def _choice_problems(place: Path, entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    if entry.get("hosts") is not None and entry.get("index") is not None:
        yield (*place, "index"), "can't be given beside hosts"
    yield from _host_list_problems((*place, "hosts"), entry.get("hosts"))


def _file_problems(place: Path, entry: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    kind = entry.get("kind")
    if ("src" in entry) == (kind is not None):
        yield place, "needs src, a file or folder here (or, packed, its kind)"
    wanted = {"file": {"size", "sha256"}, "dir": set(), "link": {"target"}}.get(str(kind), set())
    given = {field for field in ("size", "sha256", "target") if entry.get(field) is not None}
    if kind is not None and (missing := wanted - given):
        yield place, f"a packed {kind} needs {' and '.join(sorted(missing))}"
    for field in sorted(given - wanted):
        yield (*place, field), f"has no meaning for {'a packed ' + str(kind) if kind else 'src'}"
    for found in re.findall(r"\{[^{}]*\}?", str(entry.get("dest", ""))) if kind is None else ():
        if found not in ("{host}", "{index}"):
            yield (*place, "dest"), f"{found[:40]!r} stands for nothing; there are {{host}} and {{index}}"
    if kind is not None and not entry.get("dest"):
        yield place, "a packed entry needs dest"


def _host_list_problems(place: Path, value: Any) -> Iterator[tuple[Path, str]]:
    """What is wrong with the text of a host list: names that a shell or ssh would take for something else."""
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        return
    try:
        read_host_list([text for text in texts if "^" not in text], group=lambda _: ())
    except NoHostsError:
        pass  # of groups, or said of the field itself
    except HostListError as error:
        for line in str(error).split("\n"):
            yield place, line.removeprefix("-w: ")
