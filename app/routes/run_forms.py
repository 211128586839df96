"""The form that starts a run: what it works on, and the options of its method as the trainer knows them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any
from uuid import UUID

from pydantic import Field, ValidationError
from starlette.requests import Request

from app.errors import InvalidInputError, NotFoundError
from app.forms import FormModel, Submitted, sentences
from app.services.training import run_options
from app.services.training.run_options import BY_PEOPLE, MOST_GPUS

TITLES: dict[str, tuple[str, str]] = {
    "sft": ("SFT", "Fine-tune a model on the demonstrations."),
    "reward": ("Reward model", "Learn from the rankings which of two answers people prefer."),
    "dpo": ("DPO", "Train a policy from the rankings directly."),
    "kto": ("KTO", "Train a policy from the line that labelers drew between acceptable answers and others."),
    "ppo": ("PPO", "Train a policy by sampling answers and letting a reward model score them."),
    "rloo": (
        "RLOO",
        "As PPO, but each answer is compared with the others to its prompt instead of with a value model.",
    ),
    "evaluate": ("Evaluation", "Judge policies on the held-out prompts: reward, distance, win rate."),
}
OFFERED = {method: TITLES.get(method, (method.upper(), "")) for method in BY_PEOPLE}
"""Title and lead of each method that the trainer of this release knows."""


class RunForm(FormModel):
    """What a new run works on. `form_id` makes a second click find the first click's run."""

    form_id: UUID
    model_id: UUID
    snapshot_id: UUID
    reward_model_id: UUID | None = None
    gold_model_id: UUID | None = None
    gpus: int = Field(default=1, ge=1, le=MOST_GPUS)
    policies: list[UUID] = Field(default=[], max_length=16)
    advanced: str = Field(default="", max_length=20_000)


@dataclass(frozen=True)
class Sent:
    """The form as it came: the policies that were ticked, and the run.json that the rest means."""

    submitted: Submitted[RunForm]
    policies: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    settings: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))


def chosen_method(method: str = "sft") -> str:
    """Dependency: the method that the address names."""
    if method not in OFFERED:
        raise NotFoundError(f"There is no method {method[:40]!r} to start a run of.")
    return method


async def read_run_form(request: Request) -> Sent:
    """Dependency: read the form. A number left empty means the trainer's own default."""
    method = chosen_method(request.query_params.get("method", "sft"))
    form = await request.form()
    texts = {
        key: value for key, value in form.items() if isinstance(value, str) and key not in ("csrf_token", "policies")
    }
    policies = tuple(value for value in form.getlist("policies") if isinstance(value, str))
    settings, errors = run_options.parse(method, texts)
    asked = {item.name for item in run_options.fields_of(method)}
    data = None
    try:
        data = RunForm.model_validate(
            {key: value for key, value in texts.items() if key not in asked and value.strip()} | {"policies": policies}
        )
    except ValidationError as error:
        errors |= sentences(error)
    overrides: dict[str, Any] = {}
    if texts.get("advanced", "").strip():
        try:
            overrides = _json_object(texts["advanced"])
        except (ValueError, RecursionError) as error:
            errors["advanced"] = f"This is not a JSON object: {error}."
    options = run_options.merged(settings.pop("options"), overrides)
    return Sent(Submitted(texts, errors, None if errors else data), policies, options, settings)


def refused(method: str, submitted: Submitted[RunForm], error: InvalidInputError) -> Submitted[RunForm]:
    """Return the form with the refusal beside the field that it is about, or above the form."""
    field_name, sentence = run_options.placed(method, error.message)
    return submitted.refused(InvalidInputError(sentence), field_name)


def _json_object(text: str) -> dict[str, Any]:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise ValueError(  # noqa: TRY004 # one kind of failure for whatever was typed
            'it must be in braces, such as {"optim": {"warmup_fraction": 0.1}}'
        )
    return value
