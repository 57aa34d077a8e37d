"""Output as lines, folded, as JSON, as files: what people and programs see."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from plush_api.cli.gather import GatherRenderer
from plush_api.cli.json_lines import INLINE_BYTES, JsonRenderer
from plush_api.cli.outdir import OutputFolder, safe_file_name
from plush_api.cli.render import LineRenderer, OrderedRenderer, Tee
from plush_api.cli.view import Outcome
from plush_worker.model import HostState
from plush_worker.node.messages import STDERR, STDOUT
from tests.unit.cli_fakes import FakeConsole

NAMES = ("node1", "node2", "gw")


@pytest.fixture
def console() -> FakeConsole:
    return FakeConsole()


def done(hosts: int, code: int = 0) -> Outcome:
    return Outcome(hosts, HostState.EXITED, code)


def lines(console: FakeConsole, **options: Any) -> LineRenderer:
    return LineRenderer(console, NAMES.__getitem__, **options)


# Lines


def test_each_line_of_each_host_has_its_prefix(console: FakeConsole) -> None:
    lines(console).output(0b11, STDOUT, b"one\ntwo\n")
    assert console.out == b"node1: one\nnode1: two\nnode2: one\nnode2: two\n"


def test_streams_go_to_their_own(console: FakeConsole) -> None:
    renderer = lines(console)
    renderer.output(1, STDOUT, b"out\n")
    renderer.output(1, STDERR, b"err\n")
    assert (console.out, console.err) == (b"node1: out\n", b"node1: err\n")


def test_a_line_is_never_cut_by_another_host(console: FakeConsole) -> None:
    renderer = lines(console)
    renderer.output(0b01, STDOUT, b"be")
    renderer.output(0b10, STDOUT, b"other\n")
    renderer.output(0b01, STDOUT, b"gin\nrest")
    assert console.out == b"node2: other\nnode1: begin\n"
    renderer.ended(done(0b11))
    assert console.out.endswith(b"node1: begin\nnode1: rest\n")


def test_a_line_of_any_length_is_whole(console: FakeConsole) -> None:
    renderer = lines(console)
    for _ in range(40):
        renderer.output(0b01, STDOUT, b"x" * (1 << 20))
        renderer.output(0b10, STDOUT, b"y\n")
    renderer.ended(done(0b01))
    assert console.out == b"node2: y\n" * 40 + b"node1: " + b"x" * (40 << 20) + b"\n"


def test_bytes_that_are_no_text_go_through(console: FakeConsole) -> None:
    data = bytes(range(256)).replace(b"\n", b"") + b"\n"
    lines(console).output(1, STDOUT, data)
    assert console.out == b"node1: " + data


def test_with_one_host_nothing_is_kept_back(console: FakeConsole) -> None:
    renderer = lines(console, alone=True)
    renderer.output(1, STDOUT, b"a\nb")
    assert console.out == b"node1: a\nnode1: b"
    renderer.output(1, STDOUT, b"c\nd\n")
    renderer.output(1, STDOUT, b"e")
    renderer.ended(done(1))
    assert console.out == b"node1: a\nnode1: bc\nnode1: d\nnode1: e\n"


def test_without_prefix_one_host_is_copied_to_the_byte(console: FakeConsole) -> None:
    renderer = lines(console, alone=True, prefixed=False)
    for piece in (b"a\n\n", b"b", b"\0c"):
        renderer.output(1, STDOUT, piece)
    renderer.ended(done(1))
    assert console.out == b"a\n\nb\0c"


def test_colours_only_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("NO_COLOR", raising=False)
    console = FakeConsole(terminal=True)
    lines(console).output(1, STDOUT, b"x\n")
    assert console.out == b"\x1b[36mnode1\x1b[0m: x\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert not console.colours(1)


def test_lost_bytes_are_said(console: FakeConsole) -> None:
    lines(console).gap(0b11, STDOUT, 5)
    assert console.err == b"plush: node[1-2]: 5 bytes of stdout were lost\n"


# -L


def test_hosts_are_shown_in_their_order_as_soon_as_may_be(console: FakeConsole) -> None:
    renderer = OrderedRenderer(lines(console), lambda: [2, 0, 1])
    renderer.output(0b111, STDOUT, b"a\n")
    renderer.ended(done(0b001))
    assert console.out == b""
    renderer.ended(done(0b100))
    assert console.out == b"gw: a\nnode1: a\n"
    renderer.output(0b010, STDOUT, b"b")
    renderer.ended(done(0b010))
    renderer.finish()
    assert console.out == b"gw: a\nnode1: a\nnode2: a\nnode2: b\n"


# -b and -B


def test_equal_outputs_are_shown_once(console: FakeConsole) -> None:
    renderer = GatherRenderer(console, NAMES.__getitem__, lines(console))
    renderer.output(0b001, STDOUT, b"x")
    renderer.output(0b010, STDOUT, b"xy\n")
    renderer.output(0b001, STDOUT, b"y\n")
    renderer.output(0b100, STDOUT, b"other")
    renderer.output(0b100, STDERR, b"err\n")
    renderer.ended(done(0b111))
    assert (console.out, console.err) == (b"", b"gw: err\n")
    renderer.finish()
    rule = b"-" * 15 + b"\n"
    assert console.out == rule + b"node[1-2] (2)\n" + rule + b"xy\n" + rule + b"gw\n" + rule + b"other\n"


def test_stderr_is_gathered_on_request(console: FakeConsole) -> None:
    renderer = GatherRenderer(console, NAMES.__getitem__, lines(console), with_stderr=True)
    renderer.output(0b1, STDOUT, b"o\n")
    renderer.output(0b1, STDERR, b"e\n")
    renderer.finish()
    assert console.out.endswith(b"o\ne\n")
    assert console.err == b""


# --json


def objects(console: FakeConsole) -> list[dict[str, object]]:
    return [json.loads(line) for line in console.out.splitlines()]


def test_json_of_hosts_as_they_end(console: FakeConsole, tmp_path: Path) -> None:
    renderer = JsonRenderer(console, NAMES.__getitem__, lambda: tmp_path)
    renderer.output(0b11, STDOUT, "grün\n".encode())
    renderer.output(0b10, STDERR, b"\xff")
    renderer.ended(done(0b01))
    renderer.ended(Outcome(0b10, HostState.EXITED, None, 9))
    renderer.ended(Outcome(0, HostState.UNREACHABLE, error="no such name", name="z"))
    assert objects(console) == [
        {"host": "node1", "state": "exited", "code": 0, "signal": None, "error": "", "stdout": "grün\n", "stderr": ""},
        {
            "host": "node2", "state": "exited", "code": None, "signal": 9, "error": "",
            "stdout": "grün\n", "stderr_b64": base64.b64encode(b"\xff").decode(),
        },
        {
            "host": "z", "state": "unreachable", "code": None, "signal": None, "error": "no such name",
            "stdout": "", "stderr": "",
        },
    ]  # fmt: skip


def test_json_beyond_a_mebibyte_is_a_file(console: FakeConsole, tmp_path: Path) -> None:
    renderer = JsonRenderer(console, NAMES.__getitem__, lambda: tmp_path / "run")
    renderer.output(0b11, STDOUT, b"x" * INLINE_BYTES)
    renderer.output(0b10, STDOUT, b"\xff")
    renderer.ended(done(0b11))
    small, large = objects(console)
    assert small["stdout"] == "x" * INLINE_BYTES
    assert "stdout" not in large
    assert large["stdout_bytes"] == INLINE_BYTES + 1
    assert Path(str(large["stdout_file"])).read_bytes() == b"x" * INLINE_BYTES + b"\xff"


def test_json_says_what_was_lost(console: FakeConsole, tmp_path: Path) -> None:
    renderer = JsonRenderer(console, NAMES.__getitem__, lambda: tmp_path)
    renderer.gap(1, STDERR, 5)
    renderer.gap(1, STDERR, 2)
    renderer.ended(done(1))
    assert objects(console)[0]["error"] == "7 bytes of stderr were lost"


# --outdir


def test_one_file_a_host(console: FakeConsole, tmp_path: Path) -> None:
    folder = tmp_path / "new" / "out"
    folder.mkdir(parents=True)
    (folder / "node2").write_text("of an earlier run")
    stored = OutputFolder(folder, NAMES.__getitem__)
    renderer = Tee(stored, JsonRenderer(console, NAMES.__getitem__, lambda: tmp_path, stored))
    renderer.output(0b001, STDOUT, b"a" * (INLINE_BYTES + 1))
    renderer.output(0b001, STDERR, b"e")
    renderer.ended(done(0b011))
    renderer.finish()
    assert {path.name: path.stat().st_size for path in folder.iterdir()} == {
        "node1": INLINE_BYTES + 1, "node1.stderr": 1, "node2": 0,
    }  # fmt: skip
    assert objects(console)[0]["stdout_file"] == str(folder / "node1")


def test_more_hosts_than_descriptors(tmp_path: Path) -> None:
    stored = OutputFolder(tmp_path, "h{}".format)
    everyone = (1 << 300) - 1
    for data in (b"a", b"b"):
        stored.output(everyone, STDOUT, data)
    stored.finish()
    assert {path.read_bytes() for path in tmp_path.iterdir()} == {b"ab"}
    assert len(list(tmp_path.iterdir())) == 300


def test_file_names_are_safe_and_distinct() -> None:
    names = [
        "a",
        "../a",
        "/a",
        ".",
        "..",
        ".a",
        "a/b",
        "a%2Fb",
        "root@a",
        "fe80::1%eth0",
        "x" * 300,
        "x" * 301,
        "",
        "%",
    ]
    made = [safe_file_name(name) for name in names]
    assert not any("/" in name or name.startswith(".") or len(name) > 200 for name in made)
    assert len({*made}) >= len(names) - 1  # "" and "%" may share; neither is a host
    assert safe_file_name("node1.example.org") == "node1.example.org"
