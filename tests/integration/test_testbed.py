"""The testbed itself: distances and rates as asked for, hosts apart from each other, faults, and nothing left."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from ops.testbed import machine, state_folder
from ops.testbed.cgroups import Groups, Hierarchies, find_hierarchies
from ops.testbed.testbed import Settings, Testbed, TestbedError

from .ops_machine import wait_for

pytestmark = pytest.mark.timeout(60)

CHECKOUT = Path(__file__).parents[2]
HOST_COUNT = 8
CLOSED_PORT = 9  # nobody listens: a connect is refused after one round trip, without sshd's part in it

# Prints the least of some round trips to each address, in seconds, or null where nothing came back.
ROUND_TRIPS = """
import json, socket, sys, time
port, timeout_s, count, *addresses = sys.argv[1:]
found = []
for address in addresses:
    times = []
    for _ in range(int(count)):
        with socket.socket() as sock:
            sock.settimeout(float(timeout_s))
            began = time.perf_counter()
            try:
                sock.connect((address, int(port)))
            except ConnectionRefusedError:
                pass
            except OSError:
                continue
            times.append(time.perf_counter() - began)
    found.append(min(times, default=None))
print(json.dumps(found))
"""
# Takes what comes on a port, and prints 10**6 bit/s from the first byte on.
RECEIVER = """
import socket, sys, time
with socket.create_server(("", 4000)) as server:
    print("ready", flush=True)
    connection, _ = server.accept()
count = len(connection.recv(65536))
first, began = count, time.perf_counter()
while data := connection.recv(65536):
    count += len(data)
print((count - first) * 8 / (time.perf_counter() - began) / 1e6)
"""
SENDER = """
import socket, sys
with socket.create_connection((sys.argv[1], 4000)) as connection:
    connection.sendall(bytes(int(sys.argv[2])))
"""
# Prints the first datagram.
HEARS = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
    sock.bind(("", 4000))
    sock.settimeout(9)
    print("ready", flush=True)
    print(sock.recv(100).decode(), end="")
"""
# Connects, and says what becomes of the connection within a time.
WATCHES = """
import select, socket, sys
with socket.create_connection((sys.argv[1], 22)) as connection:
    connection.recv(100)
    print("ready", flush=True)
    sys.stdin.readline()
    print(len(select.select([connection], [], [], 0.5)[0]), "goodbyes")
"""
PYTHON = "/usr/bin/python3"


@pytest.fixture(scope="module", autouse=True)
def able() -> None:
    """This machine can have a testbed."""
    problems = machine.problems()
    if problems:
        reason = "; ".join(problems)
        if os.environ.get("CI"):
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture(scope="module")
def wide() -> Iterator[Testbed]:
    """Hosts of the PlanetLab matrix, of which two differ in kind."""
    settings = Settings(HOST_COUNT, cpu_shares={7: 0.1}, seed=5)
    with Testbed(settings) as testbed:
        yield testbed


@pytest.fixture(scope="module")
def near() -> Iterator[Testbed]:
    """Hosts without distance, for faults: a timeout is then short."""
    with Testbed(Settings(6, rtt="zero", disk_mib=2)) as testbed:
        yield testbed


@pytest.fixture
def healed(near: Testbed) -> Iterator[Testbed]:
    """The same, with the network whole afterwards."""
    yield near
    near.heal_all()


def round_trips(
    testbed: Testbed, source: int, targets: list[int], *, port: int = CLOSED_PORT, count: int = 1
) -> list[Any]:
    """In seconds; None where nothing came back in time."""
    process = start_round_trips(testbed, source, targets, port=port, count=count)
    return list(json.loads(process.communicate(timeout=30)[0]))


def start_round_trips(
    testbed: Testbed, source: int, targets: list[int], *, port: int = CLOSED_PORT, count: int = 1
) -> subprocess.Popen[str]:
    """What prints them."""
    argv = [PYTHON, "-c", ROUND_TRIPS, str(port), "1", str(count), *(testbed.address(target) for target in targets)]
    return testbed.popen(argv, host=source, stdout=subprocess.PIPE, text=True)


def on(testbed: Testbed, host: int, script: str, **options: Any) -> str:
    """What a script of sh prints on a host, which must succeed."""
    ran = testbed.run(["sh", "-c", script], host=host, **options)
    assert ran.returncode == 0, ran
    return ran.stdout.strip()


# The network


def test_round_trips_are_those_of_the_matrix(wide: Testbed) -> None:
    """Else every figure measured on the testbed would belong to some other network."""
    draw = random.Random(7)
    pairs = draw.sample([(a, b) for a in range(HOST_COUNT) for b in range(HOST_COUNT) if a != b], 20)
    targets = {source: [b for a, b in pairs if a == source] for source in range(HOST_COUNT)}
    measuring = {source: start_round_trips(wide, source, targets[source], count=5) for source in targets}
    wrong = []
    for source, process in measuring.items():
        for target, measured_s in zip(targets[source], json.loads(process.communicate(timeout=30)[0]), strict=True):
            wanted_s = wide.rtt_s(source, target)
            if measured_s is None or abs(measured_s - wanted_s) > max(0.03 * wanted_s, 0.002):
                wrong.append((source, target, wanted_s, measured_s))
    assert not wrong


@pytest.mark.parametrize("narrow", [1, 2], ids=["up", "down"])
def test_rates_hold(healed: Testbed, narrow: int) -> None:
    """A host of 20 Mbit/s that sent or got more (or far less) would make plans for narrow links look fine."""
    mbit, size_bytes = 20.0, 4_000_000
    healed.rate([narrow], mbit)
    receiver = healed.popen([PYTHON, "-c", RECEIVER], host=2, stdout=subprocess.PIPE, text=True)
    assert receiver.stdout is not None
    assert receiver.stdout.readline() == "ready\n"
    assert healed.run([PYTHON, "-c", SENDER, healed.address(2), str(size_bytes)], host=1).returncode == 0
    measured, _ = receiver.communicate(timeout=20)
    headers = 1500 / 1448  # IP, TCP and its time stamps: the rate is that of whole packets
    assert float(measured) * headers == pytest.approx(mbit, rel=0.1)


def test_a_cut_pair_stays_cut(healed: Testbed) -> None:
    """A cut that leaks, or is healed by the side, would let a test of partitions pass for the wrong reason."""
    healed.cut([1], [2])
    healed.cut([3], [4])
    healed.heal([3], [4])
    healed.power_off([1])
    healed.power_on([1])
    assert round_trips(healed, 1, [2, 3])[0] is None
    assert round_trips(healed, 2, [1])[0] is None
    assert None not in [*round_trips(healed, 1, [0, 3]), *round_trips(healed, 2, [0, 3]), *round_trips(healed, 3, [4])]
    healed.heal([1], [2])
    assert round_trips(healed, 1, [2])[0] is not None


def test_a_partition_holds_in_its_direction(healed: Testbed) -> None:
    """A set that is cut from the rest still talks among itself; cut one way, what it is told it still hears."""
    healed.partition([4, 5], both=False)
    listener = healed.popen([PYTHON, "-c", HEARS], host=4, stdout=subprocess.PIPE, text=True)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    on(healed, 0, f"bash -c 'echo heard >/dev/udp/{healed.address(4)}/4000'")
    assert listener.communicate(timeout=10)[0] == "heard\n"
    from_4 = round_trips(healed, 4, [0, 5])
    assert from_4[0] is None, "an answer came to a question that should not have left"
    assert from_4[1] is not None


def test_loss_delay_and_their_end(healed: Testbed) -> None:
    """A changed delay has to hold for the pair that was named, and no longer than until it is undone."""
    healed.delay([1], [2], 0.1)
    healed.loss([3], [4], 1.0)
    assert round_trips(healed, 1, [2])[0] == pytest.approx(0.2, abs=0.02)
    assert round_trips(healed, 1, [3])[0] < 0.1
    assert round_trips(healed, 3, [4])[0] is None
    healed.heal_all()
    assert round_trips(healed, 1, [2])[0] < 0.1
    assert round_trips(healed, 3, [4])[0] is not None


# Hosts


def test_hosts_are_apart(wide: Testbed) -> None:
    """Names, clocks, boot ids, homes and /tmp are a host's own; the clock on the wall is everybody's."""
    ask = "import os, time; print(os.uname().nodename, time.monotonic(), time.clock_gettime(7), time.time())"
    told = [on(wide, host, f"{PYTHON} -c '{ask}'; cat /proc/sys/kernel/random/boot_id").split() for host in range(4)]
    assert [words[0] for words in told] == ["h0", "h1", "h2", "h3"]
    monotonic, boot, wall = ([float(words[column]) for words in told] for column in (1, 2, 3))
    for clocks in (monotonic, boot):
        assert all(abs(a - b) > 60 for i, a in enumerate(clocks) for b in clocks[:i]), "clocks of hosts are too alike"
    assert max(wall) - min(wall) < 10
    assert len({words[4] for words in told}) == 4
    for place in ("/tmp", "/run", "/home/tester", "/var/tmp", "/dev/shm"):
        on(wide, 1, f"echo secret >{place}/theirs")
        assert on(wide, 2, f"ls {place}").find("theirs") < 0, f"{place} is shared among hosts"
        assert not Path(place, "theirs").exists(), f"{place} of a host is the machine's"


def test_logins_go_on_by_the_agent_alone(wide: Testbed) -> None:
    """With a key on every host, or none to forward, neither relay nor plans of trees could be tried honestly."""
    onward = "ssh -o BatchMode=yes h2 'hostname; whoami; pwd'"
    said = on(wide, 0, f'ssh -A h1 "{onward}"')
    assert said.split() == ["h2", "tester", "/home/tester"]
    without = wide.run(["ssh", "h1", onward])
    assert without.returncode == 255
    assert "Permission denied" in without.stderr


def test_a_controller_may_have_little_of_a_core(wide: Testbed) -> None:
    """Else the case where trees beat flat launching could not be tried."""
    spin = "import time; end = time.time() + 1\nwhile time.time() < end: pass\nprint(time.process_time())"
    assert float(on(wide, 7, f"{PYTHON} -I -S -c '{spin}'")) < 0.25
    assert wide.run(["ssh", "h7", f"{PYTHON} -I -S -c '{spin}'"]).stdout < "0.25", "a login is not held"


def test_signals_and_exit_codes_pass(near: Testbed) -> None:
    """A command on a host is handled like a child: what it is sent it gets, and how it ends is told."""
    assert near.run(["sh", "-c", "exit 7"], host=1).returncode == 7
    assert near.run(["sh", "-c", "kill -KILL $$"], host=1).returncode == -signal.SIGKILL
    assert near.run(["no-such-program"], host=1).returncode == 127
    trap = "trap 'echo told; exit 3' TERM; echo ready; while :; do sleep 0.05; done"
    process = near.popen(["sh", "-c", trap], host=1, user="tester", stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.communicate(timeout=10)[0] == "told\n"
    assert process.returncode == 3
    process = near.popen(["sleep", "1000"], host=1)
    wait_for(lambda: _commands(near, 1, "sleep 1000"), "the command is on the host")
    process.kill()
    process.wait()
    wait_for(lambda: not _commands(near, 1, "sleep 1000"), "a killed Popen's command is gone")
    for _ in range(5):  # also in the moment of its start
        process = near.popen(["sleep", "1000"], host=1)
        wait_for(
            lambda: any("enter.py" in p.command for p in near.processes(1)) or _commands(near, 1, "sleep 1000"), ""
        )
        process.kill()
        process.wait()
    wait_for(lambda: not [p for p in near.processes(1) if "sleep 1000" in p.command], "one killed early is gone")


def _commands(testbed: Testbed, host: int, text: str) -> list[int]:
    found = testbed.processes(host)
    return [process.pid for process in found if text in process.command and "enter.py" not in process.command]


# Faults of hosts


def test_power_off_ends_every_process_of_the_host_and_nothing_else(near: Testbed) -> None:
    """However detached, nothing of the host goes on, nothing else is hit, and nobody hears a goodbye."""
    detached = (
        "echo kept >kept; echo lost >/tmp/lost; nohup setsid sleep 1001 >/dev/null 2>&1 & (sleep 1002 &) </dev/null"
    )
    for host in (1, 2):
        on(near, 0, f"ssh h{host} '{detached} >/dev/null 2>&1'")
    before = {host: {process.pid for process in near.processes(host)} for host in range(6)}
    assert len(_commands(near, 1, "sleep 100")) == 2
    old_boot = on(near, 1, "cat /proc/sys/kernel/random/boot_id")
    watcher = near.popen(
        [PYTHON, "-c", WATCHES, near.address(1)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert watcher.stdout is not None
    assert watcher.stdout.readline() == "ready\n"
    near.power_off([1])
    assert not {pid for pid in before[1] if Path(f"/proc/{pid}").exists()}
    assert watcher.communicate("\n", timeout=10)[0] == "0 goodbyes\n"
    for host in (0, 2, 3, 4, 5):
        assert before[host] <= {process.pid for process in near.processes(host)}
    with pytest.raises(TestbedError, match="h1: off; power on first"):
        near.run(["true"], host=1)
    near.power_on([1])
    assert on(near, 0, "ssh h1 'cat kept; ls /tmp'") == "kept", "the disk stays and /tmp does not"
    assert on(near, 1, "cat /proc/sys/kernel/random/boot_id") != old_boot
    assert float(on(near, 1, "cat /proc/uptime").split()[0]) < 120
    for pid in _commands(near, 2, "sleep 100"):
        os.kill(pid, signal.SIGKILL)


def test_a_frozen_host_stops_and_goes_on(near: Testbed) -> None:
    """A frozen host that still worked would never be taken for dead."""
    counter = "i=0; while :; do i=$((i+1)); echo $i >count; sleep 0.01; done"
    process = near.popen(["sh", "-c", counter], host=3, user="tester")
    try:
        wait_for(lambda: _count(near), "it counts")
        near.freeze([3])
        pid = _commands(near, 3, "while")[0]
        ticks = _cpu_ticks(pid)
        assert round_trips(near, 0, [3], port=22)[0] is not None, "its kernel still answers"
        hello = "import socket, sys; s = socket.create_connection((sys.argv[1], 22)); s.settimeout(0.3); s.recv(9)"
        assert "timed out" in near.run([PYTHON, "-c", hello, near.address(3)]).stderr, "sshd spoke though frozen"
        assert _cpu_ticks(pid) == ticks
        near.thaw([3])
        count = _count(near)
        wait_for(lambda: _count(near) > count, "it counts on")
    finally:
        near.thaw([3])
        process.kill()
        process.wait()


def _count(testbed: Testbed) -> int:
    return int(on(testbed, 3, "cat /home/tester/count 2>/dev/null || :") or 0)


def _cpu_ticks(pid: int) -> int:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


@pytest.mark.parametrize("kind", ["unified", "v1_freezer"])
def test_every_kind_of_freezer_stops_and_is_cleaned(kind: str) -> None:
    """Machines differ in which they have; a frozen leftover of v1 takes no SIGKILL before it is thawed."""
    found = find_hierarchies()
    only = Hierarchies(**{kind: getattr(found, kind)})
    if not only.all():
        pytest.skip(f"this machine has no {kind} hierarchy")
    testbed = f"test-{os.getpid()}"
    groups = Groups(testbed, only)
    groups.make("h0", None)
    process = subprocess.Popen(["sh", "-c", "while :; do :; done"])
    try:
        for path in groups.joins("h0"):
            Path(path).write_text(str(process.pid))
        groups.freeze("h0", frozen=True)
        ticks = _cpu_ticks(process.pid)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        assert _cpu_ticks(process.pid) == ticks
        assert testbed in state_folder.clean()
        assert process.wait(10) == -signal.SIGKILL
    finally:
        process.kill()
        process.wait()
    assert not left_of(testbed)


def test_sshd_dies_alone(near: Testbed) -> None:
    """What a session started lives on, the link does not; started again, the host has the same key."""
    session = near.popen(["ssh", "h4", "sh -c 'echo $$; exec sleep 1003'"], stdout=subprocess.PIPE, text=True)
    assert session.stdout is not None
    assert session.stdout.readline()
    near.stop_sshd([4])
    session.communicate(timeout=10)
    assert session.returncode == 255
    assert _commands(near, 4, "sleep 1003")
    assert near.run(["ssh", "h4", "true"]).returncode == 255
    near.start_sshd([4])
    assert on(near, 0, "ssh h4 hostname") == "h4"
    for pid in _commands(near, 4, "sleep 1003"):
        os.kill(pid, signal.SIGKILL)


def test_a_full_disk_takes_no_byte(near: Testbed) -> None:
    """On a disk that still took a little, a spool's failure to write would never be seen."""
    write = "for d in /home/tester /var/tmp /tmp; do head -c 4096 /dev/zero 2>/dev/null >$d/more && echo $d; done; :"
    near.fill_disk([5])
    assert on(near, 5, write, user="tester") == ""
    assert on(near, 4, write, user="tester").split() == ["/home/tester", "/var/tmp", "/tmp"]
    near.free_disk([5])
    assert on(near, 5, write, user="tester").split() == ["/home/tester", "/var/tmp", "/tmp"]
    too_much = near.run(["sh", "-c", "head -c 3000000 /dev/zero >/home/tester/big"], host=5)
    assert "No space left" in too_much.stderr, "a disk of 2 MiB takes more"


# Reachability


def test_fixtures_shut_out_whom_they_say() -> None:
    """A private network that leaks would hide that a plan ignored the gateway."""
    with Testbed(Settings(5, rtt="zero", fixture="private-network")) as testbed:
        assert round_trips(testbed, 0, [1, 2, 3, 4])[2:] == [None, None]
        assert None not in round_trips(testbed, 1, [3, 4])
        assert round_trips(testbed, 3, [4])[0] is not None
        hosts = json.loads(on(testbed, 0, "cat $PLUSH_DIRECTORY"))["hosts"]
        assert hosts["h3"]["reachable_from"] == ["h1", "@private"]
    with Testbed(Settings(4, rtt="zero", fixture="peer-only", inner_login="key")) as testbed:
        assert testbed.run(["ssh", "h2", "true"]).returncode == 255
        assert on(testbed, 0, "ssh h1 ssh h2 hostname") == "h2"


def test_a_host_may_have_another_python() -> None:
    """Logins of the ordinary user find it first, even where only root may look, and the machine's files stay hidden."""
    ask = "import os, sys; print(sys.version_info[:3], os.path.realpath(sys.executable), os.getuid())"
    with Testbed(Settings(3, rtt="zero", pythons={1: sys.executable})) as testbed:
        said = on(testbed, 0, f"ssh h1 'python3 -c \"{ask}\"'")
        assert said == f"{sys.version_info[:3]} {os.path.realpath(sys.executable)} 60000"
        assert on(testbed, 0, "ssh h2 'command -v python3'") == PYTHON


# The command, and what it leaves


def command_line(*words: str) -> list[str]:
    return [sys.executable, "-m", "ops.testbed", *words]


def environment() -> Mapping[str, str]:
    return {**os.environ, "PYTHONPATH": str(CHECKOUT)}


def left_of(testbed: str) -> list[str]:
    """What of a testbed is still there: its folder, its control groups, its mounts."""
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"**/plush-testbed/{testbed}")]
    folder = state_folder.BASE / testbed
    return groups + [str(folder)] * folder.exists()


def test_a_run_gives_the_commands_exit_code_and_a_result(tmp_path: Path) -> None:
    """From the command line as people use it: directory given, faults and result taken, schedule performed."""
    schedule, result = tmp_path / "schedule.yaml", tmp_path / "result.json"
    schedule.write_text("- {at_s: 0, do: freeze, hosts: h3, for_s: 0.1}\n- {at_s: 0.1, do: power-off, hosts: 'h[3]'}\n")
    script = (
        f"PYTHONPATH={CHECKOUT} {sys.executable} -m ops.testbed fault power-off h2; "
        "until $0 -m ops.testbed fault status | grep -q 'off: h\\[2-3\\]'; do sleep 0.1; done; "
        "grep -o '\"h[0-9]*\": ' $PLUSH_DIRECTORY; cat; exit 5"
    )
    ran = subprocess.run(
        command_line("--hosts", "4", "--rtt", "zero", "--schedule", str(schedule), "--json", str(result), "--visible",
                     str(tmp_path), "--", "sh", "-c", script, sys.executable),
        input="from outside", capture_output=True, text=True, timeout=50, env=environment(), cwd=tmp_path, check=False,
    )  # fmt: skip
    assert ran.returncode == 5, ran
    assert ran.stdout.split() == ['"h1":', '"h2":', '"h3":', "from", "outside"]
    told = json.loads(result.read_text())
    assert told["exit_code"] == 5
    assert [fault["do"] for fault in told["faults"]] == ["freeze", "thaw", "power-off"]
    assert not [fault for fault in told["faults"] if "error" in fault]
    assert told["lag"]["packet_count"] >= 0
    assert not left_of(ran.stderr.split("id ")[1].split()[0])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_tells_the_command_and_leaves_nothing(number: signal.Signals) -> None:
    """The command gets the signal once and may tidy up; then all is taken down, and the exit code is the command's."""
    trap = "trap 'echo told; exit 9' INT TERM; echo ready; while :; do sleep 0.05; done"
    with _run_in_background("sh", "-c", trap) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=20)
    assert (out, process.returncode) == ("told\n", 9)
    assert not left_of(err.split("id ")[1].split()[0])


def test_nothing_is_left_after_the_harness_is_killed() -> None:
    """Nobody is there any more to take things down; they have to see to it themselves."""
    with _run_in_background("sh", "-c", "echo $TESTBED_CONTROL; ssh h1 'sleep 1004' & wait") as process:
        assert process.stdout is not None
        testbed = Path(process.stdout.readline().strip()).parent.name
        assert left_of(testbed)
        process.kill()
        process.communicate(timeout=20)
    wait_for(lambda: not left_of(testbed), "the keeper takes everything down")
    assert not [pid for pid in _pids() if "sleep 1004" in _command(pid)]


def test_the_next_start_cleans_what_a_killed_keeper_left() -> None:
    """Processes and mounts go with the keeper; folder and control groups are found by the next one."""
    with _run_in_background("sh", "-c", "echo $TESTBED_CONTROL; sleep 1005") as process:
        assert process.stdout is not None
        testbed = Path(process.stdout.readline().strip()).parent.name
        keeper = next(pid for pid in _pids() if "ops.testbed.keeper" in _command(pid) and _parent(pid) == process.pid)
        for pid in (process.pid, keeper):
            os.kill(pid, signal.SIGKILL)
        process.communicate(timeout=20)
    wait_for(lambda: not [pid for pid in _pids() if "sleep 1005" in _command(pid)], "the hosts end with the keeper")
    assert left_of(testbed), "this test shows nothing unless something is left"
    ran = subprocess.run(command_line("clean"), capture_output=True, text=True, env=environment(), check=False)
    assert testbed in ran.stderr
    assert not left_of(testbed)


def _run_in_background(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        command_line("--hosts", "2", "--rtt", "zero", "--", *command), stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        text=True, env=environment(), start_new_session=True,
    )  # fmt: skip


def _pids() -> list[int]:
    return [int(entry) for entry in os.listdir("/proc") if entry.isdigit()]


def _command(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        (Settings(3, sshd_options=("NoSuchOption yes",)), "h0: sshd .*NoSuchOption"),
        (Settings(3, visible=(Path("/no/such/place"),)), "no such path"),
        (Settings(3, rtt="/no/such/matrix"), "/no/such/matrix"),
        (Settings(3, fixture="slow-region"), "at least 4 hosts"),
        (Settings(2, pythons={1: "/no/such/python"}), "h1: there is no interpreter"),
    ],
    ids=["sshd option", "visible", "matrix", "fixture", "python"],
)
def test_what_cannot_be_made_is_said_and_leaves_nothing(settings: Settings, says: str) -> None:
    """An error that only says that something failed sends people to read the code."""
    testbed = Testbed(settings)
    with pytest.raises(TestbedError, match=says), testbed:
        pass
    assert not left_of(testbed.id)
