"""Demonstrations and prompts that were made elsewhere, prompts with answers that nobody has judged if there are any.

A demonstration becomes what one written here is: a prompt, a task of the kind `import`, an assignment, a demonstration
that names its import, of a labeler who cannot sign in (decision 0013). A prompt or an answer is one that the project
has, whoever brought it.
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
from app.services.data.formats.records import Conversation
from app.services.data.import_rows import uuid_of
from app.services.projects.prompts import spelled
from trainer.records import split_of

# A row for each prompt or demonstration. `answers` holds [{id, text, source, model}], which nobody has judged.
_STAGED = """
CREATE TEMP TABLE staged (
    id uuid NOT NULL, line bigint NOT NULL, prompt_sha text NOT NULL, messages jsonb NOT NULL, split text NOT NULL,
    user_id uuid NOT NULL, answers jsonb NOT NULL, demonstration text, simulated boolean NOT NULL
) ON COMMIT DROP
"""

_COLUMNS = "id, line, prompt_sha, messages, split, user_id, answers, demonstration, simulated"
_TWICE = "DELETE FROM staged a USING staged b WHERE a.id = b.id AND a.line > b.line"

PROMPTS = {
    "twice": _TWICE,
    # What brings nothing new: the project has the prompt, and each of its answers.
    "known": """
        DELETE FROM staged
        WHERE EXISTS (SELECT FROM prompts WHERE project_id = :project AND content_sha256 = prompt_sha)
          AND NOT EXISTS (SELECT FROM jsonb_array_elements(answers) answer
                          WHERE NOT EXISTS (SELECT FROM completions WHERE completions.id = (answer->>'id')::uuid))""",
    "prompts": import_rows.PROMPTS,
    "completions": import_rows.COMPLETIONS,
    "prompts_taken": "DELETE FROM staged",  # what is left brought something new
}

DEMONSTRATIONS = {
    "twice": _TWICE,
    "known": "DELETE FROM staged USING demonstrations WHERE demonstrations.submit_id = staged.id",
    "prompts": import_rows.PROMPTS,
    "tasks": """
        INSERT INTO tasks (id, project_id, prompt_id, kind, state, sort_key, target_overlap, done_count)
        SELECT staged.id, :project, prompts.id, 'import', 'closed', 0, 1, 1
        FROM staged JOIN prompts ON prompts.project_id = :project AND prompts.content_sha256 = staged.prompt_sha""",
    "assignments": """
        INSERT INTO assignments (id, task_id, user_id, state, shown_order, guideline_version_id, expires_at,
                                 finished_at)
        SELECT id, id, user_id, 'done', '{}', :version, clock_timestamp(), clock_timestamp() FROM staged""",
    "demonstrations": """
        INSERT INTO demonstrations (id, submit_id, body_sha256, project_id, task_id, assignment_id, user_id,
                                    guideline_version_id, import_id, text, is_simulated, counted, seconds)
        SELECT id, id, '', :project, id, id, user_id, :version, :import, demonstration, simulated, true, 0
        FROM staged ORDER BY line""",
}


def stage(session: Session, project: Project, dataset: str, found: Iterable[Conversation]) -> dict[str, UUID]:
    """Copy what is read into the table `staged`, and return the labelers among its authors by name.

    `PROMPTS` or `DEMONSTRATIONS` then bring the rows to their tables.
    """
    session.execute(text(_STAGED))
    labelers: dict[str, UUID] = {}
    with import_rows.copying(session, _COLUMNS) as copy:
        for number, item in enumerate(found):
            author = uuid_of("labeler", dataset, item.labeler)
            if item.completion is not None:
                labelers[item.labeler] = author
            copy.write_row(_row(project, dataset, number, item, author))
    return labelers


def _row(project: Project, dataset: str, number: int, item: Conversation, author: UUID) -> tuple[Any, ...]:
    messages = spelled(item.messages)
    prompt_sha = hashlib.sha256(messages).hexdigest()
    answers = import_rows.answers_of(project, prompt_sha, item.answers)
    if item.completion is None:
        row = uuid_of("prompt", str(project.id), prompt_sha, *sorted(answer["id"] for answer in answers))
    else:
        row = uuid_of("demonstration", str(project.id), dataset, item.labeler, prompt_sha, item.completion)
    return (
        row,
        number,
        prompt_sha,
        messages.decode(),
        split_of(item.messages, project.held_out_fraction),
        author,
        json.dumps(answers),
        item.completion,
        item.judge == "simulated",
    )
