"""Blobs: a content has one place, nothing but the right content gets there, what is in use stays."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plush_worker.blobs import CHUNK_BYTES, BlobMissing, BlobRefused, BlobStore, BlobTooLarge

DATA = b"content" * 1000
DIGEST = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def blobs(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "state")


def stored(tmp_path: Path) -> list[Path]:
    return [path for path in tmp_path.rglob("*") if path.is_file() and "state" in path.parts]


def test_a_file_is_kept_once_under_its_digest_and_for_us_alone(blobs: BlobStore, tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(DATA)
    assert blobs.put_file(tmp_path / "a") == blobs.put_file(tmp_path / "a") == DIGEST
    assert blobs.path(DIGEST).read_bytes() == DATA
    assert blobs.size(DIGEST) == len(DATA)
    assert stored(tmp_path) == [blobs.path(DIGEST)]
    assert blobs.path(DIGEST).stat().st_mode & 0o777 == 0o600
    assert blobs.path(DIGEST).parent.parent.stat().st_mode & 0o777 == 0o700


def test_an_empty_file_and_one_of_many_chunks(blobs: BlobStore, tmp_path: Path) -> None:
    for data in (b"", os.urandom(2 * CHUNK_BYTES + 1)):
        (tmp_path / "a").write_bytes(data)
        assert blobs.path(blobs.put_file(tmp_path / "a")).read_bytes() == data


def test_a_stream_that_is_something_else_leaves_nothing(blobs: BlobStore, tmp_path: Path) -> None:
    with pytest.raises(BlobRefused, match="has the SHA-256"):
        blobs.put_stream([DATA, b"more"], DIGEST)
    with pytest.raises(BlobTooLarge):
        blobs.put_stream([DATA], DIGEST, len(DATA) - 1)

    def broken() -> Iterator[bytes]:
        yield DATA
        raise ConnectionError

    with pytest.raises(ConnectionError):
        blobs.put_stream(broken(), DIGEST)
    assert not stored(tmp_path)
    assert blobs.put_stream([DATA[:5], DATA[5:]], DIGEST, len(DATA)) == len(DATA)


@pytest.mark.parametrize("name", ["", "abc", "../" * 22, DIGEST.upper(), DIGEST + "\n", DIGEST[:-1] + "/"])
def test_only_digests_are_names(blobs: BlobStore, name: str) -> None:
    for call in (blobs.path, blobs.size, lambda name: blobs.missing([name]), lambda name: blobs.put_stream([], name)):
        with pytest.raises(BlobRefused):
            call(name)


def test_what_is_missing_is_told_with_what_to_do(blobs: BlobStore, tmp_path: Path) -> None:
    blobs.put_stream([DATA], DIGEST)
    other = "0" * 64
    assert blobs.missing([other, DIGEST, other]) == [other]
    with pytest.raises(BlobMissing, match="same state folder"):
        blobs.size(other)


def test_pruning_keeps_what_is_named_and_what_was_asked_for_lately(blobs: BlobStore, tmp_path: Path) -> None:
    digests = []
    for number in range(3):
        (tmp_path / "a").write_text(str(number))
        digests.append(blobs.put_file(tmp_path / "a"))
    (tmp_path / "state" / "blobs" / "left.part").touch()
    old = time.time() - 1000
    for path in stored(tmp_path):
        os.utime(path, (old, old))
    assert not blobs.missing(digests[1:2])
    assert blobs.prune({digests[0]}, 500) == 2, "the third and what a crash left"
    assert blobs.missing(digests) == digests[2:]
