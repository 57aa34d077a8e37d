"""The settings of a service process: one frozen object, read once at the composition root (``load_settings``).

From arguments, ``PLUSH_*`` of the environment, then ``$XDG_CONFIG_HOME/plush/plush.toml``, first come first served.
Commands that only need to find the service use ``service_file.py``, which doesn't import pydantic.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from plush_worker import xdg
from plush_worker.errors import ConfigurationError
from plush_worker.logs import Format
from plush_worker.service_file import with_password_file
from plush_worker.store.address import parse_url

RUN_QUEUE = "plush"
TABLES = ("api",)  # of the settings file, read elsewhere: plush_api/api_settings.py
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


def default_worker_name() -> str:
    """The machine's short name, in the characters that a worker's name may have."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", os.uname().nodename.partition(".")[0])[:64].strip("-._") or "worker"


class Settings(BaseSettings):
    """All settings. ``_s`` are seconds."""

    model_config = SettingsConfigDict(env_prefix="PLUSH_", env_ignore_empty=True, frozen=True, extra="forbid")

    redis_url: str = Field(default="redis://127.0.0.1:6379/0", repr=False)  # redis://, rediss://, unix:///path?db=0
    redis_password_file: Path | None = None  # holds the password of redis_url
    state_dir: Path = Field(default_factory=xdg.state_dir)  # output, files; the same for API and workers
    machine_id: str = ""  # names machines or containers that see the same key files; empty: each its own
    log_format: Format = ""  # text or json; empty: text on a terminal, else json

    worker_name: Annotated[str, Field(pattern=_NAME)] = Field(default_factory=default_worker_name)  # unique
    worker_capacity: Annotated[int, Field(ge=1, le=1_000_000)] = 1000  # hosts that it takes at most
    concurrency: Annotated[int, Field(ge=1, le=64)] = 4  # pool threads; tasks are short

    worker_lease_ttl_s: Annotated[float, Field(gt=0)] = 6.0  # a worker silent for so long has lost its hosts
    worker_renew_s: Annotated[float, Field(gt=0)] = 2.0  # how often it speaks: at most half of that
    redis_timeout_s: Annotated[float, Field(gt=0)] = 10.0  # of one command on a socket
    stop_grace_s: Annotated[float, Field(ge=0)] = 5.0  # for the mesh thread to end its links
    result_expires_s: Annotated[int, Field(ge=60)] = 86_400  # Celery results; the run itself is kept by the store
    output_limit_bytes: Annotated[int, Field(ge=0)] = 1 << 30  # of all ended runs; the oldest go first; 0: no limit

    @model_validator(mode="after")
    def _check(self) -> Settings:
        if self.worker_renew_s * 2 > self.worker_lease_ttl_s:
            raise ValueError("worker_renew_s must be at most half of worker_lease_ttl_s")
        return self

    @field_validator("redis_url")
    @classmethod
    def _check_url(cls, url: str) -> str:
        try:
            parse_url(url)
        except ConfigurationError as error:
            raise ValueError(str(error)) from error
        return url

    @property
    def worker_queue(self) -> str:
        """The worker's own queue."""
        return worker_queue(self.worker_name)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, file; the file's tables are other programs' settings."""
        file = TomlConfigSettingsSource(settings_cls, xdg.config_dir() / "plush.toml")
        values = {name: value for name, value in file().items() if name not in TABLES}
        return init_settings, env_settings, InitSettingsSource(settings_cls, values)


def worker_queue(name: str) -> str:
    """The queue of the worker called ``name``."""
    return f"worker.{name}"


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; ``overrides`` that are None are left out.

    Raises ConfigurationError naming each wrong setting as people would have written it.
    """
    given = {name: value for name, value in overrides.items() if value is not None}
    try:
        settings = Settings(**given)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(item) for item in error.errors())) from error
    except (OSError, ValueError) as error:  # the file: unreadable, or not TOML
        raise ConfigurationError(f"{xdg.config_dir() / 'plush.toml'}: {error}") from error
    if settings.redis_password_file is None:
        return settings
    url = with_password_file(settings.redis_url, str(settings.redis_password_file))
    return settings.model_copy(update={"redis_url": url, "redis_password_file": None})


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    where = f"setting {name} (PLUSH_{name.upper()})" if name else "settings"
    return f"{where}: {item['msg']}"
