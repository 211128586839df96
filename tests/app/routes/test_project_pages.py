"""The pages of projects over HTTP: made, filled, sampled, opened, paused; and each bad input with its sentence."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import PAYLOADS, became_markup
from labeling_world import World, make_world, rank, take
from sqlalchemy import func, select

from app import db
from app.models import AuditEvent, ModelVersion, Project, Prompt, Run, Task
from app.services.projects import projects

FORM = {
    "name": "Short answers",
    "guidelines": "# Be brief\n\nAnd *kind*.",
    "k": "4",
    "overlap": "2",
    "lease_minutes": "45",
    "held_out_percent": "25",
}


@pytest.fixture
def admin(make_user: MakeUser, sign_in: SignIn) -> Browser:
    return sign_in(make_user("admin"))


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=2, open_tasks=False)


def count(table: Any) -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_an_admin_makes_a_project_and_is_led_to_it(admin: Browser) -> None:
    answer = admin.post_form("/projects/new", FORM)
    assert answer.status_code == 303
    page = admin.get(answer.headers["location"])
    assert page.status_code == 200
    assert "Short answers" in page.text
    assert "Import prompts" in page.text
    with db.transaction() as session:
        (project,) = projects.listed(session)
        assert (project.k, project.overlap, project.lease_minutes, project.held_out_fraction) == (4, 2, 45, 0.25)
    assert "Short answers" in admin.get("/projects").text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"k": "1"}, "Enter 2 or more."),
        ({"k": "10"}, "Enter 9 or less."),
        ({"k": "four"}, "Enter a whole number."),
        ({"overlap": "17"}, "Enter 16 or less."),
        ({"lease_minutes": "0"}, "Enter 1 or more."),
        ({"held_out_percent": "91"}, "Enter 90 or less."),
        ({"name": ""}, "Please fill this in."),
        ({"guidelines": "   "}, "Please fill this in."),
    ],
)
def test_a_project_with_a_bad_field_is_refused_and_the_form_keeps_the_rest(
    admin: Browser, changes: dict[str, str], sentence: str
) -> None:
    answer = admin.post_form("/projects/new", {**FORM, **changes})
    assert answer.status_code == 422
    assert sentence in answer.text
    assert "And *kind*." in answer.text or "guidelines" in changes
    assert count(Project) == 0


def test_a_field_that_the_form_does_not_have_is_refused(admin: Browser) -> None:
    assert admin.post_form("/projects/new", {**FORM, "state": "archived"}).status_code == 422
    assert count(Project) == 0


def test_a_taken_name_is_a_conflict_that_keeps_the_form(admin: Browser) -> None:
    assert admin.post_form("/projects/new", FORM).status_code == 303
    answer = admin.post_form("/projects/new", FORM)
    assert answer.status_code == 409
    assert "There is a project named “Short answers” already." in answer.text
    assert "And *kind*." in answer.text


def test_guidelines_are_reworded_as_new_versions(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/guidelines"
    assert admin.post_form(path, {"body": "Be <b>bold</b> and **kind**."}).status_code == 303
    page = admin.get(path).text
    assert "Version 2" in page
    assert "Version 1, by" in page
    assert "<strong>kind</strong>" in page
    assert "<b>bold</b>" not in page
    assert admin.post_form(path, {"body": ""}).status_code == 422


def test_a_project_is_paused_and_opened(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}"
    for state, button in (("paused", "Open"), ("open", "Pause")):
        answer = admin.post_form(f"{path}/state", {"state": state})
        assert answer.headers["location"] == f"{path}?done=project-{state}"
        assert f">{button}</button>" in admin.get(path).text
    assert admin.post_form(f"{path}/state", {"state": "gone"}).status_code == 422


def test_pasted_prompts_are_imported_and_reported(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/prompts"
    text = '{"prompt": "Why?", "source": "forum"}\r\n{"prompt": "Why?"}\r\n{"prompt": "Question 0?"}\r\n'
    answer = admin.post_form(f"{path}/import", {"text": text, "format": "auto"})
    assert answer.status_code == 303
    report = admin.get(answer.headers["location"])
    assert report.status_code == 200
    assert "1 new prompt in" in report.text
    assert "1 stood twice in the file, 1 in the project already" in report.text
    assert "Not used: source." in report.text
    assert "Why?" in admin.get(path).text
    # The same once more changes nothing, so a double click is harmless.
    assert admin.post_form(f"{path}/import", {"text": text}).status_code == 303
    assert count(Prompt) == 3


def test_an_uploaded_file_is_imported(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/prompts/import"
    upload = {"file": ("prompts.txt", "\ufeffWas ist Liebe?\nWhy?\n".encode())}
    data = {"csrf_token": admin.csrf_token, "text": "", "format": "text"}
    assert admin.post(path, data=data, files=upload).status_code == 303
    with db.transaction() as session:
        contents = [row[0]["content"] for row in session.scalars(select(Prompt.messages).order_by(Prompt.position))]
    assert contents[-2:] == ["Was ist Liebe?", "Why?"]


def test_a_malformed_import_names_its_lines_and_stores_nothing(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/prompts/import"
    text = '{"prompt": "kept <here>"}\n{"prompt": }\n{"messages": []}\n'
    answer = admin.post_form(path, {"text": text, "format": "jsonl"})
    assert answer.status_code == 422
    assert "Nothing was imported: 2 problems were found." in answer.text
    assert "Line 2 is not valid JSON" in answer.text
    assert "Line 3 needs a non-empty list" in answer.text
    assert "kept &lt;here&gt;" in answer.text
    assert re.search(r'value="jsonl" checked', answer.text)
    assert count(Prompt) == 2


@pytest.mark.parametrize(
    ("fields", "file", "sentence"),
    [
        ({"text": ""}, None, "There is no prompt in it"),
        ({"text": "a", "format": "xml"}, None, "Choose the format"),
        ({"text": "a"}, b"b", "Paste lines or choose a file, not both"),
        ({"format": "text"}, b"\xff\xfe", "Line 1 is not valid UTF-8"),
        ({"format": "text"}, b"a\x00b", "Line 1 holds a NUL character"),
    ],
)
def test_an_import_that_cannot_be_read_is_refused_in_a_sentence(
    admin: Browser, world: World, fields: dict[str, str], file: bytes | None, sentence: str
) -> None:
    path = f"/projects/{world.project_id}/prompts/import"
    files = {"file": ("x.txt", file)} if file else None
    answer = admin.post(path, data={"csrf_token": admin.csrf_token, **fields}, files=files)
    assert answer.status_code == 422
    assert sentence in answer.text
    assert count(Prompt) == 2


def test_a_file_larger_than_a_form_may_be_is_imported(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}/prompts/import"
    content = b"\n".join(b"%d %s" % (number, b"x" * 2000) for number in range(1500))  # 3 MB; a form takes 1 MiB
    answer = admin.post(path, headers={"X-CSRF-Token": admin.csrf_token}, files={"file": ("big.txt", content)})
    assert answer.status_code == 303, answer.text
    assert count(Prompt) == 1502


def test_prompts_are_listed_a_page_at_a_time(admin: Browser, database: str) -> None:
    path = f"/projects/{make_world(number_of_prompts=60, k=2).project_id}/prompts"
    first, second = admin.get(path).text, admin.get(f"{path}?page=2").text
    assert "Question 49?" in first
    assert "Question 50?" not in first
    assert "Question 50?" in second
    assert "Page 2 of 2" in second
    assert admin.get(f"{path}?page=0").status_code == 422


@pytest.fixture
def model_id(world: World, tmp_path: Path) -> str:
    """A policy whose folder looks like a model; nothing loads it here."""
    for name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        (tmp_path / name).write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with db.transaction() as session:
        model = ModelVersion(
            project_id=world.project_id,
            name="base",
            kind="policy",
            method="base",
            uri=str(tmp_path),
            created_by=world.admin.id,
        )
        session.add(model)
        session.flush()
        return str(model.id)


@pytest.mark.usefixtures("redis_url")
def test_sampling_is_queued_and_leads_to_the_run(admin: Browser, world: World, model_id: str) -> None:
    path = f"/projects/{world.project_id}"
    form_id = re.search(r'name="form_id" value="([^"]+)"', admin.get(path).text)
    assert form_id
    data = {"model_id": model_id, "prompts": "all", "temperature": "0.9", "seed": "7", "form_id": form_id.group(1)}
    answers = [admin.post_form(f"{path}/sample", {**data, "max_new_tokens": "64"}) for _ in range(2)]
    assert [answer.status_code for answer in answers] == [303, 303]
    assert answers[0].headers["location"] == answers[1].headers["location"]  # a double click starts one run
    with db.transaction() as session:
        run = session.scalars(select(Run).where(Run.state == "queued", Run.name != "Sampling")).one()
        assert answers[0].headers["location"] == f"/runs/{run.id}"
        assert (run.method, len(run.inputs["prompts"]), run.config["seed"]) == ("sample", 2, 7)


@pytest.mark.parametrize(
    ("changes", "status", "sentence"),
    [
        ({"temperature": "hot"}, 422, "Enter a number."),
        ({"temperature": "nan"}, 422, "Enter a number."),
        ({"max_new_tokens": "0"}, 422, "Enter 1 or more."),
        ({"prompts": "some"}, 422, "Choose one of the values offered."),
        ({"prompts": "unsampled"}, 422, "no prompt that is unsampled"),
        ({"model_id": "x"}, 422, "Choose one of the entries offered."),
        ({"model_id": str(uuid4())}, 404, "There is no such model."),
    ],
)
def test_sampling_that_cannot_start_is_refused_in_a_sentence(
    admin: Browser, world: World, model_id: str, changes: dict[str, str], status: int, sentence: str
) -> None:
    runs_before = count(Run)
    data = {"model_id": model_id, "prompts": "all", "temperature": "0.9", "max_new_tokens": "64", "seed": "0"}
    answer = admin.post_form(f"/projects/{world.project_id}/sample", {**data, **changes})
    assert (answer.status_code, sentence in answer.text) == (status, True), answer.text
    assert count(Run) == runs_before


def test_a_missing_model_folder_is_told_on_the_page(
    admin: Browser, world: World, model_id: str, tmp_path: Path
) -> None:
    (tmp_path / "config.json").unlink()
    data = {"model_id": model_id, "prompts": "all", "temperature": "0.9", "max_new_tokens": "64", "seed": "0"}
    answer = admin.post_form(f"/projects/{world.project_id}/sample", data)
    assert answer.status_code == 422
    assert "has no config.json" in answer.text


def test_draft_tasks_are_opened_once(admin: Browser, world: World) -> None:
    path = f"/projects/{world.project_id}"
    assert "2 ranking tasks are made from sampled answers" in admin.get(path).text
    answers = [admin.post_form(f"{path}/open-tasks", {"kind": "ranking"}) for _ in range(2)]
    assert [answer.headers["location"].partition("=")[2] for answer in answers] == ["tasks-opened", "nothing-to-open"]
    assert admin.post_form(f"{path}/open-tasks", {"kind": "demonstration"}).headers["location"].endswith("tasks-opened")
    assert admin.post_form(f"{path}/open-tasks", {"kind": "all"}).status_code == 422
    with db.transaction() as session:
        assert set(session.scalars(select(Task.state))) == {"open"}


def test_simulated_work_is_marked_on_the_page(admin: Browser, database: str) -> None:
    world = make_world(overlap=1)
    labeler = world.labelers[0]
    taken = take(world, labeler)
    assert taken is not None
    rank(taken, labeler)
    path = f"/projects/{world.project_id}"
    assert "simulated" not in admin.get(path).text
    with db.transaction() as session:
        session.merge(labeler).is_simulated = True
    page = admin.get(path).text
    assert re.search(rf"{labeler.name} <span class=\"badge badge-simulated\">simulated</span>", page)
    assert "Part of this work comes from simulated labelers." in page


def test_reviewers_read_and_labelers_do_not(world: World, make_user: MakeUser, sign_in: SignIn) -> None:
    base = f"/projects/{world.project_id}"
    reads = ["/projects", base, f"{base}/prompts", f"{base}/guidelines"]
    admin_reads = ["/projects/new", f"{base}/prompts/import"]
    writes = {
        "/projects/new": FORM,
        f"{base}/guidelines": {"body": "x"},
        f"{base}/state": {"state": "paused"},
        f"{base}/prompts/import": {"text": "x"},
        f"{base}/sample": {"model_id": str(uuid4())},
        f"{base}/open-tasks": {"kind": "ranking"},
    }
    events = count(AuditEvent)
    for role, may_read in (("reviewer", 200), ("labeler", 403)):
        browser = sign_in(make_user(role))
        assert [browser.get(path).status_code for path in reads] == [may_read] * len(reads)
        assert {browser.get(path).status_code for path in admin_reads} == {403}
        assert {browser.post_form(path, data).status_code for path, data in writes.items()} == {403}
        assert "<form" not in browser.get(base).text.partition('<main id="main"')[2]
    assert count(AuditEvent) == events + 2  # two people signed in; nothing else happened
    assert count(Project) == 1


def test_looking_writes_nothing(admin: Browser, world: World) -> None:
    base = f"/projects/{world.project_id}"
    before = [count(table) for table in (AuditEvent, Prompt, Task, Run)]
    for path in ("/projects", "/projects/new", base, f"{base}/prompts", f"{base}/prompts/import", f"{base}/guidelines"):
        assert admin.get(path).status_code == 200
    assert before == [count(table) for table in (AuditEvent, Prompt, Task, Run)]


def test_what_does_not_exist_is_not_found(admin: Browser, world: World) -> None:
    for path in (f"/projects/{uuid4()}", "/projects/none", f"/projects/{world.project_id}/prompts/imported/{uuid4()}"):
        assert admin.get(path).status_code == 404


def test_hostile_text_stays_text_on_every_page(admin: Browser) -> None:
    hostile = "\n".join(payload.replace("\n", " ") for payload in PAYLOADS)
    name = "</title><script>alert(1)</script>"
    answer = admin.post_form("/projects/new", {**FORM, "name": name, "guidelines": hostile, "held_out_percent": "0"})
    base = answer.headers["location"].partition("?")[0]
    imported = admin.post_form(f"{base}/prompts/import", {"text": hostile, "format": "text"})
    refused = admin.post_form(f"{base}/prompts/import", {"text": hostile, "format": "jsonl"})
    assert (imported.status_code, refused.status_code) == (303, 422)
    pages = [base, f"{base}/prompts", f"{base}/prompts?page=2", f"{base}/guidelines", "/projects", "/work"]
    for page in [refused, admin.get(imported.headers["location"]), *map(admin.get, pages)]:
        ours = ["<svg>"] if "<svg" in page.text and page.url.path == base else []  # the chart of the overview
        assert became_markup(page.text) == ours
