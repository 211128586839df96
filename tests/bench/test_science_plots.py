"""The pictures of the science benches: drawn of whatever was measured, from build/ before docs/science."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bench import race, science_grouping, science_plots

RATES = (1e-3, 3e-3)


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Empty folders in place of build/ and docs/science/."""
    monkeypatch.setattr(race, "ROOT", tmp_path)
    found = []
    for name in ("BUILD", "FOLDER"):
        folder = tmp_path / name.lower()
        folder.mkdir()
        monkeypatch.setattr(science_plots, name, folder)
        found.append(folder)
    return found[0], found[1]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def hh(accuracy: float, side: str = "ours") -> dict[str, Any]:
    interval = [accuracy - 0.05, accuracy + 0.05]
    return {
        "seed": 0, "side": side, "accuracy": accuracy, "interval": interval, "length_only": 0.52, "pairs": 512,
        "held_out": 300,
    }  # fmt: skip


def policy(arm: str, seed: int) -> dict[str, Any]:
    return {
        "seed": seed, "arm": arm, "kl": 4.0, "reward": 1.0, "gold": 2.0 + seed, "language_loss": 2.5,
        "path": [[0.0, 0.1], [1.0, 0.4]],
    }  # fmt: skip


def grouping(seed: int, rate: float, way: str, loss: float) -> dict[str, Any]:
    return {"seed": seed, "rate": rate, "way": way, "train_loss": loss - 0.1, "held_out_loss": loss}


def drawn(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.svg")}


def texts(path: Path) -> list[str]:
    return re.findall(r"<text[^>]*>([^<]*)</text>", path.read_text(encoding="utf-8"))


def test_without_rows_nothing_is_drawn(folders: tuple[Path, Path]) -> None:
    science_plots.main()
    assert drawn(folders[1]) == set()


def test_whatever_was_measured_is_drawn_and_what_is_in_build_goes_first(folders: tuple[Path, Path]) -> None:
    build, docs = folders
    write(docs / "science-hh.jsonl", [hh(0.6)])
    science_plots.main()
    assert drawn(docs) == {"real-preferences"}
    picture = docs / "real-preferences.svg"
    assert "Plackett, 95 % interval" in texts(picture)
    assert "TRL, 95 % interval" not in texts(picture)
    assert "length alone" in texts(picture)

    write(build / "science_hh.jsonl", [hh(0.6), hh(0.61, "peer")])
    science_plots.main()
    assert "TRL, 95 % interval" in texts(picture)


def test_texts_mixed_into_ppo_are_drawn_once_all_their_arms_are_there(folders: tuple[Path, Path]) -> None:
    build, docs = folders
    arms = list(science_plots.TEXTS)
    write(build / "science_policies.jsonl", [policy(arm, 0) for arm in arms[:-1]])
    science_plots.main()
    assert drawn(docs) == {"gold-over-distance", "reward-along-the-run"}

    write(build / "science_policies.jsonl", [policy(arm, seed) for arm in arms for seed in range(2)])
    science_plots.main()
    assert drawn(docs) == {"gold-over-distance", "reward-along-the-run", "language-and-gold"}
    found = texts(docs / "language-and-gold.svg")
    assert {"Loss on texts of the language", "What people like (gold)", "weight 0.1", "weight 1"} <= set(found)


def test_rankings_whole_or_apart_are_drawn_from_the_seeds_that_have_both(folders: tuple[Path, Path]) -> None:
    build, docs = folders
    rows = [grouping(seed, rate, way, 0.6) for seed in range(2) for rate in RATES for way in science_plots.WAYS]
    write(build / "science_grouping.jsonl", rows[:-1])
    science_plots.main()
    assert drawn(docs) == {"rankings-whole-or-apart"}
    found = texts(docs / "rankings-whole-or-apart.svg")
    assert {"whole rankings, held-out", "pairs shuffled apart, learned from", "0.001", "0.003"} <= set(found)


def test_what_shuffling_costs_is_paired_by_seed() -> None:
    rows = [
        grouping(0, 1e-3, "rankings", 0.60),
        grouping(1, 1e-3, "shuffled pairs", 0.64),
        grouping(1, 1e-3, "rankings", 0.66),
        grouping(0, 1e-3, "shuffled pairs", 0.61),
        grouping(2, 1e-3, "rankings", 0.70),  # not yet measured the other way
        grouping(0, 3e-3, "rankings", 0.10),
    ]
    assert science_grouping.shuffling_costs(rows, 1e-3) == pytest.approx([0.01, -0.02])


@pytest.mark.slow
def test_a_stopped_bench_goes_on_with_what_its_file_lacks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    output = tmp_path / "build" / "science_grouping.jsonl"
    monkeypatch.setattr(science_grouping, "OUTPUT", output)
    for name, value in (("SEEDS", range(1)), ("RATES", (1e-3,)), ("PROMPTS", 4), ("HELD_OUT", 4)):
        monkeypatch.setattr(science_grouping, name, value)
    output.parent.mkdir()
    whole = {"seed": 0, "rate": 1e-3, "way": "rankings", "train_loss": 0.6, "held_out_loss": 0.7}
    write(output, [whole | {"held_out_accuracy": 0.5}])
    science_grouping.main()
    first, second = science_grouping.rows_so_far()
    assert first["train_loss"] == 0.6
    assert (second["seed"], second["rate"], second["way"]) == (0, 1e-3, "shuffled pairs")
    assert 0 <= second["held_out_accuracy"] <= 1
    assert f"{second['held_out_loss'] - 0.7:+.4f} ± nan of held-out log loss" in capsys.readouterr().out
