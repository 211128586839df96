"""`run.json`: what a run is asked to do, as frozen dataclasses checked on load. Standard library only.

    {"schema": 1, "run_id": "…", "method": "dpo", "seed": 1, "model": "/models/base", "precision": "auto",
     "max_length": 512, "checkpoint_steps": 50, "lora": {"rank": 16, …} | null, "options": {…of the method…}}

An unknown key, a wrong type or a value out of range raises `ConfigError` with one sentence that names the key.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

SCHEMA = 1
METHODS = ("sft", "reward", "dpo", "kto", "ppo", "evaluate", "sample")
T = TypeVar("T")


class ConfigError(ValueError):
    """The run cannot start as configured; `str(error)` is a sentence for the person who wrote it."""


def _require(condition: bool, sentence: str) -> None:
    if not condition:
        raise ConfigError(sentence)


@dataclass(frozen=True)
class Lora:
    """Low-rank adapters (Hu et al. 2021) on the named linear layers; "all-linear" means every one but the head."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ("all-linear",)

    def __post_init__(self) -> None:
        _require(self.rank >= 1, "lora.rank must be at least 1.")
        _require(self.alpha > 0, "lora.alpha must be above 0.")
        _require(len(self.targets) > 0, "lora.targets must name at least one layer.")


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
        _require(0 < self.learning_rate < 1, "optim.learning_rate must be between 0 and 1.")
        _require(self.batch_size >= 1, "optim.batch_size must be at least 1.")
        _require(self.epochs > 0, "optim.epochs must be above 0.")
        _require(self.max_steps is None or self.max_steps >= 1, "optim.max_steps must be at least 1, or null.")
        _require(self.tokens_per_forward >= 64, "optim.tokens_per_forward must be at least 64.")
        _require(0 <= self.warmup_fraction < 1, "optim.warmup_fraction must be in [0, 1).")
        _require(self.grad_clip > 0, "optim.grad_clip must be above 0.")


@dataclass(frozen=True)
class Sampling:
    """How answers are drawn. PPO takes no `top_p`: its log-probabilities assume the whole distribution."""

    max_new_tokens: int = 128
    temperature: float = 0.7
    top_p: float = 1.0
    batch_size: int = 32

    def __post_init__(self) -> None:
        _require(1 <= self.max_new_tokens <= 8192, "sampling.max_new_tokens must be from 1 to 8192.")
        _require(0 <= self.temperature <= 5, "sampling.temperature must be from 0 (greedy) to 5.")
        _require(0 < self.top_p <= 1, "sampling.top_p must be in (0, 1].")
        _require(self.batch_size >= 1, "sampling.batch_size must be at least 1.")


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
    the labelers gave. Several `heads` on one trunk, each on its own bootstrap of the prompts, tell how sure a score is.
    With `labeler_folds` the labelers are dealt into so many groups and nothing is learned from group `held_out_fold`:
    the report then says how far the model agrees with people whom it never saw (InstructGPT, 3.5; 0 turns it off).
    """

    loss: Literal["pairs", "plackett_luce", "davidson"] = "pairs"
    margin: float = 0.0
    heads: int = 1
    labeler_folds: int = 0
    held_out_fold: int = 0
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        _require(self.margin >= 0, "options.margin must not be negative.")
        _require(self.margin == 0 or self.loss == "pairs", "options.margin goes with options.loss pairs only.")
        _require(1 <= self.heads <= 64, "options.heads must be from 1 to 64.")
        _require(self.labeler_folds == 0 or self.labeler_folds >= 2, "options.labeler_folds must be 0, or at least 2.")
        _require(
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
        _require(self.beta > 0, "options.beta must be above 0.")
        _require(0 <= self.label_smoothing < 0.5, "options.label_smoothing must be in [0, 0.5).")
        _require(
            self.label_smoothing == 0 or self.loss == "dpo", "options.label_smoothing goes with options.loss dpo only."
        )
        _require(self.nll_weight >= 0, "options.nll_weight must not be negative.")


@dataclass(frozen=True)
class KtoOptions:
    """KTO (Ethayarajh et al. 2024): answers that are acceptable or not, each by itself; `beta` as in DPO."""

    beta: float = 0.1
    optim: Optim = field(default_factory=Optim)

    def __post_init__(self) -> None:
        _require(self.beta > 0, "options.beta must be above 0.")


@dataclass(frozen=True)
class PpoOptions:
    """Proximal policy optimisation with a per-token KL penalty to the starting model (InstructGPT, 3.5).

    `iterations` rollouts of `optim.batch_size` episodes each; `ppo_epochs` passes over each in `minibatches` parts.
    """

    reward_model: str = ""
    iterations: int = 20
    ppo_epochs: int = 2
    minibatches: int = 2
    kl_coefficient: float = 0.05
    kl_target: float | None = None
    kl_horizon: int = 10_000
    discount: float = 1.0
    gae_lambda: float = 0.95
    clip_ratio: float = 0.2
    clip_value: float = 0.2
    value_coefficient: float = 0.1
    missing_end_penalty: float = 1.0
    sampling: Sampling = field(default_factory=lambda: Sampling(temperature=1.0))
    optim: Optim = field(default_factory=lambda: Optim(schedule="constant", epsilon=1e-5))

    def __post_init__(self) -> None:
        _require(bool(self.reward_model), "options.reward_model must name the folder of a trained reward model.")
        _require(self.iterations >= 1, "options.iterations must be at least 1.")
        _require(self.ppo_epochs >= 1, "options.ppo_epochs must be at least 1.")
        _require(
            1 <= self.minibatches <= self.optim.batch_size,
            "options.minibatches must be from 1 to optim.batch_size, or a minibatch would be empty.",
        )
        _require(self.kl_coefficient >= 0, "options.kl_coefficient must not be negative.")
        _require(self.kl_target is None or self.kl_target > 0, "options.kl_target must be above 0, or null.")
        _require(self.sampling.top_p == 1.0, "options.sampling.top_p must be 1 for PPO.")
        _require(self.sampling.temperature > 0, "options.sampling.temperature must be above 0 for PPO.")


@dataclass(frozen=True)
class PolicyRef:
    """A policy to be judged: the name that reports use, and its folder."""

    name: str
    model: str


@dataclass(frozen=True)
class EvaluateOptions:
    """Judge policies on held-out prompts: samples, reward, KL to the reference, reward-model accuracy.

    `run.model` is the reference and the baseline (named `baseline`). Win rates compare each policy with it.
    """

    policies: tuple[PolicyRef, ...] = ()
    baseline: str = "base"
    reward_model: str | None = None
    split: Literal["train", "held_out"] = "held_out"
    samples_per_prompt: int = 1
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        _require(self.samples_per_prompt >= 1, "options.samples_per_prompt must be at least 1.")
        names = [self.baseline, *(policy.name for policy in self.policies)]
        _require(len(set(names)) == len(names), "options.policies and options.baseline must have different names.")


@dataclass(frozen=True)
class SampleOptions:
    """Draw `samples_per_prompt` answers to every prompt of `data/prompts.jsonl` from `run.model`."""

    samples_per_prompt: int = 4
    sampling: Sampling = field(default_factory=Sampling)

    def __post_init__(self) -> None:
        _require(1 <= self.samples_per_prompt <= 64, "options.samples_per_prompt must be from 1 to 64.")


Options = SftOptions | RewardOptions | DpoOptions | KtoOptions | PpoOptions | EvaluateOptions | SampleOptions

OPTIONS: dict[str, type[Options]] = {
    "sft": SftOptions,
    "reward": RewardOptions,
    "dpo": DpoOptions,
    "kto": KtoOptions,
    "ppo": PpoOptions,
    "evaluate": EvaluateOptions,
    "sample": SampleOptions,
}


@dataclass(frozen=True)
class RunConfig:
    """One run. `model` is a local folder or a hub id; `max_length` counts prompt and completion tokens together."""

    run_id: str
    method: Literal["sft", "reward", "dpo", "kto", "ppo", "evaluate", "sample"]
    model: str
    options: Options
    seed: int = 0
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    max_length: int = 512
    checkpoint_steps: int = 50
    lora: Lora | None = None
    snapshot_id: str | None = None
    schema: int = SCHEMA

    FILE: ClassVar[str] = "run.json"

    def __post_init__(self) -> None:
        _require(self.schema == SCHEMA, f"schema must be {SCHEMA}; this trainer reads no other.")
        _require(bool(self.model), "model must name a local folder or a hub id.")
        _require(0 <= self.seed < 2**31, "seed must be from 0 to 2147483647.")
        _require(16 <= self.max_length <= 1 << 20, "max_length must be from 16 to 1048576.")
        _require(self.checkpoint_steps >= 1, "checkpoint_steps must be at least 1.")


def parse_run(value: Any) -> RunConfig:
    """Return the checked configuration of a decoded `run.json`; raise `ConfigError` on anything else."""
    _require(isinstance(value, dict), "run.json must hold one JSON object.")
    method = value.get("method")
    _require(method in OPTIONS, f"method must be one of {', '.join(OPTIONS)}, not {method!r}.")
    rest = {key: item for key, item in value.items() if key != "options"}
    options = _read_dataclass(OPTIONS[method], value.get("options", {}), "options")
    return _read_dataclass(RunConfig, rest, "", given={"options": options})


def load_run(run_dir: Path) -> RunConfig:
    """Read and check `run_dir/run.json`."""
    path = run_dir / RunConfig.FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; --run must name a run directory.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from None
    return parse_run(value)


def dump_run(config: RunConfig) -> dict[str, Any]:
    """Return the JSON object that `parse_run` reads back to an equal configuration."""
    return dataclasses.asdict(config)


def _read_dataclass(cls: type[T], value: Any, where: str, given: dict[str, Any] | None = None) -> T:
    label = where or "run.json"
    _require(isinstance(value, dict), f"{label} must be an object.")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]  # callers pass dataclasses
    for key in value:
        _require(key in fields, f"{label} has an unknown key {key!r}; known are {', '.join(fields)}.")
    arguments = dict(given or {})
    for name, item in fields.items():
        if name in value:
            arguments[name] = _read(hints[name], value[name], f"{where}.{name}" if where else name)
        elif name not in arguments and item.default is item.default_factory is dataclasses.MISSING:
            raise ConfigError(f"{label} lacks the key {name!r}.")
    return cls(**arguments)


def _read(hint: Any, value: Any, where: str) -> Any:
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        if value is None and type(None) in parts:
            return None
        return _read(next(part for part in parts if part is not type(None)), value, where)
    if origin is Literal:
        _require(value in parts, f"{where} must be one of {', '.join(map(str, parts))}, not {value!r}.")
        return value
    if origin is tuple:
        _require(isinstance(value, (list, tuple)), f"{where} must be a list.")
        return tuple(_read(parts[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, where)  # type: ignore[arg-type]  # a dataclass type, as just checked
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    ok = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    _require(ok and value == value, f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value
