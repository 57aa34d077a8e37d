"""The containers of ``docker-compose.yml`` without Docker: a program that the test runs in namespaces of its own.

``unshare --net --mount --pid --fork --kill-child --mount-proc python compose_world.py FOLDER``, as root. Every service
gets a root of its own: this machine's programs, the checkout, its secrets, configs, volumes and tmpfs in their places,
and nothing else; it is read only. It runs as an ordinary user without capabilities, with the environment that the file
gives it. The names of the services lead to the loopback address, where local sshd hosts listen too. What happens is
written to standard output as one JSON object a line; the end of the namespaces ends all of it.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT))

from plush_api.local_hosts import LocalHosts  # noqa: E402

UID = 10001
HOSTS_COUNT = 4
START_LIMIT_S = 30.0


def compose() -> Any:
    """The neighbour ``compose_file.py``."""
    path = Path(__file__).with_name("compose_file.py")
    spec = importlib.util.spec_from_file_location("compose_file", path)
    assert spec is not None and spec.loader is not None
    module = sys.modules["compose_file"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def say(**what: object) -> None:
    print(json.dumps(what), flush=True)


class World:
    """Everything below ``folder``: what the repository's secrets and volumes are to the containers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.services = compose().services()
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def prepare(self, hosts: LocalHosts) -> None:
        """Secrets by the repository's own script, the host directory with the key's place in a container."""
        copy = self.folder / "repository"
        shutil.copytree(ROOT / "ops" / "docker", copy / "ops" / "docker", ignore=shutil.ignore_patterns("secrets"))
        subprocess.run(
            ["sh", copy / "ops" / "docker" / "make-secrets"], check=True, stdout=subprocess.DEVNULL,
            env=os.environ | {"PLUSH_UID": str(UID), "PLUSH_GID": str(UID)},
        )  # fmt: skip
        key = copy / "ops" / "docker" / "secrets" / "deployment_key"
        key.write_bytes(hosts.identity.read_bytes())
        directory = json.loads(hosts.directory.read_text())
        directory["defaults"] |= {"identity": "/run/secrets/deployment_key"}
        directory["defaults"] |= {"known_hosts_file": "/var/lib/plush/known_hosts"}
        place = copy / "ops" / "docker" / "hosts.yaml"
        place.write_text(json.dumps(directory))
        place.chmod(0o644)
        etc = self.folder / "etc"
        etc.mkdir()
        (etc / "hosts").write_text("127.0.0.1 localhost " + " ".join(self.services) + "\n")
        (etc / "nsswitch.conf").write_text("passwd: files\nhosts: files\n")
        user = f"plush:x:{UID}:{UID}::/home/plush:/usr/sbin/nologin"
        (etc / "passwd").write_text(f"root:x:0:0:root:/root:/bin/sh\n{user}\n")
        self._write_programs()

    def _write_programs(self) -> None:
        """What the image has in /opt/plush/bin: the interpreter and the entry points of pyproject.toml."""
        programs = self.folder / "programs"
        programs.mkdir()
        interpreter = Path(sys.base_prefix).resolve() / "bin" / f"python3.{sys.version_info.minor}"
        texts = {"python": f'#!/bin/sh\nexec {interpreter} "$@"\n'}
        project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
        for name, target in project["scripts"].items():
            module, function = target.split(":")
            texts[name] = f"#!{interpreter}\nimport sys\nfrom {module} import {function}\nsys.exit({function}())\n"
        for name, text in texts.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)

    def start(self, name: str, instance: str = "") -> None:
        """The service's container."""
        service = self.services[name]
        shown = name + instance
        with open(self.folder / f"{shown}.log", "wb") as log:
            self.running[shown] = subprocess.Popen(
                self.contained(service, service.argv, instance), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def check(self, name: str, instance: str = "") -> tuple[int, str]:
        """(exit code, output) of the service's health check, in a container like its own."""
        service = self.services[name]
        ran = subprocess.run(
            self.contained(service, service.health, instance), stdin=subprocess.DEVNULL, capture_output=True, text=True
        )
        return ran.returncode, ran.stdout + ran.stderr

    def wait_well(self, name: str, instance: str = "") -> None:
        """Until the service's health check says so."""
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            code, text = self.check(name, instance)
            if code == 0:
                say(well=name + instance)
                return
            log = (self.folder / f"{name}{instance}.log").read_text(errors="replace")[-3000:]
            if time.monotonic() > deadline or self.running[name + instance].poll() is not None:
                say(failed=name + instance, check=text, log=log, code=self.running[name + instance].poll())
                sys.exit(1)
            time.sleep(0.1)

    def contained(self, service: Any, argv: list[str], instance: str) -> list[str]:
        """``argv`` as its container would run it."""
        root = self.folder / "roots" / f"{service.name}{instance}"
        root.mkdir(parents=True, exist_ok=True)
        host_name = f"{service.name}{instance or '1'}"
        lines = [
            "set -e",
            "mount --make-rprivate /",
            f"hostname {host_name}",
            f"mount -t tmpfs -o mode=0755 none {root}",
        ]
        for name in ("usr", "bin", "sbin", "lib", "lib32", "lib64"):
            path = Path("/") / name
            if path.is_symlink():
                lines.append(f"ln -s {os.readlink(path)} {root}/{name}")
            elif path.is_dir():
                lines += _bound(path, root / name)
        if not Path(sys.base_prefix).resolve().is_relative_to("/usr"):
            lines += _bound(Path(sys.base_prefix).resolve(), Path(f"{root}{Path(sys.base_prefix).resolve()}"))
        lines += _bound(self.folder / "programs", root / "opt/plush/bin")
        lines += _bound(Path(sysconfig.get_path("purelib")), root / "opt/packages")
        lines += _bound(ROOT, root / "opt/checkout")
        lines += [
            f"mkdir -p {root}/proc {root}/dev",
            f"mount --rbind /proc {root}/proc",
            f"mount --rbind /dev {root}/dev",
        ]
        lines += [f"cp -r {self.folder}/etc {root}/etc"]
        for target in service.tmpfs:
            lines += [f"mkdir -p {root}{target}", f"mount -t tmpfs -o mode=1777 none {root}{target}"]
        for target, file in service.binds.items():
            place = f"{root}{target}"
            lines += [f"mkdir -p {Path(place).parent}", f"touch {place}"]
            lines += [f"mount --bind {self.folder / 'repository' / file} {place}"]
        for target, volume in service.volumes.items():
            lines += [f"mkdir -p {root}{target}", f"mount --bind {self._volume(volume)} {root}{target}"]
        lines += [f"mount -o remount,ro {root}"]
        environment = {
            "PATH": compose().IMAGE_PATH, "PYTHONPATH": "/opt/checkout:/opt/packages", "PYTHONDONTWRITEBYTECODE": "1",
            **service.environment,
        }  # fmt: skip
        user = [
            "setpriv",
            f"--reuid={UID}",
            f"--regid={UID}",
            "--clear-groups",
            "--no-new-privs",
            "--bounding-set=-all",
        ]
        words = [*user, "env", "-i", *(f"{key}={value}" for key, value in environment.items()), *argv]
        lines += [f"exec chroot {root} {shlex.join(words)}"]
        return ["unshare", "--mount", "--uts", "sh", "-c", "\n".join(lines)]

    def _volume(self, name: str) -> Path:
        path = self.folder / "volumes" / name
        path.mkdir(parents=True, exist_ok=True)
        path.chmod(0o700)
        os.chown(path, UID, UID)
        return path

    def secrets(self) -> list[str]:
        """What must stand in no command line."""
        found = []
        for name in ("redis_password", "admin_token", "flower_auth"):
            text = (self.folder / "repository" / "ops" / "docker" / "secrets" / name).read_text().strip()
            found.append(text.rpartition(":")[2])
        return found


def _bound(source: Path, target: Path) -> list[str]:
    return [f"mkdir -p {target}", f"mount --bind {source} {target}", f"mount -o remount,bind,ro {target}"]


class Api:
    """The API as somebody with the admin token uses it."""

    def __init__(self, token: str) -> None:
        self._token = token

    def __call__(self, method: str, path: str, body: Any = None, *, token: bool = True) -> tuple[int, bytes]:
        """(status, body)."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"http://api:8520{path}", data, method=method)
        request.add_header("Content-Type", "application/json")
        if token:
            request.add_header("Authorization", f"Bearer {self._token}")
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def run(self, experiment: dict[str, Any]) -> dict[str, Any]:
        """Submits it and waits until it has ended; the run as the API shows it."""
        status, answer = self("POST", "/v1/runs", experiment)
        assert status == 201, answer
        place = f"/v1/runs/{json.loads(answer)['id']}"
        deadline = time.monotonic() + START_LIMIT_S
        while True:
            run = json.loads(self("GET", place)[1])
            if run["state"] in ("succeeded", "failed", "killed") or time.monotonic() > deadline:
                return run | {"output": self("GET", place + "/output")[1].decode()}
            time.sleep(0.1)


def main() -> None:
    """Brings everything up, runs an experiment, looks around."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    world = World(Path(sys.argv[1]))
    with LocalHosts(HOSTS_COUNT) as hosts:
        world.prepare(hosts)
        shutil.copyfile(world.folder / "etc" / "hosts", world.folder / "own-hosts")
        subprocess.run(["mount", "--bind", world.folder / "own-hosts", "/etc/hosts"], check=True)
        for name in ("api", "worker", "flower", "redis"):
            say(before=name, code=world.check(name)[0])
        world.start("redis")
        world.wait_well("redis")
        for name, instance in (("api", ""), ("flower", ""), ("worker", "1"), ("worker", "2")):
            world.start(name, instance)
        for name, instance in (("api", ""), ("flower", ""), ("worker", "1"), ("worker", "2")):
            world.wait_well(name, instance)
        api = Api(world.secrets()[1])
        say(run=api.run({"name": "answer", "hosts": f"node[1-{HOSTS_COUNT}]", "command": "echo $((6*7)) $PLUSH_HOST"}))
        say(workers=json.loads(api("GET", "/v1/workers")[1]))
        say(stranger=api("GET", "/v1/runs", token=False)[0])
        _look_around(world)
        codes = {}
        for shown in ("worker1", "worker2", "api", "flower", "redis"):
            world.running[shown].terminate()
            codes[shown] = world.running[shown].wait(START_LIMIT_S)
        say(codes=codes, quiet=[str(process) for process in hosts.wait_quiet(10.0)])
        say(logs={path.stem: path.read_text(errors="replace") for path in sorted(world.folder.glob("*.log"))})


def _look_around(world: World) -> None:
    request = urllib.request.Request("http://flower:5555/api/workers")
    try:
        urllib.request.urlopen(request, timeout=10).close()
        say(flower=200)
    except urllib.error.HTTPError as error:
        with error:
            say(flower=error.code)
    for name in world.services:
        service = world.services[name]
        command = ["sh", "-c", "id -u; grep CapEff /proc/self/status; touch /x /usr/x /opt/plush/bin/x 2>&1; env"]
        ran = subprocess.run(world.contained(service, command, "-look"), capture_output=True, text=True, check=False)
        say(inside=name, output=ran.stdout + ran.stderr)
    lines = [path.read_bytes().decode(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline")]
    say(told=[secret for secret in world.secrets() if any(secret in line for line in lines)], seen=len(lines))


if __name__ == "__main__":
    main()
