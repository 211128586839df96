"""Reading a file in any format: bounded, strict, line by line; what is wrong is noted with its number.

A file may be compressed with gzip, or be Parquet, whose rows a child process writes as lines: then it is at most 4 GiB
once undone, and at most 200 times its compressed size. A line is at most 1 MiB, nested at most 32 deep, strict UTF-8,
without NUL, NaN, a key given twice, half a surrogate pair. Of a file that is one JSON array each element is as a line.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Literal, TypeVar

from app.services.data import arrays, imports
from app.services.data.arrays import ArrayError
from app.services.data.formats import detect, spreadsheet
from app.services.data.formats.catalog import Format
from app.services.data.formats.records import Conversation, LeftOutError, Record, Row
from app.services.data.imports import SHOWN_PROBLEMS, BadLineError
from app.services.data.parquet import files as parquet

T = TypeVar("T")

MAX_BYTES = 4 << 30
MAX_RATIO = 200
MAX_PROBLEMS = 1_000
MOST_ANSWERS = 64
_RATIO_FROM = 1 << 20
_GZIP = b"\x1f\x8b"


@dataclass
class Reading:
    """What is wrong with a file (then nothing is taken), and what of it is left out while the rest is taken.

    `unit` is what is counted: lines, or the elements of an array.
    """

    unit: Literal["Line", "Element"] = "Line"
    lines: int = 0
    problems: list[str] = field(default_factory=list)
    problem_count: int = 0
    left_out: list[str] = field(default_factory=list)
    left_out_count: int = 0

    def refuse(self, problem: str) -> None:
        """Count a problem and keep its text while there are few."""
        self.problem_count += 1
        if len(self.problems) < SHOWN_PROBLEMS:
            self.problems.append(problem)

    def refuse_line(self, number: int, why: BadLineError) -> None:
        """Count a line that cannot be taken."""
        self.refuse(f"{self.unit} {number} {why}")

    def leave_out(self, number: int, why: str) -> None:
        """Count a line that holds nothing to take."""
        self.left_out_count += 1
        if len(self.left_out) < SHOWN_PROBLEMS:
            self.left_out.append(f"{self.unit} {number}: {why}")


def records(file: BinaryIO, of: Format, reading: Reading) -> Iterator[Record]:
    """Yield the file's judgements. It ends early after a thousand problems: such a file is something else."""
    return _each(file, of, reading, Record)


def conversations(file: BinaryIO, of: Format, reading: Reading) -> Iterator[Conversation]:
    """Yield the file's prompts or demonstrations, as `records` yields judgements."""
    return _each(file, of, reading, Conversation)


def _each(file: BinaryIO, of: Format, reading: Reading, kind: type[T]) -> Iterator[T]:
    for item in items(file, of, reading):
        assert isinstance(item, kind)  # noqa: S101  (a format says what it holds)
        yield item


def items(file: BinaryIO, of: Format, reading: Reading) -> Iterator[Record | Conversation]:
    """Yield what the file holds, whichever of both it is."""
    try:
        with _undone(file) as source:
            yield from _checked(source, of, reading)
    except (EOFError, zlib.error, gzip.BadGzipFile):
        reading.refuse("The file is not whole: its compressed part ends early or is damaged.")
    except (_TooLargeError, ArrayError) as error:
        reading.refuse(str(error))
    except parquet.UnreadableError as error:
        reading.refuse(f"The file was read up to row {reading.lines}, then no further: {error}")


def detected(file: BinaryIO) -> str | None:
    """Return the name of the format that the file's first line looks like, or None. The file is at its start again."""
    try:
        with _undone(file) as source:
            for _, raw in arrays.elements(source) if arrays.is_array(source) else imports.lines(source):
                line = raw.strip(b" \t\r\n")
                if line:
                    return detect.of_header(imports.decoded(line)) or detect.of_row(_object(raw, line))
    except _UNREADABLE:
        return None  # reading it in earnest says what is wrong
    finally:
        file.seek(0)
    return None


def _checked(source: BinaryIO, of: Format, reading: Reading) -> Iterator[Record | Conversation]:
    rows = _table(source, reading) if of.table else _objects(source, reading)
    for number, row in rows:
        reading.lines = number
        try:
            found: list[Record | Conversation] = list(_read(of, row))
            for item in found:
                check(item)
        except LeftOutError as error:
            reading.leave_out(number, str(error))
        except BadLineError as error:
            reading.refuse_line(number, error)
        else:
            yield from found
        if reading.problem_count >= MAX_PROBLEMS:
            return


def check(item: Record | Conversation) -> None:
    """Raise `LeftOutError` for what the tables cannot hold."""
    if isinstance(item, Record):
        if len(item.answers) < len(("better", "worse")):
            raise LeftOutError("it judges one answer alone, which orders nothing.")
        if not item.ranking:
            raise LeftOutError("its ranking is empty.")
    elif item.completion is not None and not item.completion.strip():
        raise LeftOutError("its answer has no text.")
    if len(item.answers) > MOST_ANSWERS:
        raise LeftOutError(f"it has more than {MOST_ANSWERS} answers.")
    if not any(message.content.strip() for message in item.messages if message.role == "user"):
        raise LeftOutError("its prompt has no text.")


def _read(of: Format, row: Any) -> Iterator[Record] | Iterator[Conversation]:
    if of.table:
        return spreadsheet.read(row)
    if of.read is None:
        raise BadLineError("is of a format that is only written.")
    return of.read(row)


class _TooLargeError(Exception):
    """The file is larger than is taken."""


_UNREADABLE = (
    BadLineError, EOFError, zlib.error, gzip.BadGzipFile, _TooLargeError, ArrayError, parquet.UnreadableError
)  # fmt: skip


class _Bounded(io.RawIOBase):
    """What a compressed file holds, until it is more than is taken. `packed` says how much of the file was read."""

    def __init__(self, inner: BinaryIO, packed: Callable[[], int]) -> None:
        self._inner, self._packed, self._size = inner, packed, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._inner.read(len(buffer))
        self._size += len(data)
        if self._size > MAX_BYTES:
            raise _TooLargeError("The file holds more than 4 GiB; split it.")
        if self._size > max(_RATIO_FROM, MAX_RATIO * self._packed()):
            raise _TooLargeError(f"The file holds more than {MAX_RATIO} times its compressed size, so it is not read.")
        buffer[: len(data)] = data
        return len(data)


@contextmanager
def _undone(file: BinaryIO) -> Iterator[BinaryIO]:
    """Yield the lines of a file, as they are, compressed with gzip, or the rows of a Parquet file."""
    start = file.read(max(len(_GZIP), len(parquet.MAGIC)))
    file.seek(0)
    if start == parquet.MAGIC:
        size = file.seek(0, io.SEEK_END)
        with parquet.rows(file) as rows:
            yield io.BufferedReader(_Bounded(rows, lambda: size), 1 << 16)
    elif start.startswith(_GZIP):
        with gzip.GzipFile(fileobj=file, mode="rb") as inner:
            yield io.BufferedReader(_Bounded(inner, file.tell), 1 << 16)  # type: ignore[arg-type]  # it reads as one
    else:
        yield file


def _objects(file: BinaryIO, reading: Reading) -> Iterator[tuple[int, Row]]:
    is_array = arrays.is_array(file)
    reading.unit = "Element" if is_array else "Line"
    for number, raw in arrays.elements(file) if is_array else imports.lines(file):
        line = raw.strip(b" \t\r\n")
        if not line and not is_array:
            continue
        try:
            value = _object(raw, line)
        except BadLineError as error:
            reading.refuse_line(number, error)
            if reading.problem_count >= MAX_PROBLEMS:
                return
        else:
            yield number, value


def _object(raw: bytes, line: bytes) -> Row:
    if len(raw) > imports.MAX_LINE_BYTES:
        raise BadLineError("is longer than 1 MiB.")
    value = imports.parsed(imports.decoded(line))
    if not isinstance(value, dict):
        raise BadLineError("is not a JSON object.")
    _storable(line, value)
    return value


def _storable(line: bytes, value: Any) -> None:
    """Refuse what only an escape can smuggle into a text: NUL, and half of a surrogate pair."""
    if b"\\u" not in line:
        return
    try:
        spelled = json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        raise BadLineError("holds half of a surrogate pair, which is no character.") from None
    if b"\\u0000" in spelled.replace(b"\\\\", b""):
        raise BadLineError("holds a NUL character.")


def _table(file: BinaryIO, reading: Reading) -> Iterator[tuple[int, Any]]:
    """Yield the rows of each judgement together, with the number of its first line."""

    def texts() -> Iterator[str]:
        for number, raw in imports.lines(file):
            if len(raw) > imports.MAX_LINE_BYTES:
                raise BadLineError(f"{number} is longer than 1 MiB.")
            yield imports.decoded(raw)

    table = csv.DictReader(texts(), strict=True)
    rows: list[Row] = []
    first = 2
    try:
        if set(table.fieldnames or ()) != set(spreadsheet.COLUMNS):
            reading.refuse(f"Line 1 needs the columns {', '.join(spreadsheet.COLUMNS)}.")
            return
        before = table.line_num + 1
        for row in table:
            if rows and (row["id"] != rows[0]["id"] or len(rows) > MOST_ANSWERS):
                yield first, rows
                rows = []
            if not rows:
                first = before
            rows.append(row)
            before = table.line_num + 1
    except BadLineError as error:
        reading.refuse(f"Line {error}" if str(error)[0].isdigit() else f"A line near {table.line_num + 1} {error}")
        return
    except csv.Error as error:
        reading.refuse(f"Line {table.line_num} is no CSV: {error}.")
        return
    if rows:
        yield first, rows
