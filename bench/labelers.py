"""Labelers at work over HTTP, beside the same SQL in raw pgbench: how many answers a second, how long each waits.

50 and 200 labelers, at full speed ("closed loop") and with a pause of two seconds before each answer. One request
stores a ranking and answers with the next task. pgbench sends what such a request sends to take a task and to store a
ranking, from as many clients, on the same data of the same server, just before and just after: both see one machine.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import UUID

from sqlalchemy import text

from app import db
from app.embedded.postgres import PostgresServer
from bench import raw
from bench.desk import Labeler, database, make_project, sign_in, web_process

TASKS, OVERLAP, K = 40_000, 3, 4
SECONDS, RAW_SECONDS = 20, 10
THINK_SECONDS = 2.0


@dataclass(frozen=True)
class Place:
    """Where a measurement happens."""

    server: PostgresServer
    address: str
    project_id: UUID
    script: str
    folder: Path


def main() -> None:
    """Measure on a fresh, durable PostgreSQL, with one web process and with two."""
    with database({"max_connections": "260"}) as (server, var), tempfile.TemporaryDirectory() as folder:
        project_id = make_project("Desk", TASKS, overlap=OVERLAP, k=K)
        labelers = sign_in(200)
        raw.open_sessions(labelers)
        script = raw.heard_submit(project_id, labelers[0])
        print(f"labelers: one submit sends {script.count(chr(10)) - 2} statements; all of it shares these cores")
        for workers in (1, 2):
            with web_process(server, var, workers) as address:
                place = Place(server, address, project_id, script, Path(folder))
                for count in (50, 200):
                    for think_seconds in (0.0, THINK_SECONDS):
                        _measure(place, labelers[:count], think_seconds, workers)
        print(f"labelers: over-assigned tasks {over_assigned(project_id)}")


def _measure(place: Place, labelers: list[Labeler], think_seconds: float, workers: int) -> None:
    rate = len(labelers) / think_seconds if think_seconds else 0.0
    bare = [_raw(place, len(labelers), rate)]
    seen = load(place, labelers, think_seconds)
    bare.append(_raw(place, len(labelers), rate))
    ours = len(seen["milliseconds"]) / seen["seconds"]
    floor = statistics.mean(each.per_second for each in bare)
    theirs = [taken for each in bare for taken in each.milliseconds]
    (mine50, mine99), (bare50, bare99) = (percentiles(times) for times in (seen["milliseconds"], theirs))
    pace = f"{think_seconds:.0f} s of thought" if think_seconds else "closed loop"
    errors = len(seen["errors"]) + sum(each.failed for each in bare)
    print(
        f"labelers: {len(labelers)}, {pace}, web processes {workers}: {ours:.0f}/s, pgbench {floor:.0f}/s, "
        f"ratio {ours / floor:.2f}; p50 {mine50:.1f} ms and {bare50:.1f} ms, p99 {mine99:.1f} ms and {bare99:.1f} ms, "
        f"ratio of p99 {mine99 / bare99:.1f}; errors {errors}, lost submits {lost(seen['acknowledged'])}; "
        f"{seen['bytes_received'] / len(seen['milliseconds']) / 1000:.0f} kB an answer, "
        f"load generator {seen['cpu_seconds'] / seen['seconds']:.2f} cores"
    )
    for error in sorted(set(seen["errors"]))[:5]:
        print(f"labelers:   {error}")


def _raw(place: Place, clients: int, rate: float) -> raw.Raw:
    return raw.run(place.folder, place.server.url, place.script, clients=clients, seconds=RAW_SECONDS, per_second=rate)


def load(place: Place, labelers: list[Labeler], think_seconds: float) -> dict[str, Any]:
    """Let labelers work for a while in a process of their own, and return what they saw."""
    plan = place.folder / "plan.json"
    plan.write_text(
        json.dumps(
            {
                "address": place.address,
                "project": str(place.project_id),
                "labelers": [(labeler.token, labeler.csrf_token) for labeler in labelers],
                "seconds": SECONDS,
                "think_seconds": think_seconds,
                "k": K,
            }
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "bench.load", str(plan)], stdout=subprocess.PIPE, text=True, check=True
    )
    seen: dict[str, Any] = json.loads(done.stdout)
    return seen


def percentiles(milliseconds: list[float]) -> tuple[float, float]:
    """Return p50 and p99."""
    cuts = statistics.quantiles(milliseconds, n=100)
    return cuts[49], cuts[98]


def over_assigned(project_id: UUID) -> int:
    """Return how many tasks have more leases and counted rankings than they want, by the rows and not the counters."""
    query = """
        SELECT count(*) FROM tasks t WHERE t.project_id = :project_id AND t.target_overlap <
            (SELECT count(*) FROM assignments a WHERE a.task_id = t.id AND a.state = 'leased')
            + (SELECT count(*) FROM rankings r WHERE r.task_id = t.id AND r.counted)
    """
    with db.transaction() as session:
        session.execute(text("SET LOCAL statement_timeout = 0"))
        return session.scalar(text(query), {"project_id": project_id}) or 0


def lost(acknowledged: list[str]) -> int:
    """Return how many submits that were answered with a 200 are not stored."""
    query = "SELECT count(*) FROM rankings WHERE submit_id = ANY(CAST(:ids AS uuid[]))"
    with db.transaction() as session:
        return len(acknowledged) - (session.scalar(text(query), {"ids": acknowledged}) or 0)
