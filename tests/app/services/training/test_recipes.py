"""Recipes are read whole or refused with a sentence for each thing that will not do."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from pipeline_world import FULL

from app.errors import InvalidInputError
from app.services.training import recipes


def changed(position: int, **keys: Any) -> dict[str, Any]:
    """The full recipe with keys of one stage replaced; None takes a key out."""
    recipe = copy.deepcopy(FULL)
    stage = recipe["stages"][position]
    for key, value in keys.items():
        if value is None:
            del stage[key]
        else:
            stage[key] = value
    return recipe


def test_a_recipe_is_stored_with_the_defaults_of_today_and_read_back_the_same() -> None:
    recipe = recipes.read(FULL)
    stored = recipe.as_json()
    assert recipes.read(stored) == recipe
    assert stored["stages"][1] == {
        "name": "start", "kind": "sft", "snapshot": "data", "model": "base", "options": {}, "settings": {}
    }  # fmt: skip
    assert stored["stages"][4]["baseline"] == "in_use"


@pytest.mark.parametrize(
    ("recipe", "sentence"),
    [
        ([], "A recipe is a JSON object with one key"),
        ({"stages": [], "steps": []}, "A recipe is a JSON object with one key"),
        ({"stages": []}, "A recipe has from 1 to 32 stages."),
        ({"stages": ["snapshot"]}, "Stage 1: its kind is one of snapshot, sft"),
        (changed(0, kind="dataset"), "Stage 1: its kind is one of snapshot, sft"),
        (changed(0, name=None), "Stage 1 (snapshot): the key “name” is missing."),
        (changed(0, name="The data"), "Stage 1 (snapshot): a name has up to 32 lower-case letters"),
        (changed(0, seed=1), "Stage 1 (snapshot): the key “seed” is unknown."),
        (changed(1, name="data"), "Stage 2 (data): an earlier stage has this name"),
        (changed(1, snapshot="date"), "Stage 2 (start): there is no earlier stage named “date”."),
        (changed(2, model="stage:policy"), "Stage 3 (judge): there is no earlier stage named “policy”."),
        (
            changed(3, model="stage:judge"),
            "“judge” is of the kind reward, and this needs sft, dpo, kto, ppo, rloo or gate.",
        ),
        (changed(3, model="the best"), "“model” is in_use, newest_sft, base, stage:NAME or model:NAME."),
        (changed(3, options={"beta": 0}), "Stage 4 (dpo): options.beta must be above 0."),
        (changed(3, options={"betta": 1}), "Stage 4 (dpo): options has an unknown key 'betta'"),
        (changed(3, settings={"lora": {"rank": 0}}), "Stage 4 (dpo): lora.rank must be at least 1."),
        (changed(4, settings={"gpus": 2}), "Stage 5 (evaluate): Evaluation runs on one GPU; only sft, reward"),
        (
            changed(3, settings={"gpus": 0}),
            "Stage 4 (dpo): “settings.gpus”: input should be greater",
        ),
        (
            changed(3, options={"optim": {"shard": True}}),
            "Stage 4 (dpo): optim.shard spreads a model over the GPUs of a run, and this run asks for one; ask",
        ),
        (changed(3, settings={"device": "cuda"}), "Stage 4 (dpo): the key “settings.device” is unknown."),
        (changed(4, options={"baseline": "x"}), "options.baseline is filled in by the stage; leave it out."),
        (changed(5, max_kl=-1), "“max_kl”: input should be greater than or equal to 0."),
        (changed(7, sample="data"), "“data” is of the kind snapshot, and this needs sample."),
    ],
)
def test_what_will_not_do_is_said_in_a_sentence(recipe: Any, sentence: str) -> None:
    recipes.read(FULL)
    with pytest.raises(InvalidInputError) as refused:
        recipes.read(recipe)
    assert sentence in refused.value.message


def test_a_model_may_be_shared_among_the_gpus_that_a_stage_asks_for() -> None:
    recipe = changed(3, options={"optim": {"shard": True}}, settings={"gpus": 2})
    assert recipes.read(recipe).as_json()["stages"][3]["options"] == {"optim": {"shard": True}}


@pytest.mark.parametrize("kind", ["kto", "rloo", "ppo"])
def test_every_method_that_trains_a_policy_is_a_kind(kind: str) -> None:
    scored = {} if kind == "kto" else {"reward_model": "stage:judge"}
    recipe = changed(3, kind=kind, **scored)
    assert recipes.read(recipe).as_json()["stages"][3]["kind"] == kind
    with pytest.raises(InvalidInputError, match="an unknown key 'wrong'"):
        recipes.read(changed(3, kind=kind, options={"wrong": 1}, **scored))
    if scored:
        with pytest.raises(InvalidInputError, match="“start” is of the kind sft, and this needs reward"):
            recipes.read(changed(3, kind=kind, reward_model="stage:start"))


def test_every_problem_has_its_line() -> None:
    recipe = changed(1, snapshot="date")
    recipe["stages"][5]["max_kl"] = -1
    with pytest.raises(InvalidInputError, match="3 things in the recipe will not do") as refused:
        recipes.read(recipe)
    assert [line.split(":")[0] for line in refused.value.details] == [
        "Stage 2 (start)",
        "Stage 6 (gate)",
        "Stage 7 (answers)",
    ]
