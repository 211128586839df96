"""A reviewer's work on quality in a real browser, by keyboard: known answers, quarantine, adjudication."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import func, select

from app import db
from app.models import Quarantine, Ranking, Task, User

from .conftest import MakeUser, OpenPage
from .crowd import Crowd, make_crowd


@pytest.fixture
def reviewer(make_user: MakeUser) -> User:
    return make_user("reviewer", "Rae Lind")


@pytest.fixture
def crowd(make_user: MakeUser) -> Crowd:
    return make_crowd(make_user("admin", "Ada Okafor"))


def press(page: Page, name: str, role: str = "button") -> None:
    """Go to a control and press Enter, as somebody without a mouse does."""
    control = page.get_by_role(role, name=name).first  # type: ignore[arg-type]
    control.focus()
    control.press("Enter")


def rank_by_keys(page: Page, ranks: str) -> None:
    """Give the answers A, B, C … these ranks, and send them."""
    expect(page.locator(".board")).to_be_visible()
    for letter, rank in zip("abcdefghi", ranks, strict=False):
        page.keyboard.press(letter)
        page.keyboard.press(rank)
    page.keyboard.press("Enter")


def counted(*conditions: object) -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(Ranking).where(*conditions)) or 0  # type: ignore[arg-type]


def test_a_reviewer_sets_work_aside_settles_a_disagreement_and_gives_a_known_answer(
    reviewer: User, crowd: Crowd, open_page: OpenPage
) -> None:
    page = open_page(reviewer)
    page.goto(f"/projects/{crowd.project.id}/quality")
    line = page.get_by_role("row").filter(has_text="Tomas Novak")
    expect(line).to_contain_text("100% of the rankings were faster than anybody can read.")

    press(page, "Set aside work of Tomas Novak", "link")
    expect(page.get_by_label("Whose work")).to_have_value(re.compile("[0-9a-f-]{36}"))
    reason = page.get_by_label("Why")
    reason.fill("Faster than anybody can read")
    reason.press("Enter")
    expect(page.get_by_text(re.compile(r"This takes \d+ of 171 rankings out: \d+ remain\."))).to_be_visible()
    press(page, "Set aside")
    expect(page.get_by_text("The work is set aside.")).to_be_visible()
    expect(page.get_by_text("Faster than anybody can read")).to_be_visible()
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Quarantine)) == 2

    page.goto(f"/projects/{crowd.project.id}/quality/disagreements/{crowd.contested}")
    expect(page.get_by_role("table")).to_contain_text("Labeler 3")
    rank_by_keys(page, "1224")
    expect(page.get_by_text("Your ranking stands for the task now.")).to_be_visible()
    expect(page).not_to_have_url(re.compile(str(crowd.contested)))
    assert counted(Ranking.origin == "adjudication", Ranking.task_id == crowd.contested) == 1
    press(page, "Labelers are right as they are")
    expect(page.get_by_text("The labelers' rankings stand as they are.")).to_be_visible()

    page.goto(f"/projects/{crowd.project.id}/quality/known")
    press(page, "Rank it", "link")
    rank_by_keys(page, "4321")
    expect(page.get_by_text("The task has a known answer now.")).to_be_visible()
    with db.transaction() as session:
        assert session.scalar(select(func.count()).where(Task.purpose == "gold")) == 3


def test_without_javascript_a_disagreement_is_settled_all_the_same(
    reviewer: User, crowd: Crowd, open_page: OpenPage
) -> None:
    page = open_page(reviewer, javascript=False, width=390, height=844)
    page.goto(f"/projects/{crowd.project.id}/quality/disagreements/{crowd.contested}")
    for letter in "ABCD":
        page.locator(f'input[name="rank_{letter}"][value="{"ABCD".index(letter) + 1}"]').check(force=True)
    page.get_by_role("button", name="Submit").click()
    expect(page.get_by_text("Your ranking stands for the task now.")).to_be_visible()
    assert counted(Ranking.origin == "adjudication") == 1
