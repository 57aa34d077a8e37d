"""The form of an experiment: every field that can be written, with its type, limits and meaning.

Checks each value for itself; whether hosts and files are there is for ``spec_compile.py``. The models are also the
source of the JSON Schema, so that what an editor accepts is what is accepted here.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, WithJsonSchema

from .host_list import name_problem

MAX_PROCESSES = 100
MAX_FILES = 50_000
STDIN_BLOB = re.compile(r"sha256:([0-9a-f]{64})")  # standard input by its content, in a packed experiment
MAX_COMMAND_CHARS = 100_000  # Linux passes at most 128 KiB in one argument
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_RESERVED = ("PLUSH_RUN", "PLUSH_HOST", "PLUSH_INDEX", "PLUSH_HOSTS_COUNT")
_UNITS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
_MAX_S = 10 * 365 * 86400


def _as_list(value: object) -> object:
    return [value] if isinstance(value, str) else value


def _as_text(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError('is true or false to YAML; write it in quotes: "yes", "true"')
    return str(value) if isinstance(value, (int, float)) else value


def _no_nul(text: str) -> str:
    if "\0" in text:
        raise ValueError("has a NUL character in it")
    return text


def _matching(pattern: str, meaning: str) -> Callable[[str], str]:
    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(f"{text[:80]!r} is not {meaning}")
        return text

    return check


def _host_texts(texts: list[str]) -> list[str]:
    for text in texts:
        if "^" in text or "-" in text.replace(",", " ").split():
            raise ValueError(
                f"{text[:80]!r}: an experiment names its hosts itself; '-' and '^' stand for a list elsewhere"
            )
    return texts


def _login(text: str) -> str:
    if text and (problem := name_problem(text + "@host")):
        raise ValueError(f"{text[:80]!r} {problem}")
    return text


def _seconds(value: object) -> object:
    if not isinstance(value, str):
        return value
    number, unit = value.rstrip("smhd"), value[len(value.rstrip("smhd")) :]
    if not (number.isascii() and number.isdigit()) or len(number) > 12 or unit not in _UNITS:
        raise ValueError(f'{value[:40]!r} is no time: write seconds, or a number with s, m, h or d, as "90s" or "7d"')
    return int(number) * _UNITS[unit]


def _octal(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError('a mode is written in quotes, as "0644": without them YAML makes another number of it')
    if isinstance(value, str) and not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError(f'{value[:40]!r} is no mode: write three octal digits, as "0644"')
    return value


def _inside(text: str) -> str:
    """A path in the experiment's folder."""
    if text.startswith(("/", "~")) or ".." in text.split("/"):
        raise ValueError(f"{text[:80]!r} leaves the experiment's folder; files are named relative to it, without '..'")
    return _no_nul(text)


def _on_host(text: str) -> str:
    """A path on the hosts."""
    if ".." in text.split("/"):
        raise ValueError(f"{text[:80]!r}: '..' is not taken in a path on the hosts; write where it leads")
    return _no_nul(text)


def _success(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError('is "all", a number of hosts or a share of them, as "80%"')
    if isinstance(value, int):
        if not 1 <= value <= 1_000_000:
            raise ValueError(f"{value} is no number of hosts")
    elif value != "all" and not re.fullmatch(r"(100|[1-9][0-9]?)%", value):
        raise ValueError(f'{value[:40]!r} is neither "all" nor a share from "1%" to "100%"')
    return value


def _index(value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool) and value >= 0:
        return str(value)
    if not isinstance(value, str) or not re.fullmatch(r"[0-9]{1,6}(-[0-9]{0,6})?(,[0-9]{1,6}(-[0-9]{0,6})?)*", value):
        raise ValueError('is a number from 0, or numbers and ranges: "0", "1-", "0-3,7"')
    return value


_STRING = {"type": "string"}
Text = Annotated[str, AfterValidator(_no_nul)]
Value = Annotated[
    str, BeforeValidator(_as_text), AfterValidator(_no_nul), WithJsonSchema({"type": ["string", "number"]})
]
Name = Annotated[
    str,
    AfterValidator(_matching(_NAME, "a name: letters, digits, '.', '_' and '-', at most 64")),
    WithJsonSchema({**_STRING, "pattern": f"^{_NAME}$"}),
]
EnvName = Annotated[str, AfterValidator(_matching(r"[A-Za-z_][A-Za-z0-9_]{0,255}", "a name of a variable"))]
Hosts = Annotated[
    list[str],
    BeforeValidator(_as_list),
    AfterValidator(_host_texts),
    WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING}]}),
]
Paths = Annotated[
    list[Annotated[str, AfterValidator(_on_host)]],
    BeforeValidator(_as_list),
    WithJsonSchema({"anyOf": [_STRING, {"type": "array", "items": _STRING, "minItems": 1}]}),
]
Seconds = Annotated[
    int,
    BeforeValidator(_seconds),
    Field(ge=0, le=_MAX_S),
    WithJsonSchema({"anyOf": [{"type": "integer", "minimum": 0}, {**_STRING, "pattern": "^[0-9]+[smhd]?$"}]}),
]
Mode = Annotated[str, BeforeValidator(_octal), WithJsonSchema({**_STRING, "pattern": "^0?[0-7]{3}$"})]
Success = Annotated[
    int | str,
    BeforeValidator(_success),
    WithJsonSchema(
        {"anyOf": [{"type": "integer", "minimum": 1}, {**_STRING, "pattern": "^(all|(100|[1-9][0-9]?)%)$"}]}
    ),
]
Index = Annotated[str, BeforeValidator(_index), WithJsonSchema({"type": ["integer", "string"]})]
Digest = Annotated[
    str,
    AfterValidator(_matching(r"[0-9a-f]{64}", "a SHA-256 in hexadecimal")),
    WithJsonSchema({**_STRING, "pattern": "^[0-9a-f]{64}$"}),
]
Env = dict[EnvName, Value]


def _free_names(env: dict[str, str]) -> dict[str, str]:
    if taken := [name for name in env if name in _RESERVED]:
        raise ValueError(f"{', '.join(taken)}: set by Plush itself for every process")
    return env


FreeEnv = Annotated[Env, AfterValidator(_free_names)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Chosen(_Strict):
    """Which of the experiment's hosts something is for: all, unless one of these says otherwise."""

    hosts: Hosts | None = Field(None, description="some of the experiment's hosts, by name, range, @group or @tag")
    index: Index | None = Field(None, description='the same by place in the list of hosts, from 0: 0, "1-", "0-3,7"')


class FileEntry(Chosen):
    """A file or folder to be put on the hosts; or, packed, one file with the SHA-256 of its content."""

    src: Annotated[str, AfterValidator(_inside)] | None = Field(
        None,
        min_length=1,
        description="a file or folder, relative to the experiment's own folder, which it can't leave",
    )
    dest: Annotated[str, AfterValidator(_on_host)] = Field(
        "",
        description="where on the hosts, with {host} and {index}; relative to the home folder; into it if it ends in /",
    )
    mode: Mode | None = Field(None, description='permissions of a file, as "0755"; unset: as they are here')
    kind: Literal["file", "dir", "link"] | None = Field(None, description="of a packed entry")
    size: int | None = Field(None, ge=0, description="of a packed file, in bytes")
    sha256: Digest | None = Field(None, description="of a packed file's content")
    target: Text | None = Field(None, description="of a packed link")


class Process(Chosen):
    """A command that runs on each of its hosts, beside the others."""

    name: Name | None = Field(None, description="unique in the experiment; may be left out when there is but one")
    command: Text = Field(min_length=1, max_length=MAX_COMMAND_CHARS, description="for the login shell of each host")
    cwd: Annotated[str, AfterValidator(_on_host)] = Field("", description="its folder; unset: the home folder")
    env: FreeEnv = Field({}, description="variables, over those of the experiment")
    stdin: Annotated[str, AfterValidator(_inside)] | None = Field(
        None,
        min_length=1,
        description="a file in the experiment's folder that every host's process reads (packed: sha256:DIGEST)",
    )
    timeout: Seconds | None = Field(None, description="it is ended after this time; unset: the experiment's")


class Experiment(_Strict):
    """An experiment as written: which hosts, what files, which processes, and what counts as success."""

    model_config = ConfigDict(title="Plush experiment")

    name: Name | None = Field(None, description="for people; need not be unique")
    slice: Text | None = Field(None, description="a slice of the host directory; its hosts, unless hosts are named")
    hosts: Hosts | None = Field(None, description="names, ranges (node[1-16]), @group, @tag, @all; a text or a list")
    exclude: Hosts = Field([], description="hosts left out of them")
    count: int | None = Field(None, ge=1, description="only the first so many of them, in the order they are written")
    login: Annotated[str, AfterValidator(_login)] = Field("", description="user name on the hosts")
    env: FreeEnv = Field({}, description="variables for every process")
    files: list[FileEntry] = Field([], max_length=MAX_FILES, description="put on the hosts before anything starts")
    command: Text | None = Field(
        None, min_length=1, max_length=MAX_COMMAND_CHARS, description="the only process, in short"
    )
    processes: list[Process] = Field([], max_length=MAX_PROCESSES, description="what runs on the hosts, side by side")
    fetch: Paths | None = Field(None, description="paths on the hosts to be fetched; nothing else can be asked with it")
    success: Success = Field("all", description='hosts that have to end well: "all", a number, or a share: "80%"')
    timeout: Seconds = Field(0, description="each process is ended after this time; 0: never")
    keep: Seconds = Field(7 * 86400, description="the output is kept so long after the end")
    ttl: Seconds = Field(86400, description="processes end when no worker was heard of for so long")
    together: bool = Field(False, description="processes start when every host is ready, or given up")
    fanout: int = Field(0, ge=0, le=1_000_000, description="at most so many hosts at once; 0: all")
    client_lease: Seconds = Field(
        0, description="the run is ended when its client wasn't heard of for so long; 0: never"
    )

    _path: str = PrivateAttr("experiment")
    _lines: dict[tuple[str | int, ...], int] | None = PrivateAttr(None)  # None: it didn't come as text

    def to_mapping(self) -> dict[str, Any]:
        """What was set, as JSON values; ``experiment_from_mapping`` is the inverse."""
        return self.model_dump(mode="json", exclude_unset=True)
