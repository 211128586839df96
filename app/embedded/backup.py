"""Backups of the database that are known to come back, and a manifest of the files beside it.

    FOLDER/database.dump    pg_dump's custom format, of one moment
    FOLDER/backup.json      version, revision, and of that same moment rows and a checksum of every table; of every file
                            of snapshots, ledgers and runs its SHA-256. The files themselves are the operator's to copy.

`verify` restores into a server of its own that is thrown away, and compares. A dump that nobody has restored is a hope.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import LiteralString

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from app import db, migrate
from app.embedded.access import using
from app.embedded.folder import make_private, make_var
from app.embedded.postgres import PostgresServer, programs
from app.errors import SetupError
from app.main import create_app
from app.services import health
from trainer.manifest import file_sha256

SCHEMA = 1
DUMP, FACTS = "database.dump", "backup.json"
ARTIFACTS = ("snapshots", "ledgers", "runs")
NOT_KEPT = frozenset({"checkpoints", "lock"})  # what a run that goes on writes anew
_ENVIRONMENT = {"host": "PGHOST", "port": "PGPORT", "user": "PGUSER", "password": "PGPASSWORD", "dbname": "PGDATABASE",
    "sslmode": "PGSSLMODE", "sslrootcert": "PGSSLROOTCERT"}  # fmt: skip


@dataclass(frozen=True)
class TableFacts:
    """Rows of a table, and the sum of a hash of each: the order of rows does not matter, their content does."""

    rows: int
    checksum: str


@dataclass(frozen=True)
class Facts:
    """What `backup.json` says."""

    schema: int
    made_at: str
    version: str
    revision: str
    dump_sha256: str
    tables: dict[str, TableFacts]
    sequences: dict[str, int]
    artifacts: dict[str, str]

    @property
    def rows(self) -> int:
        """All rows of all tables."""
        return sum(table.rows for table in self.tables.values())


def make(url: str, var: Path, folder: Path) -> Facts:
    """Write a backup into `folder`, which must not exist yet; the folder is complete or absent.

    Raises `SetupError` when pg_dump is missing, older than the server, or fails.
    """
    if folder.exists():
        raise SetupError(f"{folder} exists already: name a folder that does not, or move it away.")
    aside = make_private(folder.with_name(f".{folder.name}.partial"))
    try:
        with psycopg.connect(_plain(url), options="-c timezone=UTC") as connection:
            pg_dump = _tool("pg_dump", connection.info.server_version // 10000)
            connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            moment = _one(connection, "SELECT pg_export_snapshot()")
            # Read before the dump, so that the dump's is never below: a fence must not be given out twice.
            sequences = _sequences(connection)
            _run([pg_dump, "--format=custom", f"--snapshot={moment}", f"--file={aside / DUMP}"], url)
            facts = Facts(
                schema=SCHEMA,
                made_at=datetime.now(UTC).isoformat(timespec="seconds"),
                version=version("plackett"),
                revision=_one(connection, "SELECT version_num FROM alembic_version"),
                dump_sha256=file_sha256(aside / DUMP),
                tables=_tables(connection),
                sequences=sequences,
                artifacts={path.relative_to(var).as_posix(): file_sha256(path) for path in _artifacts(var)},
            )
        (aside / FACTS).write_text(json.dumps(asdict(facts), indent=1, sort_keys=True) + "\n", encoding="utf-8")
        aside.rename(folder)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return facts


def read(folder: Path) -> Facts:
    """Return what a backup says of itself; raise `SetupError` when it is none, or its dump is not the one it names."""
    try:
        value = json.loads((folder / FACTS).read_text(encoding="utf-8"))
        tables = {name: TableFacts(**table) for name, table in value.pop("tables").items()}
        facts = Facts(tables=tables, **value)
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise SetupError(f"{folder} is no backup: it has no {FACTS} that can be read.") from None
    if facts.schema != SCHEMA:
        raise SetupError(f"{folder} was made by a release with another form of backups; use that release.")
    if not (folder / DUMP).is_file() or file_sha256(folder / DUMP) != facts.dump_sha256:
        raise SetupError(f"{folder / DUMP} is not the file that the backup was made with: take another backup.")
    return facts


def restore(folder: Path, url: str) -> Facts:
    """Restore a backup into an empty database, all or nothing, and compare every table; else raise `SetupError`."""
    facts = read(folder)
    with psycopg.connect(_plain(url)) as connection:
        if _table_names(connection):
            raise SetupError("The database to restore into is not empty, and nothing there is overwritten.")
        pg_restore = _tool("pg_restore", connection.info.server_version // 10000)
    options = ("--no-owner", "--no-privileges", "--exit-on-error", "--single-transaction")
    _run([pg_restore, *options, f"--dbname={_database(url)}", str(folder / DUMP)], url)
    with psycopg.connect(_plain(url), options="-c timezone=UTC") as connection:
        found, sequences = _tables(connection), _sequences(connection)
    differing = [name for name in sorted({*facts.tables, *found}) if facts.tables.get(name) != found.get(name)]
    differing += [name for name, value in facts.sequences.items() if sequences.get(name, -1) < value]
    if differing:
        raise SetupError(f"What came back differs from what was saved, in: {', '.join(differing)}.")
    return facts


def verify(folder: Path) -> Facts:
    """Restore into a server of our own, bring it to this release's schema, run the application on it, throw it away."""
    with (
        tempfile.TemporaryDirectory(prefix="plackett-restore-") as temporary,
        PostgresServer(make_var(Path(temporary) / "var")) as server,
    ):
        facts = restore(folder, server.url)
        migrate.upgrade(server.url)
        with using({"DATABASE_URL": server.url}):
            create_app()
            report = health.check()
            db.reset_engine()
    if not report.ready:
        said = "; ".join(f"{name}: {found}" for name, found in report.checks.items() if found != health.OK)
        raise SetupError(f"The application does not run on what came back ({said}).")
    return facts


def missing_artifacts(facts: Facts, var: Path) -> list[str]:
    """Return the files that the backup names and that are not in `var` as they were."""
    return [
        name
        for name, digest in sorted(facts.artifacts.items())
        if not (var / name).is_file() or file_sha256(var / name) != digest
    ]


def _artifacts(var: Path) -> Iterator[Path]:
    for name in ARTIFACTS:
        for path in sorted((var / name).rglob("*")):
            parts = path.relative_to(var).parts
            if path.is_file() and not path.is_symlink() and not any(p in NOT_KEPT or p.startswith(".") for p in parts):
                yield path


def _table_names(connection: psycopg.Connection[tuple[object, ...]]) -> list[str]:
    query = "SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY tablename"
    return [str(row[0]) for row in connection.execute(query)]


def _tables(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, TableFacts]:
    found = {}
    for name in _table_names(connection):
        row = connection.execute(
            sql.SQL(
                "SELECT count(*), coalesce(sum(('x' || left(md5(t::text), 16))::bit(64)::bigint::numeric), 0)::text "
                "FROM public.{} AS t"
            ).format(sql.Identifier(name))
        ).fetchone()
        if row is not None:
            found[name] = TableFacts(int(str(row[0])), str(row[1]))
    return found


def _sequences(connection: psycopg.Connection[tuple[object, ...]]) -> dict[str, int]:
    query = "SELECT sequencename, coalesce(last_value, 0) FROM pg_sequences WHERE schemaname = 'public'"
    return {str(name): int(str(value)) for name, value in connection.execute(query)}


def _one(connection: psycopg.Connection[tuple[object, ...]], query: LiteralString) -> str:
    row = connection.execute(query).fetchone()
    if row is None:
        raise SetupError("The database has no schema of ours: run `plackett migrate` first.")
    return str(row[0])


def _tool(name: str, server: int) -> str:
    """Return the path of a PostgreSQL program that is not older than the server: ours, or the one on PATH."""
    ours: Path | None = None
    try:
        ours = programs() / name
    except SetupError:
        ours = None
    for path in (str(ours) if ours is not None and ours.exists() else None, shutil.which(name)):
        if path is None:
            continue
        said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
        found = re.search(r"(\d+)", said)
        if found and int(found[1]) >= server:
            return path
    raise SetupError(f"The server is PostgreSQL {server}, and no {name} of that version or newer is here: install it.")


def _run(command: list[str], url: str) -> None:
    """Run a program of PostgreSQL; the address travels in the environment, where other users do not see it."""
    known = conninfo_to_dict(_plain(url))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("PG")}
    environment |= {_ENVIRONMENT[key]: str(value) for key, value in known.items() if key in _ENVIRONMENT}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        said = " ".join(done.stderr.split())[-500:]
        raise SetupError(f"{Path(command[0]).name} failed: {said}")


def _database(url: str) -> str:
    return str(conninfo_to_dict(_plain(url)).get("dbname", ""))


def _plain(url: str) -> str:
    return db.normalise_url(url).replace("postgresql+psycopg://", "postgresql://", 1)
