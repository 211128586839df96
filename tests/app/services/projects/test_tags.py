"""Tags: one spelling, a clear refusal, and tasks that go only to who has them."""

from __future__ import annotations

from io import BytesIO

import pytest
from labeling_world import add_answers, make_world, take
from sqlalchemy import select

from app import db
from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent, Project, Prompt, Task, User
from app.services.accounts import accounts
from app.services.labeling import progress, tasks
from app.services.projects import prompts, tags


def test_tags_have_one_spelling() -> None:
    assert tags.from_text(" Medicine, lang:DE;lang:de\n code-review ") == ["code-review", "lang:de", "medicine"]
    assert tags.from_text("  ,, ") == []


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("français", "“français” cannot be a tag: use at most 40 of the letters a to z"),
        ("x" * 41, "cannot be a tag"),
        ("a<b", "cannot be a tag"),
        ("a\x00b", "cannot be a tag"),
        (" ".join(f"t{number}" for number in range(21)), "These are 21 tags; 20 is the most."),
    ],
)
def test_what_cannot_be_a_tag_is_refused(text: str, sentence: str) -> None:
    assert len(tags.from_text(" ".join(f"t{number}" for number in range(20)))) == 20
    with pytest.raises(InvalidInputError, match=sentence):
        tags.from_text(text)


def test_tagged_prompts_make_tasks_that_go_only_to_who_has_all_their_tags(database: str) -> None:
    world = make_world(number_of_prompts=0, k=2)
    german, plain = world.labelers
    lines = '{"prompt": "Warum?", "tags": ["LANG:de"]}\n{"prompt": "Warum?", "tags": ["medicine"]}\n{"prompt": "Wie?"}'
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        prompts.import_file(session, project, world.admin, BytesIO(lines.encode()), "jsonl", "lang:de")
        add_answers(session, project, world.admin, ["Darum.", "So."])
        tasks.open_ranking_tasks(session, project)
        tasks.open_demonstration_tasks(session, project)
        accounts.set_tags(session, world.admin, german.id, "lang:de")
    with db.transaction() as session:
        tagged = {tuple(row.tags) for row in session.scalars(select(Prompt))}
        asked = {tuple(task.required_tags) for task in session.scalars(select(Task))}
        speaker = session.get_one(User, german.id)
        assert tagged == asked == {("lang:de", "medicine"), ("lang:de",)}
        assert progress.mine(session, world.project_id, speaker).rankings_waiting == 1
        assert progress.mine(session, world.project_id, plain).rankings_waiting == 0
    assert take(world, plain) is None
    taken = take(world, speaker)
    assert taken is not None
    assert taken.task_id in _ids_of_tasks_asking(["lang:de"])


def _ids_of_tasks_asking(required: list[str]) -> list[object]:
    with db.transaction() as session:
        return list(session.scalars(select(Task.id).where(Task.required_tags == required)))


def test_the_tags_of_a_person_are_set_once_and_by_name(database: str) -> None:
    world = make_world(number_of_prompts=0)
    for _ in range(2):
        with db.transaction() as session:
            accounts.set_tags(session, world.admin, world.labelers[0].id, "b, a")
    with db.transaction() as session:
        assert session.get_one(User, world.labelers[0].id).tags == ["a", "b"]
        (event,) = session.scalars(select(AuditEvent).where(AuditEvent.action == "user.tagged"))
        assert event.detail == {"before": [], "after": ["a", "b"]}
        with pytest.raises(NotFoundError):
            accounts.set_tags(session, world.admin, world.project_id, "a")
