"""What all imports store alike: prompts with their answers, labelers who cannot sign in, a version of the guidelines.

Ids come from the content, so the same thing is stored once, however often it is imported.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import func, select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.models import GuidelineVersion, Project, User
from app.services.data.formats.records import Answer
from app.services.projects.guidelines import IMPORTED_VERSION
from app.services.projects.prompts import CHATS_FROM
from trainer.jsonl import canonical

MAX_NAME = 100
GUIDELINES = "This was made elsewhere, under guidelines that are not known here."

PROMPTS = f"""
    INSERT INTO prompts (project_id, position, messages, content_sha256, split, import_id)
    SELECT :project, row_number() OVER (ORDER BY line) + (
               SELECT coalesce(max(position), -1) FROM prompts
               WHERE project_id = :project AND position < {CHATS_FROM}),
           messages, prompt_sha, split, :import
    FROM (SELECT DISTINCT ON (prompt_sha) prompt_sha, messages, split, line FROM staged
          ORDER BY prompt_sha, line) wanted
    WHERE NOT EXISTS (SELECT FROM prompts known WHERE known.project_id = :project
                      AND known.content_sha256 = wanted.prompt_sha)
    ON CONFLICT (project_id, content_sha256) DO NOTHING"""  # noqa: S608  (a number of ours)
"""Stores the prompts of the rows that wait in the table `staged`, as far as the project does not have them.

Others who add prompts wait for the project's row, but for chats: what those have stored meanwhile is no conflict.
"""

COMPLETIONS = """
    INSERT INTO completions (id, prompt_id, text, source, sampling)
    SELECT (answer->>'id')::uuid, prompts.id, answer->>'text', answer->>'source',
           jsonb_build_object('import', CAST(:import AS text))
               || CASE WHEN answer->>'model' = '' THEN '{}' ELSE jsonb_build_object('model', answer->>'model') END
    FROM staged JOIN prompts ON prompts.project_id = :project AND prompts.content_sha256 = staged.prompt_sha,
         jsonb_array_elements(answers) answer
    ON CONFLICT (id) DO NOTHING"""
"""Stores their answers; `answers` holds [{id, text, source, model}]."""


def uuid_of(*parts: str) -> UUID:
    """Return the id of what these words name: a UUID of version 8, whose bits are our own."""
    digest = bytearray(hashlib.sha256(canonical(list(parts))).digest()[:16])
    digest[6], digest[8] = digest[6] & 0x0F | 0x80, digest[8] & 0x3F | 0x80
    return UUID(bytes=bytes(digest))


def answers_of(project: Project, prompt_sha: str, answers: Sequence[Answer]) -> list[dict[str, str]]:
    """Return answers to a prompt as they wait to be stored. Two equal ones in one list are two; in two lists, one."""
    seen: Counter[str] = Counter()
    found = []
    for answer in answers:
        key = json.dumps([answer.text, answer.source, answer.model])
        completion = uuid_of("completion", str(project.id), prompt_sha, key, str(seen[key]))
        seen[key] += 1
        # An edit names the answer it improves, which is not known here; a person wrote it in any case.
        source = "human" if answer.source == "edit" else answer.source
        found.append({"id": str(completion), "text": answer.text, "source": source, "model": answer.model})
    return found


@contextmanager
def copying(session: Session, columns: str) -> Iterator[Any]:
    """Yield a `COPY` into the table `staged`, whose `write_row` takes a row of these columns."""
    driver = session.connection().connection.driver_connection
    assert driver is not None  # noqa: S101  (it is checked out)
    with driver.cursor() as cursor, cursor.copy(f"COPY staged ({columns}) FROM STDIN") as copy:
        yield copy


def run(
    session: Session,
    steps: Mapping[str, str],
    values: Mapping[str, UUID],
    told: Callable[[float], None] = lambda _part: None,
) -> Counter[str]:
    """Run the statements in their order and return how many rows each wrote; each is given the values it names.

    `told` hears before each which part is done, from 0 to 1.
    """
    counts: Counter[str] = Counter()
    for number, (step, statement) in enumerate(steps.items()):
        told(number / len(steps))
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        counts[step] = session.execute(text(statement), used).rowcount  # type: ignore[attr-defined]  # of a cursor
    return counts


def add_labelers(session: Session, dataset: str, labelers: Mapping[str, UUID]) -> None:
    """Store labelers by their names in the dataset, as far as they are not known: nobody can sign in as one."""
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
    for start in range(0, len(rows), 1_000):
        session.execute(upsert(User).values(rows[start : start + 1_000]).on_conflict_do_nothing(index_elements=["id"]))


def guideline_version(session: Session, project: Project, user: User) -> UUID:
    """Return the guideline version of what was made elsewhere, which says that its own are not known."""
    values = {"project_id": project.id, "version": IMPORTED_VERSION, "body": GUIDELINES, "created_by": user.id}
    session.execute(upsert(GuidelineVersion).values(values).on_conflict_do_nothing())
    query = select(GuidelineVersion.id).where(
        GuidelineVersion.project_id == project.id, GuidelineVersion.version == IMPORTED_VERSION
    )
    return session.scalars(query).one()
