"""Tags: what a prompt asks of a labeler and what a labeler can judge, such as `lang:de` or `medicine`."""

from __future__ import annotations

import re
from collections.abc import Iterable

from app.errors import InvalidInputError

MOST, LONGEST = 20, 40
HINT = "Lower-case words such as lang:de or medicine, with commas or spaces between them."

_TAG = re.compile(rf"[a-z0-9:_-]{{1,{LONGEST}}}")
_BETWEEN = re.compile(r"[\s,;]+")


def from_text(text: str) -> list[str]:
    """Return the tags of a form's field, sorted and each once; raise `InvalidInputError` for one that cannot be."""
    return normal(part for part in _BETWEEN.split(text) if part)


def normal(tags: Iterable[str]) -> list[str]:
    """Return tags as they are stored: lower-case, sorted, each once; raise `InvalidInputError` with the sentence."""
    found = sorted({tag.strip().lower() for tag in tags})
    wrong = next((tag for tag in found if not _TAG.fullmatch(tag)), None)
    if wrong is not None:
        raise InvalidInputError(
            f"“{wrong[:LONGEST]}” cannot be a tag: use at most {LONGEST} of the letters a to z, digits, colon, "
            "hyphen and underscore."
        )
    if len(found) > MOST:
        raise InvalidInputError(f"These are {len(found)} tags; {MOST} is the most.")
    return found
