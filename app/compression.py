"""Compressing a stream on its way out, as far as its reader says that it can undo it."""

from __future__ import annotations

import re
import sys
import zlib
from collections.abc import Generator, Iterator
from typing import Literal, Protocol

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

Encoding = Literal["gzip", "zstd"]

# Fast rather than small: whoever exports a million rankings waits for the processor, not for the wire.
_GZIP_LEVEL, _ZSTD_LEVEL = 1, 1
_GZIP_FRAME = 31
_ACCEPTED = re.compile(r"\s*([a-z]+)\s*(?:;\s*q\s*=\s*([0-9.]+)\s*)?", re.IGNORECASE)


class _Compressor(Protocol):
    def compress(self, data: bytes, /) -> bytes: ...
    def flush(self) -> bytes: ...


def chosen(accepted: str) -> Encoding | None:
    """Return what to compress with, after a header Accept-Encoding; zstd before gzip, None for neither."""
    found = set()
    for part in accepted.split(","):
        match = _ACCEPTED.fullmatch(part)
        if match and (match[2] or "1").strip("0.") != "":
            found.add(match[1].lower())
    return "zstd" if "zstd" in found else "gzip" if "gzip" in found else None


def compressed(chunks: Iterator[bytes], encoding: Encoding) -> Generator[bytes, None, None]:
    """Yield the stream compressed. The same stream gives the same bytes: no clock is in them."""
    compressor: _Compressor = (
        zstd.ZstdCompressor(level=_ZSTD_LEVEL)
        if encoding == "zstd"
        else zlib.compressobj(_GZIP_LEVEL, wbits=_GZIP_FRAME)
    )
    for chunk in chunks:
        if ready := compressor.compress(chunk):
            yield ready
    yield compressor.flush()
