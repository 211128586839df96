"""The board in a real browser: all of it by keyboard, two answers, nine on a phone, two beside each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from sqlalchemy import select

from app import db
from app.models import Completion, Demonstration, Project, Ranking, User
from app.services.projects.questions import Criterion, Questions

from . import world
from .chromium import Watch
from .conftest import MakeUser, OpenPage
from .labeling import drag_line, letters, rank_by_form, rank_by_keys, start_ranking, submit_button, wait_until

FOUR = ("Yes, to a botanist.", "No, it is a mineral.", "Yes; to a cook it is a vegetable.", "Hm.")
BOTANIST, MINERAL, COOK, HM = FOUR
ASKED = Questions(
    criteria=(
        Criterion(key="helpful", label="Helpful", kind="scale", required=True, low="no help", high="all I need"),
        Criterion(key="made_up", label="Makes facts up", kind="yes_no"),
    )
)


@pytest.fixture
def labeler(make_user: MakeUser) -> User:
    return make_user("labeler", "Noor Haddad")


@pytest.fixture
def admin(make_user: MakeUser) -> User:
    return make_user("admin", "Ada Okafor")


def open_project(admin: User, folder: Path, answers: tuple[str, ...], asked: Questions, tasks: int = 1) -> Project:
    questions = {f"Is a tomato a fruit? ({number})": answers for number in range(tasks)}
    with db.transaction() as session:
        return world.open_for_ranking(session, admin, folder / "model", questions, questions=asked)


def stored() -> list[dict[str, Any]]:
    """Every ranking of a task, the newest last, with texts in place of ids."""
    with db.transaction() as session:
        texts = {str(key): text for key, text in session.execute(select(Completion.id, Completion.text))}
        rankings = session.scalars(select(Ranking).where(Ranking.origin == "task").order_by(Ranking.id)).all()
        return [
            {
                "groups": [{texts[item] for item in group} for group in ranking.groups],
                "strengths": ranking.strengths,
                "acceptable": ranking.acceptable,
                "judgements": {texts[key]: value for key, value in ranking.judgements.items()},
                "reason": ranking.reason,
            }
            for ranking in rankings
        ]


def press(page: Page, *keys: str) -> None:
    expect(page.locator("form[data-keys]")).to_have_count(1)  # the page listens
    for key in keys:
        page.keyboard.press(key)


def test_a_whole_task_is_judged_by_keyboard_alone(
    admin: User, labeler: User, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    open_project(admin, tmp_path, FOUR, ASKED)
    page = open_page(labeler)
    start_ranking(page)
    press(page, "?")
    expect(page.get_by_role("dialog", name="Keys")).to_contain_text("write a better version of this answer")
    press(page, "Escape")

    rank_by_keys(page, {BOTANIST: 1, COOK: 1, HM: 3, MINERAL: 4})
    shown = letters(page)
    press(page, "Enter")  # Not all is answered yet: the key leads to what is missing.
    expect(page.locator("[data-missing]")).to_have_text("4 required questions open.")
    expect(page.locator("input[name^=judge_A_helpful]:focus")).to_have_count(1)
    for text, points in ((BOTANIST, "67"), (COOK, "5"), (HM, "2"), (MINERAL, "1")):
        press(page, "Escape", shown[text].lower(), "q", points[0], "y" if text == MINERAL else "n")
    press(page, shown[BOTANIST].lower(), "s", "s")
    press(page, shown[HM].lower(), "-")
    expect(page.locator("[data-announce]")).to_have_text("Unacceptable: below rank 3.")
    expect(page.locator(f"#answer-{shown[MINERAL]} [data-rank-text]")).to_have_text("Rank 4, unacceptable")
    press(page, shown[MINERAL].lower(), "w")
    field = page.get_by_label(f"Your version of answer {shown[MINERAL]}")
    expect(field).to_be_focused()
    expect(field).to_have_value(MINERAL)
    press(page, "ControlOrMeta+a")
    page.keyboard.type("No mineral: the fruit of a plant.")
    press(page, "Escape", "r")
    page.keyboard.type("It grows from a flower. 1 2 3 s - are letters here.")
    press(page, "ControlOrMeta+Enter")
    expect(page.get_by_text("Nothing waits for you here just now.")).to_be_visible()

    assert stored() == [
        {
            "groups": [{BOTANIST, COOK}, {HM}, {MINERAL}],
            "strengths": [2, None],
            "acceptable": 2,
            "judgements": {
                BOTANIST: {"helpful": 6, "made_up": False},
                COOK: {"helpful": 5, "made_up": False},
                HM: {"helpful": 2, "made_up": False},
                MINERAL: {"helpful": 1, "made_up": True},
            },
            "reason": "It grows from a flower. 1 2 3 s - are letters here.",
        }
    ]
    with db.transaction() as session:
        edit = session.scalars(select(Ranking).where(Ranking.origin == "edit")).one()
        written = session.scalars(select(Demonstration)).one()
        texts = {str(key): text for key, text in session.execute(select(Completion.id, Completion.text))}
    assert [[texts[item] for item in group] for group in edit.groups] == [[written.text], [MINERAL]]
    assert written.text == "No mineral: the fruit of a plant."


@pytest.mark.parametrize("javascript", [True, False], ids=["by keyboard", "without JavaScript"])
def test_two_answers_are_compared_in_one_graded_row(
    admin: User, labeler: User, open_page: OpenPage, tmp_path: Path, javascript: bool
) -> None:
    open_project(admin, tmp_path, (BOTANIST, MINERAL), Questions(), tasks=3)
    page = open_page(labeler, javascript=javascript)
    start_ranking(page, "Compare two answers")
    expected = []
    for key, value, strengths, acceptable in ((6, "b2", [2], None), (9, "both_bad", [], 0), (4, "tie", [], None)):
        expect(page.get_by_role("heading", name="Compare two answers")).to_be_visible()
        expect(page.locator("input[name=choice]:checked")).to_have_count(0)
        second = {letter: text for text, letter in letters(page).items()}["B"]
        if javascript:
            press(page, str(key))
            expect(page.locator("input[name=choice]:checked")).to_have_value(value)
            press(page, "Enter")
        else:
            page.locator(f".verdict-{value}").click()
            submit_button(page).click()
        groups = [{second}, {BOTANIST, MINERAL} - {second}] if value == "b2" else [{BOTANIST, MINERAL}]
        expected.append((groups, strengths, acceptable))
        expect(page.locator("input[name=choice]:checked")).to_have_count(0)
    expect(page.get_by_text("Nothing waits for you here just now.")).to_be_visible()
    assert [(each["groups"], each["strengths"], each["acceptable"]) for each in stored()] == expected


def test_nine_answers_are_ranked_with_a_thumb(admin: User, labeler: User, open_page: OpenPage, tmp_path: Path) -> None:
    nine = tuple(f"Answer number {number}, of a sentence or two, as they are." for number in range(9))
    open_project(admin, tmp_path, nine, Questions())
    page = open_page(labeler, width=390, height=844)
    start_ranking(page)
    shown = letters(page)
    for place, text in enumerate(nine):
        target = page.locator(f"#answer-{shown[text]} .rank").nth(place // 2)
        box = target.bounding_box()
        assert box
        assert box["width"] >= 44
        assert box["height"] >= 44
        target.tap()
    page.get_by_label("Rank 2 is better than rank 3:").select_option(label="much")
    page.get_by_label("Unacceptable").select_option(label="below rank 4")
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    submit_button(page).tap()
    expect(page.get_by_text("Nothing waits for you here just now.")).to_be_visible()
    (ranking,) = stored()
    assert ranking["groups"] == [set(nine[at : at + 2]) for at in range(0, 9, 2)]
    assert ranking["strengths"] == [None, 3, None, None]
    assert ranking["acceptable"] == 4


def test_long_answers_are_read_side_by_side_scroll_together_and_show_what_differs(
    admin: User, labeler: User, open_page: OpenPage, watch: Watch, tmp_path: Path
) -> None:
    long = "The **dough** wants time, a warm place and patience; so let it rise until it has doubled. " * 60
    answers = (f"First of all: {long}", f"{long} And bake it hot.", "Short.")
    open_project(admin, tmp_path, answers, Questions())
    page = open_page(labeler)
    start_ranking(page)
    shown = letters(page)
    first, second = (next(shown[text] for text in shown if part in text) for part in ("First", "hot"))
    left, right, pairs = (
        page.locator(f"#answer-{first}"),
        page.locator(f"#answer-{second}"),
        page.locator("[data-pick]"),
    )

    press(page, "v")
    expect(page.locator(".answer:visible")).to_have_count(2)
    while {pairs.nth(0).input_value(), pairs.nth(1).input_value()} != {first, second}:
        press(page, "n")
    left.locator(".answer-text").evaluate("text => { text.scrollTop = (text.scrollHeight - text.clientHeight) / 2 }")
    halfway = "text => Math.abs(text.scrollTop / (text.scrollHeight - text.clientHeight) - 0.5) < 0.02"
    wait_until(page, f"({halfway})(document.querySelector('#answer-{second} .answer-text'))")
    press(page, "y")
    left.locator(".answer-text").evaluate("text => { text.scrollTop = 0 }")
    wait_until(page, f"({halfway})(document.querySelector('#answer-{second} .answer-text'))")

    assert not [request.url for request in watch.requests if "vendor/diff" in request.url]
    press(page, "m")
    expect(page.locator("[data-differences-note]")).to_contain_text("Marked: what")
    marked = page.evaluate("[...CSS.highlights.get('differs')].map((range) => range.toString())")
    assert sorted(marked) == ["And bake it hot.", "First of all:"]
    # The answers can be ranked right here, and the third comes into sight by its key.
    press(page, first.lower(), "1", second.lower(), "2", shown["Short."].lower(), "3")
    expect(page.locator(f"#answer-{shown['Short.']}")).to_be_visible()
    expect(page.locator("[data-differences-note]")).to_have_text("Hardly a phrase in common: nothing is marked.")
    press(page, "v")
    expect(page.locator(".answer:visible")).to_have_count(3)
    drag_line(page, 1)
    expect(right.locator("[data-rank-text]")).to_have_text("Rank 2, unacceptable")
    drag_line(page, None)
    expect(right.locator("[data-rank-text]")).to_have_text("Rank 2")
    drag_line(page, 2)
    submit_button(page).click()
    expect(page.get_by_text("Nothing waits for you here just now.")).to_be_visible()
    (ranking,) = stored()
    assert [{text[:5] for text in group} for group in ranking["groups"]] == [{"First"}, {"The *"}, {"Short"}]
    assert ranking["acceptable"] == 2


def test_the_best_ones_can_be_enough(admin: User, labeler: User, open_page: OpenPage, tmp_path: Path) -> None:
    open_project(admin, tmp_path, FOUR, Questions(rank_at_least=2), tasks=2)
    page = open_page(labeler, javascript=False)
    start_ranking(page)
    rank_by_form(page, {BOTANIST: 1, COOK: 2})
    submit_button(page).click()
    expect(page.get_by_text("Saved. Thank you.")).to_be_visible()
    assert stored()[0]["groups"] == [{BOTANIST}, {COOK}]
