"""Which rows of a matrix the testbed's hosts take."""

from __future__ import annotations

from pathlib import Path

import pytest

from ops.testbed.errors import BadInput
from ops.testbed.matrix import choose_rows, load_matrix


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "three.csv"
    path.write_text("# ms\n0, 10, 20\n10, 0, 30\n20, 40, 0\n")
    return path


def test_hosts_take_the_first_rows(file: Path) -> None:
    matrix = load_matrix(str(file), 2, 1)
    assert [list(row) for row in matrix.rtt_s] == [[0, pytest.approx(0.010)], [pytest.approx(0.010), 0]]
    assert matrix.note == "three.csv, the first 2 of 3 rows"
    assert matrix.sites == ["site0", "site1"]


def test_the_forwarder_gets_half_of_each_round_trip_row_by_row(file: Path) -> None:
    one_way_s = load_matrix(str(file), 3, 1).one_way_s()
    assert one_way_s.typecode == "f"
    assert list(one_way_s) == pytest.approx([0, 0.005, 0.010, 0.005, 0, 0.0175, 0.010, 0.0175, 0])


def test_more_hosts_than_rows_are_drawn_by_seed_and_it_is_said(file: Path) -> None:
    matrix = load_matrix(str(file), 6, 7)
    assert matrix.note == "three.csv, 3 hosts more than its 3 rows stand at places of rows drawn with seed 7"
    rows, _ = choose_rows(3, 6, 7)
    assert rows[:3] == [0, 1, 2] and matrix.sites == [f"site{row}" for row in rows]
    for a, row in enumerate(rows):
        for b, other in enumerate(rows):
            if a == b:
                assert matrix.rtt_s[a][b] == 0
            elif row == other:
                assert 0 < matrix.rtt_s[a][b] < 0.005  # neighbours, but two machines
            else:
                assert matrix.rtt_s[a][b] == matrix.rtt_s[row][other]


def test_the_seed_decides() -> None:
    assert choose_rows(50, 90, 1) == choose_rows(50, 90, 1)
    assert choose_rows(50, 90, 1)[0] != choose_rows(50, 90, 2)[0]
    assert choose_rows(5, 5, 1) == ([0, 1, 2, 3, 4], "all 5 rows")


def test_zero_is_no_delay_at_all_for_any_number_of_hosts() -> None:
    matrix = load_matrix("zero", 3, 1)
    assert list(matrix.one_way_s()) == [0.0] * 9
    assert len(set(matrix.sites)) == 1


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("0 1\n1 0 2\n", "not square"),
        ("0,-1\n-1,0\n", "negative"),
        ("0,\n1,0\n", "no round trip"),
        ("0,nan\n1,0\n", "no round trip"),
        ("", "0 rows"),
        ("a b\nc d\n", "line 1"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, wanted: str) -> None:
    path = tmp_path / "bad"
    path.write_text(text)
    with pytest.raises(BadInput, match=wanted) as caught:
        load_matrix(str(path), 2, 1)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def test_no_file_and_no_host(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="planetlab, zero or a file"):
        load_matrix(str(tmp_path / "missing"), 2, 1)
    with pytest.raises(BadInput, match="0 hosts: at least 1"):
        load_matrix("zero", 0, 1)
