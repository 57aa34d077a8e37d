"""YAML with the line of everything in it, and errors that name file, line and path.

Entry points: ``parse_yaml`` and ``Report``. Knows nothing of what a host directory holds.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import yaml

from .directory import DirectoryError

_MAX_FILE_BYTES = 16 << 20
_MAX_NODES = 200_000  # with aliases followed; a file of nested aliases would go on for ever
_MAX_ERRORS = 50

Path = tuple[str | int, ...]


class Report:
    """What is wrong, each with its place."""

    def __init__(self, path: str, lines: dict[Path, int]) -> None:
        self._path, self._lines = path, lines
        self.problems: list[tuple[int, str]] = []

    def add(self, place: Path, sentence: str) -> None:
        line = next((self._lines[place[:end]] for end in range(len(place), -1, -1) if place[:end] in self._lines), 1)
        where = ".".join(str(step) for step in place)
        self.problems.append((line, f"{self._path}:{line}: {where + ': ' if where else ''}{sentence}"))

    def error(self) -> DirectoryError:
        texts = list(dict.fromkeys(text for _, text in sorted(self.problems)))
        more = [f"... and {len(texts) - _MAX_ERRORS} more"] if len(texts) > _MAX_ERRORS else []
        return DirectoryError("\n".join([*texts[:_MAX_ERRORS], *more]))


def parse_yaml(path: str) -> tuple[Any, dict[Path, int], list[Path]]:
    """The file's value, the line of every path in it, and the paths given twice."""
    try:
        with open(path, encoding="utf-8") as stream:
            text = stream.read(_MAX_FILE_BYTES + 1)
    except OSError as error:
        raise DirectoryError(f"{path}: can't be read: {error.strerror}") from error
    except ValueError as error:
        raise DirectoryError(f"{path}: is not UTF-8 text: {error}") from error
    if len(text) > _MAX_FILE_BYTES:
        raise DirectoryError(f"{path}: longer than {_MAX_FILE_BYTES >> 20} MiB")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)(text)
    lines: dict[Path, int] = {}
    doubles: list[Path] = []
    try:
        node = loader.get_single_node()
        if node is None:
            return {}, {}, []
        for count, (place, line, double) in enumerate(_walk(node, ())):
            if count > _MAX_NODES:
                raise DirectoryError(f"{path}: more than {_MAX_NODES} values, aliases followed")
            if double:
                doubles.append(place)
            lines[place] = line
        return loader.construct_document(node), lines, doubles
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise DirectoryError(f"{path}:{line}: not YAML: {getattr(error, 'problem', None) or error}") from error
    except RecursionError as error:
        raise DirectoryError(f"{path}: values are nested too deep, or contain themselves") from error
    finally:
        loader.dispose()


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
