"""A labeler's guidelines and own answers over HTTP: what has changed, what was read, what is theirs."""

from __future__ import annotations

from collections.abc import Callable
from uuid import uuid4

import pytest
from browsers import Browser, MakeUser, SignIn
from hostile_text import PAYLOADS, became_markup
from labeling_world import World, make_world, rank, take
from sqlalchemy import func, select

from app import db
from app.models import GuidelineRead, Membership, Project, User
from app.services.projects import guidelines, memberships
from app.services.projects.questions import HELPFUL_HONEST_HARMLESS, Questions


@pytest.fixture
def world(database: str) -> World:
    return make_world(number_of_prompts=3)


@pytest.fixture
def labeler(world: World) -> User:
    return world.labelers[0]


@pytest.fixture
def browse(labeler: User, sign_in: SignIn) -> Browser:
    return sign_in(labeler)


Revise = Callable[..., None]


@pytest.fixture
def revise(world: World) -> Revise:
    def make(body: str, asked: Questions | None = None) -> None:
        with db.transaction() as session:
            guidelines.revise(session, session.get_one(Project, world.project_id), world.admin, body, asked)

    return make


def read(browser: Browser, world: World, version: object) -> str:
    answer = browser.post_form(f"/work/{world.project_id}/guidelines", {"version": str(version)})
    return str(answer.headers.get("location", answer.status_code))


def test_the_first_visit_shows_the_guidelines_and_a_change_what_is_new_until_it_is_read(
    browse: Browser, world: World, labeler: User, revise: Revise
) -> None:
    path = f"/work/{world.project_id}/guidelines"
    first = browse.get(path).text
    assert "Be kind." in first
    assert "<ins>" not in first
    assert "I have read it" in first
    assert "Read the guidelines first" in browse.get("/work").text
    assert read(browse, world, 1) == "/work?done=guidelines-read"
    assert "I have read it" not in browse.get(path).text
    assert "Read the guidelines first" not in browse.get("/work").text

    answered = take(world, labeler)
    assert answered is not None
    rank(answered, labeler)
    taken = take(world, labeler)
    assert taken is not None
    task = f"/work/assignments/{taken.id}"
    assert "guidelines-notice" not in browse.get(task).text
    revise("Be kind & **brief**.", Questions(strength="required", criteria=HELPFUL_HONEST_HARMLESS[:1]))
    for page in ("/work", task):
        text = browse.get(page).text
        assert "Guidelines changed: version 2" in text
        assert f'href="{path}"' in text
    changed = browse.get(path).text
    assert "<ins> &amp; **brief**</ins>" in changed
    assert "Saying how much better an answer is, is required now." in changed
    assert "New: “Helpful” (1 to 7" in changed
    assert f'<a href="/work/{world.project_id}/mine?version=1">1 answer</a>' in changed

    revise("Be kind, always.")  # while the labeler reads version 2
    assert read(browse, world, 2) == path
    assert "New since version 2" in browse.get(path).text
    assert read(browse, world, 3) == "/work?done=guidelines-read"
    assert "guidelines-notice" not in browse.get(task).text
    assert [read(browse, world, odd) for odd in ("x", "", 99)] == ["422", "422", "404"]


def test_own_answers_are_listed_with_a_way_to_change_them(
    browse: Browser, world: World, labeler: User, revise: Revise, sign_in: SignIn
) -> None:
    path = f"/work/{world.project_id}/mine"
    assert "What you send stands here" in browse.get(path).text
    done = take(world, labeler)
    assert done is not None
    rank(done, labeler)
    page = browse.get(path).text
    assert f'href="/work/assignments/{done.id}?change=true"' in page
    assert "Question 0?" in page
    assert "You have sent none under this version." in browse.get(f"{path}?version=2").text
    assert f"/work/assignments/{done.id}" in browse.get(f"{path}?version=1").text
    assert browse.get(f"{path}?version=0").status_code == 422
    # Nobody else's page shows it.
    assert str(done.id) not in sign_in(world.labelers[1]).get(path).text


def test_who_may_open_a_labelers_pages(
    browse: Browser, world: World, labeler: User, sign_in: SignIn, make_user: MakeUser, client: Browser
) -> None:
    pages = [f"/work/{world.project_id}/{page}" for page in ("guidelines", "mine")]
    done = take(world, labeler)
    assert done is not None
    rank(done, labeler)
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        project.access = "members"
        memberships.set_state(session, project, labeler.id, world.admin, "removed")
    # Who was taken out still finds their own answers, and nothing else.
    assert [browse.get(path).status_code for path in pages] == [403, 200]
    assert read(browse, world, 1) == "403"
    outsider = sign_in(world.labelers[1])
    for path in pages:
        answer = outsider.get(path)
        assert (answer.status_code, "Only the members of this project" in answer.text) == (403, True)
    assert [sign_in(make_user("reviewer")).get(path).status_code for path in pages] == [200, 200]
    assert all(client.get(path).headers["location"].startswith("/sign-in") for path in pages)
    assert client.post_form(pages[0], {"version": "1"}).status_code in (401, 403)
    assert browse.get(f"/work/{uuid4()}/guidelines").status_code == 404
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(GuidelineRead)) == 0
        assert session.scalars(select(Membership.state)).all() == ["removed"]


def test_hostile_guidelines_stay_text_in_what_has_changed(
    browse: Browser, world: World, labeler: User, revise: Revise
) -> None:
    assert read(browse, world, 1) == "/work?done=guidelines-read"
    revise("\n".join(PAYLOADS))
    read(browse, world, 2)
    revise("\n\n".join(payload.replace("a", "b") for payload in PAYLOADS))
    done = take(world, labeler)
    assert done is not None
    rank(done, labeler)
    for page in ("guidelines", "mine"):
        answer = browse.get(f"/work/{world.project_id}/{page}")
        assert answer.status_code == 200
        assert set(became_markup(answer.text)) <= {"<svg>"}  # the chart of the days
