"""A project that several labelers have ranked, well and badly, for the pages of quality."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from random import Random
from typing import Any
from uuid import UUID, uuid4

from sqlalchemy import select
from sqlalchemy.orm import Session

from app import db
from app.models import Assignment, Completion, Project, Prompt, Ranking, Task, TaskCompletion, User
from app.services.projects import guidelines, memberships
from app.services.quality import quality, quality_figures, quarantines, references
from app.services.quality.quarantines import NewQuarantine

from .texts import QUESTIONS
from .world import make_project

NUMBER_OF_PROMPTS = 60
BEST_FIRST = (0, 1, 2, 3)
# Name, how often they swap two neighbours, seconds a ranking; one clicks at random, one goes by what stands first.
CROWD = (
    ("Jonas Petri", 0.15, 62.0),
    ("Mia Duarte", 0.25, 48.0),
    ("Ines Larsen", 0.35, 71.0),
    ("Tomas Novak", None, 1.4),
    ("Yara Haddad", 0.2, 55.0),
)
GOES_BY_POSITION = "Yara Haddad"


@dataclass(frozen=True)
class Crowd:
    """The project, a task on which its labelers part, and one that nobody has begun."""

    project: Project
    contested: UUID
    fresh: UUID


def make_crowd(admin: User) -> Crowd:
    """Make the project with its report, a quarantine, gold tasks and somebody whose trial failed."""
    random = Random(4)
    with db.transaction() as session:
        questions = [f"{question} ({n})" for n in range(NUMBER_OF_PROMPTS // 6 + 1) for question in QUESTIONS]
        project = make_project(session, admin, questions[:NUMBER_OF_PROMPTS], name="Household questions")
        people = [_labeler(session, name) for name, _, _ in CROWD]
        version = guidelines.current(session, project.id).version_id
        prompts = session.scalars(select(Prompt).where(Prompt.project_id == project.id).order_by(Prompt.position))
        made = [_task(session, prompt) for prompt in prompts]
        for task, answers in made[:-3]:
            for place in random.sample(range(len(people)), 3):
                _, swaps, seconds = CROWD[place]
                _rank(session, task, answers, people[place], version, swaps, seconds, random)
        for task, answers in made[:2]:
            references.create(session, task.id, admin, [[str(item)] for item in answers], "gold")
        fresh, answers = made[-1][0].id, made[-2][1]
        references.create(session, made[-2][0].id, admin, [[str(item)] for item in answers], "screening")
        memberships.set_state(session, project, people[3].id, admin, "screening")
        memberships.conclude_trial(session, project, people[3].id, 0.48)
        quarantines.create(session, project, admin, NewQuarantine(people[2].id, None, _first_moment(session), "A test"))
    body = compute_quality(project, admin)
    return Crowd(project, UUID(body["disagreements"][0]["task"]), fresh)


def _first_moment(session: Session) -> datetime:
    """Return when the first ranking came, so that a quarantine until then takes nothing out."""
    return session.scalars(select(Ranking.created_at).order_by(Ranking.created_at).limit(1)).one()


def compute_quality(project: Project, user: User) -> dict[str, Any]:
    """Compute the report, as the worker does."""
    with db.transaction() as session:
        quality.request(session, project, user)
        report = quality.waiting(session)
        assert report is not None
    with db.reading() as past:
        body = quality_figures.compute(past, project.id)
    with db.transaction() as session:
        quality.store(session, report.id, report.requested_at, body)
    return body


def _labeler(session: Session, name: str) -> User:
    email = f"{name.split()[0].lower()}@crowd.example.org"
    user = User(email=email, name=name, role="labeler", password_hash="none")
    session.add(user)
    session.flush()
    return user


def _task(session: Session, prompt: Prompt) -> tuple[Task, list[UUID]]:
    task = Task(
        project_id=prompt.project_id,
        prompt_id=prompt.id,
        kind="ranking",
        state="open",
        sort_key=prompt.position,
        target_overlap=3,
    )
    question = prompt.messages[-1]["content"].rpartition(" (")[0]
    answers = [Completion(prompt_id=prompt.id, text=text, source="human") for text in QUESTIONS[question]]
    session.add_all([task, *answers])
    session.flush()
    session.add_all(
        TaskCompletion(task_id=task.id, completion_id=answer.id, position=place) for place, answer in enumerate(answers)
    )
    session.flush()
    return task, [answer.id for answer in answers]


def _rank(
    session: Session,
    task: Task,
    answers: list[UUID],
    labeler: User,
    version: UUID,
    swaps: float | None,
    seconds: float,
    random: Random,
) -> None:
    shown = random.sample(answers, len(answers))
    order = list(answers)
    if swaps is None:
        random.shuffle(order)
    elif labeler.name == GOES_BY_POSITION and random.random() < 0.6:
        order = list(shown)
    else:
        for place in range(len(order) - 1):
            if random.random() < swaps:
                order[place], order[place + 1] = order[place + 1], order[place]
    tied = random.random() < 0.3
    groups = [order[:1], order[1:3], order[3:]] if tied else [[item] for item in order]
    assignment = Assignment(
        task_id=task.id,
        user_id=labeler.id,
        state="done",
        shown_order=shown,
        guideline_version_id=version,
        expires_at=task.created_at,
    )
    session.add(assignment)
    session.flush()
    session.add(
        Ranking(
            submit_id=uuid4(),
            body_sha256="",
            project_id=task.project_id,
            task_id=task.id,
            assignment_id=assignment.id,
            user_id=labeler.id,
            guideline_version_id=version,
            groups=[sorted(map(str, group)) for group in groups],
            shown_order=shown,
            is_simulated=False,
            counted=True,
            seconds=seconds * random.uniform(0.6, 1.5),
            reason="The second one invents a source." if random.random() < 0.1 else "",
        )
    )
    task.done_count += 1
    session.flush()
