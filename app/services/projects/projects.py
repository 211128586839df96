"""Projects: made, paused, archived and opened by admins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import Project, User
from app.services.accounts import audit
from app.services.projects import guidelines
from app.services.projects.questions import STANDARD, Questions

MAX_NAME = 120
STATES = ("open", "paused", "archived")


@dataclass(frozen=True)
class NewProject:
    """What an admin decides when a project is made. `k` answers a task, each judged by `overlap` labelers."""

    name: str
    guidelines: str
    k: int = 4
    overlap: int = 1
    lease_minutes: int = 60
    held_out_percent: int = 20
    questions: Questions = STANDARD


def create(session: Session, user: User, new: NewProject) -> Project:
    """Make a project with the first version of its guidelines; open for labeling as soon as it has tasks.

    The form has checked the figures, and the table's constraints hold them. Raises `InvalidInputError` when a text is
    empty or too long, `ConflictError` when the name is taken.
    """
    name = " ".join(new.name.split())
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"Give the project a name of 1 to {MAX_NAME} characters.")
    body = guidelines.checked(new.guidelines)
    project: Project | None = session.scalar(
        upsert(Project)
        .values(
            name=name,
            k=new.k,
            overlap=new.overlap,
            lease_minutes=new.lease_minutes,
            held_out_fraction=new.held_out_percent / 100,
            created_by=user.id,
        )
        .on_conflict_do_nothing(index_elements=[Project.name])
        .returning(Project)
    )
    if project is None:
        raise ConflictError(f"There is a project named “{name}” already. Choose another name.")
    guidelines.add(session, project.id, user, 1, body, new.questions)
    audit.record(session, user, "project.created", "project", project.id, name=name)
    return project


def get(session: Session, project_id: UUID) -> Project:
    """Return a project, or raise `NotFoundError`."""
    project = session.get(Project, project_id)
    if project is None:
        raise NotFoundError("There is no such project.")
    return project


def lock(session: Session, project_id: UUID) -> Project:
    """Return a project whose row is locked against other changes of it, though not against new rows that name it.

    So a labeler's answer, which refers to the project, need not wait for an admin who changes many tasks.
    """
    project = session.scalar(
        select(Project)
        .where(Project.id == project_id)
        .with_for_update(key_share=True)
        .execution_options(populate_existing=True)
    )
    if project is None:
        raise NotFoundError("There is no such project.")
    return project


def named(session: Session, name: str) -> Project:
    """Return the project of this name, or raise `NotFoundError`."""
    project = session.scalar(select(Project).where(Project.name == name))
    if project is None:
        raise NotFoundError(f"There is no project named “{name}”.")
    return project


def listed(session: Session) -> Sequence[Project]:
    """Return every project, the newest first."""
    return session.scalars(select(Project).order_by(Project.id.desc())).all()


def set_state(session: Session, project: Project, user: User, state: str) -> None:
    """Pause a project (no new leases; work in hand can still be sent), archive or open it; once more changes nothing.

    In an archived project nobody changes an earlier answer any more, and labelers do not see it.
    """
    if state not in STATES:
        raise InvalidInputError(f"A project is {', '.join(STATES[:-1])} or {STATES[-1]}.")
    locked = lock(session, project.id)
    if locked.state != state:
        locked.state = state
        audit.record(session, user, f"project.{state}", "project", project.id)
