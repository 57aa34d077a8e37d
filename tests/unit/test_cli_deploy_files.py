"""Which files ``plush deploy`` sends, and where to: as ``cp -r`` has it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from plush_api.cli import deploy_files
from plush_api.cli.deploy_files import find_files
from plush_worker.errors import UsageError


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "d" / "e").mkdir(parents=True)
    (tmp_path / "d" / "e" / "f").write_text("data")
    (tmp_path / "d" / "l").symlink_to("e/f")
    (tmp_path / "a").write_text("text")
    (tmp_path / "a").chmod(0o755)
    (tmp_path / "to_d").symlink_to("d")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def take(path: str) -> tuple[str, int]:
    return f"digest of {os.path.basename(path)}", os.stat(path).st_size


def places(sources: list[str], dest: str) -> list[tuple[str, str]]:
    return [(entry["kind"], entry["dest"]) for entry in find_files(sources, dest, take)]


@pytest.mark.parametrize(
    ("sources", "dest", "found"),
    [
        (["a"], "b", [("file", "b")]),
        (["a"], "b/", [("file", "b/a")]),
        (["a"], "/", [("file", "/a")]),
        (["a"], "~/{host}/", [("file", "~/{host}/a")]),
        (["d"], "x", [("dir", "x"), ("dir", "x/e"), ("file", "x/e/f"), ("link", "x/l")]),
        (["d/"], "x/", [("dir", "x/d"), ("dir", "x/d/e"), ("file", "x/d/e/f"), ("link", "x/d/l")]),
        (["to_d"], "x/", [("dir", "x/to_d"), ("dir", "x/to_d/e"), ("file", "x/to_d/e/f"), ("link", "x/to_d/l")]),
        (["d/."], "x/", [("dir", "x/d"), ("dir", "x/d/e"), ("file", "x/d/e/f"), ("link", "x/d/l")]),
        (["a", "d/e"], "x", [("file", "x/a"), ("dir", "x/e"), ("file", "x/e/f")]),
    ],
)
def test_places(here: Path, sources: list[str], dest: str, found: list[tuple[str, str]]) -> None:
    assert places(sources, dest) == found


def test_the_current_directory_is_what_is_in_it(here: Path) -> None:
    assert [dest for _, dest in places(["."], "x/")][:3] == ["x", "x/a", "x/d"]


def test_an_entry_has_all_that_is_kept(here: Path) -> None:
    [entry] = find_files(["a"], "b", take)
    assert entry == {
        "dest": "b", "kind": "file", "mode": 0o755, "size": 4, "sha256": "digest of a", "target": "", "hosts": None
    }  # fmt: skip
    assert find_files(["d"], "x", take)[-1]["target"] == "e/f"


def test_all_that_is_wrong_is_told_at_once(here: Path) -> None:
    os.mkfifo(here / "d" / "fifo")
    (here / "d" / "{host}").touch()
    with pytest.raises(UsageError) as caught:
        find_files(["nosuch", "d", "a", "a"], "x", take)
    text = str(caught.value)
    for word in ("nosuch: No such file", "fifo: neither", "{host}: {host} and {index}", "x/a on the hosts"):
        assert word in text


@pytest.mark.parametrize("dest", ["", "a/../b", "..", "a\0b"])
def test_a_place_that_is_none(here: Path, dest: str) -> None:
    with pytest.raises(UsageError, match="no place on the hosts"):
        find_files(["a"], dest, take)


def test_too_many_files_are_told_before_they_are_all_looked_at(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(deploy_files, "MAX_FILES", 2)
    with pytest.raises(UsageError, match="more than 2 files"):
        find_files(["d"], "x", take)
