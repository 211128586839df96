"""Settings, read from the environment (and `.env`) once per process.

Names in the environment are the upper-case field names with the prefix `PLACKETT_`, except the two that every
host already uses: `DATABASE_URL` and `REDIS_URL`. What these two do not name, `plackett up` starts itself.
"""

from __future__ import annotations

import os
import re
from functools import lru_cache
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from dotenv import dotenv_values
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

LOCAL_ENDPOINT = "local"
"""The name of the model server that `plackett up` starts; an operator's endpoint cannot have it."""


class Endpoint(BaseModel):
    """An OpenAI-compatible server that the operator allows: where it is, and the key it wants, if any.

    The key stands here or, better, in the environment variable that `api_key_env` names. It goes to this address only.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    base_url: str
    api_key_env: str | None = None
    api_key: SecretStr | None = None
    models: tuple[str, ...] | None = Field(default=None, description="the models that may be used; default: any")

    @field_validator("base_url")
    @classmethod
    def _is_plain_address(cls, value: str) -> str:
        parts = urlsplit(value)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("an endpoint's base_url is an address such as https://models.example.org/v1")
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("an endpoint's base_url holds no user, password, query or fragment")
        return value.rstrip("/")

    def key(self) -> str:
        """Return the key to send, empty where none is wanted; raise `KeyError` when its variable is set nowhere.

        As the settings themselves it may stand in `.env`, which is not part of the environment.
        """
        if self.api_key_env is None:
            return self.api_key.get_secret_value() if self.api_key else ""
        file = Settings.model_config.get("env_file")
        found = os.environ.get(self.api_key_env) or (dotenv_values(str(file)) if file else {}).get(self.api_key_env)
        if not found:
            raise KeyError(self.api_key_env)
        return found

    @model_validator(mode="after")
    def _has_one_key(self) -> Endpoint:
        if self.api_key is not None and self.api_key_env is not None:
            raise ValueError("give an endpoint api_key or api_key_env, not both")
        return self


class Settings(BaseSettings):
    """Everything an operator may set. Sizes are bytes, times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(
        env_prefix="PLACKETT_", env_file=".env", extra="ignore", frozen=True, hide_input_in_errors=True
    )

    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    var: Path = Field(default=Path("var"), description="where the embedded stack keeps its data")
    host: str = "127.0.0.1"
    port: int = 8000
    log_format: Literal["auto", "json", "text"] = Field(
        default="auto", description="how processes log: text on a terminal, else a line of JSON for each event"
    )
    secure_cookies: bool = Field(
        default=False,
        description="true behind HTTPS: `__Host-` prefix and the Secure flag on the session cookie",
    )
    allowed_hosts: list[str] = Field(default=["*"], description="Host headers served; set it in production")
    artifacts: str | None = Field(
        default=None, description="fsspec URL of the artifact store, for several machines; default: files stay in VAR"
    )
    session_idle_hours: int = 12
    session_absolute_days: int = 7
    max_form_bytes: int = 1 << 20
    max_import_bytes: int = 64 << 20
    import_at_once_bytes: int = Field(default=1 << 20, description="a worker imports files that are larger")
    freeze_at_once_rows: int = Field(default=5_000, description="a worker freezes what has more prompts and answers")
    database_pool_size: int = Field(default=12, description="four more than the sessions the web uses at once")
    export_streams: int = Field(
        default=24, ge=1, description="exports that one web process sends at once, each over a connection of its own"
    )
    statement_timeout_ms: int = 5_000
    lock_timeout_ms: int = 2_000
    run_lease_seconds: float = 60.0
    run_heartbeat_seconds: float = 10.0
    run_retry_seconds: float = Field(default=10.0, description="pause before a second attempt, doubled for each later")
    run_resend_seconds: float = Field(default=30.0, description="a queued run that nobody took is rung for again")
    run_stall_seconds: float = Field(default=1800.0, description="a run without progress for so long is started again")
    run_wall_seconds: float = Field(default=7 * 86400.0, description="an attempt that lasts longer fails for good")
    cancel_grace_seconds: float = 60.0
    trainer_device: str = Field(default="auto", description="auto, cpu or cuda; handed to the trainer")
    ray_address: str | None = Field(
        default=None, description="a Ray cluster on which this worker's runs train, such as auto or host:6379"
    )
    tracker: Literal["wandb", "mlflow", "trackio"] | None = Field(
        default=None, description="where this worker's runs are tracked besides, through that library"
    )
    tracker_project: str = Field(default="plackett", description="the project or experiment in the tracker")
    gpus: int | None = Field(default=None, ge=1, description="devices a GPU worker offers; default: those it counts")
    endpoints: dict[str, Endpoint] = Field(
        default={}, description="servers of models for live chat, as JSON: name → base_url, api_key_env, models"
    )
    model_server: bool = Field(default=True, description="whether `plackett up` serves the registry's models for chat")
    model_server_url: str | None = Field(default=None, description="set by `plackett up` for the processes it starts")
    model_server_key: SecretStr | None = Field(default=None, description="as above")
    model_server_models: int = Field(default=2, ge=1, description="how many models the local server keeps in memory")
    webhook_origins: list[str] = Field(
        default=[], description="servers that webhooks may go to, as JSON: scheme, host and, if need be, port"
    )
    webhook_networks: list[IPv4Network | IPv6Network] = Field(
        default=[], description="private networks that webhooks may reach, beside the public internet"
    )
    backup_warning_days: int = Field(
        default=8, ge=1, description="without a verified restore in so many days, admins are warned"
    )
    metrics_token: SecretStr | None = Field(
        default=None, min_length=16, description="what Prometheus sends as its bearer token; unset: no /metrics"
    )
    chat_streams: int = Field(default=16, ge=1, description="answers that one web process receives at the same time")
    chat_idle_seconds: float = Field(default=60.0, description="an endpoint that is silent for so long has failed")
    chat_total_seconds: float = Field(default=300.0, description="the longest time one answer may take")

    @field_validator("artifacts", "tracker", mode="before")
    @classmethod
    def _empty_is_none(cls, value: object) -> object:
        return value or None  # how a compose file says that nothing is set

    @field_validator("endpoints", mode="before")
    @classmethod
    def _null_is_no_endpoint(cls, value: object) -> object:
        return {} if value is None else value  # how a compose file says that nothing is set

    @field_validator("endpoints")
    @classmethod
    def _endpoints_have_plain_names(cls, value: dict[str, Endpoint]) -> dict[str, Endpoint]:
        for name in value:
            if name == LOCAL_ENDPOINT or not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,31}", name):
                raise ValueError(
                    f"an endpoint's name is lower-case letters, digits and dashes, and not {LOCAL_ENDPOINT!r}"
                )
        return value

    @property
    def allowed_endpoints(self) -> dict[str, Endpoint]:
        """The operator's endpoints and, where there is one, the local model server."""
        if self.model_server_url is None:
            return self.endpoints
        local = Endpoint(base_url=self.model_server_url, api_key=self.model_server_key)
        return {LOCAL_ENDPOINT: local, **self.endpoints}

    @property
    def runs_dir(self) -> Path:
        """Where run directories live on this machine."""
        return (self.var / "runs").resolve()

    @property
    def snapshots_dir(self) -> Path:
        """Where frozen exports live on this machine."""
        return (self.var / "snapshots").resolve()

    @property
    def ledgers_dir(self) -> Path:
        """Where the ledgers of frozen exports live on this machine, beside them."""
        return (self.var / "ledgers").resolve()

    @property
    def uploads_dir(self) -> Path:
        """Where files that are still being sent wait; every web process has to see it."""
        return (self.var / "uploads").resolve()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the process's settings. Tests call `get_settings.cache_clear()` after changing the environment."""
    return Settings()
