"""The journal: an op starts at most once, whatever was cut short, repeated or forgotten."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from plush_worker.node.journal import CLOSED, OPEN, Journal
from plush_worker.node.limits import JOURNAL_KEPT_COUNT


def journal_at(path: Path, order: int = 1) -> Journal:
    journal = Journal(str(path))
    journal.admit(order)
    return journal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal"


def test_an_accepted_op_is_never_new_again(path: Path) -> None:
    journal = journal_at(path)
    assert journal.is_new(2)
    journal.accept(2)
    assert not journal.is_new(2)
    again = Journal(str(path))
    assert not again.is_new(2)
    assert again.open_ops() == [2]


def test_nothing_at_or_below_the_admission_is_new(path: Path) -> None:
    journal = journal_at(path, order=7)
    assert not journal.is_new(6)
    assert not journal.is_new(7)
    assert journal.is_new(8)


def test_a_later_admission_counts_after_reading_again(path: Path) -> None:
    journal_at(path, order=7)
    journal_at(path, order=20)
    assert Journal(str(path)).admission == 20


def test_a_closed_op_stays_known(path: Path) -> None:
    journal = journal_at(path)
    journal.accept(2)
    journal.close([2, 99])
    again = Journal(str(path))
    assert again.states == {2: CLOSED}
    assert again.open_ops() == []
    assert not again.is_new(2)


def test_a_signal_to_an_unseen_op_leaves_a_tombstone(path: Path) -> None:
    journal = journal_at(path)
    journal.accept(2)
    journal.signal(3, 2, 15)
    journal.signal(4, 9, 9)
    again = Journal(str(path))
    assert again.tombstones == {9: 9}
    assert not again.is_new(9)
    assert not again.is_new(3), "a signal op is performed once"


@pytest.mark.parametrize("cut", range(1, 6))
def test_a_last_line_cut_short_is_no_record_and_spoils_no_later_one(path: Path, cut: int) -> None:
    journal_at(path).accept(234)
    path.write_bytes(path.read_bytes()[:-cut])
    journal = Journal(str(path))
    assert journal.states == {}
    journal.accept(5)
    again = Journal(str(path))
    assert again.states == {5: OPEN}
    assert again.damaged_count == 0


def test_damaged_lines_are_counted_and_the_rest_holds(path: Path) -> None:
    path.write_bytes(b"admitted 3\nop four\n\xff\xfe\nnonsense 3\n\nop 8\nclosed\n")
    journal = Journal(str(path))
    assert (journal.admission, journal.states, journal.damaged_count) == (3, {8: OPEN}, 5)


def test_a_write_that_fails_changes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = journal_at(path)
    before = path.read_bytes()
    real_write = os.write

    def short_write(fd: int, data: bytes) -> int:
        return real_write(fd, data[:3])

    def no_write(fd: int, data: bytes) -> int:
        raise OSError(errno.EIO, "Input/output error")

    for write in (short_write, no_write):
        monkeypatch.setattr(os, "write", write)
        with pytest.raises(OSError, match=r"No space|Input/output"):
            journal.accept(2)
        assert journal.is_new(2)
        assert path.read_bytes() == before
    monkeypatch.setattr(os, "write", real_write)
    journal.accept(2)
    assert Journal(str(path)).states == {2: OPEN}


def test_the_admission_counts_when_it_cannot_be_written(tmp_path: Path) -> None:
    journal = Journal(str(tmp_path / "nowhere" / "journal"))
    with pytest.raises(FileNotFoundError):
        journal.admit(5)
    assert not journal.is_new(5)


def test_compaction_forgets_the_lowest_and_starts_none_of_them(path: Path) -> None:
    journal = journal_at(path)
    journal.accept(10)  # stays open
    last = 12 + 4 * JOURNAL_KEPT_COUNT
    for op in range(12, last):
        journal.accept(op)
        journal.close([op])
    assert len(journal.states) < 3 * JOURNAL_KEPT_COUNT + 2
    assert path.stat().st_size < 3 * JOURNAL_KEPT_COUNT * 30
    for view in (journal, Journal(str(path))):
        assert view.open_ops() == [10]
        assert not any(view.is_new(op) for op in range(last) if op != 11 or view.dropped >= 11)
        assert view.is_new(last)
        assert view.states[last - 1] == CLOSED
    journal.accept(last)
    assert Journal(str(path)).open_ops() == [10, last]


def test_compaction_keeps_tombstones_that_still_matter(path: Path) -> None:
    journal = journal_at(path)
    journal.signal(5000, 6000, 15)
    for op in range(2, 4 * JOURNAL_KEPT_COUNT):
        journal.accept(op)
        journal.close([op])
    again = Journal(str(path))
    assert again.dropped > 0
    assert not again.is_new(6000)
    assert again.tombstones == {6000: 15}
