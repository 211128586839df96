"""Snapshots and imports that a worker makes: answered at once, all or nothing, and read afterwards."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest
from fastapi import FastAPI
from run_builders import fill_project, make_project, make_user
from sqlalchemy import func, select, update

from app.db import transaction
from app.models import Job, Project, Prompt, Ranking, Snapshot, Upload, User
from app.services.accounts import tokens
from app.services.data import jobs
from app.services.training import snapshots
from app.settings import get_settings
from app.worker import job_child, tasks

DEADLINE_SECONDS = 120


def lines(count: int, *more: bytes) -> bytes:
    rows = [{"prompt": f"Why {number}?", "chosen": "So.", "rejected": "No."} for number in range(count)]
    return b"".join([*(json.dumps(row).encode() + b"\n" for row in rows), *more])


@dataclass(frozen=True)
class Place:
    client: Any
    project: UUID
    admin: UUID
    token: str

    def call(self, method: str, path: str, content: bytes = b"", **headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(
            method, path, content=content, headers={"Authorization": f"Bearer {self.token}"} | named
        )

    def send(self, content: bytes, format_name: str = "trl-text") -> Any:
        path = f"/api/v1/projects/{self.project}/import?format={format_name}&dataset=d"
        return self.call("POST", path, content, Content_Type="application/x-ndjson")

    def freeze(self, key: str) -> Any:
        return self.call("POST", f"/api/v1/projects/{self.project}/snapshots", Idempotency_Key=key)


@pytest.fixture
def place(database: str, app: FastAPI, client: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    monkeypatch.setenv("PLACKETT_IMPORT_AT_ONCE_BYTES", "500")
    monkeypatch.setenv("PLACKETT_FREEZE_AT_ONCE_ROWS", "3")
    get_settings.cache_clear()
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        scopes = ["import:write", "snapshots:write"]
        _, token = tokens.create(session, admin, name="t", scopes=scopes, project_id=project.id, days=1)
    yield Place(client, project.id, admin.id, token)
    get_settings.cache_clear()


def stored() -> tuple[int, int, int]:
    with transaction() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Ranking, Prompt, Upload)]
    return counts[0] or 0, counts[1] or 0, counts[2] or 0


def job_of(answer: Any) -> UUID:
    assert answer.status_code == 202, answer.text
    return UUID(answer.json()["id"])


def test_a_large_file_is_answered_at_once_and_imported_by_a_worker(place: Place) -> None:
    assert place.send(lines(3)).status_code == 200
    asked = place.send(lines(30))
    assert (asked.json()["state"], asked.json()["result"]) == ("queued", None)
    assert stored() == (3, 3, 1)
    assert job_child.do_next()
    assert not job_child.do_next()
    found = place.call("GET", asked.headers["location"]).json()
    assert (found["state"], found["progress"], found["seconds_left"]) == ("succeeded", 1, None)
    assert (found["result"]["added"], found["result"]["duplicates_in_project"]) == (27, 3)
    assert stored() == (30, 30, 0)
    assert not list(get_settings().uploads_dir.iterdir())


def test_a_bad_line_is_told_by_its_number_and_nothing_is_stored(place: Place) -> None:
    asked = place.send(lines(30, b'{"prompt": 1}\n'))
    assert job_child.do_next()
    found = place.call("GET", asked.headers["location"]).json()
    assert found["state"] == "failed"
    assert found["details"][0].startswith("Line 31 ")
    assert stored() == (0, 0, 0)


def test_a_format_that_is_none_is_refused_at_once_and_leaves_no_file(place: Place) -> None:
    assert place.send(lines(30), "no-such").status_code == 422
    assert stored() == (0, 0, 0)
    assert not job_child.do_next()


def test_a_file_in_pieces_is_imported_by_one_job_and_kept_when_it_is_refused(place: Place) -> None:
    content = lines(30, b'{"prompt": 1}\n')
    sent = place.call("POST", f"/api/v1/projects/{place.project}/uploads", Upload_Length=str(len(content)))
    where = sent.headers["location"]
    place.call("PATCH", where, content, Upload_Offset="0", Content_Type="application/offset+octet-stream")
    first, second = (place.call("POST", f"{where}/import?format=trl-text&dataset=d") for _ in range(2))
    assert job_of(first) == job_of(second)
    assert place.call("DELETE", where).status_code == 409
    assert job_child.do_next()
    assert not job_child.do_next()
    assert stored() == (0, 0, 1)
    assert place.call("DELETE", where).status_code == 204


def test_a_snapshot_by_a_worker_is_the_one_that_would_have_been_made_at_once(place: Place) -> None:
    with transaction() as session:
        admin, project = session.get_one(User, place.admin), session.get_one(Project, place.project)
        fill_project(session, project, [admin], ["One?", "Two?", "Three?"])
    first, again, other = place.freeze("a"), place.freeze("a"), place.freeze("b")
    assert job_of(first) == job_of(again) == job_of(other)
    assert again.headers["idempotency-replayed"] == "true"
    assert job_child.do_next()
    assert not job_child.do_next()
    made = UUID(place.call("GET", first.headers["location"]).json()["result"]["snapshot_id"])
    with transaction() as session:
        admin, project = session.get_one(User, place.admin), session.get_one(Project, place.project)
        assert snapshots.create(session, project, admin).id == made
        assert session.scalar(select(func.count()).select_from(Snapshot)) == 1


def test_a_project_without_answers_is_told_so_by_the_job(place: Place) -> None:
    place.send(lines(1))
    with transaction() as session:
        job = jobs.ask_snapshot(
            session,
            make_project(session, session.get_one(User, place.admin), "Empty"),
            session.get_one(User, place.admin),
        ).id
    assert job_child.do_next()
    with transaction() as session:
        found = jobs.get(session, job)
        assert found.state == "failed"
        assert "nothing to freeze" in (found.reason or "")


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not condition():
        assert time.monotonic() < deadline, f"waited {DEADLINE_SECONDS} s in vain"
        time.sleep(0.02)


def state_of(job: UUID) -> str:
    with transaction() as session:
        return jobs.get(session, job).state


def end_lease(job: UUID) -> None:
    with transaction() as session:
        past = func.clock_timestamp() - timedelta(seconds=1)
        session.execute(update(Job).where(Job.id == job).values(lease_until=past))
        jobs.expire(session)


def test_a_killed_worker_leaves_nothing_and_another_stores_it_once(place: Place) -> None:
    job = job_of(place.send(lines(20_000)))
    child = subprocess.Popen([sys.executable, "-m", "app.worker.job_child"])
    try:
        wait_until(lambda: state_of(job) == "running")
    finally:
        child.kill()
        child.wait()
    assert state_of(job) == "running"
    assert stored()[0] == 0
    end_lease(job)
    assert state_of(job) == "queued"
    assert job_child.do_next()
    assert state_of(job) == "succeeded"
    assert stored() == (20_000, 20_000, 0)


def test_a_worker_that_is_asked_to_stop_gives_its_job_back(place: Place) -> None:
    job = job_of(place.send(lines(20_000)))
    child = subprocess.Popen([sys.executable, "-m", "app.worker.job_child"])
    wait_until(lambda: state_of(job) == "running")
    child.terminate()  # while it reads: it looks for this at every few hundred lines
    assert child.wait(DEADLINE_SECONDS) == 0
    assert state_of(job) == "queued"
    assert stored()[0] == 0


def test_the_third_lost_attempt_fails_with_the_reason(place: Place) -> None:
    job = job_of(place.send(lines(30)))
    for state in ("queued", "queued", "failed"):
        with transaction() as session:
            claimed = jobs.claim(session)
        assert claimed is not None
        end_lease(job)
        assert state_of(job) == state
    assert "3 times" in place.call("GET", f"/api/v1/jobs/{job}").json()["reason"]


def test_what_was_made_under_a_lost_lease_is_not_stored(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    job = job_of(place.send(lines(30)))
    import_file = job_child.intake.import_file

    def slow(*args: Any, **kwargs: Any) -> Any:
        report = import_file(*args, **kwargs)
        end_lease(job)
        return report

    monkeypatch.setattr(job_child.intake, "import_file", slow)
    assert job_child.do_next()
    assert state_of(job) == "queued"
    assert stored()[0] == 0


def test_the_page_says_how_far_it_is_and_what_was_wrong(place: Place, make_user: Any, sign_in: Any) -> None:
    job = job_of(place.send(lines(30, b'{"prompt": 1}\n')))
    browser = sign_in(make_user("admin"))
    page = f"/projects/{place.project}/jobs/{job}"
    assert "Waiting for a worker" in browser.get(page).text
    assert f"/jobs/{job}" in browser.get(f"/projects/{place.project}/import").text
    with transaction() as session:
        claimed = jobs.claim(session)
        assert claimed is not None
        assert jobs.beat(session, claimed, 0.25)
    shown = browser.get(f"{page}/live").text
    assert "25 % done, about" in shown
    assert 'hx-trigger="every 2s"' in shown
    with transaction() as session:
        assert jobs.fail(session, claimed, "Nothing was imported.", ["Line 31 is bad."])
    shown = browser.get(page).text
    assert "Line 31 is bad." in shown
    assert "every 2s" not in shown


def test_the_workers_task_starts_a_process_that_does_what_waits(place: Place) -> None:
    job = job_of(place.send(lines(30)))
    tasks.data_jobs()
    wait_until(lambda: state_of(job) == "succeeded")
    wait_until(lambda: not job_child.is_working())
    assert stored() == (30, 30, 0)
