"""Messages are cut out of what PostgreSQL spells, not parsed: the bytes must be those of parsing all the same."""

from __future__ import annotations

import json
from typing import Any

import pytest
from sqlalchemy import Text, cast, literal, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.orm import Session

from app.services.training.snapshot_lines import canonical
from trainer import jsonl

TEXTS = (
    "Why?",
    "",
    'He said "no", "content": "yes"',
    '"}, {"role": "user", "content": "',
    '\\"}, {"role": "user", "content": "\\',
    "ends with \\",
    'ends with \\"',
    ', "',
    "\x01\x02\x1f\x7f\x80\u2028\t\n\r\b\f/</script>",
    "naïve “quotes” 字 🙂 \U0010ffff",
    "{} [] : , null 1e5",
)


@pytest.mark.parametrize(
    "messages",
    [
        *([{"role": "user", "content": content}] for content in TEXTS),
        [{"role": role, "content": content} for content in TEXTS for role in ("user", "assistant")],
        [{"role": "system", "content": first} for first in TEXTS],
        [{"role": "user", "content": "x", "name": "y"}, {"role": "user", "content": "z"}],
        [{"role": "user", "content": "x", "weights": 5}],
        [{"id": 5, "role": "user", "content": "x"}],
        [{"role": "user", "content": "x"}, {"id": 5, "role": "user", "content": "x"}],
        [{"role": "user", "content": "x"}, {"name": "y", "role": "user", "content": "x"}],
        [{"role": "user", "content": "x", "more": {"role": "y"}}],
    ],
)
def test_messages_are_spelled_as_if_they_had_been_parsed(session: Session, messages: list[dict[str, Any]]) -> None:
    spelled = session.scalar(select(cast(cast(literal(json.dumps(messages)), JSONB), Text)))
    assert spelled is not None
    wanted = [{"role": item["role"], "content": item["content"]} for item in messages]
    assert canonical(spelled.encode()) == jsonl.canonical(wanted)
