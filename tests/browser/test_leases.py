"""What keeps a labeler's work in hand: drafts, the beat, the next task ahead, undo, change, and a session that ends."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import delete, select

from app import db
from app.models import Assignment, Demonstration, Draft, Project, Ranking, User, WebSession
from app.services.labeling import tasks

from . import world
from .chromium import Watch
from .conftest import PASSWORD, MakeUser, OpenPage
from .labeling import chosen, letters, question, rank_by_form, rank_by_keys, start_ranking, start_writing, submit_button

ANSWERS = ("Yes.", "No.", "Perhaps.")
FIRST, SECOND, THIRD = ("Is a tomato a fruit?", "Is a nut a fruit?", "Is rhubarb a fruit?")
RANKS = {"Yes.": 1, "No.": 2, "Perhaps.": 2}
ID = "[0-9a-f-]{36}"


@pytest.fixture
def labeler(make_user: MakeUser) -> User:
    return make_user("labeler", "Noor Haddad")


@pytest.fixture
def project(make_user: MakeUser, tmp_path: Path) -> Project:
    admin = make_user("admin", "Ada Okafor")
    with db.transaction() as session:
        return world.open_for_ranking(
            session, admin, tmp_path / "model", dict.fromkeys((FIRST, SECOND, THIRD), ANSWERS)
        )


def assignments() -> list[Assignment]:
    with db.transaction() as session:
        return list(session.scalars(select(Assignment).order_by(Assignment.id)))


def rankings() -> list[Ranking]:
    with db.transaction() as session:
        return list(session.scalars(select(Ranking).where(Ranking.origin == "task").order_by(Ranking.id)))


def draft() -> str | None:
    with db.transaction() as session:
        return session.scalar(select(Draft.fields["reason"].astext))


def arrives(page: Page, check: Callable[[], bool]) -> None:
    """Wait until the database shows what a page sent while it was left; the browser tells nobody about such requests.

    Each look is one round trip through the page that is open now.
    """
    for _ in range(500):
        if check():
            return
        page.evaluate("new Promise((resolve) => requestIdleCallback(resolve))")
    assert check()


def sent(watch: Watch) -> list[str]:
    return [re.sub(ID, "ID", each).replace("/work/assignments/ID", "…") for each in watch.sent]


def end_sessions() -> None:
    with db.transaction() as session:
        session.execute(delete(WebSession))


def test_what_is_filled_in_survives_a_reload_and_the_page_that_is_closed_in_a_hurry(
    project: Project, labeler: User, open_page: OpenPage
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_keys(page, RANKS)
    page.get_by_label("Why?").fill("Because.")
    expect(page.get_by_text("Draft saved")).to_be_visible()
    page.reload()
    assert chosen(page) == RANKS
    expect(page.get_by_label("Why?")).to_have_value("Because.")
    page.get_by_label("Why?").fill("Because of its seeds.")
    page.goto("/account")  # a beacon leaves with the page, long before a draft is due
    arrives(page, lambda: draft() == "Because of its seeds.")
    page.goto("/work")
    page.get_by_role("link", name="Go on with your ranking").click()
    expect(page.get_by_label("Why?")).to_have_value("Because of its seeds.")
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    assert [ranking.reason for ranking in rankings()] == ["Because of its seeds."]
    assert chosen(page) == {}


def test_the_lease_is_kept_and_the_next_task_is_at_hand_when_this_one_is_sent(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    page.clock.install()
    start_ranking(page)
    before = assignments()[0].expires_at
    with page.expect_response("**/ahead"):
        page.clock.fast_forward(3_000)
    with page.expect_response("**/keep"):
        page.clock.fast_forward(60_000)
    first, ahead = assignments()
    assert first.expires_at > before
    assert ahead.shown_at is None
    expect(page.get_by_text("2 more waiting")).to_be_visible()

    rank_by_form(page, RANKS)
    watch.clear()
    with page.expect_response("**/ranking") as answer:
        submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    assert [each for each in sent(watch) if "draft" not in each] == ["POST …/ranking"]
    assert answer.value.headers["plackett-shown"] == str(ahead.id)
    assert len(answer.value.body()) < 2_000
    expect(page.get_by_text("1 done today")).to_be_visible()
    expect(page.get_by_text("1 more waiting")).to_be_visible()
    expect(page).to_have_url(re.compile(f"{ahead.id}$"))
    shown = assignments()[1]
    assert shown.shown_at is not None
    assert rankings()[0].created_at <= shown.shown_at

    # The task after it is fetched as well, and given back when the labeler goes away.
    with page.expect_response("**/ahead"):
        page.clock.fast_forward(3_000)
    assert [each.state for each in assignments()] == ["done", "leased", "leased"]
    page.goto("/account")
    arrives(page, lambda: [each.state for each in assignments()] == ["done", "leased", "expired"])
    page.goto("/work")
    page.get_by_role("link", name="Go on with your ranking").click()
    for asked in (SECOND, THIRD):
        expect(question(page)).to_contain_text(asked)
        rank_by_form(page, RANKS)
        submit_button(page).click()
    expect(page.get_by_text("Nothing waits for you here just now.")).to_be_visible()
    assert len(rankings()) == 3


def test_an_answer_is_taken_back_and_sent_again_and_changed_days_later(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    task = page.url
    rank_by_keys(page, RANKS)
    page.keyboard.press("Enter")
    expect(question(page)).to_contain_text(SECOND)
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    page.keyboard.press("u")
    expect(question(page)).to_contain_text(FIRST)
    expect(page.get_by_text("Your answer is taken back.")).to_be_visible()
    assert chosen(page) == RANKS
    rank_by_keys(page, {"No.": 1})
    page.keyboard.press("Enter")
    expect(question(page)).to_contain_text(SECOND)  # the one that was before the labeler when they thought again

    page.goto(task)
    page.get_by_role("link", name="Change it").click()
    other = page.context.new_page()
    other.goto(page.url)
    rank_by_form(page, {"Perhaps.": 1})
    page.get_by_role("button", name="Save the change").click()
    expect(question(page)).to_contain_text(SECOND)
    # The other tab changes an answer that is not the newest any more, and is told so; its choices stay.
    watch.expect("409")
    rank_by_form(other, {"Perhaps.": 3})
    other.get_by_role("button", name="Save the change").click()
    expect(other.locator("#task [data-save-state]")).to_contain_text("Not saved.")
    assert chosen(other)["Perhaps."] == 3

    stored = rankings()
    assert [each.supersedes for each in stored] == [None, *(each.id for each in stored[:-1])]
    assert [each.retracts for each in stored] == [False, True, False, False]
    assert [each.counted for each in stored if not each.retracts][-1]
    assert [len(group) for each in stored for group in each.groups] == [1, 2, 2, 1, 3]


def test_without_javascript_the_last_answer_can_be_taken_back_too(
    project: Project, labeler: User, open_page: OpenPage
) -> None:
    page = open_page(labeler, javascript=False)
    start_ranking(page)
    rank_by_form(page, RANKS)
    submit_button(page).click()
    expect(question(page)).to_contain_text(SECOND)
    page.get_by_role("button", name="Undo").click()
    expect(question(page)).to_contain_text(FIRST)
    assert chosen(page) == RANKS
    assert [each.retracts for each in rankings()] == [False, True]


def sign_in(page: Page, user: User, password: str = PASSWORD) -> None:
    page.get_by_label("E-mail address").fill(user.email)
    page.get_by_label("Password").fill(password)
    page.get_by_role("button", name="Sign in").click()


def test_an_answer_sent_after_the_session_has_ended_is_kept_through_signing_in_without_javascript(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    watch.expect("401")
    page = open_page(labeler, javascript=False)
    start_ranking(page)
    rank_by_form(page, RANKS)
    letter = letters(page)["No."]
    page.locator(f"#answer-{letter}").get_by_text("Improve this answer").click()
    page.get_by_label(f"Your version of answer {letter}").fill("No: <b>a berry</b>.\n\nبل فاكهة")
    end_sessions()
    submit_button(page).click()
    expect(page.get_by_text("your answer is not saved yet")).to_be_visible()
    sign_in(page, labeler, "not my password")
    expect(page.get_by_text("your answer is not saved yet")).to_be_visible()
    assert rankings() == []
    sign_in(page, labeler)
    expect(page.get_by_role("heading", name="Your answer is kept")).to_be_visible()
    expect(page.get_by_text("<b>a berry</b>")).to_be_visible()
    assert rankings() == []
    page.get_by_role("button", name="Send my answer").click()
    expect(question(page)).to_contain_text(SECOND)
    (stored,) = rankings()
    assert [len(group) for group in stored.groups] == [1, 2]
    with db.transaction() as session:
        assert session.scalars(select(Demonstration.text)).all() == ["No: <b>a berry</b>.\n\nبل فاكهة"]


def test_a_written_answer_is_kept_when_its_writer_has_signed_in_again_in_another_tab(
    project: Project, labeler: User, open_page: OpenPage, watch: Watch
) -> None:
    watch.expect("403")
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, project)
    page = open_page(labeler, javascript=False)
    start_writing(page)
    page.get_by_label("Your answer").fill("A berry, to be exact.")
    end_sessions()
    other = page.context.new_page()
    other.goto("/sign-in")
    sign_in(other, labeler)
    expect(other).to_have_url(re.compile("/work$"))
    submit_button(page).click()
    expect(page.get_by_text("A berry, to be exact.")).to_be_visible()
    page.get_by_role("button", name="Send my answer").click()
    expect(page.get_by_text("Saved. Thank you.")).to_be_visible()
    with db.transaction() as session:
        assert session.scalars(select(Demonstration.text)).all() == ["A berry, to be exact."]


def test_a_problem_with_a_task_is_reported_without_losing_the_board(
    project: Project, labeler: User, open_page: OpenPage
) -> None:
    page = open_page(labeler)
    start_ranking(page)
    rank_by_keys(page, RANKS)
    page.keyboard.press("x")
    page.get_by_label("I have seen the same task before").check()
    page.get_by_label("Note").fill("Yesterday.")
    page.get_by_role("button", name="Send to the reviewers").click()
    expect(page.get_by_text("Thank you. A reviewer will look at it")).to_be_visible()
    assert chosen(page) == RANKS
    page.keyboard.press("Escape")
