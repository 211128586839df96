"""One iteration of PPO from inside: what it measures, what it aims at, and the gradients of its update."""

from typing import Any

import pytest
import torch
from builders import CPU, OPTIM, PROMPTS, options
from torch.distributed.tensor import DTensor, distribute_tensor

from trainer import judges, losses, ppo, rollout, shards, tree
from trainer.config import PpoOptions, RunConfig, parse_run
from trainer.device import Device
from trainer.episodes import Actor, Episodes, Measures, measure, minibatches, turn
from trainer.layout import Layout
from trainer.records import DivergedError

LORA = {"rank": 4}


def some_episodes() -> Episodes:
    """Two answers each, of lengths 1 to 4, to prompts of lengths 3, 1 and 2."""
    trees = [
        tree.Tree([5, 6, 7], [[1], [12, 13]]),
        tree.Tree([8], [[20, 21, 22, 1], [20, 1]]),
        tree.Tree([9, 10], [[30, 31], [32, 33, 34]]),
    ]
    answers = [rollout.Answer(ids, "stop", [-1.0] * len(ids), 0.0) for one in trees for ids in one.completions]
    mask = torch.arange(4) < torch.tensor([len(answer.ids) for answer in answers])[:, None]
    scores = torch.tensor([1.0, -1.0, 0.5, 0.2, -0.3, 2.0])
    return Episodes(PROMPTS[:3], trees, answers, [""] * 6, scores[:, None], scores, mask)


def actor_of(
    tiny_model: str, judge: str, device: Device = CPU, lora: dict[str, Any] | None = LORA, **more: Any
) -> tuple[Actor, RunConfig, PpoOptions]:
    """Return an actor that is no longer its reference."""
    keys = {"run_id": "r", "method": "ppo", "model": tiny_model, "precision": "float32", "lora": lora}
    config = parse_run({**keys, "options": options(judge, importance_cap=None, **more)})
    assert isinstance(config.options, PpoOptions)
    torch.manual_seed(0)
    actor = ppo.load_actor(config, device, judges.load_judges(config.options, device, 64)[0])
    torch.manual_seed(0)
    with torch.no_grad():
        assert actor.value_head is not None
        for parameter in (*actor.policy.parameters(), *actor.value_head.parameters()):
            if parameter.requires_grad:
                noise = 0.1 * torch.randn(parameter.shape)
                parameter.add_(distribute(noise, parameter))
    return actor, config, config.options


def distribute(noise: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """Return the part of a tensor that this process would hold of it."""
    if not isinstance(like, DTensor):
        return noise
    return distribute_tensor(noise, like.device_mesh, like.placements)


def measured(
    actor: Actor, rolled: Episodes, chosen: PpoOptions, layout: Layout
) -> tuple[Measures, ppo.Targets, list[list[list[int]]]]:
    """Return what one minibatch of everything is measured to be, what it aims at, and that minibatch as an epoch."""
    whole = [list(range(len(rolled.trees)))]
    measures = measure(actor, rolled, whole, chosen, layout)
    rewards = ppo.rewards_of(rolled, measures, rolled.scores, 0.1, chosen)
    return measures, ppo.aim(rolled, measures, rewards, chosen), [whole]


def gradients(
    actor: Actor, rolled: Episodes, config: RunConfig, layout: Layout, texts: list[tree.Tree] | None = None
) -> list[torch.Tensor]:
    """Return every gradient of one update over one minibatch, read before the step."""
    found: list[torch.Tensor] = []

    class Watcher(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            found.extend(shards.whole(p.grad).clone() for group in self.param_groups for p in group["params"])

    assert isinstance(config.options, PpoOptions)
    measures, targets, epochs = measured(actor, rolled, config.options, layout)
    optimizers: Any = {
        name: Watcher([p for p in module.parameters() if p.requires_grad], lr=0.0)
        for name, module in actor.modules().items()
    }
    ppo.update(actor, optimizers, rolled, measures, targets, epochs, 1, 0.1, texts or [], config, layout)
    return found


ONE_STEP = {"ppo_epochs": 1, "minibatches": 1}


def test_micro_batches_add_up_to_the_minibatchs_gradient_and_shared_prompts_to_that_of_rows(
    tiny_model: str, letter_judge: str
) -> None:
    found = []
    for tokens, form, forwards in ((64, "rows", 3), (64, "packed", 2), (4096, "packed", 1), (4096, "line", 1)):
        optim = {**OPTIM, "tokens_per_forward": tokens, "grad_clip": 1e9}
        more = {"entropy_coefficient": 0.3, "kl_in": "loss", "kl_estimator": "k2", "ptx_coefficient": 0.5}
        actor, config, _ = actor_of(tiny_model, letter_judge, **ONE_STEP, **more, optim=optim)
        rolled = some_episodes()
        rolled = rolled._replace(trees=[one._replace(prompt=[40] * 25 + one.prompt) for one in rolled.trees])
        layout = Layout(form, tokens, CPU)
        assert len(list(layout.batches(rolled.trees))) == forwards
        texts = [tree.Tree([50, 51], [[60, 61, 1]]), tree.Tree([52], [[62, 1]])]
        found.append(gradients(actor, rolled, config, layout, texts))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            assert (a - b).norm() <= 1e-5 * a.norm()


def test_the_clipped_shares_count_tokens_of_policy_and_values_each_by_itself(
    tiny_model: str, letter_judge: str
) -> None:
    actor, _, chosen = actor_of(tiny_model, letter_judge, **ONE_STEP, clip_value=0.2)
    rolled = some_episodes()
    for tokens in (64, 4096):  # in micro-batches, and at once
        layout = Layout("packed", tokens, CPU)
        measures, targets, epochs = measured(actor, rolled, chosen, layout)
        # The first answer's token began 0.5 lower and has gone beyond its aim, the next answer's two are on the way to
        # theirs (there the clipped loss is larger), and all the others are where they began.
        old, returns, logps = measures.values.clone(), measures.values.clone(), measures.logps.clone()
        old[:2] -= 0.5
        returns[0], returns[1] = returns[0] - 0.4, returns[1] + 0.1
        logps[2, :3] -= 0.5  # of the third answer's four tokens three are e^0.5 times as likely as they were
        shifted, aims = measures._replace(values=old, logps=logps), targets._replace(returns=returns)
        figures = ppo.backward(actor, rolled, shifted, aims, epochs[0][0], [], 0.1, chosen, layout)
        assert figures["value_clip_fraction"] == pytest.approx(2 / 14)
        assert figures["clip_fraction"] == pytest.approx(3 / 14)


def test_an_update_that_does_not_repeat_the_rollout_is_refused(tiny_model: str, letter_judge: str) -> None:
    actor, config, chosen = actor_of(tiny_model, letter_judge, **ONE_STEP)
    rolled, layout = some_episodes(), Layout("packed", 4096, CPU)
    measures, targets, epochs = measured(actor, rolled, chosen, layout)
    optimizers = {
        n: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for n, m in actor.modules().items()
    }
    off = measures._replace(logps=measures.logps + 1e-3)
    with pytest.raises(DivergedError, match=r"log-ratio of 0\.001 instead of 0"):
        ppo.update(actor, optimizers, rolled, off, targets, epochs, 1, 0.1, [], config, layout)
    ppo.update(actor, optimizers, rolled, measures, targets, epochs, 1, 0.1, [], config, layout)


def test_measures_are_those_of_each_answer_alone(tiny_model: str, letter_judge: str) -> None:
    actor, _, chosen = actor_of(tiny_model, letter_judge)
    rolled = some_episodes()
    together, _, _ = measured(actor, rolled, chosen, Layout("packed", 4096, CPU))
    for n, answer in enumerate(rolled.answers):
        one = Episodes(
            [PROMPTS[0]], [tree.Tree(rolled.trees[n // 2].prompt, [answer.ids])], [answer], [""],
            rolled.judged[n : n + 1], rolled.scores[n : n + 1], torch.ones(1, len(answer.ids), dtype=torch.bool),
        )  # fmt: skip
        alone, _, _ = measured(actor, one, chosen, Layout("rows", 4096, CPU))
        for name in ("logps", "reference_logps", "values", "sampler_logps"):
            grid, row = getattr(together, name), getattr(alone, name)
            torch.testing.assert_close(grid[n, : len(answer.ids)], row[0], rtol=0, atol=1e-5)
            assert not grid[n, len(answer.ids) :].any()


def test_a_value_head_that_explains_the_first_returns_is_shifted_to_them_and_another_is_emptied(
    tiny_model: str, letter_judge: str
) -> None:
    actor, _, chosen = actor_of(tiny_model, letter_judge)
    rolled, head = some_episodes(), actor.value_head
    assert head is not None
    measures, _, _ = measured(actor, rolled, chosen, Layout("packed", 4096, CPU))
    rewards = losses.penalised_rewards(torch.zeros(6, 4), rolled.scores, rolled.mask, 0.0)
    # Without a KL the return of every token is its answer's score: 1, -1, 0.5, 0.2, -0.3, 2. Values of half of it plus
    # 3 are 3 - mean / 2 too high, and the mean over the 14 tokens is (1 - 2 + 2 + 0.4 - 0.6 + 6) / 14 = 6.8 / 14.
    returns = torch.where(rolled.mask, rolled.scores[:, None], 0.0)
    before = head.bias.item()
    near = ppo.settle(head, rolled, measures._replace(values=returns / 2 + 3.0), rewards, chosen)
    assert head.bias.item() - before == pytest.approx(6.8 / 14 / 2 - 3.0, abs=1e-5)
    torch.testing.assert_close(near.values[rolled.mask], (returns / 2 + 6.8 / 28)[rolled.mask], rtol=1e-5, atol=1e-5)
    assert not near.values[~rolled.mask].any()
    off = ppo.settle(head, rolled, measures._replace(values=-returns), rewards, chosen)
    assert not off.values.any()
    assert not head.weight.any()
    assert not head.bias.any()


# Prompts, minibatches


def test_every_prompt_is_answered_once_before_any_is_answered_again() -> None:
    order = [i for iteration in range(1, 7) for i in turn(5, 7, iteration, 3, "prompts")]
    assert len(order) == 42
    passes = [order[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_each_epoch_sees_every_prompt_once_in_another_order() -> None:
    epochs = [minibatches(5, 2, 0, 1, epoch) for epoch in range(6)]
    assert all([len(minibatch) for minibatch in epoch] == [3, 2] for epoch in epochs)
    assert all(sorted(one for part in epoch for one in part) == [0, 1, 2, 3, 4] for epoch in epochs)
    assert len({str(epoch) for epoch in epochs}) > 1
