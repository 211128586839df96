"""Settings, read from the environment (and `.env`) once per process.

Names in the environment are the upper-case field names with the prefix `PLACKETT_`, except the two that every
host already uses: `DATABASE_URL` and `REDIS_URL`. What these two do not name, `plackett up` starts itself.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Settings(BaseSettings):
    """Everything an operator may set. Sizes are bytes, times are seconds unless the name says otherwise."""

    model_config = SettingsConfigDict(env_prefix="PLACKETT_", env_file=".env", extra="ignore", frozen=True)

    database_url: str | None = Field(default=None, validation_alias="DATABASE_URL")
    redis_url: str | None = Field(default=None, validation_alias="REDIS_URL")
    var: Path = Field(default=Path("var"), description="where the embedded stack keeps its data")
    host: str = "127.0.0.1"
    port: int = 8000
    secure_cookies: bool = Field(
        default=False,
        description="true behind HTTPS: `__Host-` prefix and the Secure flag on the session cookie",
    )
    allowed_hosts: list[str] = Field(default=["*"], description="Host headers served; set it in production")
    artifacts: str | None = Field(default=None, description="fsspec URL of the artifact store; default VAR/artifacts")
    session_idle_hours: int = 12
    session_absolute_days: int = 7
    max_form_bytes: int = 1 << 20
    max_import_bytes: int = 64 << 20
    database_pool_size: int = Field(default=10, description="two more than the sessions the web uses at once")
    statement_timeout_ms: int = 5_000
    lock_timeout_ms: int = 2_000
    run_lease_seconds: int = 60
    run_heartbeat_seconds: float = 10.0
    run_retry_seconds: float = Field(default=10.0, description="pause before a second attempt, doubled for each later")
    run_stall_seconds: float = Field(default=1800.0, description="a run without progress for so long is started again")
    run_wall_seconds: float = Field(default=7 * 86400.0, description="an attempt that lasts longer fails for good")
    cancel_grace_seconds: float = 60.0
    trainer_device: str = Field(default="auto", description="auto, cpu or cuda; handed to the trainer")

    @property
    def runs_dir(self) -> Path:
        """Where run directories live on this machine."""
        return (self.var / "runs").resolve()

    @property
    def snapshots_dir(self) -> Path:
        """Where frozen exports live on this machine."""
        return (self.var / "snapshots").resolve()


@lru_cache(maxsize=1)
def get_settings() -> Settings:
    """Return the process's settings. Tests call `get_settings.cache_clear()` after changing the environment."""
    return Settings()
