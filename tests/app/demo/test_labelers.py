"""The simulated labelers, over real HTTP on a real database, against answers that are in it already."""

from __future__ import annotations

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from uuid import UUID

import pytest
from labeling_world import add_answers
from sqlalchemy import select

from app import db
from app.demo import accounts
from app.demo.browser import Browser, RefusedError
from app.demo.labelers import Worker, rank_all, write_all
from app.demo.preference import LABELERS, rank
from app.embedded.postgres import PostgresServer
from app.embedded.stack import Part, Stack
from app.models import Completion, Demonstration, Prompt, Ranking, Task, User
from app.services.labeling import tasks
from app.services.projects import projects, prompts
from app.services.projects.projects import NewProject
from app.settings import Settings

QUESTIONS = ("Why do cats purr?", "What is an island?", "Why is the sea salty?")
ANSWERS = (
    "Cats purr when they feel safe.",
    "The sea is salty because rivers carry salt to it and",
    "An **island** is land with water around it.\n\n- sea\n- lake",
    "An island is land with water around it.",
)


@pytest.fixture(scope="module")
def server(postgres_server: PostgresServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of a web server on the database of all tests."""
    named = {"database_url": postgres_server.url, "redis_url": "redis://127.0.0.1:9/0"}
    settings = Settings().model_copy(update={"var": tmp_path_factory.mktemp("labelers") / "var", **named})
    with Stack(settings, port=0, parts=[Part.WEB]) as stack:
        yield stack.url


@pytest.fixture
def address(server: str, database: str) -> str:
    """The address of the web server, on an empty database."""
    return server


@pytest.fixture
def workers(address: str, tmp_path: Path) -> Iterator[list[Worker]]:
    """The three simulated labelers, signed in."""
    marker = tmp_path / "demo.json"
    accounts.mark(marker)
    _, admin = accounts.open_admin(marker, address)
    opened = accounts.open_workers(marker, address)
    yield opened
    for browser in (admin, *(worker.browser for worker in opened)):
        browser.close()


def make_project() -> UUID:
    with db.transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).one()
        project = projects.create(session, admin, NewProject("Cats", "Be brief.", k=4, overlap=3, held_out_percent=0))
        prompts.import_file(session, project, admin, BytesIO("\n".join(QUESTIONS).encode()), "text")
        add_answers(session, project, admin, list(ANSWERS))
        tasks.open_ranking_tasks(session, project)
        tasks.open_demonstration_tasks(session, project)
        return project.id


def test_every_labeler_ranks_every_task_as_its_preference_says(workers: list[Worker]) -> None:
    project_id = make_project()
    assert list(rank_all(workers, project_id, seed=7)) == list(range(1, 10))
    with db.transaction() as session:
        stored = session.execute(
            select(Ranking.groups, Ranking.is_simulated, Prompt.messages, User.name)
            .join(Task, Task.id == Ranking.task_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
            .join(User, User.id == Ranking.user_id)
        ).all()
        texts = {str(row.id): row.text for row in session.execute(select(Completion.id, Completion.text))}
    labelers = {labeler.name: labeler for labeler in LABELERS}
    assert len(stored) == 9
    for groups, is_simulated, messages, name in stored:
        expected = rank(messages[-1]["content"], ANSWERS, labelers[name], seed=7)
        assert [{texts[item] for item in group} for group in groups] == [
            {ANSWERS[index] for index in group} for group in expected
        ]
        assert is_simulated


def test_demonstrations_are_entered_once_for_each_prompt(workers: list[Worker]) -> None:
    project_id = make_project()
    written = {question: f"Answer to {question}" for question in QUESTIONS}
    assert list(write_all(workers, project_id, written)) == [1, 2, 3]
    with db.transaction() as session:
        stored = session.execute(
            select(Prompt.messages, Demonstration.text, Demonstration.is_simulated)
            .join(Task, Task.id == Demonstration.task_id)
            .join(Prompt, Prompt.id == Task.prompt_id)
        ).all()
    assert sorted((messages[0]["content"], text) for messages, text, _ in stored) == sorted(written.items())
    assert all(is_simulated for _, _, is_simulated in stored)


def test_nothing_to_do_is_no_error(workers: list[Worker]) -> None:
    with db.transaction() as session:
        admin = session.scalars(select(User).where(User.role == "admin")).one()
        project_id = projects.create(session, admin, NewProject("Empty", "Be brief.")).id
    assert list(rank_all(workers, project_id, seed=0)) == []


def test_accounts_are_made_once_and_used_again(address: str, workers: list[Worker], tmp_path: Path) -> None:
    again = accounts.open_workers(tmp_path / "demo.json", address)
    for worker in again:
        assert worker.browser.path == "/work"
        worker.browser.close()
    with db.transaction() as session:
        users = session.execute(select(User.email, User.role, User.is_simulated).order_by(User.email)).all()
    assert [tuple(user) for user in users] == [
        ("ada@simulated.example", "labeler", True),
        ("admin@demo.example", "admin", False),
        ("ben@simulated.example", "labeler", True),
        ("cleo@simulated.example", "labeler", True),
    ]
    assert (tmp_path / "demo.json").stat().st_mode & 0o077 == 0, "the passwords are for the owner's eyes"


def test_an_invited_guest_is_no_simulation_and_each_gets_an_account_of_their_own(
    address: str, workers: list[Worker]
) -> None:
    names: list[str] = []
    for number in (1, 2):
        link = accounts.invite_guest(address)
        browser = Browser(address)
        path = link.removeprefix(address)
        browser.open(path)
        browser.submit(browser.form(path), {"name": f"Guest {number}", "password": "gravel umbrella lantern"})
        browser.close()
        names.append(f"you-{number}@demo.example")
    with db.transaction() as session:
        guests = session.execute(select(User.email, User.is_simulated).where(User.email.in_(names))).all()
    assert sorted(tuple(guest) for guest in guests) == [(name, False) for name in names]


def test_a_refused_form_is_an_error_with_the_pages_own_sentence(address: str, workers: list[Worker]) -> None:
    browser = Browser(address)
    browser.open("/sign-in")
    with pytest.raises(RefusedError, match=r"POST /sign-in: .*password"):
        browser.submit(browser.form("/sign-in"), {"email": "ada@simulated.example", "password": "wrong"})
    with pytest.raises(RefusedError, match="GET /projects"):
        workers[0].browser.open("/projects")
    browser.close()
