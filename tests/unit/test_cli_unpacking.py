"""What a fetched host sends: taken apart in any pieces, kept in its folder, and nothing in it trusted."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from plush_api.cli.unpacking import MAX_HEAD_BYTES, Unpacker
from plush_worker.node import files, messages


def file(path: bytes, data: bytes, mode: int = 0o640, digest: bytes | None = None) -> bytes:
    sha256 = hashlib.sha256(data).digest() if digest is None else digest
    return bytes(files.encode_record(path, files.FILE, mode, len(data), sha256)) + data


def link(path: bytes, target: bytes) -> bytes:
    return bytes(files.encode_record(path, files.LINK, 0o777, target=target))


def folder(path: bytes, mode: int = 0o755) -> bytes:
    return bytes(files.encode_record(path, files.DIR, mode))


def unpack(top: Path, *records: bytes, step: int = 1 << 20) -> Unpacker:
    unpacker, whole = Unpacker(top), b"".join(records)
    for at in range(0, len(whole), step):
        unpacker.feed(whole[at : at + step])
    unpacker.finish()
    return unpacker


def found(top: Path) -> set[str]:
    return {str(path.relative_to(top)) for path in top.rglob("*")}


TREE = (
    folder(b"d", 0o500),
    file(b"d/a", b"content", 0o4755),
    file(b"d/empty", b""),
    link(b"d/l", b"/etc/passwd"),
    file("d/\udcff".encode("utf-8", "surrogateescape"), b"odd"),
)


@given(st.integers(1, 200))
def test_any_pieces_make_the_same_files(tmp_path_factory: pytest.TempPathFactory, step: int) -> None:
    top = tmp_path_factory.mktemp("top")
    unpacker = unpack(top, *TREE, step=step)
    assert not unpacker.problems
    assert (unpacker.files_count, unpacker.size_bytes) == (4, 10)
    assert (top / "d" / "a").read_bytes() == b"content"
    assert (top / "d" / "a").stat().st_mode & 0o7777 == 0o755, "permissions are kept, setuid is not"
    assert (top / "d").stat().st_mode & 0o7777 == 0o500
    assert os.readlink(top / "d" / "l") == "/etc/passwd"
    assert found(top) == {"d", "d/a", "d/empty", "d/l", "d/\udcff"}
    (top / "d").chmod(0o700)


@pytest.mark.parametrize("path", [b"../a", b"/a", b"d/../../a", b"", b".", b"a//b", b"a/./b", b"a\0b", b"a" * 5000])
def test_a_path_that_leaves_the_folder_is_refused_and_the_rest_goes_on(tmp_path: Path, path: bytes) -> None:
    unpacker = unpack(tmp_path / "host", file(path, b"evil"), folder(path), link(path, b"x"), file(b"good", b"data"))
    assert len(unpacker.problems) == 3
    assert found(tmp_path) == {"host", "host/good"}


def test_no_link_is_followed_neither_one_that_was_sent_nor_one_that_was_there(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "host").mkdir()
    (tmp_path / "host" / "old").symlink_to(tmp_path / "out")
    unpacker = unpack(
        tmp_path / "host",
        link(b"new", str(tmp_path / "out").encode()),
        file(b"new/a", b"evil"),
        file(b"old/a", b"evil"),
        folder(b"new/d"),
        file(b"new", b"in its place"),
    )
    assert len(unpacker.problems) == 3
    assert not found(tmp_path / "out")
    assert (tmp_path / "host" / "new").read_bytes() == b"in its place"


def test_content_that_is_not_what_was_said_is_not_kept(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"old")
    unpacker = unpack(tmp_path, file(b"a", b"new", digest=bytes(32)), file(b"b", b"good"))
    assert unpacker.problems == ["a: its SHA-256 is wrong: it was changed while it was sent"]
    assert (tmp_path / "a").read_bytes() == b"old"
    assert found(tmp_path) == {"a", "b"}


@pytest.mark.parametrize(
    "bad",
    [
        b"\xff\xff\xff\xff",
        files.LENGTH.pack(MAX_HEAD_BYTES + 1),
        files.LENGTH.pack(0),
        files.LENGTH.pack(3) + b"\xc1\xc1\xc1",
        files.LENGTH.pack(1) + messages.pack(5),
        files.encode_record(b"a", "fifo", 0),
        files.encode_record(b"a", "dir", 0, 5) + b"12345",
        files.encode_record(b"a", "file", 0, -1),
        files.encode_record("text", "file", 0),
    ],
)
def test_what_is_no_record_ends_it_and_leaves_what_came_before(tmp_path: Path, bad: bytes) -> None:
    unpacker = unpack(tmp_path, file(b"good", b"data"), bad, file(b"after", b"data"))
    assert len(unpacker.problems) == 1
    assert found(tmp_path) == {"good"}


def test_a_head_beyond_the_limit_is_not_kept(tmp_path: Path) -> None:
    unpacker = Unpacker(tmp_path)
    unpacker.feed(files.LENGTH.pack(1 << 31))
    for _ in range(10):
        unpacker.feed(bytes(MAX_HEAD_BYTES))
    assert len(unpacker._head) <= MAX_HEAD_BYTES
    assert unpacker.problems


def test_an_end_or_a_loss_in_the_middle_of_a_file_leaves_no_half_of_it(tmp_path: Path) -> None:
    unpacker = unpack(tmp_path, file(b"a", b"data")[:-1])
    assert unpacker.problems == ["what came of it ends in the middle of a file"]
    assert not found(tmp_path)
    unpacker = Unpacker(tmp_path)
    unpacker.feed(file(b"a", b"data" * 100)[:-50])
    assert found(tmp_path)
    unpacker.lose(50)
    unpacker.feed(file(b"b", b"data"))
    unpacker.finish()
    assert unpacker.problems == ["50 bytes were lost on the way"]
    assert not found(tmp_path)


def test_a_file_where_a_directory_stands_is_told_and_so_is_the_reverse(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "f").touch()
    unpacker = unpack(tmp_path, file(b"d", b"data"), file(b"f/a", b"data"), file(b"good", b"data"))
    assert len(unpacker.problems) == 2
    assert found(tmp_path) == {"d", "f", "good"}
