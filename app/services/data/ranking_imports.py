"""Rankings that were made elsewhere, stored all or nothing, and never mixed up with the work done here (decision 0013).

Each becomes what every ranking is: a prompt, its completions, a task of the kind `import`, an assignment, a ranking of
the origin `import`. Ids come from the content, so the same judgement is stored once, however often it is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any, BinaryIO, Literal
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.errors import InvalidInputError, NotFoundError
from app.models import GuidelineVersion, Import, Project, User
from app.services.accounts import audit
from app.services.data import import_files
from app.services.data.formats.catalog import named
from app.services.data.formats.records import Record
from app.services.data.import_files import Reading
from app.services.projects import projects
from app.services.projects.guidelines import IMPORTED_VERSION
from app.services.projects.prompts import content_sha256
from trainer.records import canonical, split_of

MAX_NAME = 100
LISTED = 20
DETECT = "detect"
"""Stands for a format where the file's first line shall tell."""
GUIDELINES = "These rankings were made elsewhere, under guidelines that are not known here."


@dataclass(frozen=True)
class Report:
    """What became of a file. Duplicates are the same judgement by the same labeler, in the file or in the project."""

    added: int
    prompts: int
    labelers: int
    duplicates_in_file: int
    duplicates_in_project: int
    left_out: int
    left_out_lines: tuple[str, ...]
    import_id: str


def import_file(
    session: Session,
    project: Project,
    user: User,
    file: BinaryIO,
    *,
    format_name: str,
    dataset: str,
    judge: Literal["human", "ai"] | None = None,
) -> Report:
    """Store the rankings of a file and return what became of it.

    Raises `InvalidInputError` with a line for each problem, and stores nothing, when any line cannot be taken.
    """
    of = named(_told(file) if format_name == DETECT else format_name)
    name = " ".join(dataset.split())
    if of.of != "rankings":
        raise InvalidInputError(f"The format {of.name} holds no rankings; prompts are imported on the page of prompts.")
    if not 1 <= len(name) <= MAX_NAME or not name.isprintable():
        raise InvalidInputError(f"Name where the rankings come from, in 1 to {MAX_NAME} characters.")
    said = judge or ("ai" if of.judge == "ai" else "human")
    session.execute(text("SET LOCAL statement_timeout = 0"))
    session.execute(text(_STAGED))
    reading = Reading()
    labelers = _stage(session, project, name, import_files.records(file, of, reading), reading)
    if reading.problem_count:
        raise InvalidInputError(_refusal(reading), details=tuple(reading.problems))
    # The project's row is the lock that gives each prompt its place; labelers' answers need not wait for it.
    projects.lock(session, project.id)
    made = Import(project_id=project.id, dataset=name, format=of.name, judge=said, report={}, created_by=user.id)
    session.add(made)
    session.flush()
    _add_labelers(session, name, labelers)
    values = {"project": project.id, "import": made.id, "version": _version(session, project, user)}
    counts: Counter[str] = Counter()
    for step, statement in _STEPS.items():
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        counts[step] = session.execute(text(statement), used).rowcount  # type: ignore[attr-defined]  # of a cursor
    report = Report(
        counts["rankings"], counts["prompts"], len(labelers), counts["twice"], counts["known"],
        reading.left_out_count, tuple(reading.left_out), str(made.id),
    )  # fmt: skip
    made.report = asdict(report)
    audit.record(
        session, user, "rankings.imported", "project", project.id, dataset=name, format=of.name, added=report.added
    )
    session.flush()
    return report


def _told(file: BinaryIO) -> str:
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


# A row for each judgement. `answers` holds [{id, text, source, model}] in their order.
_STAGED = """
CREATE TEMP TABLE staged (
    id uuid NOT NULL, line bigint NOT NULL, prompt_sha text NOT NULL, messages jsonb NOT NULL, split text NOT NULL,
    user_id uuid NOT NULL, answers jsonb NOT NULL, groups jsonb NOT NULL, strengths smallint[], acceptable integer,
    judgements jsonb NOT NULL, reason text NOT NULL, simulated boolean NOT NULL
) ON COMMIT DROP
"""

_STEPS = {
    "twice": "DELETE FROM staged a USING staged b WHERE a.id = b.id AND a.line > b.line",
    "known": "DELETE FROM staged USING rankings WHERE rankings.submit_id = staged.id",
    "prompts": """
        INSERT INTO prompts (project_id, position, messages, content_sha256, split)
        SELECT :project, row_number() OVER (ORDER BY line) + (
                   SELECT coalesce(max(position), -1) FROM prompts WHERE project_id = :project),
               messages, prompt_sha, split
        FROM (SELECT DISTINCT ON (prompt_sha) prompt_sha, messages, split, line FROM staged
              ORDER BY prompt_sha, line) wanted
        WHERE NOT EXISTS (SELECT FROM prompts known WHERE known.project_id = :project
                          AND known.content_sha256 = wanted.prompt_sha)""",
    "completions": """
        INSERT INTO completions (id, prompt_id, text, source, sampling)
        SELECT (answer->>'id')::uuid, prompts.id, answer->>'text', answer->>'source',
               jsonb_build_object('import', CAST(:import AS text))
                   || CASE WHEN answer->>'model' = '' THEN '{}' ELSE jsonb_build_object('model', answer->>'model') END
        FROM staged JOIN prompts ON prompts.project_id = :project AND prompts.content_sha256 = staged.prompt_sha,
             jsonb_array_elements(answers) answer
        ON CONFLICT (id) DO NOTHING""",
    "tasks": """
        INSERT INTO tasks (id, project_id, prompt_id, kind, state, sort_key, target_overlap, done_count)
        SELECT staged.id, :project, prompts.id, 'import', 'closed', 0, 1, 1
        FROM staged JOIN prompts ON prompts.project_id = :project AND prompts.content_sha256 = staged.prompt_sha""",
    "places": """
        INSERT INTO task_completions (task_id, completion_id, position)
        SELECT staged.id, (answer->>'id')::uuid, number - 1
        FROM staged, jsonb_array_elements(answers) WITH ORDINALITY answers(answer, number)""",
    "assignments": """
        INSERT INTO assignments (id, task_id, user_id, state, shown_order, guideline_version_id, expires_at,
                                 finished_at)
        SELECT id, id, user_id, 'done', ARRAY(SELECT (answer->>'id')::uuid FROM jsonb_array_elements(answers) answer),
               :version, clock_timestamp(), clock_timestamp()
        FROM staged""",
    "rankings": """
        INSERT INTO rankings (id, submit_id, body_sha256, project_id, task_id, assignment_id, user_id,
                              guideline_version_id, origin, import_id, groups, strengths, acceptable, judgements,
                              reason, shown_order, is_simulated, counted, seconds)
        SELECT staged.id, staged.id, '', :project, staged.id, staged.id, staged.user_id, :version, 'import', :import,
               groups, strengths, acceptable, judgements, reason, assignments.shown_order, simulated, true, 0
        FROM staged JOIN assignments ON assignments.id = staged.id ORDER BY line""",
}

_COLUMNS = (
    "id, line, prompt_sha, messages, split, user_id, answers, groups, strengths, acceptable, judgements, reason, "
    "simulated"
)


def _stage(
    session: Session, project: Project, dataset: str, found: Iterable[Record], reading: Reading
) -> dict[str, UUID]:
    """Copy the judgements into the table `staged` as they are read, and return the labelers among them by name."""
    driver = session.connection().connection.driver_connection
    assert driver is not None  # noqa: S101  (it is checked out)
    labelers: dict[str, UUID] = {}
    with driver.cursor() as cursor, cursor.copy(f"COPY staged ({_COLUMNS}) FROM STDIN") as copy:
        for number, record in enumerate(found):
            if reading.problem_count:
                continue  # Nothing will be stored; what else is wrong is still worth knowing.
            labeler = labelers.setdefault(record.labeler, _uuid("labeler", dataset, record.labeler))
            copy.write_row(_row(project, dataset, number, record, labeler))
    return labelers


def _row(project: Project, dataset: str, number: int, record: Record, labeler: UUID) -> tuple[Any, ...]:
    prompt_sha = content_sha256(record.messages)
    seen: Counter[str] = Counter()
    answers = []
    for answer in record.answers:
        # Two equal answers of one ranking are two; the same answer in another ranking is the same.
        key = json.dumps([answer.text, answer.source, answer.model])
        completion = _uuid("completion", str(project.id), prompt_sha, key, str(seen[key]))
        seen[key] += 1
        # An edit names the answer it improves, which is not known here; a person wrote it in any case.
        source = "human" if answer.source == "edit" else answer.source
        answers.append({"id": str(completion), "text": answer.text, "source": source, "model": answer.model})
    ids = [item["id"] for item in answers]
    groups = [sorted(ids[place] for place in group) for group in record.ranking]
    judgements = {ids[place]: judged for place, judged in sorted(record.judgements.items())}
    judgement = [groups, record.strengths, record.acceptable, judgements, record.reason]
    ranking = _uuid(
        "ranking", str(project.id), dataset, record.labeler, prompt_sha, *sorted(ids), canonical(judgement).decode()
    )
    return (
        ranking,
        number,
        prompt_sha,
        json.dumps([asdict(message) for message in record.messages]),
        split_of(record.messages, project.held_out_fraction),
        labeler,
        json.dumps(answers),
        json.dumps(groups),
        None if record.strengths is None else list(record.strengths),
        record.acceptable,
        json.dumps(judgements),
        record.reason,
        record.judge == "simulated",
    )


def _uuid(*parts: str) -> UUID:
    """Return the id of what these words name: a UUID of version 8, whose bits are our own."""
    digest = bytearray(hashlib.sha256(canonical(list(parts))).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def _add_labelers(session: Session, dataset: str, labelers: dict[str, UUID]) -> None:
    rows = [
        {
            "id": user_id,
            "email": f"{user_id.hex}@imported.invalid",
            "name": f"{labeler or 'Somebody'} ({dataset})"[:MAX_NAME],
            "role": "labeler",
            "password_hash": "",
            "is_imported": True,
            "disabled_at": func.clock_timestamp(),
        }
        for labeler, user_id in labelers.items()
    ]
    if rows:
        for start in range(0, len(rows), 1_000):
            session.execute(
                upsert(User).values(rows[start : start + 1_000]).on_conflict_do_nothing(index_elements=["id"])
            )


def _version(session: Session, project: Project, user: User) -> UUID:
    """Return the guideline version of imported rankings, which says that theirs are not known."""
    values = {"project_id": project.id, "version": IMPORTED_VERSION, "body": GUIDELINES, "created_by": user.id}
    session.execute(upsert(GuidelineVersion).values(values).on_conflict_do_nothing())
    query = select(GuidelineVersion.id).where(
        GuidelineVersion.project_id == project.id, GuidelineVersion.version == IMPORTED_VERSION
    )
    return session.scalars(query).one()


def _refusal(reading: Reading) -> str:
    count = reading.problem_count
    shown = f" The first {len(reading.problems)} are listed." if count > len(reading.problems) else ""
    what = "One problem was found" if count == 1 else f"{count:,} problems were found"
    return f"Nothing was imported: {what}.{shown} Mend the file and import it again."
