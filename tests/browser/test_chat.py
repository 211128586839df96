"""Live chat in a real browser: by keyboard alone, without JavaScript, through a broken stream, in two tabs."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import chat_world
import endpoint
import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app import db
from app.models import Completion, Project, Ranking, User, WebSession

from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .world import make_project


@pytest.fixture
def project(make_user: MakeUser, address: str, lab: endpoint.Endpoint) -> Project:
    with db.transaction() as session:
        return make_project(session, make_user("admin", "Ada Okafor"), ("Not of interest here",))


@pytest.fixture
def labeler(make_user: MakeUser) -> User:
    return make_user("labeler", "Noor Haddad")


def take_part(project: Project, *models: str) -> None:
    with db.transaction() as session:
        admin = session.get_one(User, project.created_by)
    chat_world.add_models(project.id, admin, models)


def start(page: Page) -> None:
    page.goto("/work")
    page.get_by_role("button", name="Start a chat").click()
    expect(page.get_by_label("Your message")).to_be_visible()


def sides(page: Page) -> list[str]:
    return [card.inner_text().strip() for card in page.locator(".side .answer-text").all()]


def ready(page: Page) -> None:
    """Wait until both answers can be compared."""
    expect(page.locator("#chat[data-phase=ready]")).to_be_visible()


def stored() -> list[tuple[str, list[int | None] | None, int | None]]:
    """The best answer of each stored ranking, how much better it is, and what is acceptable."""
    with db.transaction() as session:
        rows = session.execute(select(Ranking.groups, Ranking.strengths, Ranking.acceptable).order_by(Ranking.id)).all()
        return [
            (session.get_one(Completion, UUID(groups[0][0])).text, strengths, acceptable)
            for groups, strengths, acceptable in rows
        ]


def test_a_chat_by_keyboard_alone(open_page: OpenPage, project: Project, labeler: User) -> None:
    take_part(project, "counts **Bold** number")
    page = open_page(labeler)
    start(page)
    expect(page.locator(".send-hint")).to_be_visible()  # the script is there
    page.get_by_label("Your message").focus()
    page.keyboard.type("What is this?")
    page.keyboard.press("Control+Enter")
    ready(page)
    expect(page.locator(".side .answer-text strong")).to_have_count(2)
    first = sides(page)
    page.keyboard.press("?")
    expect(page.get_by_role("heading", name="Keyboard")).to_be_visible()
    page.keyboard.press("?")
    page.keyboard.press("7")
    page.keyboard.press("ArrowLeft")
    expect(page.locator("input[value=b2]")).to_be_checked()
    page.keyboard.press("b")
    expect(page.locator("#answer-B")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_label("Your next message")).to_be_focused()
    expect(page.locator(".message-assistant")).to_contain_text(first[1])
    page.keyboard.type("And this?")
    page.keyboard.press("Control+Enter")
    ready(page)
    second = sides(page)
    expect(page.locator(".go-on")).to_be_hidden()
    page.keyboard.press("8")
    expect(page.locator(".go-on")).to_be_visible()
    page.keyboard.press("a")
    expect(page.locator("input[name=go_on][value=a]")).to_be_checked()
    page.get_by_label("Why?").focus()
    page.keyboard.type("Both do, 1 of 2.")
    page.keyboard.press("Control+Enter")
    expect(page.locator(".message-assistant").nth(1)).to_contain_text(second[0])
    (best, strengths, _), (_, no_strengths, acceptable) = stored()
    assert best.replace("**", "") == first[1]
    assert (strengths, no_strengths, acceptable) == ([2], [], 1)
    page.reload()
    expect(page.locator(".message-assistant")).to_have_count(2)


def test_a_chat_without_javascript(open_page: OpenPage, project: Project, labeler: User) -> None:
    take_part(project, "counts Number")
    page = open_page(labeler, width=390, javascript=False)
    start(page)
    page.get_by_label("Your message").fill("What is this?")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Get the answers").click()
    ready(page)
    answers = sides(page)
    page.locator("input[value=a3]").check(force=True)
    page.get_by_role("button", name="Choose and go on").click()
    expect(page.locator(".message-assistant")).to_contain_text(answers[0])
    assert stored() == [(answers[0], [3], None)]
    page.get_by_label("Your next message").fill("More?")
    page.get_by_role("button", name="Send").click()
    page.get_by_role("button", name="Get the answers").click()
    page.locator("input[value=tie]").check(force=True)
    page.locator("input[name=go_on][value=b]").check()
    page.get_by_role("button", name="Choose and go on").click()
    expect(page.get_by_label("Your next message")).to_be_visible()
    page.get_by_role("button", name="End chat").click()
    expect(page.get_by_text("The chat has ended.")).to_be_visible()


def test_answers_stream_side_by_side_survive_a_closed_tab_and_a_cut_and_show_in_a_second_tab(
    open_page: OpenPage, project: Project, labeler: User, lab: endpoint.Endpoint
) -> None:
    take_part(project, "waits Slowly it comes")
    page = open_page(labeler)
    start(page)
    chat = page.url
    page.get_by_label("Your message").fill("Hello?")
    page.get_by_role("button", name="Send").click()
    expect(page.locator("[data-coming]")).to_have_text(["Slowly", "Slowly"])
    second = page.context.new_page()
    second.goto(chat)
    expect(second.locator("[data-coming]")).to_have_text(["Slowly", "Slowly"])
    page.close()
    lab.go.set()
    expect(second.get_by_text("Both answers are the same")).to_be_visible()
    assert lab.count() == 2, "one question for each side, however many look on"
    second.get_by_role("button", name="Go on without a comparison").click()
    expect(second.locator(".message-note")).to_contain_text("not compared")

    lab.go.clear()
    with db.transaction() as session:
        session.connection().exec_driver_sql("UPDATE chat_models SET model = 'breaks This far'")
    second.get_by_label("Your next message").fill("Again?")
    second.get_by_role("button", name="Send").click()
    expect(second.get_by_text("The connection broke off")).to_have_count(2)
    assert sides(second) == ["This far", "This far"]
    with db.transaction() as session:
        session.connection().exec_driver_sql("UPDATE chat_models SET model = 'counts This far and further'")
    second.get_by_role("button", name="Get answer A again").click()
    expect(second.locator("[data-side=a] .answer-text")).to_contain_text("and further")
    expect(second.get_by_role("button", name="Go on with answer A")).to_be_visible()
    second.get_by_role("button", name="Get answer B again").click()
    ready(second)
    second.locator("input[value=b1]").check(force=True)
    second.get_by_role("button", name="Choose and go on").click()
    expect(second.get_by_label("Your next message")).to_be_visible()
    assert [strengths for _, strengths, _ in stored()] == [[1]]


def test_a_message_is_kept_when_the_session_ends_while_it_is_written(
    open_page: OpenPage, project: Project, labeler: User, watch: Watch
) -> None:
    take_part(project, "counts Number")
    page = open_page(labeler)
    start(page)
    expect(page.locator(".send-hint")).to_be_visible()
    page.get_by_label("Your message").fill("A long thought")
    with db.transaction() as session:
        session.delete(session.scalars(select(WebSession).where(WebSession.user_id == labeler.id)).one())
    watch.expect("401")
    page.keyboard.press("Control+Enter")
    expect(page.locator("[data-save-state]")).to_contain_text("you are signed out")
    expect(page.get_by_label("Your message")).to_have_value("A long thought")


def test_an_admin_lets_a_model_take_part_and_tries_it(open_page: OpenPage, project: Project, tmp_path: Path) -> None:
    with db.transaction() as session:
        admin = session.get_one(User, project.created_by)
    page = open_page(admin)
    page.goto(f"/projects/{project.id}")
    page.get_by_role("navigation", name="Sections of this project").get_by_role("link", name="Tasks").click()
    page.get_by_role("navigation", name="Tasks").get_by_role("link", name="Chat").click()
    page.get_by_label("Name at the endpoint").fill("404")
    page.get_by_role("button", name="Add").click()
    page.get_by_role("button", name="Test this model").click()
    expect(page.get_by_text("does not have this model")).to_be_visible()
