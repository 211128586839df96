"""When rounds stop teaching: signs in the figures of a project's rounds, and a sentence with the figures behind it.

No threshold here is a law. The signs are those that one would look for by hand: new policies that do not win, labelers
who see less and less difference, a reward model that sees less, and distance that buys nothing. One of them is noise;
the guard speaks up when policies do not win and another sign is there too.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

CERTAIN = 1.96
MORE_TIES = 0.1
SMALLER_MARGIN = 0.7
IN_A_ROW = 2

State = Literal["too_early", "teaching", "slowing", "saturated"]


@dataclass(frozen=True)
class Measured:
    """What a round has shown; None where it was not measured.

    `ties` is the share of the round's `pairs` in which a labeler saw no difference, of tasks that a fair sample would
    hold. `margin` is the reward model's mean difference on held-out pairs. `win_rate` is over the policy in use, by
    people where they judged, with its interval; `kl` is in nats an answer, from that policy.
    """

    number: int
    pairs: int = 0
    ties: float | None = None
    margin: float | None = None
    win_rate: float | None = None
    low: float | None = None
    high: float | None = None
    kl: float | None = None


@dataclass(frozen=True)
class Saturation:
    """What the rounds say: `sentence` for the page, `signs` with the figures behind it."""

    state: State
    sentence: str
    signs: tuple[str, ...] = ()


def judge(rounds: Sequence[Measured]) -> Saturation:
    """Return whether the rounds still teach; `rounds` are those that have ended, the oldest first."""
    if len(rounds) < IN_A_ROW:
        return Saturation("too_early", "Too early to say: it takes two rounds to see whether they still teach.")
    last = rounds[-1]
    losing = [round_ for round_ in rounds[-IN_A_ROW:] if _does_not_win(round_)]
    others = [sign for sign in (_ties(rounds), _margin(rounds), _distance(rounds)) if sign is not None]
    signs = (*map(_no_win, losing), *others)
    if len(losing) == IN_A_ROW and others:
        sentence = (
            "The rounds have stopped teaching: two new policies in a row were not shown to be better, and there are "
            "other signs too. New prompts, a larger model or clearer guidelines would help more than further rounds."
        )
        return Saturation("saturated", sentence, signs)
    if losing or len(others) > 1:
        sentence = f"Round {last.number} taught less than the ones before; one more will tell whether that is chance."
        return Saturation("slowing", sentence, signs)
    if last.win_rate is None:
        return Saturation("too_early", f"Round {last.number} was not judged, so nobody can say what it taught.", signs)
    won = (
        f"{last.win_rate:.0%} ({last.low:.0%} to {last.high:.0%})" if last.low and last.high else f"{last.win_rate:.0%}"
    )
    return Saturation("teaching", f"The rounds still teach: the last policy wins {won} over the one before.", signs)


def _does_not_win(round_: Measured) -> bool:
    return round_.win_rate is not None and (round_.low if round_.low is not None else round_.win_rate) <= 0.5


def _no_win(round_: Measured) -> str:
    interval = f", interval {round_.low:.0%} to {round_.high:.0%}" if round_.low is not None and round_.high else ""
    return (
        f"Round {round_.number}: the new policy wins {round_.win_rate:.0%}{interval}, so it is not shown to be better."
    )


def _ties(rounds: Sequence[Measured]) -> str | None:
    """More ties than in the first round that had any, by a tenth at least and by more than chance would."""
    asked = [round_ for round_ in rounds if round_.ties is not None and round_.pairs]
    if len(asked) < IN_A_ROW:
        return None
    first, last = asked[0], asked[-1]
    before, now = first.ties or 0.0, last.ties or 0.0
    together = (before * first.pairs + now * last.pairs) / (first.pairs + last.pairs)
    error = math.sqrt(together * (1 - together) * (1 / first.pairs + 1 / last.pairs))
    if now - before < MORE_TIES or now - before <= CERTAIN * error:
        return None
    return f"Labelers tie {now:.0%} of the pairs, where it was {before:.0%} in round {first.number}."


def _margin(rounds: Sequence[Measured]) -> str | None:
    margins = [(round_.margin, round_.number) for round_ in rounds if round_.margin is not None]
    if len(margins) < IN_A_ROW:
        return None
    (now, _), (most, number) = margins[-1], max(margins[:-1])
    if most <= 0 or now >= SMALLER_MARGIN * most:
        return None
    return f"The reward model's margin on held-out pairs is {now:.2f}, where it was {most:.2f} in round {number}."


def _distance(rounds: Sequence[Measured]) -> str | None:
    """Further from the policy in use than a round before, and no better for it."""
    walked = [round_ for round_ in rounds if round_.kl is not None]
    if len(walked) < IN_A_ROW or not _does_not_win(walked[-1]):
        return None
    before, now = walked[-2].kl or 0.0, walked[-1].kl or 0.0
    if now <= before:
        return None
    return f"The policy went further ({now:.1f} nats an answer after {before:.1f}) without winning more."
