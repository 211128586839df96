"""Guidelines in versions, each with the questions its board asks; who has read which; what was labelled under which."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Row, Select, func, insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import Assignment, Demonstration, GuidelineRead, GuidelineVersion, Project, Ranking, User
from app.services.accounts import audit
from app.services.projects import questions
from app.services.projects.questions import Questions

MAX_GUIDELINES = 50_000
FIELD = "guidelines"
"""The form field with the number of the version that a change of an earlier answer was made under."""

MOST_REMEMBERED = 256
IMPORTED_VERSION = 0
"""The version that imported rankings name, made under guidelines not known here; a project's own count from 1."""
_REMEMBERED: dict[UUID, Guideline] = {}


@dataclass(frozen=True)
class Guideline:
    """One wording of the guidelines, what its board asks, and who wrote it."""

    version: int
    body: str
    author: str
    version_id: UUID
    questions: Questions


@dataclass(frozen=True)
class Unread:
    """The newest version, which a person has not read; `seen` is the newest that they have, None for none."""

    project_id: UUID
    newest: int
    seen: int | None

    @property
    def is_change(self) -> bool:
        """Whether the guidelines have changed under the labeler's hands, so that a task's page has to say so."""
        return self.newest > 1


def current(session: Session, project_id: UUID) -> Guideline:
    """Return the newest guidelines of a project."""
    query = _select().where(GuidelineVersion.project_id == project_id)
    return _guideline(session.execute(query.order_by(GuidelineVersion.version.desc()).limit(1)).one())


def versions(session: Session, project_id: UUID) -> list[Guideline]:
    """Return every version of a project's guidelines, the newest first."""
    query = _select().where(GuidelineVersion.project_id == project_id).order_by(GuidelineVersion.version.desc())
    return [_guideline(row) for row in session.execute(query)]


def get(session: Session, version_id: UUID) -> Guideline:
    """Return one version of the guidelines, such as the one that an assignment was handed out with.

    A version never changes, so that this process remembers the ones it has seen.
    """
    known = _REMEMBERED.get(version_id)
    if known is None:
        known = _guideline(session.execute(_select().where(GuidelineVersion.id == version_id)).one())
        if len(_REMEMBERED) >= MOST_REMEMBERED:
            _REMEMBERED.clear()
        _REMEMBERED[version_id] = known
    return known


def revise(session: Session, project: Project, user: User, body: str, asked: Questions | None = None) -> int:
    """Store a new version of the guidelines and return its number; the same text and questions make no new version.

    `asked` of None keeps the questions. Earlier versions stay: every ranking names the one it was made under. New
    leases get the new version.
    """
    body = checked(body)
    session.execute(select(Project.id).where(Project.id == project.id).with_for_update(key_share=True))
    before = current(session, project.id)
    asked = asked or before.questions
    if (before.body, before.questions) == (body, asked):
        return before.version
    add(session, project.id, user, before.version + 1, body, asked)
    audit.record(session, user, "guidelines.revised", "project", project.id, version=before.version + 1)
    return before.version + 1


def add(session: Session, project_id: UUID, user: User, version: int, body: str, asked: Questions) -> None:
    """Store a version as it stands; its text has been checked."""
    session.execute(
        insert(GuidelineVersion).values(
            project_id=project_id,
            version=version,
            body=body,
            questions=asked.model_dump(mode="json"),
            created_by=user.id,
        )
    )


def for_answer(
    session: Session, assignment: Assignment, before: Ranking | Demonstration | None, fields: Mapping[str, str]
) -> Guideline:
    """Return the guidelines that an answer is given under: the lease's, or for a change those that its form showed.

    Raises `InvalidInputError` when the form names a version that this project does not have.
    """
    number = fields.get(FIELD, "")
    if before is None or not number:
        return get(session, before.guideline_version_id if before else assignment.guideline_version_id)
    version = int(number) if number.isdecimal() and len(number) < len("10000") else 0
    try:
        return numbered(session, assignment.task.project_id, version)
    except NotFoundError:
        raise InvalidInputError("The form names guidelines that this project does not have. Reload the page.") from None


def read_version(session: Session, project_id: UUID, user: User) -> int | None:
    """Return the newest version that the person says to have read, or None."""
    return session.scalar(
        select(GuidelineVersion.version)
        .join(GuidelineRead, GuidelineRead.guideline_version_id == GuidelineVersion.id)
        .where(GuidelineRead.user_id == user.id, GuidelineRead.project_id == project_id)
    )


def unread(session: Session, project_id: UUID, user: User) -> Unread | None:
    """Return what the person has not read yet, or None when they have read the newest version."""
    read = (
        select(GuidelineVersion.version)
        .join(GuidelineRead, GuidelineRead.guideline_version_id == GuidelineVersion.id)
        .where(GuidelineRead.user_id == user.id, GuidelineRead.project_id == project_id)
        .scalar_subquery()
    )
    newest, seen = session.execute(
        select(GuidelineVersion.version, read)
        .where(GuidelineVersion.project_id == project_id)
        .order_by(GuidelineVersion.version.desc())
        .limit(1)
    ).one()
    return None if newest == seen else Unread(project_id, newest, seen)


def numbered(session: Session, project_id: UUID, version: int) -> Guideline:
    """Return the version of the guidelines with this number, or raise `NotFoundError`."""
    query = _select().where(GuidelineVersion.project_id == project_id, GuidelineVersion.version == version)
    row = session.execute(query).one_or_none()
    if row is None:
        raise NotFoundError("There is no such version of the guidelines.")
    return _guideline(row)


def mark_read(session: Session, project_id: UUID, user: User, version_id: UUID) -> None:
    """Note that the person has read a version."""
    values = {"guideline_version_id": version_id, "read_at": func.clock_timestamp()}
    session.execute(
        upsert(GuidelineRead)
        .values(user_id=user.id, project_id=project_id, **values)
        .on_conflict_do_update(index_elements=[GuidelineRead.user_id, GuidelineRead.project_id], set_=values)
    )


def checked(text: str) -> str:
    """Return guidelines as they are stored, or raise `InvalidInputError`."""
    body = text.replace("\r\n", "\n").strip()
    if not body:
        raise InvalidInputError("Write guidelines: labelers need to know what makes an answer good.")
    if len(body) > MAX_GUIDELINES or "\x00" in body:
        raise InvalidInputError(f"Guidelines are text of at most {MAX_GUIDELINES:,} characters.")
    return body


def _select() -> Select[int, str, str, UUID, dict[str, object]]:
    return select(
        GuidelineVersion.version,
        GuidelineVersion.body,
        User.name,
        GuidelineVersion.id,
        GuidelineVersion.questions,
    ).join(User, User.id == GuidelineVersion.created_by)


def _guideline(row: Row[int, str, str, UUID, dict[str, object]]) -> Guideline:
    return Guideline(*row[:4], questions.read(row[4]))
