"""Fixtures for every test: a real PostgreSQL 18 and a real Redis, started once by the embedded stack's own code."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import redis
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session

from app import db, migrate, queue
from app.embedded.folder import make_var
from app.embedded.postgres import NAME, PostgresServer
from app.embedded.redis import RedisServer
from app.settings import Settings, get_settings

# Before torch is loaded: tiny models gain nothing from threads, and tests in several processes would fight over cores.
os.environ.setdefault("OMP_NUM_THREADS", "1")

TOGETHER = (
    "tests/app/api/test_documented.py",
    "tests/app/demo/test_labelers.py",
    "tests/app/routes/test_health.py",
    "tests/app/test_backup.py",
    "tests/app/test_cli.py",
    "tests/browser/",
    "tests/trainer/test_evaluate.py",
    "tests/trainer/test_members.py",
)
"""Where the tests share something that is expensive to start: a server, a browser, a trained model."""


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Where pytest runs in several processes, let one of them run all the tests of a place in `TOGETHER`.

    The mark of xdist 3.8 for this, `xdist_group`, is overlooked with pytest 9.2, and nothing says so
    (pytest-dev/pytest-xdist#1386).
    """
    from xdist.scheduler import LoadGroupScheduling

    class ByPlace(LoadGroupScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return next((place for place in TOGETHER if nodeid.startswith(place)), nodeid)

    return ByPlace(config, log) if config.getvalue("dist") == "loadgroup" else None


GROWN_BYTES = 16_000_000
"""How large tables may grow until they are truncated."""


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Keep the developer's own settings out of the tests, and each test's data in its own folder."""
    for name in ("DATABASE_URL", "REDIS_URL", "PLACKETT_PORT", "PLACKETT_HOST"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PLACKETT_VAR", str(tmp_path / "var"))
    monkeypatch.setitem(Settings.model_config, "env_file", None)
    _forget_settings()
    yield
    _forget_settings()


def _forget_settings() -> None:
    for cached in (get_settings, db.get_engine, db.get_reading_engine, db._factory):
        cached.cache_clear()


@pytest.fixture(scope="session", autouse=True)
def _engines() -> Iterator[None]:
    """One engine for each database and set of limits in all tests, for an application makes one too.

    It keeps the connections and the SQL that it has compiled, which is most of what a test would spend on a new one.
    """
    made: list[Engine] = []

    @cache
    def make_engine(*address: str, **limits: int) -> Engine:
        made.append(honest(*address, **limits))
        return made[-1]

    honest = db.make_engine
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(db, "make_engine", make_engine)
        yield
    for engine in made:
        engine.dispose()


@pytest.fixture(scope="session")
def _server_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_var(tmp_path_factory.mktemp("servers") / "var")


@pytest.fixture(scope="session")
def postgres_server(_server_folder: Path) -> Iterator[PostgresServer]:
    """The session's PostgreSQL, migrated to the newest schema. Not safe against power cuts, on purpose."""
    with PostgresServer(_server_folder, settings={"autovacuum": "off"}, durable=False) as server:
        migrate.upgrade(server.url)
        with server._connect_as_superuser() as connection:  # so that `empty` may
            connection.execute(f"GRANT SET ON PARAMETER session_replication_role TO {NAME}")
        yield server


@pytest.fixture(scope="session")
def _maintenance(postgres_server: PostgresServer) -> Iterator[Engine]:
    engine = create_engine(db.normalise_url(postgres_server.url), pool_size=1)
    yield engine
    engine.dispose()


@pytest.fixture
def database(postgres_server: PostgresServer, _maintenance: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty, migrated database, which `app.db` and child processes use; emptied after the test."""
    monkeypatch.setenv("DATABASE_URL", postgres_server.url)
    _forget_settings()
    yield postgres_server.url
    _forget_settings()
    empty(_maintenance)


def empty(engine: Engine) -> None:
    """Empty every table but Alembic's own. Sessions that a failed test left open are ended first, not waited for.

    To delete the rows, without the triggers that forbid or follow it, takes a tenth of what it takes to truncate all
    tables. As nothing vacuums them here, they are truncated all the same once they have grown.
    """
    with engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
                "AND pid <> pg_backend_pid() AND state LIKE 'idle in transaction%'"
            )
        )
        found = connection.execute(
            text(
                "SELECT format('%I', tablename) AS name, pg_relation_size(format('%I', tablename)::regclass) AS size "
                "FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'"
            )
        ).all()
        if not found:
            return
        tables = ", ".join(table.name for table in found)
        if sum(table.size for table in found) > GROWN_BYTES:
            connection.execute(text(f"TRUNCATE {tables} RESTART IDENTITY CASCADE"))
            return
        connection.execute(text(f"LOCK TABLE {tables} IN ACCESS EXCLUSIVE MODE"))  # waits for writers, as TRUNCATE does
        connection.execute(text("SET LOCAL session_replication_role = replica"))
        for table in found:
            if table.size:
                connection.execute(text(f"DELETE FROM {table.name}"))  # noqa: S608  (a table's name, quoted)
        connection.execute(text("SELECT setval(oid::regclass, 1, false) FROM pg_class WHERE relkind = 'S'"))


@pytest.fixture
def session(database: str) -> Iterator[Session]:
    """One transaction, committed at the end of the test. For tests that stay inside one unit of work."""
    with db.transaction() as open_session:
        yield open_session


@pytest.fixture(scope="session")
def _redis_server(_server_folder: Path) -> Iterator[RedisServer]:
    with RedisServer(_server_folder) as server:
        yield server


@pytest.fixture
def redis_url(_redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The URL of an empty Redis, which the settings name and `app.queue` sends to."""
    monkeypatch.setenv("REDIS_URL", _redis_server.url)
    get_settings.cache_clear()
    queue.reset_broker()
    with redis.Redis.from_url(_redis_server.url) as client:
        client.flushall()
        yield _redis_server.url
    monkeypatch.delenv("REDIS_URL")
    get_settings.cache_clear()
    queue.reset_broker()
