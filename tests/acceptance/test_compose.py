"""``docker-compose.yml`` and ``ops/docker``: the file is well formed, and what the containers run serves a run."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

ROOT = Path(__file__).parents[2]
HERE = Path(__file__).parent
UID = "10001"
LIMIT_S = 120.0


def _neighbour(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, HERE / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = sys.modules[name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


compose_file = _neighbour("compose_file")


def test_the_file_keeps_to_the_compose_specification() -> None:
    schema = json.loads((ROOT / "tests/data/compose-spec.json").read_text())
    validator = jsonschema.validators.validator_for(schema)
    validator.check_schema(schema)
    problems = [error.message for error in validator(schema).iter_errors(yaml.safe_load(compose_file.FILE.read_text()))]
    assert problems == []
    broken = yaml.safe_load(compose_file.FILE.read_text())
    broken["services"]["redis"]["comand"] = "x"
    assert list(validator(schema).iter_errors(broken)), "the schema accepts anything"


def test_every_container_has_no_rights_and_a_health_check() -> None:
    for service in compose_file.services().values():
        raw = service.raw
        assert raw["read_only"] is True and raw["cap_drop"] == ["ALL"], service.name
        assert raw["security_opt"] == ["no-new-privileges:true"] and raw["user"] == f"{UID}:{UID}", service.name
        assert service.health and "start_period" in raw["healthcheck"], service.name


def test_redis_has_no_published_port_and_the_others_are_on_loopback() -> None:
    ports = {name: service.raw.get("ports", []) for name, service in compose_file.services().items()}
    assert ports == {"redis": [], "api": ["127.0.0.1:8520:8520"], "worker": [], "flower": ["127.0.0.1:5555:5555"]}


def test_secrets_are_files_and_only_where_they_are_needed() -> None:
    services = compose_file.services()
    needed = {name: set(service.raw.get("secrets", ())) for name, service in services.items()}
    assert needed == {
        "redis": {"redis_password"},
        "api": {"redis_password", "admin_token"},
        "worker": {"redis_password", "deployment_key"},
        "flower": {"redis_password", "flower_auth"},
    }
    for service in services.values():
        for name, value in service.environment.items():
            if re.search("password|token|auth|secret", name, re.IGNORECASE):
                assert (name.endswith("_FILE") and value in service.binds) or name == "PLUSH_API_ADMIN_OWNER", name


def test_what_is_run_exists_and_settings_are_known() -> None:
    from plush_api.api_settings import ApiSettings
    from plush_worker.config import Settings

    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    known = {f"PLUSH_{name.upper()}" for name in Settings.model_fields}
    known |= {f"PLUSH_API_{name.upper()}" for name in ApiSettings.model_fields}
    known |= {"PLUSH_FLOWER_AUTH_FILE", "PLUSH_FLOWER_PORT_FIXED", "PLUSH_URL"}
    for name, service in compose_file.services().items():
        if name == "redis":
            continue
        for argv in (service.argv, service.health):
            if argv[0] == "python":
                assert argv[1] == "-m" and importlib.util.find_spec(argv[2]), argv
            else:
                assert argv[0] in scripts, argv
        unknown = {key for key in service.environment if key.startswith("PLUSH_")} - known
        assert not unknown, f"{name} is given settings that nothing reads: {unknown}"


def test_the_image_is_built_from_what_is_there() -> None:
    text = (ROOT / "ops/docker/Dockerfile").read_text()
    ignored = (ROOT / ".dockerignore").read_text().split()
    assert ignored[0] == "*", "the build gets whatever lies in the checkout, secrets included"
    for line in re.findall(r"^COPY (?!--from)(.+)$", text, re.MULTILINE):
        for source in line.split()[:-1]:
            assert (ROOT / source).exists(), f"the image copies {source}"
            assert f"!{source}" in ignored, f".dockerignore hides {source}"
    assert f"ENV PATH={compose_file.IMAGE_PATH} " in text, "the tests look for programs elsewhere than the image"
    versions = re.findall(r"^FROM python:(3\.\d+)-slim", text, re.MULTILINE)
    classifiers = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["classifiers"]
    assert len(set(versions)) == 1 and f"Programming Language :: Python :: {versions[0]}" in classifiers


def test_secrets_are_made_once_for_the_containers_user_alone(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "ops/docker", tmp_path / "ops/docker", ignore=shutil.ignore_patterns("secrets"))
    folder = tmp_path / "ops/docker/secrets"

    def make() -> dict[str, str]:
        ran = subprocess.run(["sh", tmp_path / "ops/docker/make-secrets"], capture_output=True, text=True, check=False)
        assert ran.returncode == 0, ran.stderr
        found = {path.name: path.read_text().strip() for path in folder.iterdir()}
        assert not any(secret in ran.stdout for secret in found.values())
        return found

    made = make()
    assert make() == made, "a second call makes new secrets, and locks everybody out"
    assert re.fullmatch(r"plush_[0-9a-f]{10}_[0-9a-f]{48}", made["admin_token"])
    assert re.fullmatch(r"plush:[0-9a-f]{32}", made["flower_auth"]) and len(made["redis_password"]) == 48
    assert {stat.S_IMODE(path.stat().st_mode) & 0o077 for path in folder.iterdir() if path.suffix != ".pub"} == {0}
    files = {Path(secret["file"]).name for secret in compose_file.load()["secrets"].values()}
    assert files <= set(made), "docker-compose.yml names secrets that nobody makes"
    uid = os.getuid() or int(UID)
    assert f"PLUSH_UID={uid}\n" in (tmp_path / ".env").read_text()
    assert {path.stat().st_uid for path in folder.iterdir()} == {uid}, "the containers can't read them"


@pytest.fixture(scope="module")
def world(program: Any) -> Iterator[dict[str, Any]]:
    """What happened in the containers: everything that compose_world.py said."""
    if os.getuid() != 0:
        pytest.skip("namespaces need root")
    for name in ("unshare", "setpriv", "ip", "redis-server", "redis-cli", "sshd"):
        program(name)
    with tempfile.TemporaryDirectory(prefix="plush-c-", dir="/tmp") as folder:
        os.chmod(folder, 0o755)
        ran = subprocess.run(
            ["unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc",
             sys.executable, HERE / "compose_world.py", folder],
            capture_output=True, text=True, check=False, timeout=LIMIT_S, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-4000:]
        said: dict[str, Any] = {"before": {}, "inside": {}, "well": []}
        for line in ran.stdout.splitlines():
            event = json.loads(line)
            if "before" in event:
                said["before"][event["before"]] = event["code"]
            elif "inside" in event:
                said["inside"][event["inside"]] = event["output"]
            elif "well" in event:
                said["well"].append(event["well"])
            else:
                said |= event
        yield said


@pytest.mark.timeout(LIMIT_S)
def test_together_they_serve_a_run(world: dict[str, Any]) -> None:
    run = world["run"]
    assert run["state"] == "succeeded" and run["counts"]["ok"] == 4, run
    assert sorted(run["output"].splitlines()) == [f"node{n}: 42 node{n}" for n in range(1, 5)]
    assert run["owner"] == "admin"
    assert world["quiet"] == [], "left running on the hosts"


def test_health_checks_tell_well_from_not_there(world: dict[str, Any]) -> None:
    assert all(code != 0 for code in world["before"].values()) and len(world["before"]) == 4
    assert world["well"] == ["redis", "api", "flower", "worker1", "worker2"]


def test_each_is_an_ordinary_user_on_a_root_that_is_read_only(world: dict[str, Any]) -> None:
    assert set(world["inside"]) == {"redis", "api", "worker", "flower"}
    for name, output in world["inside"].items():
        assert output.startswith("10001\n") and re.search(r"^CapEff:\s+0+$", output, re.MULTILINE), (name, output)
        assert output.count("Read-only file system") == 3, (name, output)


def test_nobody_comes_in_without_a_token_or_password(world: dict[str, Any]) -> None:
    assert (world["stranger"], world["flower"]) == (401, 401)
    assert world["told"] == [] and world["seen"] > 8, "a secret stands in a command line"


def test_they_end_when_told_and_log_json(world: dict[str, Any]) -> None:
    codes = world["codes"]
    assert {name: codes[name] for name in ("redis", "api", "worker1", "worker2")} == dict.fromkeys(
        ("redis", "api", "worker1", "worker2"), 0
    )
    assert codes["flower"] in (0, -15)
    lines = [line for name in ("api", "worker1") for line in world["logs"][name].splitlines() if line.startswith("{")]
    records = [json.loads(line) for line in lines]
    assert {"time", "level", "logger", "message"} <= records[0].keys()
    assert not any(record["level"] == "ERROR" or "Traceback" in str(record) for record in records), lines
