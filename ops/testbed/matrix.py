"""Round-trip times between the testbed's hosts: rows of a file, chosen as the simulator of ``plush tree`` chooses them.

Entry point: ``load_matrix``. The files' formats and their checks are those of ``plush_worker.trees.matrix``.
"""

from __future__ import annotations

import random
from array import array
from dataclasses import dataclass
from pathlib import Path

from ops.testbed.errors import BadInput
from plush_worker.trees.matrix import PLANETLAB, Matrix, MatrixError, read_matrix
from plush_worker.trees.network import SAME_PLACE_S


@dataclass(frozen=True, slots=True)
class RttMatrix:
    """``rtt_s[a][b]``: seconds between hosts ``a`` and ``b``; symmetric, zero on the diagonal."""

    rtt_s: list[array[float]]
    sites: list[str]  # by host
    note: str  # one line for the reader of a result: where the numbers come from and how hosts were chosen

    def one_way_s(self) -> array[float]:
        """Half of every round trip, row by row: what ``PathSettings`` takes."""
        return array("f", (rtt_s / 2 for row in self.rtt_s for rtt_s in row))


def load_matrix(name_or_path: str, host_count: int, seed: int) -> RttMatrix:
    """The matrix for this many hosts, host 0 (the controller) included.

    ``planetlab`` is the data set of 490 hosts; ``zero`` has no delay at all; anything else is a file. Hosts take the
    first rows; hosts beyond the last row take rows drawn by ``seed``, and ``note`` says so. A file without sites makes
    each row one. Raises BadInput for what can't be read, isn't square, is negative or has holes.
    """
    if host_count < 1:
        raise BadInput(f"{host_count} hosts: at least 1 is needed")
    if name_or_path == "zero":
        rows = [array("d", bytes(8 * host_count)) for _ in range(host_count)]
        return RttMatrix(rows, ["site0"] * host_count, "no delay between hosts")
    try:
        matrix = read_matrix(PLANETLAB if name_or_path == "planetlab" else Path(name_or_path))
    except MatrixError as error:
        raise BadInput(f"{error}; --rtt takes planetlab, zero or a file") from error
    rows_chosen, how = choose_rows(matrix.size, host_count, seed)
    sites = [matrix.sites[row] if matrix.sites else f"site{row}" for row in rows_chosen]
    origin = "PlanetLab" if name_or_path == "planetlab" else matrix.name
    return RttMatrix(_between(matrix, rows_chosen), sites, f"{origin}, {how}")


def choose_rows(row_count: int, host_count: int, seed: int) -> tuple[list[int], str]:
    """The row of each host, and in words how it was chosen."""
    chosen = list(range(min(host_count, row_count)))
    if host_count < row_count:
        return chosen, f"the first {host_count} of {row_count} rows"
    drawn_count = host_count - row_count
    if not drawn_count:
        return chosen, f"all {row_count} rows"
    chosen += random.Random(seed).choices(range(row_count), k=drawn_count)
    return chosen, f"{drawn_count} hosts more than its {row_count} rows stand at places of rows drawn with seed {seed}"


def _between(matrix: Matrix, rows: list[int]) -> list[array[float]]:
    """Hosts of the same row are as far apart as neighbours in one machine room."""
    found = []
    for host, row in enumerate(rows):
        times_s = array("d", (matrix.rtt_s[row][other] if row != other else SAME_PLACE_S for other in rows))
        times_s[host] = 0.0
        found.append(times_s)
    return found
