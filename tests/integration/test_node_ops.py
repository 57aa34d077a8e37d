"""Ops and the processes they stand for, on every Python, through the real node program over pipes.

A test plays the worker: it sends ops and signals, and looks at what comes and at what is left on the machine.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from plush_worker.node import frames, hostset, messages

from .ops_machine import ERR, OUT, Machine, Node, machine_with, processes_with, wait_for


@pytest.fixture
def machine(node_python: str, tmp_path: Path) -> Iterator[Machine]:
    with machine_with(node_python, tmp_path) as machine:
        yield machine


# What a command is and says


def test_output_states_and_ends(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, "echo hello; echo oops >&2; exit 3")
    assert (store.data[OUT], store.data[ERR]) == (b"hello\n", b"oops\n")
    assert [(state["state"], state["code"], state["signal"]) for state in store.states] == [
        ("started", None, None), ("exited", 3, None)]  # fmt: skip
    assert [piece[:3] for piece in store.pieces] == [(OUT, messages.END, 0), (ERR, messages.END, 0)]
    assert len(node.of(frames.STATE)) == 2


def test_a_process_that_dies_of_a_signal(machine: Machine) -> None:
    store = machine.node().run(1001, "kill -USR1 $$; sleep 600")
    assert store.final is not None
    assert (store.final["state"], store.final["code"], store.final["signal"]) == ("exited", None, signal.SIGUSR1)


def test_a_command_that_is_not_found_is_the_shells_matter(machine: Machine) -> None:
    store = machine.node().run(1001, "no-such-command-at-all")
    assert store.final is not None
    assert (store.final["state"], store.final["code"]) == ("exited", 127)
    assert b"not found" in store.data[ERR]


def test_the_environment_is_that_of_a_login_by_ssh(machine: Machine) -> None:
    # A shell that isn't bash adds nothing to what it was given
    code = "import os; print(sorted(os.environb)); print(os.getcwd()); print(os.getsid(0) == os.getpgid(0))"
    command = f"exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    environ = {"PATH": os.environ["PATH"], "HOME": str(Path.home()), "MY_WORD": "1"}
    path = f"{machine.home / 'bin'}:{os.environ['PATH']}"
    mark = {name: value for name, value in os.environ.items() if name.startswith("PLUSH_TEST_")}
    node = Node(mesh=machine.mesh, order=1000, env={**environ, **mark, "PATH": path}).begin(machine.stores)
    machine.nodes.append(node)
    store = node.run(1001, command, env={"GIVEN": "völlig"})
    names, folder, leads = store.data[OUT].decode().splitlines()
    added_by_bash = {b"_", b"SHLVL", b"PWD", b"OLDPWD", b"LC_CTYPE"}
    expected = {b"PATH", b"HOME", b"MY_WORD", b"GIVEN", b"PLUSH_HOST", *map(str.encode, mark)}
    assert set(eval(names)) - added_by_bash == expected
    assert (folder, leads) == (str(Path.home()), "True")


def test_the_shells_that_started_the_node_program_have_left_no_trace(machine: Machine) -> None:
    node = machine.node(env={"SHLVL": "7", "OLDPWD": "/somewhere"})
    store = node.run(1001, "echo $SHLVL $OLDPWD")
    assert store.data[OUT].strip() in (b"0", b"1")


def test_signals_are_as_a_login_finds_them_and_no_descriptor_is_passed_on(machine: Machine) -> None:
    store = machine.node().run(
        1001, "grep -E 'SigIgn|SigBlk' /proc/self/status; ls -l /proc/self/fd; readlink /proc/$$/fd/0"
    )
    text = store.data[OUT].decode()
    internal = 0b11 << 31  # signals of glibc's own, which its posix_spawn() ignores
    assert [int(line.split()[1], 16) & ~internal for line in text.splitlines()[:2]] == [0, 0]
    assert text.splitlines()[-1] == "/dev/null"
    assert len([line for line in text.splitlines() if " -> " in line]) == 4, text  # 0, 1, 2 and the one that lists


def test_bytes_of_any_kind_pass(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, rb"printf '\000\377\376 no newline'")
    assert store.data[OUT] == b"\x00\xff\xfe no newline"
    store = node.run(1002, b"printf %s '\xff\xc3'")
    assert store.data[OUT] == b"\xff\xc3"


def test_a_command_that_cannot_be_passed_on_fails(machine: Machine) -> None:
    node = machine.node()
    store = node.run(1001, b"echo a\0b")
    assert store.final is not None
    assert store.final["state"] == "failed"
    store = node.run(1002, "true", env={"A=B": "1"})
    assert store.final is not None
    assert store.final["state"] == "failed"
    store = node.run(1003, "true #" + "x" * 200_000)
    assert store.final is not None
    assert (store.final["state"], "too long" in store.final["detail"]) == ("failed", True)
    assert [state["state"] for state in store.states] == ["failed"]
    assert node.run(1004, "echo fine").data[OUT] == b"fine\n"


def test_output_that_pauses_comes_at_once(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"printf one; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"one")
    assert store.final is None
    node.signal(1002, 1001, signal.SIGKILL)
    node.complete(1001)


def test_output_without_a_pause_comes_too(machine: Machine) -> None:
    node = machine.node()
    code = "import os,time\nfor n in range(100000): os.write(1, b'.'); time.sleep(0.005)"
    store = node.op(1001, machine.python_code(code))
    node.wait(lambda _: len(store.data[OUT]) > 10, 5)
    node.signal(1002, 1001, signal.SIGKILL)
    node.complete(1001)


def test_the_end_of_output_waits_for_everyone_who_holds_the_pipe(machine: Machine) -> None:
    node = machine.node()
    gate = machine.home / "gate"
    os.mkfifo(gate)
    store = node.op(1001, f"(read -r line < {gate}; echo later) & echo now")
    node.wait(lambda _: store.final is not None)
    assert not store.ended[OUT]
    gate.write_text("go\n")
    node.complete(1001)
    assert store.data[OUT] == b"now\nlater\n"


# Much output


def test_100_mb_of_binary_output_and_a_bounded_supervisor(machine: Machine) -> None:
    node = machine.node()
    code = (
        "import hashlib,os\nblock = b''.join(hashlib.sha256(b'%d' % n).digest() for n in range(4096))\n"
        "h = hashlib.sha256()\nfor n in range(800):\n"
        "  p = block[n * 7:] + block[:n * 7]\n  h.update(p)\n  v = memoryview(p)\n"
        "  while v: v = v[os.write(1, v):]\n"
        "os.write(2, h.hexdigest().encode())\n"
    )
    store = node.op(1001, machine.python_code(code))
    store.keeps = False
    wait_for((node.folder / "op-1001.sock").exists, "the supervisor")
    supervisor = machine.supervisor(1001)
    node.complete(1001, 60)
    assert store.offset[OUT] == 800 * 131072
    assert store.digest[OUT].hexdigest() == store.data[ERR].decode()
    status = Path(f"/proc/{supervisor}/status").read_text()
    peak_kb = int(status.partition("VmHWM:")[2].split()[0])
    assert peak_kb < 40_000, f"the supervisor grew to {peak_kb} kB"


def test_nobody_acknowledges_then_the_process_waits_and_nothing_is_lost(machine: Machine) -> None:
    node = machine.node()
    node.acknowledges = False
    store = node.op(1001, "head -c 30000000 /dev/zero | tr '\\0' x; echo done >&2")
    store.keeps = False
    node.wait(lambda _: store.offset[OUT] > 7_000_000)
    while node.read(0.5):
        pass
    assert store.offset[OUT] < 10_000_000
    assert not store.data[ERR]
    node.acknowledges = True
    node.acknowledge(1001)
    node.complete(1001)
    assert store.offset[OUT] == 30_000_000


def test_nobody_reads_then_a_kill_still_comes_through(machine: Machine) -> None:
    node = machine.node(credits=False, window=1 << 17)
    store = node.op(1001, f"exec -a {machine.mark} yes")
    store.keeps = False
    wait_for(lambda: processes_with(machine.mark), "yes runs")
    while node.read(0.3):
        pass
    node.signal(1002, 1001, signal.SIGKILL)
    wait_for(lambda: not processes_with(machine.mark), "yes is killed")
    while not store.complete:
        node.write(frames.encode(frames.CREDIT, b"", messages.encode_credit(node.bulk_bytes)))
        assert node.read()
    assert store.final is not None
    assert store.final["state"] == "killed"


# Stops


def test_a_kill_with_grace_lets_the_process_end_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "trap 'echo bye; exit 0' TERM; echo up; while :; do sleep 0.05; done")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001)
    node.complete(1001)
    assert store.data[OUT] == b"up\nbye\n"
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 15, "signal")


RUNAWAYS = """
import os, signal, sys, time
def spawn(action):
    if not os.fork():
        action()
        time.sleep(600)
        os._exit(0)
signal.signal(signal.SIGTERM, signal.SIG_IGN)
signal.signal(signal.SIGHUP, signal.SIG_IGN)
spawn(lambda: None)
spawn(os.setsid)
def double():
    os.setsid()
    if os.fork(): os._exit(0)
spawn(double)
spawn(lambda: os.execve(sys.executable, [sys.executable, '-c', 'import time; time.sleep(600)', sys.argv[1]], {}))
def respawn():
    os.setsid()
    while True:
        pid = os.fork()
        if not pid: time.sleep(600)
        os.waitpid(pid, 0)
spawn(respawn)
print('up', flush=True)
time.sleep(600)
"""


def test_a_kill_ends_every_descendant_however_it_detached_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, machine.python_code(RUNAWAYS))
    node.wait(lambda _: store.data[OUT] == b"up\n")
    wait_for(lambda: len(processes_with(machine.mark)) >= 7, "all runaways are there")
    node.signal(1002, 1001, grace_ms=100)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"]) == ("killed", signal.SIGKILL)
    wait_for(lambda: not processes_with(machine.mark), "all runaways are gone", 2)


def test_a_kill_also_ends_what_a_finished_command_has_left(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"(setsid bash -c {shlex.quote(machine.sleeper())} &) ; echo left")
    node.wait(lambda _: store.final is not None)
    assert not store.ended[OUT]
    node.signal(1002, 1001, grace_ms=50)
    node.complete(1001)
    assert store.final["state"] == "exited" if store.final else False
    wait_for(lambda: not processes_with(machine.mark), "the daemon is gone", 2)


def test_a_plain_signal_ends_nothing_by_itself(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "trap 'echo got it' USR1; echo up; for i in $(seq 20); do sleep 0.05; done; exit 7")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001, signal.SIGUSR1, grace_ms=-1)
    node.wait(lambda _: store.data[OUT] == b"up\ngot it\n")
    node.signal(1002, 1001, signal.SIGUSR1, grace_ms=-1)
    node.complete(1001)
    assert store.data[OUT] == b"up\ngot it\n", "a repeated signal op is performed once"
    assert store.final is not None
    assert (store.final["state"], store.final["code"]) == ("exited", 7)


def test_a_plain_signal_that_is_deadly(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, f"echo up; {machine.sleeper()}")
    node.wait(lambda _: store.data[OUT] == b"up\n")
    node.signal(1002, 1001, signal.SIGHUP, grace_ms=-1)
    node.complete(1001)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 1, "signal")


KEEPER = """
import socket, sys, time
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
connection = listener.accept()[0]
kept = connection.recvmsg(1, 100)
connection.send(b"x")
time.sleep(600)
"""


def test_an_escaped_holder_of_the_pipe_does_not_hold_the_end(machine: Machine) -> None:
    node = machine.node()
    socket_path = machine.home / "s"
    keeper = subprocess.Popen([sys.executable, "-c", KEEPER, str(socket_path)])
    try:
        wait_for(socket_path.exists, "the keeper listens")
        code = (
            "import array,socket,sys,time\ns=socket.socket(socket.AF_UNIX)\n"
            f"s.connect({str(socket_path)!r})\n"
            "s.sendmsg([b'x'],[(socket.SOL_SOCKET,socket.SCM_RIGHTS,array.array('i',[1]))])\ns.recv(1)\n"
            "print('passed on',flush=True)\ntime.sleep(600)"
        )
        store = node.op(1001, machine.python_code(code))
        node.wait(lambda _: store.data[OUT] == b"passed on\n")
        node.signal(1002, 1001, signal.SIGKILL)
        node.complete(1001, 10)
    finally:
        keeper.kill()
        keeper.wait()


def test_a_timeout(machine: Machine) -> None:
    store = machine.node().run(1001, f"echo up; {machine.sleeper()}", timeout_s=1)
    assert store.final is not None
    assert (store.final["state"], store.final["signal"], store.final["detail"]) == ("killed", 15, "timeout")


def test_the_time_to_live_ends_ops_without_an_owner(machine: Machine) -> None:
    node = machine.node()
    stores = [node.op(op, f"echo up; {machine.sleeper(op)}", ttl_s=1) for op in (1001, 1002)]
    daemon = node.op(1003, f"setsid bash -c {shlex.quote(machine.sleeper())} > /dev/null 2>&1 & echo left", ttl_s=1)
    node.wait(lambda _: daemon.complete and all(store.data[OUT] == b"up\n" for store in stores))
    node.kill()
    wait_for(lambda: not processes_with(machine.mark), "all that the ops have started is ended")
    wait_for(lambda: not node.folder.exists(), "the last supervisor has removed the state folder")


def test_the_owners_beat_keeps_an_op_alive(machine: Machine) -> None:
    node = machine.node()
    store = node.op(1001, "sleep 3; echo lived", ttl_s=2)
    deadline = time.monotonic() + 15
    while not store.complete and time.monotonic() < deadline:
        node.send(frames.BEAT, [node.host])
        node.read(0.3)
    assert store.data[OUT] == b"lived\n"
    assert store.final is not None
    assert store.final["state"] == "exited"
    node.wait(lambda _: not processes_with(machine.mark))


# At most once


def test_a_repeated_op_starts_once(machine: Machine) -> None:
    node = machine.node()
    for _ in range(3):
        node.op(1001, "echo once")
    node.complete(1001)
    node.op(1001, "echo once")
    node.close_ops(1001)
    node.op(1001, "echo once")
    node.run(1002, "echo next")
    assert node.stores[1001].data[OUT] == b"once\n"
    assert [frame.fields["state"] for frame in node.of(frames.STATE)] == ["started", "exited"] * 2


def test_an_op_from_before_the_admission_is_unknown(machine: Machine) -> None:
    node = machine.node()
    store = node.op(999, "touch " + str(machine.home / "never"))
    node.wait(lambda _: store.final is not None)
    assert store.final is not None
    assert store.final["state"] == "unknown"
    node.run(1001, "true")
    assert not (machine.home / "never").exists()


def test_a_kill_that_comes_before_its_op_prevents_it(machine: Machine) -> None:
    node = machine.node()
    node.signal(1003, 1002)
    store = node.run(1002, "touch " + str(machine.home / "never"))
    assert store.final is not None
    assert (store.final["state"], store.final["signal"]) == ("killed", 15)
    node.run(1001, "true")
    assert not (machine.home / "never").exists()


def test_bodies_that_are_no_messages_are_dropped(machine: Machine) -> None:
    node = machine.node()
    sound = {"op": 1005, "command": b"", "env": {}, "ttl_s": 1, "timeout_s": 0}
    unsound = [{"op": "x"}, sound | {"op": -5}, sound | {"env": {"a": 1}}]
    for body in (b"", b"\xff" * 50, *map(messages.pack, unsound)):
        for kind in (frames.OP, frames.SIGNAL, frames.ACK, frames.CLOSE):
            node.write(frames.encode(kind, hostset.encode(hostset.of([node.host])), body))
    node.send(frames.SIGNAL, [node.host], op=1003, ref=1002, signal=9999, grace_ms=0)
    node.send(frames.CLOSE, [node.host], ops=["x", None])
    assert node.run(1010, "echo fine").data[OUT] == b"fine\n"
    assert "dropped" in node.logs()
