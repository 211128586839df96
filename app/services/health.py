"""Whether this installation can serve: each check is "ok" or says what is wrong; no addresses, no versions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import redis
from sqlalchemy import Connection, text
from sqlalchemy.exc import SQLAlchemyError

from app.db import get_engine
from app.errors import SetupError
from app.migrate import is_current
from app.settings import get_settings

# With one of these off, Postgres may forget what it has confirmed when the power goes.
DURABLE = {
    "fsync": ("on",),
    "full_page_writes": ("on",),
    "synchronous_commit": ("on", "remote_apply", "remote_write", "local"),
}
OK = "ok"


@dataclass(frozen=True)
class Report:
    """The outcome: `ready` if labelers can work, and what each check found."""

    ready: bool
    checks: Mapping[str, str]

    @property
    def status(self) -> str:
        """`ready`, `degraded` (labelers can work, new runs wait) or `unready`."""
        if not self.ready:
            return "unready"
        return "ready" if all(found == OK for found in self.checks.values()) else "degraded"


def check() -> Report:
    """Ask Postgres and Redis, each with a short timeout."""
    needed = _postgres()
    return Report(ready=all(found == OK for found in needed.values()), checks={**needed, "redis": _redis()})


def _postgres() -> dict[str, str]:
    try:
        engine = get_engine()
        with engine.connect() as connection:
            lost = _not_durable(connection)
        current = is_current(engine)
    except (SQLAlchemyError, SetupError):
        return {"postgres": "does not answer"}
    return {
        "postgres": OK,
        "migrations": OK if current else "not at the newest revision: run `plackett migrate`",
        "durability": f"off: {', '.join(lost)}" if lost else OK,
    }


def _not_durable(connection: Connection) -> list[str]:
    return [
        name
        for name, safe in DURABLE.items()
        if connection.scalar(text("SELECT current_setting(:name)"), {"name": name}) not in safe
    ]


def _redis() -> str:
    url = get_settings().redis_url
    if url is None:
        return "not set: workers hear of new runs from the dispatcher only"
    try:
        with redis.Redis.from_url(url, socket_connect_timeout=1, socket_timeout=1) as client:
            client.ping()
    except redis.RedisError:
        return "does not answer: new runs wait until it does"
    return OK
