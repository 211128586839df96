"""Event files say what metrics.jsonl says, to our own reader and, where it is installed, to TensorBoard's."""

from __future__ import annotations

import importlib
import struct
from pathlib import Path
from typing import Any

import pytest

from trainer import tensorboard
from trainer.checkpoint import cut_metrics
from trainer.metrics import MetricsFile


def event_file(run_dir: Path) -> Path:
    [path] = run_dir.glob("events.out.tfevents.*")
    return path


def write(run_dir: Path, steps: range) -> None:
    with MetricsFile(run_dir) as metrics:
        for step in steps:
            metrics.write(step, total_steps=4, loss=1 / step, tokens=step * 100, policy="base", kl=None)


def scalars(path: Path) -> dict[tuple[int, str], float]:
    """Read the scalars of a file, every checksum checked: of each event the step, and of its values name and number."""
    data, found, place = path.read_bytes(), {}, 0
    while place < len(data):
        (length,) = struct.unpack_from("<Q", data, place)
        payload = data[place + 12 : place + 12 + length]
        assert data[place + 8 : place + 12] == masked(data[place : place + 8])
        assert data[place + 12 + length : place + 16 + length] == masked(payload)
        place += 16 + length
        event = fields(payload)
        for value in (item for number, item in fields(b"".join(dict_of(event).get(5, []))) if number == 1):
            parts = dict_of(fields(value))
            found[dict_of(event)[2][0], parts[1][0].decode()] = struct.unpack("<f", parts[2][0])[0]
    return found


def masked(data: bytes) -> bytes:
    value = tensorboard.crc32c(data)
    return struct.pack("<I", (((value >> 15) | (value << 17)) + 0xA282EAD8) % 2**32)


def dict_of(items: list[tuple[int, Any]]) -> dict[int, list[Any]]:
    found: dict[int, list[Any]] = {}
    for number, value in items:
        found.setdefault(number, []).append(value)
    return found


def fields(data: bytes) -> list[tuple[int, Any]]:
    """Decode one message of protocol buffers: field numbers with integers or bytes."""
    found: list[tuple[int, Any]] = []
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = data[place]
            place += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if not byte & 0x80:
                return value

    while place < len(data):
        key = varint()
        if key & 7 == 0:
            found.append((key >> 3, varint()))
            continue
        size = {1: 8, 5: 4}.get(key & 7) or varint()
        found.append((key >> 3, data[place : place + size]))
        place += size
    return found


@pytest.mark.parametrize(
    ("data", "value"),
    [
        (bytes(32), 0x8A9136AA),
        (bytes(32 * [255]), 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (b"123456789", 0xE3069283),
    ],
)
def test_the_checksum_is_that_of_rfc_3720(data: bytes, value: int) -> None:
    assert tensorboard.crc32c(data) == value


def test_every_number_of_every_step_is_in_the_file(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    assert scalars(event_file(tmp_path)) == {
        (step, name): pytest.approx(value)
        for step in range(1, 4)
        for name, value in (("loss", 1 / step), ("tokens", step * 100))
    }


def test_a_resumed_run_says_each_step_once_and_keeps_one_file(tmp_path: Path) -> None:
    write(tmp_path, range(1, 4))
    first = event_file(tmp_path)
    cut_metrics(tmp_path, 2)
    write(tmp_path, range(3, 5))
    second = event_file(tmp_path)
    assert second.name > first.name, "TensorBoard goes on to the file that sorts after the one it reads"
    assert sorted(step for step, name in scalars(second) if name == "loss") == [1, 2, 3, 4]


def test_a_run_that_died_in_the_middle_of_a_record_goes_on(tmp_path: Path) -> None:
    write(tmp_path, range(1, 3))
    path = event_file(tmp_path)
    path.write_bytes(path.read_bytes()[:-5])
    write(tmp_path, range(3, 4))
    assert sorted(step for step, name in scalars(event_file(tmp_path)) if name == "loss") == [1, 2, 3]


def test_tensorboards_own_reader_finds_the_scalars(tmp_path: Path) -> None:
    module = importlib.import_module("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, range(1, 4))
    cut_metrics(tmp_path, 2)
    write(tmp_path, range(3, 5))
    read = module.EventAccumulator(str(tmp_path))
    read.Reload()
    assert sorted(read.Tags()["scalars"]) == ["loss", "tokens"]
    assert [(item.step, item.value) for item in read.Scalars("loss")] == [
        (step, pytest.approx(1 / step)) for step in range(1, 5)
    ]
