"""Projects, their guidelines and their prompts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from uuid import uuid4

import pytest
from labeling_world import make_user, make_world, take
from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Project, Prompt, User
from app.services.projects import guidelines, projects, prompts
from app.services.projects.projects import NewProject


@pytest.fixture
def admin(session: Session) -> User:
    return make_user(session, "admin")


def import_text(session: Session, project: Project, admin: User, content: str) -> prompts.ImportReport:
    report_id = prompts.import_file(session, project, admin, BytesIO(content.encode()), "text")
    return prompts.report(session, project.id, report_id)


def test_a_project_starts_open_with_its_first_guidelines(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("  Short   answers ", "Be *brief*.\r\n", held_out_percent=25))
    assert (project.name, project.k, project.state, project.held_out_fraction) == ("Short answers", 4, "open", 0.25)
    current = guidelines.current(session, project.id)
    assert (current.version, current.body, current.author) == (1, "Be *brief*.", admin.name)


@pytest.mark.parametrize(
    ("name", "guidelines", "sentence"),
    [
        ("", "x", "name of 1 to 120"),
        ("x" * 121, "x", "name of 1 to 120"),
        ("a\x1bb", "x", "name"),
        ("a", " ", "Write guide"),
    ],
)
def test_a_project_needs_a_name_and_guidelines(
    session: Session, admin: User, name: str, guidelines: str, sentence: str
) -> None:
    with pytest.raises(InvalidInputError, match=sentence):
        projects.create(session, admin, NewProject(name, guidelines))


def test_a_name_is_given_once(session: Session, admin: User) -> None:
    projects.create(session, admin, NewProject("One", "x"))
    with pytest.raises(ConflictError, match="a project named “One”"):
        projects.create(session, admin, NewProject("One", "y"))


def test_rewording_adds_a_version_and_the_same_words_do_not(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("One", "First."))
    assert guidelines.revise(session, project, admin, "Second.") == 2
    assert guidelines.revise(session, project, admin, "Second.\r\n") == 2
    assert [item.body for item in guidelines.versions(session, project.id)] == ["Second.", "First."]


def test_a_lease_names_the_guidelines_it_was_handed_out_with(database: str) -> None:
    world = make_world(overlap=2)
    before = take(world, world.labelers[0])
    with db.transaction() as session:
        guidelines.revise(session, session.get_one(Project, world.project_id), world.admin, "Be kinder.")
    after = take(world, world.labelers[1])
    assert before is not None
    assert after is not None
    with db.transaction() as session:
        assert guidelines.get(session, before.guideline_version_id).version == 1
        assert guidelines.get(session, after.guideline_version_id).version == 2


def test_an_unknown_project_is_not_found(session: Session) -> None:
    with pytest.raises(NotFoundError):
        projects.get(session, uuid4())


def test_a_project_has_only_the_states_it_can_be_set_to(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("One", "x"))
    projects.set_state(session, project, admin, "paused")
    assert project.state == "paused"
    with pytest.raises(InvalidInputError, match="A project is open"):
        projects.set_state(session, project, admin, "deleted")
    assert project.state == "paused"


def test_duplicates_are_passed_over_and_counted(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("One", "x", held_out_percent=0))
    first = import_text(session, project, admin, "a\nb\na\n")
    second = import_text(session, project, admin, "b\nc\n")
    assert (first.added, first.train, first.duplicates_in_file, first.duplicates_in_project) == (2, 2, 1, 0)
    assert (second.added, second.duplicates_in_file, second.duplicates_in_project) == (1, 0, 1)
    page = prompts.page(session, project.id)
    assert [(row.position, row.messages[0]["content"]) for row in page.rows] == [(0, "a"), (1, "b"), (2, "c")]


def test_one_bad_line_means_that_nothing_is_stored(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("One", "x"))
    content = b'{"prompt": "fine"}\n{"prompt": 1}\n{"prompt": "fine too"}\n[]\n'
    with pytest.raises(InvalidInputError, match="Nothing was imported: 2 problems were found") as refused:
        prompts.import_file(session, project, admin, BytesIO(content), "jsonl")
    assert [line.split(" ", 2)[:2] for line in refused.value.details] == [["Line", "2"], ["Line", "4"]]
    assert prompts.page(session, project.id).total == 0


def test_the_split_goes_by_content_and_is_the_same_in_every_project(session: Session, admin: User) -> None:
    lines = "\n".join(f"Question {number}" for number in range(200))
    splits = []
    for name in ("One", "Two"):
        project = projects.create(session, admin, NewProject(name, "x", held_out_percent=30))
        import_text(session, project, admin, lines)
        query = select(Prompt.split).where(Prompt.project_id == project.id).order_by(Prompt.position)
        splits.append(session.scalars(query).all())
    assert splits[0] == splits[1]
    assert 40 <= splits[0].count("held_out") <= 80  # 60 expected; 20 off would be 3 standard deviations


def test_two_imports_at_once_give_every_prompt_a_place_of_its_own(database: str) -> None:
    world = make_world(number_of_prompts=0)

    def load(number: int) -> int:
        lines = "\n".join(f"{number if line % 2 else 'shared'} {line}" for line in range(60))
        with db.transaction() as session:
            project = session.get_one(Project, world.project_id)
            return import_text(session, project, world.admin, lines).added

    with ThreadPoolExecutor(4) as pool:
        added = sum(pool.map(load, range(4)))
    with db.transaction() as session:
        positions = session.scalars(select(Prompt.position).order_by(Prompt.position)).all()
    assert added == 30 + 4 * 30
    assert positions == list(range(added))


def test_pages_hold_fifty_prompts_and_a_page_past_the_end_is_the_last(session: Session, admin: User) -> None:
    project = projects.create(session, admin, NewProject("One", "x"))
    import_text(session, project, admin, "\n".join(str(number) for number in range(120)))
    third = prompts.page(session, project.id, 3)
    assert (len(third.rows), third.rows[0].position, third.pages, third.total) == (20, 100, 3, 120)
    assert prompts.page(session, project.id, 99).number == 3


def test_a_report_belongs_to_its_project(session: Session, admin: User) -> None:
    one, two = (projects.create(session, admin, NewProject(name, "x")) for name in ("One", "Two"))
    report_id = prompts.import_file(session, one, admin, BytesIO(b"a"), "auto")
    assert prompts.report(session, one.id, report_id).added == 1
    with pytest.raises(NotFoundError):
        prompts.report(session, two.id, report_id)
