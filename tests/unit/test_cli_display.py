"""What watch, logs, results and status show of a run, with a client that plays recorded events."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from plush_api.cli import live, watch_run
from plush_api.cli.live import LiveConsole, panel
from plush_api.cli.logs import JsonLines
from plush_api.cli.process_output import ProcessOutput, check_process, hosts_named
from plush_api.cli.results import result_rows
from plush_api.cli.run_display import RunDisplay, run_exit_code
from plush_api.cli.run_progress import RunProgress
from plush_api.cli.status import status_lines, status_of
from plush_api.cli.view import Outcome
from plush_api.client import OutputRecord
from plush_worker.errors import StoreUnavailable, UsageError
from plush_worker.model import HostState, RunSpec
from plush_worker.node.messages import STDERR, STDOUT
from tests.unit.cli_fakes import (
    FakeClient,
    FakeConsole,
    ended,
    finished,
    joined,
    lost,
    output,
    spec_of,
    started,
    up,
)

FIELDS = {"hosts": '[[0,"a"],[1,"b"]]', "owner": "ada", "run_id": "run-1"}
TWO = replace(
    spec_of("a", "b", command=""),
    name="exp",
    processes=(
        {"name": "server", "command": "s", "hosts": [0]},
        {"name": "client", "command": "c", "hosts": None},
    ),
)
SERVER, CLIENT = 8, 9


class Watched(FakeClient):
    """A client that knows the run's spec."""

    def __init__(self, spec: RunSpec, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.known = spec

    def spec(self, run_id: str) -> RunSpec:
        return self.known


def ordered(op: int, name: str, hosts: str, kind: str = "exec") -> dict[str, Any]:
    return {"type": "op_ordered", "op": op, "kind": kind, "name": name, "hosts": hosts}


def ended_op(op: int, hosts: str, code: int) -> dict[str, Any]:
    return ended(hosts, "exited", code, op=op)


def single(*more: dict[str, Any]) -> Watched:
    records = [OutputRecord(0b11, 7, STDOUT, 0, 0, b"hello\ntail"), OutputRecord(0b01, 7, STDERR, 0, 0, b"oh\n")]
    events = [*joined("0-1"), up("0-1"), started("0-1"), output("s", 2), *more]
    return Watched(spec_of("a", "b"), [events[:5], events[5:]], {"s": records}, FIELDS)


def several() -> Watched:
    """A server on a and a client on both; each prints half a line before the other prints."""
    records = [
        OutputRecord(0b01, SERVER, STDOUT, 0, 0, b"ser"),
        OutputRecord(0b11, CLIENT, STDOUT, 0, 0, b"cli\n"),
        OutputRecord(0b01, SERVER, STDOUT, 0, 3, b"ver\n"),
    ]
    start = [event for event in joined("0-1") if event["type"] != "op_ordered"]
    start[2]["parts"] = [
        {"kind": "exec", "name": "server", "hosts": "0"},
        {"kind": "exec", "name": "client", "hosts": "0-1"},
    ]
    events = [
        *start, up("0-1"), ordered(SERVER, "server", "0"), ordered(CLIENT, "client", "0-1"), output("s", 3),
        ended_op(CLIENT, "0-1", 0), ended_op(SERVER, "0", 3), finished("failed"),
    ]  # fmt: skip
    return Watched(TWO, [events], {"s": records}, FIELDS)


def shown(client: Watched, console: FakeConsole | None = None) -> tuple[RunDisplay, FakeConsole]:
    console = console or FakeConsole()
    return RunDisplay(client, "run-1", lambda _: console), console  # type: ignore[arg-type, return-value]


def play(progress: RunProgress, events: Sequence[dict[str, Any]]) -> RunProgress:
    for at, event in enumerate(events, 1):
        progress.fold(f"{at * 1000}-0", event)
    progress.learn_hosts({0: "a", 1: "b"}, {})
    return progress


# Lines


def test_what_there_is_of_a_run_that_goes_on() -> None:
    """An unfinished line must be shown too: it may be the prompt on which the run hangs."""
    display, console = shown(single())
    display.show(display.lines())
    display.catch_up()
    assert (console.out, console.err) == (b"a: hello\nb: hello\na: tail\nb: tail\n", b"a: oh\n")
    assert not display.progress.finished


def test_only_some_hosts_and_one_stream() -> None:
    display, console = shown(single(ended("0-1"), finished()))
    wanted = hosts_named(display.progress, ["b"])
    display.show(display.lines(streams=(STDOUT,), wanted=wanted, prefixed=False))
    display.follow()
    assert (console.out, console.err) == (b"hello\ntail\n", b"")


def test_hosts_that_the_run_has_not() -> None:
    progress = RunProgress(spec_of("node1", "node2"))
    assert hosts_named(progress, []) is None
    with pytest.raises(UsageError, match="node3: not a host of this run; did you mean"):
        hosts_named(progress, ["node[1,3]"])


def test_lines_of_two_processes_never_mix() -> None:
    display, console = shown(several())
    display.show(display.lines())
    display.follow()
    assert console.out == b"a/client: cli\nb/client: cli\na/server: server\n"


def test_one_process() -> None:
    display, console = shown(several())
    check_process(display.progress, "server")
    display.show(display.lines(only="server"))
    display.follow()
    assert console.out == b"a: server\n"
    with pytest.raises(UsageError, match="it has server, client"):
        check_process(display.progress, "serve")


def test_what_a_fetch_carries_is_not_shown_as_output() -> None:
    """It is the files, as binary records."""
    records = [OutputRecord(1, 7, STDOUT, 0, 0, b"\0\1"), OutputRecord(1, 7, STDERR, 0, 0, b"no such file\n")]
    events = [*joined("0")[:4], ordered(7, "", "0", "fetch"), output("s", 2), ended("0"), finished()]
    display, console = shown(Watched(spec_of("a"), [events], {"s": records}, FIELDS))
    display.show(display.lines())
    display.follow()
    assert (console.out, console.err) == (b"", b"a: no such file\n")


def test_what_the_copying_of_files_says_stands_under_its_name() -> None:
    records = [OutputRecord(1, 7, STDERR, 0, 0, b"disk full\n")]
    start = joined("0")[:4]
    start[2]["parts"] = [{"kind": "deploy", "name": "", "hosts": "0"}]
    events = [*start, ordered(7, "", "0", "deploy"), output("s", 1), ended("0", "failed"), finished("failed")]
    display, console = shown(Watched(spec_of("a"), [events], {"s": records}, FIELDS))
    display.show(display.lines())
    display.follow()
    assert console.err == b"a/deploy: disk full\n"


def test_json_lines_are_whole_lines_and_lost_bytes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    console = FakeConsole()
    lines = JsonLines(console, lambda number: "ab"[number], "", (STDOUT,))
    lines.output(0b11, STDOUT, b"one\ntw")
    lines.output(0b11, STDERR, b"not asked for\n")
    lines.output(0b01, STDOUT, b"o\n\xff")
    lines.gap(0b10, STDOUT, 5)
    lines.ended(Outcome(0b11, HostState.EXITED, 0))
    got = [json.loads(line) for line in console.out.splitlines()]
    assert [(line["host"], line.get("line", line.get("lost_bytes"))) for line in got] == [
        ("a", "one"), ("b", "one"), ("a", "two"), ("b", 5), ("a", "�"), ("b", "tw"),
    ]  # fmt: skip
    monkeypatch.setattr("plush_api.cli.logs.LINE_BYTES", 3)
    lines.output(0b01, STDOUT, b"endless")
    assert json.loads(console.out.splitlines()[-1])["continues"], "a line without end must not fill the memory"


def test_an_outage_while_output_is_read_is_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """It must not end the watching, nor show anything twice."""
    monkeypatch.setattr("plush_api.cli.follow.RETRY_AFTER_S", 0.0)

    class Flaky(Watched):
        broke = 0

        def output(self, run_id: str, segment: str, start_bytes: int, committed_bytes: int) -> Any:
            for record in super().output(run_id, segment, start_bytes, committed_bytes):
                yield record
                if self.broke < 2:
                    self.broke += 1
                    raise StoreUnavailable("the service is away")

    good = single(ended("0-1"), finished())
    display, console = shown(Flaky(good.known, good.batches, good.segments, FIELDS))
    display.show(display.lines())
    display.follow()
    assert console.out == b"a: hello\nb: hello\na: tail\nb: tail\n"
    assert console.err.count(b"the service is away") == 1


def test_a_run_whose_first_events_are_gone_is_shown_as_far_as_it_is_known() -> None:
    """A run of very many events keeps the newest only; without this it would show no host at all."""
    records = [OutputRecord(0b11, 7, STDOUT, 0, 0, b"hello\n")]
    events = [up("0-1"), output("s", 1), ended("1", code=4), finished("failed")]
    display, console = shown(Watched(spec_of("a", "b"), [events], {"s": records}, FIELDS))
    display.show(display.lines())
    display.follow()
    assert display.conclude() == 255
    assert console.out == b"a: hello\nb: hello\n"
    assert b"first events are gone" in console.err and b"b: exit code 4" in console.err and b"a: unknown" in console.err


# Results


def test_json_results_tell_the_processes_apart() -> None:
    display, console = shown(several())
    display.show(display.json_lines())
    display.catch_up()
    assert display.conclude() == 3
    *hosts, last = map(json.loads, console.out.splitlines())
    found = {(h["host"], h["process"]): (h["code"], h["stdout"]) for h in hosts}
    assert found == {("a", "server"): (3, "server\n"), ("a", "client"): (0, "cli\n"), ("b", "client"): (0, "cli\n")}
    assert (last["summary"]["nonzero"], last["summary"]["ok"], last["summary"]["state"]) == (1, 1, "failed")


def test_files_of_several_processes_lie_in_folders_of_their_own(tmp_path: Path) -> None:
    display, _ = shown(several())
    display.show(display.files(tmp_path))
    display.catch_up()
    found = {str(path.relative_to(tmp_path)): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert found == {"server/a": b"server\n", "client/a": b"cli\n", "client/b": b"cli\n"}


def test_the_table_of_results() -> None:
    display, _ = shown(several())
    display.catch_up()
    assert result_rows(display.progress) == [
        ["a", "server", "exited", "3", ""],
        ["a", "client", "exited", "0", ""],
        ["b", "client", "exited", "0", ""],
    ]


def test_the_exit_code_of_a_run() -> None:
    progress = play(RunProgress(spec_of("a", "b")), [*joined("0-1"), ended("0"), ended("1", code=4)])
    assert run_exit_code(progress) == 4
    progress.fold("9000-0", finished("succeeded"))
    assert run_exit_code(progress) == 0, "one failure of two can be enough for the quorum of the run"
    for final, code in (("failed", 1), ("killed", 1)):
        progress = play(RunProgress(spec_of("a")), [*joined("0"), ended("0"), finished(final)])
        assert run_exit_code(progress) == code, "a run that did not succeed is no success"


# Status


def test_status_of_a_run_that_goes_on() -> None:
    progress = play(RunProgress(spec_of("a", "b", "c")), [*joined("0-2"), up("0-1"), started("0"), ended("0", code=2)])
    values = status_of(progress, FIELDS, 60.0)
    assert (values["state"], values["up"], values["done"], values["nonzero"], values["took_s"]) == (
        "running",
        2,
        1,
        1,
        59.0,
    )
    states = {host["host"]: host["state"] for host in values["hosts"]}
    assert states == {"a": "exited", "b": "up", "c": "waiting"}
    assert [slow["doing"] for slow in values["slowest"]] == ["up", "waiting"]
    text = "\n".join(status_lines(progress, values))
    assert "hosts    3: 2 up, 1 done: 1 nonzero" in text and "a: exit code 2" in text and "workers  w (3)" in text
    assert "waiting  " not in text, "what there is nothing to say of has no line"
    json.dumps(values)


def test_a_run_that_waits_says_what_for() -> None:
    events = [*joined("0-1")[:3], {"type": "waiting", "why": "no worker is running"}]
    progress = play(RunProgress(spec_of("a", "b")), events)
    values = status_of(progress, FIELDS, 60.0)
    assert (values["state"], values["waiting_for"]) == ("waiting", "no worker is running")


# The panel


def test_a_panel_fits_its_terminal() -> None:
    progress = play(RunProgress(spec_of("a", "b")), [*joined("0-1"), up("0-1"), started("0-1")])
    tail = [f"a: line {at} " + "x" * 300 for at in range(50)]
    for height in range(4, 40):
        lines = panel(progress, tail, 63_000, 60, height, "hint")
        assert len(lines) <= height and all(len(line) <= 60 for line in lines)
        assert lines[0].startswith("run run-1  running  1m")
        assert lines[-1] == "hint" and "line 49" in lines[-2], f"the newest line of output is missing at {height}"
    assert any("└─ w" in line and "2/2 up, 0 done" in line for line in lines)
    assert "slowest  a running for 56s, b running for 56s" in lines


def test_what_hosts_print_plays_no_tricks_in_the_panel() -> None:
    lines = panel(RunProgress(spec_of("a")), ["a: \x1b[2J\x07"], 0, 80, 20)
    assert not any("\x1b" in line or "\x07" in line for line in lines)


def test_the_panel_is_drawn_in_place_and_left_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[bytes] = []
    now = [0.0]
    monkeypatch.setattr(live, "write_all", lambda descriptor, data: drawn.append(data))
    progress = play(RunProgress(spec_of("a", "b")), [*joined("0-1"), up("0-1")])
    console = LiveConsole(progress, "hint", clock=lambda: now[0])
    console.write(STDOUT, b"a: one\na: tw")
    console.progress("")
    console.progress("")
    assert len(drawn) == 1, "drawn more often than the eye can follow"
    assert b"| a: one\n" in drawn[0] and b"hint" in drawn[0] and b"tw" not in drawn[0]
    now[0] = 5.0
    console.write(STDOUT, b"o\n")
    console.progress("")
    assert drawn[1].startswith(b"\r\x1b[%dA\x1b[J" % drawn[0].count(b"\n")) and b"| a: two\n" in drawn[1]
    console.leave()
    assert b"hint" not in drawn[2]


# Watching


def test_ctrl_c_leaves_and_says_how_to_return(monkeypatch: pytest.MonkeyPatch) -> None:
    class Interrupted(Watched):
        def events(self, run_id: str, after: str, block_ms: int) -> Any:
            if not self.batches:
                raise KeyboardInterrupt
            return super().events(run_id, after, block_ms)

    console = FakeConsole()
    monkeypatch.setattr(watch_run, "Console", lambda **_: console)
    good = single()
    client = Interrupted(good.known, good.batches, good.segments, FIELDS)
    assert watch_run.watch_to_the_end(client, "run-1", plain=True) == 130
    assert client.kills == [], "looking on must not end a run"
    assert b"plush watch run-1 returns to it" in console.err
    assert console.out.startswith(b"a: hello\n")


def test_watching_to_the_end_gives_the_code_and_the_failures(monkeypatch: pytest.MonkeyPatch) -> None:
    console = FakeConsole()
    monkeypatch.setattr(watch_run, "Console", lambda **_: console)
    client = single(ended("0", code=3), lost("1", "connection refused"), finished("failed"))
    assert watch_run.watch_to_the_end(client, "run-1", plain=True) == 255
    assert b"a: exit code 3" in console.err and b"b: unknown: refused: connection refused" in console.err


def test_a_second_worker_that_takes_over_is_shown_with_what_it_has() -> None:
    events = joined("0-1")
    taken = {**events[3], "worker": "v", "hosts": "1", "roots": "1"}
    progress = play(RunProgress(spec_of("a", "b")), [*events, taken])
    assert {name: owned.hosts for name, owned in progress.workers.items()} == {"w": 0b01, "v": 0b10}
    progress.fold("9000-0", {**taken, "hosts": "0"})
    assert set(progress.workers) == {"v"}


def test_output_in_no_form_is_refused() -> None:
    """Whoever feeds text instead of records would lose it silently."""
    output_of = ProcessOutput(RunProgress(spec_of("a")), lambda name: None)  # type: ignore[arg-type, return-value]
    with pytest.raises(NotImplementedError):
        output_of.output(1, STDOUT, b"x")
