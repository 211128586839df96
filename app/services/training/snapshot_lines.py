"""The lines of a snapshot's data files and of their ledgers, put together from what PostgreSQL sends: bytes to bytes.

PostgreSQL joins and spells the texts, in the order of the prompts. What identifies a row in this database (ids, times)
stays out of the data files and goes into ledgers, one line for each line of a data file. This runs for each of a
million rankings, so nothing is parsed here that can be cut, and what repeats is looked up.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from sqlalchemy import Select, Text, cast, column, func, literal_column, select, text, true
from sqlalchemy.orm import Session

from app.models import Demonstration, GuidelineVersion, Import, Project, Prompt, Ranking, Task
from app.services.data import copying, exports
from app.services.labeling import standing
from app.services.projects import mixing
from app.services.training.snapshot_tally import Answer, Judgement, Tally
from trainer import jsonl

_READ_BYTES = 1 << 18
_PLACES = tuple(str(place).encode() for place in range(1_000))

Row = list[bytes]


@dataclass(frozen=True)
class Lines:
    """Lines of a data file and, for each, the line of its ledger."""

    data: list[bytes]
    ledger: list[bytes]


def _rows(moment: Session, statement: Select[*tuple[Any, ...]]) -> Iterator[list[Row]]:
    """Yield the rows of many prompts at once as lists of fields. None of the fields may hold a control character."""
    for chunk in copying.copied(moment, statement, _READ_BYTES):
        yield [line.split(copying.DELIMITER) for line in chunk.splitlines()]


def _by_prompt(chunks: Iterator[list[Row]]) -> Iterator[list[Row]]:
    """Yield the rows of each prompt, whose position is the first field."""
    rows: list[Row] = []
    for chunk in chunks:
        for row in chunk:
            if rows and row[0] != rows[0][0]:
                yield rows
                rows = []
            rows.append(row)
    if rows:
        yield rows


def prompts(moment: Session, project: Project, tally: Tally) -> Iterator[Lines]:
    """Yield the lines of all prompts in their order, and count them."""
    statement = (
        select(
            Prompt.position, Prompt.split, Prompt.content_sha256, cast(Prompt.messages, Text), Prompt.id, Import.dataset
        )
        .outerjoin(Import, Import.id == Prompt.import_id)
        .where(Prompt.project_id == project.id)
        .order_by(Prompt.position)
    )
    for chunk in _rows(moment, statement):
        tally.prompts.update(row[1] for row in chunk)
        tally.brought.update(("prompts", row[5]) for row in chunk if row[5])
        yield Lines(
            [
                b'{"id":"p%s","messages":%s,"split":"%s"}\n' % (sha256[:16], canonical(messages), split)
                for _, split, sha256, messages, _, _ in chunk
            ],
            [b'{"position":%s,"split":"%s","id":"%s"}\n' % (row[0], row[1], row[4]) for row in chunk],
        )


def demonstrations(moment: Session, project: Project, labelers: dict[bytes, bytes], tally: Tally) -> Iterator[Lines]:
    """Yield the lines of the demonstrations that stand, those of one prompt at a time, and count them."""
    entry = (
        "(SELECT row_to_json(entry) FROM (SELECT demonstrations.id, prompts.id AS prompt_id, "
        "guideline_versions.version AS guideline_version, demonstrations.created_at) entry)"
    )
    statement = (
        select(
            Prompt.position,
            cast(Prompt.messages, Text),
            Prompt.split,
            Demonstration.user_id,
            GuidelineVersion.version,
            literal_column(exports.DEMONSTRATION_JUDGE),
            func.to_json(Demonstration.text),
            Import.dataset,
            literal_column(entry),
        )
        .join(Task, Task.prompt_id == Prompt.id)
        .join(Demonstration, Demonstration.task_id == Task.id)
        .join(GuidelineVersion, GuidelineVersion.id == Demonstration.guideline_version_id)
        .outerjoin(Import, Import.id == Demonstration.import_id)
        .where(Prompt.project_id == project.id, *standing.demonstrations())
        .order_by(Prompt.position)
    )
    number = 0
    for rows in _by_prompt(_rows(moment, statement)):
        messages, split = canonical(rows[0][1]), rows[0][2]
        found = []
        for _, _, _, user, version, judge, answer, dataset, ledger in rows:
            labeler = labelers[user]
            if dataset:
                tally.brought["demonstrations", dataset] += 1
            tally.answers[Answer("demonstrations", labeler, version, judge, split)] += 1
            found.append((answer, labeler, _entry(rows[0][0], split, labeler, judge, ledger)))
        found.sort()
        lines = Lines([], [ledger for _, _, ledger in found])
        for answer, _, _ in found:
            number += 1
            lines.data.append(
                b'{"completion":%s,"id":"d%06d","messages":%s,"split":"%s","weight":1.0}\n'
                % (answer, number, messages, split)
            )
        yield lines


_ANSWERS = """
    SELECT array_to_json(array_agg(answer.text)) AS texts, array_to_json(array_agg(answer.id)) AS ids,
           array_to_json(array_agg(coalesce(answer.policy, ''))) AS policies,
           array_to_json(array_agg(answer.entry)) AS entries,
           array_to_json(array_agg(answer.finish_reason IS DISTINCT FROM 'length')) AS ended
    FROM (
        SELECT completion.id, completion.text, completion.finish_reason, model.name AS policy, (
            SELECT row_to_json(entry) FROM (
                SELECT completion.id, completion.source, completion.parent_id, completion.model_version_id,
                       coalesce(model.name, completion.sampling->>'model') AS model_version, completion.finish_reason
            ) entry
        ) AS entry
        FROM task_completions place
        JOIN completions completion ON completion.id = place.completion_id
        LEFT JOIN model_versions model ON model.id = completion.model_version_id
        WHERE place.task_id = rankings.task_id
        ORDER BY place.position
    ) answer
"""
_RANKING_ENTRY = """
    (SELECT row_to_json(entry) FROM (
        SELECT rankings.id, rankings.project_id, rankings.task_id, prompts.id AS prompt_id,
               answers.entries AS completions, rankings.origin, rankings.groups AS ranking, rankings.judgements,
               rankings.reason, rankings.shown_order, guideline_versions.version AS guideline_version, rankings.seconds,
               imports.dataset, rankings.supersedes, rankings.created_at
    ) entry)
"""


def _comparisons_statement(project: Project) -> Select[Any]:
    names = ("texts", "ids", "policies", "entries", "ended")
    answers = text(_ANSWERS).columns(*map(column, names)).lateral("answers")
    return (
        select(
            Prompt.position,
            cast(Prompt.messages, Text),
            Prompt.split,
            Ranking.user_id,
            GuidelineVersion.version,
            literal_column(exports.RANKING_JUDGE),
            Ranking.origin,
            Import.dataset,
            answers.c.texts,
            answers.c.ids,
            cast(Ranking.groups, Text),
            func.array_to_json(Ranking.strengths),
            Ranking.acceptable,
            cast(Ranking.judgements, Text),
            Task.round,
            answers.c.policies,
            answers.c.ended,
            literal_column(_RANKING_ENTRY),
        )
        .select_from(Prompt)
        .join(Task, Task.prompt_id == Prompt.id)
        .join(Ranking, Ranking.task_id == Task.id)
        .join(GuidelineVersion, GuidelineVersion.id == Ranking.guideline_version_id)
        .outerjoin(Import, Import.id == Ranking.import_id)
        .join(answers, true())
        .where(Prompt.project_id == project.id, *standing.rankings())
        .order_by(Prompt.position)
    )


def comparisons(moment: Session, project: Project, labelers: dict[bytes, bytes], tally: Tally) -> Iterator[Lines]:
    """Yield the lines of the rankings that stand, those of one prompt at a time, and count them."""
    number = 0
    weight_of = _weigher(moment, project)
    answers, judgements, weights = tally.answers, tally.judgements, tally.weights
    for rows in _by_prompt(_rows(moment, _comparisons_statement(project))):
        position, messages, split = rows[0][0], canonical(rows[0][1]), rows[0][2]
        found = []
        for row in rows:
            _, _, _, user, version, judge, origin, dataset, texts, ids = row[:10]
            groups, strengths, acceptable, said_of_each, round_number, policies, ends, ledger = row[10:]
            ranking, size, has_ties = _shape(_places(groups, ids))
            labeler = labelers[user]
            weight, weighed = weight_of(round_number, policies)
            weights[weighed] += 1
            answers[Answer("comparisons", labeler, version, judge, split)] += 1
            judged, ended = _judged(said_of_each, ids), _ended(ends)
            line_on = split if acceptable else b""
            judgements[
                Judgement(
                    size, has_ties, _says_how_much(strengths), origin, dataset, line_on, judged != b"", ended != b""
                )
            ] += 1
            entry = _entry(position, split, labeler, judge, ledger)
            said = (strengths or b"null", acceptable or b"null", judged)
            found.append((texts, labeler, ranking, *said, weight, ended, entry))
        # Whatever is equal in all of the first eight is one line or the other; the ledger's id settles the rest.
        found.sort()
        lines = Lines([], [item[-1] for item in found])
        for texts, name, ranking, strengths, acceptable, judged, weight, ended, _ in found:
            number += 1
            lines.data.append(
                b'{"acceptable":%s,"completions":%s,%s"id":"c%06d",%s"labeler":"%s","messages":%s,"ranking":%s,'
                b'"split":"%s","strengths":%s,"weight":%s}\n'
                % (acceptable, texts, ended, number, judged, name, messages, ranking, split, strengths, weight)
            )
        yield lines


def _weigher(moment: Session, project: Project) -> Callable[[bytes, bytes], tuple[bytes, tuple[int, float]]]:
    """Return what says how much a ranking of a round weighs, given the names of its answers' policies as JSON.

    It answers with the weight as it is spelled, and with the round and the weight as they are counted.
    """
    used = moment.scalars(select(Task.round).where(Task.project_id == project.id, Task.state != "draft").distinct())
    ages = mixing.ages(used.all())

    @lru_cache(maxsize=4096)
    def weight_of(round_number: bytes, policies: bytes) -> tuple[bytes, tuple[int, float]]:
        number = int(round_number)
        weight = mixing.weight(
            ages.get(number, 0), json.loads(policies), project.round_weight_percent, project.policy_weights
        )
        return json.dumps(weight).encode(), (number, weight)

    return weight_of


@lru_cache(maxsize=4096)
def _says_how_much(strengths: bytes) -> bool:
    """Return whether there is a strength among the strengths."""
    return any(digit in strengths for digit in (b"1", b"2", b"3"))


def _places(groups: bytes, ids: bytes) -> bytes:
    """Return tie groups of completion ids, as PostgreSQL spells them, with places in the list of `ids` instead."""
    for place, item in enumerate(ids[1:-1].split(b",")):
        groups = groups.replace(item, _PLACES[place])
    return groups


def _judged(said_of_each: bytes, ids: bytes) -> bytes:
    """Return the member of a line that holds what was judged of single completions, with a comma; nothing without any.

    Texts that labelers wrote are for people: only numbers and yes or no are kept.
    """
    if said_of_each == b"{}":
        return b""
    by_id = json.loads(said_of_each)
    judged = [
        {key: value for key, value in by_id.get(item, {}).items() if not isinstance(value, str)}
        for item in json.loads(ids)
    ]
    return b'"judgements":%s,' % jsonl.canonical(judged) if any(judged) else b""


def _ended(ends: bytes) -> bytes:
    """Return the member of a line that says which answers ended, with a comma; nothing where all of them did."""
    return b'"ended":%s,' % ends if b"false" in ends else b""


@lru_cache(maxsize=1 << 16)
def _shape(groups: bytes) -> tuple[bytes, int, bool]:
    """Return the tie groups as data files spell them, how many answers they rank, and whether some are tied.

    Inside a tie no answer comes first, so the order there is no information and must not change the bytes.
    """
    ranking = [sorted(int(place) for place in group) for group in json.loads(groups)]
    return jsonl.canonical(ranking), sum(map(len, ranking)), any(len(group) > 1 for group in ranking)


def _entry(position: bytes, split: bytes, labeler: bytes, judge: bytes, rest: bytes) -> bytes:
    """Return a line of a ledger: what both files need to be found, then what only this database knows."""
    known = b'{"position":%s,"split":"%s","labeler":"%s","judge":"%s",%s\n'
    return known % (position, split, labeler, judge, rest[1:])


_BEGIN, _END = b'[{"role": "', b'"}]'
_NEXT, _CONTENT, _ANOTHER = b'"}, {"role": "', b'", "content": "', b'", "'


def canonical(messages: bytes) -> bytes:
    """Return a prompt's messages, as PostgreSQL spells them, in the one spelling of data files.

    Cut rather than parsed: a quote that follows a space or a brace is never inside of a text, where each quote has a
    backslash before it; and PostgreSQL escapes what Python does. What does not look as expected is parsed.
    """
    if messages.startswith(_BEGIN) and messages.endswith(_END):
        turns = [turn.split(_CONTENT) for turn in messages[len(_BEGIN) : -len(_END)].split(_NEXT)]
        if all(len(turn) == len(("role", "content")) and _ANOTHER not in turn[1] for turn in turns):
            return b"[%s]" % b",".join([b'{"content":"%s","role":"%s"}' % (content, role) for role, content in turns])
    return jsonl.canonical([{"role": item["role"], "content": item["content"]} for item in json.loads(messages)])
