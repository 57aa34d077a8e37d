"""What stands before the marker: banners, start-up files, failure lines, nothing at all."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_worker.node import bootstrap, limits
from plush_worker.node.bootstrap import Prelude
from plush_worker.node.frames import FAIL, MARKER


def scan(data: bytes, step: int = 1 << 16) -> Prelude:
    prelude = Prelude()
    for at in range(0, len(data), step):
        if prelude.feed(data[at : at + step]) != Prelude.WAITING:
            prelude.rest += data[at + step :]
            return prelude
    prelude.finish()
    return prelude


@given(st.binary(max_size=200), st.binary(max_size=50), st.integers(1, 30))
def test_marker_is_found_behind_anything_in_pieces_of_any_size(before: bytes, behind: bytes, step: int) -> None:
    before = before.replace(MARKER, b"").replace(FAIL, b"")
    prelude = scan(before + MARKER + behind, step)
    assert (prelude.state, prelude.rest) == (Prelude.FOUND, behind)
    assert prelude.quote() == before.decode("utf-8", "replace").strip()


def test_marker_on_the_line_of_a_banner_without_newline() -> None:
    assert scan(b"Welcome!" + MARKER + b"frames").rest == b"frames"


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_failure_line_gives_code_and_text(step: int) -> None:
    prelude = scan(b"motd\nPLUSH-FAIL old_python python3 is 3.5.2\nmore", step)
    assert (prelude.state, prelude.code, prelude.text) == (Prelude.FAILED, "old_python", "python3 is 3.5.2")


def test_failure_line_without_newline_counts_at_the_end() -> None:
    prelude = scan(b"PLUSH-FAIL locked held by 7")
    assert (prelude.code, prelude.text) == ("locked", "held by 7")


def test_endless_failure_line_is_cut() -> None:
    prelude = Prelude()
    while prelude.feed(b"PLUSH-FAIL x " + b"y" * 500) == Prelude.WAITING:
        pass
    assert prelude.code == "x"
    assert len(prelude.text) <= limits.PRELUDE_QUOTE_BYTES


def test_end_without_marker_quotes_the_last_of_what_was_printed() -> None:
    prelude = scan(b"a" * 5000 + b"\nsh: python3: not found\n")
    assert (prelude.state, prelude.code) == (Prelude.FAILED, "bootstrap")
    assert "sh: python3: not found" in prelude.text
    assert len(prelude.text) < limits.PRELUDE_QUOTE_BYTES + 100
    assert "nothing was printed" in scan(b"").text


def test_a_megabyte_of_banner_is_skipped_in_little_memory() -> None:
    prelude = Prelude()
    for _ in range(1000):
        assert prelude.feed(b"spam and eggs\n" * 75) == Prelude.WAITING
        assert len(prelude._tail) <= limits.PRELUDE_QUOTE_BYTES
    assert prelude.feed(MARKER) == Prelude.FOUND


def test_more_than_the_limit_is_refused() -> None:
    prelude = Prelude()
    block = bytes(1 << 20)
    for _ in range(limits.MAX_PRELUDE_BYTES // len(block)):
        assert prelude.feed(block) == Prelude.WAITING
    assert prelude.feed(block) == Prelude.FAILED
    assert prelude.code == "bootstrap"


def test_command_line_is_safe_in_every_shell_and_echoes_no_marker() -> None:
    line = bootstrap.command_line()
    assert line.count("'") == 6
    assert not set(line) & set("\\\n!")
    assert MARKER.decode().strip() not in line
    assert FAIL.decode().strip() not in line
    assert len(line) < 4000


def test_header_refuses_a_payload_that_no_loader_takes() -> None:
    assert bootstrap.header(b"abc")[:8] == b"PLU1\0\0\0\3"
    assert bootstrap.header(b"abc")[40:] == b"abc"
    with pytest.raises(ValueError, match="payload"):
        bootstrap.header(bytes(limits.MAX_PAYLOAD_BYTES + 1))
