"""``plush run`` as a person uses it, against real sshd: forms of output, exit codes, limits of output."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts]) -> LocalHosts:
    return local_hosts(4)


@pytest.fixture(scope="module")
def service(module_plush: Any, hosts: LocalHosts) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """``service(WORDS)`` runs ``plush run`` on the four hosts of a standing service; ``hosts=`` names others."""
    up = module_plush.start("up", "--no-flower")
    assert up.stdout is not None
    for line in up.stdout:
        if line.startswith("ready"):
            break
    else:
        pytest.fail(f"plush up ended: {up.stderr.read()}")

    def run(*words: str, names: str = hosts.names, **more: Any) -> subprocess.CompletedProcess[str]:
        done: subprocess.CompletedProcess[str] = module_plush(
            "run", "-w", names, "--directory", str(hosts.directory), *words, **more
        )
        return done

    yield run
    assert module_plush("mesh", "down").returncode == 0
    left = hosts.wait_quiet(10.0)
    assert not left, left


def results(done: subprocess.CompletedProcess[str]) -> tuple[dict[str, dict[str, Any]], dict[str, Any]]:
    """(host -> its object, the summary) of ``--json``."""
    *found, last = map(json.loads, done.stdout.splitlines())
    counts = last["summary"]
    assert counts["hosts"] == len(found) == sum(v for k, v in counts.items() if not k.endswith("_s") and k != "hosts")
    return {result["host"]: result for result in found}, counts


# Forms of output


def test_lines_are_prefixed_and_streams_are_apart(service: Any) -> None:
    done = service("--", "echo", "one;", "echo two >&2; echo three")
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.splitlines()) == sorted(f"node{n}: {w}" for n in range(1, 5) for w in ("one", "three"))
    assert sorted(done.stderr.splitlines()) == [f"node{n}: two" for n in range(1, 5)]


def test_the_command_is_the_login_shells(service: Any) -> None:
    done = service("-N", "echo", "$((6*7))", "'a  b'", "|", "tr", "a-z", "A-Z", names="node1")
    assert done.stdout == "42 A  B\n"


def test_standard_input_is_empty(service: Any) -> None:
    done = service("--", "cat; readlink /proc/self/fd/0", stdin="for somebody else", names="node1")
    assert done.stdout == "node1: /dev/null\n"


def test_gathered(service: Any) -> None:
    done = service("-b", 'test "${SSH_CONNECTION##* }" && echo same')
    assert done.stdout == "---------------\nnode[1-4] (4)\n---------------\nsame\n"
    own = "echo ${SSH_CONNECTION% *}; echo err >&2"
    done = service("-B", own)
    assert done.stdout.count("err\n") == 4 and not done.stderr


def test_in_order_without_prefix_and_into_files(service: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    own = "set -- $SSH_CONNECTION; echo $3; echo err >&2"
    done = service("-L", "--outdir", str(tmp_path / "out"), own)
    assert done.stdout == "".join(f"{name}: {host.address}\n" for name, host in hosts.hosts.items())
    for name, host in hosts.hosts.items():
        assert (tmp_path / "out" / name).read_text() == f"{host.address}\n"
        assert (tmp_path / "out" / f"{name}.stderr").read_text() == "err\n"
    done = service("-N", own)
    assert sorted(done.stdout.splitlines()) == sorted(host.address for host in hosts.hosts.values())


def test_json(service: Any) -> None:
    done = service("--json", "echo out; printf '\\377' >&2; exit 3", names="node1,nosuch")
    found, counts = results(done)
    assert found["node1"] == {
        "host": "node1", "state": "exited", "code": 3, "signal": None, "error": "",
        "stdout": "out\n", "stderr_b64": base64.b64encode(b"\xff").decode(),
    }  # fmt: skip
    assert found["nosuch"]["state"] == "unreachable"
    assert (counts["nonzero"], counts["unreachable"], done.returncode) == (1, 1, 255)
    assert 0 <= counts["connect_s"] <= counts["wall_s"]


# Exit codes


@pytest.mark.parametrize(
    ("command", "options", "code", "says"),
    [
        ("exit 0", [], 0, ""),
        ("exit 7", [], 7, "node[1-4]: exit code 7"),
        ("kill -9 $$", [], 137, "node[1-4]: ended by signal 9"),
        ("sleep 60", ["-u", "1"], 124, "node[1-4]: killed: time limit reached"),
        ("no-such-command-anywhere", [], 127, "node[1-4]: exit code 127"),
    ],
)
def test_exit_codes(service: Any, command: str, options: list[str], code: int, says: str) -> None:
    done = service(*options, command)
    assert done.returncode == code
    assert says in done.stderr


def test_the_largest_code_and_who_had_it(service: Any, hosts: LocalHosts) -> None:
    last = hosts.hosts["node4"].address
    done = service(f'case $SSH_CONNECTION in *" {last} "*) exit 9;; *) exit 2;; esac')
    assert done.returncode == 9
    assert {"plush: node[1-3]: exit code 2", "plush: node4: exit code 9"} <= set(done.stderr.splitlines())


# How


def test_a_forced_tree_that_cannot_be_is_said_to_be_flat(service: Any) -> None:
    done = service("--planner", "kary", "--", "true", names="node[1-2]")
    assert done.returncode == 0
    assert "planner kary" in done.stderr and "the tree is flat" in done.stderr


def test_together_on_a_standing_mesh(service: Any) -> None:
    assert service("date").returncode == 0
    done = service("--together", "-b", "echo x")
    assert done.returncode == 0 and "node[1-4] (4)" in done.stdout


def test_a_mesh_that_stands_can_be_brought_up_again(module_plush: Any, hosts: LocalHosts, service: Any) -> None:
    assert service("date").returncode == 0
    done = module_plush("mesh", "up", "-w", hosts.names, "--directory", str(hosts.directory))
    assert (done.returncode, done.stdout) == (0, "4/4 up\n"), done.stderr
    (mesh,) = map(json.loads, module_plush("mesh", "ls", "--json").stdout.splitlines())
    assert (mesh["up"], mesh["state"]) == (4, "standing")


def test_a_limit_of_hosts_at_once(service: Any, tmp_path: Path) -> None:
    marks = tmp_path / "marks"
    marks.mkdir()
    command = f"touch {marks}/$$; ls {marks} | wc -l; sleep 0.3; rm {marks}/$$"
    done = service("-N", "-f", "1", command)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1"] * 4


# Output that is unwieldy, beside a host whose output must stand


def only_on_the_first(hosts: LocalHosts, command: str) -> str:
    """``command`` on node1; the others say "fine"."""
    address = hosts.hosts["node1"].address
    return f'case $SSH_CONNECTION in *" {address} "*) {command};; *) echo fine;; esac'


def test_a_hundred_megabytes_of_binary(service: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    key = "openssl enc -aes-128-ctr -nosalt -K 00112233445566778899aabbccddeeff -iv 0 2>/dev/null"
    make = f"head -c 100000000 /dev/zero | {key}"
    expected = hashlib.sha256(subprocess.run(make, shell=True, capture_output=True, check=True).stdout).hexdigest()
    done = service(
        "--json", "--outdir", str(tmp_path), only_on_the_first(hosts, make), names="node[1-2]", timeout_s=120
    )
    found, _ = results(done)
    assert found["node2"]["stdout"] == "fine\n"
    assert found["node1"]["stdout_bytes"] == 100_000_000
    with open(found["node1"]["stdout_file"], "rb") as file:
        assert hashlib.file_digest(file, "sha256").hexdigest() == expected
    assert done.returncode == 0


def test_json_beyond_a_mebibyte_without_a_folder(service: Any, module_plush: Any) -> None:
    found, _ = results(service("--json", "head -c 2000000 /dev/zero", names="node1"))
    path = Path(found["node1"]["stdout_file"])
    assert path.is_relative_to(module_plush.folder)
    assert path.stat().st_size == found["node1"]["stdout_bytes"] == 2_000_000


def test_a_line_of_fifty_megabytes(service: Any, hosts: LocalHosts) -> None:
    make = "head -c 50000000 /dev/zero | tr '\\0' x"
    done = service(only_on_the_first(hosts, make), names="node[1-3]", timeout_s=120)
    assert done.returncode == 0, done.stderr
    lines = sorted(done.stdout.split("\n"), key=len)
    assert lines[0] == "" and sorted(lines[1:3]) == ["node2: fine", "node3: fine"]
    assert len(lines) == 4
    assert (len(lines[3]), lines[3].rstrip("x")) == (50_000_007, "node1: "), "the line was cut, or is not its own"


def test_bytes_that_are_no_text(service: Any, hosts: LocalHosts) -> None:
    done = service(only_on_the_first(hosts, "printf 'a\\377\\200\\000b\\n'"), names="node[1-2]")
    assert sorted(done.stdout.splitlines()) == ["node1: a\udcff\udc80\0b", "node2: fine"]
    assert service("-N", "printf 'a\\377b'", names="node1").stdout == "a\udcffb"


def test_bytes_that_are_no_text_in_the_command(service: Any) -> None:
    assert service("-N", "printf '%s' 'ü\udcff'", names="node1").stdout == "ü\udcff"


def test_a_reader_that_leaves(service: Any, module_plush: Any, hosts: LocalHosts) -> None:
    words = ["run", "-w", hosts.names, "--directory", str(hosts.directory), "yes marker-of-a-reader"]
    process = module_plush.start(*words)
    assert process.stdout is not None
    assert process.stdout.readline().endswith(": marker-of-a-reader\n")
    process.stdout.close()
    assert process.wait(30) == 141
    assert not [p for p in hosts.processes() if "marker-of-a-reader" in p.command and p.command.startswith("yes")]
