"""Reward models on encoders: the head that the architecture brings, a row for every answer, saved and loaded again."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import MakeRun, ask, read_lines, some_comparisons
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertModel,
    ModernBertConfig,
    ModernBertModel,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaModel,
)

from trainer import data
from trainer.__main__ import main
from trainer.modeling import load_tokenizer
from trainer.records import EXIT_DONE
from trainer.reward_model import load_reward, score_texts

SPECIAL = ["<s>", "[PAD]", "[SEP]", "[UNK]"]  # the pad token is number 1, as RoBERTa's positions want it
SIZES = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
IDS = {"pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
FAST = {"learning_rate": 0.01, "batch_size": 4, "epochs": 8, "schedule": "constant", "warmup_fraction": 0.0}


def encoder(kind: str, folder: Path) -> str:
    """Save a random encoder of two layers with a tokenizer of bytes that knows `[CLS]` and `[SEP]` alone."""
    vocabulary = SPECIAL + sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(vocabulary)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(SPECIAL)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", cls_token="<s>", sep_token="[SEP]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    makers: dict[str, Callable[[], Any]] = {
        "bert": lambda: BertModel(BertConfig(vocab_size=260, max_position_embeddings=128, pad_token_id=1, **SIZES)),
        "roberta": lambda: RobertaModel(RobertaConfig(vocab_size=260, max_position_embeddings=130, **{**SIZES, **IDS})),
        "modernbert": lambda: ModernBertModel(
            ModernBertConfig(vocab_size=260, max_position_embeddings=128, **{**SIZES, **IDS})
        ),
    }
    makers[kind]().save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("kind", ["bert", "roberta", "modernbert"])
def test_a_reward_model_on_an_encoder_learns_and_is_the_same_for_plain_transformers(
    make_run: MakeRun, tmp_path: Path, kind: str
) -> None:
    run_dir = make_run(
        "reward",
        model=encoder(kind, tmp_path / kind),
        max_length=96,
        comparisons=some_comparisons(8, 4),
        options={"optim": FAST},
    )
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    losses = [row["loss"] for row in read_lines(run_dir / "metrics.jsonl")]
    assert losses[-1] < losses[0] / 2

    folder = str(run_dir / "final")
    reward = load_reward(folder, torch.float32, torch.device("cpu"))
    texts = ["yes!", "no, never, at no time at all"]
    together = score_texts(reward, [ask("is it red 1")] * 2, texts, 96)
    alone = [score_texts(reward, [ask("is it red 1")], [text], 96).item() for text in texts]
    assert together.tolist() == pytest.approx(alone, abs=1e-4)
    assert together[0] > together[1]

    # As others will use it: their tokenizer call, their classifier, and the normaliser of reward.json.
    plain = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    ids = [
        [tokenizer.cls_token_id, *tokenizer.encode(f"User: is it red 1\n\nAssistant:\n{text}"), tokenizer.sep_token_id]
        for text in texts
    ]
    with torch.no_grad():
        raw = torch.tensor([plain(input_ids=torch.tensor([row])).logits.item() for row in ids])
    assert ((raw - reward.mean) / reward.std).tolist() == pytest.approx(alone, abs=1e-4)


def test_adapters_on_an_encoder_leave_its_head_trainable(make_run: MakeRun, tmp_path: Path) -> None:
    run_dir = make_run(
        "reward",
        model=encoder("roberta", tmp_path / "roberta"),
        max_length=96,
        comparisons=some_comparisons(8),
        lora={"rank": 4},
        options={"heads": 2, "optim": FAST},
    )
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    losses = [row["loss"] for row in read_lines(run_dir / "metrics.jsonl")]
    assert losses[-1] < losses[0]


def test_a_long_prompt_keeps_the_token_that_an_encoder_is_read_at(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(encoder("bert", tmp_path / "bert"))
    tree = data.encode(tokenizer, ask("why " * 40), ["so"], 32, data.Truncation())
    assert tree.longest == 32
    assert tree.prompt[0] == tokenizer.cls_token_id
    assert tree.completions[0][-1] == tokenizer.sep_token_id
