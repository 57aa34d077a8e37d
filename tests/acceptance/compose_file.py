"""``docker-compose.yml`` as the tests read it: variables filled in, every service with what its container would get."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FILE = ROOT / "docker-compose.yml"
IMAGE_PATH = "/opt/plush/bin:/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True)
class Service:
    """One service: what is run, with which environment, and where its files are."""

    name: str
    argv: list[str]
    environment: dict[str, str]
    health: list[str]
    binds: dict[str, str]  # place in the container -> file of the repository
    volumes: dict[str, str]  # place in the container -> volume
    tmpfs: list[str]
    raw: Mapping[str, Any]


def load(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The whole file, merged and with ``${NAME:-default}`` filled in."""
    return _filled(yaml.safe_load(FILE.read_text()), variables or {})  # type: ignore[no-any-return]


def services(variables: Mapping[str, str] | None = None) -> dict[str, Service]:
    """name -> service."""
    document = load(variables)
    return {name: _service(name, raw, document) for name, raw in document["services"].items()}


def _service(name: str, raw: Mapping[str, Any], document: Mapping[str, Any]) -> Service:
    binds = {f"/run/secrets/{secret}": document["secrets"][secret]["file"] for secret in raw.get("secrets", ())}
    for config in raw.get("configs", ()):
        binds[config["target"]] = document["configs"][config["source"]]["file"]
    check = raw["healthcheck"]["test"]
    health = ["sh", "-c", check[1]] if check[0] == "CMD-SHELL" else check[1:]
    volumes = {target: volume for volume, _, target in (text.partition(":") for text in raw.get("volumes", ()))}
    return Service(
        name=name,
        argv=[word.replace("$$", "$") for word in (*raw.get("entrypoint", ()), *raw.get("command", ()))],
        environment={key: str(value) for key, value in raw.get("environment", {}).items()},
        health=[word.replace("$$", "$") for word in health],
        binds=binds,
        volumes=volumes,
        tmpfs=[text.partition(":")[0] for text in raw.get("tmpfs", ())],
        raw=raw,
    )


def _filled(value: Any, variables: Mapping[str, str]) -> Any:
    if isinstance(value, dict):
        return {key: _filled(inner, variables) for key, inner in value.items()}
    if isinstance(value, list):
        return [_filled(inner, variables) for inner in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"(?<!\$)\$\{(\w+):-([^}]*)\}", lambda match: variables.get(match[1]) or match[2], value)
