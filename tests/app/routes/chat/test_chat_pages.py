"""The pages of live chat over HTTP, with a stand-in endpoint behind them."""

from __future__ import annotations

import json
import re
import threading
from uuid import UUID, uuid4

import chat_world
import endpoint
import pytest
from browsers import Browser, MakeUser, SignIn
from labeling_world import World
from sqlalchemy import ColumnElement, func, select, update

from app import db
from app.main import create_app
from app.models import ChatAnswer, ChatModel, ChatTurn, Completion, Project, Ranking
from app.services.accounts import accounts
from app.services.chat.endpoints import SENTENCES, Failure
from app.services.projects import projects

STREAM = {"Accept": "application/x-ndjson"}


@pytest.fixture
def labeler(world: World, sign_in: SignIn) -> Browser:
    return sign_in(world.labelers[0])


def begin(world: World, labeler: Browser, *models: str) -> str:
    """Let these models take part, and start a chat from the work page; return its address."""
    chat_world.add_models(world.project_id, world.admin, models)
    page = labeler.get("/work").text
    assert f'name="project_id" value="{world.project_id}"' in page
    answer = labeler.post_form("/work/chats", {"project_id": str(world.project_id)})
    assert answer.status_code == 303
    return str(answer.headers["location"])


def say(labeler: Browser, chat: str, text: str = "Hello?", number: int = 1) -> None:
    answer = labeler.post_form(f"{chat}/turns/{number}", {"message": text})
    assert (answer.status_code, answer.headers["location"]) == (303, chat)


def stream(labeler: Browser, chat: str, number: int = 1) -> dict[str, str]:
    """Get the answers as the script does, and return the texts that the page would show."""
    answer = labeler.post_form(f"{chat}/turns/{number}/answers", headers=STREAM)
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/x-ndjson")
    texts, over = {"a": "", "b": ""}, set()
    for line in map(json.loads, answer.text.splitlines()):
        if "text" in line:
            texts[line["side"]] = line["text"] if line.get("anew") else texts[line["side"]] + line["text"]
        over |= {line["side"]} if line.get("over") else set()
    assert over == {"a", "b"}
    return texts


def sides(page: str) -> list[str]:
    """Return the state of both answers on a page, with its problem."""
    return re.findall(r'data-side="[ab]" data-state="(\w+)"', page)


def wait_for(condition: ColumnElement[bool]) -> None:
    """Look until this is so of two answers. The test's own time limit ends it otherwise."""
    found = 0
    while found < 2:
        with db.transaction() as session:
            found = session.scalar(select(func.count()).select_from(ChatAnswer).where(condition)) or 0


def test_a_whole_turn_streams_both_answers_and_goes_on_from_the_better_one(
    world: World, labeler: Browser, lab: endpoint.Endpoint
) -> None:
    chat = begin(world, labeler, "counts The answer **is**")
    say(labeler, chat)
    assert sides(labeler.get(chat).text) == ["waiting", "waiting"]
    texts = stream(labeler, chat)
    assert texts["a"] != texts["b"]
    page = labeler.get(chat).text
    assert sides(page) == ["done", "done"]
    assert page.count("<strong>is</strong>") == 2
    chosen = labeler.post_form(f"{chat}/turns/1/choice", {"choice": "b2", "reason": "Clearer."})
    assert chosen.headers["location"] == chat
    say(labeler, chat, "And then?", 2)
    stream(labeler, chat, 2)
    assert [message["content"] for message in lab.asked[-1]["messages"]] == ["Hello?", texts["b"], "And then?"]
    assert lab.asked[-1]["messages"] == lab.asked[-2]["messages"]
    with db.transaction() as session:
        ranking = session.scalars(select(Ranking)).one()
        best = session.get_one(Completion, UUID(ranking.groups[0][0]))
    assert (best.text, ranking.strengths, ranking.reason, ranking.origin) == (texts["b"], [2], "Clearer.", "chat")


def test_nothing_that_a_labeler_gets_names_the_model(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "says canary-one", "counts canary-two")
    with db.transaction() as session:
        ids = {str(model.id) for model in session.scalars(select(ChatModel))}
    seen = []
    for number in range(1, 5):
        say(labeler, chat, "Hello?", number)
        answer = labeler.post_form(f"{chat}/turns/{number}/answers", headers=STREAM)
        seen += [answer.text, str(answer.headers)]
        page = labeler.get(chat)
        seen += [page.text, str(page.headers)]
        action = "choice" if "data-choice" in page.text else "pass"
        fields = {"choice": "a1"} if action == "choice" else {"side": "a"}
        labeler.post_form(f"{chat}/turns/{number}/{action}", fields)
    everything = "".join(seen)
    assert "canary" in everything, "the answers themselves are shown"
    # Both models answer with their name's second word: only that may be seen.
    for word in ("says canary", "counts", "lab", "temperature", "finish", "weight", *ids):
        assert word not in everything.replace("label", ""), word


def test_two_readers_of_a_turn_share_its_answers(world: World, labeler: Browser, lab: endpoint.Endpoint) -> None:
    chat = begin(world, labeler, "waits One two")
    say(labeler, chat)
    found: list[dict[str, str]] = []
    readers = [threading.Thread(target=lambda: found.append(stream(labeler, chat))) for _ in range(2)]
    readers[0].start()
    wait_for(ChatAnswer.state == "streaming")
    readers[1].start()
    lab.go.set()
    for reader in readers:
        reader.join()
    assert found == [{"a": "One two", "b": "One two"}] * 2
    assert lab.count() == 2


def test_without_javascript_one_button_waits_for_both_answers(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "counts Number")
    say(labeler, chat)
    answer = labeler.post_form(f"{chat}/turns/1/answers")
    assert (answer.status_code, answer.headers["location"]) == (303, chat)
    page = labeler.get(chat).text
    assert sides(page) == ["done", "done"]
    assert 'value="a3" required' in page


@pytest.mark.parametrize(
    ("model", "failure", "kept"),
    [
        ("cut", Failure.CUT, "Half of it"),
        ("500", Failure.BROKEN, ""),
        ("429", Failure.BUSY, ""),
        ("page", Failure.UNREADABLE, ""),
        ("line", Failure.TOO_LONG, ""),
        (f"raw {b'data: {x'.hex()}", Failure.UNREADABLE, "Fine so far"),
    ],
)
def test_whatever_an_endpoint_does_the_conversation_stays_and_the_answer_can_be_got_again(
    world: World, labeler: Browser, model: str, failure: Failure, kept: str
) -> None:
    chat = begin(world, labeler, model)
    say(labeler, chat, "Remember me?")
    assert stream(labeler, chat)["a"] == kept
    page = labeler.get(chat).text
    assert sides(page) == ["failed", "failed"]
    assert "Remember me?" in page
    assert SENTENCES[failure] in page.replace("&#39;", "'")
    assert kept in page
    with db.transaction() as session:
        session.execute(update(ChatModel).values(model="counts Well again"))
    assert labeler.post_form(f"{chat}/turns/1/retry", {"sides": "both"}).headers["location"] == chat
    assert stream(labeler, chat)["a"].startswith("Well again")
    assert labeler.post_form(f"{chat}/turns/1/choice", {"choice": "tie"}).status_code == 303


def test_one_failed_answer_can_be_got_again_or_left(world: World, labeler: Browser, lab: endpoint.Endpoint) -> None:
    chat = begin(world, labeler, "breaks Nearly there")
    say(labeler, chat)
    stream(labeler, chat)
    lab.go.set()
    labeler.post_form(f"{chat}/turns/1/retry", {"sides": "b"})
    assert stream(labeler, chat) == {"a": "Nearly there", "b": "Nearly there"}
    page = labeler.get(chat).text
    assert sides(page) == ["failed", "done"]
    assert "Go on with answer B, without a comparison" in page
    labeler.post_form(f"{chat}/turns/1/pass", {"side": "b"})
    say(labeler, chat, "Next?", 2)
    with db.transaction() as session:
        assert session.scalar(select(func.count()).select_from(Ranking)) == 0


def test_equal_answers_are_said_to_be_equal(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "says The same")
    say(labeler, chat)
    stream(labeler, chat)
    page = labeler.get(chat).text
    assert "Both answers are the same" in page
    assert "data-choice" not in page
    answer = labeler.post_form(f"{chat}/turns/1/choice", {"choice": "a1"})
    assert answer.status_code == 409
    assert labeler.post_form(f"{chat}/turns/1/pass", {"side": "a"}).status_code == 303


def test_more_answers_at_once_than_the_process_takes_fail_as_busy_and_can_be_got_again(
    world: World, monkeypatch: pytest.MonkeyPatch, sign_in: SignIn, lab: endpoint.Endpoint, make_user: MakeUser
) -> None:
    monkeypatch.setenv("PLACKETT_CHAT_STREAMS", "1")
    chat_world.allow(monkeypatch, lab.url)
    signed_in = sign_in(world.labelers[0])
    small = Browser(create_app())
    small.hold(signed_in.token)
    small.csrf_token = signed_in.csrf_token
    with small:
        chat = begin(world, small, "counts Number")
        say(small, chat)
        texts = stream(small, chat)
        assert sorted(texts.values()) == ["", "Number 1"]
        page = small.get(chat).text
        assert sides(page) == ["done", "failed"]
        assert SENTENCES[Failure.BUSY] in page
        small.post_form(f"{chat}/turns/1/retry", {"sides": "b"})
        assert stream(small, chat)["b"] == "Number 2"


def test_no_session_is_held_while_answers_come(world: World, labeler: Browser, lab: endpoint.Endpoint) -> None:
    chat = begin(world, labeler, "waits One two")
    say(labeler, chat)
    plain, streaming = (
        threading.Thread(target=lambda headers=headers: labeler.post_form(f"{chat}/turns/1/answers", headers=headers))
        for headers in ({}, STREAM)
    )
    streaming.start()
    plain.start()
    wait_for(ChatAnswer.text == "One")
    pool = db.get_engine().pool
    # Those two threads keep what has come once a second; a request would hold its connection all the time.
    free = threading.Event()
    while pool.checkedout() > 0:  # type: ignore[attr-defined]  # the pool of this engine counts
        free.wait(0.001)
    lab.go.set()
    plain.join()
    streaming.join()


def test_a_refusal_keeps_what_was_typed(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "counts Number")
    too_long = labeler.post_form(f"{chat}/turns/1", {"message": "x" * 8001})
    assert too_long.status_code == 422
    assert "x" * 8001 in too_long.text
    say(labeler, chat)
    stream(labeler, chat)
    unchosen = labeler.post_form(f"{chat}/turns/1/choice", {"reason": "Because it is so."})
    assert unchosen.status_code == 422
    assert "Because it is so." in unchosen.text
    other = labeler.post_form(f"{chat}/turns/1", {"message": "Another one"})
    assert other.status_code == 409
    fragment = labeler.post_form(f"{chat}/turns/1", {"message": "Another one"}, headers={"HX-Request": "true"})
    assert fragment.status_code == 409
    with db.transaction() as session:
        assert session.scalars(select(ChatTurn.message)).all() == ["Hello?"]


def test_hostile_text_of_people_and_models_is_shown_as_text(world: World, labeler: Browser) -> None:
    attack = "<img/src=x/onerror=alert(1)><script>alert(2)</script>"
    chat = begin(world, labeler, f"counts {attack}")
    say(labeler, chat, attack)
    stream(labeler, chat)
    page = labeler.get(chat).text
    assert "<script>alert" not in page
    assert "<img/src" not in page
    assert page.count("&lt;script&gt;alert(2)") >= 3


def test_a_chat_is_its_labelers_own(world: World, labeler: Browser, sign_in: SignIn) -> None:
    chat = begin(world, labeler, "counts Number")
    say(labeler, chat)
    for other in (sign_in(world.labelers[1]), sign_in(world.admin)):
        assert other.get(chat).status_code == 404
        assert other.post_form(f"{chat}/turns/1/answers", headers=STREAM).status_code == 404
        for action, fields in (
            ("turns/1", {"message": "Hello?"}), ("turns/1/choice", {"choice": "a1"}),
            ("turns/1/retry", {"sides": "a"}), ("turns/1/pass", {"side": "a"}), ("end", {}),
        ):  # fmt: skip
            assert other.post_form(f"{chat}/{action}", fields).status_code == 404
        assert chat not in other.get("/work/chats").text
    assert chat in labeler.get("/work/chats").text
    assert labeler.get(f"/work/chats/{uuid4()}").status_code == 404
    for number in ("0", "99999999999", "x"):
        assert labeler.post_form(f"{chat}/turns/{number}", {"message": "Hello?"}).status_code == 404


def test_a_disabled_labeler_and_a_paused_project_get_no_further(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "counts Number")
    with db.transaction() as session:
        projects.set_state(session, session.get_one(Project, world.project_id), world.admin, "paused")
    refused = labeler.post_form(f"{chat}/turns/1", {"message": "Kept all the same"})
    assert refused.status_code == 409
    assert "paused" in labeler.get(chat).text
    assert "Start a chat" not in labeler.get("/work").text
    with db.transaction() as session:
        projects.set_state(session, session.get_one(Project, world.project_id), world.admin, "open")
    say(labeler, chat)
    with db.transaction() as session:
        accounts.set_disabled(session, world.admin, world.labelers[0].id, disabled=True)
    assert labeler.post_form(f"{chat}/turns/1/answers", headers=STREAM).status_code == 401


def test_ending_a_chat_leaves_it_readable(world: World, labeler: Browser) -> None:
    chat = begin(world, labeler, "counts Number")
    say(labeler, chat, "A last word")
    assert labeler.post_form(f"{chat}/end").headers["location"] == "/work/chats?done=chat-ended"
    page = labeler.get(chat).text
    assert "A last word" in page
    assert "End chat" not in page
    assert labeler.post_form(f"{chat}/turns/2", {"message": "More"}).status_code == 409
