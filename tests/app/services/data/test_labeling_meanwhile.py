"""Labelers of a project go on while a file is imported into it, however long that takes."""

from __future__ import annotations

import io
import json
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event

import chat_world
import pytest
from chat_world import Hands
from labeling_world import World, make_world, rank, take
from sqlalchemy import func, select, text

from app import db
from app.models import Project, Prompt, Ranking
from app.services.chat import chats
from app.services.data import intake, ranking_imports
from app.services.projects import added, prompts
from app.services.projects.added import NewPrompt
from trainer.records import Message

FILE = b"".join(
    json.dumps({"prompt": f"Why {number}?", "chosen": "So.", "rejected": "No."}).encode() + b"\n" for number in range(9)
)


@pytest.fixture
def world(database: str, monkeypatch: pytest.MonkeyPatch) -> World:
    chat_world.allow(monkeypatch)
    made = make_world(number_of_prompts=12)
    chat_world.add_models(made.project_id, made.admin, ["small", "large"])
    return made


@pytest.fixture
def chat(world: World) -> Hands:
    with db.transaction() as session:
        return chat_world.start(session, world.project_id, world.labelers[1])


def test_a_labeler_takes_ranks_and_chats_while_an_import_stores(world: World, chat: Hands) -> None:
    seen: list[int] = []

    def meanwhile(part: float) -> None:
        """Do what labelers do, in transactions of their own; who has to wait gets an error after two seconds."""
        number = len(seen) + 1
        assignment = take(world, world.labelers[0])
        assert assignment is not None
        rank(assignment, world.labelers[0])
        chat.turn(f"Yes {number}.", f"No {number}.", "a2", number, f"And {number}?")
        seen.append(round(100 * part))

    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        report = intake.import_file(
            session, project, world.admin, io.BytesIO(FILE), format_name="trl-text", dataset="d", told=meanwhile
        )
    assert report.added == 9
    assert len(seen) == len(("checked", "read")) + len(ranking_imports.STEPS)
    assert seen[-1] > 90
    with db.transaction() as session:
        counts = session.execute(select(Ranking.origin, func.count()).group_by(Ranking.origin))
        assert dict(map(tuple, counts)) == {"task": len(seen), "chat": len(seen), "import": 9}
        places = session.scalars(select(Prompt.position).order_by(Prompt.position)).all()
    assert places == [*range(21), *range(prompts.CHATS_FROM, prompts.CHATS_FROM + len(seen))]


IS_WAITED_FOR = text("SELECT EXISTS (SELECT FROM pg_locks WHERE NOT granted AND locktype = 'transactionid')")


def test_what_a_chat_stores_in_the_same_moment_is_stored_once(world: World, chat: Hands) -> None:
    """The import finds that a prompt is new, and then has to wait for the chat that is storing the same one."""
    spoken = {"prompt": "Hello?", "chosen": "So.", "rejected": "No."}
    chat.say("Hello?")
    chat.get("Yes.", "No.")
    stored = Event()

    def choose() -> None:
        with db.transaction() as session:
            chats.judge(session, chat.chat_id, chat.user, 1, {"choice": "a2", "reason": ""})
            stored.set()
            while not session.scalar(IS_WAITED_FOR):
                pass

    with ThreadPoolExecutor(1) as pool, db.transaction() as session:
        chosen: list[Future[None]] = []

        def meanwhile(part: float) -> None:
            if not chosen and part > 0.4 + 0.6 / len(ranking_imports.STEPS):  # the prompts come next
                chosen.append(pool.submit(choose))
                assert stored.wait(30)

        project = session.get_one(Project, world.project_id)
        report = intake.import_file(
            session, project, world.admin, io.BytesIO(FILE + json.dumps(spoken).encode()),
            format_name="trl-text", dataset="d", told=meanwhile,
        )  # fmt: skip
        chosen[0].result()
    assert (report.added, report.prompts) == (10, 9)
    new = [NewPrompt((Message("user", said),), (), ()) for said in ("Hello?", "New?")]
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        assert [item.added for item in added.prompts(session, project, world.admin, new)] == [False, True]
        page = prompts.page(session, world.project_id)
    assert [row.position for row in page.rows] == list(range(23))
    assert [row.messages[0]["content"] for row in page.rows[-2:]] == ["New?", "Hello?"]


def test_a_chat_waits_for_nobody_who_holds_the_project(world: World, chat: Hands) -> None:
    with db.transaction() as session:
        session.execute(
            text("SELECT FROM projects WHERE id = :project FOR NO KEY UPDATE"), {"project": world.project_id}
        )
        chat.turn("Yes.", "No.", "a2")
