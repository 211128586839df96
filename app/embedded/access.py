"""How a command finds its database: the settings', a running stack's, or our own PostgreSQL for as long as it runs."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from collections.abc import Iterator, Mapping
from pathlib import Path

import psycopg
from alembic.util import CommandError
from psycopg.errors import LockNotAvailable
from sqlalchemy.exc import DBAPIError

from app import db, migrate, queue
from app.embedded.folder import ProcessRecord, exclusive, is_held, make_var
from app.embedded.postgres import PostgresServer
from app.errors import SetupError
from app.settings import Settings, get_settings

logger = logging.getLogger(__name__)

LOCK_ATTEMPTS = 5
OLDEST_SERVER = 180000  # PostgreSQL 18: uuidv7()


def state_file(var: Path) -> Path:
    """Return where a running stack says how to reach it (mode 0600: the database's password is in it)."""
    return var / "run" / "stack.json"


def use(environment: Mapping[str, str]) -> None:
    """Lead this process, and the children it will start, to what the variables name."""
    os.environ.update(environment)
    get_settings.cache_clear()
    db.reset_engine()
    queue.reset_broker()


@contextlib.contextmanager
def using(environment: Mapping[str, str]) -> Iterator[None]:
    """Do `use`, and take it back at the end."""
    before = {name: os.environ.get(name) for name in environment}
    use(environment)
    try:
        yield
    finally:
        for name in [name for name, value in before.items() if value is None]:
            os.environ.pop(name, None)
        use({name: value for name, value in before.items() if value is not None})


def running_stack(var: Path) -> dict[str, str] | None:
    """Return the environment of the stack that runs on this data folder, or None."""
    if not is_held(var):
        return None
    try:
        state: dict[str, str] = json.loads(state_file(var).read_text())
    except FileNotFoundError:
        return None  # it is starting or stopping
    return {name: value for name, value in state.items() if name.isupper()}


def require_services(settings: Settings) -> None:
    """Lead this process to the settings' servers, else to the running stack's; raise SetupError if there are none."""
    if settings.database_url and settings.redis_url:
        return
    found = running_stack(settings.var.absolute())
    if found is None:
        raise SetupError("Set DATABASE_URL and REDIS_URL, or run `plackett up`, which starts both servers itself.")
    use(found)


@contextlib.contextmanager
def database_for_command(settings: Settings) -> Iterator[str]:
    """Yield the URL of a database at the newest schema, and lead this process to it."""
    with contextlib.ExitStack() as resources:
        var = settings.var.absolute()
        found = running_stack(var)
        if settings.database_url is not None:
            url = settings.database_url
            require_database(url)
        elif found is not None:
            url = found["DATABASE_URL"]
        else:
            make_var(var)
            resources.enter_context(exclusive(var))
            ProcessRecord(var).end_left_over()  # a server that is still stopping would refuse a second one
            url = resources.enter_context(PostgresServer(var)).url
        resources.enter_context(using({"DATABASE_URL": url}))
        migrate_to_newest(url)
        yield url


def require_database(url: str) -> None:
    """Raise SetupError unless a PostgreSQL that is new enough answers at `url`."""
    plain = db.normalise_url(url).replace("postgresql+psycopg://", "postgresql://", 1)
    try:
        with psycopg.connect(plain, connect_timeout=5) as connection:
            version = connection.info.server_version
    except psycopg.Error as error:
        reason = " ".join(str(error).split())
        raise SetupError(
            f"PostgreSQL at DATABASE_URL cannot be used ({reason}): check the address, or unset it."
        ) from None
    if version < OLDEST_SERVER:
        raise SetupError(f"The server at DATABASE_URL is PostgreSQL {version // 10000}; 18 or newer is needed.")


def migrate_to_newest(url: str) -> None:
    """Run the migrations; raise SetupError if this code cannot bring the database to its schema.

    A lock that is not to be had in time is asked for again: meanwhile whoever waited behind the attempt has gone on.
    """
    for attempts_left in reversed(range(LOCK_ATTEMPTS)):
        try:
            _migrate(url)
        except SetupError as error:
            cause = error.__cause__
            if not attempts_left or not (isinstance(cause, DBAPIError) and isinstance(cause.orig, LockNotAvailable)):
                raise
            logger.warning("a migration waited for a lock in vain and tries again, %s times more", attempts_left)
        else:
            return


def _migrate(url: str) -> None:
    try:
        migrate.upgrade(url)
    except CommandError as error:
        raise SetupError(
            f"The database knows a schema that this release does not ({error}): it was used by a newer release, "
            "so update this one."
        ) from None
    except DBAPIError as error:
        reason = " ".join(str(error.orig).split())
        raise SetupError(
            f"The database could not be brought to the newest schema ({reason}); nothing was changed."
        ) from error
