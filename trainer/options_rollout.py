"""What PPO and RLOO may be asked to do, as `trainer.options` for the other methods. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.options_base import Optim, Sampling, require, weights_of


@dataclass(frozen=True)
class RolloutOptions:
    """What the methods share that learn from answers of their own, scored by reward models (see `PpoOptions`).

    `iterations` rollouts of `optim.batch_size` answers each, `answers_per_prompt` to a prompt, which is then read once
    for all of them; `ppo_epochs` passes over each rollout in `minibatches` parts of whole prompts.

    **Reward.** All heads of `reward_model` and of `more_reward_models` form one ensemble: their `mean`, the `worst` of
    them, or the mean less `uncertainty_coefficient` times their variance (Coste et al. 2023). Of a model with heads for
    criteria `reward_mix` says what sum is the reward, as `ranking, honest=0.5`; left out, what it was trained with.
    With `reward_clip` no answer has more than that, or less than minus that. An answer cut off by the length limit
    loses `missing_end_penalty` afterwards.

    **KL to the starting model.** `kl_coefficient` times the estimate `kl_estimator` (Schulman 2020) of each token is
    taken off the rewards, or (`kl_in` loss) added to the loss, where k1 would pull nowhere. There only k2 has the
    gradient of KL(policy || start); k3, which GRPO takes, has that of KL(start || policy). With `kl_target` (nats a
    sequence) the coefficient adapts over `kl_horizon` answers. `kl_stop` (nats a token, new policy against the one that
    answered) ends an iteration's updates early. Beyond `kl_limit` (nats a sequence, against the starting model)
    the run goes back to its best weights and doubles the coefficient; the third time it ends there. Best is the
    highest reward less the KL penalty; with `keep` best the run ends with those weights in any case.

    **Sampler.** `transformers`, or `vllm` where it is installed. Where its log-probabilities differ from the trainer's,
    each token weighs exp(trainer - sampler), at most `importance_cap` (null: always 1).
    """

    reward_model: str = ""
    more_reward_models: tuple[str, ...] = ()
    reward_ensemble: Literal["mean", "worst", "uncertainty_weighted"] = "mean"
    uncertainty_coefficient: float = 0.5
    reward_mix: tuple[str, ...] = ()
    reward_clip: float | None = None
    iterations: int = 20
    answers_per_prompt: int = 1
    ppo_epochs: int = 2
    minibatches: int = 2
    kl_coefficient: float = 0.05
    kl_estimator: Literal["k1", "k2", "k3"] = "k1"
    kl_in: Literal["reward", "loss"] = "reward"
    kl_target: float | None = None
    kl_horizon: int = 10_000
    kl_stop: float | None = None
    kl_limit: float | None = None
    keep: Literal["last", "best"] = "last"
    clip_ratio: float = 0.2
    entropy_coefficient: float = 0.0
    missing_end_penalty: float = 1.0
    sampler: Literal["transformers", "vllm"] = "transformers"
    importance_cap: float | None = 2.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0))
    optim: Optim = field(default_factory=lambda: Optim(schedule="constant", epsilon=1e-5))

    def __post_init__(self) -> None:
        require(bool(self.reward_model), "options.reward_model must name the folder of a trained reward model.")
        folders = [self.reward_model, *self.more_reward_models]
        require(len(set(folders)) == len(folders), "options.more_reward_models names a reward model twice.")
        require(self.uncertainty_coefficient >= 0, "options.uncertainty_coefficient must not be negative.")
        weights_of(self.reward_mix)
        require(self.iterations >= 1, "options.iterations must be at least 1.")
        require(1 <= self.answers_per_prompt <= 64, "options.answers_per_prompt must be from 1 to 64.")
        require(
            self.optim.batch_size % self.answers_per_prompt == 0,
            "optim.batch_size counts answers and must be a multiple of options.answers_per_prompt.",
        )
        require(self.ppo_epochs >= 1, "options.ppo_epochs must be at least 1.")
        require(
            1 <= self.minibatches <= self.optim.batch_size // self.answers_per_prompt,
            "options.minibatches must be from 1 to the prompts of an iteration, or a minibatch would be empty.",
        )
        require(
            not self.optim.compile,
            "optim.compile must be false: compiled code rounds otherwise with gradients than without, "
            "so the first ratio of an iteration would not be 1.",
        )
        require(self.kl_coefficient >= 0, "options.kl_coefficient must not be negative.")
        require(
            self.kl_in == "reward" or self.kl_estimator != "k1",
            "options.kl_estimator must be k2 or k3 where options.kl_in is loss: the gradient of k1 is 0 on average.",
        )
        for name in ("reward_clip", "kl_target", "kl_stop", "kl_limit", "importance_cap"):
            value = getattr(self, name)
            require(value is None or value > 0, f"options.{name} must be above 0, or null.")
        require(0 < self.clip_ratio < 1, "options.clip_ratio must be between 0 and 1.")
        require(self.entropy_coefficient >= 0, "options.entropy_coefficient must not be negative.")
        require(self.sampling.top_p == 1.0, "options.sampling.top_p must be 1: log-probabilities assume all tokens.")
        require(self.sampling.temperature > 0, "options.sampling.temperature must be above 0, or nothing is explored.")


@dataclass(frozen=True)
class PpoOptions(RolloutOptions):
    """Proximal policy optimisation with a per-token KL penalty to the starting model (InstructGPT, 3.5).

    The value head starts as the reward model's own where both grew from one base and it explains anything of the first
    answers' returns, or at 0 everywhere (`value_start`).
    `whiten_rewards` divides rewards by their standard deviation, `whiten_advantages` also takes the mean off, both over
    all answer tokens of the iteration. `ptx_coefficient` adds that much of the cross-entropy (mean over tokens) of
    `ptx_batch_size` texts to every update: the demonstrations of data/demonstrations.jsonl, which may be any texts
    that the policy should not unlearn (PPO-ptx).
    """

    value_start: Literal["reward", "zero"] = "reward"
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip_value: float = 0.2
    value_coefficient: float = 0.1
    whiten_rewards: bool = False
    whiten_advantages: bool = True
    ptx_coefficient: float = 0.0
    ptx_batch_size: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require(0 <= self.discount <= 1, "options.discount must be from 0 to 1.")
        require(0 <= self.gae_lambda <= 1, "options.gae_lambda must be from 0 to 1.")
        require(self.clip_value > 0, "options.clip_value must be above 0.")
        require(self.value_coefficient > 0, "options.value_coefficient must be above 0.")
        require(self.ptx_coefficient >= 0, "options.ptx_coefficient must not be negative.")
        require(self.ptx_batch_size >= 1, "options.ptx_batch_size must be at least 1.")


@dataclass(frozen=True)
class RlooOptions(RolloutOptions):
    """Policy gradients whose baseline is the other answers to the same prompt, without a value model.

    `group_advantages`: an answer's reward less the mean of the others (`leave_one_out`, Ahmadian et al. 2024), less the
    mean of all (`group_mean`), or that divided by their standard deviation (`group_normalised`, GRPO).
    """

    answers_per_prompt: int = 4
    ppo_epochs: int = 1
    group_advantages: Literal["leave_one_out", "group_mean", "group_normalised"] = "leave_one_out"

    def __post_init__(self) -> None:
        super().__post_init__()
        require(self.answers_per_prompt >= 2, "options.answers_per_prompt must be at least 2: a group needs others.")
