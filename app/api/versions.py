"""Edits that never overwrite what somebody else has changed: a strong ETag of what was read, and If-Match to change it.

RFC 9110, sections 8.8.3 and 13.1.1; without If-Match the answer is 428 (RFC 6585).
"""

from __future__ import annotations

import hashlib
import re
from typing import Annotated

from fastapi import Header
from pydantic import BaseModel

from app.errors import ChangedError, UnconditionalError

_ONE = re.compile(r'\s*(?:W/)?"[^"]*"\s*')

IfMatch = Annotated[
    str | None,
    Header(alias="If-Match", description="The ETag of what was read, or * for whatever is there. Required."),
]


def etag(shown: BaseModel) -> str:
    """Return the strong ETag of a representation."""
    return f'"{hashlib.sha256(shown.model_dump_json().encode()).hexdigest()[:32]}"'


def check(if_match: str | None, shown: BaseModel) -> None:
    """Raise unless the caller means this representation. Call it once the row is locked."""
    if if_match is None:
        raise UnconditionalError(
            "Send the ETag of what you have read in the header If-Match, or * to change it anyway."
        )
    if if_match.strip() == "*":
        return
    # A weak one never matches here, so it is simply not equal to ours.
    if etag(shown) not in [part.strip() for part in _ONE.findall(if_match)]:
        raise ChangedError("This has been changed since you read it. Read it again, then send its new ETag.")
