"""Live chat: one turn a message, one ranking a choice, both answers blind, nothing lost when a model fails."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import chat_world
import pytest
from chat_world import Hands
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from labeling_world import World
from sqlalchemy import func, select, update

from app import db
from app.errors import ConflictError, ForbiddenError, InvalidInputError, NotFoundError, PlackettError
from app.models import Assignment, Chat, ChatAnswer, ChatTurn, Completion, Project, Prompt, Ranking, Task
from app.services.chat import chat_answers, chat_models, chat_view, chats
from app.services.chat.chat_models import Limits
from app.services.chat.endpoints import Failure
from app.services.projects import memberships, projects
from app.services.training import snapshots


def begin(world: World, labeler: int = 0) -> Hands:
    with db.transaction() as session:
        return chat_world.start(session, world.project_id, world.labelers[labeler])


def count(table: type) -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def only_ranking() -> Ranking:
    with db.transaction() as session:
        return session.scalars(select(Ranking)).one()


def texts() -> dict[str, str]:
    with db.transaction() as session:
        return {str(key): text for key, text in session.execute(select(Completion.id, Completion.text))}


def test_a_turn_becomes_a_comparison_with_its_whole_context(chat: Hands, world: World) -> None:
    chat.turn("Blue.", "Because of the air.", "b3", 1, "Why is the sky blue?")
    chat.turn("Red light.", "Dust.", "a1", 2, "And red in the evening?")
    with db.transaction() as session:
        rankings = session.scalars(select(Ranking).order_by(Ranking.id)).all()
        prompts = session.scalars(select(Prompt).order_by(Prompt.position)).all()
        tasks = session.scalars(select(Task)).all()
        assignments = {item.id: item for item in session.scalars(select(Assignment))}
        completions = {str(item.id): item for item in session.scalars(select(Completion))}
    assert [message["content"] for message in prompts[1].messages] == [
        "Why is the sky blue?", "Because of the air.", "And red in the evening?",
    ]  # fmt: skip
    assert {prompt.source for prompt in prompts} == {"chat"}
    assert {(task.kind, task.state, task.done_count) for task in tasks} == {("chat", "closed", 1)}
    first, second = rankings
    assert (first.origin, first.strengths, first.acceptable, first.counted) == ("chat", [3], None, True)
    assert [[completions[item].text for item in group] for group in first.groups] == [
        ["Because of the air."],
        ["Blue."],
    ]
    assert [completions[str(item)].text for item in first.shown_order] == ["Blue.", "Because of the air."]
    assert assignments[first.assignment_id].shown_order == first.shown_order
    assert assignments[first.assignment_id].user_id == world.labelers[0].id
    assert (second.strengths, completions[second.groups[0][0]].text) == ([1], "Red light.")
    sampling = completions[first.groups[0][0]].sampling
    assert (sampling["endpoint"], sampling["temperature"], sampling["max_tokens"]) == ("lab", 0.8, 64)
    assert sampling["model"] in ("small", "large")


def test_all_turns_of_a_chat_stand_on_the_side_of_its_first_message(world: World) -> None:
    for number in range(8):
        hands = begin(world)
        for turn in (1, 2, 3):
            hands.turn("yes", "no", "a2", turn, f"Question {number}, part {turn}?")
    with db.transaction() as session:
        splits: dict[str, set[str]] = {}
        for prompt in session.scalars(select(Prompt)):
            splits.setdefault(prompt.messages[0]["content"], set()).add(prompt.split)
    assert all(len(sides) == 1 for sides in splits.values())
    assert len(set.union(*splits.values())) == 2, "with half of the prompts held out both sides are there"


def test_snapshots_see_chat_turns_as_any_other_comparison(chat: Hands, world: World, tmp_path: Path) -> None:
    chat.turn("Good.", "Bad.", "a2")
    with db.transaction() as session:
        snapshot = snapshots.create(session, session.get_one(Project, world.project_id), world.admin)
    rows = [json.loads(line) for line in (Path(snapshot.uri) / "comparisons.jsonl").read_text().splitlines()]
    (row,) = rows
    best = row["completions"][row["ranking"][0][0]]
    assert (best, row["messages"][0]["content"]) == ("Good.", "Hello?")


CHOICES = ("a3", "a2", "a1", "tie", "both_good", "both_bad", "b1", "b2", "b3")
MIRROR = str.maketrans("ab", "ba")


@given(
    choice=st.sampled_from(CHOICES),
    pair=st.tuples(st.text(min_size=1), st.text(min_size=1)).map(lambda two: (f"x{two[0]}", f"y{two[1]}")),
)
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_swapping_the_sides_never_changes_the_stored_winner(world: World, choice: str, pair: tuple[str, str]) -> None:
    first, second = (text.replace("\x00", "") for text in pair)
    mirrored = choice.translate(MIRROR) if choice[0] in "ab" and len(choice) == 2 else choice
    stored = []
    for shown, chosen in (((first, second), choice), ((second, first), mirrored)):
        turn = begin(world).turn(*shown, chosen)
        with db.transaction() as session:
            ranking = session.get_one(Ranking, turn.ranking_id)
        said = texts()
        groups = [sorted(said[item] for item in group) for group in ranking.groups]
        stored.append((groups, ranking.strengths, ranking.acceptable))
        assert [said[str(item)] for item in ranking.shown_order] == list(shown)
    assert stored[0] == stored[1]


def test_a_chat_goes_on_from_the_better_answer_and_after_a_tie_from_the_one_picked(chat: Hands) -> None:
    assert chat.turn("one", "two", "b1", 1).chosen == "b"
    chat.say("Go on.", 2)
    chat.get("three", "four", 2)
    assert chat.choose("both_good", 2, go_on="b").chosen == "b"
    chat.say("And on.", 3)
    chat.get("five", "six", 3)
    assert chat.choose("tie", 3).chosen in ("a", "b")
    with db.transaction() as session:
        said = chat_answers.history(session, chat.chat_id, 3)
        rows = session.execute(select(Ranking.acceptable, Ranking.strengths).order_by(Ranking.id)).all()
    assert [message["content"] for message in said] == ["Hello?", "two", "Go on.", "four"]
    assert [tuple(row) for row in rows] == [(None, [1]), (1, []), (None, [])]


def test_the_same_message_and_the_same_choice_sent_many_times_count_once(chat: Hands) -> None:
    with ThreadPoolExecutor(8) as pool:
        turns = {turn.id for turn in pool.map(lambda _: chat.say("Hello?"), range(16))}
    assert (len(turns), count(ChatTurn), count(ChatAnswer)) == (1, 1, 2)
    chat.get("one", "two")
    with ThreadPoolExecutor(8) as pool:
        rankings = {turn.ranking_id for turn in pool.map(lambda _: chat.choose("a2", reason="Clear."), range(16))}
    assert (len(rankings), count(Ranking), count(Task), count(Completion)) == (1, 1, 1, 2)
    assert only_ranking().reason == "Clear."


def test_another_message_or_choice_from_a_second_tab_is_refused_and_the_first_stands(chat: Hands) -> None:
    chat.say("Hello?")
    with pytest.raises(ConflictError, match="Another message was sent in this turn already"):
        chat.say("Something else?")
    with pytest.raises(ConflictError, match="not up to date"):
        chat.say("Far ahead", 3)
    chat.get("one", "two")
    with pytest.raises(ConflictError, match="First say which"):
        chat.say("Next", 2)
    chat.choose("a2")
    with pytest.raises(ConflictError, match="first choice in this turn is saved"):
        chat.choose("b2")
    assert only_ranking().strengths == [2]
    assert chat.say("Next", 2).number == 2


def test_two_clicks_on_start_begin_one_chat_until_something_is_said(world: World) -> None:
    with ThreadPoolExecutor(6) as pool:
        begun = {hands.chat_id for hands in pool.map(lambda _: begin(world), range(6))}
    assert len(begun) == 1
    begin(world).say("Hello?")
    assert begin(world).chat_id not in begun


def test_an_answer_is_got_by_one_process_at_a_time_and_by_another_when_that_is_gone(chat: Hands) -> None:
    turn = chat.say("Hello?")
    with db.transaction() as session:
        first = chat_answers.claim(session, turn)
        assert {claim.side for claim in first} == {"a", "b"}
        assert chat_answers.claim(session, turn) == []
        assert chat_answers.keep(session, first[0], "So f")
    with db.transaction() as session:
        session.execute(update(ChatAnswer).values(streaming_until=func.clock_timestamp() - timedelta(seconds=1)))
    with db.transaction() as session:
        second = chat_answers.claim(session, turn)
        assert {claim.attempt for claim in second} == {2}
        assert not chat_answers.keep(session, first[0], "late")
        assert not chat_answers.finish(session, first[0], "late", "stop")
        assert all(chat_answers.finish(session, claim, claim.side, "stop") for claim in second)
        assert not chat_answers.fail(session, second[0], "", Failure.CUT)
    assert chat.choose("a1").chosen == "a"


def test_two_answers_that_finish_at_once_start_the_clock_of_the_comparison(chat: Hands) -> None:
    turn = chat.say("Hello?")
    with db.transaction() as session:
        claims = chat_answers.claim(session, turn)

    def finish(claim: chat_answers.Claim) -> None:
        with db.transaction() as session:
            chat_answers.finish(session, claim, claim.side, "stop")

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(finish, claims))
    with db.transaction() as session:
        assert session.get_one(ChatTurn, turn.id).shown_at is not None
    chat.choose("a1")
    assert 0 <= only_ranking().seconds < 60


def test_after_a_failure_the_answer_can_be_got_again_and_the_other_stays(chat: Hands) -> None:
    chat.say("Hello?")
    chat.get("Fine.", Failure.CUT)
    with db.transaction() as session:
        present = chat_view.open_chat(session, chat.chat_id, chat.user).present
        assert present is not None
        assert (present.phase, present.answers[1].text) == ("failed", "Half")
        assert "broke off" in present.answers[1].problem
    with pytest.raises(ConflictError, match="have to be complete"):
        chat.choose("a1")
    with db.transaction() as session:
        chats.retry(session, chat.chat_id, chat.user, 1, "b")
        chats.retry(session, chat.chat_id, chat.user, 1, "b")  # a second click
    with pytest.raises(ConflictError, match="Only an answer that failed"), db.transaction() as session:
        chats.retry(session, chat.chat_id, chat.user, 1, "a")
    turn = chat.get("not asked for", "Here again.")
    assert [answer.text for answer in turn.answers] == ["Fine.", "Here again."]
    assert chat.choose("b1").state == "judged"


def test_a_chat_can_go_on_from_the_one_answer_that_came_without_a_comparison(chat: Hands) -> None:
    chat.say("Hello?")
    chat.get("Fine.", Failure.UNREACHABLE)
    with pytest.raises(ConflictError, match="only go on from an answer that is complete"), db.transaction() as session:
        chats.pass_on(session, chat.chat_id, chat.user, 1, "b")
    for _ in range(2):
        with db.transaction() as session:
            assert chats.pass_on(session, chat.chat_id, chat.user, 1, "a").state == "passed"
    assert (count(Ranking), count(Prompt)) == (0, 0)
    chat.turn("one", "two", "a1", 2)
    with db.transaction() as session:
        assert session.scalars(select(Prompt)).one().messages[1]["content"] == "Fine."


def test_two_equal_answers_are_not_compared(chat: Hands) -> None:
    chat.say("Hello?")
    chat.get("The same.", " The same.\n")
    with pytest.raises(ConflictError, match="Both answers are the same"):
        chat.choose("a1")
    with db.transaction() as session:
        chats.retry(session, chat.chat_id, chat.user, 1, "b")
    chat.get("-", "The same.")
    with db.transaction() as session:
        assert chats.pass_on(session, chat.chat_id, chat.user, 1, "a").state == "passed"
    chat.say("Next?", 2)
    chat.get("one", "two", 2)
    with pytest.raises(ConflictError, match="say which of them is better"), db.transaction() as session:
        chats.pass_on(session, chat.chat_id, chat.user, 2, "a")
    assert count(Ranking) == 0


@pytest.mark.parametrize("fields", [{}, {"choice": "c1"}, {"choice": "a"}, {"choice": "a1", "line": "1"}])
def test_a_choice_that_says_nothing_is_refused(chat: Hands, fields: dict[str, str]) -> None:
    chat.say("Hello?")
    chat.get("one", "two")
    with pytest.raises(InvalidInputError), db.transaction() as session:
        chats.judge(session, chat.chat_id, chat.user, 1, fields)
    assert (count(Ranking), count(Completion)) == (0, 0)
    assert chat.choose("a1").state == "judged"


def test_the_limits_of_a_project_hold(chat: Hands, world: World) -> None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        assert chat_models.limits(session, project.id) == Limits(20, 40_000)
        chat_models.set_limits(session, project, world.admin, Limits(2, 600))
    with pytest.raises(ConflictError, match="has reached its 600 characters"):
        chat.say("x" * 601)
    chat.turn("y" * 500, "no", "a1", 1, "x")
    with pytest.raises(ConflictError, match="has reached its 600 characters"):
        chat.say("x" * 100, 2)
    chat.turn("one", "two", "a1", 2, "x")
    with pytest.raises(ConflictError, match="has had its 2 turns"):
        chat.say("x", 3)
    for text, sentence in ((" \n", "it is empty"), ("x" * 9000, "Shorten your message"), ("a\x00b", "NUL")):
        with pytest.raises(InvalidInputError, match=sentence):
            begin(world).say(text)


def test_a_paused_project_takes_no_message_but_the_choice_in_hand(chat: Hands, world: World) -> None:
    chat.say("Hello?")
    chat.get("one", "two")
    with db.transaction() as session:
        projects.set_state(session, session.get_one(Project, world.project_id), world.admin, "paused")
    assert chat.choose("a1").state == "judged"
    with pytest.raises(ConflictError, match="paused"):
        chat.say("Next?", 2)
    with pytest.raises(ConflictError, match="paused"):
        begin(world)


def test_nobody_reaches_another_ones_chat(chat: Hands, world: World) -> None:
    chat.say("Hello?")
    chat.get("one", "two")
    stranger = Hands(world.labelers[1], chat.chat_id)
    for act in (
        lambda: stranger.say("Hello?"),
        lambda: stranger.choose("a1"),
        lambda: stranger.get("x", "y"),
        lambda: Hands(world.admin, chat.chat_id).choose("a1"),
        lambda: Hands(chat.user, uuid4()).choose("a1"),
        lambda: chat.choose("a1", 2),
    ):
        with pytest.raises(NotFoundError):
            act()
    assert chat.choose("a1").state == "judged"


def test_who_may_not_work_in_a_project_may_not_chat_in_it(world: World) -> None:
    with db.transaction() as session:
        session.get_one(Project, world.project_id).access = "members"
    with pytest.raises(ForbiddenError, match="Only the members"):
        begin(world)
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        memberships.set_state(session, project, world.labelers[0].id, world.admin, "screening")
    with pytest.raises(ForbiddenError, match="once your trial"):
        begin(world)
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
        memberships.set_state(session, project, world.labelers[0].id, world.admin, "active")
    assert begin(world).say("Hello?").number == 1


def test_an_ended_chat_stays_as_it_is(chat: Hands) -> None:
    chat.turn("one", "two", "a1")
    chat.say("Next?", 2)
    chat.get("one", "two", 2)
    for _ in range(2):
        with db.transaction() as session:
            chats.end(session, chat.chat_id, chat.user)
    for act in (lambda: chat.choose("a1", 2), lambda: chat.say("More?", 3)):
        with pytest.raises(PlackettError, match="has ended"):
            act()
    with db.transaction() as session:
        assert [(line.turns, line.judged, line.state) for line in chats.mine(session, chat.user)] == [(2, 1, "ended")]


def test_turns_of_a_chat_that_was_never_judged_hold_nothing_back(world: World) -> None:
    begin(world).say("Hello?")
    assert (count(Chat), count(Ranking), count(Prompt)) == (1, 0, 0)
