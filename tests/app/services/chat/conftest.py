"""Fixtures of live chat: a project with two models, and a chat in it."""

from __future__ import annotations

import chat_world
import pytest
from chat_world import Hands
from labeling_world import World, make_world

from app import db


@pytest.fixture
def world(database: str, monkeypatch: pytest.MonkeyPatch) -> World:
    """A project with two chat models, and nothing else to do."""
    made = make_world(number_of_prompts=0, held_out_percent=50)
    chat_world.allow(monkeypatch)
    chat_world.add_models(made.project_id, made.admin, ["small", "large"])
    return made


@pytest.fixture
def chat(world: World) -> Hands:
    with db.transaction() as session:
        return chat_world.start(session, world.project_id, world.labelers[0])
