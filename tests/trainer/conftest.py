"""A tiny random model on disk, and run directories to train it in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, MakeRun, build_tokenizer, save_judge
from transformers import LlamaConfig, LlamaForCausalLM

from trainer import modeling
from trainer.jsonl import write_jsonl
from trainer.manifest import write_manifest
from trainer.records import Comparison, Demonstration, Prompt


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a random Llama of two layers; in float32, so that tests can compare to the last digit."""
    folder = tmp_path_factory.mktemp("tiny_model")
    tokenizer = build_tokenizer()
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def letter_judge(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model that likes answers with many letters "a"."""
    return save_judge(tmp_path_factory.mktemp("judge"), tiny_model, "a")


@pytest.fixture(scope="session")
def two_headed_judge(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model with two heads: one likes "b", the other "c"."""
    return save_judge(tmp_path_factory.mktemp("two_heads"), tiny_model, "bc")


@pytest.fixture(scope="session")
def sharp_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the tiny model with larger weights: a fresh head is too flat for adapters to say much."""
    folder = tmp_path_factory.mktemp("sharp_model")
    policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    modeling.save_policy(policy, build_tokenizer(), folder, torch.float32)
    return str(folder)


@pytest.fixture
def make_run(tmp_path: Path, tiny_model: str) -> MakeRun:
    """Return a function that writes a run directory: `make_run("dpo", comparisons=[…], options={…}, seed=1, …)`.

    `prompts`, `demonstrations` and `comparisons` are rows of the data files; other keywords are keys of run.json.
    """

    def make(
        method: str,
        *,
        name: str = "run",
        prompts: list[Prompt] | None = None,
        demonstrations: list[Demonstration] | None = None,
        comparisons: list[Comparison] | None = None,
        **keys: Any,
    ) -> Path:
        run_dir = tmp_path / name
        (run_dir / "data").mkdir(parents=True)
        config = {
            "run_id": name,
            "method": method,
            "model": tiny_model,
            "precision": "float32",
            "device": "cpu",
            **keys,
        }
        (run_dir / "run.json").write_text(json.dumps(config), encoding="utf-8")
        files = {"prompts": prompts, "demonstrations": demonstrations, "comparisons": comparisons}
        for file, rows in files.items():
            if rows is not None:
                write_jsonl(run_dir / "data" / f"{file}.jsonl", rows)
        write_manifest(run_dir / "data")
        return run_dir

    return make
