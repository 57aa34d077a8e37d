"""The command line of the testbed: run a command on host 0 of one, break something in one that is up, clean up.

Entry point: ``main``. Exit codes of a run: the command's own (128 + n for signal n); 2 for options that make no
sense; 125 when the testbed failed and there is no such code.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from types import FrameType
from typing import Any

from plush_worker.errors import EXIT_USAGE

from . import faults, host_files, state_folder
from .control import ControlClient
from .errors import BadInput, TestbedError
from .fixtures import FIXTURES
from .forwarder_client import Lag
from .host_mounts import BOOT_MASKS, LASTING_MASKS
from .schedule_runner import ScheduleRunner
from .testbed import Settings, Testbed

EXIT_TESTBED_FAILED = 125  # as timeout(1) and docker run: the wrapper itself failed
LAG_LIMIT_MS = 5.0
MASKS = (*LASTING_MASKS, *BOOT_MASKS)  # these h0 has of its own, so a command can't start in ours
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal came while no command was running. Not an Exception: nothing on the way may take it for a failure."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def main(argv: Sequence[str]) -> int:
    """Do what the words say; the exit code."""
    try:
        if argv[:1] == ["fault"]:
            return _fault(argv[1:])
        if argv[:1] == ["schedule"]:
            return _schedule(argv[1:])
        if argv[:1] == ["clean"]:
            return _clean()
        return _run(argv)
    except BadInput as error:
        say(str(error))
        return EXIT_USAGE
    except TestbedError as error:
        say(str(error))
        return EXIT_TESTBED_FAILED


def say(text: str) -> None:
    """To a person, on stderr."""
    for line in text.splitlines():
        print(f"testbed: {line}", file=sys.stderr, flush=True)


# Options


def parse_options(argv: Sequence[str]) -> argparse.Namespace:
    """The options of a run and, as ``command``, its words."""
    parser = argparse.ArgumentParser(
        prog="ops/testbed/run",
        description="Make hosts with a wide area between them, run COMMAND on h0, take all down.",
        epilog="Also: run fault [--id ID] KIND HOSTS..., run fault status, run schedule SEED, run clean. "
        "docs/testbed.md describes hosts, faults and fixtures.",
    )
    add = parser.add_argument
    add("--hosts", type=int, default=16, metavar="N", help="h0, where COMMAND runs, included (16)")
    add("--rtt", default="planetlab", metavar="planetlab|zero|FILE", help="round-trip times (planetlab)")
    add("--rate", type=float, default=0.0, metavar="MBIT", help="up and down, of every host; 0: no limit (0)")
    add("--jitter", type=float, default=0.0, metavar="SHARE", help="of the one-way delay (0)")
    add("--loss", type=float, default=0.0, metavar="SHARE", help="of the packets (0)")
    add("--seed", type=int, default=1, help="of everything that is drawn (1)")
    add("--sshd", action="append", default=[], metavar="LINE", help='of sshd_config, such as "MaxSessions 1"; repeat')
    add("--kex", default="curve25519-sha256", help='key exchange; "" for OpenSSH\'s default (curve25519-sha256)')
    add("--inner-login", default="agent", choices=("agent", "key", "none"), help="among the hosts (agent)")
    add("--disk", type=int, default=64, metavar="MIB", help="of each host, and of its /tmp (64)")
    add("--cpu", action="append", default=[], metavar="HOST=CORES", help="hold a host to so much, as in h0=0.1; repeat")
    add("--python", action="append", default=[], metavar="HOST=PATH", help="python3 of a host's logins; repeat")
    add("--visible", action="append", default=[], type=Path, metavar="PATH", help="show it on h0 though masked; repeat")
    add("--fixture", default="", choices=("", *FIXTURES), help="a trouble of reachability")
    add("--schedule", default="", metavar="FILE", help="faults and when they happen, YAML or JSON")
    add("--json", default="", metavar="FILE", help="write a result: times, lag, exit code")
    add("command", nargs=argparse.REMAINDER, metavar="-- COMMAND", help="runs as root on h0")
    options = parser.parse_args(argv)
    if options.command[:1] == ["--"]:
        del options.command[0]
    if not options.command:
        parser.error("no COMMAND: write it behind --")
    return options


def plan_settings(options: argparse.Namespace) -> Settings:
    """The options as settings. Raises BadInput."""
    return Settings(
        host_count=options.hosts,
        rtt=options.rtt,
        rate_mbit=options.rate,
        jitter=options.jitter,
        loss=options.loss,
        seed=options.seed,
        sshd_options=tuple(line for text in options.sshd for line in text.splitlines() if line.strip()),
        kex=options.kex,
        inner_login=options.inner_login,
        disk_mib=options.disk,
        cpu_shares={host: _number(text, "--cpu") for host, text in _by_host(options.cpu, options.hosts, "--cpu")},
        pythons=dict(_by_host(options.python, options.hosts, "--python")),
        visible=tuple(options.visible),
        fixture=options.fixture,
    )


def _by_host(texts: Sequence[str], host_count: int, option: str) -> list[tuple[int, str]]:
    found = []
    for text in texts:
        hosts, equals, value = text.partition("=")
        if not equals:
            raise BadInput(f"{option} {text}: should be HOST=VALUE, such as h3=...")
        found += [(host, value) for host in faults.parse_hosts(hosts, host_count)]
    return found


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise BadInput(f"{option}: {text!r} is no number of cores") from None


# A run


class Relay:
    """What a signal to this process does: goes on to the command, else ends what is under way; at the end nothing."""

    def __init__(self) -> None:
        self.send: Any = None  # Popen.send_signal while the command runs
        self._is_over = False
        for number in SIGNALS:
            signal.signal(number, self._received)

    def over(self) -> None:
        """What follows is not to be interrupted."""
        self._is_over = True

    def _received(self, number: int, _: FrameType | None) -> None:
        if self._is_over:
            return
        if self.send is None:
            raise Stopped(number)
        self.send(number)


def _run(argv: Sequence[str]) -> int:
    options = parse_options(argv)
    settings = plan_settings(options)
    schedule = _read_schedule(options.schedule, settings.host_count)
    testbed = Testbed(settings)
    relay = Relay()
    result: dict[str, Any] = {"settings": _plain(settings), "command": options.command}
    try:
        with testbed:
            say(f"{settings.host_count} hosts up in {testbed.up_s:.1f} s ({'; '.join(testbed.notes)}), id {testbed.id}")
            testbed.lag(reset=True)  # what the start itself cost is no part of the run
            result |= _run_command(testbed, options.command, schedule, relay)
            relay.over()
            lag = testbed.lag()
            say(describe_lag(lag))
            result |= {"lag": asdict(lag), "lag_too_high": lag.p99_ms > LAG_LIMIT_MS}
    except Stopped as stopped:
        relay.over()
        say(f"stopped by {signal.Signals(stopped.number).name}; everything is down")
        return 128 + stopped.number
    say(f"down in {testbed.down_s:.1f} s")
    result |= {"notes": testbed.notes, "up_s": testbed.up_s, "down_s": testbed.down_s}
    if options.json:
        Path(options.json).write_text(json.dumps(result, indent=1) + "\n")
    return int(result["exit_code"])


def _run_command(
    testbed: Testbed, command: Sequence[str], schedule: Sequence[faults.Timed], relay: Relay
) -> dict[str, Any]:
    """Run it, and the schedule beside it."""
    here = str(Path.cwd())
    runner = ScheduleRunner(schedule, testbed.control, say)
    try:
        process = testbed.popen(command, cwd=host_files.ROOT_HOME if here in MASKS else here)
        relay.send = process.send_signal
        runner.start()
        code = process.wait()
    finally:
        runner.stop()
    return {"exit_code": 128 - code if code < 0 else code, "faults": runner.done}


def describe_lag(lag: Lag) -> str:
    """For the line at the end of a run."""
    text = (
        f"the forwarder's lag: p50 {lag.p50_ms:.1f} ms, p99 {lag.p99_ms:.1f} ms, max {lag.max_ms:.1f} ms "
        f"over {lag.packet_count} packets"
    )
    if lag.p99_ms > LAG_LIMIT_MS:
        text += f"; p99 is above {LAG_LIMIT_MS:g} ms: times of this run are partly this machine's own"
    return text


def _plain(settings: Settings) -> dict[str, Any]:
    return {**asdict(settings), "visible": [str(path) for path in settings.visible]}


def _read_schedule(path: str, host_count: int) -> list[faults.Timed]:
    if not path:
        return []
    import yaml  # 15 ms that only a schedule needs

    try:
        return faults.parse_schedule(yaml.safe_load(Path(path).read_text()), host_count, path)
    except OSError as error:
        raise BadInput(f"--schedule {path}: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise BadInput(f"--schedule {path}: neither YAML nor JSON: {error}") from error


# Against a testbed that is up


def _fault(argv: Sequence[str]) -> int:
    known = "\n".join(f"  {faults.usage(do):<42}{kind.about}" for do, kind in faults.KINDS.items())
    parser = argparse.ArgumentParser(
        prog="ops/testbed/run fault", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Break or mend something in a testbed that is up.",
        epilog=f"  status{' ' * 36}what is on, frozen or off, and the lag\n{known}\n"
        f"HOSTS: h3, h[3-7],h9 or all. SHARE, ONE_WAY_S and MBIT are numbers, or {faults.START}: as at the start.",
    )  # fmt: skip
    parser.add_argument("--id", default="", help="of the testbed, when several are up")
    parser.add_argument("words", nargs=argparse.REMAINDER, metavar="FAULT")
    options = parser.parse_args(argv)
    client = ControlClient.connect(state_folder.find_control(options.id))
    try:
        status = client.ask({"do": "status"})
        if options.words in ([], ["status"]):
            _print_status(status)
        else:
            client.ask(faults.parse_words(options.words, status["host_count"]).request())
    finally:
        client.close()
    return 0


def _print_status(status: Mapping[str, Any]) -> None:
    by_state: dict[str, list[str]] = {}
    for host, state in status["hosts"].items():
        by_state.setdefault(state, []).append(host)
    from plush_worker.experiment.host_ranges import fold

    for state, hosts in by_state.items():
        print(f"{state}: {fold(hosts)}")
    print(describe_lag(Lag(**status["lag"])))


def _schedule(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="ops/testbed/run schedule", description="Print a random schedule for --schedule; the same seed, the same."
    )
    parser.add_argument("seed", type=int)
    parser.add_argument("--hosts", type=int, default=16)
    parser.add_argument("--duration", type=float, default=60.0, metavar="SECONDS")
    parser.add_argument("--gap", type=float, default=5.0, metavar="SECONDS", help="mean time between faults (5)")
    parser.add_argument("--kinds", default=",".join(faults.RANDOM_KINDS), help="comma-separated (%(default)s)")
    options = parser.parse_args(argv)
    kinds = options.kinds.split(",")
    wrong = [do for do in kinds if do not in faults.KINDS or not faults.KINDS[do].undo]
    if wrong:
        raise BadInput(f"--kinds: {', '.join(wrong)}: there is no such fault that can be undone")
    entries = faults.random_schedule(
        options.seed, options.hosts, options.duration, kinds=kinds, gap_s=options.gap
    )  # fmt: skip
    print("[\n" + ",\n".join(" " + json.dumps(entry) for entry in entries) + "\n]")
    return 0


def _clean() -> int:
    removed = state_folder.clean()
    say(f"removed what was left of {', '.join(removed)}" if removed else "nothing was left")
    return 0
