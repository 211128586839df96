"""Judgements of every kind: ties, partial rankings, strengths, lines, hostile texts, conversations."""

from __future__ import annotations

from uuid import UUID

from hypothesis import strategies as st

from app.services.data.formats.records import Answer, Record
from trainer.records import Message

# Anything that can be stored: no NUL, no half of a surrogate pair.
ANY = st.text(st.characters(exclude_categories=("Cs",), exclude_characters="\x00"), max_size=12)
HOSTILE = st.sampled_from(
    ["=1+1", "'=1", "''@x", "-", "\t", "\r\n", '"', ",", "[", '{"', "\n\nHuman: x", "\n\nAssistant:", " ", "", "\u2028"]
)
TEXT = ANY | HOSTILE | st.tuples(ANY, HOSTILE).map("".join)
NAME = st.sampled_from(["", "labeler-0a1b2c3d4e", "judge 2"])


@st.composite
def conversations(draw: st.DrawFn) -> tuple[Message, ...]:
    system = [Message("system", draw(TEXT))] if draw(st.integers(0, 4)) == 0 else []
    turns = draw(st.sampled_from([1, 1, 3, 5]))
    roles = ["user" if number % 2 == 0 else "assistant" for number in range(turns)]
    return (*system, *(Message(role, draw(TEXT)) for role in roles))


@st.composite
def records(draw: st.DrawFn, *, full: bool = True) -> Record:
    size = draw(st.integers(2, 5))
    ranks = draw(st.lists(st.none() | st.integers(0, size), min_size=size, max_size=size))
    if all(rank is None for rank in ranks):
        ranks[draw(st.integers(0, size - 1))] = 0
    groups = tuple(
        tuple(place for place, rank in enumerate(ranks) if rank == level)
        for level in sorted({rank for rank in ranks if rank is not None})
    )
    said = draw(st.none() | st.tuples(*[st.none() | st.integers(1, 3)] * (len(groups) - 1)))
    criteria = st.dictionaries(
        st.sampled_from(["helpful", "note"]), st.integers(1, 7) | st.booleans() | ANY, min_size=1
    )
    return Record(
        draw(conversations()),
        tuple(
            Answer(draw(TEXT), draw(st.sampled_from(["model", "human", "edit"])), draw(st.sampled_from(["", "tiny-1"])))
            for _ in range(size)
        ),
        groups,
        said if said and any(said) else None,
        draw(st.none() | st.integers(0, len(groups))),
        draw(st.dictionaries(st.integers(0, size - 1), criteria, max_size=2)),
        draw(TEXT),
        draw(NAME),
        draw(st.sampled_from(["human", "human", "simulated", "ai"])),
        id=str(draw(st.uuids(version=4))),
        group=str(UUID(int=draw(st.integers(0, 3)))),
    )
