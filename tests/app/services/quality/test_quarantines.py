"""Quarantines: what is set aside is not in the next snapshot, and the preview counts exactly that."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from run_builders import demonstrate, make_project, make_prompts, make_task, make_user, rank
from sqlalchemy import func, select

from app.db import transaction
from app.errors import InvalidInputError, NotFoundError
from app.models import AuditEvent, Project, Quarantine, Ranking, Snapshot, User
from app.services.labeling import previews
from app.services.labeling.previews import Held
from app.services.quality import quarantines
from app.services.quality.quarantines import NewQuarantine
from app.services.training import snapshots
from trainer.records import read_comparisons, read_demonstrations

People = tuple[Project, User, User, User]


@pytest.fixture
def people(database: str) -> People:
    """Three prompts; Ada ranks all and demonstrates one, Bob ranks two."""
    with transaction() as session:
        admin = make_user(session)
        ada, bob = (make_user(session, f"{name}@example.org", "labeler") for name in ("ada", "bob"))
        project = make_project(session, admin)
        for number, prompt in enumerate(make_prompts(session, project, ["One?", "Two?", "Three?"])):
            task = make_task(session, prompt, [f"Yes {number}.", f"No {number}."])
            rank(session, task, ada, [[0], [1]])
            if number:
                rank(session, task, bob, [[1], [0]])
            else:
                demonstrate(session, prompt, ada, "Both.")
        return project, admin, ada, bob


def frozen(project: Project, admin: User) -> Held:
    with transaction() as session:
        snapshot: Snapshot = snapshots.create(session, project, admin)
    folder = Path(snapshot.uri)
    return Held(
        len(read_comparisons(folder / "comparisons.jsonl")), len(read_demonstrations(folder / "demonstrations.jsonl"))
    )


def set_aside(project: Project, user: User, new: NewQuarantine) -> Quarantine:
    with transaction() as session:
        return session.get_one(Quarantine, quarantines.create(session, project, user, new))


def test_the_preview_says_what_the_next_snapshot_then_holds(people: People) -> None:
    project, admin, ada, bob = people
    assert frozen(project, admin) == Held(5, 1)
    for user, after in ((bob, Held(3, 1)), (ada, Held(0, 0))):
        new = NewQuarantine(user.id, None, None, "Clicks at random")
        with transaction() as session:
            before = previews.held(session, project.id)
            preview = previews.of_quarantine(session, project, admin, new)
        assert (preview.before, preview.after) == (before, after)
        assert preview.rankings_out == before.rankings - after.rankings
        with transaction() as session:
            assert previews.held(session, project.id) == before  # the preview changed nothing
        set_aside(project, admin, new)
        if user is bob:
            assert frozen(project, admin) == after
    with pytest.raises(InvalidInputError, match="nothing to freeze"):
        frozen(project, admin)


def test_a_time_range_sets_aside_what_falls_into_it_by_whomever(people: People) -> None:
    project, admin, *_ = people
    with transaction() as session:
        moments = list(session.scalars(select(Ranking.created_at).order_by(Ranking.created_at)))
    second, fourth = moments[1], moments[3]
    set_aside(project, admin, NewQuarantine(None, second, fourth, "A wrong example in the guidelines"))
    assert frozen(project, admin).rankings == 3  # the end is not part of the range
    set_aside(project, admin, NewQuarantine(None, fourth, None, "And everything since"))
    assert frozen(project, admin).rankings == 1


def test_a_lifted_quarantine_gives_everything_back_and_stays_on_the_list(people: People) -> None:
    project, admin, _, bob = people
    quarantine = set_aside(project, admin, NewQuarantine(bob.id, None, None, "To be looked at"))
    assert frozen(project, admin).rankings == 3
    with transaction() as session:
        quarantines.lift(session, project, admin, quarantine.id)
        quarantines.lift(session, project, admin, quarantine.id)
    assert frozen(project, admin).rankings == 5
    with transaction() as session:
        [line] = quarantines.listed(session, project.id)
        assert (line.labeler, line.reason) == ("bob", "To be looked at")
        assert line.lifted_at is not None
        lifted = select(func.count()).where(AuditEvent.action == "quarantine.lifted")
        assert session.scalar(lifted) == 1


def test_another_project_is_not_touched_and_cannot_lift(people: People) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        other = make_project(session, admin, "Other")
        [prompt] = make_prompts(session, other, ["One?"])
        rank(session, make_task(session, prompt, ["Yes.", "No."]), ada, [[0], [1]])
    quarantine = set_aside(project, admin, NewQuarantine(ada.id, None, None, "Here only"))
    assert frozen(other, admin).rankings == 1
    with pytest.raises(NotFoundError), transaction() as session:
        quarantines.lift(session, other, admin, quarantine.id)


def test_what_makes_no_sense_is_refused_in_a_sentence(people: People) -> None:
    project, admin, ada, _ = people
    with transaction() as session:
        now = session.execute(select(func.clock_timestamp())).scalar_one()
        stranger = make_user(session, "stranger@example.org", "labeler")
    for new, sentence in (
        (NewQuarantine(None, None, None, "Everything"), "Choose a labeler or a time range"),
        (NewQuarantine(ada.id, None, None, "  "), "Say why"),
        (NewQuarantine(ada.id, now, now - timedelta(hours=1), "Backwards"), "ends before it begins"),
        (NewQuarantine(stranger.id, None, None, "Who?"), "no answers in this project"),
    ):
        with pytest.raises(InvalidInputError, match=sentence), transaction() as session:
            quarantines.create(session, project, admin, new)
