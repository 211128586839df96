"""Exporting rankings over HTTP, beside a raw `COPY` of the same rows by the same client; and what the server grows by.

python -m bench export [RANKINGS]

Two baselines: `COPY` of the same columns through the same joins, as text without JSON, and `COPY` of the table of
rankings alone, which holds neither prompts nor answers. Both are read as the export is, block by block, in one process.
"""

from __future__ import annotations

import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

import httpx
import psycopg
from sqlalchemy import text

from app import db, migrate
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.models import User
from app.services.accounts import tokens
from app.services.projects import projects
from app.services.projects.projects import NewProject
from app.settings import get_settings

RANKINGS, ROUNDS, K, LABELERS = 100_000, 3, 4, 20

_SEED = (
    "SELECT setseed(0.5)",
    """INSERT INTO users (email, name, role, password_hash)
       SELECT 'labeler' || n || '@example.org', 'Labeler', 'labeler', '-' FROM generate_series(1, :labelers) n""",
    """INSERT INTO prompts (project_id, position, messages, content_sha256, split)
       SELECT :project, n, jsonb_build_array(jsonb_build_object('role', 'user', 'content',
              'What is "' || n || '"? ' || repeat('Say it so that a child would see why. ', (random() * 8)::int))),
              'bench' || n, 'train' FROM generate_series(1, :prompts) n""",
    """INSERT INTO completions (prompt_id, text, source)
       SELECT id, 'Answer ' || k || E'.\\n' || repeat('Some more words about it. ', (4 + random() * 30)::int), 'model'
       FROM prompts, generate_series(1, :k) k""",
    """INSERT INTO tasks (project_id, prompt_id, kind, state, sort_key, target_overlap)
       SELECT :project, id, 'ranking', 'closed', position, 2 FROM prompts""",
    """INSERT INTO task_completions (task_id, completion_id, position)
       SELECT t.id, c.id, row_number() OVER (PARTITION BY t.id ORDER BY c.id) - 1
       FROM tasks t JOIN completions c ON c.prompt_id = t.prompt_id""",
    """INSERT INTO assignments (task_id, user_id, state, shown_order, guideline_version_id, expires_at)
       SELECT t.id, u.id, 'done', ARRAY(SELECT completion_id FROM task_completions WHERE task_id = t.id),
              g.id, clock_timestamp()
       FROM (SELECT *, row_number() OVER (ORDER BY id) n FROM tasks) t
       CROSS JOIN generate_series(0, 1) lap
       JOIN (SELECT *, row_number() OVER (ORDER BY id) n FROM users WHERE role = 'labeler') u
         ON u.n = 1 + (t.n + lap) % :labelers
       CROSS JOIN guideline_versions g""",
    """INSERT INTO rankings (submit_id, body_sha256, project_id, task_id, assignment_id, user_id, guideline_version_id,
              groups, strengths, acceptable, shown_order, is_simulated, counted, seconds)
       SELECT gen_random_uuid(), repeat('0', 64), :project, task_id, id, user_id, guideline_version_id,
              jsonb_build_array(jsonb_build_array(shown_order[2]), jsonb_build_array(shown_order[1], shown_order[4]),
                                jsonb_build_array(shown_order[3])),
              '{2,1}', 1, shown_order, false, true, 12.5 FROM assignments""",
    "ANALYZE",
)

SAME_ROWS = """
    COPY (SELECT r.*, t.purpose, p.*, g.version, u.name, a.texts
          FROM rankings r JOIN tasks t ON t.id = r.task_id JOIN prompts p ON p.id = t.prompt_id
          JOIN guideline_versions g ON g.id = r.guideline_version_id JOIN users u ON u.id = r.user_id,
          LATERAL (SELECT array_agg((c.id, c.text, c.source, c.finish_reason)) AS texts FROM task_completions tc
                   JOIN completions c ON c.id = tc.completion_id WHERE tc.task_id = r.task_id) a
          WHERE r.project_id = %s ORDER BY r.created_at, r.id) TO STDOUT
"""
_TABLE_ALONE = "COPY (SELECT * FROM rankings WHERE project_id = %s ORDER BY created_at, id) TO STDOUT"


def main(rankings: int = RANKINGS) -> None:
    """Measure on a fresh PostgreSQL and print medians, ratios and the growth of the server's memory."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with PostgresServer(var, durable=False) as server, using({"DATABASE_URL": server.url}):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            project, token = seed(rankings)
            with web(server.url) as (url, pid):
                _measure(server.url, url, pid, project, token, rankings)
            db.reset_engine()


def seed(rankings: int) -> tuple[UUID, str]:
    """Fill the database with a project of so many rankings, and return its id and a token."""
    with db.transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        admin = User(email="admin@example.org", name="Bench", role="admin", password_hash="-")
        session.add(admin)
        session.flush()
        project = projects.create(session, admin, NewProject(name="Bench", guidelines="Rank.", k=K, overlap=2))
        _, token = tokens.create(session, admin, name="bench", scopes=["export:read"], project_id=None, days=1)
        values = {"project": project.id, "labelers": LABELERS, "k": K, "prompts": rankings // 2}
        for statement in _SEED:
            session.execute(text(statement), {name: value for name, value in values.items() if f":{name}" in statement})
    return project.id, token


@contextmanager
def web(database_url: str) -> Iterator[tuple[str, int]]:
    """Run a web process, and yield its address and its id."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(port), "--log-level", "warning"]
    server = subprocess.Popen(command, env=os.environ | {"DATABASE_URL": database_url})
    url = f"http://127.0.0.1:{port}"
    try:
        for _ in range(600):
            try:
                httpx.get(f"{url}/livez").raise_for_status()
                break
            except httpx.TransportError:
                time.sleep(0.1)
        else:
            raise RuntimeError("The web process did not answer within a minute.")
        yield url, server.pid
    finally:
        server.terminate()
        server.wait()


def _measure(database_url: str, url: str, pid: int, project: UUID, token: str, rankings: int) -> None:
    ways: dict[str, Callable[[], int]] = {
        "COPY, table alone": lambda: copy(database_url, _TABLE_ALONE, project),
        "COPY, same rows": lambda: copy(database_url, SAME_ROWS, project),
        "export, lossless": lambda: _export(url, project, token, {}),
        "export, lossless, zstd": lambda: _export(url, project, token, {}, "zstd"),
        "export, lossless, gzip": lambda: _export(url, project, token, {}, "gzip"),
        "export, trl (6 pairs a ranking, 5 of them strict)": lambda: _export(url, project, token, {"format": "trl"}),
    }
    before = memory(str(pid))
    rates: dict[str, list[float]] = {name: [] for name in ways}
    sizes: dict[str, int] = {}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            started = time.perf_counter()
            sizes[name] = way()
            rates[name].append(rankings / (time.perf_counter() - started))
    print(f"export: {rankings:,} rankings of {K} answers, {ROUNDS} rounds in turns; rankings/s, median")
    for name, found in rates.items():
        ratios = [
            sorted(mine / bare for mine, bare in zip(found, rates[base], strict=True))
            for base in ("COPY, same rows", "COPY, table alone")
        ]
        shown = ", ".join(f"{statistics.median(r):.2f} ({r[0]:.2f} to {r[-1]:.2f})" for r in ratios)
        print(f"  {name:50} {statistics.median(found):>9,.0f}/s  {sizes[name] >> 20:>6,} MiB  ratios {shown}")
    print(f"  memory of the web process: {before >> 10} MiB before, at most {memory(str(pid)) >> 10} MiB since")


def copy(database_url: str, sql: str, project: UUID) -> int:
    """Read what a `COPY … TO STDOUT` of the project sends, and return its size."""
    with psycopg.connect(database_url) as connection:
        return read(connection, sql, project)


def read(connection: psycopg.Connection, sql: str, project: UUID) -> int:
    """Do so over a connection that is there."""
    size = 0
    with connection.cursor() as cursor, cursor.copy(sql, [project]) as copy:
        for block in copy:
            size += len(block)
    return size


def _export(url: str, project: UUID, token: str, query: dict[str, str], encoding: str = "identity") -> int:
    size = 0
    headers = {"Authorization": f"Bearer {token}", "Accept-Encoding": encoding}
    path = f"{url}/api/v1/projects/{project}/export"
    with httpx.stream("GET", path, params=query, headers=headers, timeout=600) as answer:
        answer.raise_for_status()
        for block in answer.iter_raw():
            size += len(block)
    return size


def memory(pid: str) -> int:
    """Return the most memory that the process has held so far, in KiB."""
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
