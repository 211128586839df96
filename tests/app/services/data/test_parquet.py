"""Parquet: what is written is read back, row group by row group, and a bomb ends the child process and nothing else."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from app.errors import InvalidInputError
from app.services.data import import_files
from app.services.data.formats.catalog import FORMATS, named, write
from app.services.data.formats.records import Answer, Loss, Record
from app.services.data.import_files import Reading
from app.services.data.parquet import child, columns
from app.services.data.parquet import files as parquet
from trainer.records import Message

HARD = 'a "quote" \\ \x01\x7f\u2028 😀\r\n\t='
RECORD = Record(
    (Message("user", HARD),), (Answer("A", model="m"), Answer(HARD)), ((1,), (0,)), (2,), 1, reason="Why.", group="g"
)  # fmt: skip


def written(name: str, rows: list[dict[str, Any]]) -> bytes:
    def lines() -> Iterator[bytes]:
        yield from (json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)

    return b"".join(parquet.written(name, lines()))  # type: ignore[arg-type]  # a generator


def read(file: BinaryIO, name: str) -> tuple[list[Record], Reading]:
    reading = Reading()
    return list(import_files.records(file, named(name), reading)), reading


def on_disk(tmp_path: Path, data: bytes) -> BinaryIO:
    path = tmp_path / "file.parquet"
    path.write_bytes(data)
    return path.open("rb")


@pytest.mark.parametrize(
    "name", [name for name in columns.COLUMNS if named(name).of == "rankings" and name != "plackett"]
)
def test_rankings_come_back_from_their_columns(name: str, tmp_path: Path) -> None:
    rows = write(named(name), RECORD, Loss())
    data = written(name, rows)
    assert pq.read_table(io.BytesIO(data)).to_pylist() == rows
    with on_disk(tmp_path, data) as file:
        found, reading = read(file, name)
    lines = b"".join(json.dumps(row).encode() + b"\n" for row in rows)
    assert found == read(io.BytesIO(lines), name)[0]
    assert reading.problems == []


def test_formats_whose_values_have_no_one_type_are_refused() -> None:
    for name in FORMATS:
        if name in columns.COLUMNS:
            parquet.require(name)
        else:
            with pytest.raises(InvalidInputError, match="no Parquet form"):
                parquet.require(name)


def test_a_file_of_many_row_groups_is_written_as_it_comes() -> None:
    rows, sent = [{"chosen": "x" * 1000, "rejected": "y"}] * 1000, 0

    def lines() -> Iterator[bytes]:
        nonlocal sent
        for _ in range(20):
            sent += 1
            yield b"".join(json.dumps(row).encode() + b"\n" for row in rows)

    pieces = parquet.written("hh", lines())  # type: ignore[arg-type]  # a generator
    first = next(pieces)
    assert sent < 20
    file = pq.ParquetFile(io.BytesIO(first + b"".join(pieces)))
    assert file.metadata.num_rows == 20_000
    assert file.metadata.num_row_groups == 3


def test_a_reader_who_goes_away_leaves_neither_child_nor_thread(tmp_path: Path) -> None:
    closed = threading.Event()

    def lines() -> Iterator[bytes]:
        try:
            while True:
                yield json.dumps({"chosen": "x" * 100_000, "rejected": "y"}).encode() + b"\n"
        finally:
            closed.set()

    pieces = parquet.written("hh", lines())  # type: ignore[arg-type]  # a generator
    next(pieces)
    pieces.close()
    assert closed.is_set()
    assert not [thread for thread in threading.enumerate() if thread.name == "parquet"]


def test_a_file_of_few_bytes_and_endless_rows_is_refused_for_its_size(tmp_path: Path) -> None:
    path = tmp_path / "bomb.parquet"
    text = pa.array(["x" * 900_000]).dictionary_encode()
    many = pa.DictionaryArray.from_arrays(pa.array([0] * 5_000, pa.int32()), text.dictionary)
    pq.write_table(pa.table({"chosen": many, "rejected": many}), path, compression="zstd", row_group_size=5_000)
    assert path.stat().st_size < 20_000
    with path.open("rb") as file:
        found, reading = read(file, "hh")
    assert found == []
    assert reading.problem_count >= 1
    assert "times its compressed size" in reading.problems[-1] or "memory" in reading.problems[-1]


def test_a_page_that_grows_beyond_the_limit_ends_the_child_alone(tmp_path: Path) -> None:
    path = tmp_path / "page.parquet"
    pq.write_table(pa.table({"chosen": ["x" * (160 << 20)]}), path, compression="zstd", use_dictionary=False)
    assert path.stat().st_size < 1 << 20
    with path.open("rb") as file:
        found, reading = read(file, "hh")
    assert found == []
    assert "memory" in reading.problems[-1]
    code = (
        f"import resource, subprocess, sys; subprocess.run(sys.argv[1:], stdin=open('{path}'), capture_output=True);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10)"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "app.services.data.parquet.child", "read", "-"]
    mebibytes = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert mebibytes < 100 + (child.MEMORY >> 20)  # the loaded libraries are a good half of the hundred


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (lambda: pa.array([b"\xff\xfe"]), "no text, number or list (bytes)"),
        (lambda: pa.array([float("nan")]), "holds NaN"),
        (lambda: pa.array(["a\x00b"]), "NUL"),
    ],
)
def test_what_no_line_may_hold_no_column_may_hold(column: Any, reason: str, tmp_path: Path) -> None:
    path = tmp_path / "file.parquet"
    pq.write_table(pa.table({"chosen": column()}), path)
    with path.open("rb") as file:
        _, reading = read(file, "hh")
    assert reason in reading.problems[-1]


def test_what_only_begins_like_parquet_is_refused(tmp_path: Path) -> None:
    for data in (b"PAR1", b"PAR1" + os.urandom(1000) + b"PAR1", b"PAR1" + b"\x00" * 1000):
        with on_disk(tmp_path, data) as file:
            _, reading = read(file, "hh")
        assert "no Parquet file that can be read" in reading.problems[-1]


def test_the_server_itself_never_loads_pyarrow() -> None:
    code = "import sys, app.main; print('pyarrow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"


def test_datasets_reads_what_is_written(tmp_path: Path) -> None:
    import datasets

    rows = write(named("trl"), RECORD, Loss())
    with on_disk(tmp_path, written("trl", rows)) as file:
        found = datasets.load_dataset("parquet", data_files=file.name, cache_dir=str(tmp_path / "cache"))["train"]
    assert found.to_list() == rows
