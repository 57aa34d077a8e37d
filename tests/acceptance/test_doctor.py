"""``plush doctor`` as a person uses it: on a machine that is well, and on one that isn't."""

from __future__ import annotations

import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from plush_api.local_hosts import LocalHosts
from plush_worker.store.address import Address
from plush_worker.store.server import start_server

LIMIT_S = 40.0


def findings(plush: Any, *options: str, env: dict[str, str] | None = None) -> tuple[int, dict[str, dict[str, Any]]]:
    """(exit code, check -> its worst finding)."""
    ran = plush("doctor", "--json", *options, env=env)
    assert ran.stderr == "", ran.stderr
    found: dict[str, dict[str, Any]] = {}
    for line in ran.stdout.splitlines():
        finding = json.loads(line)
        if found.get(finding["check"], {}).get("state") != "problem":
            found[finding["check"]] = finding
    return ran.returncode, found


def test_all_is_well_with_a_service_and_hosts(plush: Any, local_hosts: Callable[..., LocalHosts]) -> None:
    hosts = local_hosts(2)
    process = plush.start("up", "--no-flower")
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith("ready"):
            break
    code, found = findings(plush, "-w", "node[1-2]", "--directory", str(hosts.directory))
    assert code == 0, found
    assert {"redis", "redis durability", "clock", "workers", "open files", "state folder", "ssh", "hosts"} <= set(found)
    assert found["workers"]["detail"].startswith("1 with 0 hosts")
    assert found["hosts"]["detail"] == "2 of 2 can be logged in to"
    hosts.stop("node2")
    code, found = findings(plush, "-w", "node[1-2]", "--directory", str(hosts.directory))
    assert code == 1 and found["host node2"]["state"] == "problem" and "refused" in found["host node2"]["detail"]
    assert "ssh -v node2" in found["host node2"]["advice"]
    process.send_signal(signal.SIGTERM)
    assert process.wait(LIMIT_S) == 0


def test_a_server_that_forgets_and_a_key_for_everybody_are_problems(plush: Any, tmp_path: Path) -> None:
    from plush_worker.store.wire import Wire

    folder = Path(plush.folder) / "redis"
    folder.mkdir()
    address = Address(path=str(folder / "s"))
    server = start_server(folder, unix_socket=folder / "s")
    try:
        with Wire(address) as wire:
            wire.call("CONFIG", "SET", "maxmemory-policy", "allkeys-lru")
        key = Path(plush.folder) / ".ssh" / "id_rsa"
        key.parent.mkdir(mode=0o700)
        key.touch(mode=0o644)
        code, found = findings(plush, env={"PLUSH_REDIS_URL": address.url()})
    finally:
        server.terminate()
        server.wait(10)
    assert code == 1
    assert found["redis eviction"]["state"] == "problem" and found["redis durability"]["state"] == "warning"
    assert found["workers"]["state"] == "problem" and "plush worker start" in found["workers"]["advice"]
    assert found["private files"]["advice"] == f"chmod 600 {key}"


def test_without_a_server_or_with_wrong_settings_it_says_so_and_goes_on(plush: Any) -> None:
    env = {"PLUSH_REDIS_URL": "redis://127.0.0.1:1/0", "PLUSH_CONCURRENCY": "many"}
    code, found = findings(plush, env=env)
    assert code == 1
    assert "PLUSH_CONCURRENCY" in found["settings"]["detail"]
    assert found["redis"]["state"] == "problem" and "127.0.0.1:1" in found["redis"]["detail"]
    assert found["ssh"]["state"] == "ok"
    shown = plush("doctor", env=env)
    assert shown.returncode == 1 and "PROBLEM  redis: " in shown.stdout and "\n         -> " in shown.stdout
    assert shown.stdout.splitlines()[-1].startswith("3 problems")
