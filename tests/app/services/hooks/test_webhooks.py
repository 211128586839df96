"""Webhooks: written with their event, sent by the worker to a real server that misbehaves, retried, given up."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import standardwebhooks
from receiver import Receiver
from run_builders import fake_model_folder, fill_project, freeze, make_model, make_project, queue_training_run
from sqlalchemy import func, text, update
from webhook_world import Allow, happen, make, messages

from app.db import transaction
from app.models import Project, User, Webhook, WebhookDelivery
from app.services.hooks import deliveries, outbox, sending, webhooks
from app.services.training import registry, run_states
from app.worker import hooks


def stored(webhook_id: UUID) -> Webhook:
    with transaction() as session:
        return session.get_one(Webhook, webhook_id)


def make_due() -> None:
    """Let the wait be over, by moving its end and not the clock."""
    with transaction() as session:
        session.execute(update(WebhookDelivery).where(WebhookDelivery.state == "pending").values(next_at=func.now()))


def test_what_happens_is_told_to_whom_it_concerns_and_the_signature_holds(
    project: Project, receiver: Receiver, allow: Allow, tmp_path: Path
) -> None:
    allow(receiver.url)
    with transaction() as session:
        admin = session.get_one(User, project.created_by)
        other = make_project(session, admin, "Other")
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(4)])
    _, secret = make(f"{receiver.url}/all/ok")
    make(f"{receiver.url}/ours/ok", project.id, ["run.finished"])
    make(f"{receiver.url}/theirs/ok", other.id)
    with transaction() as session:
        snapshot = freeze(session, project, admin)
    with transaction() as session:
        assert freeze(session, project, admin).id == snapshot.id  # the same again is no event
        cancelled, finished = (queue_training_run(session, project, admin, model, snapshot) for _ in "ab")
        registry.promote(session, session.merge(model), admin)
        run_states.request_cancel(session, cancelled.id, admin.id)
    with transaction() as session:
        lease = run_states.claim(session, finished.id, "here", 60)
        assert lease is not None
        run_states.finish(session, lease, None)
    while hooks.deliver():
        pass
    assert sorted(receiver.paths) == ["/all/ok"] * 4 + ["/ours/ok"] * 2
    told = {}
    for path, headers, body in receiver.requests:
        if path == "/all/ok":
            checked = standardwebhooks.Webhook(secret).verify(body, headers)
            told[checked["type"], checked["data"].get("state")] = checked["data"]
            assert headers["content-type"] == "application/json"
            assert headers["host"] == f"127.0.0.1:{receiver.port}"
            with pytest.raises(standardwebhooks.WebhookVerificationError):
                standardwebhooks.Webhook(secret).verify(body + b" ", headers)
    assert set(told) == {
        ("snapshot.ready", None),
        ("model.promoted", None),
        ("run.finished", "cancelled"),
        ("run.finished", "succeeded"),
    }
    assert told["snapshot.ready", None]["sha256"] == snapshot.sha256
    assert told["run.finished", "succeeded"] == {
        "project_id": str(project.id),
        "run_id": str(finished.id),
        "name": finished.name,
        "method": "sft",
        "state": "succeeded",
    }
    assert {row.state for row in messages()} == {"delivered"}
    assert len({headers["webhook-id"] for _, headers, _ in receiver.requests}) == 6


def test_an_event_that_is_rolled_back_is_never_told(project: Project, receiver: Receiver, allow: Allow) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/ok")
    with transaction() as session:
        outbox.announce(session, "snapshot.ready", project.id)
        session.rollback()
    assert hooks.deliver() == 0
    happen(project)
    assert hooks.deliver() == 1
    assert len(receiver.requests) == 1


@pytest.mark.parametrize(
    ("what", "status", "problem"),
    [
        ("500", 500, "It answered 500."),
        ("redirect", 307, "sends us elsewhere"),
        ("closes", None, "broke off"),
        ("garbage", None, "broke off"),
        ("slow", None, "did not answer within"),
    ],
)
def test_a_server_that_misbehaves_is_asked_again_later_with_the_same_id(
    project: Project,
    receiver: Receiver,
    allow: Allow,
    monkeypatch: pytest.MonkeyPatch,
    what: str,
    status: Any,
    problem: str,
) -> None:
    monkeypatch.setattr(sending, "SECONDS", 4.0 if what == "slow" else 30.0)
    allow(receiver.url)
    webhook_id, _ = make(f"{receiver.url}/{what}")
    happen(project)
    assert hooks.deliver() == 1
    (message,) = messages()
    assert (message.state, message.attempts, message.last_status) == ("pending", 1, status)
    assert problem in (message.last_problem or "")
    assert message.next_at is not None
    assert message.last_at is not None
    assert 3.9 < (message.next_at - message.last_at).total_seconds() < 6.1
    assert hooks.deliver() == 0  # not yet due
    make_due()
    with transaction() as session:
        session.execute(update(Webhook).values(url=f"{receiver.url}/ok"))  # it comes to its senses
    assert hooks.deliver() == 1
    assert messages()[0].state == "delivered"
    assert stored(webhook_id).failures == 0
    assert receiver.paths == [f"/{what}", "/ok"]
    assert receiver.requests[0][1]["webhook-id"] == receiver.requests[1][1]["webhook-id"]


def test_a_body_that_never_ends_is_not_waited_for(project: Project, receiver: Receiver, allow: Allow) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/endless")
    happen(project)
    hooks.deliver()
    assert messages()[0].state == "delivered"


def test_nobody_there_is_a_problem_in_words(project: Project, allow: Allow) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    allow(url)
    make(url)
    happen(project)
    hooks.deliver()
    assert messages()[0].last_problem == "It could not be reached, or its certificate does not hold."


def test_waits_grow_and_at_their_end_the_message_is_given_up_and_can_be_sent_by_hand(
    project: Project, receiver: Receiver, allow: Allow
) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/500")
    happen(project)
    for wait in deliveries.WAITS:
        hooks.deliver()
        (message,) = messages()
        assert message.next_at is not None
        assert message.last_at is not None
        seconds = (message.next_at - message.last_at).total_seconds()
        assert wait * 0.8 - 0.1 < seconds < wait * 1.2 + 0.1
        make_due()
    hooks.deliver()
    (message,) = messages()
    assert (message.state, message.next_at, message.attempts) == ("failed", None, len(deliveries.WAITS) + 1)
    assert hooks.deliver() == 0
    with transaction() as session:
        session.execute(update(Webhook).values(url=f"{receiver.url}/ok"))
        deliveries.again(session, message.id, session.get_one(User, project.created_by))
    assert hooks.deliver() == 1
    assert messages()[0].state == "delivered"


def test_what_fails_too_often_in_a_row_is_disabled_and_what_waits_is_sent_once_it_is_enabled(
    project: Project, receiver: Receiver, allow: Allow
) -> None:
    allow(receiver.url)
    webhook_id, _ = make(f"{receiver.url}/500")
    for number in range(deliveries.MOST_FAILURES):
        happen(project, number)
    hooks.deliver()
    webhook = stored(webhook_id)
    assert webhook.disabled_at is not None
    assert webhook.disabled_reason == "20 attempts in a row failed."
    make_due()
    assert hooks.deliver() == 0
    happen(project, 99)  # what happens meanwhile is not written down
    assert len(messages()) == deliveries.MOST_FAILURES
    with transaction() as session:
        session.execute(update(Webhook).values(url=f"{receiver.url}/ok"))
        webhooks.enable(session, webhook_id, session.get_one(User, project.created_by))
    assert hooks.deliver() == deliveries.MOST_FAILURES
    assert {(row.state, row.last_problem) for row in messages()} == {("delivered", None)}
    assert (stored(webhook_id).failures, stored(webhook_id).disabled_at) == (0, None)


def test_an_answer_of_410_disables_at_once(project: Project, receiver: Receiver, allow: Allow) -> None:
    allow(receiver.url)
    webhook_id, _ = make(f"{receiver.url}/gone")
    happen(project)
    hooks.deliver()
    assert stored(webhook_id).disabled_reason == "It answered 410: it wants no more."


def test_two_workers_send_each_message_once_and_a_dead_ones_is_sent_again(
    project: Project, receiver: Receiver, allow: Allow
) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/ok")
    for number in range(30):
        happen(project, number)
    with ThreadPoolExecutor(3) as pool:
        sent = sum(pool.map(lambda _: hooks.deliver(), range(3)))
    while made := hooks.deliver():  # what a worker passed over because another one held it just then
        sent += made
    assert sent == 30
    assert len(receiver.requests) == 30
    happen(project, 31)
    with transaction() as session:
        (attempt,) = deliveries.take_due(session)  # and the worker dies
    assert hooks.deliver() == 0
    make_due()
    assert hooks.deliver() == 1
    with transaction() as session:  # what the dead one still had to say changes nothing
        deliveries.record(session, attempt, sending.Outcome(500, "It answered 500."))
    assert messages()[-1].state == "delivered"


def test_old_messages_are_forgotten_and_waiting_ones_never(project: Project, receiver: Receiver, allow: Allow) -> None:
    allow(receiver.url)
    make(f"{receiver.url}/ok")
    happen(project, 1)
    hooks.deliver()
    happen(project, 2)
    with transaction() as session:
        session.execute(update(WebhookDelivery).values(last_at=text("clock_timestamp() - interval '31 days'")))
        deliveries.forget_old(session)
    assert [row.state for row in messages()] == ["pending"]
