"""A trainer's log as a page shows it: bounded, and without what would steer a terminal or turn a line around."""

from __future__ import annotations

import re

LONGEST = 16 << 10

# Escape sequences of terminals: with parameters, with a text of their own (titles, links), and the short ones.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)?|[@-Z\\-_])")
# What is left of control characters, and the marks that change the direction of the text around them.
_UNSEEN = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]")


def readable(log: str) -> str:
    """Return the end of a log as plain text."""
    return _UNSEEN.sub("", _ESCAPES.sub("", log[-LONGEST:]))
