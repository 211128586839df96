"""Rankings that were made elsewhere, never mixed up with the work done here (decision 0013).

Each becomes what every ranking is: a prompt, its completions, a task of the kind `import`, an assignment, a ranking of
the origin `import`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.orm import Session

from app.models import Project
from app.services.data import import_rows
from app.services.data.formats.records import Record
from app.services.data.import_rows import uuid_of
from app.services.projects.prompts import spelled
from trainer.jsonl import canonical
from trainer.records import split_of

# A row for each judgement. `answers` holds [{id, text, source, model}] in their order.
_STAGED = """
CREATE TEMP TABLE staged (
    id uuid NOT NULL, line bigint NOT NULL, prompt_sha text NOT NULL, messages jsonb NOT NULL, split text NOT NULL,
    user_id uuid NOT NULL, answers jsonb NOT NULL, groups jsonb NOT NULL, strengths smallint[], acceptable integer,
    judgements jsonb NOT NULL, reason text NOT NULL, simulated boolean NOT NULL
) ON COMMIT DROP
"""

STEPS = {
    "twice": "DELETE FROM staged a USING staged b WHERE a.id = b.id AND a.line > b.line",
    "known": "DELETE FROM staged USING rankings WHERE rankings.submit_id = staged.id",
    "prompts": import_rows.PROMPTS,
    "completions": import_rows.COMPLETIONS,
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


def stage(session: Session, project: Project, dataset: str, found: Iterable[Record]) -> dict[str, UUID]:
    """Copy the judgements into the table `staged` as they are read, and return the labelers among them by name.

    `STEPS` then bring them to their tables.
    """
    session.execute(text(_STAGED))
    labelers: dict[str, UUID] = {}
    with import_rows.copying(session, _COLUMNS) as copy:
        for number, record in enumerate(found):
            labeler = labelers.setdefault(record.labeler, uuid_of("labeler", dataset, record.labeler))
            copy.write_row(_row(project, dataset, number, record, labeler))
    return labelers


def _row(project: Project, dataset: str, number: int, record: Record, labeler: UUID) -> tuple[Any, ...]:
    messages = spelled(record.messages)
    prompt_sha = hashlib.sha256(messages).hexdigest()
    answers = import_rows.answers_of(project, prompt_sha, record.answers)
    ids = [item["id"] for item in answers]
    groups = [sorted(ids[place] for place in group) for group in record.ranking]
    judgements = {ids[place]: judged for place, judged in sorted(record.judgements.items())}
    judgement = [groups, record.strengths, record.acceptable, judgements, record.reason]
    ranking = uuid_of(
        "ranking", str(project.id), dataset, record.labeler, prompt_sha, *sorted(ids), canonical(judgement).decode()
    )
    return (
        ranking,
        number,
        prompt_sha,
        messages.decode(),
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
