"""What the simulator is given: matrices from files, made-up networks, measured costs; and how it says what is wrong."""

from __future__ import annotations

import json
import math
import struct
import zipfile
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from plush_worker.errors import ConfigurationError
from plush_worker.model import HostEntry
from plush_worker.trees.coordinates import MAX_SITES, WITHIN_S, plane
from plush_worker.trees.link_costs import DEFAULT_KEX, LinkCosts, MeasuredCosts, read_costs, write_costs
from plush_worker.trees.matrix import PLANETLAB, Matrix, MatrixError, read_matrix
from plush_worker.trees.network import SAME_PLACE_S, by_site, from_matrix, zero

FOUR_MS = [[0, 10, 20, 30], [10, 0, 12, 13], [20, 12, 0, 14], [30, 13, 14, 0]]


def npy(descr: str, shape: tuple[int, ...], data: bytes, *, version: int = 1, fortran: bool = False) -> bytes:
    """An array as NumPy writes it."""
    header = f"{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape!r}, }}"
    length = "<H" if version == 1 else "<I"
    text = header.ljust(64 - (8 + struct.calcsize(length) + len(header) + 1) % 64 + len(header)) + "\n"
    return b"\x93NUMPY" + bytes((version, 0)) + struct.pack(length, len(text)) + text.encode() + data


def npz(path: Path, **arrays: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in arrays.items():
            archive.writestr(f"{name}.npy", data)
    return path


def text(path: Path, rows: list[list[object]], comma: str = ",") -> Path:
    path.write_text("# ms\n" + "\n".join(comma.join(map(str, row)) for row in rows) + "\n")
    return path


def ms(matrix: Matrix) -> list[list[float]]:
    return [[round(rtt_s * 1000, 6) for rtt_s in row] for row in matrix.rtt_s]


# Matrices


def test_a_matrix_is_the_same_from_every_form_of_file(tmp_path: Path) -> None:
    triangle = struct.pack("<6I", *(1000 * FOUR_MS[a][b] for a in range(4) for b in range(a + 1, 4)))
    square = [float(v) for row in FOUR_MS for v in row]
    square_s = struct.pack("<16d", *(v / 1000 for v in square))
    one = npy("<i8", (), struct.pack("<q", 4))
    sites = npy("<i4", (4,), struct.pack("<4i", 7, 7, 8, 9))
    paths = [
        text(tmp_path / "a.csv", FOUR_MS),  # type: ignore[arg-type]
        text(tmp_path / "a.txt", FOUR_MS, "  "),  # type: ignore[arg-type]
        npz(tmp_path / "a.npz", n=one, rtt_us_median_triu=npy("<u4", (6,), triangle), pseudo_site=sites),
        npz(tmp_path / "b.npz", rtt_ms=npy("<f8", (4, 4), struct.pack("<16d", *square))),
        npz(tmp_path / "c.npz", rtt_ms=npy(">f4", (4, 4), struct.pack(">16f", *square), version=2)),
        npz(tmp_path / "d.npz", rtt_s=npy("<f8", (4, 4), square_s, fortran=True)),
        tmp_path / "e.npy",
    ]  # fmt: skip
    paths[-1].write_bytes(npy("<f8", (4, 4), square_s, version=3))
    for path in paths:
        assert ms(read_matrix(path)) == FOUR_MS, path
    assert read_matrix(paths[2]).sites == ["site7", "site7", "site8", "site9"]


def test_a_pair_whose_directions_differ_gets_their_mean(tmp_path: Path) -> None:
    assert read_matrix(text(tmp_path / "b.csv", [[0, 10], [20, 0]])).rtt_s[1][0] == pytest.approx(0.015)


def test_planetlab() -> None:
    matrix = read_matrix(PLANETLAB)
    assert matrix.size == 490
    pairs = sorted(matrix.rtt_s[a][b] for a in range(490) for b in range(a))
    assert pairs[len(pairs) // 2] == pytest.approx(0.134, abs=0.001)
    assert pairs[-1] == pytest.approx(0.675, abs=0.001)
    assert len(set(matrix.sites)) == 240


def _damaged_zip(path: Path) -> Path:
    path.write_bytes(b"PK\x03\x04 no more")
    return path


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p / "none.csv", "can't read .*none.csv: No such file"),
    "not square": (lambda p: text(p / "a.csv", [[0, 1], [1, 0], [2, 2]]), "not square: row 0 has 2 .* 3 rows"),
    "negative": (lambda p: text(p / "a.csv", [[0, 1, 1], [1, 0, -2], [1, 1, 0]]), "negative .* rows 1 and 2"),
    "a hole": (lambda p: text(p / "a.csv", [[0, 1, 1], [1, 0, ""], [1, 1, 0]]), "no round trip between rows 1 and 2"),
    "endless": (lambda p: text(p / "a.csv", [[0, "inf"], [1, 0]]), "no round trip between rows 0 and 1"),
    "words": (lambda p: text(p / "a.csv", [[0, "far"], [1, 0]]), "line 2: could not convert string to float: 'far'"),
    "one row": (lambda p: text(p / "a.csv", [[0]]), "has 1 rows"),
    "damaged": (lambda p: _damaged_zip(p / "a.npz"), "not a matrix .* zip"),
    "no array": (lambda p: npz(p / "a.npz", n=npy("<i4", (), b"\1\0\0\0")), "begins with rtt_s, .* among n"),
    "half a triangle": (
        lambda p: npz(p / "a.npz", n=npy("<i4", (), b"\4\0\0\0"), rtt_us=npy("<i4", (2,), bytes(8))),
        "2 entries, 4 hosts have 6 pairs",
    ),
    "oblong": (lambda p: npz(p / "a.npz", rtt_s=npy("<f4", (2, 3), bytes(24))), "2 x 3, not square"),
    "cut short": (lambda p: npz(p / "a.npz", rtt_s=npy("<f4", (2, 2), bytes(12))), "12 bytes of numbers, 16 are"),
    "objects": (lambda p: npz(p / "a.npz", rtt_s=npy("|O", (2, 2), bytes(32))), "numbers are wanted"),
    "sites": (
        lambda p: npz(p / "a.npz", rtt_s=npy("<f4", (2, 2), bytes(16)), pseudo_site=npy("<i4", (1,), bytes(4))),
        "1 entries for 2 rows",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_matrix_is_refused_with_the_place(what: str, tmp_path: Path) -> None:
    make, message = BAD[what]
    path = make(tmp_path)
    with pytest.raises(MatrixError, match=message) as caught:
        read_matrix(path)
    assert str(path) in str(caught.value)


# Networks


def test_hosts_take_the_rows_after_the_controllers() -> None:
    matrix = Matrix("m", [array("d", (v / 1000 for v in row)) for row in FOUR_MS], ["a", "b", "c", "d"])
    net = from_matrix(matrix, 2, 1)
    assert (net.controller, list(net.clusters), list(net.sites)) == (0, [1, 2], ["b", "c"])
    assert net.rtt_s(net.controller, net.clusters[1]) == 0.020
    more = from_matrix(matrix, 50, 1)
    assert list(more.clusters)[:3] == [1, 2, 3]
    assert "47 of 50 hosts" in more.note and "seed 1" in more.note
    assert more.clusters == from_matrix(matrix, 50, 1).clusters != from_matrix(matrix, 50, 2).clusters
    assert more.rtt_s(2, 2) == SAME_PLACE_S


def test_networks_without_a_matrix() -> None:
    assert zero(3).rtt_s(zero(3).controller, zero(3).clusters[2]) == 0
    sited = by_site([HostEntry(n, n, site=site) for n, site in (("a", "x"), ("b", "x"), ("c", "y"))])
    assert sited.rtt_s(sited.clusters[0], sited.clusters[1]) < sited.rtt_s(sited.clusters[0], sited.clusters[2])
    assert "--rtt" in sited.note


def test_a_made_up_network_is_like_a_wide_area_and_always_the_same() -> None:
    net = plane(3000, 5)
    clusters = sorted(set(net.clusters))
    pairs = sorted(net.rtt_s(a, b) for a in clusters for b in clusters if a < b)
    assert 0.02 < pairs[len(pairs) // 2] < 0.2 and pairs[0] > 0 and pairs[-1] < 0.5
    assert net.rtt_s(clusters[0], clusters[0]) == WITHIN_S
    assert net.rtt_s(clusters[0], clusters[1]) == net.rtt_s(clusters[1], clusters[0])
    assert all(net.rtt_s(net.controller, cluster) > 0 for cluster in clusters)
    again, other = plane(3000, 5), plane(3000, 6)
    assert again.clusters == net.clusters != other.clusters
    assert again.rtt_s(0, 1) == net.rtt_s(0, 1) != other.rtt_s(0, 1)
    assert len(set(plane(200_000, 1).clusters)) <= MAX_SITES


# Costs


def test_measured_costs_are_read_as_they_were_written(tmp_path: Path) -> None:
    fast = LinkCosts(host_connect_s=0.01)
    measured = MeasuredCosts({DEFAULT_KEX: LinkCosts(), "fast": fast}, "2026-01-01", {"cpu": "x"})
    write_costs(measured, tmp_path / "c.json")
    assert read_costs(tmp_path / "c.json") == measured
    assert [path.name for path in tmp_path.iterdir()] == ["c.json"]
    assert measured.choose("fast") == fast
    assert measured.choose("") == LinkCosts()
    with pytest.raises(
        ConfigurationError, match=r"exchange slow, but for default, fast; plush tree calibrate --kex slow"
    ):
        measured.choose("slow")
    with pytest.raises(ConfigurationError, match=r"can't write .*c\.json"):
        write_costs(measured, tmp_path / "none" / "c.json")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 0}, "version 0, 1 is wanted"),
        ({"key_exchanges": {}}, "nothing for the key exchange default"),
        ({"key_exchanges": {"default": {"node_s": 1}}}, "default: agent_round_trips, .* missing or unknown"),
        ({"key_exchanges": 3}, "no measured costs"),
    ],
)
def test_bad_costs_are_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.json"
    write_costs(MeasuredCosts({DEFAULT_KEX: LinkCosts()}), path)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ConfigurationError, match=message) as caught:
        read_costs(path)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("value", [-1, "much", None, True, math.nan])
def test_a_cost_is_a_number_of_seconds(value: object, tmp_path: Path) -> None:
    write_costs(MeasuredCosts({DEFAULT_KEX: replace(LinkCosts(), node_s=value)}), tmp_path / "c.json")  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match="default: node_s is"):
        read_costs(tmp_path / "c.json")


def test_what_is_no_file_of_costs_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        read_costs(tmp_path / "none")
    (tmp_path / "c.json").write_text("{")
    with pytest.raises(ConfigurationError, match=r"c\.json is no JSON: .*plush tree calibrate writes it anew"):
        read_costs(tmp_path / "c.json")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(ConfigurationError, match="no measured costs"):
        read_costs(tmp_path / "c.json")
