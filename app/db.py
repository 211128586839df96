"""The database: engine, the one session type, and the only place that commits.

One request or task is one transaction. `get_session` is used as `Depends(get_session, scope="function")`, so the
commit happens before the response is made: a 2xx is never sent for a write that Postgres has not confirmed.
Messages registered with `after_commit` leave once the commit has returned.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from functools import lru_cache
from typing import Annotated, Any
from uuid import UUID

from fastapi import Depends
from sqlalchemy import DateTime, Engine, MetaData, create_engine, event, text
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.dialects.postgresql import UUID as PG_UUID
from sqlalchemy.orm import DeclarativeBase, Session, mapped_column, sessionmaker

from app.errors import SetupError
from app.settings import get_settings

READING_MS = 3_600_000
"""The longest that one export may take, slow reader and all; one that is cut can go on behind its last line."""


class Base(DeclarativeBase):
    """Declarative base: constraint names are fixed so that migrations can name them, types default to ours."""

    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "ck": "ck_%(table_name)s_%(constraint_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map = {  # noqa: RUF012  (SQLAlchemy reads this exact class attribute)
        UUID: PG_UUID(as_uuid=True),
        datetime: DateTime(timezone=True),
        dict[str, Any]: JSONB,
        list[Any]: JSONB,
    }


IdPk = Annotated[UUID, mapped_column(primary_key=True, server_default=text("uuidv7()"))]
Now = Annotated[datetime, mapped_column(server_default=text("clock_timestamp()"))]


def normalise_url(url: str) -> str:
    """Return `url` with psycopg 3 as its driver, whatever common Postgres prefix it came with."""
    for prefix in ("postgresql+psycopg://", "postgresql://", "postgres://"):
        if url.startswith(prefix):
            return "postgresql+psycopg://" + url.removeprefix(prefix)
    scheme, is_address, _ = url.partition("://")  # what is no address at all may be a password by mistake
    raise SetupError(f"DATABASE_URL must start with postgresql://{f', not {scheme}://' if is_address else ''}.")


# A server that has vanished from the network is noticed in half a minute, not in the two hours that systems wait.
NOTICE_SILENCE = {"keepalives_idle": 10, "keepalives_interval": 5, "keepalives_count": 3, "tcp_user_timeout": 30_000}


def make_engine(
    url: str, *, pool_size: int = 5, max_overflow: int = 0, statement_timeout_ms: int = 0, lock_timeout_ms: int = 0
) -> Engine:
    """Return an engine whose sessions give up after the timeouts (milliseconds; 0 means never)."""
    options = (
        f"-c statement_timeout={statement_timeout_ms} -c lock_timeout={lock_timeout_ms} "
        "-c idle_in_transaction_session_timeout=60000 -c timezone=UTC"
    )
    return create_engine(
        normalise_url(url),
        pool_size=pool_size,
        max_overflow=max_overflow,
        pool_timeout=2,
        pool_pre_ping=True,
        hide_parameters=True,  # they are people's words and the hashes of secrets, and errors end in logs
        connect_args={"options": options, "connect_timeout": 5, **NOTICE_SILENCE},
    )


@lru_cache(maxsize=1)
def get_engine() -> Engine:
    """Return the process's engine, made on first use from `DATABASE_URL`."""
    settings = get_settings()
    if settings.database_url is None:
        raise SetupError("DATABASE_URL is not set: run `plackett up`, or point it at a PostgreSQL 18 server.")
    return make_engine(
        settings.database_url,
        pool_size=settings.database_pool_size,
        statement_timeout_ms=settings.statement_timeout_ms,
        lock_timeout_ms=settings.lock_timeout_ms,
    )


@lru_cache(maxsize=1)
def get_reading_engine() -> Engine:
    """Return the engine of exports: a slow reader must not take the connections that labelers need.

    Two connections are kept; the others of a busy hour are closed when their export is over.
    """
    settings = get_settings()
    if settings.database_url is None:
        raise SetupError("DATABASE_URL is not set: run `plackett up`, or point it at a PostgreSQL 18 server.")
    kept = min(2, settings.export_streams)
    return make_engine(
        settings.database_url,
        pool_size=kept,
        max_overflow=settings.export_streams - kept,
        statement_timeout_ms=READING_MS,
    ).execution_options(isolation_level="REPEATABLE READ", postgresql_readonly=True)


@lru_cache(maxsize=1)
def _factory() -> sessionmaker[Session]:
    return sessionmaker(get_engine(), expire_on_commit=False)


def reset_engine() -> None:
    """Drop the cached engines and their connections (tests, and children after a fork)."""
    for cached in (get_engine, get_reading_engine):
        if cached.cache_info().currsize:
            cached().dispose()
        cached.cache_clear()
    _factory.cache_clear()


@contextmanager
def transaction() -> Iterator[Session]:
    """One unit of work: commit on success, roll back on any error. The only commit in the code base."""
    with _factory()() as session, session.begin():
        yield session


@contextmanager
def reading() -> Iterator[Session]:
    """A read-only transaction that sees one moment of the database from its first query to its last."""
    with Session(get_reading_engine()) as session:
        yield session


def get_session() -> Iterator[Session]:
    """FastAPI dependency; always with `scope="function"`, see the module's docstring."""
    with transaction() as session:
        yield session


# Requests beyond this number wait in the event loop. Were they to wait in the pool instead, they would hold the threads
# that the requests with a connection need to go on, and both sides would stand still until the pool gives up.
# Four connections of the pool (`database_pool_size`) stay free: two for the answers of chats (`app.streams`), two for
# readiness checks and for what follows a commit.
MAX_SESSIONS = 8

SessionDep = Annotated[Session, Depends(get_session, scope="function", max_concurrency=MAX_SESSIONS)]


def after_commit(session: Session, send: Callable[[], object]) -> None:
    """Call `send` once this session's transaction is committed; never if it rolls back.

    `send` must not raise for a broker that is down: what it announces is already a row.
    """
    session.info.setdefault("after_commit", []).append(send)


@event.listens_for(Session, "after_commit")
def _run_after_commit(session: Session) -> None:
    for send in session.info.pop("after_commit", []):
        send()


@event.listens_for(Session, "after_rollback")
def _drop_after_commit(session: Session) -> None:
    session.info.pop("after_commit", None)
