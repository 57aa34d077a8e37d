"""``plush run`` from submission to exit code, with a client that plays recorded events."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from typing import Any

import pytest

from plush_api.cli import app, control
from plush_api.cli.console import OutputClosed
from plush_api.cli.control import Abandoned, RunControl
from plush_api.cli.options import parse
from plush_api.cli.run import follow_run, settings_of
from plush_api.cli.watch import report_rejected
from plush_api.client import OutputRecord
from plush_worker.errors import ServiceUnavailable, StoreUnavailable, UsageError
from plush_worker.experiment.directory import Resolved
from plush_worker.model import HostEntry, SliceSettings
from plush_worker.node.messages import STDERR, STDOUT
from tests.unit.cli_fakes import FakeClient, FakeConsole, ended, finished, joined, lost, output, started, up

FIELDS = {"hosts": '[[0,"a"],[1,"b"]]'}


class Service:
    """A found service; the control thread gets a client of its own."""

    def __init__(self, failure: Any = None) -> None:
        self.failure = failure
        self.control = FakeClient()

    def connect(self) -> FakeClient:
        return self.control


def run(
    words: Sequence[str],
    client: FakeClient,
    console: FakeConsole | None = None,
    *,
    names: Sequence[str] = ("a", "b"),
    rejected: dict[str, str] | None = None,
    service: Service | None = None,
) -> tuple[int, FakeConsole]:
    options = parse(["-w", "x", *words])
    console = console or FakeConsole(quiet=options.quiet)
    entries = [HostEntry(name, f"10.0.0.{at}") for at, name in enumerate(names)]
    resolved = Resolved(entries, SliceSettings(), rejected or {}, [], "")
    settings = settings_of(options, resolved.settings)
    code = follow_run(options, resolved, settings, console, client, service or Service())  # type: ignore[arg-type]
    return code, console


def well(*more: dict[str, Any]) -> FakeClient:
    records = [OutputRecord(0b11, 7, STDOUT, 0, 0, b"hello\n"), OutputRecord(0b01, 7, STDERR, 0, 0, b"oh\n")]
    events = [*joined("0-1"), up("0-1"), started("0-1"), output("s", 2), *(more or (ended("0-1"), finished()))]
    return FakeClient([events[:5], events[5:]], {"s": records}, FIELDS)


def test_lines_and_exit_code() -> None:
    code, console = run(["date"], well())
    assert (code, console.out, console.err) == (0, b"a: hello\nb: hello\n", b"a: oh\n")


def test_what_is_submitted() -> None:
    client = well()
    run(["-t", "3", "-u", "9", "-f", "5", "--together", "--planner", "flat", "echo", "\udcff", "ü"], client)
    (spec,) = client.submitted
    assert spec.command == "echo \udcff ü"
    assert (spec.timeout_s, spec.fanout, spec.together, spec.ttl_s, spec.client_lease_s) == (9, 5, True, 60, 60)
    assert (spec.settings().connect_timeout_s, spec.settings().planner) == (3, "flat")
    assert [entry.address for entry in spec.entries()] == ["10.0.0.0", "10.0.0.1"]
    assert json.loads(spec.to_json())["command"] == "echo \udcff ü"
    assert len(spec.run_id) == 36 and spec.submitted_at and spec.submitter_host and spec.owner


def test_failures_stand_at_the_end_and_not_when_quiet() -> None:
    bad = (ended("0", "exited", 3), lost("1", "connection refused"), finished("failed"))
    code, console = run(["date"], well(*bad))
    assert code == 255
    assert console.err == b"a: oh\nplush: a: exit code 3\nplush: b: unknown: refused: connection refused\n"
    code, console = run(["-q", "date"], well(*bad))
    assert console.err == b"a: oh\n"


def test_json_ends_with_the_summary() -> None:
    code, console = run(["--json", "date"], well(), rejected={"z": "does not resolve"})
    *hosts, last = map(json.loads, console.out.splitlines())
    assert code == 255
    assert [(host["host"], host["state"]) for host in hosts] == [("z", "unreachable"), ("a", "exited"), ("b", "exited")]
    assert hosts[1]["stdout"] == "hello\n" and hosts[1]["stderr"] == "oh\n"
    assert last["summary"]["hosts"] == 3 and last["summary"]["ok"] == 2 and last["summary"]["unreachable"] == 1


def test_only_rejected_names_need_no_service() -> None:
    console = FakeConsole()
    resolved = Resolved([], SliceSettings(), {"z": "does not resolve"}, [], "")
    assert report_rejected(parse(["-w", "z", "--json", "date"]), resolved, console) == 255
    host, last = map(json.loads, console.out.splitlines())
    assert (host["host"], host["state"], host["error"]) == ("z", "unreachable", "does not resolve")
    assert last["summary"]["unreachable"] == 1
    assert console.err == b"plush: z: unreachable: does not resolve\n"


@pytest.mark.parametrize("option", ["-b", "-B", "-L", "-N"])
def test_the_other_forms(option: str) -> None:
    _, console = run([option, "date"], well())
    assert {
        "-b": b"a,b (2)\n---------------\nhello\n",
        "-B": b"---------------\nb\n---------------\nhello\n",
        "-L": b"a: hello\nb: hello\n",
        "-N": b"hello\nhello\n",
    }[option] in console.out


def test_a_missing_worker_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    client = FakeClient([[], [], *well().batches], well().segments, FIELDS)
    monkeypatch.setattr("plush_api.cli.follow.NO_WORKER_AFTER_S", 0.0)
    code, console = run(["date"], client)
    assert code == 0
    assert console.err.count(b"no worker is running") == 1


def test_an_outage_of_the_store_is_said_and_waited_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("plush_api.cli.follow.RETRY_AFTER_S", 0.0)
    good = well()
    outage = StoreUnavailable("redis does not answer")
    client = FakeClient([good.batches[0], outage, outage, good.batches[1]], good.segments, FIELDS)
    code, console = run(["date"], client)
    assert code == 0
    assert console.err.count(b"redis does not answer") == 1
    assert b"the service is back" in console.err


def test_a_store_that_is_down_at_submission_is_an_error() -> None:
    class Down(FakeClient):
        def submit(self, spec: Any) -> None:
            raise StoreUnavailable("redis does not answer at unix:///x; start it")

    with pytest.raises(StoreUnavailable) as caught:
        run(["date"], Down())
    assert caught.value.exit_code == 69


def test_the_end_of_the_commands_own_service_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "STOP_WAIT_S", 0.0)
    service = Service(failure=lambda: "the worker died")
    code, console = run(["date"], FakeClient([joined("0-1")], fields=FIELDS), service=service)
    assert code == ServiceUnavailable.exit_code
    assert b"the worker died" in console.err


def test_nobody_reads_our_output() -> None:
    console = FakeConsole()
    console.fail = OutputClosed()
    client, service = well(ended("0-1", "killed", None, signal=15), finished("killed")), Service()
    client.batches.insert(1, [output("s", 2)])
    code, _ = run(["yes"], client, console, service=service)
    assert code == 141
    assert client.batches == [], "the end of the run was not waited for"


def test_a_disk_that_is_full_stops_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("plush_api.cli.pieces._open_temporary", full)
    monkeypatch.setattr("plush_api.cli.pieces.Tracks.__init__.__defaults__", (1,))
    client = well(ended("0-1", "killed", None, signal=15), finished("killed"))
    client.batches.insert(1, [output("s", 2)])
    code, console = run(["-b", "date"], client)
    assert code == 255
    assert b"No space left on device; stopping the run" in console.err
    assert client.batches == []


def test_what_hosts_say_plays_no_tricks_on_the_terminal() -> None:
    code, console = run(["date"], well(ended("0"), lost("1", "\x1b]0;owned\x07 \udcff"), finished("failed")))
    assert code == 255
    assert b"\\x1b]0;owned\\x07 \\udcff" in console.err and b"\x1b" not in console.err


def test_joining_a_mesh_says_how_many_are_up() -> None:
    options = parse(["-w", "x", "date"])
    options.command = ""
    client = FakeClient([[*joined("0-1")[:4], up("0-1"), ended("0-1", detail="joined"), finished()]], fields=FIELDS)
    resolved = Resolved([HostEntry("a", "a"), HostEntry("b", "b")], SliceSettings(), {}, [], "")
    console = FakeConsole()
    assert follow_run(options, resolved, SliceSettings(), console, client, Service()) == 0  # type: ignore[arg-type]
    assert (console.out, console.err) == (b"2/2 up\n", b"")


# Interruption


class Interrupting(FakeClient):
    """Raises a signal in this process while events are waited for."""

    def __init__(self, numbers: Sequence[int], *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.numbers = list(numbers)

    def events(self, run_id: str, after: str, block_ms: int) -> list[tuple[str, dict[str, Any]]]:
        if self.numbers and len(self.batches) == 1:
            signal.raise_signal(self.numbers.pop(0))
            return []
        return super().events(run_id, after, block_ms)


@pytest.mark.parametrize(
    ("numbers", "code", "kills"),
    [
        ([signal.SIGINT], 130, [(signal.SIGINT, 5000)]),
        ([signal.SIGTERM], 143, [(signal.SIGTERM, 5000)]),
        ([signal.SIGHUP], 129, [(signal.SIGTERM, 5000)]),
        ([signal.SIGINT, signal.SIGINT], 130, [(signal.SIGINT, 5000), (signal.SIGKILL, 0)]),
    ],
)
def test_signals_stop_the_run(
    numbers: list[int], code: int, kills: list[tuple[int, int]], capfd: pytest.CaptureFixture[str]
) -> None:
    good, service = well(ended("0-1", "killed", None, signal=2, detail="signal"), finished("killed")), Service()
    client = Interrupting(numbers, good.batches, good.segments, FIELDS)
    before = signal.getsignal(signal.SIGINT)
    got, console = run(["sleep", "9"], client, service=service)
    assert got == code
    assert console.out == b"a: hello\nb: hello\n", "what was printed before the end is shown"
    assert "stopping the run" in capfd.readouterr().err
    assert signal.getsignal(signal.SIGINT) is before
    assert service.control.kills == kills


def test_the_third_ctrl_c_leaves() -> None:
    good = well()
    client = Interrupting([signal.SIGINT] * 3, good.batches, good.segments, FIELDS)
    code, console = run(["sleep", "9"], client)
    assert code == 130
    assert b"left without waiting" in console.err


def test_an_end_that_nobody_confirms_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "STOP_WAIT_S", 0.0)
    client = Interrupting([signal.SIGINT], [joined("0-1"), []], fields=FIELDS)
    code, console = run(["--json", "sleep", "9"], client)
    assert code == 130
    assert b"has not confirmed its end" in console.err
    assert [json.loads(line).get("state") for line in console.out.splitlines()] == ["unknown", "unknown", None]


def test_a_stop_that_cannot_be_asked_for_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(control, "RETRY_EVERY_S", 0.01)
    monkeypatch.setattr(control, "FIRST_RENEWAL_S", 0.01)
    answers = [StoreUnavailable("down"), StoreUnavailable("down"), None]

    class Flaky(FakeClient):
        def kill(self, run_id: str, signal: int, grace_ms: int, by: str) -> None:
            answer = answers.pop(0)
            if answer:
                raise answer
            super().kill(run_id, signal, grace_ms, by)

    client = Flaky()
    with RunControl(lambda: client, "r") as running:
        running.stop(signal.SIGTERM)
        running._requests.put((0, 0))  # taken only after the thread is back at its queue
        deadline = running._clock() + 5
        while answers and running._clock() < deadline:
            running._thread.join(0.01)
    assert not answers
    running.stop(signal.SIGINT)
    with pytest.raises(Abandoned):
        running.stop(signal.SIGINT)


# The command itself


def test_mistakes_have_exit_code_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["run", "-w", "a"]) == UsageError.exit_code == 2
    assert capsys.readouterr().err == "plush: no command: plush run -w HOSTS -- CMD\n"
    assert app.main(["runn"]) == 2
    assert "did you mean run?" in capsys.readouterr().err
    assert app.main([]) == 2


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["--help"]) == 0
    assert app.main(["run", "--help"]) == 0
    assert app.main(["--version"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in app.COMMANDS)
    assert "plush " in shown.splitlines()[-1]
