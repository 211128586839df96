"""Whether RLOO and GRPO are TRL's (1.16): the same answers, rewards and weights, advantages, losses and gradients.

TRL's trainers draw answers themselves; here they are handed ours and their rewards, and all else is their own: old and
reference log-probabilities, advantages, loss. Our method of groups is one, with GRPO's advantages and its KL in the
loss as options. What is not the same by definition:

- RLOO's loss. TRL clips the ratio of a whole answer, the product of its tokens' ratios, and takes the mean over
  answers; ours clips each token's ratio and takes the mean over tokens. Their gradients are the same before the first
  step, but for the mean length of an answer, and both losses are the same where an answer is a single token: that is
  what is compared.
- GRPO's KL. TRL multiplies it by the ratio (`use_bias_correction_kl`, its default), which is switched off to compare
  with our k3. With it, the gradient before the first step is that of our k2, which is compared, too.
- GRPO's mean. Ours is over all tokens, which TRL's default (`dapo`) and `bnpo` are; its `grpo` and `dr_grpo` are not.
"""

from __future__ import annotations

import random
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch

from bench import parity, race
from tests.trainer.builders import build_tokenizer
from trainer import losses, modeling, rloo, rollout
from trainer.config import RlooOptions, parse_run
from trainer.episodes import Actor, Episodes, Measures, measure
from trainer.layout import Layout
from trainer.tree import Tree

ANSWERS, KL, MOVED = 4, 0.15, 0.02
RLOO = {"kl_in": "reward", "kl_estimator": "k1", "group_advantages": "leave_one_out"}
GRPO = {"kl_in": "loss", "kl_estimator": "k3", "group_advantages": "group_normalised"}


class Sides(NamedTuple):
    """One batch before its first step: TRL's trainer and what it made of the answers, and ours."""

    model: Any
    peer: Any
    inputs: dict[str, Any]
    rolled: Episodes
    measures: Measures
    advantages: torch.Tensor
    options: RlooOptions
    layout: Layout

    def gradients(self) -> dict[str, float]:
        """Add our gradients of the whole batch to the model and return the figures."""
        actor, everything = Actor(self.model, None), list(range(parity.PROMPTS))
        return rloo.backward(
            actor, self.rolled, self.measures, self.advantages, everything, KL, self.options, self.layout
        )

    def move(self) -> None:
        """Move the weights a little, as steps would, so that some ratios are clipped."""
        draw = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weights in self.model.parameters():
                weights.add_(MOVED * torch.randn(weights.shape, generator=draw))
        assert 0.05 < self.gradients()["clip_fraction"] < 0.95, "clipping is to be compared, too"

    def step(self, what: str, over: float = 1.0) -> list[parity.Row]:
        """Compare the loss and the gradients at the present weights, TRL's divided by `over`."""
        return parity.compare(
            what,
            self.model,
            lambda: self.gradients()["loss"],
            lambda: self.peer.compute_loss(self.peer.model, self.inputs) / over,
        )


def rows() -> list[parity.Row]:
    """Return every comparison."""
    return [*leave_one_out(), *grpo()]


def grpo() -> list[parity.Row]:
    """Compare GRPO before its first step and after the weights have moved, with each way of its advantages and KL."""
    from trl import GRPOConfig, GRPOTrainer

    more = {"num_iterations": 2}  # else TRL keeps no old log-probabilities
    with sides(GRPOTrainer, GRPOConfig, trees(), GRPO, use_bias_correction_kl=False, **more) as both:
        found = [advantages("GRPO", both), *both.step("GRPO, first step")]
        both.move()
        found += both.step("GRPO, weights moved")
    with sides(GRPOTrainer, GRPOConfig, trees(), GRPO | {"kl_estimator": "k2"}, **more) as both:
        _loss, gradient = both.step("GRPO, first step, k2 and TRL's corrected k3")
        found.append(gradient)
    unscaled = GRPO | {"group_advantages": "group_mean"}
    with sides(GRPOTrainer, GRPOConfig, trees(), unscaled, scale_rewards="none", **more) as both:
        found.append(advantages("GRPO, not divided by the deviation", both))
    return found


def leave_one_out() -> list[parity.Row]:
    """Compare RLOO's advantages, its first gradient, and its loss on answers of one token after the weights moved."""
    from trl import RLOOConfig, RLOOTrainer

    with sides(RLOOTrainer, RLOOConfig, trees(), RLOO) as both:
        kl = losses.kl_k1(both.measures.logps, both.measures.reference_logps)[both.rolled.mask].mean()
        theirs = both.peer._metrics["eval"]["kl"][-1]  # no public name
        found = [parity.row("RLOO: KL of a token, nats", kl, torch.tensor(theirs)), advantages("RLOO", both)]
        length = float(both.rolled.mask.sum() / len(both.rolled.mask))
        _loss, gradient = both.step("RLOO, first step, TRL's over the mean length", length)
        found.append(gradient)
    with sides(RLOOTrainer, RLOOConfig, trees(longest=1), RLOO) as both:
        both.move()
        found += both.step("RLOO, answers of one token, weights moved")
    return found


def advantages(what: str, both: Sides) -> parity.Row:
    """Compare the advantages of all answers."""
    return parity.row(f"{what}: advantages", both.advantages[:, 0], both.inputs["advantages"])


def trees(longest: int = 9) -> list[Tree]:
    """Return prompts of many lengths, each with four answers of up to so many tokens."""
    draw = random.Random(3)
    return [
        Tree(
            parity.ids(draw, 3 + 2 * n),
            [parity.ids(draw, draw.randint(min(2, longest), longest)) for _ in range(ANSWERS)],
        )
        for n in range(parity.PROMPTS)
    ]


@contextmanager
def sides(kind: Any, settings: Any, groups: list[Tree], given: dict[str, Any], **more: Any) -> Iterator[Sides]:
    """Give both sides the answers and their rewards, and let each find the advantages."""
    model, frozen = parity.policy(0), parity.policy(2)
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(parity.PROMPTS * ANSWERS, generator=draw)
    with tempfile.TemporaryDirectory() as folder:
        frozen.save_pretrained(f"{folder}/frozen")
        model.config._name_or_path = f"{folder}/frozen"  # where TRL looks for its reference
        count = parity.PROMPTS * ANSWERS
        arguments = settings(
            folder,
            beta=KL,
            num_generations=ANSWERS,
            temperature=1.0,
            per_device_train_batch_size=count,
            per_device_eval_batch_size=count,
            **more,
            **race.PLAIN,
        )
        peer = answering(kind, arguments, model, groups, scores)
        inputs = peer._generate_and_score_completions([{"prompt": "-"}] * count)  # no public name
        options = options_of(given)
        layout = modeling.choose_layout(model, parity.TOKENS, parity.CPU, frozen)
        rolled = answered(groups, scores)
        measures = measure(Actor(model, frozen), rolled, [list(range(parity.PROMPTS))], options, layout)
        found = rloo.aim(rolled, measures, rolled.objective(0.0), KL, options)
        yield Sides(model, peer, inputs, rolled, measures, found, options, layout)


def answering(kind: Any, arguments: Any, model: Any, groups: list[Tree], scores: torch.Tensor) -> Any:
    """Return a trainer of TRL that draws these answers, and whose reward function knows their rewards."""
    from datasets import Dataset

    prompts = [list(one.prompt) for one in groups for _ in one.completions]
    said = [list(answer) for one in groups for answer in one.completions]

    class Answering(kind):  # type: ignore[misc]  # a class that is an argument
        """The trainer, with answers that are ready."""

        def _generate(self, given: list[str]) -> tuple[Any, ...]:
            texts = ["-"] * len(given)
            return (
                (prompts, said, texts)
                if kind.__name__ == "RLOOTrainer"
                else (prompts, said, None, texts, None, {}, None, None)
            )

    return Answering(
        model=model,
        reward_funcs=lambda **_: scores.tolist(),
        args=arguments,
        train_dataset=Dataset.from_list([{"prompt": "-"}] * parity.PROMPTS),
        processing_class=build_tokenizer(),
    )


def options_of(given: dict[str, Any]) -> RlooOptions:
    """Return our options."""
    count = parity.PROMPTS * ANSWERS
    more = {
        "reward_model": "judge",
        "answers_per_prompt": ANSWERS,
        "minibatches": 1,
        "importance_cap": None,
        "kl_coefficient": KL,
        "optim": {"batch_size": count},
    }
    run: Any = parse_run({"run_id": "parity", "method": "rloo", "model": "policy", "options": more | given})
    assert isinstance(run.options, RlooOptions)
    return run.options


def answered(groups: list[Tree], scores: torch.Tensor) -> Episodes:
    """Return the answers as an iteration of ours, with their rewards as scores."""
    answers = [rollout.Answer(ids, "stop", [0.0] * len(ids), 0.0) for one in groups for ids in one.completions]
    lengths = torch.tensor([len(answer.ids) for answer in answers])
    mask = torch.arange(int(lengths.max())) < lengths[:, None]
    return Episodes([], groups, answers, [], scores[:, None], scores, mask)


if __name__ == "__main__":
    race.only_in_peer_environment()
    parity.show(f"{race.TRL}, groups of answers, one tiny batch in float32", rows())
