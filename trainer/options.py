"""What each method may be asked to do: frozen dataclasses that check themselves. Standard library only.

A value out of range raises `ConfigError` with one sentence that names the key.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from trainer.options_base import RANKING, Optim, Sampling, require, weights_of
from trainer.options_rollout import PpoOptions, RlooOptions


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
        require(
            not self.optim.shard or self.loss != "davidson",
            "optim.shard does not go with options.loss davidson, whose weight for ties is one number and cannot be "
            "spread.",
        )
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
