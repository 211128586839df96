"""The labeler's pages over HTTP: lease, rank, write, skip; every bad input; and nothing sent is lost."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import httpx
import pytest
import uvicorn
from browsers import Browser, MakeUser, SignIn
from fastapi import FastAPI
from hostile_text import PAYLOADS, became_markup
from labeling_world import World, add_answers, counters_are_right, expire, make_world, stored_rankings, take
from sqlalchemy import func, select, update

from app import db, latency
from app.auth import cookie_name
from app.models import Assignment, AuditEvent, Demonstration, Project, Ranking, Task, User
from app.services.labeling import assignments, tasks
from app.services.projects import projects

HTMX = {"HX-Request": "true"}


@dataclass(frozen=True)
class Desk:
    """A labeler's browser with the form of a leased task in front of them."""

    browser: Browser
    user: User
    world: World
    address: str
    submit_id: str

    @property
    def after(self) -> str:
        """The query that a page is called with after this task has been answered."""
        return f"after={self.address.rpartition('/')[2]}&done=saved"

    def send(self, kind: str = "ranking", headers: dict[str, str] | None = None, **fields: Any) -> httpx.Response:
        data = {"submit_id": self.submit_id, **fields}
        return self.browser.post_form(f"{self.address}/{kind}", data, headers=headers)


def sit_down(browser: Browser, user: User, world: World, kind: str = "ranking") -> Desk:
    answer = browser.post_form(f"/work/{world.project_id}/next", {"kind": kind})
    assert answer.status_code == 303, answer.text
    return at(browser, user, world, answer.headers["location"])


def at(browser: Browser, user: User, world: World, address: str) -> Desk:
    page = browser.get(address)
    assert page.status_code == 200
    found = re.search(r'name="submit_id" value="([^"]+)"', page.text)
    assert found
    return Desk(browser, user, world, address.partition("?")[0], found.group(1))


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=3, k=3, overlap=2)


@pytest.fixture
def desk(world: World, sign_in: SignIn) -> Desk:
    labeler = world.labelers[0]
    return sit_down(sign_in(labeler), labeler, world)


def write_rows() -> tuple[int, ...]:
    with db.transaction() as session:
        tables = (Assignment, Ranking, Demonstration, AuditEvent)
        return tuple(session.scalar(select(func.count()).select_from(table)) or 0 for table in tables)


RANKS = {"rank_A": "2", "rank_B": "1", "rank_C": "2"}


def test_a_ranking_is_saved_and_leads_to_the_next_task(desk: Desk) -> None:
    answer = desk.send(**RANKS)
    assert answer.status_code == 303
    assert re.fullmatch(rf"/work/assignments/[0-9a-f-]{{36}}\?{desk.after}", answer.headers["location"])
    assert desk.address not in answer.headers["location"]
    assert "Saved. Thank you." in desk.browser.get(answer.headers["location"]).text
    (stored,) = stored_rankings(desk.world)
    shown = [str(item) for item in stored.shown_order]
    assert stored.groups == [[shown[1]], sorted([shown[0], shown[2]])]


def test_a_ranking_is_timed_once_it_is_stored_and_only_then(desk: Desk) -> None:
    assert desk.send(**{**RANKS, "rank_C": "no number"}).status_code == 422
    assert latency.submits().number == 0
    desk.send(**RANKS)
    found = latency.submits()
    assert found.number == 1
    assert 0 < found.seconds < 60


def test_htmx_gets_the_next_task_in_the_same_round_trip(desk: Desk) -> None:
    answer = desk.send(headers=HTMX, **RANKS)
    assert answer.status_code == 200
    pushed = answer.headers["HX-Push-Url"]
    assert pushed.startswith("/work/assignments/")
    assert pushed != desk.address
    assert answer.text.strip().startswith('<div id="task"')
    assert f'action="{pushed}/ranking"' in answer.text
    assert "<html" not in answer.text
    assert len(stored_rankings(desk.world)) == 1


def test_the_last_task_leads_back_to_the_work_page(desk: Desk) -> None:
    current = desk
    for _ in range(2):
        answer = current.send(**RANKS)
        current = at(desk.browser, desk.user, desk.world, answer.headers["location"])
    assert current.send(headers=HTMX, **RANKS).headers["HX-Redirect"] == f"/work?{current.after}"
    # The same again, now as a plain form: the answer is stored already and says so in the same way.
    assert current.send(**RANKS).headers["location"] == f"/work?{current.after}"
    assert len(stored_rankings(desk.world)) == 3
    nothing = desk.browser.post_form(f"/work/{desk.world.project_id}/next", {"kind": "ranking"})
    assert nothing.headers["location"] == "/work?done=none-left"


def test_a_second_click_gets_the_same_answer_and_stores_one_ranking(desk: Desk) -> None:
    first, second = desk.send(**RANKS), desk.send(**RANKS)
    assert (first.status_code, second.status_code) == (303, 303)
    assert first.headers["location"] == second.headers["location"]
    assert len(stored_rankings(desk.world)) == 1


def test_the_same_form_with_another_ranking_is_a_conflict(desk: Desk) -> None:
    desk.send(**RANKS)
    answer = desk.send(**{**RANKS, "rank_A": "1"})
    assert answer.status_code == 409
    assert "Your first ranking of this task is saved" in answer.text
    assert desk.send(headers=HTMX, **{**RANKS, "rank_A": "1"}).status_code == 409
    assert len(stored_rankings(desk.world)) == 1


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"rank_C": None}, "Give every answer a rank: C has none yet."),
        ({"rank_A": None, "rank_B": None, "rank_C": None}, "A, B and C have none yet."),
        ({"rank_C": ["1", "2"]}, "twice. Reload the page"),
        ({"rank_D": "1"}, "There is no answer D in this task"),
        ({"rank_C": "4"}, "The rank of answer C must be between 1 and 3."),
        ({"rank_C": "0"}, "The rank of answer C must be between 1 and 3."),
        ({"rank_C": "best"}, "The rank of answer C is not a number from 1 to 3."),
        ({"rank_C": "-1"}, "The rank of answer C is not a number from 1 to 3."),
        ({"counted": "true"}, "The form holds a field that this page does not have."),
        ({"rank_": "1"}, "The form holds a field that this page does not have."),
        ({"submit_id": "x"}, "The form has lost its number."),
        ({"submit_id": None}, "The form has lost its number."),
    ],
)
@pytest.mark.parametrize("headers", [None, HTMX], ids=["plain", "htmx"])
def test_a_ranking_that_is_none_is_refused_and_the_page_keeps_what_was_entered(
    desk: Desk, changes: dict[str, Any], sentence: str, headers: dict[str, str] | None
) -> None:
    fields = {key: value for key, value in {**RANKS, **changes}.items() if value is not None}
    data = {"submit_id": desk.submit_id, **fields}
    if "submit_id" in changes:
        data = {**fields, **({"submit_id": changes["submit_id"]} if changes["submit_id"] else {})}
    answer = desk.browser.post_form(f"{desk.address}/ranking", data, headers=headers)

    assert answer.status_code == 422
    assert sentence in answer.text
    assert desk.submit_id in answer.text
    kept = re.findall(r'name="rank_(\w)" value="(\d)" required checked', answer.text)
    assert set(kept) <= {("A", "2"), ("B", "1"), ("C", "2"), ("C", "1")}
    if "rank_A" in fields:
        assert ("A", "2") in kept
    assert stored_rankings(desk.world) == []
    assert desk.send(**RANKS).status_code == 303


def test_a_form_of_another_task_is_a_conflict(desk: Desk) -> None:
    assert replace(desk, submit_id=str(uuid4())).send(**RANKS).status_code == 409
    assert stored_rankings(desk.world) == []


def test_json_in_place_of_a_form_is_refused(desk: Desk) -> None:
    body = {"submit_id": desk.submit_id, "ranking": [["A"], ["B", "C"]]}
    headers = {"X-CSRF-Token": desk.browser.csrf_token}
    answer = desk.browser.post(f"{desk.address}/ranking", json=body, headers=headers)
    assert answer.status_code == 422
    assert stored_rankings(desk.world) == []


@pytest.mark.parametrize("path", ["ranking", "skip"])
def test_a_foreign_assignment_is_not_found_and_stays_as_it_is(desk: Desk, sign_in: SignIn, path: str) -> None:
    stranger = sign_in(desk.world.labelers[1])
    data = {"reason": "unclear"} if path == "skip" else {"submit_id": desk.submit_id, **RANKS}
    assert stranger.get(desk.address).status_code == 404
    assert stranger.post_form(f"{desk.address}/{path}", data).status_code == 404
    assert stranger.post_form(f"{desk.address}/{path}", {**data, "rank_A": "no number"}).status_code in (404, 422)
    assert desk.browser.get(desk.address).status_code == 200
    assert desk.browser.post_form(f"{desk.address}/{path}", data).status_code == 303


def test_a_ranking_task_takes_no_demonstration(desk: Desk) -> None:
    assert desk.send("demonstration", text="x").status_code == 404
    assert desk.send(**RANKS).status_code == 303


def test_an_address_that_is_no_assignment_is_not_found(desk: Desk) -> None:
    assert desk.browser.get("/work/assignments/none").status_code == 404
    assert desk.browser.get(f"/work/assignments/{uuid4()}").status_code == 404
    assert desk.browser.post_form(f"/work/{uuid4()}/next", {"kind": "ranking"}).status_code == 404


def test_strangers_are_led_to_sign_in(desk: Desk, client: Browser) -> None:
    assert client.get("/work").headers["location"].startswith("/sign-in")
    assert client.post_form(f"{desk.address}/ranking", RANKS).status_code == 401
    assert stored_rankings(desk.world) == []


def test_late_work_is_stored_and_the_labeler_is_told(desk: Desk, world: World) -> None:
    """The lease ends, two others take both places, then the first labeler submits."""
    with db.transaction() as session:
        mine = session.scalars(select(Assignment)).one()
        session.get_one(Task, mine.task_id).target_overlap = 1
    expire(mine)
    with db.transaction() as session:
        assignments.expire_due(session)
    other = take(world, world.labelers[1])
    assert other is not None
    assert other.task_id == mine.task_id
    assert "Your time for this task is over." in desk.browser.get(desk.address).text

    answer = desk.send(**RANKS)

    assert answer.headers["location"].endswith("done=saved-late")
    assert "Saved, but not counted" in desk.browser.get(answer.headers["location"]).text
    (stored,) = stored_rankings(world)
    assert not stored.counted
    # A replay of late work says the same, in the fragment as well.
    assert "Saved, but not counted" in desk.send(headers=HTMX, **RANKS).text
    assert counters_are_right()


def test_a_paused_project_takes_the_work_in_hand_and_hands_out_no_more(desk: Desk) -> None:
    with db.transaction() as session:
        project = session.get_one(Project, desk.world.project_id)
        projects.set_state(session, project, desk.world.admin, "paused")
    assert "Go on with your ranking" in desk.browser.get("/work").text
    assert desk.send(**RANKS).headers["location"] == f"/work?{desk.after}"
    refused = desk.browser.post_form(f"/work/{desk.world.project_id}/next", {"kind": "ranking"})
    assert refused.headers["location"] == "/work?done=is-paused"
    assert len(stored_rankings(desk.world)) == 1


def test_skipping_gives_the_next_task_and_needs_a_reason(desk: Desk) -> None:
    refused = desk.browser.post_form(f"{desk.address}/skip", {})
    assert refused.status_code == 422
    assert "Choose a reason for skipping this task." in refused.text
    answer = desk.browser.post_form(f"{desk.address}/skip", {"reason": "unclear"}, headers=HTMX)
    assert answer.status_code == 200
    assert answer.headers["HX-Push-Url"] != desk.address
    assert "The task is skipped" in answer.text
    assert counters_are_right()


def test_an_answered_task_shows_the_ranking_and_cannot_be_skipped(desk: Desk) -> None:
    desk.send(**RANKS)
    page = desk.browser.get(desk.address).text
    assert "You have answered this task." in page
    assert set(re.findall(r'name="rank_(\w)" value="(\d)" required checked', page)) == {
        ("A", "2"),
        ("B", "1"),
        ("C", "2"),
    }
    assert desk.browser.post_form(f"{desk.address}/skip", {"reason": "unclear"}).status_code == 409


def test_a_demonstration_is_saved_and_leads_to_the_next(world: World, sign_in: SignIn) -> None:
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, session.get_one(Project, world.project_id))
    labeler = world.labelers[0]
    desk = sit_down(sign_in(labeler), labeler, world, "demonstration")
    assert desk.send("demonstration", text="A fine answer.").status_code == 303
    assert desk.send("demonstration", text="A fine answer.").status_code == 303
    other = desk.send("demonstration", text="Another answer.")
    assert other.status_code == 409
    assert "Another answer." in other.text
    with db.transaction() as session:
        assert session.scalars(select(Demonstration.text)).all() == ["A fine answer."]


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"text": "  "}, "Write an answer before you submit"),
        ({"text": "kept " * 5000}, "has 24,999 characters"),
        ({"text": ["a", "b"]}, "twice. Reload the page"),
        ({}, "exactly one answer"),
        ({"text": "kept", "counted": "true"}, "exactly one answer"),
    ],
)
def test_a_demonstration_that_is_none_is_refused_and_the_text_kept(
    world: World, sign_in: SignIn, fields: dict[str, Any], sentence: str
) -> None:
    with db.transaction() as session:
        tasks.open_demonstration_tasks(session, session.get_one(Project, world.project_id))
    labeler = world.labelers[0]
    desk = sit_down(sign_in(labeler), labeler, world, "demonstration")
    answer = desk.send("demonstration", **fields)
    assert answer.status_code == 422
    assert sentence in answer.text
    assert ("kept" in answer.text) == ("kept" in str(fields))
    assert desk.send("demonstration", text="fine").status_code == 303


def test_looking_writes_nothing(desk: Desk) -> None:
    before = write_rows()
    for path in ("/work", desk.address, "/work?done=saved"):
        assert desk.browser.get(path).status_code == 200
    assert desk.browser.get(f"/work/{desk.world.project_id}/next").status_code == 405
    assert write_rows() == before


def test_the_page_is_blind(desk: Desk) -> None:
    """No model's name, no id of an answer and no source: nothing tells the answers apart but their text."""
    page = desk.browser.get(desk.address).text
    with db.transaction() as session:
        shown = session.scalars(select(Assignment)).one().shown_order
    assert not [item for item in shown if str(item) in page]
    assert "model-" not in page
    assert "sample_index" not in page


def test_hostile_answers_stay_text(world: World, sign_in: SignIn) -> None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        session.execute(update(Task).values(state="closed"))
        for start in range(0, len(PAYLOADS), 9):
            add_answers(session, project, world.admin, list(PAYLOADS[start : start + 9]))
        one_of_each = select(func.min(Task.sort_key)).where(Task.state == "draft").group_by(Task.sampling_run_id)
        session.execute(update(Task).where(Task.sort_key.in_(one_of_each)).values(state="open"))
    labeler = world.labelers[0]
    browser = sign_in(labeler)
    desk, pages = sit_down(browser, labeler, world), 0
    while True:
        pages += 1
        assert became_markup(browser.get(desk.address).text) == []
        answer = browser.post_form(f"{desk.address}/skip", {"reason": "harmful"})
        if not answer.headers["location"].startswith("/work/assignments/"):
            break
        desk = at(browser, labeler, world, answer.headers["location"])
    assert pages == -(-len(PAYLOADS) // 9)


@pytest.fixture
def live_address(app: FastAPI) -> Iterator[str]:
    """The application behind a real uvicorn, for requests that are truly at the same time."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        server.should_exit = True
        thread.join()


def test_fifty_identical_posts_at_once_all_succeed_and_store_one_ranking(desk: Desk, live_address: str) -> None:
    data = {"csrf_token": desk.browser.csrf_token, "submit_id": desk.submit_id, **RANKS}
    together = threading.Barrier(50)

    def post(_: int) -> tuple[int, str]:
        with httpx.Client(cookies={cookie_name(): desk.browser.token}, timeout=30) as client:
            together.wait()
            answer = client.post(f"{live_address}{desk.address}/ranking", data=data)
            return answer.status_code, answer.headers.get("location", answer.text)

    with ThreadPoolExecutor(50) as pool:
        answers = set(pool.map(post, range(50)))

    assert len(answers) == 1, answers
    assert next(iter(answers))[0] == 303
    assert len(stored_rankings(desk.world)) == 1
    assert counters_are_right()


def test_many_more_requests_than_connections_wait_their_turn(desk: Desk, live_address: str) -> None:
    together = threading.Barrier(80)

    def get(_: int) -> int:
        with httpx.Client(cookies={cookie_name(): desk.browser.token}, timeout=60) as client:
            together.wait()
            return client.get(f"{live_address}/work").status_code

    with ThreadPoolExecutor(80) as pool:
        assert set(pool.map(get, range(80))) == {200}


def test_users_of_every_role_can_label(world: World, make_user: MakeUser, sign_in: SignIn) -> None:
    for role in ("labeler", "reviewer", "admin"):
        user = make_user(role)
        assert sign_in(user).get("/work").status_code == 200
