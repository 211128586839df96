"""The desk that benches work at: a durable PostgreSQL, a web process, a project of any size, people signed in.

What is measured goes through the real services and pages; only the filling, which nobody measures, is plain SQL.
"""

from __future__ import annotations

import os
import secrets
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from sqlalchemy import text

from app import db, migrate
from app.embedded import web
from app.embedded.access import using
from app.embedded.folder import make_var
from app.embedded.postgres import PostgresServer
from app.embedded.process import ChildProcess
from app.embedded.redis import RedisServer
from app.models import Project, User
from app.services.accounts import access
from app.services.projects import projects
from app.services.projects.projects import NewProject
from app.settings import get_settings

SENTENCE = "The kettle sings when the water is hot, and that takes four minutes on the small ring of the old stove. "

_FILL = """
WITH numbers AS (SELECT n FROM generate_series(CAST(:first AS int), CAST(:last AS int)) n),
prompt AS (
    INSERT INTO prompts (project_id, position, messages, content_sha256, split)
    SELECT CAST(:project_id AS uuid), n,
           jsonb_build_array(jsonb_build_object('role', 'user', 'content', 'How long does it take? ' || n)),
           md5(n::text), 'train' FROM numbers RETURNING id, position),
task AS (
    INSERT INTO tasks (project_id, prompt_id, kind, state, sort_key, target_overlap)
    SELECT CAST(:project_id AS uuid), id, 'ranking', 'open', position, CAST(:overlap AS int) FROM prompt
    RETURNING id, prompt_id),
answer AS (
    INSERT INTO completions (prompt_id, text, source, sample_index)
    SELECT id, 'Answer ' || k || '. ' || repeat(:sentence, 4), 'model', k
    FROM prompt, generate_series(1, CAST(:k AS int)) k
    RETURNING id, prompt_id, sample_index)
INSERT INTO task_completions (task_id, completion_id, position)
SELECT task.id, answer.id, answer.sample_index - 1 FROM task JOIN answer ON answer.prompt_id = task.prompt_id
"""


@dataclass(frozen=True)
class Labeler:
    """Somebody who is signed in: the cookie's token and the token of their forms."""

    user: User
    token: str
    csrf_token: str


@contextmanager
def database(settings: Mapping[str, str] | None = None) -> Iterator[tuple[PostgresServer, Path]]:
    """Run a fresh, durable, migrated PostgreSQL that `app.db` uses, and give it with the folder of its data."""
    with tempfile.TemporaryDirectory() as folder:
        var = make_var(Path(folder) / "var")
        with PostgresServer(var, settings=settings) as server, using({"DATABASE_URL": server.url}):
            get_settings.cache_clear()
            db.reset_engine()
            migrate.upgrade(server.url)
            yield server, var
            db.reset_engine()
        get_settings.cache_clear()


@contextmanager
def web_process(server: PostgresServer, var: Path, workers: int = 1) -> Iterator[str]:
    """Run the web process as `plackett up` starts it, with Redis, and give its address."""
    with RedisServer(var) as redis:
        bound = web.bind("127.0.0.1", 0)
        child = ChildProcess(
            "web",
            [sys.executable, "-m", "app.cli", "serve", "--fd", str(bound.fileno()), "--web-workers", str(workers)],
            log=var / "log" / "web.log",
            environment={
                **{name: value for name, value in os.environ.items() if not name.startswith("PLACKETT_")},
                "DATABASE_URL": server.url,
                "REDIS_URL": redis.url,
                "PLACKETT_VAR": str(var),
            },
            descriptors=[bound.fileno()],
        )
        child.start()
        try:
            address = web.address_of(bound)
            while child.running and not _answers(f"{address}/readyz"):
                child.wait(0.1)
            if not child.running:
                raise RuntimeError(child.last_words())
            yield address
        finally:
            child.stop()
            bound.close()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(address, timeout=10) as response:  # noqa: S310  (our own http address)
            return bool(response.status == 200)
    except urllib.error.URLError:
        return False


def make_project(name: str, tasks: int, *, overlap: int = 3, k: int = 4, with_answers: bool = True) -> UUID:
    """Make a project with so many open ranking tasks of `k` answers, or of none to save time, and return its id."""
    with db.transaction() as session:
        admin = _person(f"{name} admin", "admin")
        session.add(admin)
        session.flush()
        project = projects.create(
            session,
            admin,
            NewProject(name=name, guidelines="Rank by truth, then by use. " * 12, k=k, overlap=overlap),
        )
        session.flush()
        project_id = project.id
    for first in range(0, tasks, 20_000):
        with db.transaction() as session:
            session.execute(text("SET LOCAL statement_timeout = 0"))
            session.execute(
                text(_FILL),
                {
                    "project_id": project_id,
                    "first": first,
                    "last": min(first + 20_000, tasks) - 1,
                    "overlap": overlap,
                    "sentence": SENTENCE,
                    "k": k if with_answers else 0,
                },
            )
    analyse()
    return project_id


def analyse() -> None:
    """Let PostgreSQL look at what was filled in, as its own upkeep does within a minute."""
    with db.get_engine().connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("SET statement_timeout = 0"))
        connection.execute(text("VACUUM (ANALYZE)"))


def sign_in(count: int, name: str = "labeler") -> list[Labeler]:
    """Make so many labelers, each with an open session."""
    signed_in = []
    with db.transaction() as session:
        for number in range(count):
            user = _person(f"{name} {number}", "labeler")
            session.add(user)
            session.flush()
            token = access.open_session(session, user, "bench")
            found = access.find_session(session, token)
            if found is None:
                raise RuntimeError("a session that was just opened is not there")
            signed_in.append(Labeler(user, token, found.csrf_token))
    return signed_in


def project_of(project_id: UUID) -> Project:
    """Return the project's row."""
    with db.transaction() as session:
        return session.get_one(Project, project_id)


def _person(name: str, role: str) -> User:
    email = f"{name}.{secrets.token_hex(3)}@example.org".replace(" ", "-")
    return User(email=email, name=name.title(), role=role, password_hash="-")
