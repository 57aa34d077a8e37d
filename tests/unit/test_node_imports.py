"""What the node program may import and how large it may be: its start is paid on every host."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import pytest

from plush_worker.mesh import payload

FOLDER = payload.NODE_FOLDER
SOURCES = sorted(path for path in FOLDER.glob("*.py") if path.name != "__init__.py")
# C modules, and what the interpreter has loaded before the first line anyway; all cheap
LEAN = {"_signal", "_socket", "_struct", "errno", "fcntl", "marshal", "os", "select", "sys", "time", "zlib"} | {
    "_frozen_importlib", "_frozen_importlib_external"}  # fmt: skip
CORE_FILES = [FOLDER / f"{name}.py" for name in (payload.IMPORTER, *payload.CORE)]


def imports(path: Path) -> set[str]:
    """Top-level modules imported anywhere in a file; "." for those beside it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level <= 1, f"{path.name} imports from outside its folder"
            found.add("." if node.level else str(node.module).partition(".")[0])
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_grammar_is_that_of_3_6_and_nothing_comes_from_elsewhere(path: Path) -> None:
    ast.parse(path.read_text(), feature_version=(3, 6))
    outside = imports(path) - sys.stdlib_module_names - {"."}
    assert outside <= ({"plush_node"} if path.stem == payload.IMPORTER else set())


@pytest.mark.parametrize("path", CORE_FILES, ids=lambda path: path.stem)
def test_core_imports_only_lean_modules(path: Path) -> None:
    assert imports(path) - {"."} <= LEAN | {"plush_node"}


def test_core_has_at_most_900_lines() -> None:
    lengths = {path.stem: len(path.read_text().splitlines()) for path in CORE_FILES}
    assert sum(lengths.values()) <= 900, lengths


def test_payload_is_at_most_60_kb() -> None:
    assert len(payload.build_payload()) <= 60_000


def test_stripped_sources_keep_their_lines_and_their_meaning() -> None:
    for path in SOURCES:
        text = path.read_text()
        stripped = payload.strip_source(text)
        assert len(stripped.splitlines()) == len(text.splitlines())
        assert '"""' not in stripped.splitlines()[0]
        before, after = ast.parse(text), ast.parse(stripped)
        names = [[(n.lineno, n.id) for n in ast.walk(tree) if isinstance(n, ast.Name)] for tree in (before, after)]
        assert names[0] == names[1]


def test_a_docstring_alone_leaves_a_body() -> None:
    stripped = payload.strip_source('def f():\n    """Only\n    this."""\nx = "#"  # comment\n')
    assert stripped == 'def f():\n\n    pass\nx = "#"\n'
