"""Recipes: what a pipeline does, read from JSON by closed models, and refused in sentences.

    {"stages": [{"name": "data", "kind": "snapshot"},
                {"name": "reward", "kind": "reward", "snapshot": "data", "options": {…of run.json…}}, …]}

A recipe is checked whole before a row exists: every name, every reference to an earlier stage, and the options of
each run by the trainer's own reader. What only the moment can tell, such as which policy is in use, is left to the
stage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from app.errors import InvalidInputError
from app.services.training.stages import KINDS
from app.services.training.stages.base import StageSpec

MOST_STAGES = 32


@dataclass(frozen=True)
class Recipe:
    """A checked recipe: what each stage is asked to do, in order."""

    stages: tuple[StageSpec, ...]

    def as_json(self) -> dict[str, Any]:
        """Return the recipe as it is stored, with the defaults of today written out."""
        return {"stages": [stage.model_dump(mode="json", exclude_none=True) for stage in self.stages]}


def read(value: Any) -> Recipe:
    """Return the checked recipe; raise `InvalidInputError` with a line for each thing that will not do."""
    rows = _rows(value)
    specs: list[StageSpec] = []
    problems: list[str] = []
    for number, row in enumerate(rows, start=1):
        spec, found = _stage(number, row)
        if spec is not None:
            found += _references(number, spec, specs)
            specs.append(spec)
        problems += found
    if problems:
        raise InvalidInputError(
            problems[0] if len(problems) == 1 else f"{len(problems)} things in the recipe will not do. {problems[0]}",
            details=tuple(problems),
        )
    return Recipe(tuple(specs))


def _rows(value: Any) -> list[Any]:
    if not isinstance(value, dict) or set(value) != {"stages"} or not isinstance(value["stages"], list):
        raise InvalidInputError('A recipe is a JSON object with one key, "stages", which holds a list of stages.')
    rows: list[Any] = value["stages"]
    if not 1 <= len(rows) <= MOST_STAGES:
        raise InvalidInputError(f"A recipe has from 1 to {MOST_STAGES} stages.")
    return rows


def _stage(number: int, row: Any) -> tuple[StageSpec | None, list[str]]:
    kind = row.get("kind") if isinstance(row, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        return None, [f"Stage {number}: its kind is one of {', '.join(KINDS)}."]
    try:
        spec = KINDS[kind].Spec.model_validate(row)
        spec.check()
    except ValidationError as error:
        return None, [f"Stage {number} ({kind}): {sentence}" for sentence in _sentences(error)]
    except InvalidInputError as error:
        return None, [f"Stage {number} ({kind}): {error.message}"]
    return spec, []


def _references(number: int, spec: StageSpec, before: list[StageSpec]) -> list[str]:
    label = f"Stage {number} ({spec.name})"
    kinds = {stage.name: str(getattr(stage, "kind", "")) for stage in before}
    problems = [f"{label}: an earlier stage has this name; give each its own."] if spec.name in kinds else []
    for name, wanted in spec.stages_named():
        if name not in kinds:
            problems.append(f"{label}: there is no earlier stage named “{name}”.")
        elif kinds[name] not in wanted:
            problems.append(f"{label}: “{name}” is of the kind {kinds[name]}, and this needs {_either(wanted)}.")
    return problems


def _either(names: tuple[str, ...]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _sentences(error: ValidationError) -> Iterator[str]:
    for problem in error.errors(include_url=False, include_input=False):
        where = ".".join(str(part) for part in problem["loc"])
        match problem["type"]:
            case "missing":
                yield f"the key “{where}” is missing."
            case "extra_forbidden":
                yield f"the key “{where}” is unknown."
            case "string_pattern_mismatch" if where == "name":
                yield "a name has up to 32 lower-case letters, digits, dashes or underscores."
            case "string_pattern_mismatch" if "model" in where or where.split(".")[0] in (
                "baseline",
                "policies",
                "candidate",
            ):
                yield f"“{where}” is in_use, newest_sft, base, stage:NAME or model:NAME."
            case _:
                yield f"“{where}”: {problem['msg'][0].lower()}{problem['msg'][1:]}."
