"""Every format by name: what it holds, how it is written and read. Exports, imports and docs share this table."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

from app.errors import InvalidInputError
from app.services.data.formats import (
    arena,
    argilla,
    helpsteer,
    hh,
    instructions,
    label_studio,
    lossless,
    oasst,
    spreadsheet,
    trl,
    ultrafeedback,
)
from app.services.data.formats.records import (
    ASPECTS,
    CannotCarryError,
    Conversation,
    Judge,
    Loss,
    Pair,
    Record,
    Row,
    Ties,
    contents,
    pair_record,
    pairs_of,
)

Source = Literal["rankings", "prompts", "demonstrations"]


@dataclass(frozen=True)
class Format:
    """One shape. Exactly one of the writers is set, but for `plackett`, whose lines the database itself writes, and for
    shapes that are only read.

    `carries` names the aspects of a record (`records.WORDS`) that come back when it is read. `has_ties` says whether
    pairs of equal answers have a place of their own; where they have none, the export's option decides. `judge` is
    what usually judged in files of this shape, where the shape does not say. `keeps_line` says of which pairs the shape
    tells that both answers are acceptable, or neither, where it cannot say so of all.
    """

    name: str
    title: str
    carries: frozenset[str]
    of: Source = "rankings"
    pair: Callable[[Pair], Row] | None = None
    has_ties: bool = True
    needs_strength: bool = False
    keeps_line: Callable[[Pair], bool] | None = None
    record: Callable[[Record], Iterator[Row]] | None = None
    conversation: Callable[[Conversation], Row] | None = None
    read: Callable[[Row], Iterator[Record]] | Callable[[Row], Iterator[Conversation]] | None = None
    table: bool = False
    judge: Judge = "human"

    @property
    def media_type(self) -> str:
        """The type of the file."""
        return "text/csv; charset=utf-8" if self.table else "application/x-ndjson"


def write(of: Format, record: Record, loss: Loss, ties: Ties = "drop") -> list[Row]:
    """Return the rows of one record, and count in `loss` what they do not hold."""
    loss.rankings += 1
    held = contents(record)
    try:
        if of.pair is not None:
            rows = _pairs(of, record, loss, ties)
        else:
            rows = list(of.record(record)) if of.record is not None else []
    except CannotCarryError as error:
        loss.left_out[str(error)] += 1
        return []
    if of.keeps_line is not None and all(map(of.keeps_line, pairs_of(record))):
        del held["lines"]
    for aspect, count in held.items():
        if aspect not in of.carries and not (aspect == "ties" and of.pair is not None and not of.has_ties):
            loss.dropped[aspect] += count
    loss.rows += len(rows)
    return rows


def _pairs(of: Format, record: Record, loss: Loss, ties: Ties) -> list[Row]:
    assert of.pair is not None  # noqa: S101  (the caller has looked)
    rows, dropped = [], 0
    for pair in pairs_of(record):
        if not pair.tie or of.has_ties or ties == "margin0":
            rows.append(of.pair(pair))
            if of.needs_strength and not pair.tie and not pair.strength:
                loss.noted[UNSAID] += 1
        elif ties == "both":
            there = Pair(record, pair.better, pair.worse, acceptable=pair.acceptable)
            back = Pair(record, pair.worse, pair.better, acceptable=pair.acceptable)
            rows += [of.pair(there), of.pair(back)]
            dropped += 1
        else:
            dropped += 1
    loss.dropped["ties"] += dropped
    return rows


UNSAID = "orders of two answers without a strength were written as slightly better"


def _pairwise(pair: Pair) -> Row:
    return next(label_studio.write_pairwise(pair_record(pair)))


_ORDER = frozenset({"orders"})
_RANKING = _ORDER | {"ties", "unranked"}

FORMATS: dict[str, Format] = {
    item.name: item
    for item in (
        Format("plackett", "Plackett, lossless", ASPECTS, read=lossless.read),
        Format("trl", "TRL preference, conversational, explicit prompt", _ORDER | {"strengths"}, pair=trl.explicit,
               has_ties=False, read=trl.read_preference),
        Format("trl-implicit", "TRL preference, conversational, implicit prompt", _ORDER | {"strengths"},
               pair=trl.implicit, has_ties=False, read=trl.read_preference),
        Format("trl-text", "TRL preference, texts, explicit prompt", _ORDER | {"strengths"}, pair=trl.plain,
               has_ties=False, read=trl.read_preference),
        Format("trl-unpaired", "TRL unpaired preference (KTO)", frozenset({"lines"}), record=trl.unpaired,
               read=trl.read_unpaired),
        Format("trl-prompts", "TRL prompt-only", frozenset(), "prompts", conversation=trl.prompt_only,
               read=trl.read_prompt_only),
        Format("trl-sft", "TRL messages of the demonstrations", frozenset(), "demonstrations",
               conversation=trl.messages, read=trl.read_demonstration),
        Format("hh", "Anthropic HH-RLHF; TRL preference, texts, implicit prompt", _ORDER, pair=hh.write,
               has_ties=False, read=hh.read),
        Format("ultrafeedback", "UltraFeedback", _ORDER | {"ties", "models", "reasons"}, record=ultrafeedback.write,
               read=ultrafeedback.read, judge="ai"),
        Format("ultrafeedback-binarized", "UltraFeedback, binarized", _ORDER | {"ties"},
               pair=ultrafeedback.write_binarized, read=ultrafeedback.read_binarized, judge="ai"),
        Format("oasst", "Open Assistant trees", _ORDER | {"ties", "models", "sources"}, record=oasst.write,
               read=oasst.read),
        Format("helpsteer3", "HelpSteer3", _ORDER | {"ties", "strengths", "reasons"}, pair=helpsteer.write,
               read=helpsteer.read, needs_strength=True),
        Format("arena", "Arena battles", _ORDER | {"ties", "models", "labelers"}, pair=arena.write, read=arena.read,
               keeps_line=lambda pair: pair.tie and pair.acceptable == 0),
        Format("argilla", "Argilla, server side", _RANKING | {"reasons", "labelers"}, record=argilla.write,
               read=argilla.read),
        Format("argilla-sdk", "Argilla, SDK", _ORDER | {"unranked", "reasons", "labelers"}, record=argilla.write_sdk,
               read=argilla.read),
        Format("label-studio", "Label Studio, pairwise", _ORDER | {"ties", "reasons", "labelers"}, pair=_pairwise,
               keeps_line=lambda pair: pair.tie,
               read=label_studio.read),
        Format("label-studio-ranker", "Label Studio, ranker", _RANKING | {"models", "reasons", "labelers"},
               record=label_studio.write_ranker, read=label_studio.read),
        Format("csv", "CSV, a row for each answer", ASPECTS, record=spreadsheet.write, table=True),
    )
}  # fmt: skip


READ_ONLY: dict[str, Format] = {
    item.name: item
    for item in (
        Format("instructions", "Instructions with their outputs (Alpaca, Dolly, Self-Instruct)", frozenset(),
               "demonstrations", read=instructions.read),
        Format("answers", "Prompts with answers that nobody has judged", frozenset(), "prompts",
               read=instructions.read_answers),
        Format("oasst-answers", "Open Assistant, first turns with their answers", frozenset(), "prompts",
               read=oasst.read_first_turn),
        Format("mt-bench", "MT-Bench questions, first turns", frozenset(), "prompts",
               read=instructions.read_question),
    )
}  # fmt: skip
"""What is imported and never exported: an export has better shapes for what these hold."""

READ: dict[str, Format] = {name: of for name, of in FORMATS.items() if of.read or of.table} | READ_ONLY
"""Every format that a file may have that comes in."""


def named(name: str) -> Format:
    """Return the format of this name that is written, or raise `InvalidInputError`."""
    return _named(FORMATS, name)


def named_to_read(name: str) -> Format:
    """Return the format of this name that is read, or raise `InvalidInputError`."""
    return _named(READ, name)


def _named(formats: dict[str, Format], name: str) -> Format:
    if name not in formats:
        raise InvalidInputError(f"There is no format {name[:40]!r}; there are {', '.join(formats)}.")
    return formats[name]
