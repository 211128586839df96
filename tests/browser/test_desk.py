"""Around the board in a real browser: an admin decides what is asked and by which guidelines, and labelers notice."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app import db
from app.models import GuidelineVersion, Task, User
from app.services.projects import guidelines

from . import world
from .conftest import MakeUser, OpenPage
from .texts import QUESTIONS


@pytest.fixture
def admin(make_user: MakeUser) -> User:
    return make_user("admin", "Ada Okafor")


@pytest.mark.parametrize("javascript", [True, False], ids=["script", "plain"])
def test_an_admin_changes_what_is_asked_and_the_labeler_reads_what_is_new(
    admin: User, make_user: MakeUser, open_page: OpenPage, tmp_path: Path, *, javascript: bool
) -> None:
    labeler = make_user("labeler", "Noor Haddad")
    with db.transaction() as session:
        project = world.open_for_ranking(session, admin, tmp_path / "model", QUESTIONS)
    work = open_page(labeler, javascript=javascript)
    work.goto("/work")
    work.get_by_role("link", name="Read the guidelines first").click()
    work.get_by_role("button", name="I have read it").click()
    expect(work.get_by_text("You have read the newest guidelines.")).to_be_visible()
    work.get_by_role("button", name="Start ranking").click()
    task = work.url

    page = open_page(admin, javascript=javascript)
    page.goto(f"/projects/{project.id}/guidelines")
    body = page.get_by_label("Guidelines", exact=True)
    body.fill(body.input_value().replace("**Right** comes before everything.", "**Right** comes before all else."))
    page.get_by_role("button", name="Helpful, honest, harmless").click()
    expect(page.get_by_label("Criterion 1", exact=True)).to_have_value("Helpful")
    expect(body).to_have_value(body.input_value())
    page.get_by_label("How much better").select_option("required")
    for number in range(4, 7):  # three rows are filled, two are blank; the button makes one more
        if page.get_by_label(f"Criterion {number}", exact=True).count() == 0:
            page.get_by_role("button", name="More rows").click()
        page.get_by_label(f"Criterion {number}", exact=True).fill(f"Ours {number}")
    page.get_by_role("button", name="Save a new version").click()
    expect(page.get_by_text("The guidelines are saved as a new version.")).to_be_visible()
    with db.transaction() as session:
        asked = guidelines.current(session, project.id).questions
    assert [item.label for item in asked.criteria] == ["Helpful", "Honest", "Harmless", "Ours 4", "Ours 5", "Ours 6"]
    assert asked.strength == "required"

    board = open_page(make_user("labeler", "Mia Duarte"), javascript=javascript)
    board.goto("/work")
    board.get_by_role("button", name="Start ranking").click()
    expect(board.get_by_text("Ours 6").first).to_be_attached()

    work.goto(task)
    expect(work.get_by_text("Ours 6")).to_have_count(0)  # a task in hand keeps the questions it came with
    notice = work.locator(".guidelines-notice")
    expect(notice).to_contain_text("Guidelines changed: version 2.")
    notice.get_by_role("link", name="See what is new").click()
    expect(work.locator("del").first).to_have_text("everything")
    expect(work.locator("ins").first).to_have_text("all else")
    expect(work.get_by_text("New: “Ours 6” (1 to 7).")).to_be_visible()
    work.get_by_role("button", name="I have read it").click()
    work.goto(task)
    expect(work.get_by_role("heading", name="Rank the answers")).to_be_visible()
    expect(notice).to_have_count(0)


def test_an_admin_finds_tasks_and_changes_them_and_the_settings_without_javascript(
    admin: User, open_page: OpenPage, tmp_path: Path
) -> None:
    with db.transaction() as session:
        project = world.open_for_ranking(session, admin, tmp_path / "model", QUESTIONS)
    page = open_page(admin, width=390, javascript=False)
    page.goto(f"/projects/{project.id}")
    open_section(page, "Settings")
    page.get_by_label("Labelers per task").fill("4")
    page.get_by_label("Also change the overlap").check()
    page.get_by_label("Deadline, in UTC").fill("2099-01-31T18:00")
    page.get_by_role("button", name="Save the settings").click()
    expect(page.get_by_text("The overlap of 6 open tasks was changed.")).to_be_visible()
    expect(page.get_by_label("Deadline, in UTC")).to_have_value("2099-01-31T18:00")

    open_section(page, "Tasks")
    page.get_by_label("State").select_option("open")
    page.get_by_role("button", name="Filter").click()
    page.get_by_label("Task 2", exact=True).check()
    page.get_by_label("Priority").fill("5")
    page.get_by_role("button", name="Set", exact=True).click()
    expect(page.get_by_text("1 task: priority 5.")).to_be_visible()
    page.get_by_label("All 6 that the filter shows").check()
    page.get_by_role("button", name="Close").click()
    expect(page.get_by_text("6 tasks: closed.")).to_be_visible()
    with db.transaction() as session:
        made = session.scalars(select(Task)).all()
        assert {(task.state, task.target_overlap) for task in made} == {("closed", 4)}
        assert sorted(task.priority for task in made) == [0] * 5 + [5]
        assert len(session.scalars(select(GuidelineVersion)).all()) == 1


def open_section(page: Page, name: str) -> None:
    page.get_by_role("navigation", name="Sections of this project").get_by_role("link", name=name).click()
