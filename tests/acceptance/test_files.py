"""``plush deploy`` and ``plush fetch`` as a person uses them, against real sshd in a tree."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts

from .test_inner_kill import _inner_node_program


@pytest.fixture(scope="module")
def hosts(local_hosts: Callable[..., LocalHosts]) -> LocalHosts:
    return local_hosts(4, slice_settings={"planner": "kary", "degree": 2})


@pytest.fixture(scope="module")
def service(module_plush: Any, hosts: LocalHosts) -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """``service(COMMAND, WORDS)`` runs a command on the four hosts of a standing service; ``names=`` names others."""
    up = module_plush.start("up", "--no-flower")
    assert up.stdout is not None
    for line in up.stdout:
        if line.startswith("ready"):
            break
    else:
        pytest.fail(f"plush up ended: {up.stderr.read()}")

    def run(command: str, *words: str, names: str = hosts.names, **more: Any) -> subprocess.CompletedProcess[str]:
        options = ("-w", names, "--directory", str(hosts.directory), "--slice", "local")
        done: subprocess.CompletedProcess[str] = module_plush(command, *options, *words, **more)
        return done

    yield run
    assert module_plush("mesh", "down").returncode == 0
    left = hosts.wait_quiet(10.0)
    assert not left, left


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A directory with everything that is to be kept: permissions, an empty directory, links, an empty file."""
    top = tmp_path / "tree"
    (top / "deep" / "er").mkdir(parents=True)
    (top / "empty").mkdir(mode=0o700)
    (top / "deep" / "er" / "data").write_bytes(os.urandom(3_000_000))
    (top / "run.sh").write_text("#!/bin/sh\necho ran\n")
    (top / "run.sh").chmod(0o755)
    (top / "secret").write_text("")
    (top / "secret").chmod(0o600)
    (top / "sp ace\n$(x)").write_text("odd name")
    (top / "link").symlink_to("deep/er/data")
    (top / "dangling").symlink_to("/no/where")
    return top


def content(top: Path) -> dict[str, tuple[str, str]]:
    """Path below -> (kind and permissions, what is in it)."""
    found = {}
    for path in sorted(top.rglob("*")):
        name = str(path.relative_to(top))
        if path.is_symlink():
            found[name] = ("link", os.readlink(path))
        else:
            kind = "dir" if path.is_dir() else "file"
            data = "" if path.is_dir() else hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (f"{kind} {path.stat().st_mode & 0o7777:o}", data)
    return found


def parts(*folders: Path) -> list[Path]:
    """Half-written files."""
    return [path for folder in folders for path in folder.rglob(".plush-*.part")]


def test_a_directory_goes_there_and_comes_back(service: Any, hosts: LocalHosts, tree: Path, tmp_path: Path) -> None:
    done = service("deploy", str(tree), "~/sent")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for host in hosts.hosts.values():
        assert content(host.home / "sent") == content(tree)
    done = service("fetch", "~/sent", str(tmp_path / "back"))
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    for name in hosts.hosts:
        assert content(tmp_path / "back" / name / "sent") == content(tree)
    assert not parts(tmp_path, *homes(hosts))


def test_several_sources_go_into_a_place_of_each_host(service: Any, hosts: LocalHosts, tree: Path) -> None:
    done = service("deploy", str(tree / "run.sh"), str(tree / "deep"), "~/{host}/{index}")
    assert done.returncode == 0, done
    for index, (name, host) in enumerate(hosts.hosts.items()):
        top = host.home / name / str(index)
        assert {path.name for path in top.iterdir()} == {"run.sh", "deep"}
        assert subprocess.run([top / "run.sh"], check=True, capture_output=True).stdout == b"ran\n"


def test_a_second_deploy_replaces_files_and_leaves_the_rest(service: Any, hosts: LocalHosts, tree: Path) -> None:
    first = hosts.hosts["node1"].home / "again"
    assert service("deploy", str(tree), "~/again", names="node1").returncode == 0
    (first / "own").write_text("made there")
    first.chmod(0o711)
    (tree / "run.sh").write_text("#!/bin/sh\necho new\n")
    assert service("deploy", str(tree), "~/again", names="node1").returncode == 0
    assert (first / "run.sh").read_text() == "#!/bin/sh\necho new\n"
    assert (first / "own").read_text() == "made there"
    assert first.stat().st_mode & 0o7777 == 0o711, "a directory that was there keeps its permissions"


def test_a_host_that_cannot_take_a_file_is_named_and_the_others_have_it(
    service: Any, hosts: LocalHosts, tree: Path
) -> None:
    (hosts.hosts["node2"].home / "place").mkdir()
    done = service("deploy", str(tree / "run.sh"), "~/place")
    assert done.returncode == 126
    where = hosts.hosts["node2"].home / "place"
    assert f"node2: {where}: there is a directory of that name" in done.stderr.splitlines()
    assert "plush: node2: failed: its files could not be put there" in done.stderr.splitlines()
    assert (hosts.hosts["node3"].home / "place").read_text() == (tree / "run.sh").read_text()
    done = service("deploy", "--json", str(tree / "run.sh"), "~/place", names="node[1-2],nosuch")
    assert done.returncode == 255
    *found, last = map(json.loads, done.stdout.splitlines())
    by_name = {result["host"]: result for result in found}
    assert by_name["node1"]["state"] == "exited"
    assert (by_name["node2"]["state"], by_name["nosuch"]["state"]) == ("failed", "unreachable")
    assert "there is a directory of that name" in by_name["node2"]["stderr"]
    assert last["summary"]["failed"] == last["summary"]["ok"] == last["summary"]["unreachable"] == 1


def test_what_is_missing_on_one_host_is_told_and_the_rest_comes(
    service: Any, hosts: LocalHosts, tmp_path: Path
) -> None:
    for name, host in hosts.hosts.items():
        (host.home / "result").write_text(f"of {name}")
    (hosts.hosts["node3"].home / "result").unlink()
    done = service("fetch", "~/result", str(tmp_path / "results"))
    assert done.returncode == 1
    assert f"node3: {hosts.hosts['node3'].home}/result: No such file or directory" in done.stderr.splitlines()
    assert sorted(path.parent.name for path in tmp_path.rglob("result")) == ["node1", "node2", "node4"]
    assert (tmp_path / "results" / "node4" / "result").read_text() == "of node4"
    done = service("fetch", "--json", "~/result", str(tmp_path / "more"), names="node[3-4]")
    third, fourth, last = sorted(map(json.loads, done.stdout.splitlines()), key=lambda line: line.get("host", "z"))
    assert (third["code"], third["files"]) == (1, 0)
    assert "No such file" in third["error"]
    assert (fourth["code"], fourth["files"], fourth["bytes"], fourth["error"]) == (0, 1, 8, "")
    assert last["summary"]["nonzero"] == 1


def test_a_place_here_that_cannot_be_written_is_told(service: Any, hosts: LocalHosts, tmp_path: Path) -> None:
    (hosts.hosts["node1"].home / "result").write_text("data")
    (tmp_path / "out" / "node1" / "result").mkdir(parents=True)
    done = service("fetch", "~/result", str(tmp_path / "out"), names="node1")
    assert done.returncode == 1
    assert "plush: node1: result: Is a directory" in done.stderr.splitlines()
    (tmp_path / "file").touch()
    assert service("fetch", "~/result", str(tmp_path / "file"), names="node1").returncode == 2


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["deploy", "only"], "needs SRC and DEST"),
        (["fetch", "only"], "needs SRC and DESTDIR"),
        (["deploy", "/no/such", "/no/either", "x"], "/no/such: No such file"),
        (["deploy", "/dev/null", "x"], "neither a file nor a directory nor a link"),
        (["deploy", "/etc/passwd", "a/../../b"], "no place on the hosts"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_run(service: Any, words: list[str], says: str) -> None:
    done = service(*words)
    assert done.returncode == 2
    assert says in done.stderr


def test_an_interrupted_deploy_leaves_nothing_half_written(
    module_plush: Any, service: Any, hosts: LocalHosts, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    with big.open("wb") as file:
        file.truncate(2 << 30)
    options = ("-w", hosts.names, "--directory", str(hosts.directory), "--slice", "local")
    process = module_plush.start("deploy", *options, str(big), "~/big")
    _wait(lambda: len(parts(*homes(hosts))) == len(hosts.hosts), process)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=40)
    assert process.returncode == 130, said
    assert not parts(*homes(hosts))
    assert not [home for home in homes(hosts) if (home / "big").exists()]


def test_an_inner_node_program_is_killed_in_the_middle(
    module_plush: Any, service: Any, hosts: LocalHosts, tmp_path: Path
) -> None:
    big = tmp_path / "big"
    big.write_bytes(os.urandom(40_000_000))
    options = ("-w", hosts.names, "--directory", str(hosts.directory), "--slice", "local")
    process = module_plush.start("deploy", *options, str(big), "~/big")
    _wait(lambda: len(parts(*homes(hosts))) == len(hosts.hosts), process)
    os.kill(_inner_node_program(hosts), signal.SIGKILL)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    for home in homes(hosts):
        assert (home / "big").read_bytes() == big.read_bytes()
        (home / "big").unlink()
    assert not parts(*homes(hosts))


def test_it_needs_no_service(plush: Any, hosts: LocalHosts, tree: Path, tmp_path: Path) -> None:
    where = ("-w", "node[3-4]", "--directory", str(hosts.directory), "--slice", "local")
    done = plush("deploy", *where, str(tree), "~/alone")
    assert (done.returncode, done.stderr) == (0, "")
    done = plush("fetch", *where, "~/alone", str(tmp_path / "back"))
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("node3", "node4"):
        assert content(tmp_path / "back" / name / "alone") == content(tree)


def test_an_experiment_has_files_folder_and_standard_input(
    module_plush: Any, service: Any, hosts: LocalHosts, tmp_path: Path
) -> None:
    data = os.urandom(3_000_000)
    (tmp_path / "input").write_bytes(data)
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "count.sh").write_text("#!/bin/sh\necho $PLUSH_INDEX of $PLUSH_HOSTS_COUNT $(sha256sum)\n")
    (tmp_path / "work" / "count.sh").chmod(0o755)
    (tmp_path / "exp.yaml").write_text(
        f"""
slice: local
hosts: {hosts.names}
files:
  - {{src: work, dest: "~/{{host}}/work"}}
processes:
  - {{name: count, command: ./count.sh, cwd: "~/{{host}}/work", stdin: input}}
"""
    )
    done = module_plush(
        "submit", "--watch", "--json", "--directory", str(hosts.directory), str(tmp_path / "exp.yaml"), timeout_s=60
    )
    assert done.returncode == 0, done
    digest = hashlib.sha256(data).hexdigest()
    for index in range(4):
        assert f"{index} of 4 {digest} -" in done.stdout


def test_the_same_through_a_service_elsewhere(
    module_plush: Any, service: Any, hosts: LocalHosts, tree: Path, tmp_path: Path
) -> None:
    known = json.loads((module_plush.folder / "r" / "plush" / "service.json").read_text())
    (module_plush.folder / "c" / "plush").mkdir(exist_ok=True)
    (module_plush.folder / "c" / "plush" / "hosts.yaml").write_text(hosts.directory.read_text())
    env = {"PLUSH_URL": known["api_url"], "PLUSH_TOKEN_FILE": known["token_file"]}
    where = ("-w", "node[1-2]", "--slice", "local")
    done = module_plush("deploy", *where, str(tree), "~/far", env=env)
    assert (done.returncode, done.stderr) == (0, "")
    done = module_plush("fetch", *where, "~/far", str(tmp_path / "back"), env=env)
    assert (done.returncode, done.stderr) == (0, "")
    for name in ("node1", "node2"):
        assert content(tmp_path / "back" / name / "far") == content(tree)
    done = module_plush("deploy", *where, "--directory", str(hosts.directory), str(tree), "~/x", env=env)
    assert done.returncode == 2
    assert "where the service runs" in done.stderr


def homes(hosts: LocalHosts) -> list[Path]:
    return [host.home for host in hosts.hosts.values()]


def _wait(condition: Callable[[], bool], process: subprocess.Popen[str], deadline_s: float = 30.0) -> None:
    deadline = time.monotonic() + deadline_s
    while not condition():
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            pytest.fail(f"it did not come to that: {process.communicate()}")
        time.sleep(0.01)
