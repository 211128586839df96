"""Pages of the gate over HTTP: thresholds in percent, verdicts on a model's page, going back by one click."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from browsers import MakeUser, SignIn
from evaluation_world import add_evaluation_run, add_model
from run_builders import fake_model_folder, fill_project, freeze, make_project, make_prompts
from sqlalchemy import select

from app import db
from app.models import Gate, ModelVersion, Project, Run

FORM = {
    "min_accuracy": "",
    "min_win_rate": "52.5",
    "min_blind_win_rate": "",
    "max_kl": "10",
    "max_perplexity_rise": "5",
    "max_choice_drop": "",
    "blind_percent": "40",
}


@pytest.fixture
def scene(database: str, redis_url: str, make_user: MakeUser, sign_in: SignIn, tmp_path: Path) -> Any:
    admin = make_user("admin")
    with db.transaction() as session:
        project = make_project(session, admin)
        make_prompts(session, project, ["Is it so?", "Or so?"])
        old, new = (add_model(session, project, admin, name) for name in ("old", "new"))
        figures = {"win_rate": 0.6, "win_rate_interval": [0.53, 0.67], "kl": 12.0}
        run = add_evaluation_run(
            session, project, admin, [old, new], lambda n, name: name, {"policies": {"old": {}, "new": figures}}
        )
        new.metrics = {"evaluation": {**figures, "run_id": str(run.id)}}
    return sign_in(admin), project, old, new


def state_of(model: ModelVersion) -> str:
    with db.transaction() as session:
        return session.get_one(ModelVersion, model.id).state


def test_thresholds_are_typed_in_percent_and_come_back_as_typed(scene: Any) -> None:
    admin, project, _, new = scene
    path = f"/projects/{project.id}/gate"
    assert "asks for nothing yet" in admin.post_form(f"/models/{new.id}/gate").text
    assert admin.post_form(path, FORM).status_code == 303
    with db.transaction() as session:
        gate = session.scalars(select(Gate)).one()
        assert (gate.min_win_rate, gate.max_kl, gate.max_perplexity_rise) == (0.525, 10.0, 0.05)
        assert (gate.min_accuracy, gate.promotes) == (None, False)
        assert session.get_one(Project, project.id).blind_percent == 40
    page = admin.get(path).text
    assert 'name="min_win_rate" type="number" value="52.5"' in page
    assert 'name="min_accuracy" type="number" value=""' in page
    for bad in ({"min_win_rate": "101"}, {"max_kl": "0"}, {"blind_percent": "0"}, {"max_kl": "nan"}):
        assert admin.post_form(path, {**FORM, **bad}).status_code == 422
    nothing = dict.fromkeys(FORM, "") | {"blind_percent": "40", "promotes": "yes"}
    refused = admin.post_form(path, nothing)
    assert refused.status_code == 422
    assert "would promote every candidate" in refused.text


def test_a_verdict_stands_on_the_models_page_and_one_click_goes_back(
    scene: Any, make_user: MakeUser, sign_in: SignIn
) -> None:
    admin, project, old, new = scene
    path = f"/projects/{project.id}/gate"
    admin.post_form(path, FORM)
    assert admin.post_form(f"/models/{new.id}/gate").status_code == 303
    page = admin.get(f"/models/{new.id}").text
    assert "The lower bound of the win rate by the reward model is 53 %; at least 52.5 % is asked for." in page
    assert "The KL to the baseline is 12, above 10." in page
    assert "The rise of the perplexity was not measured." in page
    assert "It has not passed the gate." in page
    for model in (old, new):
        assert admin.post_form(f"/models/{model.id}/promote").status_code == 303
    page = admin.get(path).text
    assert "Go back to old" in page
    assert "new</a> after old" in page
    reviewer = sign_in(make_user("reviewer"))
    assert "Go back to" not in reviewer.get(path).text
    assert reviewer.post_form(f"{path}/roll-back", {"leaving": str(new.id)}).status_code == 403
    first, second = (admin.post_form(f"{path}/roll-back", {"leaving": str(new.id)}) for _ in range(2))
    assert (first.status_code, second.status_code) == (303, 409)
    assert (state_of(old), state_of(new)) == ("promoted", "retired")
    assert "old</a> again, instead of new" in admin.get(path).text
    assert admin.post_form(f"{path}/roll-back", {"leaving": "nobody"}).status_code == 422


def test_an_evaluation_takes_a_gold_judge_that_is_not_the_reward_model_itself(
    database: str, redis_url: str, make_user: MakeUser, sign_in: SignIn, tmp_path: Path
) -> None:
    admin = make_user("admin")
    with db.transaction() as session:
        project = make_project(session, admin)
        fill_project(session, project, [admin], [f"Is it {n}?" for n in range(10)])
        uri = fake_model_folder(tmp_path / "model")
        old, new = (add_model(session, project, admin, name, uri=uri) for name in ("old", "new"))
        judges = [
            add_model(session, project, admin, name, kind="reward", method="reward", uri=uri)
            for name in ("proxy", "gold")
        ]
    with db.transaction() as session:
        snapshot = freeze(session, project, admin)
    browser, path = sign_in(admin), f"/runs/new?project={project.id}&method=evaluate"
    assert "Gold judge" in browser.get(path).text
    form = {
        "form_id": str(uuid4()), "model_id": str(old.id), "snapshot_id": str(snapshot.id), "policies": str(new.id),
        "reward_model_id": str(judges[0].id),
    }  # fmt: skip
    refused = browser.post_form(path, {**form, "gold_model_id": str(judges[0].id)})
    assert refused.status_code == 422
    assert "choose two different ones" in refused.text
    taken = browser.post_form(path, {**form, "gold_model_id": str(judges[1].id)})
    assert taken.status_code == 303, taken.text
    with db.transaction() as session:
        run = session.scalars(select(Run)).one()
    assert run.inputs["gold_model"] == str(judges[1].id)
    assert run.config["options"]["gold_model"] == uri
