"""Open Assistant's trees: a message with its replies, the ranked ones among them with a rank from 0, the best.

Every ranking is written as a tree of its own. Read, each user's message with two or more ranked replies is a ranking:
one for each person where the tree has `events` (internal dumps), else the consensus that the ranks are. Of an event,
`ranked_message_ids` is trusted, which is in order already; `not_rankable` ones hold the order shown and no opinion.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

from app.services.data.formats import reading
from app.services.data.formats.records import (
    Answer,
    AnswerSource,
    CannotCarryError,
    Conversation,
    LeftOutError,
    Record,
    Row,
)
from app.services.data.imports import BadLineError
from trainer.records import Message

_ROLES = {"prompter": "user", "assistant": "assistant"}
_NAMES = {role: name for name, role in _ROLES.items()}


def write(record: Record) -> Iterator[Row]:
    """Yield a tree whose last user's message has the answers as its replies; tied answers have equal ranks.

    There a reply without a rank was not judged, so what a labeler left below all others gets the last rank.
    """
    if record.messages[0].role == "system":
        raise CannotCarryError("the shape has no system message")
    ranks = {place: rank for rank, group in enumerate(record.groups()) for place in group}
    base = record.id or record.group
    replies = [
        _message(f"{base}.{place}", "assistant", answer.text)
        | {"rank": ranks[place], "synthetic": answer.source == "model"}
        | ({"model_name": answer.model} if answer.model else {})
        | {"replies": []}
        for place, answer in enumerate(record.answers)
    ]
    for depth, message in reversed(list(enumerate(record.messages))):
        node = _message(f"{base}:{depth}", _NAMES[message.role], message.content) | {"replies": replies}
        replies = [node]
    yield {"message_tree_id": base, "tree_state": "ready_for_export", "prompt": replies[0]}


def _message(message_id: str, role: str, text: str) -> Row:
    return {"message_id": message_id, "text": text, "role": role, "review_count": 0, "review_result": True,
            "deleted": False, "rank": None, "synthetic": False}  # fmt: skip


def read(row: Row) -> Iterator[Record]:
    """Read a tree, or a message with its replies; raise `LeftOutError` when nothing in it is ranked."""
    root = _root(row)
    tree = reading.optional_text(row, "message_tree_id")
    found = False
    # A list of what is still to be looked at: the depth of a tree is not the depth of our stack.
    waiting: list[tuple[Row, tuple[Message, ...]]] = [(root, ())]
    while waiting:
        node, before = waiting.pop(0)
        messages = (*before, Message(_role(node), reading.text(node, "text")))
        replies = _replies(node)
        if messages[-1].role == "user":
            for record in _rankings(node, tree, messages, _assistants(replies)):
                found = True
                yield record
        waiting[:0] = [(reply, messages) for reply in replies]
    if not found:
        raise LeftOutError("no message in it has two ranked replies.")


def read_first_turn(row: Row) -> Iterator[Conversation]:
    """Read the first turn of a tree, or of a message with its replies, as a prompt with its answers, ranked or not."""
    root = _root(row)
    if _role(root) != "user" or root.get("parent_id"):
        raise LeftOutError("its message is not the first of a conversation.")
    answers = tuple(map(_answer, _assistants(_replies(root))))
    yield Conversation((Message("user", reading.text(root, "text")),), answers=answers)


def _root(row: Row) -> Row:
    return reading.mapping(row["prompt"] if "message_tree_id" in row and "prompt" in row else row, "a message")


def _replies(node: Row) -> list[Row]:
    return [reading.mapping(item, "each of “replies”") for item in node.get("replies") or []]


def _assistants(replies: Sequence[Row]) -> list[Row]:
    return [reply for reply in replies if _role(reply) == "assistant"]


def _answer(reply: Row) -> Answer:
    source: AnswerSource = "model" if reply.get("synthetic") else "human"
    return Answer(reading.text(reply, "text"), source, reading.optional_text(reply, "model_name"))


def _role(node: Row) -> str:
    role = node.get("role")
    if role not in _ROLES:
        raise BadLineError("has a message whose role is not prompter or assistant.")
    return _ROLES[str(role)]


def _rankings(node: Row, tree: str, messages: tuple[Message, ...], replies: Sequence[Row]) -> Iterator[Record]:
    answers = tuple(map(_answer, replies))
    group = reading.optional_text(node, "message_id")
    judged = False
    for event in _events(node):
        judged = True
        yield _of_event(event, messages, answers, replies, group)
    if judged:
        return
    by_rank: dict[int, list[int]] = defaultdict(list)
    for place, reply in enumerate(replies):
        if reply.get("rank") is not None:
            by_rank[reading.whole(reply, "rank", 0, 10_000)].append(place)
    if sum(map(len, by_rank.values())) >= len(("better", "worse")):
        ranked = sorted(place for places in by_rank.values() for place in places)
        new = {old: place for place, old in enumerate(ranked)}
        ranking = tuple(tuple(new[place] for place in by_rank[rank]) for rank in sorted(by_rank))
        yield Record(messages, tuple(answers[place] for place in ranked), ranking, id=tree, group=group)


def _events(node: Row) -> Iterator[Row]:
    events = (node.get("events") or {}).get("ranking") or []
    for event in events if isinstance(events, list) else []:
        if not reading.mapping(event, "each ranking in “events”").get("not_rankable"):
            yield event


def _of_event(
    event: Row, messages: tuple[Message, ...], answers: tuple[Answer, ...], replies: Sequence[Row], group: str
) -> Record:
    place_of = {reading.optional_text(reply, "message_id"): place for place, reply in enumerate(replies)}
    ids = reading.listed(event, "ranked_message_ids")
    places = [place_of.get(item) if isinstance(item, str) else None for item in ids]
    ranked = [place for place in places if place is not None]
    if len(ranked) != len(ids) or len(set(ranked)) != len(ranked):
        raise BadLineError("has a ranking of messages that are not among its replies, or names one twice.")
    shown = tuple(answers[place] for place in ranked)
    labeler = reading.optional_text(event, "user_id")
    return Record(messages, shown, tuple((place,) for place in range(len(shown))), labeler=labeler, group=group)
