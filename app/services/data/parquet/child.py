"""The child process: `python -m app.services.data.parquet.child read|write FORMAT`, standard input to standard output.

read    a Parquet file (a real one, which can be sought in) becomes a line of JSON for each row
write   lines of JSON become a Parquet file of the format's columns, a row group for some mebibytes of them

Memory and processor time are limited once pyarrow is loaded: a file that wants more ends this process and no other.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections.abc import Iterator
from datetime import date, datetime
from typing import Any, BinaryIO

# Arrow's own allocators take address space ahead, which a limit cannot tell from memory that is used.
os.environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
os.environ["OMP_NUM_THREADS"] = "1"

import pyarrow as pa
import pyarrow.parquet as pq

from app.services.data.parquet.columns import COLUMNS, Type

MEMORY = 112 << 20
"""What reading may take on top of what the loaded libraries have."""
CPU_SECONDS = 600
GROUP_BYTES = 8 << 20
ROWS_AT_ONCE = 64
MAX_ROWS = 10_000_000
BUFFER = 1 << 16
EXIT_REFUSED = 2

_PLAIN = {"text": pa.string(), "number": pa.float64(), "whole": pa.int64(), "flag": pa.bool_()}


class RefusedError(Exception):
    """The file cannot be taken; the text says why."""


def main(mode: str, name: str) -> int:
    """Read or write and return the exit status."""
    _limit()
    try:
        if mode == "read":
            read(open(0, "rb", buffering=0, closefd=False), sys.stdout.buffer)  # noqa: SIM115  (a descriptor)
        else:
            write(name, sys.stdin.buffer, sys.stdout.buffer)
    except RefusedError as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_REFUSED
    except (MemoryError, RecursionError):
        sys.stderr.write(f"Reading this Parquet file takes more than {MEMORY >> 20} MiB of memory.\n")
        return EXIT_REFUSED
    except (pa.ArrowException, OSError, ValueError) as error:
        sys.stderr.write(f"This is no Parquet file that can be read: {str(error).splitlines()[0][:200]}\n")
        return EXIT_REFUSED
    return 0


def read(file: Any, out: BinaryIO) -> None:
    """Write each row of the file as a line of JSON; memory holds some rows and the pages that they stand in."""
    source = pq.ParquetFile(pa.PythonFile(file, mode="r"), buffer_size=BUFFER, pre_buffer=False)
    rows = source.metadata.num_rows
    if rows > MAX_ROWS:
        raise RefusedError(f"The file says that it has {rows:,} rows; at most {MAX_ROWS:,} are read.")
    for batch in source.iter_batches(batch_size=ROWS_AT_ONCE, use_threads=False):
        lines = [json.dumps(row, ensure_ascii=False, default=_plain) for row in batch.to_pylist()]
        out.write("".join(f"{line}\n" for line in lines).encode("utf-8", errors="surrogatepass"))
        out.flush()


def write(name: str, lines: BinaryIO, out: BinaryIO) -> None:
    """Write the rows as a Parquet file. The same rows give the same bytes with the same version of pyarrow."""
    schema = pa.schema([(column, _arrow(kind)) for column, kind in COLUMNS[name].items()])
    texts = [column for column, kind in COLUMNS[name].items() if kind == "text"]
    with pq.ParquetWriter(out, schema, compression="zstd", write_statistics=False, use_dictionary=False) as writer:
        for group in _groups(lines):
            rows = [json.loads(line) for line in group]
            for row in rows:
                for column in texts:
                    if isinstance(row[column], dict):
                        row[column] = json.dumps(row[column], ensure_ascii=False, separators=(",", ":"))
            writer.write_table(pa.Table.from_pylist(rows, schema=schema), row_group_size=len(rows))


def _groups(lines: BinaryIO) -> Iterator[list[bytes]]:
    group, size = [], 0
    for line in lines:
        group.append(line)
        size += len(line)
        if size >= GROUP_BYTES:
            yield group
            group, size = [], 0
    if group:
        yield group


def _arrow(kind: Type) -> Any:
    if isinstance(kind, str):
        return _PLAIN[kind]
    if isinstance(kind, list):
        return pa.list_(_arrow(kind[0]))
    return pa.struct([(name, _arrow(inner)) for name, inner in kind.items()])


def _plain(value: Any) -> Any:
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise RefusedError(f"A column holds values that are no text, number or list ({type(value).__name__}).")


def _limit() -> None:
    """Allow so much more memory than is in use now, and so much processor time."""
    with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123  (before anything else is loaded)
        pages = [int(part) for part in file.read().split()]
    page = resource.getpagesize()
    for kind, used in ((resource.RLIMIT_AS, pages[0] * page), (resource.RLIMIT_DATA, pages[5] * page)):
        resource.setrlimit(kind, (used + MEMORY, used + MEMORY))
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:3]))
