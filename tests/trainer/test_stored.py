"""Data that stay in their file: the same as those held in memory, however often they are asked for."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from builders import ask, build_tokenizer, some_comparisons, some_demonstrations

from trainer.data import Truncation, encode
from trainer.jsonl import RecordError, write_jsonl
from trainer.rankings import group_comparisons
from trainer.records import Comparison, Demonstration, Prompt
from trainer.stored import Index, StoredDemonstrations, StoredGroups, StoredPrompts
from trainer.tree import Tree

TOKENIZER = build_tokenizer()
MOST = 24  # tokens, fewer than prompts with their answers have


def rows() -> list[Comparison]:
    """Return rankings of ten prompts by three labelers, those of one prompt far apart, some without weight or pairs."""
    found = [
        dataclasses.replace(
            row,
            weight=float(number % 5 > 0),
            ranking=((0, 1, 2),) if number % 7 == 0 else row.ranking,
            ended=(True, False, True) if number // 3 % 2 else (),
            judgements=({"kind": 1.0}, {"kind": float(number % 3)}, {}),
        )
        for number, row in enumerate(some_comparisons(7, 3, labelers=3))
    ]
    return found[::2] + found[1::2]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "rows.jsonl", list(rows()))
    content = (tmp_path / "rows.jsonl").read_bytes().split(b"\n")
    (tmp_path / "rows.jsonl").write_bytes(b"\n".join([*content[:4], b"", b"  ", *content[4:]]))
    return tmp_path / "rows.jsonl"


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("criteria", [(), ("kind",)])
def test_they_are_those_held_in_memory_in_their_order(path: Path, ties: bool, criteria: tuple[str, ...]) -> None:
    for split in ("train", "held_out"):
        cuts, wanted_cuts = Truncation(), Truncation()
        index = Index(path, lambda row, split=split: row.split == split, ties=ties, criteria=criteria)  # type: ignore[misc]
        found = StoredGroups(index, TOKENIZER, MOST, cuts)
        here = [row for row in rows() if row.split == split]
        wanted = group_comparisons(TOKENIZER, here, MOST, wanted_cuts, ties=ties, criteria=criteria)
        assert list(found) == wanted
        assert index.count_pairs() == sum(len(group.pairs) for group in wanted)
        assert len(found) == len(wanted) > 1
        assert any(len(group.rankings) > 1 for group in found)
        assert (found[1], found[-1], found[::2]) == (wanted[1], wanted[-1], wanted[::2])
        assert cuts == wanted_cuts  # however often a group was asked for
        assert cuts.completions + cuts.prompts > 0
        with pytest.raises(IndexError):
            found[len(wanted)]


def test_with_flags_they_are_those_whose_labelers_drew_a_line(path: Path) -> None:
    lined = [dataclasses.replace(row, acceptable=1 if number % 3 else None) for number, row in enumerate(rows())]
    write_jsonl(path, list(lined))
    found = StoredGroups(Index(path, lambda _: True, flags=True), TOKENIZER, MOST, Truncation())
    wanted = group_comparisons(TOKENIZER, lined, MOST, Truncation(), flags=True)
    assert list(found) == wanted
    assert list(found.trees) == [group.tree for group in wanted]


def test_demonstrations_of_a_split_are_those_held_in_memory_with_their_weights(tmp_path: Path) -> None:
    said = [
        dataclasses.replace(row, weight=float(number % 4), split="train" if number % 3 else "held_out")
        for number, row in enumerate(some_demonstrations(9))
    ]
    write_jsonl(tmp_path / "said.jsonl", list(said))
    cuts = Truncation()

    def encoded(row: Demonstration, cuts: Truncation) -> Tree:
        return encode(TOKENIZER, row.messages, [row.completion], 12, cuts)

    found = StoredDemonstrations(tmp_path / "said.jsonl", "train", encoded, cuts)
    wanted = [row for row in said if row.split == "train" and row.weight > 0]
    assert list(found) == list(found) == [encoded(row, Truncation()) for row in wanted]
    assert list(found.weights) == [row.weight for row in wanted]
    assert cuts.prompts == len(found) > 2  # each counts once


def test_prompts_of_a_split_are_those_held_in_memory(tmp_path: Path) -> None:
    rows = [Prompt(f"p{n}", ask(f"what is {n}, é?"), "train" if n % 3 else "held_out") for n in range(8)]
    write_jsonl(tmp_path / "prompts.jsonl", list(rows))
    found = StoredPrompts(tmp_path / "prompts.jsonl", "train")
    assert list(found) == [found[n] for n in range(len(found))] == [row for row in rows if row.split == "train"]
    with (tmp_path / "prompts.jsonl").open("ab") as file:
        file.write(b'{"id": "x", "messages": []}\n')
    with pytest.raises(RecordError, match=r"prompts\.jsonl line 9: messages must be"):
        StoredPrompts(tmp_path / "prompts.jsonl", "train")


def test_an_index_of_ties_alone_knows_that_it_has_no_pairs(path: Path) -> None:
    assert Index(path, lambda row: row.split == "train").has_pairs
    tied = [dataclasses.replace(row, ranking=((0, 1, 2),), weight=1.0) for row in rows()]
    write_jsonl(path, list(tied))
    assert not Index(path, lambda _: True, ties=True).has_pairs
    assert len(Index(path, lambda _: True, ties=True)) == 10
    assert len(Index(path, lambda _: True)) == 0


def test_a_bad_line_is_named_by_its_number_before_anything_is_trained(path: Path) -> None:
    with path.open("ab") as file:
        file.write(b'{"id": "x", "messages": [], "completions": [], "ranking": []}\n')
    with pytest.raises(RecordError, match=r"rows\.jsonl line 33: messages must be"):
        Index(path, lambda _: True)
