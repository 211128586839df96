"""What a filled-in board says: its form fields become one judgement by completion id, and turn back into fields.

    rank_A … rank_I      1 is best, equal numbers are a tie; empty where the project allows partial ranking
    choice               instead of ranks for two answers: a3 a2 a1 a tie both_good both_bad b b1 b2 b3
    strength_1 …         how much better the answers of rank 1 are than the next ones: 1 slightly, 2 clearly, 3 much
    line                 answers of this rank and better are acceptable; 0 when none is
    judge_A_KEY          the answer to a criterion: 1 to 7, yes or no, or a text
    edit_A               the improved text of an answer
    reason               why, in the labeler's words

Letters are places in the order shown. A judgement holds ids alone, so it is the same whatever the order was.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from uuid import UUID

from app.errors import InvalidInputError
from app.models import Ranking
from app.services.projects.questions import SCALE, Criterion, Questions
from trainer.jsonl import canonical

LETTERS = "ABCDEFGHI"
STRENGTHS = {1: "slightly", 2: "clearly", 3: "much"}
MAX_REASON, MAX_NOTE, MAX_EDIT = 4_000, 2_000, 20_000

Fields = Mapping[str, str]
Answer = int | bool | str

_CHOICE = re.compile("[ab][123]?|tie|both_good|both_bad")
_UNKNOWN = "The form holds a field that this page does not have. Reload the page and try again."


@dataclass(frozen=True)
class Judgement:
    """A labeler's judgement by completion id; see `app.models.Ranking` for what each part means.

    `edits` are improved texts by the id of the answer they improve.
    """

    groups: list[list[str]]
    strengths: list[int | None] | None = None
    acceptable: int | None = None
    answers: dict[str, dict[str, Answer]] = field(default_factory=dict)
    reason: str = ""
    edits: dict[str, str] = field(default_factory=dict)

    def sha256(self) -> str:
        """Return the hash by which a second send of the same judgement is known."""
        return hashlib.sha256(canonical(asdict(self))).hexdigest()


def judge(fields: Fields, shown_order: Sequence[UUID], questions: Questions) -> Judgement:
    """Return the judgement that the form fields make; raise `InvalidInputError` with the sentence that helps."""
    letters = LETTERS[: len(shown_order)]
    _check_names(fields, letters, questions)
    if fields.get("choice"):
        return _from_choice(fields, shown_order, questions)
    ranks = _ranks(fields, letters)
    groups = tie_groups(shown_order, ranks, questions.rank_at_least)
    used = sorted(set(ranks.values()))
    return Judgement(
        groups,
        _strengths(fields, used, questions),
        _acceptable(fields, used, len(letters)),
        _answers(fields, shown_order, questions),
        _reason(fields, questions),
        _edits(fields, shown_order),
    )


def as_fields(ranking: Ranking, shown_order: Sequence[UUID]) -> dict[str, str]:
    """Return a stored ranking as the form fields that would make it again, its edits aside."""
    letter_of = {str(completion): letter for letter, completion in zip(LETTERS, shown_order, strict=False)}
    fields = {
        f"rank_{letter_of[completion]}": str(rank)
        for rank, group in enumerate(ranking.groups, start=1)
        for completion in group
    }
    for rank, strength in enumerate(ranking.strengths or (), start=1):
        if strength is not None:
            fields[f"strength_{rank}"] = str(strength)
    if ranking.acceptable is not None:
        fields["line"] = str(ranking.acceptable)
    for completion, answers in ranking.judgements.items():
        for key, value in answers.items():
            text = ("no", "yes")[value] if isinstance(value, bool) else str(value)
            fields[f"judge_{letter_of[completion]}_{key}"] = text
    if ranking.reason:
        fields["reason"] = ranking.reason
    if len(shown_order) == len("AB") and _is_choice(ranking):
        fields["choice"] = _as_choice(ranking, letter_of)
    return fields


def tie_groups(
    shown_order: Sequence[UUID], ranks: Mapping[str, int], rank_at_least: int | None = None
) -> list[list[str]]:
    """Return the completion ids as tie groups, best first, from the rank of each shown letter (1 is best).

    Equal ranks are a tie and gaps close up: ranks 1, 3, 3 make two groups. Inside a group ids are sorted, so the same
    judgement has one spelling whatever order the answers were shown in. With `rank_at_least` the rest may stay without
    a rank. Raises `InvalidInputError` when too many ranks are missing, an answer is named that is not there, or a rank
    is not between 1 and K.
    """
    letters = LETTERS[: len(shown_order)]
    foreign = sorted(set(ranks) - set(letters))
    if foreign:
        raise InvalidInputError(
            f"There is no answer {foreign[0]} in this task: rank the answers {letters[0]} to {letters[-1]}."
        )
    missing = [letter for letter in letters if letter not in ranks]
    if missing and rank_at_least is None:
        raise InvalidInputError(f"Give every answer a rank: {_listed(missing)} {_has(missing)} none yet.")
    if rank_at_least is not None and len(ranks) < min(rank_at_least, len(letters)):
        raise InvalidInputError(f"Rank at least the best {min(rank_at_least, len(letters))}; {len(ranks)} are ranked.")
    out_of_range = [letter for letter in letters if letter in ranks and not 1 <= ranks[letter] <= len(letters)]
    if out_of_range:
        raise InvalidInputError(f"The rank of answer {out_of_range[0]} must be between 1 and {len(letters)}.")
    return [
        sorted(
            str(completion)
            for letter, completion in zip(letters, shown_order, strict=True)
            if ranks.get(letter) == rank
        )
        for rank in sorted(set(ranks.values()))
    ]


def clean(text: str, what: str, limit: int) -> str:
    """Return a text as it is stored: plain line ends, no space around it; raise `InvalidInputError` if it cannot be."""
    body = text.replace("\r\n", "\n").replace("\r", "\n").strip()
    if len(body) > limit:
        raise InvalidInputError(f"Shorten {what}: it has {len(body):,} characters, and {limit:,} can be stored.")
    if "\x00" in body:
        raise InvalidInputError(f"Remove the NUL character from {what}; it cannot be stored.")
    return body


def _check_names(fields: Fields, letters: str, questions: Questions) -> None:
    """Refuse a field that this board does not have, so that no answer to a question nobody asked gets lost."""
    keys = {criterion.key for criterion in questions.criteria}
    places = {str(place) for place in range(1, len(letters))} if questions.strength != "off" else set()
    for name in fields:
        kind, _, rest = name.partition("_")
        letter, _, key = rest.partition("_")
        known = (
            (kind == "rank" and len(rest) == 1)
            or (name == "choice" and len(letters) == len("AB"))
            or (kind == "strength" and rest in places)
            or (name == "line" and questions.line)
            or (kind == "judge" and letter in letters and key in keys)
            or (kind == "edit" and rest in letters and questions.edits)
            or (name == "reason" and questions.reason != "off")
        )
        if not known:
            raise InvalidInputError(_UNKNOWN)


def _ranks(fields: Fields, letters: str) -> dict[str, int]:
    ranks: dict[str, int] = {}
    for name, value in fields.items():
        if not name.startswith("rank_") or not value:
            continue
        letter = name.removeprefix("rank_")
        if not value.isdecimal() or len(value) > 1:
            raise InvalidInputError(f"The rank of answer {letter} is not a number from 1 to {len(letters)}.")
        ranks[letter] = int(value)
    return ranks


def _from_choice(fields: Fields, shown_order: Sequence[UUID], questions: Questions) -> Judgement:
    choice = fields["choice"]
    if not _CHOICE.fullmatch(choice):
        raise InvalidInputError("Choose which answer is better, or that they are equal.")
    first, second = (str(completion) for completion in shown_order)
    answers, reason = _answers(fields, shown_order, questions), _reason(fields, questions)
    edits = _edits(fields, shown_order)
    if choice in ("tie", "both_good", "both_bad"):
        acceptable = {"tie": None, "both_good": 1, "both_bad": 0}[choice]
        none: list[int | None] | None = None if questions.strength == "off" else []
        return Judgement([sorted((first, second))], none, acceptable, answers, reason, edits)
    strength = int(choice[1]) if len(choice) > 1 else None
    if strength is not None and questions.strength == "off":
        raise InvalidInputError(_UNKNOWN)
    if strength is None and questions.strength == "required":
        raise InvalidInputError("Say how much better the answer is: slightly, clearly or much.")
    groups = [[first], [second]] if choice[0] == "a" else [[second], [first]]
    asked = None if questions.strength == "off" else [strength]
    return Judgement(groups, asked, None, answers, reason, edits)


def _is_choice(ranking: Ranking) -> bool:
    """Return whether a choice between two says all of a ranking: both are named, and no line was drawn between them."""
    if len(ranking.groups) == 1:
        return len(ranking.groups[0]) > 1
    return ranking.acceptable is None


def _as_choice(ranking: Ranking, letter_of: Mapping[str, str]) -> str:
    if len(ranking.groups) == 1:
        return {None: "tie", 0: "both_bad"}.get(ranking.acceptable, "both_good")
    strength = (ranking.strengths or [None])[0]
    return letter_of[ranking.groups[0][0]].lower() + ("" if strength is None else str(strength))


def _strengths(fields: Fields, used: Sequence[int], questions: Questions) -> list[int | None] | None:
    if questions.strength == "off":
        return None
    strengths: list[int | None] = []
    for rank in used[:-1]:
        value = fields.get(f"strength_{rank}", "")
        if value not in ("", *map(str, STRENGTHS)):
            raise InvalidInputError(f"How much better rank {rank} is than the next is said with 1, 2 or 3.")
        if not value and questions.strength == "required":
            raise InvalidInputError(f"Say how much better rank {rank} is than the next: slightly, clearly or much.")
        strengths.append(int(value) if value else None)
    return strengths


def _acceptable(fields: Fields, used: Sequence[int], count: int) -> int | None:
    value = fields.get("line", "")
    if not value:
        return None
    if not value.isdecimal() or len(value) > 1 or int(value) > count:
        raise InvalidInputError(f"The line stands below a rank from 1 to {count}, or above all of them with 0.")
    return sum(rank <= int(value) for rank in used)


def _answers(fields: Fields, shown_order: Sequence[UUID], questions: Questions) -> dict[str, dict[str, Answer]]:
    found: dict[str, dict[str, Answer]] = {}
    for letter, completion in zip(LETTERS, shown_order, strict=False):
        for criterion in questions.criteria:
            value = _answer(fields.get(f"judge_{letter}_{criterion.key}", ""), criterion, letter)
            if value is not None:
                found.setdefault(str(completion), {})[criterion.key] = value
    return found


def _answer(text: str, criterion: Criterion, letter: str) -> Answer | None:
    about = f"“{criterion.label}” of answer {letter}"
    if not text.strip():
        if criterion.required:
            raise InvalidInputError(f"{about} has no answer yet.")
        return None
    if criterion.kind == "text":
        return clean(text, about, MAX_NOTE)
    if criterion.kind == "yes_no":
        if text not in ("yes", "no"):
            raise InvalidInputError(f"{about} is answered with yes or no.")
        return text == "yes"
    if text not in map(str, SCALE):
        raise InvalidInputError(f"{about} is a number from {SCALE[0]} to {SCALE[-1]}.")
    return int(text)


def _reason(fields: Fields, questions: Questions) -> str:
    reason = clean(fields.get("reason", ""), "the reason", MAX_REASON)
    if not reason and questions.reason == "required":
        raise InvalidInputError("Say in a few words why you judge so.")
    return reason


def _edits(fields: Fields, shown_order: Sequence[UUID]) -> dict[str, str]:
    found = {}
    for letter, completion in zip(LETTERS, shown_order, strict=False):
        text = clean(fields.get(f"edit_{letter}", ""), f"your version of answer {letter}", MAX_EDIT)
        if text:
            found[str(completion)] = text
    return found


def _listed(letters: Sequence[str]) -> str:
    return letters[0] if len(letters) == 1 else ", ".join(letters[:-1]) + " and " + letters[-1]


def _has(letters: Sequence[str]) -> str:
    return "has" if len(letters) == 1 else "have"
