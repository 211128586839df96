"""The schedule, the guarded update, and gradients that do not depend on how a step is split."""

import math

import pytest
import torch
from builders import some_comparisons

from trainer import modeling, optim
from trainer.config import Optim
from trainer.data import Truncation
from trainer.device import Device
from trainer.layout import Layout
from trainer.losses import pairwise_reward_loss, sft_loss
from trainer.rankings import group_comparisons, pair_tensors
from trainer.records import DivergedError

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


def gradients(tiny_model: str, kind: str, tokens_per_forward: int) -> tuple[int, dict[str, torch.Tensor]]:
    """Return the number of forwards of one step over four prompts, and its gradients."""
    model = modeling.load_policy(tiny_model, torch.float32, CPU)
    tokenizer = modeling.load_tokenizer(tiny_model)
    groups = group_comparisons(tokenizer, some_comparisons(4), 128, Truncation())
    counted = sum(len(completion) for group in groups for completion in group.tree.completions)
    forwards = 0
    layout = Layout("packed", tokens_per_forward, Device(CPU, torch.float32))
    for part, batch in layout.batches([group.tree for group in groups]):
        forwards += 1
        logps = modeling.completion_logps(model, batch)
        if kind == "sft":
            loss = sft_loss(logps, torch.full((len(logps),), 1 / counted))
        else:
            pairs = pair_tensors([groups[i] for i in part], 4.0, CPU)
            loss = pairwise_reward_loss(batch.sum_by_completion(logps), pairs.members, pairs.weights)
        loss.backward()
    return forwards, {name: parameter.grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("kind", ["sft", "pairs"])
def test_one_forward_and_four_give_the_same_gradient(tiny_model: str, kind: str) -> None:
    one, whole = gradients(tiny_model, kind, 4096)
    four, split = gradients(tiny_model, kind, 64)
    assert (one, four) == (1, 4)
    for name, gradient in whole.items():
        torch.testing.assert_close(split[name], gradient, rtol=1e-4, atol=1e-5)
