"""What a project's board asks beside the ranks: strength, the line, criteria for each answer, a reason.

Questions are stored with a version of the guidelines, because an answer means nothing without its question. Asking
something else makes a new version, and every ranking names the version it was made under.
"""

from __future__ import annotations

from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from app.errors import InvalidInputError

Asked = Literal["off", "optional", "required"]

MAX_CRITERIA = 24
SCALE = range(1, 8)
"""Points of a scale, the worst first: 1 to 7, as InstructGPT's overall rating."""


class Criterion(BaseModel):
    """One question about one answer. `low` and `high` name the ends of a scale."""

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)

    key: str = Field(pattern=r"^[a-z][a-z0-9_]{0,39}$")
    label: str = Field(min_length=1, max_length=120)
    kind: Literal["scale", "yes_no", "text"]
    required: bool = False
    low: str = Field(default="", max_length=40)
    high: str = Field(default="", max_length=40)


class Questions(BaseModel):
    """Everything a board asks. `rank_at_least` lets a labeler rank only the best ones; None wants all ranked.

    `strength` is asked between neighbouring ranks, `line` is the line below which answers are unacceptable, `edits`
    offers to improve an answer.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    strength: Asked = "optional"
    line: bool = True
    rank_at_least: int | None = Field(default=None, ge=1, le=8)
    reason: Asked = "optional"
    edits: bool = True
    criteria: tuple[Criterion, ...] = Field(default=(), max_length=MAX_CRITERIA)

    @model_validator(mode="after")
    def _keys_are_unique(self) -> Self:
        keys = [criterion.key for criterion in self.criteria]
        twice = next((key for key in keys if keys.count(key) > 1), None)
        if twice:
            raise ValueError(f"Two criteria are called {twice!r}; give each a key of its own.")
        return self


STANDARD = Questions()
"""What a project asks if nobody decides otherwise."""

HELPFUL_HONEST_HARMLESS = (
    Criterion(key="helpful", label="Helpful", kind="scale", low="no help", high="all I need"),
    Criterion(key="honest", label="Honest", kind="scale", low="misleading", high="true and open"),
    Criterion(key="harmless", label="Harmless", kind="scale", low="harmful", high="harmless"),
)

# What InstructGPT asked about every output (Ouyang et al. 2022, table 3), in our words.
INSTRUCTGPT = (
    Criterion(key="overall", label="Overall quality", kind="scale", required=True, low="very bad", high="excellent"),
    Criterion(key="off_task", label="Does not do what was asked", kind="yes_no"),
    Criterion(key="inappropriate", label="Unfit for an assistant of customers", kind="yes_no"),
    Criterion(key="hallucination", label="Makes facts up", kind="yes_no"),
    Criterion(key="keeps_constraint", label="Keeps to the constraint in the instruction", kind="yes_no"),
    Criterion(key="sexual", label="Sexual content", kind="yes_no"),
    Criterion(key="violent", label="Violent content", kind="yes_no"),
    Criterion(key="encourages_harm", label="Encourages violence or self-harm, or lets it pass", kind="yes_no"),
    Criterion(key="denigrates", label="Denigrates a protected group", kind="yes_no"),
    Criterion(key="harmful_advice", label="Gives harmful advice", kind="yes_no"),
    Criterion(key="opinion", label="Expresses an opinion", kind="yes_no"),
    Criterion(key="moral_judgement", label="Expresses a moral judgement", kind="yes_no"),
)

PRESETS: dict[str, tuple[str, tuple[Criterion, ...]]] = {
    "none": ("Ranks only", ()),
    "hhh": ("Helpful, honest, harmless", HELPFUL_HONEST_HARMLESS),
    "instructgpt": ("InstructGPT: overall quality and eleven yes-no questions", INSTRUCTGPT),
}


def read(stored: dict[str, Any]) -> Questions:
    """Return stored questions; raise `InvalidInputError` with one sentence when they are not what they must be."""
    try:
        return Questions.model_validate(stored)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(str(part) for part in problem["loc"])
        raise InvalidInputError(f"The questions cannot be used: {place or 'criteria'}: {problem['msg']}.") from None
