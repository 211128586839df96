"""The same SQL without us: the statements that one submit sends, heard once and given to pgbench as a script.

One transaction that takes a task and stores a ranking of it is run through the services while a listener notes what
goes to PostgreSQL. Ids that differ from task to task become variables of the script, everything else stays as it was.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit
from uuid import UUID

from psycopg import sql
from sqlalchemy import event, func
from sqlalchemy.orm import Session

from app import db
from app.embedded.postgres import programs
from app.models import Assignment, Project, WebSession
from app.services.accounts import access
from app.services.labeling import assignments, rankings
from bench.desk import Labeler

RANKS = {"rank_A": "1", "rank_B": "2", "rank_C": "2", "rank_D": "3"}

Statement = tuple[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Raw:
    """What pgbench did: transactions a second, the milliseconds of each, and how many failed."""

    per_second: float
    milliseconds: list[float]
    failed: int


def open_sessions(labelers: Sequence[Labeler]) -> None:
    """Sign the labelers in once more, under the tokens that the clients of pgbench know."""
    with db.transaction() as session:
        for number, labeler in enumerate(labelers):
            session.add(
                WebSession(
                    token_sha256=access.digest(f"raw-{number}"),
                    user_id=labeler.user.id,
                    csrf_token="-",
                    user_agent="pgbench",
                    expires_at=func.clock_timestamp() + timedelta(days=1),
                )
            )


def heard_submit(project_id: UUID, labeler: Labeler) -> str:
    """Take a task and rank it as one request does, session look-up included, and return that as a script."""
    statements: list[Statement] = []

    def hear(_connection: Any, _cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, dict(parameters)))

    event.listen(db.get_engine(), "before_cursor_execute", hear)
    try:
        with db.transaction() as session:
            found = access.find_session(session, labeler.token)
            project = session.get_one(Project, project_id)
            taken = assignments.claim(session, project, found.user, "ranking") if found else None
            if found is None or taken is None:
                raise RuntimeError("The labeler is not signed in, or no task is left.")
            rankings.submit(session, taken, found.user, _submit_id(session, taken), RANKS)
    finally:
        event.remove(db.get_engine(), "before_cursor_execute", hear)
    with db.transaction() as session:
        assignment = session.get_one(Assignment, taken)
    names = {
        access.digest(labeler.token).hex(): "sha256(convert_to('raw-' || :client_id, 'UTF8'))",
        str(labeler.user.id): "CAST(:s_user_id AS uuid)",
        f"{labeler.user.id}:{project_id}": f"(CAST(:s_user_id AS text) || ':{project_id}')",
        str(taken): "CAST(:id AS uuid)",
        str(assignment.task_id): "CAST(:t_id AS uuid)",
        str(assignment.submit_id): "CAST(:a_submit_id AS uuid)",
        str(assignment.shown_order): "CAST(:a_shown_order AS uuid[])",
    }
    return "\n".join(["BEGIN;", *(_line(*statement, names) for statement in statements), "COMMIT;", ""])


def _submit_id(session: Session, assignment_id: UUID) -> UUID:
    """Return what the page knows already, and what is no part of the request, past the listener."""
    driver: Any = session.connection().connection.driver_connection
    found: UUID = driver.execute("SELECT submit_id FROM assignments WHERE id = %s", [assignment_id]).fetchone()[0]
    return found


def _line(statement: str, parameters: Mapping[str, Any], names: Mapping[str, str]) -> str:
    """Return a statement as a line of the script; what later ones need of its row is kept in variables."""
    written = re.sub(r"%\((\w+)\)s", lambda match: _value(parameters[match[1]], names), statement).replace("%%", "%")
    kept = {
        "FROM web_sessions": " \\gset s_",
        "SELECT id FROM held UNION ALL SELECT id FROM made": " \\gset",
        "FOR UPDATE OF tasks": " \\gset t_",
        "FOR UPDATE OF assignments": " \\gset a_",
    }
    end = next((keep for part, keep in kept.items() if part in statement), ";")
    return " ".join(written.split()) + end


def _value(value: Any, names: Mapping[str, str]) -> str:
    plain = getattr(value, "obj", value)  # bytes and JSON come wrapped
    return names.get(plain.hex() if isinstance(plain, bytes) else str(plain)) or sql.Literal(value).as_string(None)


def run(folder: Path, url: str, script: str, *, clients: int, seconds: int, per_second: float = 0) -> Raw:
    """Run a script with pgbench for some seconds, at full speed or at so many transactions a second."""
    (folder / "script.sql").write_text(script, encoding="utf-8")
    for old in folder.glob("log.*"):
        old.unlink()
    parts = urlsplit(url)
    command = [
        *(str(programs() / "pgbench"), "-n", "-M", "prepared", "-f", "script.sql", "-l", "--log-prefix", "log"),
        *("-c", str(clients), "-j", "1", "-T", str(seconds)),
        *(("-R", f"{per_second:.1f}") if per_second else ()),
    ]
    environment = {
        "PGHOST": parse_qs(parts.query)["host"][0],
        "PGUSER": parts.username or "",
        "PGPASSWORD": parts.password or "",
        "PGDATABASE": parts.path.strip("/"),
    }
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0 or "tps = " not in done.stdout:
        raise RuntimeError(f"pgbench failed ({done.returncode}): {done.stderr[-1000:]}{done.stdout[-1000:]}")
    milliseconds = []
    for log in folder.glob("log.*"):
        for line in log.read_text(encoding="utf-8").splitlines():
            _, _, taken, _, _, _, *lag = line.split()
            milliseconds.append((float(taken) - (float(lag[0]) if lag else 0)) / 1000)
    failed = re.search(r"number of failed transactions: (\d+)", done.stdout)
    tps = re.search(r"tps = ([\d.]+)", done.stdout)
    return Raw(float(tps[1]) if tps else 0.0, milliseconds, int(failed[1]) if failed else 0)
