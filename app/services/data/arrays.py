"""One JSON array, as Label Studio, Alpaca and others write it, taken apart like lines: elements, numbered and bounded.

An element is handed on as its bytes, so that what is read of a line is read of it: how deep, which keys, which
characters. Libraries that stream JSON (such as ijson) hand on values, of which a key given twice is gone by then, and
put together a text of any length before anybody can refuse it.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from typing import BinaryIO

from app.services.data.imports import BOM, MAX_LINE_BYTES

PIECE_BYTES = 1 << 16
_SPACE = b" \t\r\n"
_OUTSIDE = re.compile(rb'["\[\]{},]')
_IN_STRING = re.compile(rb'"|\\.', re.DOTALL)
_DEEPER = {b"[": 1, b"{": 1, b"]": -1, b"}": -1}


class ArrayError(Exception):
    """The array has no end, or not only that; the text is a sentence."""


def is_array(file: BinaryIO) -> bool:
    """Return whether the file, which is at its start and stays there, begins as an array."""
    if isinstance(file, io.BufferedReader):  # it may be a stream that cannot be sought in
        start = file.peek(PIECE_BYTES)
    else:
        start = file.read(PIECE_BYTES)
        file.seek(0)
    return start.removeprefix(BOM).lstrip(_SPACE).startswith(b"[")


def elements(file: BinaryIO) -> Iterator[tuple[int, bytes]]:
    """Yield (number, element) of an array; raise `ArrayError` when it does not end, or goes on behind its end.

    Of an element over the limit one byte more than allowed is yielded, and the last: where it ends is not looked for.
    Memory holds one element.
    """
    held = bytearray(file.read(PIECE_BYTES).removeprefix(BOM))
    del held[: held.index(b"[") + 1]
    number, place, depth, in_string = 0, 0, 0, False
    while True:
        found = (_IN_STRING if in_string else _OUTSIDE).search(held, place)
        if found is None:
            if not in_string:
                place = len(held)
            if len(held) > MAX_LINE_BYTES:
                yield number + 1, bytes(held[: MAX_LINE_BYTES + 1])
                return
            if not (more := file.read(PIECE_BYTES)):
                raise ArrayError(f"The file is not whole: its JSON array does not end. It has {number:,} elements.")
            held += more
            continue
        token, place = found[0], found.end()
        if token == b'"':
            in_string = not in_string
        elif depth == 0 and token in b",]":
            element = bytes(held[: place - 1])
            del held[:place]
            place = 0
            if token == b"," or number or element.strip(_SPACE):  # else it is empty
                number += 1
                yield number, element
            if token == b"]":
                _end(held, file)
                return
        else:
            depth = max(0, depth + _DEEPER.get(token, 0))  # one too many makes its element no JSON


def _end(held: bytearray, file: BinaryIO) -> None:
    rest = bytes(held)
    while rest:
        if rest.strip(_SPACE):
            raise ArrayError("The file goes on behind the end of its JSON array.")
        rest = file.read(PIECE_BYTES)
