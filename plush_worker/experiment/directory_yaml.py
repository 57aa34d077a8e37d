"""YAML with the line of everything in it, and errors that name file, line and path.

Entry points: ``parse_yaml``, ``parse_text`` and ``Report``. Knows nothing of what a file holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from .directory import DirectoryError

_MAX_FILE_BYTES = 16 << 20
_MAX_VALUES = 200_000  # with aliases followed; a file of nested aliases would go on for ever
_MAX_DEPTH = 100  # libyaml's composer calls itself for each level, and ends the process when the stack is full
_MAX_ERRORS = 50

Path = tuple[str | int, ...]
Lines = dict[Path, int]


class YamlError(Exception):
    """A text that isn't YAML, or more than anybody would write."""

    def __init__(self, message: str, line: int = 0) -> None:
        super().__init__(message)
        self.line = line  # 0: the whole


class Report:
    """What is wrong, each with its place."""

    def __init__(self, path: str, lines: Lines) -> None:
        self._path, self._lines = path, lines
        self.problems: list[tuple[int, str]] = []

    def add(self, place: Path, sentence: str) -> None:
        line = line_of(place, self._lines)
        where = written_path(place)
        self.problems.append((line, f"{self._path}:{line}: {where + ': ' if where else ''}{sentence}"))

    def error(self) -> DirectoryError:
        texts = list(dict.fromkeys(text for _, text in sorted(self.problems)))
        more = [f"... and {len(texts) - _MAX_ERRORS} more"] if len(texts) > _MAX_ERRORS else []
        return DirectoryError("\n".join([*texts[:_MAX_ERRORS], *more]))


def line_of(place: Path, lines: Lines) -> int:
    """The line of a place, else that of the nearest thing around it; 1 when nothing is."""
    return next((lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in lines), 1)


def written_path(place: Path) -> str:
    """``processes.0.command``; "" for the whole."""
    return ".".join(str(step) for step in place)


def parse_yaml(path: str) -> tuple[Any, Lines, list[Path]]:
    """The file's value, the line of every path in it, and the paths given twice. Raises DirectoryError."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DirectoryError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DirectoryError(f"{path}: is not UTF-8 text: {error}") from error
    if len(text) > _MAX_FILE_BYTES:
        raise DirectoryError(f"{path}: longer than {_MAX_FILE_BYTES >> 20} MiB")
    try:
        return parse_text(text)
    except YamlError as error:
        raise DirectoryError(f"{path}{f':{error.line}' if error.line else ''}: {error}") from error


def parse_text(text: str, max_values: int = _MAX_VALUES) -> tuple[Any, Lines, list[Path]]:
    """The value of a YAML text, the line of every path in it, and the paths given twice. Raises YamlError.

    ``max_values`` bounds memory and time (about 10 us each), aliases followed.
    An empty text is an empty mapping. Only plain values: no tag makes an object.
    """
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError as error:
            raise YamlError(f"is not UTF-8 text: {error.reason} at character {error.start}") from error
    _check_size(text, max_values)
    loader_type = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    lines: Lines = {}
    doubles: list[Path] = []
    try:
        loader = loader_type(text)  # refuses what no YAML text may have in it
    except yaml.YAMLError as error:
        raise _not_yaml(error) from error
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}, []
        for count, (place, line, double) in enumerate(_walk(node, ())):
            if count > max_values:
                raise YamlError(f"more than {max_values} values, aliases followed")
            if double:
                doubles.append(place)
            lines[place] = line
        return loader.construct_document(node), lines, doubles
    except yaml.YAMLError as error:
        raise _not_yaml(error) from error
    except ValueError as error:  # a date that no calendar has, a number of 5,000 digits
        raise YamlError(f"a value can't be read: {error}; write it in quotes if it is a text") from error
    except RecursionError as error:
        raise YamlError("values are nested too deep, or contain themselves") from error
    finally:
        loader.dispose()


def _not_yaml(error: yaml.YAMLError) -> YamlError:
    mark = getattr(error, "problem_mark", None)
    line = mark.line + 1 if mark else 1
    return YamlError(f"not YAML: {getattr(error, 'problem', None) or getattr(error, 'reason', None) or error}", line)


def _check_size(text: str, max_values: int) -> None:
    """Raises YamlError for a text of too many values, or too deep ones; by events, so without a stack."""
    depth = count = 0
    try:
        for event in yaml.parse(text, getattr(yaml, "CSafeLoader", yaml.SafeLoader)):
            count += 1
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
                if depth > _MAX_DEPTH:
                    line = event.start_mark.line + 1 if event.start_mark else 0
                    raise YamlError(f"values are nested too deep (more than {_MAX_DEPTH})", line)
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if count > 3 * max_values:  # a value of a mapping is at most its key, itself and an end
                raise YamlError(f"more than {max_values} values")
    except yaml.YAMLError as error:
        raise _not_yaml(error) from error


def _walk(node: yaml.Node, place: Path) -> Iterator[tuple[Path, int, bool]]:
    """(path, line, given twice) of everything in the file; lines from 1."""
    if isinstance(node, yaml.MappingNode):
        seen = set()
        for key, value in node.value:
            inside = (*place, str(key.value))
            yield inside, key.start_mark.line + 1, inside in seen and key.value != "<<"
            seen.add(inside)
            yield from _walk(value, inside)
    elif isinstance(node, yaml.SequenceNode):
        for index, value in enumerate(node.value):
            yield (*place, index), value.start_mark.line + 1, False
            yield from _walk(value, (*place, index))
