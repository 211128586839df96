"""TensorBoard event files, written by ourselves: the format is small and has been the same for years. Standard library.

    RUN_DIR/events.out.tfevents.0000000001.plackett

A file is a row of records (TFRecord: length, payload, and a CRC-32C of either), each an `Event` as protocol buffers
encode it. The file always says what `metrics.jsonl` says: an attempt that goes on from a checkpoint writes the next
file, with all steps up to there, and takes the one before away. A session's start at step 0 comes first, at which a
TensorBoard that has the earlier file open forgets what it read.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

PREFIX, SUFFIX = "events.out.tfevents.", ".plackett"
VERSION = b"brain.Event:2"
NOT_PLOTTED = frozenset({"step", "time", "total_steps"})


class EventFile:
    """The event file of one attempt; `rows` are the lines of `metrics.jsonl` that earlier attempts have left."""

    def __init__(self, run_dir: Path, rows: Iterable[Mapping[str, Any]], now: float) -> None:
        before = sorted(run_dir.glob(f"{PREFIX}*{SUFFIX}"))
        number = int(before[-1].name.removeprefix(PREFIX).removesuffix(SUFFIX)) + 1 if before else 1
        self.path = run_dir / f"{PREFIX}{number:010d}{SUFFIX}"
        self._file: BinaryIO = self.path.open("wb")
        self._write(_event(now, 0, _bytes(3, VERSION)))
        self._write(_event(now, 0, _bytes(7, _varint_field(1, 1))))  # SessionLog.START
        for row in rows:
            self.add(row)
        for old in before:
            old.unlink()

    def add(self, row: Mapping[str, Any]) -> None:
        """Append the numbers of one line of metrics and hand them to the system."""
        values = b"".join(
            _bytes(1, _bytes(1, name.encode()) + b"\x15" + struct.pack("<f", value))
            for name, value in row.items()
            if name not in NOT_PLOTTED and _is_plottable(value)
        )
        if values:
            self._write(_event(float(row["time"]), int(row["step"]), _bytes(5, values)))
        self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _write(self, payload: bytes) -> None:
        length = struct.pack("<Q", len(payload))
        self._file.write(length + _checksum(length) + payload + _checksum(payload))


def _is_plottable(value: Any) -> bool:
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and (not math.isfinite(value) or abs(value) < 3.4e38)  # a float of four bytes


def _event(time: float, step: int, content: bytes) -> bytes:
    return b"\x09" + struct.pack("<d", time) + _varint_field(2, step) + content


def _bytes(number: int, payload: bytes) -> bytes:
    return _varint(number << 3 | 2) + _varint(len(payload)) + payload


def _varint_field(number: int, value: int) -> bytes:
    return _varint(number << 3) + _varint(value)


def _varint(value: int) -> bytes:
    found = bytearray()
    while value > 0x7F:
        found.append(value & 0x7F | 0x80)
        value >>= 7
    found.append(value)
    return bytes(found)


def _crc_table() -> list[int]:
    table = list(range(256))
    for _ in range(8):
        table = [value >> 1 ^ (0x82F63B78 if value & 1 else 0) for value in table]  # Castagnoli's polynomial, reversed
    return table


_TABLE = _crc_table()


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of `data` (RFC 3720, appendix B.4)."""
    value = 0xFFFFFFFF
    for byte in data:
        value = _TABLE[(value ^ byte) & 0xFF] ^ value >> 8
    return value ^ 0xFFFFFFFF


def _checksum(data: bytes) -> bytes:
    """Return the CRC as TFRecord stores it: turned and shifted, so that a CRC of data with CRCs in it is still good."""
    value = crc32c(data)
    return struct.pack("<I", ((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF)
