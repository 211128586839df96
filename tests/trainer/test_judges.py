"""Reward models as an ensemble of judges, and the value head that starts as one of them."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import CPU, PROMPTS, build_tokenizer, options
from transformers import LlamaConfig, LlamaForCausalLM

from trainer import judges, modeling, reward_model
from trainer.config import ConfigError, PpoOptions, parse_run
from trainer.data import Truncation, prompt_ids
from trainer.tree import Tree

TEXTS = [["aaaa", "bbbb", "cccc"], ["cc", "a b", "hhhh"]]
ENDED = [[True] * 3] * 2


def ppo_options(judge: str, *more: str) -> PpoOptions:
    given = options(judge, more_reward_models=list(more))
    chosen = parse_run({"run_id": "r", "method": "ppo", "model": "m", "options": given}).options
    assert isinstance(chosen, PpoOptions)
    return chosen


def test_every_head_of_every_model_is_a_column_and_scores_as_it_does_alone(
    letter_judge: str, two_headed_judge: str
) -> None:
    jury = judges.load_judges(ppo_options(letter_judge, two_headed_judge), CPU, 64)
    found = judges.score(jury, PROMPTS[:2], TEXTS, ENDED, 64, Truncation())
    assert found.shape == (6, 3)
    prompts = [prompt.messages for prompt, texts in zip(PROMPTS, TEXTS, strict=False) for _ in texts]
    for number, folder in enumerate((letter_judge, two_headed_judge)):
        model = reward_model.load_reward(folder, torch.float32, CPU.device)
        alone = reward_model.score_texts(model, prompts, sum(TEXTS, []), 64)  # noqa: RUF017  # two short lists
        columns = found[:, :1] if number == 0 else found[:, 1:]
        torch.testing.assert_close(columns.mean(dim=1), alone, rtol=1e-4, atol=1e-5)
    assert found[:3].argmax(dim=0).tolist() == [0, 1, 2]  # each head likes its own letter


@pytest.mark.parametrize("marked", [True, False])
def test_an_answer_that_never_ended_is_judged_behind_the_mark_of_its_model_and_the_others_as_before(
    marked: bool, letter_judge: str, tmp_path: Path
) -> None:
    model = reward_model.load_reward(letter_judge, torch.float32, CPU.device)
    mark = model.cut_mark
    assert mark == reward_model.CUT_MARK
    folder = tmp_path / "judge"
    model.cut_mark = mark if marked else ""
    reward_model.save_reward(model, folder, 64)
    if not marked:  # a model from before there was a mark says nothing of one
        facts = json.loads((folder / "reward.json").read_text(encoding="utf-8"))
        del facts["cut_mark"]
        (folder / "reward.json").write_text(json.dumps(facts), encoding="utf-8")
    (judge,) = jury = judges.load_judges(ppo_options(str(folder)), CPU, 64)
    found = judges.score(jury, PROMPTS[:1], TEXTS[:1], [[True, False, True]], 64, Truncation())[:, 0]
    whole = judges.score(jury, PROMPTS[:1], TEXTS[:1], ENDED[:1], 64, Truncation())[:, 0]
    torch.testing.assert_close(found[[0, 2]], whole[[0, 2]], rtol=1e-4, atol=1e-5)
    tokenizer = judge.model.tokenizer
    text = f"bbbb{mark}{tokenizer.eos_token}" if marked else "bbbb"
    cut = Tree(prompt_ids(tokenizer, PROMPTS[0].messages), [tokenizer.encode(text, add_special_tokens=False)])
    (alone,) = reward_model.score(judge.model, [cut], judge.layout)
    torch.testing.assert_close(found[[1]], alone, rtol=1e-4, atol=1e-5)
    assert abs(found[1] - whole[1]) > 0.01


def test_a_score_that_is_no_number_is_refused(letter_judge: str) -> None:
    jury = judges.load_judges(ppo_options(letter_judge), CPU, 64)
    judges.score(jury, PROMPTS[:2], TEXTS, ENDED, 64, Truncation())
    jury[0].model.std.fill_(float("nan"))
    with pytest.raises(ConfigError, match="a score that is no number"):
        judges.score(jury, PROMPTS[:2], TEXTS, ENDED, 64, Truncation())


def test_a_length_beyond_a_judge_s_positions_is_refused(letter_judge: str) -> None:
    chosen = ppo_options(letter_judge)
    judges.load_judges(chosen, CPU, 512)
    with pytest.raises(ConfigError, match=r"max_length is 513, but the model .* has 512 positions"):
        judges.load_judges(chosen, CPU, 513)


def test_the_same_reward_model_twice_is_refused(letter_judge: str) -> None:
    with pytest.raises(ConfigError, match="names a reward model twice"):
        ppo_options(letter_judge, letter_judge)


def test_the_value_head_starts_as_the_reward_models_normalised_head(
    tiny_model: str, two_headed_judge: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (judge,) = judges.load_judges(ppo_options(two_headed_judge), CPU, 64)
    policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    head = judges.value_head(judge, policy, "reward")
    hidden = torch.randn(5, head.in_features)
    raw = hidden @ judge.model.classifier.score.weight.T
    torch.testing.assert_close(
        head(hidden), ((raw - judge.model.mean) / judge.model.std).mean(dim=1, keepdim=True), rtol=1e-4, atol=1e-4
    )
    assert not judges.value_head(judge, policy, "zero").weight.any()
    assert capsys.readouterr().err == ""


def test_the_value_head_starts_at_zero_beside_another_base(
    tiny_model: str, letter_judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (judge,) = judges.load_judges(ppo_options(letter_judge), CPU, 64)
    torch.manual_seed(9)
    other = tmp_path / "other"
    LlamaForCausalLM(LlamaConfig.from_pretrained(tiny_model)).save_pretrained(other)
    build_tokenizer().save_pretrained(other)
    head = judges.value_head(judge, modeling.load_policy(str(other), torch.float32, CPU.device), "reward")
    assert not head.weight.any()
    assert "did not grow from one base" in capsys.readouterr().err


def test_a_reward_model_whose_files_do_not_belong_together_is_refused(
    letter_judge: str, two_headed_judge: str, tmp_path: Path
) -> None:
    mixed = tmp_path / "mixed"
    shutil.copytree(two_headed_judge, mixed)
    judges.load_judges(ppo_options(letter_judge, str(mixed)), CPU, 64)
    facts = json.loads((mixed / "reward.json").read_text())
    facts["mean"] = [mean + 2 * std for mean, std in zip(facts["mean"], facts["std"], strict=True)]
    (mixed / "reward.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match=r"scores its probe texts 2\.00 off what was saved with it"):
        judges.load_judges(ppo_options(letter_judge, str(mixed)), CPU, 64)
