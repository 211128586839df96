"""Configuring over the API: projects and their members, schedules, the gate, blind evaluations, going back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from evaluation_world import Scene, make_scene
from fastapi import FastAPI
from fastapi.testclient import TestClient
from run_builders import make_user
from sqlalchemy import select

from app.db import transaction
from app.models import AuditEvent, ModelVersion, Project, Schedule, User
from app.services.accounts import tokens
from app.services.accounts.tokens import SCOPES


@dataclass(frozen=True)
class Api:
    """Asks with a token of these scopes for all projects."""

    client: TestClient
    headers: dict[str, str]

    def __call__(self, method: str, path: str, status: int = 200, **options: Any) -> Any:
        headers = self.headers | options.pop("headers", {})
        answer = self.client.request(method, f"/api/v1{path}", headers=headers, **options)
        assert answer.status_code == status, answer.text
        return answer.json()


@pytest.fixture
def api(app: FastAPI, client: Any) -> Callable[..., Api]:
    def made(scopes: Sequence[str] = tuple(SCOPES), project_id: UUID | None = None) -> Api:
        with transaction() as session:
            admin = session.scalars(select(User).where(User.role == "admin").order_by(User.id)).first()
            admin = admin or make_user(session, "owner@example.org")
            _, token = tokens.create(session, admin, name="t", scopes=scopes, project_id=project_id, days=1)
        return Api(client, {"Authorization": f"Bearer {token}"})

    return made


ANYWAY = {"If-Match": "*"}


def test_a_project_is_made_and_configured(database: str, api: Callable[..., Api]) -> None:
    ask = api()
    new = {"name": "Kindness", "guidelines": "Be kind.", "k": 3, "overlap": 2}
    key = {"Idempotency-Key": "once"}
    made = ask("POST", "/projects", 201, json=new, headers=key)
    assert ask("POST", "/projects", 201, json=new, headers=key)["id"] == made["id"]
    assert "already" in ask("POST", "/projects", 409, json=new)["detail"]
    path = f"/projects/{made['id']}"
    assert (made["k"], made["overlap"], made["held_out_fraction"], made["gold_percent"]) == (3, 2, 0.2, 0)
    change = {
        "overlap": 4,
        "gold_percent": 5,
        "screening_tasks": 10,
        "screening_percent": 80,
        "deadline_at": "2099-01-31T18:00:00Z",
        "access": "members",
        "policy_weights": {"old base": 0.5},
        "queue_order": "margin",
    }
    ask("PATCH", path, 428, json=change)
    changed = ask("PATCH", path, json=change, headers=ANYWAY)
    assert {name: changed[name] for name in change} == change
    assert changed["k"] == 3
    kept = ask("PATCH", path, json={"state": "paused"}, headers=ANYWAY)
    assert kept == changed | {"state": "paused"}
    assert ask("PATCH", path, json={"deadline_at": None}, headers=ANYWAY)["deadline_at"] is None
    passed = ask("PATCH", path, 422, json={"deadline_at": "2001-01-01T00:00:00Z"}, headers=ANYWAY)
    assert passed["detail"].startswith("This moment has passed")
    ask("PATCH", path, 422, json={"policy_weights": {"a\nb": 1}}, headers=ANYWAY)
    ask("PATCH", path, 412, json={"overlap": 1}, headers={"If-Match": '"another"'})
    refused = api(project_id=UUID(made["id"]))("POST", "/projects", 403, json=new | {"name": "Other"})
    assert "for one project" in refused["detail"]
    api(["export:read"])("POST", "/projects", 403, json=new | {"name": "Other"})


def test_members_are_let_in_and_taken_out(database: str, api: Callable[..., Api]) -> None:
    ask = api()
    path = f"/projects/{ask('POST', '/projects', 201, json={'name': 'Kindness', 'guidelines': 'Be kind.'})['id']}"
    with transaction() as session:
        ada = make_user(session, "ada@example.org", "labeler").id
    assert ask("GET", f"{path}/members")["items"] == []
    assert ask("PUT", f"{path}/members/{ada}", json={"state": "active"})["state"] == "active"
    ask("PUT", f"{path}/members/{ada}", json={"state": "removed"})
    (member,) = ask("GET", f"{path}/members")["items"]
    assert (member["email"], member["state"]) == ("ada@example.org", "removed")
    ask("PUT", f"{path}/members/{path[-36:]}", 404, json={"state": "active"})
    api(["tasks:write", "export:read"])("GET", f"{path}/members", 403)


def test_a_schedule_is_changed_in_part(database: str, api: Callable[..., Api]) -> None:
    ask = api()
    path = f"/projects/{ask('POST', '/projects', 201, json={'name': 'Kindness', 'guidelines': 'Be kind.'})['id']}"
    recipe = {"stages": [{"kind": "snapshot", "name": "freeze"}]}
    new = {"name": "weekly", "cron": "0 3 * * 1", "timezone": "UTC", "recipe": recipe, "min_new_rankings": 9}
    made = ask("POST", f"{path}/schedules", 201, json=new)
    one = f"/schedules/{made['id']}"
    changed = ask("PATCH", one, json={"cron": "30 4 * * *", "paused": True}, headers=ANYWAY)
    assert changed == made | {"cron": "30 4 * * *", "paused": True, "next_due_at": changed["next_due_at"]}
    assert changed["next_due_at"].endswith("T04:30:00Z")
    with transaction() as session:
        assert session.get_one(Schedule, UUID(made["id"])).version == 2
    for bad in ({"cron": "often"}, {"timezone": "Nowhere/City"}, {"recipe": {"stages": []}}, {"name": " "}):
        ask("PATCH", one, 422, json=bad, headers=ANYWAY)
    assert ask("GET", one) == changed
    assert ask("PATCH", one, json={}, headers=ANYWAY) == changed


@pytest.fixture
def scene(database: str, redis_url: str) -> Scene:
    return make_scene(questions=20, same=2)


def test_policies_are_judged_blind(scene: Scene, api: Callable[..., Api]) -> None:
    ask = api()
    path = f"/projects/{scene.project.id}/blind-evaluations"
    new = {
        "run_id": str(scene.run.id),
        "candidate_id": str(scene.new.id),
        "incumbent_id": str(scene.old.id),
    }
    made = ask("POST", path, 201, json=new)
    assert (made["state"], made["verdict"], made["figures"]["judged"]) == ("open", None, 0)
    assert ask("POST", path, 201, json=new)["id"] == made["id"]
    assert ask("GET", f"/blind-evaluations/{made['id']}") == made
    assert ask("GET", path, params={"state": "open"})["items"] == [made | {"figures": None}]
    ask("POST", path, 422, json=new | {"incumbent_id": new["candidate_id"]})
    stopped = ask("POST", f"/blind-evaluations/{made['id']}/stop")
    assert (stopped["state"], stopped["reason"]) == ("stopped", "An admin stopped it.")
    assert ask("GET", path)["items"] == [stopped]
    api(["runs:read"])("POST", path, 403, json=new)


def test_the_gate_is_set_asked_and_gone_back_from(scene: Scene, api: Callable[..., Api]) -> None:
    ask = api()
    path = f"/projects/{scene.project.id}"
    first = ask("GET", f"{path}/gate")
    assert (first["max_kl"], first["promotes"]) == (None, False)
    limits = {"min_blind_win_rate": 0.5, "max_kl": 8.0}
    ask("PUT", f"{path}/gate", 428, json=limits)
    assert ask("PUT", f"{path}/gate", json=limits, headers=ANYWAY) == first | limits
    assert ask("GET", f"{path}/gate") == first | limits
    ask("PUT", f"{path}/gate", 422, json={"promotes": True}, headers=ANYWAY)
    model = str(scene.new.id)
    verdict = ask("POST", f"/models/{model}/verdicts", 201)
    assert (verdict["passed"], {check["name"] for check in verdict["checks"]}) == (False, set(limits))
    assert ask("GET", f"{path}/verdicts", params={"model_id": model})["items"] == [verdict]
    for name in (str(scene.old.id), model):
        ask("POST", f"/models/{name}/promote")
    back = ask("POST", f"{path}/roll-back", json={"leaving_id": model})
    assert (back["id"], back["state"]) == (str(scene.old.id), "promoted")
    assert "by now" in ask("POST", f"{path}/roll-back", 409, json={"leaving_id": model})["detail"]
    hows = [item["how"] for item in ask("GET", f"{path}/promotions")["items"]]
    assert hows == ["admin", "admin", "rollback"]
    with transaction() as session:
        assert session.get_one(ModelVersion, scene.new.id).state == "retired"
        assert session.get_one(Project, scene.project.id).blind_percent == 50
        assert session.scalars(select(AuditEvent).where(AuditEvent.action == "gate.changed")).one()
