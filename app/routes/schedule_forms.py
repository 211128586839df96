"""The form of a schedule: when, what, and the rules for due times that collide."""

from __future__ import annotations

import json
from typing import Any, Literal

from pydantic import Field, ValidationError, ValidationInfo, field_validator
from starlette.requests import Request

from app.errors import InvalidInputError
from app.forms import FormModel, Submitted, sentences
from app.models import Schedule
from app.services.training import weekly
from app.services.training.schedules import FieldError, Values
from app.services.training.weekly import Choices

MAY_BE_EMPTY = ("min_reward_accuracy", "min_win_rate", "min_blind_win_rate", "max_kl")
CHECKED = ("sft", "blind")


class ScheduleForm(FormModel):
    """A schedule as typed. A recipe of one's own takes the place of all choices; `version` is that of the page."""

    action: Literal["save", "preview"] = "save"
    version: int = Field(default=0, ge=0)
    name: str = Field(min_length=1, max_length=80)
    cron: str = Field(min_length=1, max_length=200)
    timezone: str = Field(min_length=1, max_length=64)
    min_new_rankings: int = Field(default=0, ge=0, le=1_000_000)
    catch_up: Literal["latest", "all", "skip"]
    overlap: Literal["skip", "queue", "cancel_running"]
    methods: Literal["dpo", "ppo", "both"] = "dpo"
    sft: Literal["yes", ""] = ""
    start: Literal["newest_sft", "in_use", "base"] = "newest_sft"
    blind: Literal["yes", ""] = ""
    blind_overlap: int = Field(default=1, ge=1, le=16)
    min_blind_win_rate: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    min_reward_accuracy: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    min_win_rate: float | None = Field(default=None, ge=0, le=1, allow_inf_nan=False)
    max_kl: float | None = Field(default=None, ge=0, allow_inf_nan=False)
    promote: Literal["as_project", "by_hand", "automatically"] = "as_project"
    prompts: Literal["all", "unsampled", "train", "held_out", "none"] = "all"
    priority: int = Field(default=10, ge=-1000, le=1000)
    recipe: str = Field(default="", max_length=50_000)

    @field_validator("min_blind_win_rate")
    @classmethod
    def _is_measured(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("blind") == "":
            raise ValueError(weekly.NOT_BLIND)
        return value

    def values(self) -> Values:
        """Return what the service takes; raise `FieldError` when the recipe is no JSON."""
        chosen = None if self.recipe else self.choices()
        return Values(
            name=self.name,
            cron=self.cron,
            timezone=self.timezone,
            recipe=weekly.recipe(chosen) if chosen else _json(self.recipe),
            choices=chosen.model_dump(mode="json") if chosen else None,
            min_new_rankings=self.min_new_rankings,
            catch_up=self.catch_up,
            overlap=self.overlap,
        )

    def choices(self) -> Choices:
        """Return the plain choices."""
        names = set(Choices.model_fields) - set(CHECKED)
        return Choices(**self.model_dump(include=names), sft=self.sft == "yes", blind=self.blind == "yes")


async def read_schedule_form(request: Request) -> Submitted[ScheduleForm]:
    """Dependency: read the form. A threshold that is left empty is the project's."""
    form = await request.form()
    texts = {key: value for key, value in form.items() if isinstance(value, str) and key != "csrf_token"}
    sent = {key: value for key, value in texts.items() if value.strip() or key not in MAY_BE_EMPTY}
    try:
        return Submitted(values=texts, data=ScheduleForm.model_validate(sent))
    except ValidationError as error:
        return Submitted(values=texts, errors=sentences(error))


def first_values() -> dict[str, str]:
    """Return what the form of a new schedule is filled in with: a weekly DPO on Monday nights."""
    return {
        "name": "Weekly DPO",
        "cron": "0 2 * * 1",
        "timezone": "Europe/Berlin",
        "min_new_rankings": "50",
        "catch_up": "latest",
        "overlap": "skip",
        **_texts(Choices()),
    }


def values_of(schedule: Schedule) -> dict[str, str]:
    """Return a schedule as its form shows it."""
    own = "" if schedule.choices is not None else json.dumps(schedule.recipe, indent=2, ensure_ascii=False)
    return {
        "version": str(schedule.version),
        "name": schedule.name,
        "cron": schedule.cron,
        "timezone": schedule.timezone,
        "min_new_rankings": str(schedule.min_new_rankings),
        "catch_up": schedule.catch_up,
        "overlap": schedule.overlap,
        **_texts(Choices.model_validate(schedule.choices or {})),
        "recipe": own,
    }


def _texts(chosen: Choices) -> dict[str, str]:
    texts = {key: "" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
             for key, value in chosen.model_dump().items()}  # fmt: skip
    return texts | {name: "yes" if getattr(chosen, name) else "" for name in CHECKED}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise FieldError("recipe", InvalidInputError(f"The recipe is not JSON: {error}.")) from None
