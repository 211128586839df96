"""Fields of run forms: every option of the trainer is one, and an untouched form is a configuration it takes."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from run_builders import fake_model_folder, make_model, make_project, make_prompts, make_user
from sqlalchemy import text

from app.db import transaction
from app.services.training import registry, run_inputs, run_options, runs
from trainer.config import METHODS, OPTIONS, Optim, dump_run, parse_run

GIVEN = {"run_id": "r", "model": "org/model"}


def parsed(method: str, texts: dict[str, str]) -> dict[str, Any]:
    values, errors = run_options.parse(method, texts)
    assert errors == {}
    if method in runs.SCORED_METHODS:
        values["options"]["reward_model"] = "/models/reward"
    return dump_run(parse_run(GIVEN | {"method": method} | values))


@pytest.mark.parametrize("method", run_options.BY_PEOPLE)
def test_an_untouched_form_is_what_the_trainer_would_do_by_itself(method: str) -> None:
    plain = {name: value for name, value in run_options.first_values(method).items() if not name.startswith("lora_")}
    plain |= {
        item.name: item.default
        for item in run_options.fields_of(method)
        if item.name in run_options.FIRST.get(method, {})
    }
    bare: dict[str, Any] = {"reward_model": "/models/reward"} if method in runs.SCORED_METHODS else {}
    assert parsed(method, plain) == dump_run(parse_run(GIVEN | {"method": method, "options": bare}))


def test_what_a_method_would_refuse_in_any_case_is_not_offered() -> None:
    for method, offered in (("dpo", True), ("ppo", False), ("rloo", False)):
        names = {item.name for item in run_options.fields_of(method)}
        assert ("compile" in names, "recompute_activations" in names) == (offered, True)
    assert parsed("dpo", run_options.first_values("dpo") | {"compile": "yes"})["options"]["optim"]["compile"] is True


def test_a_new_option_of_the_trainer_is_a_field_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    @dataclass(frozen=True)
    class NewOptions:
        """`flavour` and `spice` decide the taste."""

        flavour: Literal["sweet", "sour"] = "sour"
        spice: float | None = 0.5
        is_hot: bool = True
        optim: Optim = field(default_factory=lambda: Optim(batch_size=3))

    monkeypatch.setitem(OPTIONS, "new", NewOptions)  # type: ignore[arg-type]  # options of no release
    found = {item.name: item for item in run_options.fields_of("new")}
    assert found["flavour"].choices == (("sweet", "sweet"), ("sour", "sour"))
    assert (found["spice"].kind, found["spice"].default, found["spice"].may_be_empty) == ("number", "0.5", True)
    assert (found["is_hot"].kind, found["is_hot"].default, found["is_hot"].label) == ("switch", "yes", "Is hot")
    assert found["batch_size"].default == "3"
    assert run_options.explanation("new") == "*Flavour* and *Spice* decide the taste."
    values, errors = run_options.parse("new", {"spice": "", "is_hot": "no", "flavour": "salty", "batch_size": "1.5"})
    assert errors == {"flavour": "Choose one of the values offered.", "batch_size": "Enter a whole number."}
    assert values["options"]["spice"] is None
    assert values["options"]["is_hot"] is False


@pytest.mark.parametrize("method", run_options.BY_PEOPLE)
def test_no_two_fields_share_a_name_and_each_has_a_label(method: str) -> None:
    fields = run_options.fields_of(method)
    assert len({item.name for item in fields}) == len({item.path for item in fields}) == len(fields)
    assert all(item.label[:1].isupper() for item in fields)
    assert method == "evaluate" or "optim" in next(item.path for item in fields if item.name == "batch_size")
    leaves = {name for name in dataclasses.asdict(Optim()) if (method, name) not in run_options.UNFIT}
    assert leaves <= {item.path[-1] for item in fields} or method == "evaluate"


def test_the_database_takes_every_method_of_the_trainer(database: str, redis_url: str, tmp_path: Any) -> None:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin)
        model = make_model(session, project, admin, fake_model_folder(tmp_path / "model"))
        make_prompts(session, project, ["Is it?"])
        run = runs.create_sampling_run(session, project, model, admin)
    methods = set(METHODS) - {"revise", "feedback"}  # what works by a constitution is run by hand
    for method in methods:
        with transaction() as session:
            session.execute(text("UPDATE runs SET method = :method WHERE id = :id"), {"method": method, "id": run.id})
        assert method in run_inputs.METHOD_NAMES
    assert set(registry.KINDS) >= methods - {"evaluate", "sample", "score"}
    assert set(run_inputs.LEARNS_FROM) >= set(runs.TRAINING_METHODS)


def test_a_batch_is_named_by_what_it_counts() -> None:
    def label(method: str) -> str:
        return next(item.label for item in run_options.fields_of(method) if item.name == "batch_size")

    assert label("dpo") == "Prompts a step"
    assert label("ppo") == label("rloo") == "Answers an iteration"
    assert label("evaluate") == "Answers at a time"


def test_the_explanation_calls_the_batch_of_an_iteration_as_the_form_does() -> None:
    assert "rollouts of *Answers an iteration* answers each" in run_options.explanation("ppo")
