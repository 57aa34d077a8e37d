"""The settings of the API: one frozen object, read once by ``api_part.py``.

From ``PLUSH_API_*`` of the environment, then the table ``[api]`` of ``plush.toml``. Where Redis and the state folder
are is said by the settings that every process of the service shares (``plush_worker/config.py``).
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from plush_worker import xdg
from plush_worker.errors import ConfigurationError

DEFAULT_PORT = 8520
TABLE = "api"


class ApiSettings(BaseSettings):
    """All settings of the API. ``_s`` are seconds, ``_bytes`` bytes."""

    model_config = SettingsConfigDict(env_prefix="PLUSH_API_", env_ignore_empty=True, frozen=True, extra="forbid")

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = DEFAULT_PORT  # 0: any free one
    port_fixed: bool = False  # fail when the port is taken, instead of taking a free one
    tls_certificate_file: Path | None = None  # PEM; without it put a proxy with TLS in front of anything but loopback
    tls_key_file: Path | None = None
    admin_token_file: Path | None = None  # the first admin token: read from here, or made and written here (0600)
    admin_owner: str = ""  # whom the first admin token belongs to; empty: the user that the API runs as

    directory: str = ""  # the host directory that hosts are looked up in; empty: the usual places
    ssh_config: str = ""  # OpenSSH configuration to look hosts up with; empty: the usual files
    flower_url: str = ""  # where people see Flower, for links; empty: that of `plush up` on this machine
    public_url: str = ""  # where people see this API, for links; empty: as each request came

    body_limit_bytes: Annotated[int, Field(ge=1024)] = 1 << 20  # of an experiment or other request
    blob_limit_bytes: Annotated[int, Field(ge=1)] = 4 << 30  # of one file's content
    rate_per_s: Annotated[float, Field(gt=0)] = 100.0  # requests of one token, in the long run
    rate_burst: Annotated[int, Field(ge=1)] = 500  # ... and at once
    open_runs_per_owner: Annotated[int, Field(ge=1, le=100_000)] = 500
    followers: Annotated[int, Field(ge=1)] = 1000  # open streams of events and output
    stall_s: Annotated[float, Field(gt=0)] = 60.0  # a follower that takes nothing for so long is let go

    @model_validator(mode="after")
    def _check(self) -> ApiSettings:
        if (self.tls_certificate_file is None) != (self.tls_key_file is None):
            raise ValueError("tls_certificate_file and tls_key_file belong together")
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Arguments, environment, table of the file."""
        return init_settings, env_settings, InitSettingsSource(settings_cls, _table())


def load_api_settings(**overrides: Any) -> ApiSettings:
    """Read the settings. Raises ConfigurationError naming each wrong one as people would have written it."""
    try:
        return ApiSettings(**overrides)
    except ValidationError as error:
        raise ConfigurationError("; ".join(_explain(item) for item in error.errors())) from error


def _table() -> dict[str, Any]:
    path = xdg.config_dir() / "plush.toml"
    if not path.is_file():
        return {}
    try:
        table = tomllib.loads(path.read_text("utf-8")).get(TABLE, {})
    except (OSError, ValueError) as error:
        raise ConfigurationError(f"{path}: {error}") from error
    if not isinstance(table, dict):
        raise ConfigurationError(f"{path}: {TABLE} must be a table: [{TABLE}]")
    return table


def _explain(item: Any) -> str:
    name = ".".join(str(part) for part in item["loc"])
    return f"setting {TABLE}.{name} (PLUSH_API_{name.upper()}): {item['msg']}" if name else f"settings: {item['msg']}"
