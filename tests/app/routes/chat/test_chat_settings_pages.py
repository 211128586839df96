"""The page on which an admin says which models take part in a project's chats, and how long those may be."""

from __future__ import annotations

from uuid import uuid4

import chat_world
import endpoint
import pytest
from browsers import MakeUser, SignIn
from labeling_world import World, make_world
from sqlalchemy import select

from app import db
from app.models import ChatModel, User
from app.services.chat import chat_models
from app.services.chat.endpoints import SENTENCES, Failure


@pytest.fixture
def settings_page(world: World) -> str:
    return f"/projects/{world.project_id}/chat"


def test_an_admin_adds_weighs_and_removes_models(world: World, sign_in: SignIn, settings_page: str) -> None:
    admin = sign_in(world.admin)
    assert "No model takes part yet" in admin.get(settings_page).text
    form = {
        "source": "lab:",
        "name": "says Hello",
        "version_id": "",
        "weight": "3",
        "temperature": "1",
        "max_tokens": "9",
    }
    assert admin.post_form(settings_page, form).status_code == 303
    with db.transaction() as session:
        model = session.scalars(select(ChatModel)).one()
    assert (model.endpoint, model.model, model.weight, model.temperature) == ("lab", "says Hello", 3, 1.0)
    assert admin.post_form(f"{settings_page}/{model.id}/weight", {"weight": "7"}).status_code == 303
    assert admin.post_form(f"{settings_page}/{model.id}/weight", {"weight": "0"}).status_code == 422
    assert 'value="7"' in admin.get(settings_page).text
    assert admin.post_form(f"{settings_page}/{model.id}/remove").status_code == 303
    assert "No model takes part yet" in admin.get(settings_page).text


def test_testing_a_model_says_that_it_works_or_what_is_wrong(
    world: World, sign_in: SignIn, settings_page: str, lab: endpoint.Endpoint
) -> None:
    admin = sign_in(world.admin)
    chat_world.add_models(world.project_id, world.admin, ["says Hello", "401"])
    with db.transaction() as session:
        works, broken = session.scalars(select(ChatModel).order_by(ChatModel.id)).all()
    answer = admin.post_form(f"{settings_page}/{works.id}/test")
    assert "The model answers." in admin.get(answer.headers["location"]).text
    answer = admin.post_form(f"{settings_page}/{broken.id}/test")
    page = admin.get(answer.headers["location"]).text.replace("&#39;", "'")
    assert SENTENCES[Failure.REFUSED] in page
    assert "SECRET" not in page
    assert lab.asked[0]["max_tokens"] == 16
    assert "<script>" not in admin.get(f"{settings_page}?tested={works.id}&found=<script>").text


def test_the_form_refuses_what_is_not_offered_and_keeps_the_rest(
    world: World, sign_in: SignIn, settings_page: str
) -> None:
    admin = sign_in(world.admin)
    form = {"source": "http://evil.example", "name": "keep me", "weight": "3", "temperature": "1", "max_tokens": "9"}
    for change, sentence in (
        ({}, "Choose one of the models offered"),
        ({"source": "lab:", "name": " "}, "Give the name that the endpoint has"),
        ({"source": "lab:", "temperature": "hot"}, "Enter a number"),
        ({"source": "lab:", "version_id": str(uuid4())}, "Choose a policy of this project"),
    ):
        answer = admin.post_form(settings_page, {**form, **change})
        assert (answer.status_code, sentence in answer.text) == (422, True), sentence
    assert "keep me" in admin.post_form(settings_page, form).text
    with db.transaction() as session:
        assert session.scalars(select(ChatModel)).all() == []


def test_limits_are_set_for_the_project(world: World, sign_in: SignIn, settings_page: str) -> None:
    admin = sign_in(world.admin)
    assert admin.post_form(f"{settings_page}/limits", {"max_turns": "0", "max_characters": "1"}).status_code == 422
    assert admin.post_form(f"{settings_page}/limits", {"max_turns": "4", "max_characters": "900"}).status_code == 303
    with db.transaction() as session:
        assert chat_models.limits(session, world.project_id) == chat_models.Limits(4, 900)


@pytest.mark.parametrize(("role", "status"), [("labeler", 403), ("reviewer", 200)])
def test_only_admins_change_the_settings(
    world: World, make_user: MakeUser, sign_in: SignIn, settings_page: str, role: str, status: int
) -> None:
    chat_world.add_models(world.project_id, world.admin, ["says Hello"])
    with db.transaction() as session:
        model = session.scalars(select(ChatModel)).one()
    user: User = make_user(role)
    browser = sign_in(user)
    assert browser.get(settings_page).status_code == status
    for path in ("", "/limits", f"/{model.id}/weight", f"/{model.id}/remove", f"/{model.id}/test"):
        assert browser.post_form(f"{settings_page}{path}", {"weight": "9"}).status_code == 403
    with db.transaction() as session:
        assert session.scalars(select(ChatModel.weight)).all() == [10]
    admin = sign_in(world.admin)
    other = make_world(number_of_prompts=0)
    assert admin.post_form(f"/projects/{other.project_id}/chat/{model.id}/remove").status_code == 404
