"""The resources of the REST API: lists by the page, single objects, writes, and refusals."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, get_args
from uuid import UUID, uuid4

import chat_world
import pytest
from browsers import Browser
from resource_world import Call, Scene, caller, items, make_scene
from sqlalchemy import func, select, text

from app.api.runs import Method
from app.db import transaction
from app.models import AuditEvent, Prompt, Run, User
from app.services.accounts import tokens
from app.services.training import schedules
from trainer.config import METHODS

LISTS = (
    "prompts",
    "completions",
    "tasks",
    "rankings",
    "demonstrations",
    "chat-turns",
    "labelers",
    "snapshots",
    "runs",
    "models",
)


@pytest.fixture
def scene(database: str, redis_url: str, tmp_path: Path) -> Scene:
    return make_scene(tmp_path)


@pytest.fixture
def call(scene: Scene, client: Browser) -> Call:
    return caller(client, scene)


def test_every_list_pages_to_the_end_in_both_orders_and_each_item_can_be_read(
    scene: Scene, call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_world.allow(monkeypatch)
    with transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).one()
    chat_world.add_models(scene.project_id, admin, ["small"])
    with transaction() as session:
        hands = chat_world.start(session, scene.project_id, admin)
    hands.turn("Hello.", "Go away.", "a2")
    hands.say("And now?", 2)
    for name in LISTS:
        path = f"/projects/{scene.project_id}/{name}"
        whole = items(call, path, limit=200)
        assert len(whole) >= 1, name
        for order, expected in (("oldest", whole), ("newest", whole[::-1])):
            pages, cursor = [], None
            while True:
                query = {"limit": 1 if len(whole) < 6 else 4, "order": order} | ({"cursor": cursor} if cursor else {})
                answer = call("GET", path, params=query).json()
                pages += answer["items"]
                cursor = answer["next"]
                if cursor is None:
                    break
            assert pages == expected, (name, order)
        if name != "labelers":
            for item in whole[:2]:
                assert call("GET", f"/{name}/{item['id']}").json() == item, name
    assert items(call, "/projects") == [call("GET", f"/projects/{scene.project_id}").json()]
    assert call("GET", "/token").json()["scopes"] == sorted(tokens.SCOPES)


def test_nothing_of_another_project_is_there_under_any_name(scene: Scene, call: Call) -> None:
    for name in LISTS:
        path = f"/projects/{scene.other_id}/{name}"
        refused = call("GET", path)
        missing = call("GET", f"/projects/{uuid4()}/{name}")
        assert (refused.status_code, missing.status_code) == (404, 404)
        assert refused.json()["detail"] == missing.json()["detail"]
        if name in ("labelers", "chat-turns"):
            continue
        foreign = items(lambda *a, **o: call(*a, token=scene.everything, **o), path)[0]["id"]
        refused, missing = call("GET", f"/{name}/{foreign}"), call("GET", f"/{name}/{uuid4()}")
        assert (refused.status_code, missing.status_code) == (404, 404), name
        assert refused.json()["detail"] == missing.json()["detail"]
        assert call("GET", f"/{name}/{foreign}", token=scene.everything).status_code == 200


def test_a_cursor_belongs_to_its_list_its_filters_and_its_order(scene: Scene, call: Call) -> None:
    path = f"/projects/{scene.project_id}/tasks"
    cursor = call("GET", path, params={"limit": 1, "kind": "ranking"}).json()["next"]
    good = {"limit": 2, "kind": "ranking", "cursor": cursor}
    assert len(items(call, path, **good)) == 2
    for query in (
        good | {"kind": "demonstration"},
        good | {"order": "newest"},
        good | {"cursor": cursor[:-4] + "AAAA"},
        good | {"cursor": cursor + "="},
        good | {"cursor": "é"},
        good | {"cursor": ""},
        good | {"limit": 0},
        good | {"limit": 201},
        good | {"kind": "x"},
        good | {"project__name": "x"},
    ):
        answer = call("GET", path, params=query)
        assert answer.status_code == 422, query
        assert answer.headers["content-type"] == "application/problem+json"
    prompts = call("GET", f"/projects/{scene.project_id}/prompts", params={"cursor": cursor})
    assert prompts.status_code == 422
    elsewhere = call("GET", f"/projects/{scene.other_id}/tasks", params=good, token=scene.everything)
    assert elsewhere.status_code == 422


def test_filters_narrow_a_list(scene: Scene, call: Call) -> None:
    here = f"/projects/{scene.project_id}"
    tasks = items(call, f"{here}/tasks")
    assert {item["kind"] for item in items(call, f"{here}/tasks", kind="ranking")} == {"ranking"}
    assert len(items(call, f"{here}/tasks", prompt_id=tasks[0]["prompt_id"])) == 2
    assert len(items(call, f"{here}/completions", prompt_id=tasks[0]["prompt_id"])) == 3
    assert len(items(call, f"{here}/rankings", task_id=tasks[0]["id"])) == 2
    assert items(call, f"{here}/rankings", counted="false") == items(call, f"{here}/prompts", source="chat") == []
    half = items(call, f"{here}/rankings")[5]["created_at"]
    assert len(items(call, f"{here}/rankings", since=half)) == 5
    assert len(items(call, f"{here}/rankings", until=half)) == 5
    assert items(call, f"{here}/rankings", until="0010-11-18T21:33:34+19:13") == []  # an offset that PostgreSQL refuses
    assert call("GET", f"{here}/export/manifest", params={"since": "5796-11-29T06:25:58+20:33"}).json()["rows"] == 0
    assert call("GET", f"{here}/rankings", params={"since": "0001-01-01T00:00:00+01:00"}).status_code == 422
    assert [item["name"] for item in items(call, f"{here}/models", kind="reward")] == ["judge"]
    assert items(call, f"{here}/runs", state="failed") == []
    assert (
        len(items(call, f"{here}/prompts", split="train")) + len(items(call, f"{here}/prompts", split="held_out")) == 5
    )


def test_labelers_stand_there_under_pseudonyms_unless_the_token_may_see_names(scene: Scene, call: Call) -> None:
    path = f"/projects/{scene.project_id}/labelers"
    known = {item["name"]: item for item in items(call, path)}
    assert known["ada"]["email"] == "ada@example.org"
    assert (known["ada"]["rankings"], known["ada"]["demonstrations"], known["admin"]["demonstrations"]) == (5, 5, 0)
    assert known["ada"]["median_seconds"] == 1.0
    hidden = call("GET", path, token=scene.reader)
    assert "example.org" not in hidden.text
    assert {item["name"] for item in hidden.json()["items"]} == {None}
    assert {item["labeler"] for item in hidden.json()["items"]} == {item["labeler"] for item in known.values()}


def test_prompts_and_answers_are_added_and_become_a_task(scene: Scene, call: Call) -> None:
    here = f"/projects/{scene.project_id}"
    asked = {
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Tea or coffee?"}],
        "tags": ["lang:en"],
        "completions": [{"text": "Tea.", "model": "small"}, {"text": "Coffee."}],
    }
    first, again = (call("POST", f"{here}/prompts", json={"prompts": [asked]}).json()["prompts"][0] for _ in "ab")
    assert (first["added"], again["added"]) == (True, False)
    assert first["prompt_id"] == again["prompt_id"]
    tea, coffee = first["completion_ids"]
    shown = call("GET", f"/completions/{tea}").json()
    assert (shown["source"], shown["model"], shown["text"]) == ("model", "small", "Tea.")
    assert call("GET", f"/completions/{coffee}").json()["source"] == "human"
    assert call("GET", f"/prompts/{first['prompt_id']}").json()["messages"] == asked["messages"]
    more = call("POST", f"/prompts/{first['prompt_id']}/completions", json={"text": "Neither.", "model": "large"})
    assert more.status_code == 201
    assert call("GET", more.headers["location"].removeprefix("/api/v1")).json() == more.json()
    task = call("POST", f"{here}/tasks", json={"completion_ids": [tea, coffee, more.json()["id"]], "overlap": 3})
    assert task.status_code == 201
    assert task.json()["completion_ids"] == [tea, coffee, more.json()["id"]]
    assert (task.json()["state"], task.json()["overlap"], task.json()["tags"]) == ("open", 3, ["lang:en"])
    foreign = items(lambda *a, **o: call(*a, token=scene.everything, **o), f"/projects/{scene.other_id}/completions")
    for ids, status in (
        ([tea], 422),
        ([tea, tea], 422),
        ([tea, again["completion_ids"][0]], 422),  # the same text
        ([tea, items(call, f"{here}/completions")[0]["id"]], 422),  # of two prompts
        ([tea, foreign[0]["id"]], 404),
        ([tea, str(uuid4())], 404),
    ):
        refused = call("POST", f"{here}/tasks", json={"completion_ids": ids})
        assert refused.status_code == status, refused.text
    draft = call("POST", f"{here}/tasks", json={"completion_ids": [coffee, more.json()["id"]], "open": False}).json()
    assert call("POST", f"{here}/tasks/open", json={"kind": "ranking"}).json() == {"opened": 1}
    assert call("GET", f"/tasks/{draft['id']}").json()["state"] == "open"


@pytest.mark.parametrize(
    "prompt",
    [
        {"messages": []},
        {"messages": [{"role": "assistant", "content": "x"}]},
        {"messages": [{"role": "user", "content": " "}]},
        {"messages": [{"role": "user", "content": "a\x00b"}]},
        {"messages": [{"role": role, "content": "x"} for role in ("user", "system", "user")]},
        {"messages": [{"role": "user", "content": "x"}], "tags": ["A B"]},
        {"messages": [{"role": "user", "content": "x"}], "position": 0},
        {"messages": [{"role": "user", "content": "x"}], "split": "train"},
        {"messages": [{"role": "user", "content": "x", "name": "y"}]},
        {"messages": [{"role": "user", "content": "x"}], "completions": [{"text": "x", "source": "human"}]},
    ],
)  # fmt: skip
def test_a_prompt_that_will_not_do_is_refused_with_all_that_came_beside_it(
    scene: Scene, call: Call, prompt: dict[str, Any]
) -> None:
    good = {"messages": [{"role": "user", "content": "New?"}]}
    answer = call("POST", f"/projects/{scene.project_id}/prompts", json={"prompts": [good, prompt]})
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["field"].startswith("prompts.1")
    assert len(items(call, f"/projects/{scene.project_id}/prompts")) == 5
    assert call("POST", f"/projects/{scene.project_id}/prompts", json={"prompts": [good]}).status_code == 201


def test_half_a_surrogate_pair_is_no_text(scene: Scene, call: Call) -> None:
    body = b'{"prompts": [{"messages": [{"role": "user", "content": "\\ud800"}]}]}'
    headers = {"Content-Type": "application/json"}
    assert call("POST", f"/projects/{scene.project_id}/prompts", content=body, headers=headers).status_code == 422


def test_a_snapshot_is_frozen_a_run_queued_and_cancelled_and_a_model_promoted(scene: Scene, call: Call) -> None:
    here = f"/projects/{scene.project_id}"
    snapshot = call("POST", f"{here}/snapshots")
    assert snapshot.status_code == 201
    assert call("POST", f"{here}/snapshots").json() == snapshot.json()
    base, tuned, judge = items(call, f"{here}/models")
    wanted = {"method": "dpo", "model_id": base["id"], "snapshot_id": snapshot.json()["id"], "options": {"beta": 0.2}}
    run = call("POST", f"{here}/runs", json=wanted)
    assert run.status_code == 201, run.text
    assert run.json()["state"] == "queued"
    with transaction() as session:
        assert session.get_one(Run, UUID(run.json()["id"])).config["options"]["beta"] == 0.2
    for change, status in (
        ({"method": "ppo"}, 422),
        ({"method": "ppo", "reward_model_id": judge["id"]}, 201),
        ({"method": "evaluate", "policy_ids": [tuned["id"]], "options": {}}, 201),
        ({"method": "sample", "options": {}}, 201),
        ({"method": "sample", "prompts": "train", "options": {}}, 201),
        ({"method": "sample", "prompts": "some", "options": {}}, 422),
        ({"gpus": 4}, 201),
        ({"method": "sample", "gpus": 2, "options": {}}, 422),
        ({"gpus": 0}, 422),
        ({"method": "reward", "snapshot_id": None, "options": {}}, 422),
        ({"model_id": judge["id"]}, 422),
        ({"options": {"no_such": 1}}, 422),
        ({"options": {"beta": "\x00"}}, 422),
        ({"method": "evaluate", "policy_ids": [tuned["id"]], "options": {"reward_model": "/etc"}}, 422),
        ({"model_id": str(uuid4())}, 404),
        ({"snapshot_id": str(uuid4())}, 404),
        ({"state": "succeeded"}, 422),
        ({"config": {}}, 422),
    ):
        body = wanted | change
        body["options"] = {} if change.get("method") == "ppo" else body["options"]
        answer = call("POST", f"{here}/runs", json=body)
        assert answer.status_code == status, (change, answer.text)
    theirs = items(lambda *a, **o: call(*a, token=scene.everything, **o), f"/projects/{scene.other_id}/models")
    foreign = call("POST", f"{here}/runs", json=wanted | {"model_id": theirs[0]["id"]}, token=scene.everything)
    assert foreign.status_code == 404
    for _ in range(2):
        cancelled = call("POST", f"/runs/{run.json()['id']}/cancel")
        assert (cancelled.status_code, cancelled.json()["state"]) == (200, "cancelled")
    assert call("POST", f"/models/{base['id']}/promote").json()["state"] == "promoted"
    assert call("POST", f"/models/{judge['id']}/promote").status_code == 422


def test_a_schedule_is_made_paused_and_its_round_seen_and_cancelled(scene: Scene, call: Call) -> None:
    here = f"/projects/{scene.project_id}"
    recipe = {"stages": [{"kind": "snapshot", "name": "freeze"}]}
    wanted = {"name": "weekly", "cron": "0 3 * * 1", "timezone": "Europe/Berlin", "recipe": recipe}
    made = call("POST", f"{here}/schedules", json=wanted)
    assert made.status_code == 201, made.text
    path = f"/schedules/{made.json()['id']}"
    assert call("GET", path).json() == made.json()
    assert items(call, f"{here}/schedules") == [made.json()]
    assert call("POST", f"{here}/schedules", json=wanted).status_code == 409
    for change in (
        {"cron": "x"},
        {"timezone": "Mars"},
        {"recipe": {}},
        {"recipe": {"stages": [{"kind": "snapshot", "name": "a\x00b"}]}},
        {"paused": True},
        {"next_due_at": "2026-01-01T00:00:00Z"},
    ):
        assert call("POST", f"{here}/schedules", json=wanted | {"name": "other"} | change).status_code == 422, change
    assert call("PATCH", path, json={"paused": True}).status_code == 428
    paused = call("PATCH", path, json={"paused": True}, headers={"If-Match": made.headers["etag"]})
    assert (paused.status_code, paused.json()["paused"]) == (200, True)
    assert call("PATCH", path, json={"paused": False}, headers={"If-Match": made.headers["etag"]}).status_code == 412
    with transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).one()
        schedules.run_now(session, UUID(made.json()["id"]), admin, "key")
    (round_one,) = items(call, f"{here}/pipelines", state="running")
    assert [stage["name"] for stage in round_one["stages"]] == ["freeze"]
    assert call("GET", f"/pipelines/{round_one['id']}").json() == round_one
    cancelled = call("POST", f"/pipelines/{round_one['id']}/cancel")
    assert (cancelled.json()["state"], cancelled.json()["stages"][0]["state"]) == ("cancelled", "cancelled")


def test_every_method_that_people_start_can_be_queued() -> None:
    # Answers are scored by a stage of a round; what works by a constitution is run by hand.
    assert set(METHODS) - {"score", "revise", "feedback"} == set(get_args(Method))


def test_every_refusal_is_a_problem_document(scene: Scene, call: Call, client: Browser) -> None:
    here = f"/projects/{scene.project_id}"
    good = {"prompts": [{"messages": [{"role": "user", "content": "x"}]}]}
    plain = {"Content-Type": "text/plain"}
    as_json = {"Content-Type": "application/json"}
    answers = {
        401: client.get("/api/v1/projects"),
        403: call("POST", f"{here}/prompts", json=good, token=scene.reader),
        404: call("GET", "/nowhere"),
        405: call("DELETE", here),
        413: call("POST", f"{here}/prompts", content=b" " * (2 << 20), headers=as_json),
        415: call("POST", f"{here}/prompts", content=json.dumps(good).encode(), headers=plain),
        422: call("POST", f"{here}/prompts", content=b"{", headers=as_json),
        400: call("POST", f"{here}/prompts", content=b"[" * 100_000, headers=as_json),
    }
    for status, answer in answers.items():
        assert answer.status_code == status, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        problem = answer.json()
        assert (problem["status"], problem["type"]) == (status, "about:blank")
        assert problem["detail"].endswith((".", "pkt_…"))
        assert problem["request_id"]
    assert answers[405].headers["allow"]


def test_what_is_written_stands_in_the_audit_trail(scene: Scene, call: Call) -> None:
    call(
        "POST",
        f"/projects/{scene.project_id}/prompts",
        json={"prompts": [{"messages": [{"role": "user", "content": "x"}]}]},
    )
    with transaction() as session:
        event = session.scalars(select(AuditEvent).where(AuditEvent.action == "prompts.added")).one()
        assert event.detail == {"added": 1, "completions": 0}
        assert session.scalar(select(func.count()).select_from(Prompt).where(text("source = 'import'"))) == 11
