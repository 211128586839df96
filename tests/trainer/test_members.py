"""Ensembles of whole models: each is what a run of its own would be; saved on one base; their say in PPO."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, PROMPTS, MakeRun, ask, build_tokenizer, options, read_lines, some_comparisons
from safetensors.torch import load_file
from test_methods import FAST, StopAfter, assert_same, summary_of
from transformers import AutoModelForCausalLM

from trainer import data, judges, losses, reward, reward_model
from trainer.__main__ import main
from trainer.config import ConfigError, PpoOptions, load_run, parse_run
from trainer.layout import Layout
from trainer.records import EXIT_DONE, EXIT_STOPPED, Prompt
from trainer.reward_model import RewardModel, load_reward, score_all

TEXTS = ["yes!", "no green", "hm red it is"]
LORA_OR_NOT = pytest.mark.parametrize("lora", [{"rank": 4}, None], ids=["lora", "full"])


def raw_scores(model: RewardModel) -> torch.Tensor:
    """Return (3, L) before normalisation, of answers to a prompt of nobody's."""
    trees = [data.encode(build_tokenizer(), ask("is it red 99"), TEXTS, 128, data.Truncation())]
    (found,) = score_all(model, trees, Layout("rows", 4096, CPU))
    return found * model.std + model.mean


@LORA_OR_NOT
def test_each_member_is_what_a_run_of_its_own_seed_makes_and_survives_saving(make_run: MakeRun, lora: Any) -> None:
    settings = {"comparisons": some_comparisons(8, 2), "lora": lora, "precision": "float32"}
    together = make_run("reward", name="together", **settings, seed=5, options={"models": 2, "optim": FAST})
    alone = [make_run("reward", name=f"s{seed}", **settings, seed=seed, options={"optim": FAST}) for seed in (5, 6)]
    assert [main(["reward", "--run", str(folder)]) for folder in (together, *alone)] == [EXIT_DONE] * 3
    ensemble = load_reward(str(together / "final"), torch.float32, CPU.device)
    found = raw_scores(ensemble)
    wanted = [raw_scores(load_reward(str(folder / "final"), torch.float32, CPU.device)) for folder in alone]
    torch.testing.assert_close(found, torch.cat(wanted, dim=1), rtol=1e-4, atol=1e-4)
    assert (found[:, 0] - found[:, 1]).abs().max() > 1e-2  # they are not one model twice
    assert summary_of(together)["held_out_uncertainty"] > 0
    names = [name.startswith("adapters/") for name in load_file(together / "final" / "member_2.safetensors")]
    if lora:  # a base, and thin adapters beside it
        assert sum(names) == len(names) - 1
        mine, other = (one.get_input_embeddings().weight for one in ensemble.members)
        assert mine.data_ptr() == other.data_ptr()
    else:
        assert not any(names)


@LORA_OR_NOT
def test_a_run_of_several_models_resumes_exactly(make_run: MakeRun, lora: Any) -> None:
    given = {"models": 3, "loss": "davidson", "optim": FAST}
    settings = {"comparisons": some_comparisons(8, 2), "lora": lora, "options": given, "checkpoint_steps": 5}
    whole, run_dir = make_run("reward", name="whole", **settings), make_run("reward", name="stopped", **settings)
    assert main(["reward", "--run", str(whole)]) == EXIT_DONE
    assert reward.run(run_dir, load_run(run_dir), StopAfter(run_dir, 5)) == EXIT_STOPPED
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
    nus = json.loads((whole / "final" / "reward.json").read_text())["nu"]
    assert len(set(nus)) == 3  # each has learned its own


@pytest.fixture(scope="module")
def trio(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model of three members, with adapters that are not nothing."""
    given = {"run_id": "r", "method": "reward", "model": tiny_model, "lora": {"rank": 2}, "options": {"models": 3}}
    model = reward_model.new_reward_model(parse_run(given), CPU, build_tokenizer())
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.5)
    before = raw_scores(model)
    model.merge(torch.float32)
    torch.testing.assert_close(raw_scores(model), before, rtol=1e-4, atol=1e-4)  # merging changes nothing
    folder = tmp_path_factory.mktemp("trio")
    reward_model.save_reward(model, folder, 128)
    return str(folder)


def test_every_member_sits_in_the_jury_of_ppo_and_the_worst_and_the_unsure_count(trio: str) -> None:
    asked = [Prompt("p", ask("is it red 99"))]
    (judge,) = jury = judges.load_judges(PpoOptions(reward_model=trio), CPU, 64)
    scores = judges.score(jury, asked, [TEXTS], [[True] * 3], 128, data.Truncation())
    assert scores.shape == (3, 3)
    torch.testing.assert_close(scores, raw_scores(judge.model), rtol=1e-4, atol=1e-4)
    assert scores.std(dim=1).min() > 1e-3
    worst = losses.ensemble_score(scores, "worst")
    unsure = losses.ensemble_score(scores, "uncertainty_weighted", 0.5)
    mean = losses.ensemble_score(scores, "mean")
    assert bool((worst < mean).all())
    torch.testing.assert_close(unsure, mean - 0.5 * scores.var(dim=1, correction=0))


def test_a_whole_run_of_ppo_is_rewarded_by_all_members_together(make_run: MakeRun, trio: str) -> None:
    chosen = options(trio, iterations=3, reward_ensemble="uncertainty_weighted", uncertainty_coefficient=0.5)
    run_dir = make_run("ppo", prompts=PROMPTS, lora={"rank": 4}, options=chosen)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == [1, 2, 3]
    assert min(row["reward_uncertainty"] for row in rows) > 1e-3
    assert [row["first_log_ratio"] for row in rows] == [0.0] * 3
    told = read_lines(run_dir / "rollouts.jsonl")
    assert told
    asked = {prompt.id: prompt for prompt in PROMPTS}
    jury = judges.load_judges(PpoOptions(reward_model=trio), CPU, 64)
    texts, ended = [[row["text"]] for row in told], [[row["finish_reason"] != "length"] for row in told]
    assert [False] in ended  # answers that were cut off are judged as they are
    scores = judges.score(jury, [asked[row["prompt_id"]] for row in told], texts, ended, 512, data.Truncation())
    wanted = scores.mean(dim=1) - 0.5 * scores.var(dim=1, correction=0)
    torch.testing.assert_close(torch.tensor([row["reward"] for row in told]), wanted, rtol=1e-4, atol=1e-4)
    AutoModelForCausalLM.from_pretrained(run_dir / "final")


def test_a_folder_with_a_member_missing_or_of_another_model_is_refused(trio: str, tmp_path: Path) -> None:
    load_reward(trio, torch.float32, CPU.device)
    for path in Path(trio).iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    second, third = tmp_path / "member_2.safetensors", tmp_path / "member_3.safetensors"
    content = second.read_bytes()
    second.write_bytes(third.read_bytes())
    with pytest.raises(ConfigError, match="do not belong together"):
        load_reward(str(tmp_path), torch.float32, CPU.device)
    second.write_bytes(content)
    third.unlink()
    with pytest.raises(ConfigError, match=r"holds 3 models, but member_3.safetensors is not there"):
        load_reward(str(tmp_path), torch.float32, CPU.device)
