"""UltraFeedback (answers with scores) and its binarized form (pairs whose conversations hold the prompt's turns too).

The shape has scores and no ranking, so ranks are written as scores half a point apart, 5 for the best. Read, the
fine-grained score decides, or the mean of the ratings, which are texts there. `overall_score` is read only where both
are missing, and never when it is 10, which stands wrongly for 1 in thousands of public rows.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from app.services.data.formats import reading
from app.services.data.formats.records import Answer, CannotCarryError, LeftOutError, Pair, Record, Row
from app.services.data.formats.trl import read_preference, turns
from trainer.records import Message

BEST, STEP = 5.0, 0.5
WRONG_OVERALL = 10


def write(record: Record) -> Iterator[Row]:
    """Yield the prompt with all its answers, the rank of each as a score."""
    if len(record.messages) != 1:
        raise CannotCarryError("an instruction is one turn")
    scores = {place: BEST - STEP * rank for rank, group in enumerate(record.groups()) for place in group}
    yield {
        "source": record.group,
        "instruction": record.messages[0].content,
        "models": [answer.model for answer in record.answers],
        "completions": [
            {
                "model": answer.model,
                "principle": "",
                "custom_system_prompt": "",
                "response": answer.text,
                "annotations": {},
                "critique": record.reason,
                "fine-grained_score": scores[place],
                "overall_score": 2 * scores[place],
            }
            for place, answer in enumerate(record.answers)
        ],
        "correct_answers": ["None"],
        "incorrect_answers": ["None"],
    }


def read(row: Row) -> Iterator[Record]:
    """Read a row: equal scores are a tie, the ratings become answers to criteria."""
    answers: list[Answer] = []
    judgements: dict[int, dict[str, int | bool | str]] = {}
    ranks: dict[float, list[int]] = defaultdict(list)
    critiques = []
    for place, item in enumerate(reading.listed(row, "completions")):
        completion = reading.mapping(item, "each of “completions”")
        answers.append(
            Answer(reading.text(completion, "response"), "model", reading.optional_text(completion, "model"))
        )
        ratings = _ratings(completion)
        if ratings:
            judgements[place] = {key: int(value) for key, value in ratings.items()}
        score = reading.number(completion.get("fine-grained_score"))
        if score is None and ratings:
            score = sum(ratings.values()) / len(ratings)
        if score is None:
            score = reading.number(completion.get("overall_score"))
            if score is None or score == WRONG_OVERALL:
                raise LeftOutError("an answer in it has no score that can be relied on.")
        ranks[score].append(place)
        critiques.append(reading.optional_text(completion, "critique"))
    if len(answers) < len(("better", "worse")):
        raise LeftOutError("it holds fewer than two answers.")
    yield Record(
        (Message("user", reading.text(row, "instruction")),),
        tuple(answers),
        tuple(tuple(ranks[score]) for score in sorted(ranks, reverse=True)),
        judgements=judgements,
        reason=critiques[0] if len(set(critiques)) == 1 else "",
        group=reading.optional_text(row, "source"),
    )


def _ratings(completion: Row) -> dict[str, float]:
    found = {}
    annotations = completion.get("annotations") or {}
    for name, annotation in reading.mapping(annotations, "“annotations”").items():
        rating = reading.number(annotation.get("Rating")) if isinstance(annotation, dict) else None
        if rating is not None:
            found[name] = rating
    return found


def write_binarized(pair: Pair) -> Row:
    """Return the pair in the shape of the binarized set. Equal scores are a tie."""
    begin, record = turns(pair.record.messages), pair.record
    chosen = [*begin, {"role": "assistant", "content": pair.chosen.text}]
    return {
        "prompt": record.messages[-1].content,
        "prompt_id": record.group,
        "chosen": chosen,
        "rejected": [*begin, {"role": "assistant", "content": pair.rejected.text}],
        "messages": chosen,
        "score_chosen": BEST,
        "score_rejected": BEST if pair.tie else BEST - STEP,
    }


def read_binarized(row: Row) -> Iterator[Record]:
    """Read a pair. Where the scores are equal it is a tie, whichever of the two is called chosen."""
    scores = [reading.number(row.get(key)) for key in ("score_chosen", "score_rejected")]
    tie = None not in scores and scores[0] == scores[1]
    shape = {"chosen": row.get("chosen"), "rejected": row.get("rejected"), "tie": tie}
    yield from read_preference({**shape, "prompt_group": reading.optional_text(row, "prompt_id")})
