"""Importing comparisons, beside raw `COPY … FROM` of the very rows that the import stores, into the same tables.

python -m bench import [COMPARISONS]

The second baseline copies the lines into one table of one JSON column without an index. In each round the tables are
emptied first; seconds of the processor are those of this process and of all sessions of PostgreSQL.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import psycopg

from app import db, migrate
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.models import User
from app.services.data import intake
from app.services.projects import projects
from app.services.projects.projects import NewProject
from app.settings import get_settings
from bench.export import memory

COMPARISONS, ROUNDS = 20_000, 3
TABLES = ("prompts", "completions", "tasks", "task_completions", "assignments", "rankings")
_WORDS = "Say it so that a child would see why. "


def main(comparisons: int = COMPARISONS, rounds: int = ROUNDS) -> None:
    """Measure on a fresh PostgreSQL and print the ratios."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with PostgresServer(var, durable=False) as server, using({"DATABASE_URL": server.url}):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            _measure(server.url, Path(folder), comparisons, rounds)
            db.reset_engine()


def write_pairs(path: Path, count: int) -> None:
    """Write so many comparisons in TRL's shape of texts, each of a prompt of its own."""
    with path.open("w", encoding="utf-8") as file:
        for number in range(count):
            row = {
                "prompt": f"What is “{number}”? {_WORDS * (number % 8)}",
                "chosen": f"Answer {number}.\n{'Some more words about it. ' * (4 + number % 20)}",
                "rejected": f"No idea about {number}.\n{'Some more words about it. ' * (4 + number % 13)}",
                "margin": float(number % 4),
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _measure(url: str, folder: Path, count: int, rounds: int) -> None:
    with db.transaction() as session:
        admin = User(email="admin@example.org", name="Bench", role="admin", password_hash="-")
        session.add(admin)
        session.flush()
        project = projects.create(session, admin, NewProject(name="Bench", guidelines="Rank.", k=2, overlap=1)).id
    pairs = folder / "pairs.jsonl"
    write_pairs(pairs, count)
    before, found = memory("self"), dict[str, list[tuple[float, float]]]()
    ways: dict[str, Callable[[psycopg.Connection], None]] = {
        "import": lambda _: _import(pairs, project),
        "COPY FROM, the same rows": lambda connection: _copy_in(connection, folder),
        "COPY FROM, the lines alone": lambda connection: _lines(connection, pairs),
    }
    for _ in range(rounds):
        for name, way in ways.items():
            with psycopg.connect(url) as connection:
                started, spent = time.perf_counter(), _cpu(url)
                way(connection)
                connection.commit()
                found.setdefault(name, []).append((time.perf_counter() - started, _cpu(url) - spent))
                if name == "import":
                    _copy_out(connection, folder)
                connection.execute(f"TRUNCATE {', '.join(TABLES)} CASCADE")
                connection.execute("DROP TABLE IF EXISTS bench_lines")
    base = found["COPY FROM, the same rows"]
    print(f"import: {count:,} comparisons, {pairs.stat().st_size >> 20} MiB, {rounds} rounds in turns")
    for name, rows in found.items():
        walls = sorted(seconds for seconds, _ in rows)
        spent = min(cpu for _, cpu in rows)
        ratio = sorted(theirs / mine for (mine, _), (theirs, _) in zip(rows, base, strict=True))
        print(
            f"  {name:28} {count / walls[len(walls) // 2]:9,.0f}/s, ratio {ratio[len(ratio) // 2]:.2f} "
            f"({ratio[0]:.2f} to {ratio[-1]:.2f}); {spent:6.1f} s of the processor, ratio "
            f"{min(cpu for _, cpu in base) / spent:.2f}"
        )
    print(f"  memory of the process: {before >> 10} MiB before, at most {memory('self') >> 10} MiB since")


def _import(path: Path, project: UUID) -> None:
    with path.open("rb") as file, db.transaction() as session:
        admin = session.query(User).filter_by(role="admin").one()
        report = intake.import_file(
            session, projects.get(session, project), admin, file, format_name="trl-text", dataset="bench"
        )
    assert report.added


def _copy_out(connection: psycopg.Connection, folder: Path) -> None:
    for table in TABLES:
        sql = f"COPY (SELECT {_columns(connection, table)} FROM {table}) TO STDOUT"  # noqa: S608  (our own names)
        with (folder / table).open("wb") as file, connection.cursor().copy(sql) as copy:
            for block in copy:
                file.write(block)


def _copy_in(connection: psycopg.Connection, folder: Path) -> None:
    for table in TABLES:
        _send(connection, f"COPY {table} ({_columns(connection, table)}) FROM STDIN", folder / table)


def _columns(connection: psycopg.Connection, table: str) -> str:
    rows = connection.execute(
        "SELECT column_name FROM information_schema.columns WHERE table_name = %s AND is_generated = 'NEVER'", [table]
    )
    return ", ".join(name for (name,) in rows)


def _lines(connection: psycopg.Connection, path: Path) -> None:
    connection.execute("CREATE TABLE bench_lines (line jsonb)")
    _send(connection, "COPY bench_lines FROM STDIN (FORMAT csv, DELIMITER E'\\x01', QUOTE E'\\x02')", path)


def _send(connection: psycopg.Connection, sql: str, path: Path) -> None:
    with path.open("rb") as file, connection.cursor().copy(sql) as copy:
        while block := file.read(1 << 16):
            copy.write(block)


def _cpu(url: str) -> float:
    """Return the seconds of the processor that this process and all of the server's sessions have had."""
    return time.process_time() + sessions_cpu(url)


def sessions_cpu(url: str) -> float:
    """Return the seconds of the processor that all sessions of the server have had that are there now."""
    with psycopg.connect(url) as connection:
        pids = [pid for (pid,) in connection.execute("SELECT pid FROM pg_stat_activity WHERE datname IS NOT NULL")]
    return sum(_ticks(pid) for pid in pids) / os.sysconf("SC_CLK_TCK")


def _ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rsplit(")", 1)[1].split()
    except FileNotFoundError:
        return 0
    return int(fields[11]) + int(fields[12])
