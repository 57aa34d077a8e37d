"""What the README shows of the service is run as it stands there, on local hosts in place of its own."""

from __future__ import annotations

import re
import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from plush_api.local_hosts import LocalHosts

ROOT = Path(__file__).parents[2]
HOSTS_COUNT = 4
LIMIT_S = 50.0
OURS = {"node[1-16].example.org": f"node[1-{HOSTS_COUNT}]", "@lab": f"node[1-{HOSTS_COUNT}]"}


def shown(first: str) -> list[list[str]]:
    """The words of the commands of the README's block that begins with ``first``."""
    text = (ROOT / "README.md").read_text()
    block = text[text.index(f"    {first}") :].partition("\n\n")[0]
    lines = [line.partition(" # ")[0].strip() for line in block.splitlines()]
    words = [shlex.split(line) for line in lines]
    assert all(line[0] == "plush" for line in words), block
    return [[OURS.get(word, word) for word in line[1:]] for line in words]


@pytest.fixture(scope="module")
def service(local_hosts: Callable[..., LocalHosts], module_plush: Any) -> Iterator[Any]:
    hosts = local_hosts(HOSTS_COUNT)
    module_plush.environ["PLUSH_DIRECTORY"] = str(hosts.directory)
    shutil.copytree(ROOT / "examples", module_plush.folder / "examples")
    path = module_plush.folder / "examples" / "uptime.yaml"
    path.write_text(re.sub(r"^hosts: .*$", f"hosts: node[1-{HOSTS_COUNT}]", path.read_text(), flags=re.MULTILINE))
    (up,) = (line for line in shown("plush up --workers 2") if line[0] == "up")
    process = module_plush.start(*up, "--no-flower")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    yield module_plush
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def test_an_experiment_from_file_to_result(service: Any) -> None:
    """The first thing that a newcomer tries must not fail."""
    for words in shown("plush validate"):
        ran = service(*words)
        assert ran.returncode == 0, f"plush {shlex.join(words)}: {ran.stdout}{ran.stderr}"
        if words[0] == "submit":
            assert ran.stdout.count("load average") == HOSTS_COUNT


def test_files_go_out_and_come_back(service: Any) -> None:
    (service.folder / "program.py").write_text("print('hello')\n")
    (service.folder / "data").mkdir()
    (service.folder / "data" / "numbers").write_text("1 2 3\n")
    deploy, fetch = shown("plush deploy")
    assert (ran := service(*deploy)).returncode == 0, ran.stderr
    made = service("run", "-w", f"node[1-{HOSTS_COUNT}]", "--", "python3 experiment/program.py > experiment/log")
    assert made.returncode == 0, made.stderr
    assert (ran := service(*fetch)).returncode == 0, ran.stderr
    for host in range(1, HOSTS_COUNT + 1):
        assert (service.folder / "results" / f"node{host}" / "log").read_text() == "hello\n"
