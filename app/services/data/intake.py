"""Files from elsewhere, stored all or nothing: rankings, demonstrations, prompts with or without answers."""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Literal, TypeVar
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import Import, Project, User
from app.services.accounts import audit
from app.services.data import conversation_imports, import_files, import_rows, ranking_imports
from app.services.data.formats.catalog import Format, Source, named_to_read
from app.services.data.import_files import Reading
from app.services.projects import projects

T = TypeVar("T")

LISTED = 20
_LOOK_EVERY = 256
_CHECKING_PART = 0.1  # of the time is spent on reading for the first time
_READING_PART = 0.4  # and on reading at all; the rest goes into the tables
DETECT = "detect"
"""Stands for a format where the file's first line shall tell."""


@dataclass(frozen=True)
class Report:
    """What became of a file that holds rankings, demonstrations or prompts (`of`).

    `added` counts those that are new, `prompts` and `completions` what came with them. Duplicates in the file or in the
    project are the same by the same author; a prompt is one where it brings neither itself nor an answer.
    """

    of: Source
    added: int
    prompts: int
    completions: int
    labelers: int
    duplicates_in_file: int
    duplicates_in_project: int
    left_out: int
    left_out_lines: tuple[str, ...]
    import_id: str

    def sentence(self) -> str:
        """Return what came in, in words."""
        if self.of == "prompts":
            return f"{_count(self.prompts, 'new prompt')} with {_count(self.completions, 'new answer')}."
        what = _count(self.added, "ranking" if self.of == "rankings" else "demonstration")
        return f"{what} of {_count(self.labelers, 'labeler')} on {_count(self.prompts, 'new prompt')}."


def import_file(
    session: Session,
    project: Project,
    user: User,
    file: BinaryIO,
    *,
    format_name: str,
    dataset: str,
    judge: Literal["human", "ai"] | None = None,
    told: Callable[[float], None] = lambda _part: None,
) -> Report:
    """Store what a file holds and return what became of it. `judge` is what judged or wrote it, if that is not usual.

    `told` hears again and again which part is done, from 0 to 1.
    Raises `InvalidInputError` with a line for each problem, and stores nothing, when any line cannot be taken.
    """
    of, name = checked(file, format_name, dataset)
    said = judge or ("ai" if of.judge == "ai" else "human")
    for limit in ("statement_timeout", "idle_in_transaction_session_timeout"):
        session.execute(text(f"SET LOCAL {limit} = 0"))
    # Read twice, which is a small part of the work: what cannot be taken is refused before anything waits to be stored.
    _raise_problems(_read(file, of, told))
    labelers, reading = _stage(session, project, name, file, of, told)
    _raise_problems(reading)
    # The project's row is the lock that gives each prompt its place; labelers' answers need not wait for it.
    projects.lock(session, project.id)
    made = Import(project_id=project.id, dataset=name, format=of.name, judge=said, report={}, created_by=user.id)
    session.add(made)
    session.flush()
    import_rows.add_labelers(session, name, labelers)
    version = import_rows.guideline_version(session, project, user)
    values = {"project": project.id, "import": made.id, "version": version}
    counts = import_rows.run(
        session, _STEPS[of.of], values, lambda part: told(_READING_PART + (1 - _READING_PART) * part)
    )
    report = Report(
        of.of, counts[_ADDED[of.of]], counts["prompts"], counts["completions"], len(labelers), counts["twice"],
        counts["known"], reading.left_out_count, tuple(reading.left_out), str(made.id),
    )  # fmt: skip
    made.report = asdict(report)
    audit.record(
        session, user, "file.imported", "project", project.id, dataset=name, format=of.name, added=report.added
    )
    session.execute(text("DROP TABLE staged"))  # another file may follow in the same transaction
    session.flush()
    return report


_STEPS: Mapping[Source, Mapping[str, str]] = {
    "rankings": ranking_imports.STEPS,
    "demonstrations": conversation_imports.DEMONSTRATIONS,
    "prompts": conversation_imports.PROMPTS,
}
_ADDED: Mapping[Source, str] = {"rankings": "rankings", "demonstrations": "demonstrations", "prompts": "prompts_taken"}


def checked(file: BinaryIO, format_name: str, dataset: str) -> tuple[Format, str]:
    """Return a file's format and the name of its source; raise `InvalidInputError` for what cannot be one."""
    of = named_to_read(_detected(file) if format_name == DETECT else format_name)
    name = " ".join(dataset.split())
    if not 1 <= len(name) <= import_rows.MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"Name where the file comes from, in 1 to {import_rows.MAX_NAME} characters.")
    return of, name


def _read(file: BinaryIO, of: Format, told: Callable[[float], None]) -> Reading:
    """Read the whole file and return what is wrong with it, and what of it would be left out."""
    reading = Reading()
    look = _progress(file, told, 0.0, _CHECKING_PART)
    for _ in _watched(import_files.items(file, of, reading), look):
        pass
    return reading


def _stage(
    session: Session, project: Project, name: str, file: BinaryIO, of: Format, told: Callable[[float], None]
) -> tuple[dict[str, UUID], Reading]:
    reading = Reading()
    look = _progress(file, told, _CHECKING_PART, _READING_PART)
    if of.of == "rankings":
        found = _watched(import_files.records(file, of, reading), look)
        return ranking_imports.stage(session, project, name, found), reading
    talks = _watched(import_files.conversations(file, of, reading), look)
    return conversation_imports.stage(session, project, name, talks), reading


def _progress(file: BinaryIO, told: Callable[[float], None], begin: float, end: float) -> Callable[[], None]:
    """Return what tells how far the file is read, as parts of the work from `begin` to `end`; it is at its start."""
    size = max(1, file.seek(0, io.SEEK_END))
    file.seek(0)
    return lambda: told(begin + min(1.0, file.tell() / size) * (end - begin))


def _watched(found: Iterable[T], look: Callable[[], None]) -> Iterator[T]:
    for number, item in enumerate(found):
        if number % _LOOK_EVERY == 0:
            look()
        yield item


def _detected(file: BinaryIO) -> str:
    found = import_files.detected(file)
    if found is None:
        raise InvalidInputError("The first line does not tell which format this is; choose it.")
    return found


def get(session: Session, project_id: UUID, import_id: UUID) -> Import:
    """Return an import into this project, or raise `NotFoundError`."""
    found = session.get(Import, import_id)
    if found is None or found.project_id != project_id:
        raise NotFoundError("There is no such import.")
    return found


def of_project(session: Session, project_id: UUID) -> Sequence[tuple[Import, str]]:
    """Return the newest imports into a project, and who made each."""
    rows = session.execute(
        select(Import, User.name)
        .join(User, User.id == Import.created_by)
        .where(Import.project_id == project_id)
        .order_by(Import.id.desc())
        .limit(LISTED)
    )
    return [(found, name) for found, name in rows]


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def _raise_problems(reading: Reading) -> None:
    if reading.problem_count:
        raise InvalidInputError(_refusal(reading), details=tuple(reading.problems))


def _refusal(reading: Reading) -> str:
    count = reading.problem_count
    shown = f" The first {len(reading.problems)} are listed." if count > len(reading.problems) else ""
    what = "One problem was found" if count == 1 else f"{count:,} problems were found"
    return f"Nothing was imported: {what}.{shown} Mend the file and import it again."
