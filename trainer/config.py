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
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, TypeVar, Union

from trainer.options import (
    OPTIONS,
    DpoOptions,
    EvaluateOptions,
    FeedbackOptions,
    KtoOptions,
    Options,
    PolicyRef,
    PolicyShare,
    ReviseOptions,
    RewardOptions,
    SampleOptions,
    ScoreOptions,
    SftOptions,
)
from trainer.options_base import RANKING, ConfigError, Lora, Optim, Sampling, require, weights_of
from trainer.options_rollout import PpoOptions, RlooOptions, RolloutOptions

__all__ = [
    "DEFAULTS",
    "METHODS",
    "OPTIONS",
    "RANKING",
    "SCHEMA",
    "SPLITTABLE",
    "ConfigError",
    "DpoOptions",
    "EvaluateOptions",
    "FeedbackOptions",
    "KtoOptions",
    "Lora",
    "Optim",
    "Options",
    "PolicyRef",
    "PolicyShare",
    "PpoOptions",
    "ReviseOptions",
    "RewardOptions",
    "RlooOptions",
    "RolloutOptions",
    "RunConfig",
    "SampleOptions",
    "Sampling",
    "ScoreOptions",
    "SftOptions",
    "dump_run",
    "load_run",
    "parse_run",
    "weights_of",
]

SCHEMA = 1
METHODS = tuple(OPTIONS)
SPLITTABLE = ("sft", "reward", "dpo", "kto", "ppo", "rloo")
"""The methods whose work several processes, one GPU each, can share."""
DEFAULTS: dict[str, dict[str, Any]] = {"ppo": {"checkpoint_steps": 5}, "rloo": {"checkpoint_steps": 5}}
"""By method, defaults of a run's own keys that are not those of `RunConfig`.

An iteration of PPO or RLOO draws, scores and learns from a batch of answers, which takes as long as many steps of the
other methods, and there are 20 by default: with a checkpoint every 50 a run that is killed would begin again.
"""
T = TypeVar("T")


@dataclass(frozen=True)
class RunConfig:
    """One run. `model` is a local folder or a hub id; `max_length` counts prompt and completion tokens together.

    `checkpoint_steps` counts steps, of PPO and RLOO iterations, and is smaller by default there (`DEFAULTS`).
    """

    run_id: str
    method: Literal["sft", "reward", "dpo", "kto", "ppo", "rloo", "evaluate", "sample", "score", "revise", "feedback"]
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
        require(self.schema == SCHEMA, f"schema must be {SCHEMA}; this trainer reads no other.")
        require(bool(self.model), "model must name a local folder or a hub id.")
        require(0 <= self.seed < 2**31, "seed must be from 0 to 2147483647.")
        require(16 <= self.max_length <= 1 << 20, "max_length must be from 16 to 1048576.")
        require(self.checkpoint_steps >= 1, "checkpoint_steps must be at least 1.")
        require(
            not (self.shard and self.lora),
            "optim.shard is for training every weight and does not go with lora, whose frozen base is small already.",
        )

    @property
    def shard(self) -> bool:
        """Whether the processes of the run share one model (`Optim.shard`)."""
        optim: Optim | None = getattr(self.options, "optim", None)
        return optim is not None and optim.shard


def parse_run(value: Any) -> RunConfig:
    """Return the checked configuration of a decoded `run.json`; raise `ConfigError` on anything else."""
    require(isinstance(value, dict), "run.json must hold one JSON object.")
    method = value.get("method")
    require(method in OPTIONS, f"method must be one of {', '.join(OPTIONS)}, not {method!r}.")
    rest = {key: item for key, item in value.items() if key != "options"}
    options = _read_dataclass(OPTIONS[method], value.get("options", {}), "options")
    return _read_dataclass(RunConfig, rest, "", given={**DEFAULTS.get(method, {}), "options": options})


ARTIFACT = "artifact:"
"""How run.json names a folder of the artifact store; it lies in models/<the rest> of the run directory."""


def load_run(run_dir: Path) -> RunConfig:
    """Read and check `run_dir/run.json`; names of artifacts become the folders where the run directory holds them."""
    path = run_dir / RunConfig.FILE
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist; --run must name a run directory.") from None
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path} is not valid JSON: {error}.") from None
    return parse_run(_placed(value, run_dir))


def artifacts_named(value: Any) -> set[str]:
    """Return the artifacts that a run's configuration names, wherever in it."""
    if isinstance(value, (dict, list, tuple)):
        return set().union(*map(artifacts_named, value.values() if isinstance(value, dict) else value))
    return {value} if isinstance(value, str) and value.startswith(ARTIFACT) else set()


def artifact_folder(run_dir: Path, name: str) -> Path:
    """Return where in a run directory an artifact lies."""
    return run_dir / "models" / name.removeprefix(ARTIFACT)


def _placed(value: Any, run_dir: Path) -> Any:
    if isinstance(value, dict):
        return {key: _placed(item, run_dir) for key, item in value.items()}
    if isinstance(value, list):
        return [_placed(item, run_dir) for item in value]
    return str(artifact_folder(run_dir, value)) if isinstance(value, str) and value.startswith(ARTIFACT) else value


def dump_run(config: RunConfig) -> dict[str, Any]:
    """Return the JSON object that `parse_run` reads back to an equal configuration."""
    return dataclasses.asdict(config)


def _read_dataclass(cls: type[T], value: Any, where: str, given: dict[str, Any] | None = None) -> T:
    label = where or "run.json"
    require(isinstance(value, dict), f"{label} must be an object.")
    hints = typing.get_type_hints(cls)
    fields = {item.name: item for item in dataclasses.fields(cls)}  # type: ignore[arg-type]  # callers pass dataclasses
    for key in value:
        require(key in fields, f"{label} has an unknown key {key!r}; known are {', '.join(fields)}.")
    arguments = dict(given or {})
    for name, item in fields.items():
        if name in value:
            below = value[name]
            if item.default_factory is not dataclasses.MISSING and isinstance(below, dict):
                below = dataclasses.asdict(item.default_factory()) | below  # what is left out keeps its default of here
            arguments[name] = _read(hints[name], below, f"{where}.{name}" if where else name)
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
        require(value in parts, f"{where} must be one of {', '.join(map(str, parts))}, not {value!r}.")
        return value
    if origin is tuple:
        require(isinstance(value, (list, tuple)), f"{where} must be a list.")
        return tuple(_read(parts[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if dataclasses.is_dataclass(hint):
        return _read_dataclass(hint, value, where)  # type: ignore[arg-type]  # a dataclass type, as just checked
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    ok = isinstance(value, hint) and not (isinstance(value, bool) and hint is not bool)
    require(ok and value == value, f"{where} must be of type {hint.__name__}, not {value!r}.")
    return value
