"""The reference's log-probabilities and held-out figures, of as many prompts as are held at once."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
from builders import CPU, build_tokenizer, some_comparisons

from trainer import dpo, kto, modeling, reference
from trainer.config import DpoOptions, KtoOptions, RunConfig, parse_run
from trainer.data import Truncation
from trainer.rankings import Group, group_comparisons
from trainer.reference import Logps

TOKENIZER = build_tokenizer()


def groups(*, flags: bool = False) -> list[Group]:
    """Return seven prompts of unlike weights."""
    rows = [
        dataclasses.replace(row, weight=1.0 + number % 3, acceptable=1 if flags else None)
        for number, row in enumerate(some_comparisons(7))
    ]
    return group_comparisons(TOKENIZER, rows, 256, Truncation(), flags=flags)


@pytest.fixture
def config(tiny_model: str) -> RunConfig:
    return parse_run({"run_id": "r", "method": "dpo", "model": tiny_model, "device": "cpu", "precision": "float32"})


def test_many_trees_values_stand_in_one_tensor_and_are_found_by_tree() -> None:
    logps = Logps(torch.arange(6.0), [2, 0, 1, 3])
    assert [values.tolist() for values in logps] == [[0, 1], [], [2], [3, 4, 5]]
    assert [values.tolist() for values in logps[1:3]] == [[], [2]]
    with pytest.raises(IndexError):
        logps[4]


def test_what_is_kept_is_what_the_model_says_however_many_are_held_at_once(
    tiny_model: str, config: RunConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    layout = modeling.choose_layout(model, 4096, CPU)
    trees = [group.tree for group in groups()]
    wanted = reference.tree_logps(model, trees, layout)
    monkeypatch.setattr(reference, "CHUNK", 3)
    first, second = reference.reference_logps(tmp_path, model, [trees[:5], trees[5:]], config, layout)
    for a, b in zip([*first, *second], wanted, strict=True):
        torch.testing.assert_close(a, b)
    kept = reference.reference_logps(tmp_path, model, [trees[:5], trees[5:]], config, layout)
    assert torch.equal(torch.cat(list(kept[0])), torch.cat(list(first)))


def test_held_out_figures_are_the_same_however_many_prompts_are_held_at_once(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    layout = modeling.choose_layout(model, 4096, CPU)

    def figures() -> dict[str, float]:
        plain, flagged = groups(), groups(flags=True)
        before = [torch.linspace(-60, -50, len(group.tree.completions)) for group in plain]
        found = dpo.judge(model, plain, before, DpoOptions(nll_weight=0.1), layout)
        listwise = dpo.judge(model, plain, before, DpoOptions(loss="plackett_luce"), layout)
        before = [torch.linspace(-60, -50, len(group.tree.completions)) for group in flagged]
        here = kto.Flagged(flagged, before, [group.tree for group in flagged], before)
        judged = kto.judge(model, here, KtoOptions(), layout)
        return {
            f"{name} {key}": value
            for name, of in (("dpo", found), ("listwise", listwise), ("kto", judged))
            for key, value in of.items()
        }

    whole = figures()
    monkeypatch.setattr(reference, "CHUNK", 2)
    assert figures() == pytest.approx(whole, rel=1e-5, abs=1e-6)
    assert whole["dpo held_out_loss"] != pytest.approx(whole["listwise held_out_loss"], rel=1e-3)
