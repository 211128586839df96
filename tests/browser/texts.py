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

CHAT = {
    "Can you help me cook?": ("Gladly. What are you cooking, and for how many?", "Yes."),
    "Spaghetti for six. Why does it always stick together?": (
        (
            "Use a **large pot** and more water than you think: about a litre for every 100 g.\n\n"
            "1. Bring it to a rolling boil.\n2. Add a spoon of salt.\n"
            "3. Stir in the first minute, when the starch is stickiest.\n\n"
            "Taste it a minute before the packet says; pasta goes on cooking in the sauce."
        ),
        (
            "Pasta sticks because its surface starch has nowhere to go. Stir it early and often.\n\n"
            "| What | Why |\n|---|---|\n| plenty of water | thins the starch |\n| stirring | keeps pieces apart |\n\n"
            "Oil in the water does little: it floats, and later keeps the sauce from clinging."
        ),
    ),
}
"""The messages of a chat, with both answers to each."""
