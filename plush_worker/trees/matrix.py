"""Round-trip times read from files: NumPy's .npz and .npy, or text. Without NumPy.

Owns the file formats and the check of what they hold. Entry point: ``read_matrix``.
Formats: numpy.lib.format, versions 1 to 3 (an .npz is a zip of .npy); an upper triangle is that of
``numpy.triu_indices(n, 1)``, row by row.
"""

from __future__ import annotations

import ast
import math
import sys
import zipfile
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from plush_worker.errors import UserError

PLANETLAB = Path(__file__).parent / "data" / "planetlab490_rtt_median.npz"
MAX_SIZE = 5000  # 200 MB; larger networks are given by sites or coordinates
_UNITS = {"rtt_s": 1.0, "rtt_ms": 1e-3, "rtt_us": 1e-6}  # names of arrays, or how they begin
_TYPES = {"u1": "B", "u2": "H", "u4": "I", "u8": "Q", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "f4": "f", "f8": "d"}


class MatrixError(UserError):
    """A file of round-trip times can't be used; the text names it and the place."""

    code = "matrix"


@dataclass(frozen=True, slots=True)
class Matrix:
    """``rtt_s[a][b]``: seconds between rows ``a`` and ``b``; no negative values, no holes."""

    name: str  # of the file
    rtt_s: Sequence[array[float]]
    sites: Sequence[str] = ()  # row -> site; empty: not known

    @property
    def size(self) -> int:
        """How many rows."""
        return len(self.rtt_s)


@dataclass(frozen=True, slots=True)
class _Numbers:
    shape: tuple[int, ...]
    values: array[float] | array[int]


def read_matrix(path: Path) -> Matrix:
    """The matrix of a file, checked. Raises MatrixError.

    .npz: an array ``rtt_s``, ``rtt_ms`` or ``rtt_us`` (or a name that begins so), a square, or an upper triangle with
    ``n``; ``pseudo_site`` or ``site``: row -> number. .npy: a square of seconds. Anything else is text: a row a line,
    milliseconds between commas or blanks, ``#`` before comments. A pair whose directions differ gets their mean.
    """
    try:
        if path.suffix == ".npz":
            matrix = _from_npz(path)
        elif path.suffix == ".npy":
            matrix = Matrix(path.name, _square(path.name, _from_npy(path.read_bytes()), 1.0))
        else:
            matrix = _from_text(path)
    except OSError as error:
        raise MatrixError(f"can't read round-trip times from {path}: {error.strerror or error}") from error
    except (ValueError, KeyError, SyntaxError, zipfile.BadZipFile, EOFError, UnicodeDecodeError) as error:
        raise MatrixError(f"{path} is not a matrix of round-trip times: {error}") from error
    _check(path, matrix)
    for a, row in enumerate(matrix.rtt_s):
        for b in range(a):
            row[b] = matrix.rtt_s[b][a] = (row[b] + matrix.rtt_s[b][a]) / 2
    return matrix


def _from_npz(path: Path) -> Matrix:
    with zipfile.ZipFile(path) as archive:
        members = {name.removesuffix(".npy"): name for name in archive.namelist()}
        found = next((name for name in members if name.startswith(tuple(_UNITS))), None)
        if found is None:
            raise ValueError(f"no array whose name begins with {', '.join(_UNITS)} among {', '.join(members)}")
        unit_s = next(unit_s for start, unit_s in _UNITS.items() if found.startswith(start))
        numbers = _from_npy(archive.read(members[found]))
        if len(numbers.shape) == 1:
            size = int(_from_npy(archive.read(members["n"])).values[0])
            rows = _triangle(found, numbers, size, unit_s)
        else:
            rows = _square(found, numbers, unit_s)
        site = next((name for name in ("pseudo_site", "site") if name in members), None)
        sites = [f"site{int(n)}" for n in _from_npy(archive.read(members[site])).values] if site else []
    if sites and len(sites) != len(rows):
        raise ValueError(f"{site} has {len(sites)} entries for {len(rows)} rows")
    return Matrix(path.name, rows, sites)


def _from_npy(data: bytes) -> _Numbers:
    if data[:6] != b"\x93NUMPY" or len(data) < 12:
        raise ValueError("no NumPy array")
    length_bytes = 2 if data[6] == 1 else 4
    start = 8 + length_bytes + int.from_bytes(data[8 : 8 + length_bytes], "little")
    header = ast.literal_eval(data[8 + length_bytes : start].decode("utf-8" if data[6] == 3 else "latin-1"))
    order, kind, shape = header["descr"][:1], header["descr"][1:], tuple(header["shape"])
    if kind not in _TYPES:
        raise ValueError(f"an array of {header['descr']}, numbers are wanted")
    values: array[float] | array[int] = array(_TYPES[kind])
    size_bytes = math.prod(shape) * int(kind[1:])
    if values.itemsize != int(kind[1:]) or len(data) - start != size_bytes:
        raise ValueError(f"{len(data) - start} bytes of numbers, {size_bytes} are wanted")
    values.frombytes(data[start:])
    if order == (">" if sys.byteorder == "little" else "<"):
        values.byteswap()
    # fortran_order says that a square stands column by column: it makes no difference, since each pair gets its mean.
    return _Numbers(shape, values)


def _triangle(name: str, numbers: _Numbers, size: int, unit_s: float) -> list[array[float]]:
    if not 0 < size <= MAX_SIZE or len(numbers.values) != size * (size - 1) // 2:
        raise ValueError(f"{name} has {len(numbers.values)} entries, {size} hosts have {size * (size - 1) // 2} pairs")
    rows = [array("d", bytes(8 * size)) for _ in range(size)]
    at = 0
    for a in range(size):
        for b in range(a + 1, size):
            rows[a][b] = rows[b][a] = numbers.values[at] * unit_s
            at += 1
    return rows


def _square(name: str, numbers: _Numbers, unit_s: float) -> list[array[float]]:
    if len(numbers.shape) != 2 or numbers.shape[0] != numbers.shape[1]:
        raise ValueError(f"{name} is {' x '.join(map(str, numbers.shape))}, not square")
    size = numbers.shape[0]
    return [array("d", (v * unit_s for v in numbers.values[a * size : (a + 1) * size])) for a in range(size)]


def _from_text(path: Path) -> Matrix:
    rows: list[array[float]] = []
    for number, line in enumerate(path.read_text("utf-8").splitlines(), 1):
        text = line.partition("#")[0].strip()
        words = text.split(",") if "," in text else text.split()
        try:
            row = array("d", (float(word) / 1000 if word.strip() else math.nan for word in words))
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from error
        if row:
            rows.append(row)
    return Matrix(path.name, rows)


def _check(path: Path, matrix: Matrix) -> None:
    size = matrix.size
    if not 2 <= size <= MAX_SIZE:
        raise MatrixError(f"{path} has {size} rows: 2 to {MAX_SIZE} are wanted")
    for a, row in enumerate(matrix.rtt_s):
        if len(row) != size:
            raise MatrixError(f"{path} is not square: row {a} has {len(row)} entries, and there are {size} rows")
        if not (min(row) >= 0 and math.isfinite(sum(row))):
            for b, rtt_s in enumerate(row):
                if not (rtt_s >= 0 and math.isfinite(rtt_s)) and a != b:
                    what = "a negative round trip" if rtt_s < 0 else "no round trip"
                    raise MatrixError(f"{path} has {what} between rows {a} and {b}; estimate it, or leave the host out")
