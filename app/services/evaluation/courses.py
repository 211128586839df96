"""How a blind evaluation went, as a picture: the win rate and its interval over the prompts judged. Pure arithmetic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from app.services.evaluation.blind_figures import Point

WIDTH, HEIGHT = 640, 200


@dataclass(frozen=True)
class Course:
    """A polyline of the win rate and the outline of its interval, in a box of WIDTH by HEIGHT from 0 to 1."""

    line: str
    band: str
    last: int
    words: str


def drawn(points: Sequence[Point]) -> Course | None:
    """Return the picture of a course; None before there is one. It begins where nothing is known: 0 to 1."""
    if not points:
        return None
    last = points[-1].judged
    start = Point(0, 0.5, 0.0, 1.0)
    lows = [_place(point.judged / last, point.low) for point in (start, *points)]
    highs = [_place(point.judged / last, point.high) for point in (start, *points)]
    line = [_place(point.judged / last, point.win_rate) for point in points]
    end = points[-1]
    words = f"after {last} prompts {end.win_rate:.0%}, between {end.low:.0%} and {end.high:.0%}"
    return Course(" ".join(line), " ".join([*highs, *reversed(lows)]), last, words)


def _place(across: float, up: float) -> str:
    return f"{across * WIDTH:.1f},{(1 - up) * HEIGHT:.1f}"
