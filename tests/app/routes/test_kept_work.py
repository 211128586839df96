"""What the labeler's pages keep: a task fetched ahead, an answer to take back, work sent without a session."""

from __future__ import annotations

import html
import json
import re

import pytest
from browsers import PASSWORD, Browser, MakeUser, SignIn, csrf_token_in
from fastapi import FastAPI
from labeling_world import World, counters_are_right, make_world, stored_rankings
from sqlalchemy import delete, select

from app import db
from app.models import Assignment, Flag, User, WebSession
from app.services.labeling import rankings

HTMX = {"HX-Request": "true"}
RANKS = {"rank_A": "2", "rank_B": "1", "rank_C": "2", "reason": "<b>seeds</b>"}


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=3, k=3, overlap=2)


@pytest.fixture
def labeler(make_user: MakeUser) -> User:
    return make_user("labeler")


@pytest.fixture
def browser(labeler: User, sign_in: SignIn) -> Browser:
    return sign_in(labeler)


def start(browser: Browser, world: World) -> tuple[str, dict[str, str]]:
    """Lease a task; return its address and its form filled in."""
    address = browser.post_form(f"/work/{world.project_id}/next", {"kind": "ranking"}).headers["location"]
    found = re.search(r'name="submit_id" value="([^"]+)"', browser.get(address).text)
    assert found
    return address, {"submit_id": found.group(1), **RANKS}


def test_a_task_fetched_ahead_is_shown_by_a_short_answer_only_where_it_is_the_next(
    browser: Browser, world: World
) -> None:
    address, form = start(browser, world)
    ahead = browser.post_form(f"{address}/ahead")
    following = ahead.headers["Plackett-Ahead"]
    assert f'action="/work/assignments/{following}/ranking"' in ahead.text
    with db.transaction() as session:
        order = session.scalars(select(Assignment.shown_order).where(Assignment.id == following)).one()

    answer = browser.post_form(f"{address}/ranking", form, headers={**HTMX, "Plackett-Ahead": following})
    assert answer.headers["Plackett-Shown"] == following
    assert answer.headers["HX-Push-Url"] == f"/work/assignments/{following}"
    assert "Saved. Thank you." in answer.text
    assert f'action="{address}/undo"' in answer.text
    assert 'name="rank_A"' not in answer.text
    with db.transaction() as session:
        shown = session.scalars(select(Assignment).where(Assignment.id == following)).one()
        assert shown.shown_at is not None
        assert shown.shown_order == order
    # The same answer again, from a page that holds another task: the whole task comes, and nothing is stored twice.
    again = browser.post_form(f"{address}/ranking", form, headers={**HTMX, "Plackett-Ahead": address[-36:]})
    assert "Plackett-Shown" not in again.headers
    assert f'action="/work/assignments/{following}/ranking"' in again.text
    assert len(stored_rankings(world)) == 1
    assert counters_are_right()


def test_the_last_answer_can_be_taken_back_for_some_seconds_by_its_labeler_alone(
    browser: Browser, world: World, make_user: MakeUser, sign_in: SignIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    address, form = start(browser, world)
    there = browser.post_form(f"{address}/ranking", form).headers["location"]
    offer = f'action="{address}/undo"'
    assert offer in browser.get(there).text
    assert offer in browser.get(f"/work?after={address[-36:]}").text
    assert offer not in sign_in(make_user("labeler")).get(f"/work?after={address[-36:]}").text
    assert browser.get("/work?after=nonsense").status_code == 422
    monkeypatch.setattr(rankings, "UNDO_SECONDS", 0)
    assert offer not in browser.get(there).text
    assert browser.get(there).status_code == 200


def test_a_report_is_stored_with_its_note_and_a_bad_one_leaves_the_board_alone(browser: Browser, world: World) -> None:
    address, _ = start(browser, world)
    refused = browser.post_form(f"{address}/flag", {"reason": "boredom"}, headers=HTMX)
    assert refused.status_code == 422
    assert refused.headers["HX-Reswap"] == "afterbegin"
    assert "Choose what is wrong with this task." in refused.text
    stored = browser.post_form(f"{address}/flag", {"reason": "private", "note": "A telephone number."}, headers=HTMX)
    assert "A reviewer will look at it" in stored.text
    with db.transaction() as session:
        flag = session.scalars(select(Flag)).one()
        assert (flag.reason, flag.note) == ("private", "A telephone number.")


def end_sessions() -> None:
    with db.transaction() as session:
        session.execute(delete(WebSession))


def hidden(page: str) -> dict[str, str]:
    return {
        name: html.unescape(value)
        for name, value in re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)"', page)
    }


def test_work_sent_with_an_ended_session_travels_through_signing_in_and_is_stored_once(
    browser: Browser, world: World, labeler: User, app: FastAPI
) -> None:
    address, form = start(browser, world)
    end_sessions()
    asked = browser.post_form(f"{address}/ranking", {**form, "new_password": "secret"})
    assert asked.status_code == 401
    fields = hidden(asked.text)
    assert fields["kept_for"] == f"{address}/ranking"
    assert dict(json.loads(fields["kept"])) == form  # neither the token nor what is called a password
    assert "<b>" not in asked.text

    kept = browser.post("/sign-in", data={**fields, "email": labeler.email, "password": PASSWORD})
    assert kept.status_code == 200
    assert "Your answer is kept" in kept.text
    assert "<b>" not in kept.text
    assert stored_rankings(world) == []
    ready = hidden(kept.text)
    assert ready == {**form, "csrf_token": csrf_token_in(kept.text)}
    assert browser.post(f"{address}/ranking", data=ready).status_code == 303
    assert [ranking.reason for ranking in stored_rankings(world)] == ["<b>seeds</b>"]


def test_only_work_is_kept_and_only_from_our_own_pages(browser: Browser, world: World, labeler: User) -> None:
    address, form = start(browser, world)
    stale = browser.csrf_token
    end_sessions()
    foreign = browser.post(f"{address}/ranking", data=form, headers={"Sec-Fetch-Site": "cross-site"})
    assert foreign.status_code == 403
    assert "seeds" not in foreign.text
    for path, data, headers in (
        (f"{address}/ranking", form, HTMX),
        (f"{address}/skip", {"reason": "seeds"}, {}),
        ("/people/invitations", {"email": "seeds"}, {}),
        (f"{address}/ranking", {**form, "reason": "seeds " * 60_000}, {}),
    ):
        answer = browser.post(path, data=data, headers=headers)
        assert answer.status_code in (401, 404, 405), path
        assert "seeds" not in answer.text
    # What pretends to be kept work is sent nowhere else.
    for kept_for, kept in (("/sign-out", "[]"), (f"{address}/ranking", "no json"), ("https://evil.example/", "[]")):
        sent = {"kept": kept, "kept_for": kept_for, "email": labeler.email, "password": PASSWORD}
        assert browser.post("/sign-in", data=sent).status_code == 422, kept_for
    # Signed in again, with a form from before: it is shown again with the new token, and not stored unasked.
    browser.post("/sign-in", data={"email": labeler.email, "password": PASSWORD})
    answer = browser.post(f"{address}/ranking", data={**form, "csrf_token": stale})
    assert answer.status_code == 403
    assert hidden(answer.text)["csrf_token"] not in ("", stale)
    assert stored_rankings(world) == []
