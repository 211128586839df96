"""Freezing a snapshot, beside a raw `COPY` of the same rows, and what the process that freezes grows by.

python -m bench snapshot [RANKINGS]
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

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
    found = {}
    ways: dict[str, Callable[[], int]] = {
        "COPY, same rows": lambda: export.copy(url, SAME_ROWS, project),
        "snapshot": lambda: _freeze(project),
        "COPY, same rows, again": lambda: export.copy(url, SAME_ROWS, project),
        "the same again, which finds it frozen": lambda: _freeze(project),
    }
    for name, way in ways.items():
        started = time.perf_counter()
        size = way()
        found[name] = (time.perf_counter() - started, size)
    print(f"snapshot: {rankings:,} rankings of {K} answers")
    for name, (seconds, size) in found.items():
        print(f"  {name:40} {seconds:7.1f} s  {rankings / seconds:9,.0f} rankings/s  {size >> 20:,} MiB")
    print(f"  memory of the process: {before >> 10} MiB before, at most {memory('self') >> 10} MiB since")


def _freeze(project: UUID) -> int:
    with db.transaction() as session:
        admin = session.query(User).filter_by(role="admin").one()
        snapshot = snapshots.create(session, projects.get(session, project), admin)
        return sum(int(facts["bytes"]) for facts in snapshot.manifest["files"].values())
