"""The reward model: where the score is read, and that a saved model is the same model."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from builders import ask, build_tokenizer
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification

from trainer import data, modeling
from trainer.config import ConfigError, RunConfig, parse_run
from trainer.device import Device
from trainer.layout import Layout
from trainer.reward_model import (
    RewardModel,
    load_reward,
    new_reward_model,
    save_reward,
    score,
    score_heads,
    score_texts,
)
from trainer.tree import Tree, collate

CPU = Device(torch.device("cpu"), torch.float32)
TOKENIZER = build_tokenizer()


def config(model: str) -> RunConfig:
    return parse_run({"run_id": "r", "method": "reward", "model": model, "lora": {"rank": 4}})


@pytest.fixture
def model(tiny_model: str) -> RewardModel:
    torch.manual_seed(0)
    return new_reward_model(config(tiny_model), CPU, modeling.load_tokenizer(tiny_model))


@pytest.fixture
def saved(model: RewardModel, tmp_path: Path) -> Path:
    """A merged and normalised model on disk."""
    model.merge(torch.float32)
    model.mean.fill_(0.3)
    model.std.fill_(0.05)
    save_reward(model, tmp_path / "saved", 128)
    return tmp_path / "saved"


def encode(texts: list[str]) -> Tree:
    return data.encode(TOKENIZER, ask("why"), texts, 128, data.Truncation())


@torch.no_grad()
def test_the_score_is_read_at_the_end_token_even_when_padding_is_the_end_token(model: RewardModel) -> None:
    def scores(tree: Tree) -> list[float]:
        found: list[float] = model(collate([tree], CPU.device, "rows", pad_id=TOKENIZER.eos_token_id))[:, 0].tolist()
        return found

    alone = scores(encode(["no"]))
    assert scores(encode(["no", "because it is so and not otherwise"]))[0] == pytest.approx(alone[0], abs=1e-5)
    unended = Tree(encode(["no"]).prompt, [encode(["no"]).completions[0][:-1]])
    assert scores(unended)[0] != pytest.approx(alone[0], abs=1e-5)


def test_the_new_head_is_drawn_from_the_narrow_normal_distribution(tiny_model: str) -> None:
    tokenizer = modeling.load_tokenizer(tiny_model)
    torch.manual_seed(0)
    weights = [new_reward_model(config(tiny_model), CPU, tokenizer).classifier.score.weight for _ in range(8)]
    # 8 * 64 draws with standard deviation 1 / sqrt(65) = 0.124; the estimate is good to about 3 %.
    assert torch.cat(weights).std().item() == pytest.approx(65**-0.5, rel=0.1)


def test_adapters_and_head_are_trained_and_nothing_else(model: RewardModel) -> None:
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert "classifier.score.weight" in names
    assert all("lora_" in name for name in names if name != "classifier.score.weight")


def test_a_loaded_reward_model_gives_the_same_scores(model: RewardModel, saved: Path) -> None:
    loaded = load_reward(str(saved), torch.float32, CPU.device)
    trees = [encode(["no", "yes", "because it is so"])]
    (together,), (apart,) = (
        score(loaded, trees, Layout("packed", 4096, CPU)),
        score(model, trees, Layout("rows", 64, CPU)),
    )
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-4)


@torch.no_grad()
def test_plain_transformers_loads_it_and_gives_the_same_scores_before_normalisation(
    model: RewardModel, saved: Path
) -> None:
    classifier = AutoModelForSequenceClassification.from_pretrained(saved)
    batch = collate([encode(["no", "because it is so"])], CPU.device, "rows", pad_id=model.tokenizer.pad_token_id)
    logits = classifier(input_ids=batch.input_ids, attention_mask=batch.tree >= 0).logits[:, 0]
    torch.testing.assert_close((logits - 0.3) / 0.05, model(batch)[:, 0], rtol=1e-3, atol=1e-3)


def test_texts_are_scored_one_beside_its_own_prompt(saved: Path) -> None:
    loaded = load_reward(str(saved), torch.float32, CPU.device)
    together = score_texts(loaded, [ask("why"), ask("how")], ["so", "so"], 128)
    apart = [score_texts(loaded, [ask(question)], ["so"], 128).item() for question in ("why", "how")]
    assert together.tolist() == pytest.approx(apart, abs=1e-4)


def test_several_heads_are_saved_with_their_normalisers_and_score_as_their_mean(
    tiny_model: str, tmp_path: Path
) -> None:
    run = parse_run({"run_id": "r", "method": "reward", "model": tiny_model, "options": {"heads": 3}})
    model = new_reward_model(run, CPU, modeling.load_tokenizer(tiny_model))
    model.merge(torch.float32)
    model.mean.copy_(torch.tensor([0.1, 0.2, 0.3]))
    model.std.copy_(torch.tensor([0.5, 1.0, 2.0]))
    save_reward(model, tmp_path / "saved", 128)
    loaded = load_reward(str(tmp_path / "saved"), torch.float32, CPU.device)
    trees, layout = [encode(["no", "yes"])], Layout("packed", 4096, CPU)
    (heads,) = score_heads(loaded, trees, layout)
    torch.testing.assert_close(heads, score_heads(model, trees, layout)[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(score(loaded, trees, layout)[0], heads.mean(dim=1))
    assert heads.shape == (2, 3)
    assert heads.std(dim=1).min() > 1e-3  # heads that start apart


def test_padding_that_is_the_end_token_is_refused(tiny_model: str) -> None:
    tokenizer = modeling.load_tokenizer(tiny_model)
    new_reward_model(config(tiny_model), CPU, tokenizer)
    tokenizer.pad_token = tokenizer.eos_token
    with pytest.raises(ConfigError, match="no token for padding but its end token"):
        new_reward_model(config(tiny_model), CPU, tokenizer)


def test_a_folder_whose_head_was_lost_is_refused(saved: Path) -> None:
    load_reward(str(saved), torch.float32, CPU.device)
    weights = load_file(saved / "model.safetensors")
    weights["score.weight"] = torch.randn_like(weights["score.weight"]) * 0.1
    save_file(weights, saved / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match="do not belong together"):
        load_reward(str(saved), torch.float32, CPU.device)


def test_a_folder_that_is_no_reward_model_is_refused(tiny_model: str, saved: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"holds no reward\.json"):
        load_reward(tiny_model, torch.float32, CPU.device)
    shutil.copytree(saved, tmp_path / "copy")
    facts = json.loads((saved / "reward.json").read_text())
    del facts["mean"]
    (tmp_path / "copy" / "reward.json").write_text(json.dumps(facts))
    with pytest.raises(ConfigError, match="cannot be read"):
        load_reward(str(tmp_path / "copy"), torch.float32, CPU.device)
