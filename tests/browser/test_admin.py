"""An admin's work in a real browser: a project from its name to its first tasks, runs that are followed, models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select, text

from app import db
from app.models import Prompt, User
from app.services.training import run_states, runs
from app.services.training.run_states import Beat

from . import world
from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .texts import GUIDELINES, QUESTIONS


@pytest.fixture
def admin(make_user: MakeUser) -> User:
    return make_user("admin", "Ada Okafor")


def prompt_count() -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(Prompt)) or 0


def test_a_project_goes_from_its_name_to_tasks_that_labelers_can_take(
    admin: User, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    page = open_page(admin)
    page.goto("/")
    page.get_by_role("link", name="New project").click()
    page.get_by_label("Name", exact=True).fill("Everyday questions")
    page.get_by_label("Guidelines").fill(GUIDELINES)
    page.get_by_role("button", name="Make the project").click()
    expect(page.get_by_text("The project is made. Import prompts next.")).to_be_visible()

    page.get_by_role("link", name="Import prompts").click()
    lines = [json.dumps({"prompt": question}, ensure_ascii=False) for question in QUESTIONS]
    pasted = "\n".join([*lines[:2], '{"prompt": 7}', *lines[2:]])
    page.get_by_label("Paste lines").fill(pasted)
    watch.expect("422")
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("alert").filter(has_text="Line 3")).to_be_visible()
    expect(page.get_by_label("Paste lines")).to_have_value(pasted)
    assert prompt_count() == 0
    page.get_by_label("Paste lines").fill("\n".join(lines))
    page.get_by_role("button", name="Import").click()
    expect(page.get_by_role("heading", name="Imported")).to_be_visible()
    expect(page.get_by_text("6 new prompts in Everyday questions.")).to_be_visible()
    assert prompt_count() == 6

    page.get_by_role("link", name="To the project").click()
    page.get_by_role("link", name="Guidelines").click()
    expect(page.get_by_role("strong").filter(has_text="you would be glad to get")).to_be_visible()
    page.get_by_role("link", name="Overview").click()
    page.get_by_role("button", name="Open demonstration tasks").click()
    expect(page.get_by_text("The tasks are open. Labelers can take them now.")).to_be_visible()


def test_a_model_is_registered_sampled_and_promoted(admin: User, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(admin)
    page.on("dialog", lambda dialog: dialog.accept())
    with db.transaction() as session:
        project = world.make_project(session, admin)
        world.make_model(session, project, admin, tmp_path / "first", name="first")
        (folder := tmp_path / "second").mkdir()
        for file in (tmp_path / "first").iterdir():
            (folder / file.name).write_bytes(file.read_bytes())
    page.goto(f"/projects/{project.id}/models")
    page.get_by_label("Name", exact=True).fill("second")
    page.get_by_label("Folder or hub id").fill(str(folder))
    page.get_by_role("button", name="Register").click()
    for name in ("second", "first"):
        page.goto(f"/projects/{project.id}/models")
        page.get_by_role("link", name=name, exact=True).click()
        page.get_by_role("button", name="Promote").click()
        expect(page.locator("main .badge", has_text="promoted")).to_be_visible()
    page.goto(f"/projects/{project.id}/models")
    expect(page.get_by_role("row", name=re.compile("second.*retired"))).to_be_visible()

    page.goto(f"/projects/{project.id}")
    page.get_by_label("Model").select_option(label="first (promoted)")
    page.get_by_role("button", name="Start sampling").click()
    expect(page.get_by_role("heading", name="6 prompts, 4 answers each, of first")).to_be_visible()
    expect(page.get_by_text("No GPU worker has been seen in the last minute.")).to_be_visible()


def test_the_form_of_a_run_opens_for_each_method(admin: User, open_page: OpenPage, tmp_path: Path) -> None:
    page = open_page(admin)
    studio = world.make_studio(admin, tmp_path)
    page.goto(f"/projects/{studio.project.id}/runs")
    page.get_by_role("link", name="Start a run").click()
    for method in ("SFT", "Reward model", "DPO", "KTO", "PPO", "Evaluation"):
        page.get_by_role("navigation", name="Method").get_by_role("link", name=method, exact=True).click()
        expect(page.get_by_role("button", name=f"Start {method}")).to_be_visible()
    page.get_by_role("link", name="DPO", exact=True).click()
    page.get_by_label("Beta", exact=True).fill("0.2")
    page.get_by_role("button", name="Start DPO").click()
    expect(page.get_by_role("heading", name=re.compile("^DPO from"))).to_be_visible()
    page.get_by_text("Show all settings").click()
    expect(page.get_by_label("Configuration")).to_contain_text('"beta": 0.2')


def poll(page: Page) -> None:
    """Let two seconds pass on the page's clock, and wait for the answer to what it then asks."""
    with page.expect_response(re.compile("/live$")):
        page.clock.fast_forward(2000)


def test_the_page_of_a_run_keeps_itself_fresh_and_stops_asking_when_the_run_has_ended(
    admin: User, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    with db.transaction() as session:
        project = world.make_project(session, admin)
        model = world.make_model(session, project, admin, tmp_path / "model")
        run = runs.create_sampling_run(session, project, model, admin)
    page = open_page(admin)
    page.clock.install()
    page.goto(f"/runs/{run.id}")
    with db.transaction() as session:
        lease = world.start(session, run)
        metrics = {step: {"loss": 2 / step, "time": float(step)} for step in range(1, 41)}
        run_states.heartbeat(session, lease, 3600, Beat(step=40, total=160, log_tail="step 40", metrics=metrics))
    poll(page)
    expect(page.get_by_text("Step 40 of 160, about 2 min left")).to_be_visible()
    expect(page.get_by_role("img", name="Loss from step 1 to step 40")).to_be_visible()
    with db.transaction() as session:
        run_states.finish(session, lease, {"summary": {}})
    poll(page)
    expect(page.get_by_text("The run is done.")).to_be_visible()
    watch.clear()
    page.clock.fast_forward(60_000)
    expect(page.get_by_text("The run is done.")).to_be_visible()
    assert watch.sent == []


def test_the_page_of_a_run_leads_to_sign_in_when_the_session_has_ended(
    admin: User, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    with db.transaction() as session:
        project = world.make_project(session, admin)
        model = world.make_model(session, project, admin, tmp_path / "model")
        run = runs.create_sampling_run(session, project, model, admin)
    page = open_page(admin)
    page.clock.install()
    page.goto(f"/runs/{run.id}")
    with db.transaction() as session:
        session.execute(text("DELETE FROM web_sessions"))
    watch.expect("401")
    poll(page)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert page.url.endswith(f"/sign-in?next=%2Fruns%2F{run.id}")


def test_after_signing_out_the_back_button_and_the_browsers_storage_show_nothing_private(
    admin: User, open_page: OpenPage, tmp_path: Path
) -> None:
    with db.transaction() as session:
        project = world.make_project(session, admin)
    page = open_page(admin)
    secret = next(iter(QUESTIONS))
    page.goto(f"/projects/{project.id}/prompts")
    expect(page.get_by_text(secret)).to_be_visible()
    page.get_by_text("Ada Okafor").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_text("You are signed out.")).to_be_visible()
    page.go_back()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    assert secret not in page.content()
    kept = page.evaluate("JSON.stringify([{...localStorage}, {...sessionStorage}])")
    assert secret not in kept
    assert project.name not in kept
