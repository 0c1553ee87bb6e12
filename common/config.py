"""Settings, read once at start-up from ``herder.toml`` and the environment; nothing else reads ``os.environ``.

Every setting is also an environment variable: ``HERDER_`` and its name in capitals. A variable wins over the file.
The file is the first of ``$HERDER_CONFIG``, ``./herder.toml``, ``$XDG_CONFIG_HOME/herder/herder.toml``.
"""

import os
from pathlib import Path
from typing import Any

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict, TomlConfigSettingsSource

from common.domain.errors import InputError


def _xdg(variable: str, fallback: str) -> Path:
    return Path(os.environ.get(variable) or Path.home() / fallback) / "herder"


def config_file() -> Path | None:
    """The settings file in use, or None. Raises InputError if ``$HERDER_CONFIG`` names none."""
    named = os.environ.get("HERDER_CONFIG")
    if named:
        if not Path(named).exists() or Path(named).is_dir():
            raise InputError(f"HERDER_CONFIG: there is no file {named}")
        return Path(named)
    candidates = [Path("herder.toml"), _xdg("XDG_CONFIG_HOME", ".config") / "herder.toml"]
    return next((path for path in candidates if path.is_file()), None)


class Settings(BaseSettings):
    """All settings with their defaults; ``docs/reference/settings.md`` is checked against the descriptions here."""

    model_config = SettingsConfigDict(env_prefix="HERDER_", extra="forbid", frozen=True)

    redis_url: str = Field("", description="Redis to use; empty: herder runs its own (redis, rediss, redis+sentinel)")
    namespace: str = Field("herder", description="prefix of all Redis keys", min_length=1)
    state_dir: Path = Field(
        default_factory=lambda: _xdg("XDG_STATE_HOME", ".local/state"),
        description="where the embedded Redis keeps its data",
    )
    workers: int = Field(1, description="worker processes that single-machine commands start", ge=1, le=64)
    threads: int = Field(8, description="threads per worker process", ge=1, le=256)
    connect_timeout: float = Field(5.0, description="seconds to wait for a connection to a server", gt=0)
    read_timeout: float = Field(40.0, description="seconds to wait for a server's answer", gt=0)
    notify: str = Field("", description="URLs of apprise that the scheduler tells of alerts; spaces part them")
    metrics: str = Field("", description="ADDRESS:PORT where the scheduler serves metrics to Prometheus")
    log_level: str = Field("INFO", description="DEBUG, INFO, WARNING or ERROR", pattern="^(DEBUG|INFO|WARNING|ERROR)$")

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Environment over file; no dotenv, no secrets directory."""
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, config_file())


def load_settings(**overrides: Any) -> Settings:
    """The settings. Raises InputError that names the file or variable."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"])
        place = f"HERDER_{name.upper()}" if f"HERDER_{name.upper()}" in os.environ else str(config_file() or "settings")
        raise InputError(f"{place}: {name}: {first['msg']}", hint="see docs/reference/settings.md") from error
    except ValueError as error:  # TOML syntax
        raise InputError(f"{config_file()}: {error}", hint="the file must be valid TOML") from error
