"""Which models take part in a project's chats: drawn by weight, offered by the operator, added and removed."""

from __future__ import annotations

from pathlib import Path
from uuid import UUID

import chat_world
import pytest
from chat_world import Hands
from labeling_world import World, make_sampling_run
from sqlalchemy import func, select

from app import db
from app.errors import ConflictError, InvalidInputError
from app.models import ChatAnswer, ChatModel, Completion, ModelVersion, Project
from app.services.chat import chat_models
from app.services.chat.chat_models import NewModel
from app.settings import get_settings


def count(table: type) -> int:
    with db.transaction() as session:
        return session.scalar(select(func.count()).select_from(table)) or 0


def test_models_are_drawn_by_weight_and_both_sides_may_have_the_same(world: World) -> None:
    with db.transaction() as session:
        large = session.scalars(select(ChatModel).where(ChatModel.model == "large")).one()
        chat_models.set_weight(session, large, world.admin, 30)
    with db.transaction() as session:
        pairs = [chat_models.draw(session, world.project_id) for _ in range(400)]
        drawn = [tuple(model.model for model in pair) for pair in pairs]
    share = sum(name == "large" for pair in drawn for name in pair) / 800
    assert 0.68 < share < 0.82  # three quarters, six standard deviations wide
    assert {pair for pair in drawn if pair[0] == pair[1]} == {("large", "large"), ("small", "small")}
    assert {("large", "small"), ("small", "large")} <= set(drawn)


def test_a_removed_model_is_drawn_no_more_and_its_answers_stay(chat: Hands, world: World) -> None:
    chat.turn("one", "two", "a1")
    with db.transaction() as session:
        small, large = session.scalars(select(ChatModel).order_by(ChatModel.model.desc())).all()
        chat_models.remove(session, small, world.admin)
        assert [line.model.model for line in chat_models.listed(session, world.project_id)] == ["large"]
        assert {model.model for model in chat_models.draw(session, world.project_id, 50)} == {"large"}
        chat_models.remove(session, large, world.admin)
    with pytest.raises(ConflictError, match="No model takes part"):
        chat.say("Next?", 2)
    assert count(ChatAnswer) == 2
    chat_world.add_models(world.project_id, world.admin, ["small"])
    assert count(ChatModel) == 2
    assert chat.say("Next?", 2).number == 2


def test_a_model_that_the_operator_takes_off_the_list_is_drawn_no_more(
    chat: Hands, world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat_world.allow(monkeypatch, models=["large"])
    with db.transaction() as session:
        assert {model.model for model in chat_models.draw(session, world.project_id, 50)} == {"large"}
        assert [line.is_allowed for line in chat_models.listed(session, world.project_id)] == [False, True]
        assert chat_models.offering(session, [world.project_id]) == {world.project_id}
    monkeypatch.setenv("PLACKETT_ENDPOINTS", "{}")
    get_settings.cache_clear()
    with db.transaction() as session:
        assert chat_models.offering(session, [world.project_id]) == set()
    with pytest.raises(ConflictError, match="No model takes part"):
        chat.say("Hello?")


def make_policy(world: World, folder: Path) -> ModelVersion:
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json"):
        (folder / name).write_text("{}")
    with db.transaction() as session:
        _, model = make_sampling_run(session, session.get_one(Project, world.project_id), world.admin)
        model.uri = str(folder)
        return model


def test_a_policy_of_the_registry_is_served_here_under_its_version(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    policy = make_policy(world, tmp_path / "policy")
    with db.transaction() as session:
        assert not any(source.key.startswith("local:") for source in chat_models.sources(session, world.project_id))
    monkeypatch.setenv("PLACKETT_MODEL_SERVER_URL", "http://127.0.0.1:9/v1")
    get_settings.cache_clear()
    new = NewModel(f"local:{policy.id}", "", None, 5, 1.0, 64)
    with db.transaction() as session:
        added = chat_models.add(session, session.get_one(Project, world.project_id), world.admin, new)
        assert (added.model, added.model_version_id) == (policy.name, policy.id)
        assert chat_models.address(session, added) == policy.uri
        for line in chat_models.listed(session, world.project_id)[:2]:
            chat_models.remove(session, line.model, world.admin)
    with db.transaction() as session:
        begun = chat_world.start(session, world.project_id, world.labelers[0])
    begun.turn("one", "two", "a1")
    with db.transaction() as session:
        assert set(session.scalars(select(Completion.model_version_id))) == {policy.id}


@pytest.mark.parametrize("source", ["lab", "elsewhere:", "local:x", f"local:{UUID(int=1)}", "lab:small"])
def test_only_what_is_offered_can_be_added(world: World, source: str) -> None:
    with db.transaction() as session:
        project = session.get_one(Project, world.project_id)
    with pytest.raises(InvalidInputError, match="Choose one of the models offered"), db.transaction() as session:
        chat_models.add(session, project, world.admin, NewModel(source, "x", None, 5, 1.0, 64))
