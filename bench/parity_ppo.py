"""Whether an iteration of PPO is TRL's (1.12, the last with PPO): its trainer runs, and we compute what it found.

Policy, reference, reward and value model are random and all different. TRL draws the answers and takes two steps on
them; from the same answers and weights we measure, reward, estimate advantages and take the same steps. Value models of
their own are not ours (we have a head on the policy), so TRL's is asked for the values and does not learn. All answers
are of full length: TRL puts the reward of a shorter one behind its end.

What TRL said is kept in `parity_ppo.json`, which the tests hold ours against where TRL 1.12 is not there.
"""

from __future__ import annotations

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch

from bench import parity, race
from tests.trainer.builders import build_tokenizer
from trainer import episodes, losses, modeling, ppo, reward_model, rollout, tree
from trainer.config import PpoOptions, RunConfig, parse_run
from trainer.episodes import Actor, Episodes, Measures
from trainer.layout import Layout

KEPT = Path(__file__).with_suffix(".json")
TOLD = {
    "objective/kl": "KL of an answer, nats",
    "objective/entropy": "entropy of an answer",
    "objective/scores": "score and penalty",
    "objective/rlhf_reward": "reward less KL",
    "advantages": "advantages",
    "whitened": "advantages, whitened",
    "loss/value_avg": "value loss",
    "loss/policy_avg": "policy loss, mean of two steps",
    "policy/approxkl_avg": "squared log-ratio, mean of two steps",
}
"""What TRL tells of an iteration, by its names."""

EPISODES, ANSWER, RATE, KL, PENALTY, DISCOUNT, LAMBDA = 8, 10, 0.02, 0.15, 0.5, 0.97, 0.9


def models() -> list[Any]:
    """Return policy, reference, reward model and value model."""
    kinds = (parity.policy, parity.policy, parity.classifier, parity.classifier)
    return [make(seed) for seed, make in enumerate(kinds)]


def peer(folder: str) -> dict[str, Any]:
    """Let TRL take one iteration; return the prompts with their answers, and what it computed on the way."""
    from datasets import Dataset
    from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer

    draw = random.Random(0)
    policy, frozen, judge, values = models()
    rows = Dataset.from_dict({"input_ids": [parity.ids(draw, 3 + n) for n in range(EPISODES)]})
    tokenizer = build_tokenizer()
    tokenizer.padding_side = "left"
    settings = PPOConfig(
        folder,
        per_device_train_batch_size=EPISODES,
        num_mini_batches=1,
        num_ppo_epochs=2,
        total_episodes=EPISODES,
        response_length=ANSWER,
        temperature=1.0,
        kl_coef=KL,
        missing_eos_penalty=PENALTY,
        gamma=DISCOUNT,
        lam=LAMBDA,
        vf_coef=0.0,
        num_sample_generations=0,
        **race.PLAIN,
    )
    step = torch.optim.SGD(policy.parameters(), lr=RATE)
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=frozen,
        reward_model=judge,
        value_model=values,
        train_dataset=rows,
        eval_dataset=rows,
        optimizers=(step, torch.optim.lr_scheduler.ConstantLR(step, factor=1.0)),
    )
    told: dict[str, Any] = {}
    draws, whiten = ppo_trainer.batch_generation, ppo_trainer.masked_whiten

    def drawn(*arguments: Any) -> Any:
        found = draws(*arguments)
        told["drawn"] = found[0].tolist()
        return found

    def whitened(advantages: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = whiten(advantages, mask)
        told.update(advantages=advantages.tolist(), whitened=found.tolist())
        return found

    ppo_trainer.batch_generation, ppo_trainer.masked_whiten = drawn, whitened
    trainer.log = told.update
    trainer.train()
    return {name: told[name] for name in ("drawn", *TOLD)}


def answered(drawn: torch.Tensor, judge: Any) -> Episodes:
    """Return TRL's answers as an iteration of ours, scored by the same reward model."""
    pad = build_tokenizer().pad_token_id
    prompts = [[token for token in row if token != pad] for row in drawn[:, :-ANSWER].tolist()]
    said = drawn[:, -ANSWER:].tolist()
    trees = [tree.Tree(prompt, [answer]) for prompt, answer in zip(prompts, said, strict=True)]
    model = reward_model.RewardModel(judge, build_tokenizer())
    judged = torch.cat(reward_model.score_all(model, trees, model.choose_layout(parity.TOKENS, parity.CPU)))
    answers = [rollout.Answer(answer, "length", [0.0] * ANSWER, 0.0) for answer in said]
    mask = torch.ones(EPISODES, ANSWER, dtype=torch.bool)
    return Episodes([], trees, answers, [], judged, judged[:, 0], mask)


def values_of(model: Any, rolled: Episodes, layout: Layout) -> torch.Tensor:
    """Return what TRL's value model says before each token (N, T)."""
    ((part, batch),) = layout.batches(rolled.trees)
    with torch.no_grad():
        hidden = tree.hidden_states(model.model, model.config, batch)[batch.sources]
        found = torch.empty(EPISODES, ANSWER)
        found[part] = model.score(hidden).view(EPISODES, ANSWER)
    return found


def rows(told: dict[str, Any]) -> list[parity.Row]:
    """Return our figures beside those that TRL told."""
    found = ours(torch.tensor(told["drawn"]))
    return [parity.row(f"PPO: {what}", found[name], torch.tensor(told[name])) for name, what in TOLD.items()]


def ours(drawn: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return what we compute of TRL's answers, under its names."""
    policy, frozen, judge, value_model = models()
    given = {
        "reward_model": "judge",
        "iterations": 1,
        "ppo_epochs": 2,
        "minibatches": 1,
        "discount": DISCOUNT,
        "gae_lambda": LAMBDA,
        "importance_cap": None,
        "kl_coefficient": KL,
        "sampling": {"temperature": 1.0},
        "optim": {"batch_size": EPISODES},
    }
    config: RunConfig = parse_run({"run_id": "parity", "method": "ppo", "model": "policy", "options": given})
    options = config.options
    assert isinstance(options, PpoOptions)
    layout = modeling.choose_layout(policy, parity.TOKENS, parity.CPU, frozen)
    rolled = answered(drawn, judge)
    everything = list(range(EPISODES))
    actor = Actor(policy, frozen)
    reader = reward_model.RewardModel(value_model, build_tokenizer()).choose_layout(parity.TOKENS, parity.CPU)
    measures = episodes.measure(actor, rolled, [everything], options, layout)
    measures = measures._replace(values=values_of(value_model, rolled, reader))

    # What TRL asks of an answer that does not end is a token of the end anywhere in it.
    ended = (drawn[:, -ANSWER:] == build_tokenizer().eos_token_id).any(dim=1)
    objective = rolled.scores - PENALTY * (~ended).float()
    rewards = ppo.rewards_of(rolled, measures, objective, KL, options)
    advantages, returns = losses.gae(rewards, measures.values, rolled.mask, DISCOUNT, LAMBDA)
    whitened = ppo.aim(rolled, measures, rewards, options).advantages
    # TRL divides by the number less one where it takes the variance.
    whitened = whitened * (1 - 1 / whitened.numel()) ** 0.5
    value_loss = losses.clipped_value_loss(measures.values, measures.values, returns, options.clip_value).mean()
    kl = losses.kl_k1(measures.logps, measures.reference_logps).sum(dim=1).mean()
    policy_loss, moved = steps(actor, rolled, measures, whitened, options, layout)
    return {
        "objective/kl": kl,
        "objective/entropy": -measures.logps.sum(dim=1).mean(),
        "objective/scores": objective.mean(),
        "objective/rlhf_reward": rewards.sum(dim=1).mean(),
        "advantages": advantages,
        "whitened": whitened,
        "loss/value_avg": value_loss,
        "loss/policy_avg": policy_loss,
        "policy/approxkl_avg": moved,
    }


def steps(
    actor: Actor, rolled: Episodes, measures: Measures, advantages: torch.Tensor, options: PpoOptions, layout: Layout
) -> tuple[torch.Tensor, torch.Tensor]:
    """Take two steps; return the means over both of the policy's loss and of half the squared log-ratio."""
    sgd = torch.optim.SGD(actor.policy.parameters(), lr=RATE)
    policy_losses, moved = [], []
    for _ in range(2):
        ((part, batch),) = layout.batches(rolled.trees)
        found = episodes.forward(actor, batch, options, layout.device)
        rows, count = rolled.rows(part), rolled.mask.numel()
        loss, figures = episodes.policy_loss(found, measures, advantages, rows, rolled.mask, count, 0.0, options)
        policy_losses.append(torch.tensor(figures["policy_loss"]))
        moved.append(losses.kl_k2(found.logps.detach(), measures.logps[rows].flatten()).mean())
        torch.autograd.backward(loss)
        sgd.step()
        sgd.zero_grad()
    return torch.stack(policy_losses).mean(), torch.stack(moved).mean()


if __name__ == "__main__":
    race.only_in_peer_environment()
    with tempfile.TemporaryDirectory() as folder:
        told = peer(folder)
    parity.show("trl==1.12.0, one iteration of PPO in float32", rows(told))
    KEPT.write_text(json.dumps(told) + "\n", encoding="utf-8")
