"""The schedule, the guarded update, and gradients that do not depend on how a step is split."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch
from builders import some_comparisons

from trainer import dpo, kto, modeling, optim, reward, reward_model, sft
from trainer.config import DpoOptions, KtoOptions, Optim, RewardOptions, parse_run
from trainer.data import Truncation
from trainer.device import Device
from trainer.layout import Layout
from trainer.rankings import group_comparisons
from trainer.records import DivergedError
from trainer.tree import Tree, split

CPU = torch.device("cpu")


def test_the_rate_warms_up_linearly_and_then_follows_its_schedule() -> None:
    settings = Optim(learning_rate=0.1, warmup_fraction=0.2, schedule="cosine")
    rates = [optim.learning_rate(settings, step, 10) for step in range(1, 11)]
    assert rates[:2] == pytest.approx([0.05, 0.1])
    # Half-way down (step 6 of 3..10): the mean of the peak and its tenth; at the end the tenth.
    assert rates[5] == pytest.approx(0.055)
    assert rates[9] == pytest.approx(0.01)


def test_the_linear_schedule_never_reaches_zero_and_the_constant_one_stays() -> None:
    linear = Optim(learning_rate=0.1, warmup_fraction=0.0, schedule="linear")
    rates = [optim.learning_rate(linear, step, 4) for step in (1, 2, 3, 4)]
    assert rates == sorted(rates, reverse=True)
    assert rates[-1] > 0
    constant = Optim(learning_rate=0.1, warmup_fraction=0.0, schedule="constant")
    assert {optim.learning_rate(constant, step, 4) for step in (1, 2, 3, 4)} == {0.1}


@pytest.mark.parametrize("broken", ["loss", "gradient"])
def test_a_loss_or_gradient_that_is_not_finite_stops_before_any_weight_moves(broken: str) -> None:
    weight = torch.nn.Parameter(torch.ones(2, 2))
    optimizer = optim.build([weight], Optim())
    weight.grad = torch.full((2, 2), math.nan if broken == "gradient" else 1.0)
    with pytest.raises(DivergedError, match="diverged at step 3"):
        optim.update(optimizer, math.inf if broken == "loss" else 1.0, Optim(), 3, 10)
    assert torch.equal(weight, torch.ones(2, 2))


def test_an_update_clips_the_gradient_and_reports_its_norm() -> None:
    weight = torch.nn.Parameter(torch.zeros(2, 2))
    optimizer = optim.build([weight], Optim())
    weight.grad = torch.full((2, 2), 3.0)
    rate, norm = optim.update(optimizer, 1.0, Optim(learning_rate=0.1, warmup_fraction=0.0, schedule="constant"), 1, 10)
    assert (rate, norm) == (0.1, 6.0)
    assert weight.grad is None
    # A norm of 6 is clipped to 1: each entry from 3 to 0.5, of which a tenth enters AdamW's mean.
    torch.testing.assert_close(optimizer.state[weight]["exp_avg"], torch.full((2, 2), 0.05), rtol=1e-5, atol=0.0)


def test_vectors_and_heads_are_not_decayed() -> None:
    matrix, head, vector = (torch.nn.Parameter(torch.ones(size)) for size in ((2, 2), (1, 2), (2,)))
    decayed, spared = optim.build([matrix, head, vector], Optim(weight_decay=0.1), [head]).param_groups
    assert (decayed["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert [id(p) for p in decayed["params"]] == [id(matrix)]
    assert [id(p) for p in spared["params"]] == [id(head), id(vector)]


def gradients(tiny_model: str, method: str, tokens_per_forward: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the number of forwards of one step of a method over four prompts of unequal weight, and its gradients."""
    tokenizer = modeling.load_tokenizer(tiny_model)
    rankings = [replace(row, weight=1.0 + n % 2, acceptable=1) for n, row in enumerate(some_comparisons(4))]
    groups = group_comparisons(tokenizer, rankings, 128, Truncation(), flags=True)
    layout = Layout("packed", tokens_per_forward, Device(CPU, torch.float32))
    before = [torch.tensor([-9.0, -8.0, -7.0])] * 4
    config = parse_run({"run_id": "r", "method": "reward", "model": tiny_model, "precision": "float32"})
    model: Any = modeling.load_policy(tiny_model, torch.float32, CPU)
    if method == "reward":
        model = reward_model.new_reward_model(config, layout.device, tokenizer)
        reward.backward(model, groups, torch.ones(4, 1), RewardOptions(), layout)
    elif method == "dpo":
        dpo.backward(model, groups, before, DpoOptions(nll_weight=0.5), layout)
    elif method == "kto":
        kto.backward(model, kto.Flagged(groups, before, [], []), 0.3, KtoOptions(), layout)
    else:
        trees = [Tree(group.tree.prompt, group.tree.completions[:1]) for group in groups]
        sft.backward(model, trees, [group.weight for group in groups], layout)
    forwards = len(split([group.tree for group in groups], tokens_per_forward, "packed"))
    return forwards, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward"])
def test_a_step_in_one_forward_and_in_four_gives_the_same_gradient(tiny_model: str, method: str) -> None:
    one, whole = gradients(tiny_model, method, 4096)
    four, parts = gradients(tiny_model, method, 64)
    assert (one, four) == (1, 4)
    for name, gradient in whole.items():
        torch.testing.assert_close(parts[name], gradient, rtol=1e-4, atol=1e-5)
