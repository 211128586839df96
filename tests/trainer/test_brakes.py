"""What holds a run back: the sign of the KL, its limit, and the best weights."""

from typing import Any

import pytest
import torch
from builders import options
from torch import nn

from trainer.brakes import Brakes
from trainer.config import PpoOptions, parse_run
from trainer.records import DivergedError


def brakes_of(module: nn.Module, **more: Any) -> Brakes:
    chosen = parse_run({"run_id": "r", "method": "ppo", "model": "m", "options": options("judge", **more)}).options
    assert isinstance(chosen, PpoOptions)
    return Brakes(chosen, {"policy": module})


def test_a_kl_that_stays_negative_is_refused_and_chance_is_not() -> None:
    brakes = brakes_of(nn.Linear(1, 1))
    for kl in (-0.5, 0.1, -0.5, -0.5, -0.15):  # the last is within two standard errors
        brakes.check_sign(kl, 0.1)
    for _ in range(5):
        brakes.check_sign(-0.05, 0.001)  # sure, but so small that rounding may do it
    for _ in range(2):
        brakes.check_sign(-0.5, 0.1)
    resumed = brakes_of(nn.Linear(1, 1))
    resumed.resume(brakes.counters())
    for one in (brakes, resumed):
        with pytest.raises(DivergedError, match=r"is negative: -0\.500 nats, below 0 for 3 iterations running"):
            one.check_sign(-0.5, 0.1)


def test_the_best_weights_are_those_with_the_most_reward_less_penalty_within_the_limit() -> None:
    module = nn.Linear(2, 1)
    brakes = brakes_of(module, kl_limit=5.0, kl_coefficient=0.1)
    # Reward less penalty: 1.0, 1.5 - 0.3 = 1.2, 1.3 - 0.2 = 1.1, and 9 at a KL beyond the limit.
    for iteration, (reward, kl) in enumerate([(1.0, 0.0), (1.5, 3.0), (1.3, 2.0), (9.0, 6.0)], start=1):
        with torch.no_grad():
            module.weight.fill_(iteration)
        brakes.keep_best(iteration, reward, kl)
    assert brakes.best_iteration == 2
    assert [brakes.too_far(kl) for kl in (4.9, 5.1)] == [False, True]
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1)
    module(torch.ones(1, 2)).sum().backward()
    optimizer.step()
    assert optimizer.state
    brakes.roll_back({"policy": optimizer})
    assert module.weight.tolist() == [[2.0, 2.0]]
    assert not optimizer.state
    assert (brakes.roll_backs, brakes.spent) == (1, False)
    for _ in range(2):
        brakes.roll_back({})
    assert brakes.spent


def test_without_a_limit_nothing_is_copied() -> None:
    brakes = brakes_of(nn.Linear(2, 1))
    brakes.keep_best(1, 1.0, 0.0)
    assert brakes.modules() == {}
    assert not brakes.too_far(1e9)
