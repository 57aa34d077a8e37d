"""Builds what is sent to a host: the sources of ``plush_worker/node`` as one compressed, self-starting bundle.

Owns the bundle's form; its reader is ``node/importer.py``, and the loader in ``node/bootstrap.py`` runs it::

    zlib(importer source and a call of start() | NUL | sources of CORE) | zlib(other sources) | zlib(code of HOT)

Comments and docstrings are blanked, and their lines kept, so that line numbers in a traceback are those of the files.
Each part but the first is compressed with the end of the one before as its dictionary, which saves a tenth.
The code of HOT is what compiling them would give on this Python, for hosts that have the same: compiling what the first
op needs costs a host 11 ms, loading its code 0.5 ms. It has no line numbers, which are half of its size.
"""

from __future__ import annotations

import ast
import functools
import importlib.util
import io
import marshal
import tokenize
import types
import zlib
from pathlib import Path

from plush_worker.node import bootstrap

NODE_FOLDER = Path(bootstrap.__file__).parent
IMPORTER = "importer"
# What a node program runs before it says READY; everything else is unpacked when it is first imported.
CORE = ("limits", "frames", "hostwire", "messages", "flow", "loop", "session", "state_dir", "__main__")

DICTIONARY_BYTES = 1 << 15  # zlib's window
HOT = ("ops", "spares", "supervisor", "spool", "journal", "process")


@functools.cache
def build_payload() -> bytes:
    """The bundle of the modules beside ``node/bootstrap.py``; built once in the life of the process."""
    return bundle({path.stem: path.read_text("utf-8") for path in NODE_FOLDER.glob("*.py")})


def bundle(sources: dict[str, str]) -> bytes:
    """The bundle of ``sources`` (module name -> text), which hold at least CORE and the importer."""
    stripped = {name: strip_source(text).encode() for name, text in sources.items() if name != "__init__"}
    start = stripped.pop(IMPORTER)
    core = {name: stripped.pop(name) for name in CORE}
    rest = dict(sorted(stripped.items(), key=lambda item: (item[0] in HOT, item[0])))  # HOT last: the dictionary's end
    hot = {name: _code(name, rest[name]) for name in HOT if name in rest}
    parts = ", ".join((_slices("bundle", core), repr(_places(rest)), repr(_places(hot))))
    start += f"\nstart(wire, bundle, packed, {parts}, {importlib.util.MAGIC_NUMBER!r})\n".encode()
    core_text, rest_text, hot_code = (b"".join(part.values()) for part in (core, rest, hot))
    first = zlib.compress(start + b"\0" + core_text, 9)
    return first + _compress(rest_text, core_text) + _compress(hot_code, rest_text)


def _compress(data: bytes, before: bytes) -> bytes:
    compressor = zlib.compressobj(9, zdict=before[-DICTIONARY_BYTES:])
    return compressor.compress(data) + compressor.flush()


def _code(name: str, source: bytes) -> bytes:
    """The marshalled code of a module, named as the importer names it."""
    code = compile(source, f"plush/{name}.py", "exec", dont_inherit=True, optimize=2)
    return marshal.dumps(_without_lines(code))


def _without_lines(code: types.CodeType) -> types.CodeType:
    inner = (_without_lines(c) if isinstance(c, types.CodeType) else c for c in code.co_consts)
    code = code.replace(co_linetable=b"", co_consts=tuple(inner))
    # A name with its class is only for messages
    return code.replace(co_qualname=code.co_name) if hasattr(code, "co_qualname") else code


def _places(parts: dict[str, bytes]) -> dict[str, tuple[int, int]]:
    """name -> (first, end) of each part in all of them joined."""
    places, at = {}, 0
    for name, data in parts.items():
        places[name] = (at, at + len(data))
        at += len(data)
    return places


def _slices(whole: str, parts: dict[str, bytes]) -> str:
    """The source of a dict that cuts the parts, by name, out of the bytes called ``whole``."""
    items, at = [], 0
    for name, data in parts.items():
        items.append(f"{name!r}: {whole}[{at}:{at + len(data)}]")
        at += len(data)
    return "{" + ", ".join(items) + "}"


def strip_source(text: str) -> str:
    """``text`` without comments and docstrings, one space a level, each line where it was. Raises SyntaxError."""
    lines = text.splitlines()
    of_strings: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column]
        elif token.type == tokenize.STRING:
            of_strings.update(range(token.start[0], token.end[0]))  # rows after the first, from 0
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)) and ast.get_docstring(node) is not None:
            _blank_docstring(lines, node)
    return "\n".join(line if row in of_strings else _dedent(line) for row, line in enumerate(lines)) + "\n"


def _dedent(line: str) -> str:
    """Levels of four spaces become one space; in a line that goes on from another it doesn't matter how many."""
    content = line.strip()
    return " " * ((len(line) - len(line.lstrip())) // 4) + content if content else ""


def _blank_docstring(lines: list[str], node: ast.Module | ast.ClassDef | ast.FunctionDef) -> None:
    docstring = node.body[0]
    indent = " " * docstring.col_offset
    first, last = docstring.lineno - 1, (docstring.end_lineno or docstring.lineno) - 1
    for row in range(first, last + 1):
        lines[row] = ""
    if len(node.body) == 1 and not isinstance(node, ast.Module):
        lines[last] = indent + "pass"
