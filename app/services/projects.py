"""Projects and their guidelines: made, paused and reworded by admins."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import ConflictError, InvalidInputError, NotFoundError
from app.models import GuidelineVersion, Project, User
from app.services import audit

MAX_NAME, MAX_GUIDELINES = 120, 50_000
STATES = ("open", "paused")


@dataclass(frozen=True)
class NewProject:
    """What an admin decides when a project is made. `k` answers a task, each judged by `overlap` labelers."""

    name: str
    guidelines: str
    k: int = 4
    overlap: int = 1
    lease_minutes: int = 60
    held_out_percent: int = 20


@dataclass(frozen=True)
class Guideline:
    """One wording of the guidelines and who wrote it."""

    version: int
    body: str
    author: str
    version_id: UUID


def create(session: Session, user: User, new: NewProject) -> Project:
    """Make a project with the first version of its guidelines; open for labeling as soon as it has tasks.

    The form has checked the figures, and the table's constraints hold them. Raises `InvalidInputError` when a text is
    empty or too long, `ConflictError` when the name is taken.
    """
    name = " ".join(new.name.split())
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"Give the project a name of 1 to {MAX_NAME} characters.")
    body = _checked_guidelines(new.guidelines)
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
    session.execute(insert(GuidelineVersion).values(project_id=project.id, version=1, body=body, created_by=user.id))
    audit.record(session, user, "project.created", "project", project.id, name=name)
    return project


def get(session: Session, project_id: UUID, *, for_update: bool = False) -> Project:
    """Return a project, its row locked on request, or raise `NotFoundError`."""
    project = session.get(Project, project_id, with_for_update=for_update or None, populate_existing=for_update)
    if project is None:
        raise NotFoundError("There is no such project.")
    return project


def listed(session: Session) -> Sequence[Project]:
    """Return every project, the newest first."""
    return session.scalars(select(Project).order_by(Project.id.desc())).all()


def set_state(session: Session, project: Project, user: User, state: str) -> None:
    """Pause a project (no new leases; work in hand can still be sent) or open it again; once more changes nothing."""
    if state not in STATES:
        raise InvalidInputError(f"A project is {' or '.join(STATES)}.")
    locked = get(session, project.id, for_update=True)
    if locked.state != state:
        locked.state = state
        audit.record(session, user, f"project.{state}", "project", project.id)


def current_guidelines(session: Session, project_id: UUID) -> Guideline:
    """Return the newest guidelines of a project."""
    return guideline_versions(session, project_id)[0]


def guideline_versions(session: Session, project_id: UUID) -> list[Guideline]:
    """Return every version of a project's guidelines, the newest first."""
    rows = session.execute(
        select(GuidelineVersion.version, GuidelineVersion.body, User.name, GuidelineVersion.id)
        .join(User, User.id == GuidelineVersion.created_by)
        .where(GuidelineVersion.project_id == project_id)
        .order_by(GuidelineVersion.version.desc())
    )
    return [Guideline(*row) for row in rows]


def guideline(session: Session, version_id: UUID) -> Guideline:
    """Return one version of the guidelines, such as the one that an assignment was handed out with."""
    row = session.execute(
        select(GuidelineVersion.version, GuidelineVersion.body, User.name, GuidelineVersion.id)
        .join(User, User.id == GuidelineVersion.created_by)
        .where(GuidelineVersion.id == version_id)
    ).one()
    return Guideline(*row)


def revise_guidelines(session: Session, project: Project, user: User, body: str) -> int:
    """Store a new version of the guidelines and return its number; the same text again makes no new version.

    Earlier versions stay: every ranking names the one it was made under. New leases get the new version.
    """
    body = _checked_guidelines(body)
    get(session, project.id, for_update=True)
    current = current_guidelines(session, project.id)
    if current.body == body:
        return current.version
    session.execute(
        insert(GuidelineVersion).values(
            project_id=project.id, version=current.version + 1, body=body, created_by=user.id
        )
    )
    audit.record(session, user, "guidelines.revised", "project", project.id, version=current.version + 1)
    return current.version + 1


def _checked_guidelines(text: str) -> str:
    body = text.replace("\r\n", "\n").strip()
    if not body:
        raise InvalidInputError("Write guidelines: labelers need to know what makes an answer good.")
    if len(body) > MAX_GUIDELINES or "\x00" in body:
        raise InvalidInputError(f"Guidelines are text of at most {MAX_GUIDELINES:,} characters.")
    return body
