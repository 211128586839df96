"""The two probes: alive is the process, ready is what labelers need, and Redis is not among it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from browsers import Browser
from sqlalchemy import text

from app import db, migrate
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.main import create_app
from app.settings import get_settings


@pytest.fixture(scope="module")
def _durable_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with PostgresServer(make_var(tmp_path_factory.mktemp("durable") / "var")) as server:
        migrate.upgrade(server.url)
        yield server.url


@pytest.fixture
def durable(_durable_server: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings that name a server that is safe against power cuts, as one in use must be."""
    monkeypatch.setenv("DATABASE_URL", _durable_server)
    get_settings.cache_clear()
    db.reset_engine()
    yield
    db.reset_engine()


@pytest.fixture
def client() -> Iterator[Browser]:
    with Browser(create_app()) as browser:
        yield browser


@pytest.mark.usefixtures("durable")
def test_ready_when_all_parts_answer(redis_url: str, client: Browser) -> None:
    answer = client.get("/readyz")
    assert answer.json() == {
        "status": "ready",
        "checks": {"postgres": "ok", "migrations": "ok", "durability": "ok", "redis": "ok"},
    }
    assert answer.status_code == 200


@pytest.mark.usefixtures("durable")
def test_without_redis_labelers_can_still_work(client: Browser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://127.0.0.1:1/0")
    get_settings.cache_clear()
    answer = client.get("/readyz")
    assert (answer.status_code, answer.json()["status"]) == (200, "degraded")
    assert answer.json()["checks"]["redis"] == "does not answer: new runs wait until it does"


@pytest.mark.usefixtures("database")
def test_a_server_that_may_forget_is_not_ready(client: Browser) -> None:
    answer = client.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["durability"] == "off: fsync, full_page_writes, synchronous_commit"


@pytest.mark.usefixtures("durable")
def test_an_old_schema_is_not_ready(client: Browser) -> None:
    with db.transaction() as session:
        newest = session.scalar(
            text("UPDATE alembic_version SET version_num = version_num || 'x' RETURNING version_num")
        )
    try:
        answer = client.get("/readyz")
    finally:
        with db.transaction() as session:
            session.execute(text("UPDATE alembic_version SET version_num = :old"), {"old": str(newest)[:-1]})
    assert answer.status_code == 503
    assert answer.json()["checks"]["migrations"] == "not at the newest revision: run `plackett migrate`"


def test_without_postgres_alive_but_not_ready(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    get_settings.cache_clear()
    db.reset_engine()
    with Browser(create_app()) as browser:
        assert browser.get("/livez").json() == {"status": "alive"}
        answer = browser.get("/readyz")
    assert answer.status_code == 503
    assert answer.json()["checks"]["postgres"] == "does not answer"
