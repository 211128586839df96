"""The card of a trained model says what the run knows, and nothing else."""

from __future__ import annotations

import json
from pathlib import Path

import yaml

from trainer import model_card
from trainer.config import DpoOptions, Lora, RunConfig, SftOptions

MANIFEST = {
    "files": {"comparisons.jsonl": {"rows": 40, "sha256": "ab" * 32}},
    "labelers": {"l1": {"comparisons": 30}, "l2": {"comparisons": 10}},
    "simulated": {"comparisons": 10, "demonstrations": 0},
}


def head_of(card: str) -> dict[str, object]:
    head = yaml.safe_load(card.split("---\n")[1])
    assert isinstance(head, dict)
    return head


def test_the_card_has_the_fields_of_hubs_and_the_runs_own_numbers(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text(json.dumps(MANIFEST))
    config = RunConfig("r1", "dpo", "org/base", DpoOptions(beta=0.3), seed=7, lora=Lora(rank=4))
    summary = {
        "headline": "It agrees.",
        "held_out_accuracy": 0.71,
        "held_out_accuracy_interval": [0.6, 0.8],
        "why": "x",
    }
    card = model_card.text(tmp_path, config, summary)
    assert head_of(card) == {
        "library_name": "transformers",
        "pipeline_tag": "text-generation",
        "base_model": "org/base",
        "license": "unknown",
        "tags": ["plackett", "dpo", "human-feedback", "lora"],
    }
    for row in ("| beta | 0.3 |", "| seed | 7 |", "| held-out accuracy | 0.71 |", "| labelers | 2 |",
                "| comparisons | 40 rows, sha256 `abababababababab` |", "| simulated | 10 comparisons |"):  # fmt: skip
        assert row in card
    assert "It agrees." in card
    assert "| why |" not in card
    assert card == model_card.text(tmp_path, config, summary)


def test_the_folder_of_a_base_model_is_not_told(tmp_path: Path) -> None:
    card = model_card.text(tmp_path, RunConfig("r1", "sft", "/srv/secret/models/base-1", SftOptions()), {})
    assert "base_model" not in head_of(card)
    assert "base-1" in card
    assert "/srv" not in card
