"""How much of a text is rendered richly; what is beyond is shown as the text it is, so that no text is slow or lost."""

from __future__ import annotations

from dataclasses import dataclass

TEXT = 50_000
"""Characters of a text; a longer one is shown as it was written."""
NESTING = 40
"""Levels of quotes and lists within one another; a list takes two. The parser would drop what lies deeper."""
FORMULA = 2_000
"""Characters of one formula."""
FORMULA_DEPTH = 60
"""Elements within one another in one formula."""
CODE = 8_000
"""Characters of one code block that is highlighted."""
CODE_LINE = 400
"""Characters of one line of it: a search for its end from each of its characters takes the square of that."""
CODE_SECONDS = 0.25
"""Processor time for one code block."""
CACHED = 256
"""Rendered texts kept by each process: the same answers are shown to several labelers and on several pages."""


@dataclass
class Budget:
    """What one text may still spend, in characters."""

    formulas: int = 20_000
    code: int = 32_000

    def takes_formula(self, characters: int) -> bool:
        """Return whether a formula of this length is still typeset, and count it."""
        self.formulas -= characters + 20  # many tiny ones are work too
        return characters <= FORMULA and self.formulas >= 0

    def takes_code(self, code: str) -> bool:
        """Return whether a code block is still highlighted, and count it."""
        self.code -= len(code)
        return len(code) <= CODE and self.code >= 0 and max(map(len, code.split("\n"))) <= CODE_LINE
