"""A project whose labelers can chat: its models stand at a stand-in endpoint, or answers are put in by hand."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

import pytest
from sqlalchemy.orm import Session

from app import db
from app.models import ChatTurn, Project, User
from app.services.chat import chat_answers, chat_models, chats
from app.services.chat.chat_models import NewModel
from app.services.chat.endpoints import Failure
from app.settings import get_settings


def allow(monkeypatch: pytest.MonkeyPatch, url: str = "http://127.0.0.1:9/v1", **values: object) -> None:
    """Name an endpoint `lab` in the settings of this process."""
    monkeypatch.setenv("PLACKETT_ENDPOINTS", json.dumps({"lab": {"base_url": url, **values}}))
    get_settings.cache_clear()


def add_models(project_id: UUID, admin: User, models: Sequence[str], **values: object) -> None:
    """Let models of the endpoint `lab` take part, all with the same weight."""
    settings = {"version_id": None, "weight": 10, "temperature": 0.8, "max_tokens": 64, **values}
    with db.transaction() as session:
        project = session.get_one(Project, project_id)
        for name in models:
            chat_models.add(session, project, admin, NewModel("lab:", name, **settings))  # type: ignore[arg-type]


@dataclass(frozen=True)
class Hands:
    """A labeler who chats through the services; every step is a transaction of its own."""

    user: User
    chat_id: UUID

    def say(self, text: str, number: int = 1) -> ChatTurn:
        with db.transaction() as session:
            return chats.say(session, self.chat_id, self.user, number, text)

    def get(self, a: str | Failure, b: str | Failure, number: int = 1) -> ChatTurn:
        """Let both answers come, or fail."""
        with db.transaction() as session:
            turn = chats.turn(session, chats.access(session, self.chat_id, self.user), number)
            texts = {"a": a, "b": b}
            for claim in chat_answers.claim(session, turn):
                text = texts[claim.side]
                if isinstance(text, Failure):
                    assert chat_answers.fail(session, claim, "Half", text)
                else:
                    assert chat_answers.finish(session, claim, text, "stop")
            return chats.turn(session, chats.access(session, self.chat_id, self.user), number)

    def choose(self, choice: str, number: int = 1, *, reason: str = "", go_on: str = "") -> ChatTurn:
        with db.transaction() as session:
            fields = {"choice": choice, "reason": reason}
            return chats.judge(session, self.chat_id, self.user, number, fields, go_on)

    def turn(self, a: str, b: str, choice: str, number: int = 1, message: str = "Hello?") -> ChatTurn:
        """A whole turn."""
        self.say(message, number)
        self.get(a, b, number)
        return self.choose(choice, number)


def start(session: Session, project_id: UUID, user: User) -> Hands:
    """Begin a chat."""
    return Hands(user, chats.start(session, session.get_one(Project, project_id), user))
