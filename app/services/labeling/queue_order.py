"""The order of the queue: ask first where the reward model is unsure, and keep a share of tasks at random.

Only tasks that collect, on training prompts, that nobody holds at this moment change places, and only with one another:
they share out the places that they have already. Drafts are among them, so that a round's tasks are in order before
anybody can take one. What a person gave priority stays ahead, held-out prompts keep their places and stay a fair
measure, and a task that somebody is working on does not move.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Literal, NamedTuple
from uuid import UUID

from sqlalchemy import select, text
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.orm import Session

from app.models import Completion, Project, Prompt, Run, Task, TaskCompletion, TaskScore
from trainer.records import Comparison, Message, Score

Policy = Literal["random", "uncertainty", "margin"]
ORDERS = {
    "arrival": "As they were made",
    "random": "At random",
    "uncertainty": "Where the reward model's heads disagree",
    "margin": "Where the reward model sees little difference",
}
MANY = 5_000
"""How many tasks from the front of the queue are looked at: more than a round of labeling takes up."""

# SKIP LOCKED: a task that is being handed out at this moment keeps its place, and we never wait for anybody.
_SHARE_OUT = text("""
WITH wanted AS (SELECT * FROM unnest(CAST(:ids AS uuid[])) WITH ORDINALITY AS w(id, rank)),
free AS (
    SELECT t.id, t.priority, t.sort_key, w.rank FROM tasks t JOIN wanted w ON w.id = t.id
    WHERE t.project_id = :project_id AND t.kind = 'ranking' AND t.purpose = 'collect' AND t.state IN ('draft', 'open')
      AND t.takeable AND t.open_leases = 0
    FOR UPDATE OF t SKIP LOCKED),
places AS (SELECT priority, sort_key, row_number() OVER (PARTITION BY priority ORDER BY sort_key, id) AS n FROM free),
in_order AS (SELECT id, priority, row_number() OVER (PARTITION BY priority ORDER BY rank) AS n FROM free)
UPDATE tasks SET sort_key = places.sort_key FROM in_order JOIN places USING (priority, n)
WHERE tasks.id = in_order.id RETURNING tasks.id
""")


class Place(NamedTuple):
    """A task in the wanted order, and what put it there: the policy, or chance."""

    task_id: UUID
    picked: Policy


def ordered(scores: Sequence[Score], policy: Policy, random_share: float, seed: int) -> list[Place]:
    """Return the tasks in the order in which to ask for them; the same arguments give the same order.

    A share of all tasks, drawn with equal chances before anything else, stands at even distances in a random order.
    Figures over those are of the whole queue; over the others they would be of what the model finds hard.
    """
    tasks = sorted(scores, key=lambda score: score.id)
    random.Random(seed).shuffle(tasks)  # noqa: S311  # an order, no secret
    share = 1.0 if policy == "random" else random_share
    by_chance = math.ceil(share * len(tasks))
    drawn, rest = tasks[:by_chance], tasks[by_chance:]
    rest.sort(key=lambda score: -score.information if policy == "uncertainty" else score.margin)
    places, taken = [], 0
    for place in range(len(tasks)):
        # The n-th place is chance's when n times the share passes a whole number; what is over goes to the end.
        if taken < by_chance and (place >= taken + len(rest) or (place + 1) * share > taken):
            places.append(Place(UUID(drawn[taken].id), "random"))
            taken += 1
        else:
            places.append(Place(UUID(rest[place - taken].id), policy))
    return places


def candidates(session: Session, project: Project, limit: int = MANY) -> Sequence[UUID]:
    """Return the tasks from the front of the queue that may change places, drafts too, in their present order."""
    return session.scalars(
        select(Task.id)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .where(
            Task.project_id == project.id,
            Task.kind == "ranking",
            Task.purpose == "collect",
            Task.state.in_(("draft", "open")),
            Task.takeable,
            Task.open_leases == 0,
            Prompt.split == "train",
        )
        .order_by(Task.priority.desc(), Task.sort_key)
        .limit(limit)
    ).all()


def unjudged(session: Session, run: Run) -> Iterator[Comparison]:
    """Yield a scoring run's tasks as its data file holds them: answers in the stored order, and no ranking yet."""
    rows = session.execute(
        select(Task.id, Prompt.messages, Completion.text, Completion.finish_reason)
        .join(Prompt, Prompt.id == Task.prompt_id)
        .join(TaskCompletion, TaskCompletion.task_id == Task.id)
        .join(Completion, Completion.id == TaskCompletion.completion_id)
        .where(Task.id.in_([UUID(item) for item in run.inputs["tasks"]]))
        .order_by(Task.id, TaskCompletion.position)
    )
    for (task_id, messages), found in groupby(rows, key=lambda row: (row.id, row.messages)):
        turns = tuple(Message(item["role"], item["content"]) for item in messages)
        answers = list(found)
        ended = tuple(row.finish_reason != "length" for row in answers)
        yield Comparison(str(task_id), turns, tuple(row.text for row in answers), (), ended=() if all(ended) else ended)


def apply(session: Session, run: Run, scores: Sequence[Score]) -> int:
    """Put the tasks that a scoring run has scored in the order that it was asked for; return how many have a place.

    A task that was taken or closed in the meantime keeps its place, and the others share out theirs.
    """
    places = ordered(scores, run.inputs["policy"], run.inputs["random_share"], run.config["seed"])
    placed = set(
        session.scalars(_SHARE_OUT, {"ids": [place.task_id for place in places], "project_id": run.project_id})
    )
    by_id = {UUID(score.id): score for score in scores}
    rows = [
        {
            "task_id": place.task_id,
            "run_id": run.id,
            "picked": place.picked,
            "information": by_id[place.task_id].information,
            "spread": by_id[place.task_id].spread,
            "margin": by_id[place.task_id].margin,
        }
        for place in places
        if place.task_id in placed
    ]
    if rows:
        insert = upsert(TaskScore)
        news = {name: insert.excluded[name] for name in rows[0] if name != "task_id"}
        session.execute(insert.on_conflict_do_update(index_elements=[TaskScore.task_id], set_=news), rows)
    return len(rows)
