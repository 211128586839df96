"""Drafts: kept while a labeler types, theirs alone, bounded, and gone once the answer is stored."""

from __future__ import annotations

import pytest
from labeling_world import make_world, rank, take
from sqlalchemy import func, select

from app import db
from app.errors import InvalidInputError, NotFoundError
from app.models import Draft
from app.services.labeling import drafts

pytestmark = pytest.mark.usefixtures("database")


def test_the_last_draft_is_kept_for_its_labeler_alone() -> None:
    world = make_world(number_of_prompts=1)
    mine, other = world.labelers
    taken = take(world, mine)
    assert taken is not None
    with db.transaction() as session:
        assert drafts.of(session, taken.id) == {}
        assert drafts.keep(session, taken.id, mine, {"rank_A": "1", "reason": "bec"})
        assert drafts.keep(session, taken.id, mine, {"rank_A": "2", "rank_B": "", "reason": "because\x00"})
        assert drafts.of(session, taken.id) == {"rank_A": "2", "reason": "because"}
        with pytest.raises(NotFoundError):
            drafts.keep(session, taken.id, other, {"rank_A": "1"})
        for fields in ({"reason": "x" * 250_001}, {f"field_{number}": "x" for number in range(401)}):
            with pytest.raises(InvalidInputError, match="more than a draft can hold"):
                drafts.keep(session, taken.id, mine, fields)
        assert drafts.of(session, taken.id) == {"rank_A": "2", "reason": "because"}


def test_an_answer_takes_its_draft_away_and_a_late_one_is_not_kept() -> None:
    world = make_world(number_of_prompts=1)
    mine = world.labelers[0]
    taken = take(world, mine)
    assert taken is not None
    with db.transaction() as session:
        drafts.keep(session, taken.id, mine, {"rank_A": "1"})
    rank(taken, mine)
    with db.transaction() as session:
        assert drafts.of(session, taken.id) == {}
        assert not drafts.keep(session, taken.id, mine, {"rank_A": "1"})
        assert session.scalar(select(func.count()).select_from(Draft)) == 0


def test_the_tick_discards_only_drafts_of_answered_tasks() -> None:
    world = make_world(number_of_prompts=2)
    first, second = world.labelers
    done, open_one = take(world, first), take(world, second)
    assert done is not None
    assert open_one is not None
    rank(done, first)
    with db.transaction() as session:
        for assignment in (done, open_one):  # the first one arrived together with its answer
            drafts.save(session, assignment.id, {"rank_A": "1"})
    with db.transaction() as session:
        assert drafts.discard_answered(session) == 1
        assert drafts.discard_answered(session) == 0
        assert drafts.of(session, open_one.id) == {"rank_A": "1"}
