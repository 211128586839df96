"""Freezing a snapshot, beside a raw `COPY` of the same rows, and what the process that freezes grows by.

python -m bench snapshot [RANKINGS]
"""

from __future__ import annotations

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
from app.services.projects import projects
from app.services.training import snapshots
from app.settings import get_settings
from bench import export
from bench.export import SAME_ROWS, K, memory, seed
from bench.imports import sessions_cpu

RANKINGS = 100_000


def main(rankings: int = RANKINGS) -> None:
    """Measure once on a fresh PostgreSQL: both ways read all rows, the second freezing finds them frozen already."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with (
            PostgresServer(var, durable=False) as server,
            using({"DATABASE_URL": server.url, "PLACKETT_VAR": str(var)}),
        ):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            project, _ = seed(rankings)
            _measure(server.url, project, rankings)
            db.reset_engine()


def _measure(url: str, project: UUID, rankings: int) -> None:
    before = memory("self")
    with psycopg.connect(url) as connection:
        ways: dict[str, Callable[[], int]] = {
            "COPY, same rows": lambda: export.read(connection, SAME_ROWS, project),
            "snapshot": lambda: _freeze(project),
            "COPY, same rows, again": lambda: export.read(connection, SAME_ROWS, project),
            "the same again, which finds it frozen": lambda: _freeze(project),
        }
        print(f"snapshot: {rankings:,} rankings of {K} answers; wall, seconds of the processor here and in PostgreSQL")
        for name, way in ways.items():
            started, ours, theirs = time.perf_counter(), time.process_time(), sessions_cpu(url)
            size = way()
            seconds, ours, theirs = (
                time.perf_counter() - started,
                time.process_time() - ours,
                sessions_cpu(url) - theirs,
            )
            print(
                f"  {name:40} {seconds:7.1f} s  {ours:6.1f} s  {theirs:6.1f} s  {rankings / seconds:9,.0f} rankings/s  "
                f"{size >> 20:,} MiB",
                flush=True,
            )
    print(f"  memory of the process: {before >> 10} MiB before, at most {memory('self') >> 10} MiB since")
    print(f"  load of the machine: {' '.join(f'{load:.0f}' for load in os.getloadavg())}")


def _freeze(project: UUID) -> int:
    with db.transaction() as session:
        admin = session.query(User).filter_by(role="admin").one()
        snapshot = snapshots.create(session, projects.get(session, project), admin)
        return sum(int(facts["bytes"]) for facts in snapshot.manifest["files"].values())
