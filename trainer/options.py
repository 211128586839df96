"""What each method may be asked to do: frozen dataclasses that check themselves. Standard library only.

A value out of range raises `ConfigError` with one sentence that names the key.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal


class ConfigError(ValueError):
    """The run cannot start as configured; `str(error)` is a sentence for the person who wrote it."""


def require(condition: bool, sentence: str) -> None:
    """Raise `ConfigError` with the sentence unless the condition holds."""
    if not condition:
        raise ConfigError(sentence)


RANKING = "ranking"
"""The name of a reward model's head for the ranking itself, beside those of criteria."""


def weights_of(words: tuple[str, ...]) -> dict[str, float]:
    """Return the weights by name of `("helpful", "honest=0.5")`: 1 where none is given; raise `ConfigError`."""
    found: dict[str, float] = {}
    for word in words:
        name, given, text = word.replace(" ", "").partition("=")
        try:
            weight = float(text) if given else 1.0
        except ValueError:
            weight = math.nan
        require(
            bool(name) and math.isfinite(weight), f"{word!r} must be a name, or a name and its weight as in honest=0.5."
        )
        require(name not in found, f"{name} is named twice.")
        found[name] = weight
    return found


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) on the named linear layers; "all-linear" means every one but the head."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        require(self.rank >= 1, "lora.rank must be at least 1.")
        require(self.alpha > 0, "lora.alpha must be above 0.")
        require(len(self.targets) > 0, "lora.targets must name at least one layer.")


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule. `batch_size` counts prompts a step; they are split to fit `tokens_per_forward`."""

    learning_rate: float = 1e-5
    batch_size: int = 8
    epochs: float = 1.0
    max_steps: int | None = None
    tokens_per_forward: int = 2048
    warmup_fraction: float = 0.05
    schedule: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    grad_clip: float = 1.0
    beta1: float = 0.9
    beta2: float = 0.95
    epsilon: float = 1e-8

    def __post_init__(self) -> None:
        require(0 < self.learning_rate < 1, "optim.learning_rate must be between 0 and 1.")
        require(self.batch_size >= 1, "optim.batch_size must be at least 1.")
        require(self.epochs > 0, "optim.epochs must be above 0.")
        require(self.max_steps is None or self.max_steps >= 1, "optim.max_steps must be at least 1, or null.")
        require(self.tokens_per_forward >= 64, "optim.tokens_per_forward must be at least 64.")
        require(0 <= self.warmup_fraction < 1, "optim.warmup_fraction must be in [0, 1).")
        require(self.grad_clip > 0, "optim.grad_clip must be above 0.")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. PPO takes no `top_p`: its log-probabilities assume the whole distribution."""

    max_new_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        require(1 <= self.max_new_tokens <= 8192, "sampling.max_new_tokens must be from 1 to 8192.")
        require(0 <= self.temperature <= 5, "sampling.temperature must be from 0 (greedy) to 5.")
        require(0 < self.top_p <= 1, "sampling.top_p must be in (0, 1].")
        require(self.batch_size >= 1, "sampling.batch_size must be at least 1.")


@dataclass(frozen=True)
class SftOptions:
    """Supervised fine-tuning on demonstrations; the loss counts completion tokens only.

    `turns`: the written answer alone, or with it every earlier turn of the assistant in the conversation.
    """

    turns: Literal["last", "all"] = "last"
    optim: Optim = field(default_factory=Optim)


@dataclass(frozen=True)
class RewardOptions:
    """Reward model on rankings: all pairs of a prompt from one encoding of each completion (InstructGPT, 3.5).

    `loss`: every pair by itself (Bradley and Terry), whole rankings (Plackett and Luce), or pairs that may tie
    (Davidson). `margin` is asked for between two answers per degree of strength (1 slightly, 2 clearly, 3 much) that
    the labelers gave. Several `heads` on one trunk, each on its own bootstrap of the prompts, tell how sure a score is;
    several `models`, each with its own start and order of the prompts, tell it better and cost as many times as much.
    With LoRA they are adapters on one base. Each of the `criteria` (names of what labelers judged answers by, as
    `honest`, or `honest=0.5` for half its loss) gets heads of its own beside the ranking's, from pairs that it tells
    apart; what was not judged by it teaches it nothing. `reward_mix` says what sum of `ranking` and criteria is the
    reward, as `ranking, honest=0.5`; left out, it is the ranking alone.
    With `labeler_folds` the labelers are dealt into so many groups and nothing is learned from group `held_out_fold`:
    the report then says how far the model agrees with people whom it never saw (InstructGPT, 3.5; 0 turns it off).
    """

    loss: Literal["pairs", "plackett_luce", "davidson"] = "pairs"
    margin: float = 0.0
    heads: int = 1
    models: int = 1
    criteria: tuple[str, ...] = ()
    reward_mix: tuple[str, ...] = ()
    labeler_folds: int = 0
    held_out_fold: int = 0
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        require(self.margin >= 0, "options.margin must not be negative.")
        require(self.margin == 0 or self.loss == "pairs", "options.margin goes with options.loss pairs only.")
        require(1 <= self.heads <= 64, "options.heads must be from 1 to 64.")
        require(1 <= self.models <= 16, "options.models must be from 1 to 16.")
        criteria = weights_of(self.criteria)
        require(RANKING not in criteria, "options.criteria must not name ranking, which always has a head.")
        require(min(criteria.values(), default=1) > 0, "options.criteria must weigh more than 0.")
        for name in weights_of(self.reward_mix):
            require(name in (RANKING, *criteria), f"options.reward_mix names {name}, but options.criteria does not.")
        require(self.labeler_folds == 0 or self.labeler_folds >= 2, "options.labeler_folds must be 0, or at least 2.")
        require(
            0 <= self.held_out_fold < max(1, self.labeler_folds),
            "options.held_out_fold must be from 0 to options.labeler_folds - 1.",
        )


@dataclass(frozen=True)
class DpoOptions:
    """Direct preference optimisation (Rafailov et al. 2023): `beta` scales the implicit reward.

    `loss`: DPO's own of every pair, IPO's, or one of whole rankings (Plackett and Luce). `label_smoothing` is the share
    of labels taken to be wrong (cDPO). `length_normalised` takes log-probabilities a token. `nll_weight` adds that much
    of the better answers' negative log-likelihood a token, against both answers becoming unlikely together.
    """

    beta: float = 0.1
    loss: Literal["dpo", "ipo", "plackett_luce"] = "dpo"
    label_smoothing: float = 0.0
    length_normalised: bool = False
    nll_weight: float = 0.0
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        require(self.beta > 0, "options.beta must be above 0.")
        require(0 <= self.label_smoothing < 0.5, "options.label_smoothing must be in [0, 0.5).")
        require(
            self.label_smoothing == 0 or self.loss == "dpo", "options.label_smoothing goes with options.loss dpo only."
        )
        require(self.nll_weight >= 0, "options.nll_weight must not be negative.")


@dataclass(frozen=True)
class KtoOptions:
    """KTO (Ethayarajh et al. 2024): answers that are acceptable or not, each by itself; `beta` as in DPO."""

    beta: float = 0.1
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        require(self.beta > 0, "options.beta must be above 0.")


@dataclass(frozen=True)
class RolloutOptions:
    """What the methods share that learn from answers of their own, scored by reward models (see `PpoOptions`).

    `iterations` rollouts of `optim.batch_size` answers each, `answers_per_prompt` to a prompt, which is then read once
    for all of them; `ppo_epochs` passes over each rollout in `minibatches` parts of whole prompts.

    **Reward.** All heads of `reward_model` and of `more_reward_models` form one ensemble: their `mean`, the `worst` of
    them, or the mean less `uncertainty_coefficient` times their variance (Coste et al. 2023). Of a model with heads for
    criteria `reward_mix` says what sum is the reward, as `ranking, honest=0.5`; left out, what it was trained with. An
    answer cut off by the length limit loses `missing_end_penalty`.

    **KL to the starting model.** `kl_coefficient` times the estimate `kl_estimator` (Schulman 2020) of each token is
    taken off the rewards, or (`kl_in` loss) added to the loss, where k1 would pull nowhere. With `kl_target` (nats a
    sequence) the coefficient adapts over `kl_horizon` answers. `kl_stop` (nats a token, new policy against the one
    that answered) ends an iteration's updates early. Beyond `kl_limit` (nats a sequence, against the starting model)
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
        require(self.kl_coefficient >= 0, "options.kl_coefficient must not be negative.")
        require(
            self.kl_in == "reward" or self.kl_estimator != "k1",
            "options.kl_estimator must be k2 or k3 where options.kl_in is loss: the gradient of k1 is 0 on average.",
        )
        for name in ("kl_target", "kl_stop", "kl_limit", "importance_cap"):
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


@dataclass(frozen=True)
class PolicyRef:
    """A policy to be judged: the name that reports use, and its folder."""

    name: str
    model: str


@dataclass(frozen=True)
class EvaluateOptions:
    """Judge policies on held-out prompts: samples, reward, KL to the reference, reward-model accuracy.

    `run.model` is the reference and the baseline (named `baseline`). Win rates compare each policy with it.
    `reward_mix` is as in `PpoOptions`. `gold_model` is another reward model, one that no policy was trained against:
    where it and `reward_model` part, the policy has learned to please the one. `regression` names a JSONL file of texts
    and questions (see `trainer.regression`); left out, `data/regression.jsonl` is used if it is there.
    """

    policies: tuple[PolicyRef, ...] = ()
    baseline: str = "base"
    reward_model: str | None = None
    reward_mix: tuple[str, ...] = ()
    gold_model: str | None = None
    regression: str | None = None
    split: Literal["train", "held_out"] = "held_out"
    samples_per_prompt: int = 1
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(self.samples_per_prompt >= 1, "options.samples_per_prompt must be at least 1.")
        weights_of(self.reward_mix)
        names = [self.baseline, *(policy.name for policy in self.policies)]
        require(len(set(names)) == len(names), "options.policies and options.baseline must have different names.")
        require(
            self.gold_model is None or self.reward_model is not None,
            "options.gold_model is held against options.reward_model; name that one, too.",
        )


@dataclass(frozen=True)
class PolicyShare:
    """A policy that writes a share of the answers, at its own temperature (null: that of `options.sampling`)."""

    name: str
    model: str
    share: float = 1.0
    temperature: float | None = None

    def __post_init__(self) -> None:
        require(0 < self.share <= 1000, "options.policies.share must be above 0.")
        require(
            self.temperature is None or 0 <= self.temperature <= 5,
            "options.policies.temperature must be from 0 (greedy) to 5, or null.",
        )


@dataclass(frozen=True)
class SampleOptions:
    """Draw `samples_per_prompt` answers to every prompt of `data/prompts.jsonl`.

    They come from `run.model`, or from several `policies` by their shares (of any sum): each prompt gets of each as
    many as its share rounds to, up or down by chance, so that on average every policy has exactly its share.
    """

    samples_per_prompt: int = 4
    policies: tuple[PolicyShare, ...] = ()
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(1 <= self.samples_per_prompt <= 64, "options.samples_per_prompt must be from 1 to 64.")
        names = [policy.name for policy in self.policies]
        require(len(set(names)) == len(names), "options.policies must have different names.")


@dataclass(frozen=True)
class ScoreOptions:
    """Score the tasks of `data/comparisons.jsonl` by the reward model `run.model`; there is nothing to choose."""


@dataclass(frozen=True)
class ReviseOptions:
    """Critique and revision by the principles of data/constitution.jsonl (Bai et al. 2022): `rounds` for each prompt.

    `sampling.batch_size` counts prompts.
    """

    rounds: int = 1
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        require(1 <= self.rounds <= 16, "options.rounds must be from 1 to 16.")
        require(self.sampling.temperature > 0, "options.sampling.temperature must be above 0, or every round is alike.")


@dataclass(frozen=True)
class FeedbackOptions:
    """Preferences by a judge model under `principles_per_pair` drawn principles (Bai et al. 2022), as soft labels.

    Probabilities are held within [`clamp`, 1 - `clamp`]. `batch_size` counts pairs between two lines of progress.
    """

    principles_per_pair: int = 1
    clamp: float = 0.0
    batch_size: int = 16
    tokens_per_forward: int = 4096

    def __post_init__(self) -> None:
        require(self.principles_per_pair >= 1, "options.principles_per_pair must be at least 1.")
        require(0 <= self.clamp < 0.5, "options.clamp must be in [0, 0.5).")
        require(self.batch_size >= 1, "options.batch_size must be at least 1.")
        require(self.tokens_per_forward >= 64, "options.tokens_per_forward must be at least 64.")


Options = (
    SftOptions
    | RewardOptions
    | DpoOptions
    | KtoOptions
    | PpoOptions
    | RlooOptions
    | EvaluateOptions
    | SampleOptions
    | ScoreOptions
    | ReviseOptions
    | FeedbackOptions
)

OPTIONS: dict[str, type[Options]] = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "dpo": DpoOptions,
    "kto": KtoOptions,
    "ppo": PpoOptions,
    "rloo": RlooOptions,
    "evaluate": EvaluateOptions,
    "sample": SampleOptions,
    "score": ScoreOptions,
    "revise": ReviseOptions,
    "feedback": FeedbackOptions,
}
