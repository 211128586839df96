"""Arena's battles: two models, two conversations and a winner, which may be a tie or that both are bad.

Written as the newest public set is. Read: that one, the older sets (whose both-bad is spelled `tie (bothbad)` and whose
conversations may be JSON texts), and lines of FastChat's own log.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from app.services.data.formats import reading
from app.services.data.formats.records import Answer, LeftOutError, Pair, Record, Row
from app.services.data.formats.trl import turns
from app.services.data.imports import BadLineError
from trainer.records import Message

_WINNERS = {
    "model_a": ((0,), (1,)),
    "model_b": ((1,), (0,)),
    "tie": ((0, 1),),
    "both_bad": ((0, 1),),
    "tie (bothbad)": ((0, 1),),
}
_BOTH_BAD = ("both_bad", "tie (bothbad)")
_VOTES = {"leftvote": "model_a", "rightvote": "model_b", "tievote": "tie", "bothbad_vote": "both_bad"}


def write(pair: Pair) -> Row:
    """Return the battle; the better answer is on side a."""
    record, begin = pair.record, turns(pair.record.messages)
    tie = "both_bad" if pair.acceptable == 0 else "tie"
    return {
        "id": f"{record.id}.{pair.better}.{pair.worse}",
        "evaluation_session_id": record.group,
        "evaluation_order": 1,
        "model_a": pair.chosen.model,
        "model_b": pair.rejected.model,
        "winner": tie if pair.tie else "model_a",
        "judge": record.labeler,
        "conversation_a": [*begin, {"role": "assistant", "content": pair.chosen.text}],
        "conversation_b": [*begin, {"role": "assistant", "content": pair.rejected.text}],
        "language": "",
    }


def read(row: Row) -> Iterator[Record]:
    """Read a battle, or a vote of FastChat's log; other lines of the log hold none."""
    if "winner" not in row and "type" in row:
        vote = _VOTES.get(str(row["type"]))
        if vote is None:
            raise LeftOutError("it is a line of the log that holds no vote.")
        states = reading.listed(row, "states")
        models = reading.listed(row, "models")
        if len(states) != len(("a", "b")) or len(models) != len(states):
            raise BadLineError("needs two “states” and two “models”.")
        first, second = (_state(state) for state in states)
        yield _record(vote, first, second, [model if isinstance(model, str) else "" for model in models], "", "")
        return
    winner = reading.text(row, "winner")
    if winner not in _WINNERS:
        raise BadLineError(f"needs one of {', '.join(_WINNERS)} as “winner”.")
    first, second = (reading.turns_or_json(row.get(key), key) for key in ("conversation_a", "conversation_b"))
    names = [reading.optional_text(row, "model_a"), reading.optional_text(row, "model_b")]
    judge = row.get("judge") or row.get("judge_hash")
    group = row.get("evaluation_session_id")
    yield _record(
        winner, first, second, names, judge if isinstance(judge, str) else "", group if isinstance(group, str) else ""
    )


def _record(
    winner: str, first: tuple[Message, ...], second: tuple[Message, ...], models: list[str], judge: str, group: str
) -> Record:
    prompt, left, right = reading.split(first, second)
    return Record(
        prompt,
        (Answer(left, "model", models[0]), Answer(right, "model", models[1])),
        _WINNERS[winner],
        acceptable=0 if winner in _BOTH_BAD else None,
        labeler=judge,
        group=group,
    )


def _state(state: Any) -> tuple[Message, ...]:
    """Return the turns of a logged conversation: after a possible offset of examples, the sides speak in turns."""
    held = reading.mapping(state, "each of “states”")
    messages, offset = reading.listed(held, "messages"), held.get("offset", 0)
    found = []
    for number, item in enumerate(messages[offset if isinstance(offset, int) and offset >= 0 else 0 :]):
        if not isinstance(item, list) or len(item) != len(("name", "text")) or not isinstance(item[1], str):
            raise BadLineError("needs pairs of a name and a text as “messages” of each state.")
        found.append(Message(("user", "assistant")[number % 2], item[1]))
    if not found:
        raise LeftOutError("a conversation in it is empty.")
    return tuple(found)
