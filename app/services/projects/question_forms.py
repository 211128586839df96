"""The editor of a project's questions as form fields, read into `Questions` and filled in from them.

strength, reason                 off, optional or required
line, edits                      yes when ticked
rank_at_least                    empty: every answer is ranked
criterion_1_label … _24_label    one row for each criterion; a row without a label is no criterion
criterion_1_key _kind _required _low _high
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from app.errors import InvalidInputError
from app.services.projects.questions import MAX_CRITERIA, PRESETS, Criterion, Questions

Fields = Mapping[str, str]

KINDS = {"scale": "1 to 7", "yes_no": "Yes or no", "text": "A text"}
ASKED = {"off": "Not asked", "optional": "Optional", "required": "Required"}
BLANK_ROWS = 2
PARTS = ("label", "key", "kind", "required", "low", "high")

_NAME = re.compile(rf"criterion_([1-9]\d?)_({'|'.join(PARTS)})")
_SIMPLE = frozenset({"strength", "line", "rank_at_least", "reason", "edits"})


def is_field(name: str) -> bool:
    """Return whether a form field is one of this editor's."""
    row = _NAME.fullmatch(name)
    return name in _SIMPLE or (row is not None and int(row[1]) <= MAX_CRITERIA)


def read(fields: Fields) -> Questions:
    """Return the questions that the fields make; raise `InvalidInputError` with the sentence that helps."""
    for name, what in (("strength", "the strength"), ("reason", "the reason")):
        if fields.get(name) not in ASKED:
            raise InvalidInputError(f"Choose whether {what} is asked: not, optional or required.")
    criteria = [_criterion(fields, row) for row in range(1, MAX_CRITERIA + 1) if _text(fields, row, "label")]
    keys = [criterion.key for criterion in criteria]
    twice = next((criterion for criterion in criteria if keys.count(criterion.key) > 1), None)
    if twice:
        raise InvalidInputError(f"Two criteria have the key “{twice.key}”; give each one of its own.")
    return Questions(
        strength=fields["strength"],
        line="line" in fields,
        rank_at_least=_rank_at_least(fields.get("rank_at_least", "").strip()),
        reason=fields["reason"],
        edits="edits" in fields,
        criteria=tuple(criteria),
    )


def filled(questions: Questions) -> dict[str, str]:
    """Return the fields that make these questions."""
    fields: dict[str, str] = {"strength": questions.strength, "reason": questions.reason}
    fields |= {name: "yes" for name, asked in (("line", questions.line), ("edits", questions.edits)) if asked}
    fields["rank_at_least"] = "" if questions.rank_at_least is None else str(questions.rank_at_least)
    return {**fields, **_rows(questions.criteria)}


def with_preset(fields: Fields, name: str) -> dict[str, str]:
    """Return the fields with the criteria of a preset in place of their own; the rest stays as it was typed."""
    if name not in PRESETS:
        raise InvalidInputError("Choose one of the presets offered.")
    kept = {key: value for key, value in fields.items() if not key.startswith("criterion_")}
    return {**kept, **_rows(PRESETS[name][1])}


def rows_shown(fields: Fields, wanted: int = 0) -> int:
    """Return how many rows the editor shows: those in use and a few blank ones, or more if they are asked for."""
    used = [int(row[1]) for name in fields if (row := _NAME.fullmatch(name)) and fields[name].strip()]
    labelled = [row for row in used if _text(fields, row, "label")]
    return min(MAX_CRITERIA, max(max(labelled, default=0) + BLANK_ROWS, wanted))


def _rows(criteria: tuple[Criterion, ...]) -> dict[str, str]:
    fields: dict[str, str] = {}
    for row, criterion in enumerate(criteria, start=1):
        values = criterion.model_dump(exclude={"required"}) | ({"required": "yes"} if criterion.required else {})
        fields |= {f"criterion_{row}_{part}": value for part, value in values.items()}
    return fields


def _text(fields: Fields, row: int, part: str) -> str:
    return " ".join(fields.get(f"criterion_{row}_{part}", "").replace("\x00", " ").split())


def _criterion(fields: Fields, row: int) -> Criterion:
    label = _text(fields, row, "label")
    # A key names the answers for ever, so one that was given is kept; only a new row makes one from its label.
    key = _text(fields, row, "key").lower() or re.sub(r"[^a-z0-9]+", "_", label.lower()).strip("_")[:40]
    if not re.fullmatch(r"[a-z][a-z0-9_]{0,39}", key):
        raise InvalidInputError(
            f"Give “{label[:40]}” a key of small letters, digits and underscores that starts with a letter."
        )
    kind = fields.get(f"criterion_{row}_kind", "")
    if kind not in KINDS:
        raise InvalidInputError(f"Choose how “{label[:40]}” is answered: 1 to 7, yes or no, or a text.")
    try:
        return Criterion(
            key=key,
            label=label,
            kind=kind,
            required=f"criterion_{row}_required" in fields,
            low=_text(fields, row, "low") if kind == "scale" else "",
            high=_text(fields, row, "high") if kind == "scale" else "",
        )
    except ValidationError:
        raise InvalidInputError(
            f"Shorten “{label[:40]}”: a label has at most 120 characters, the name of an end 40."
        ) from None


def _rank_at_least(value: str) -> int | None:
    if not value:
        return None
    if value not in map(str, range(1, 9)):
        raise InvalidInputError("Rank at least is a number from 1 to 8; leave it empty to have every answer ranked.")
    return int(value)
