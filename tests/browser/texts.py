"""What the browser tests write and read: a project as people would run one, in our own words."""

from __future__ import annotations

import json
from pathlib import Path

PROJECT = "Everyday questions"

GUIDELINES = """\
Put the answer first that **you would be glad to get** from a knowledgeable friend.

1. **Right** comes before everything. A wrong fact costs more than a dull sentence.
2. **Helpful** comes next: it answers what was asked, and says what is not known.
3. **Short** decides between two that are equally right and helpful.

Two answers that are equally good share a rank. Skip a task you cannot judge.
"""

QUESTIONS: dict[str, tuple[str, ...]] = {
    row["prompt"]: tuple(row["answers"])
    for row in map(json.loads, Path(__file__).with_name("questions.jsonl").read_text(encoding="utf-8").splitlines())
}
"""Answers by question, four to each, of the kinds that labelers meet: good, plain, wrong, beside the point."""

DEMONSTRATION = (
    "Let the dough rise until it has doubled, even if that takes two hours. When you press it and the dent fills "
    "slowly, bake it."
)
