"""The form that starts a run: which fields a method has, their sensible first values, and the run.json they mean."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal
from uuid import UUID

from pydantic import Field, ValidationError
from starlette.requests import Request

from app.forms import FormModel, Submitted, sentences

Method = Literal["sft", "reward", "dpo", "ppo", "evaluate"]

TITLES: dict[str, tuple[str, str]] = {
    "sft": ("SFT", "Fine-tune a model on the demonstrations."),
    "reward": ("Reward model", "Learn from the rankings which of two answers people prefer."),
    "dpo": ("DPO", "Train a policy from the rankings directly."),
    "ppo": ("PPO", "Train a policy by sampling answers and letting a reward model score them."),
    "evaluate": ("Evaluation", "Judge policies on the held-out prompts: reward, distance, win rate."),
}
DEFAULTS: dict[str, dict[str, str]] = {
    "sft": {"learning_rate": "0.0002", "batch_size": "8", "epochs": "3", "max_length": "512", "lora_rank": "16"},
    "reward": {"learning_rate": "0.0001", "batch_size": "8", "epochs": "2", "max_length": "512", "lora_rank": "16"},
    "dpo": {
        "learning_rate": "0.00005", "batch_size": "8", "epochs": "1", "max_length": "512", "lora_rank": "16",
        "beta": "0.1",
    },
    "ppo": {
        "learning_rate": "0.00003", "batch_size": "16", "iterations": "20", "max_length": "512", "lora_rank": "16",
        "kl_coefficient": "0.05", "max_new_tokens": "128",
    },
    "evaluate": {"samples_per_prompt": "1", "temperature": "0.7", "max_new_tokens": "128", "max_length": "512"},
}  # fmt: skip


class RunForm(FormModel):
    """A new run. `form_id` makes a second click find the first click's run; limits beyond these are the trainer's."""

    form_id: UUID
    model_id: UUID
    snapshot_id: UUID
    reward_model_id: UUID | None = None
    policies: list[UUID] = Field(default=[], max_length=16)
    seed: int = Field(default=0, ge=0, le=2**31 - 1)
    learning_rate: float | None = Field(default=None, gt=0, lt=1, allow_inf_nan=False)
    batch_size: int | None = Field(default=None, ge=1, le=4096)
    epochs: float | None = Field(default=None, gt=0, le=1000, allow_inf_nan=False)
    max_length: int | None = Field(default=None, ge=16, le=1 << 20)
    lora_rank: int | None = Field(default=None, ge=0, le=1024)
    beta: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    iterations: int | None = Field(default=None, ge=1, le=100_000)
    kl_coefficient: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    samples_per_prompt: int | None = Field(default=None, ge=1, le=64)
    temperature: float | None = Field(default=None, ge=0, le=5, allow_inf_nan=False)
    max_new_tokens: int | None = Field(default=None, ge=1, le=8192)
    advanced: str = Field(default="", max_length=20_000)


@dataclass(frozen=True)
class Sent:
    """The form as it came, with the policies that were ticked."""

    submitted: Submitted[RunForm]
    policies: tuple[str, ...] = ()
    overrides: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


async def read_run_form(request: Request) -> Sent:
    """Dependency: read the form. A number left empty means the trainer's own default."""
    form = await request.form()
    texts = {
        key: value for key, value in form.items() if isinstance(value, str) and key not in ("csrf_token", "policies")
    }
    policies = tuple(value for value in form.getlist("policies") if isinstance(value, str))
    errors: dict[str, str] = {}
    data = None
    try:
        data = RunForm.model_validate(
            {key: value for key, value in texts.items() if value.strip()} | {"policies": policies}
        )
    except ValidationError as error:
        errors = sentences(error)
    overrides: dict[str, Any] = {}
    if texts.get("advanced", "").strip():
        try:
            overrides = _json_object(texts["advanced"])
        except (ValueError, RecursionError) as error:
            errors["advanced"] = f"This is not a JSON object: {error}."
    return Sent(Submitted(texts, errors, None if errors else data), policies, overrides)


def options_of(method: str, form: RunForm, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the method's options as run.json holds them, the advanced ones on top."""
    optim = _given(learning_rate=form.learning_rate, batch_size=form.batch_size, epochs=form.epochs)
    sampling = _given(temperature=form.temperature, max_new_tokens=form.max_new_tokens)
    options: dict[str, Any] = {}
    if method in ("sft", "reward", "dpo"):
        options = {"optim": optim} | (_given(beta=form.beta) if method == "dpo" else {})
    elif method == "ppo":
        # The rollouts' temperature is 1: PPO's probabilities are those of the whole distribution.
        options = {
            "optim": {"schedule": "constant", "epsilon": 1e-5} | optim,
            "sampling": {"temperature": 1.0} | sampling,
            **_given(iterations=form.iterations, kl_coefficient=form.kl_coefficient),
        }
    elif method == "evaluate":
        options = {"sampling": sampling, **_given(samples_per_prompt=form.samples_per_prompt)}
    return _merged(options, overrides)


def settings_of(method: str, form: RunForm) -> dict[str, Any]:
    """Return the keys of run.json that all methods share. Rank 0 means training every weight."""
    settings: dict[str, Any] = {"seed": form.seed, **_given(max_length=form.max_length)}
    if method != "evaluate" and form.lora_rank:
        settings["lora"] = {"rank": form.lora_rank, "alpha": 2.0 * form.lora_rank}
    return settings


def _given(**values: Any) -> dict[str, Any]:
    return {key: value for key, value in values.items() if value is not None}


def _merged(below: dict[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(merged.get(key), dict)
        merged[key] = _merged(merged[key], value) if both else value
    return merged


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 # one kind of failure for whatever was typed
            'it must be in braces, such as {"optim": {"warmup_fraction": 0.1}}'
        )
    return value
