"""Settings, members, tasks, leases, flags and the editor of questions over HTTP: who may, and what is refused."""

from __future__ import annotations

import re
from typing import Any
from uuid import uuid4

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import PAYLOADS, became_markup
from labeling_world import World, make_world, take
from sqlalchemy import func, select

from app import db
from app.models import AuditEvent, Flag, GuidelineVersion, Membership, Project, Task, User
from app.services.labeling import flags
from app.services.projects import guidelines
from app.services.projects.questions import HELPFUL_HONEST_HARMLESS, Questions

SETTINGS = {
    "overlap": "2",
    "lease_minutes": "30",
    "max_leases": "3",
    "deadline": "2099-01-31T18:00",
    "access": "members",
    "gold_percent": "10",
    "screening_tasks": "5",
    "screening_percent": "80",
    "queue_order": "uncertainty",
    "random_percent": "30",
    "round_weight_percent": "70",
    "policy_weights": "base 0.5",
}
QUESTIONS = {"body": "Be kind.", "strength": "required", "reason": "off", "line": "yes", "rank_at_least": ""}


@pytest.fixture
def admin(make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("admin"))


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=3)


def project_of(world: World) -> Project:
    with db.transaction() as session:
        return session.get_one(Project, world.project_id)


def states(world: World) -> list[str]:
    with db.transaction() as session:
        query = select(Task.state).where(Task.project_id == world.project_id).order_by(Task.sort_key)
        return list(session.scalars(query))


def flagged(world: World) -> Any:
    labeler = world.labelers[0]
    taken = take(world, labeler)
    assert taken is not None
    with db.transaction() as session:
        flags.add(session, taken.id, labeler, "broken", "<b>cut off</b>")
        return taken, session.scalars(select(Flag.id)).one()


def test_settings_are_saved_and_say_what_became_of_open_tasks(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/settings"
    assert 'value="60"' in admin.get(path).text
    answer = admin.post_form(path, {**SETTINGS, "open_tasks": "yes"})
    assert answer.status_code == 303
    page = admin.get(answer.headers["location"]).text
    assert "The settings are saved." in page
    assert "The overlap of 3 open tasks was changed." in page
    assert 'value="2099-01-31T18:00"' in page
    project = project_of(world)
    assert (project.overlap, project.max_leases, project.access, project.screening_threshold) == (2, 3, "members", 0.8)
    assert (project.queue_order, project.random_percent, project.round_weight_percent) == ("uncertainty", 30, 70)
    assert project.policy_weights == {"base": 0.5}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"overlap": "17"}, "Enter 16 or less."),
        ({"lease_minutes": ""}, "Enter a whole number."),
        ({"max_leases": "0"}, "Enter 1 or more."),
        ({"deadline": "tomorrow"}, "Give the deadline as a date and a time in UTC"),
        ({"deadline": "2001-01-01T00:00"}, "This moment has passed."),
        ({"access": "friends"}, "Choose one of the values offered."),
        ({"gold_percent": "51"}, "Enter 50 or less."),
        ({"screening_percent": "101"}, "Enter 100 or less."),
        ({"queue_order": "luck"}, "Choose one of the values offered."),
        ({"random_percent": "101"}, "Enter 100 or less."),
        ({"policy_weights": "base half"}, "Give weights as lines of a model&#39;s name and a number"),
        ({"state": "archived"}, "a field that this page does not have"),
    ],
)
def test_a_setting_that_cannot_be_is_refused_and_the_form_keeps_the_rest(
    admin: Browser, world: World, changes: dict[str, str], sentence: str
) -> None:
    answer = admin.post_form(f"/projects/{world.project_id}/settings", {**SETTINGS, **changes})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert 'value="30"' in answer.text or "lease_minutes" in changes or "state" in changes
    assert project_of(world).lease_minutes == 60


def test_questions_are_edited_without_javascript_presets_and_rows_store_nothing(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/guidelines"
    typed = {**QUESTIONS, "body": "Not **saved** yet.", "criterion_1_label": "Mine", "criterion_1_kind": "text"}
    filled = admin.post_form(path, {**typed, "preset": "hhh"}).text
    assert "Not **saved** yet." in filled
    assert re.findall(r'name="criterion_\d_label" value="(\w+)"', filled) == ["Helpful", "Honest", "Harmless"]
    more = admin.post_form(path, {**typed, "rows": "3"}).text
    assert 'value="Mine"' in more
    assert 'name="criterion_6_label"' in more
    assert 'name="criterion_6_label"' not in admin.get(path).text
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(GuidelineVersion)) == 1

    refused = admin.post_form(path, {**typed, "criterion_1_key": "1"})
    assert refused.status_code == 422
    assert "Give “Mine” a key" in refused.text
    assert 'value="Mine"' in refused.text
    assert admin.post_form(path, {**typed, "criterion_25_label": "x"}).status_code == 422
    assert admin.post_form(path, {**typed, "preset": "all"}).status_code == 422
    assert admin.post_form(path, {**typed}).status_code == 303
    with db.transaction() as session:
        current = guidelines.current(session, world.project_id)
        assert (current.version, current.questions.strength, current.questions.edits) == (2, "required", False)
        assert [(item.key, item.kind) for item in current.questions.criteria] == [("mine", "text")]
    # The text alone keeps the questions.
    assert admin.post_form(path, {"body": "Be kinder."}).status_code == 303
    with db.transaction() as session:
        assert guidelines.current(session, world.project_id).questions == current.questions


def test_a_project_is_made_with_a_preset_of_questions(admin: Browser) -> None:
    form = {"name": "HHH", "guidelines": "Be kind.", "k": "2", "overlap": "1", "lease_minutes": "9"}
    answer = admin.post_form("/projects/new", {**form, "held_out_percent": "0", "preset": "hhh"})
    project_id = answer.headers["location"].split("/")[2].partition("?")[0]
    with db.transaction() as session:
        assert guidelines.current(session, project_id).questions == Questions(criteria=HELPFUL_HONEST_HARMLESS)  # type: ignore[arg-type]
    assert admin.post_form("/projects/new", {**form, "held_out_percent": "0", "preset": "x"}).status_code == 422


def test_members_are_added_and_taken_out(admin: Browser, world: World) -> None:
    path, labeler = f"/projects/{world.project_id}/members", world.labelers[0]
    assert f"{labeler.name} ({labeler.email})" in admin.get(path).text
    for state, word in (("active", "member"), ("removed", "taken out")):
        answer = admin.post_form(path, {"user_id": str(labeler.id), "state": state})
        assert answer.headers["location"] == f"{path}?done=member-{state}"
        assert f">{word}</span>" in admin.get(path).text
    assert admin.post_form(path, {"user_id": str(uuid4()), "state": "active"}).status_code == 422
    assert admin.post_form(path, {"user_id": str(labeler.id), "state": "owner"}).status_code == 422


def test_people_get_tags_and_a_bad_one_has_a_sentence(admin: Browser, world: World) -> None:
    path = f"/people/{world.labelers[0].id}/tags"
    assert admin.post_form(path, {"tags": "Lang:DE medicine"}).headers["location"] == "/people?done=tags-saved"
    assert 'value="lang:de, medicine"' in admin.get("/people").text
    refused = admin.post_form(path, {"tags": "à la carte"})
    assert (refused.status_code, "cannot be a tag" in refused.text) == (422, True)
    assert admin.post_form(f"/people/{uuid4()}/tags", {"tags": "a"}).status_code == 404


def test_prompts_are_imported_with_tags_for_all(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/prompts"
    lines = '{"prompt": "Was ist Liebe?", "tags": ["philosophy"]}'
    assert admin.post_form(f"{path}/import", {"text": lines, "tags": "lang:de"}).status_code == 303
    page = admin.get(path).text
    assert '<span class="tag">lang:de</span>' in page
    assert '<span class="tag">philosophy</span>' in page
    refused = admin.post_form(f"{path}/import", {"text": "Why?", "tags": "ö"})
    assert (refused.status_code, "“ö” cannot be a tag" in refused.text) == (422, True)
    for bad in ('"x"', "[7]", '["Ö"]'):
        refused = admin.post_form(f"{path}/import", {"text": f'{{"prompt": "Why?", "tags": {bad}}}'})
        assert (refused.status_code, "Line 1 has" in refused.text) == (422, True)


def test_tasks_are_filtered_changed_and_say_how_many(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/tasks"
    page = admin.get(path).text
    ids = re.findall(r'name="task" value="([^"]+)"', page)
    assert len(ids) == 3
    answer = admin.post_form(path, {"which": "ticked", "task": ids[:2], "action": "set", "priority": "9"})
    assert "2 tasks: priority 9." in admin.get(answer.headers["location"]).text
    answer = admin.post_form(path, {"which": "filtered", "state": "open", "action": "close"})
    assert answer.headers["location"].startswith(f"{path}?state=open&report=")
    assert "3 tasks: closed." in admin.get(answer.headers["location"]).text
    assert states(world) == ["closed"] * 3
    admin.post_form(path, {"which": "ticked", "task": ids[2], "action": "reopen"})
    assert states(world) == ["open", "closed", "closed"]
    for fields, sentence in (
        ({"which": "ticked", "action": "close"}, "Tick the tasks to change"),
        ({"which": "filtered", "action": "set"}, "Say what to change"),
        ({"which": "filtered", "action": "set", "overlap": "99"}, "An overlap is a whole number from 1 to 16."),
        ({"which": "all", "action": "close"}, "Choose which tasks to change"),
        ({"which": "ticked", "task": "x", "action": "close"}, "a task that does not exist"),
    ):
        refused = admin.post_form(path, fields)
        assert (refused.status_code, sentence in refused.text) == (422, True), refused.text
    for query in ("state=gone", "tag=%00", "kind=x"):
        assert admin.get(f"{path}?{query}").status_code == 422
    assert admin.get(f"{path}?report={uuid4()}").status_code == 404


def test_leases_are_seen_and_taken_back_and_flags_settled(admin: Browser, world: World) -> None:
    base = f"/projects/{world.project_id}"
    taken, flag_id = flagged(world)
    page = admin.get(f"{base}/leases").text
    assert world.labelers[0].name in page
    assert "1 task is in somebody's hands" in admin.get(base).text
    answer = admin.post_form(f"{base}/leases/{taken.id}/release")
    assert answer.headers["location"] == f"{base}/leases?done=lease-released"
    assert "Nobody works here just now" in admin.get(f"{base}/leases").text
    assert admin.post_form(f"{base}/leases/{uuid4()}/release").status_code == 404

    page = admin.get(f"{base}/flags").text
    assert "&lt;b&gt;cut off&lt;/b&gt;" in page
    assert '<span class="tab-count">1' in page
    assert admin.post_form(f"{base}/flags/{flag_id}", {"resolution": "burn"}).status_code == 422
    answer = admin.post_form(f"{base}/flags/{flag_id}", {"resolution": "closed"})
    assert answer.headers["location"] == f"{base}/flags?done=flag-closed"
    assert "tab-count" not in admin.get(f"{base}/flags").text
    assert states(world).count("closed") == 1
    assert admin.post_form(f"{base}/flags/{uuid4()}", {"resolution": "closed"}).status_code == 404


def test_who_may_open_and_change_what(world: World, make_user: MakeUser, sign_in: SignIn, client: Browser) -> None:
    base = f"/projects/{world.project_id}"
    taken, flag_id = flagged(world)
    for_reviewers = [f"{base}/{page}" for page in ("tasks", "leases", "flags", "guidelines")]
    for_admins = [f"{base}/settings", f"{base}/members"]
    writes = {
        f"{base}/settings": SETTINGS,
        f"{base}/members": {"user_id": str(world.labelers[0].id), "state": "removed"},
        f"{base}/tasks": {"which": "filtered", "action": "close"},
        f"{base}/leases/{taken.id}/release": {},
        f"{base}/guidelines": QUESTIONS,
        f"/people/{world.labelers[0].id}/tags": {"tags": "a"},
    }
    settle = f"{base}/flags/{flag_id}"
    for path in [*for_reviewers, *for_admins]:
        assert client.get(path).headers["location"].startswith("/sign-in")
    for path, data in {**writes, settle: {"resolution": "closed"}}.items():
        assert client.post_form(path, data).status_code in (401, 403)
    before = rows(world)
    for role, may_read in (("labeler", 403), ("reviewer", 200)):
        browser = sign_in(make_user(role))
        assert {browser.get(path).status_code for path in for_reviewers} == {may_read}
        assert {browser.get(path).status_code for path in for_admins} == {403}
        assert {browser.post_form(path, data).status_code for path, data in writes.items()} == {403}
        assert rows(world) == before
        # What a reviewer cannot do is not offered either.
        if may_read == 200:
            assert f"{base}/settings" not in browser.get(base).text
            assert "Change tasks" not in browser.get(f"{base}/tasks").text
            assert "Take back" not in browser.get(f"{base}/leases").text
        assert browser.post_form(settle, {"resolution": "dismissed"}).status_code == (403 if may_read == 403 else 303)
    other = make_world(number_of_prompts=0)
    foreign = sign_in(make_user("admin"))
    assert foreign.post_form(f"/projects/{other.project_id}/leases/{taken.id}/release").status_code == 404
    assert (
        foreign.post_form(f"/projects/{other.project_id}/flags/{flag_id}", {"resolution": "closed"}).status_code == 404
    )
    assert {foreign.get(f"/projects/{uuid4()}/{page}").status_code for page in ("settings", "members", "tasks")} == {
        404
    }


def rows(world: World) -> tuple[Any, ...]:
    with db.transaction() as session:
        counts = [session.scalar(select(func.count()).select_from(table)) for table in (Membership, GuidelineVersion)]
        events = session.scalar(select(func.count()).where(AuditEvent.action != "session.opened"))
        tags = session.get_one(User, world.labelers[0].id).tags
        return (*counts, events, tags, tuple(states(world)))


def test_looking_writes_nothing_and_hostile_text_stays_text(admin: Browser, world: World) -> None:
    base = f"/projects/{world.project_id}"
    _, flag_id = flagged(world)
    hostile = "\n".join(PAYLOADS)
    with db.transaction() as session:
        session.get_one(Flag, flag_id).note = hostile
        session.get_one(User, world.labelers[0].id).name = PAYLOADS[0]
        for task in session.scalars(select(Task)):
            task.required_tags = [PAYLOADS[6]]
    form = {**QUESTIONS, "body": hostile, "criterion_1_label": PAYLOADS[6][:100], "criterion_1_kind": "scale"}
    admin.post_form(f"{base}/guidelines", {**form, "criterion_1_low": PAYLOADS[0][:40], "criterion_1_key": "x"})
    admin.post_form(f"{base}/members", {"user_id": str(world.labelers[0].id), "state": "active"})
    before = rows(world)
    for page in ("settings", "members", "tasks", "leases", "flags", "guidelines"):
        answer = admin.get(f"{base}/{page}")
        assert answer.status_code == 200
        assert became_markup(answer.text) == []
    assert rows(world) == before
