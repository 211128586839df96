"""Migrations beside a database at work: a lock that is held is asked for again, and nobody queues behind."""

from __future__ import annotations

import logging

import psycopg
import pytest

from app import migrate
from app.embedded import access
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.errors import SetupError


class Released(logging.Handler):
    """Ends a transaction as soon as the migration says that it waited in vain."""

    def __init__(self, holder: psycopg.Connection[tuple[object, ...]]) -> None:
        super().__init__()
        self.holder = holder
        self.said: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.said.append(record.getMessage())
        self.holder.rollback()


def test_a_migration_waits_again_for_a_lock_that_is_held(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with PostgresServer(make_var(tmp_path_factory.mktemp("migrating") / "var"), durable=False) as server:
        migrate.upgrade(server.url, "0006")
        with psycopg.connect(server.url) as holder:
            released = Released(holder)
            access.logger.addHandler(released)
            try:
                holder.execute("LOCK TABLE runs IN ACCESS SHARE MODE")
                with monkeypatch.context() as once:
                    once.setattr(access, "LOCK_ATTEMPTS", 1)
                    with pytest.raises(SetupError, match=r"lock timeout.*nothing was changed"):
                        access.migrate_to_newest(server.url)
                access.migrate_to_newest(server.url)
            finally:
                access.logger.removeHandler(released)
            assert len(released.said) == 1
            assert "tries again, 4 times more" in released.said[0]
