"""A labeler's work in a real browser: ranking by mouse, keyboard and plain form, and what must never get lost."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from playwright.sync_api import expect
from sqlalchemy import delete, select

from app import db
from app.models import Assignment, Demonstration, Project, User, WebSession
from app.services.labeling import tasks

from . import world
from .chromium import Watch
from .conftest import PASSWORD, MakeUser, OpenPage
from .labeling import (
    chosen,
    question,
    rank_by_drag,
    rank_by_form,
    rank_by_keys,
    start_ranking,
    start_writing,
    submit_button,
)

FRUIT = {
    "Is a tomato a fruit?": ("Yes, to a botanist.", "No, it is a mineral.", "Yes; to a cook it is a vegetable.", "Hm."),
    "Is a nut a fruit?": ("A hazelnut is.", "Never.", "Often: a nut is a dry fruit.", "Ask someone else."),
    "Is rhubarb a fruit?": ("No, it is a stalk.", "Yes.", "It is a leaf stalk, used as a fruit.", "Rhubarb!"),
}
FIRST, SECOND, THIRD = FRUIT
BEST_FIRST = dict(zip(FRUIT[FIRST], (1, 4, 1, 3), strict=True))  # the first and the third are tied
BEST_FIRST_GROUPS = [{FRUIT[FIRST][0], FRUIT[FIRST][2]}, {FRUIT[FIRST][3]}, {FRUIT[FIRST][1]}]


@pytest.fixture
def labeler(make_user: MakeUser) -> User:
    return make_user("labeler", "Noor Haddad")


@pytest.fixture
def project(make_user: MakeUser, tmp_path: Path) -> Project:
    admin = make_user("admin", "Ada Okafor")
    with db.transaction() as session:
        return world.open_for_ranking(session, admin, tmp_path / "model", FRUIT)


def stored() -> list[world.Groups]:
    with db.transaction() as session:
        return world.stored_rankings(session)


def test_a_labelers_day_from_the_invitation_to_the_last_task(
    project: Project, make_user: MakeUser, open_page: OpenPage, watch: Watch
) -> None:
    admin = make_user("admin", "Ruth Lindqvist")
    with db.transaction() as session:
        writing = world.make_project(session, admin, ("Describe the taste of a quince.",), name="Ideal answers")
        tasks.open_tasks(session, writing, admin, "demonstration")

    office = open_page(admin)
    office.goto("/people")
    office.get_by_label("E-mail address").fill("mia@example.org")
    office.get_by_role("button", name="Create the invitation").click()
    link = office.get_by_label("Invitation link").input_value()

    page = open_page()
    page.goto(link)
    page.get_by_label("Your name").fill("Mia Duarte")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Create the account").click()
    expect(page.get_by_text("Welcome. Your account is ready.")).to_be_visible()
    page.get_by_text("Mia Duarte").click()
    page.get_by_role("button", name="Sign out").click()
    page.get_by_label("E-mail address").fill("mia@example.org")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").click()
    expect(page).to_have_url(re.compile("/work$"))

    fruit = page.locator(".project-card", has_text=project.name)
    fruit.get_by_role("button", name="Start ranking").click()
    expect(question(page)).to_contain_text(FIRST)
    rank_by_drag(page, BEST_FIRST)
    assert chosen(page) == BEST_FIRST
    watch.clear()
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    assert [re.sub("[0-9a-f-]{36}", "ID", sent) for sent in watch.sent] == ["POST /work/assignments/ID/ranking"]

    by_keys = dict(zip(FRUIT[SECOND], (2, 3, 1, 3), strict=True))
    rank_by_keys(page, by_keys)
    page.keyboard.press("Enter")
    expect(question(page)).to_contain_text(THIRD)

    page.get_by_text("Skip", exact=True).click()
    page.get_by_label("I do not know enough to judge").check()
    page.get_by_role("button", name="Skip this task").click()
    expect(page.get_by_text("The task is skipped")).to_be_visible()
    expect(fruit.get_by_text("Nothing waits for you here just now.")).to_be_visible()

    page.get_by_role("button", name="Start writing").click()
    page.get_by_label("Your answer").fill("Like a pear that has met a rose,\nand was never in a hurry.")
    expect(page.get_by_text("14 words")).to_be_visible()
    submit_button(page).click()
    expect(page.get_by_text("Saved. Thank you.")).to_be_visible()
    expect(page.get_by_text("Nothing waits for you here just now.")).to_have_count(2)

    groups = [{FRUIT[SECOND][2]}, {FRUIT[SECOND][0]}, {FRUIT[SECOND][1], FRUIT[SECOND][3]}]
    assert stored() == [BEST_FIRST_GROUPS, groups]
    with db.transaction() as session:
        text = session.scalars(select(Demonstration.text)).one()
        skipped = session.scalars(select(Assignment.skip_reason).where(Assignment.state == "skipped")).one()
    assert text == "Like a pear that has met a rose,\nand was never in a hurry."
    assert skipped


def test_without_javascript_the_same_ranking_is_stored_and_an_incomplete_one_is_kept_and_explained(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler, javascript=False)
    start_ranking(page)
    entered = {text: rank for text, rank in BEST_FIRST.items() if text != "Hm."}
    rank_by_form(page, entered)
    # The browser itself asks for the missing rank; a form that is sent all the same is refused by the server.
    submit_button(page).click()
    assert chosen(page) == entered
    page.locator("form.ranking").evaluate("form => { form.noValidate = true }")
    watch.expect("422")
    submit_button(page).click()
    expect(page.get_by_text(re.compile("Give every answer a rank: [A-D] has none yet."))).to_be_visible()
    assert chosen(page) == entered
    assert stored() == []

    rank_by_form(page, BEST_FIRST)
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    assert stored() == [BEST_FIRST_GROUPS]


def test_a_double_click_stores_one_ranking_and_does_not_touch_the_next_task(
    project: Project, labeler: User, open_page: OpenPage
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_form(page, BEST_FIRST)
    submit_button(page).dblclick()
    expect(question(page)).to_contain_text(SECOND)
    expect(submit_button(page)).to_be_disabled()
    assert stored() == [BEST_FIRST_GROUPS]


@pytest.mark.parametrize("javascript", [True, False], ids=["with JavaScript", "without JavaScript"])
def test_back_after_submitting_shows_the_saved_ranking_and_the_way_on(
    project: Project, labeler: User, open_page: OpenPage, javascript: bool
) -> None:
    page = open_page(labeler, javascript=javascript)
    start_ranking(page)
    rank_by_form(page, BEST_FIRST)
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    page.go_back()
    expect(page.get_by_text("You have answered this task. It is saved.")).to_be_visible()
    expect(submit_button(page)).to_have_count(0)
    best, *_ = [text for text, rank in chosen(page).items() if rank == 1]
    assert best in BEST_FIRST_GROUPS[0]
    page.get_by_role("button", name="Next task").click()
    expect(question(page)).to_contain_text(SECOND)
    assert stored() == [BEST_FIRST_GROUPS]


def test_a_form_that_was_kept_open_in_another_tab_is_answered_calmly_and_stores_no_second_ranking(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    other = page.context.new_page()
    other.goto(page.url)
    for tab in (page, other):
        rank_by_form(tab, BEST_FIRST)
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    submit_button(other).click()
    expect(question(other)).to_contain_text(SECOND)
    assert stored() == [BEST_FIRST_GROUPS]


def test_without_a_network_the_page_says_so_and_saves_once_by_itself_when_it_is_back(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_form(page, BEST_FIRST)
    watch.expect("ERR_INTERNET_DISCONNECTED")
    watch.expect("console error: htmx:")  # htmx writes down what failed; the page tells it in words
    page.context.set_offline(True)
    submit_button(page).click()
    expect(page.locator("#task [data-save-state]").last).to_contain_text("Not saved yet. Trying again in")
    assert chosen(page) == BEST_FIRST
    assert stored() == []
    page.context.set_offline(False)
    expect(question(page)).to_contain_text(SECOND)
    assert stored() == [BEST_FIRST_GROUPS]


def test_when_the_session_ends_while_ranking_nothing_is_lost_and_signing_in_elsewhere_saves_it(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_form(page, BEST_FIRST)
    _end_sessions()
    watch.expect("401")
    submit_button(page).click()
    expect(page.locator("#task [data-save-state]").last).to_contain_text("Sign in in another tab")
    assert chosen(page) == BEST_FIRST

    other = page.context.new_page()
    other.goto("/sign-in")
    other.get_by_label("E-mail address").fill(labeler.email)
    other.get_by_label("Password").fill(PASSWORD)
    other.get_by_role("button", name="Sign in").click()
    expect(other).to_have_url(re.compile("/work$"))

    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    assert stored() == [BEST_FIRST_GROUPS]


def test_a_written_answer_stays_on_the_page_when_the_session_has_ended(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, project)
    page = open_page(labeler)
    start_writing(page)
    page.get_by_label("Your answer").fill("A tomato is a fruit that nobody puts into a fruit salad.")
    _end_sessions()
    watch.expect("401")
    submit_button(page).click()
    expect(page.locator("#task [data-save-state]").last).to_contain_text("Sign in in another tab")
    expect(page.get_by_label("Your answer")).to_have_value("A tomato is a fruit that nobody puts into a fruit salad.")


def test_a_page_with_unsaved_choices_asks_before_it_is_left(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_form(page, BEST_FIRST)
    _end_sessions()
    watch.expect("401")
    submit_button(page).click()
    expect(page.locator("#task [data-save-state]").last).to_contain_text("Not saved yet")
    asked = []
    page.on("dialog", lambda dialog: (asked.append(dialog.type), dialog.dismiss()))
    page.close(run_before_unload=True)
    page.wait_for_timeout(0)
    expect(question(page)).to_contain_text(FIRST)
    assert asked == ["beforeunload"]


def _end_sessions() -> None:
    with db.transaction() as session:
        session.execute(delete(WebSession))
