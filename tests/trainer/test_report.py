"""The report of a run: what it says, what it draws, and that the same run gives the same bytes."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from trainer import frontier, report
from trainer.config import RunConfig, parse_run
from trainer.metrics import MetricsFile


def ppo_config() -> RunConfig:
    options = {"reward_model": "/models/reward"}
    return parse_run({"run_id": "r1", "method": "ppo", "model": "/models/base", "seed": 7, "options": options})


def evaluate_config() -> RunConfig:
    return parse_run({"run_id": "e1", "method": "evaluate", "model": "/models/base"})


def section(text: str, heading: str) -> list[str]:
    """Return the lines between a heading and the next one, without empty ones."""
    lines = text.splitlines()
    rest = lines[lines.index(heading) + 1 :]
    end = next((n for n, line in enumerate(rest) if line.startswith("#")), len(rest))
    return [line for line in rest[:end] if line]


def test_the_headline_is_the_first_sentence_and_the_plots_follow(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, reward=0.1 * step, kl=0.5 * step, entropy=2.0)
    report.write(tmp_path, ppo_config(), {"headline": "Reward rose from 0.1 to 0.3.", "kl": 1.5})

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.splitlines()[2] == "Reward rose from 0.1 to 0.3."
    assert "| KL | 1.5 |" in text
    drawn = re.findall(r"\(plots/(\w+)\.svg\)", text)
    assert drawn == ["reward", "kl", "reward_by_kl", "entropy"]
    for name in drawn:
        picture = (tmp_path / "plots" / f"{name}.svg").read_text(encoding="utf-8")
        assert "<text" in picture
        assert "nats" in picture or name == "reward"


def test_report_json_holds_what_is_needed_to_repeat_the_run(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "manifest.json").write_text('{"schema": 1, "files": {}}')
    report.write(tmp_path, ppo_config(), {"reward": float("nan"), "pair": (1, 2.5)})

    value = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert value["run_id"] == "r1"
    assert value["seed"] == 7
    assert value["data"] == {"schema": 1, "files": {}}
    assert value["versions"]["torch"]
    assert len(value["config_sha256"]) == 64
    assert value["summary"] == {"reward": None, "pair": [1, 2.5]}


def test_another_configuration_has_another_digest(tmp_path: Path) -> None:
    digests = set()
    for config in (ppo_config(), evaluate_config()):
        report.write(tmp_path, config, {})
        digests.add(json.loads((tmp_path / "report.json").read_text())["config_sha256"])
    assert len(digests) == 2


def test_a_step_written_twice_counts_once_with_its_later_values(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step, loss in ((1, 3.0), (2, 2.0), (3, 9.0), (3, 1.0)):
            metrics.write(step, loss=loss)
    assert [(row["step"], row["loss"]) for row in report.read_metrics(tmp_path)] == [(1, 3.0), (2, 2.0), (3, 1.0)]


def test_the_same_metrics_draw_the_same_bytes(tmp_path: Path) -> None:
    pictures = []
    for name in ("first", "second"):
        run_dir = tmp_path / name
        run_dir.mkdir()
        with MetricsFile(run_dir) as metrics:
            metrics.write(1, reward=0.5, kl=0.1)
            metrics.write(2, reward=0.6, kl=0.2)
        report.write(run_dir, ppo_config(), {})
        pictures.append({path.name: path.read_bytes() for path in (run_dir / "plots").iterdir()})
    assert pictures[0]
    assert pictures[0] == pictures[1]


def test_policies_become_a_table_and_their_intervals_are_drawn(tmp_path: Path) -> None:
    policies = {
        "base": {"reward": 0.0, "kl": 0.0},
        "dpo": {"reward": 0.4, "kl": 2.25, "win_rate": 0.625, "win_rate_interval": [0.5, 0.75]},
    }
    report.write(tmp_path, evaluate_config(), {"policies": policies})

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert section(text, "# evaluate: e1") == [
        "The evaluate run ended after 0 steps.",
        "| policy | reward | KL | win rate |",
        "| --- | --- | --- | --- |",
        "| base | 0 | 0 | - |",
        "| dpo | 0.4 | 2.25 | 0.625 (0.5 to 0.75) |",
        "![Reward against distance from the reference](plots/reward_by_kl.svg)",
        "![Win rate against the baseline, 95 % interval](plots/win_rate.svg)",
    ]
    assert "dpo" in (tmp_path / "plots" / "reward_by_kl.svg").read_text(encoding="utf-8")
    assert "dpo" in (tmp_path / "plots" / "win_rate.svg").read_text(encoding="utf-8")


def test_a_run_without_metrics_still_gets_its_report(tmp_path: Path) -> None:
    report.write(tmp_path, evaluate_config(), {})
    assert "ended after 0 steps" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "plots").exists()


def test_a_bar_in_a_cell_does_not_break_the_table(tmp_path: Path) -> None:
    report.write(tmp_path, evaluate_config(), {"note": "a|b"})
    assert "| note | a\\|b |" in (tmp_path / "report.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("key", "heading", "column"),
    [
        ("accuracy_by_labeler", "Accuracy by labeler", "labeler"),
        ("accuracy_by_preferred_answer", "Accuracy by preferred answer", "preferred answer"),
        ("accuracy_by_criterion", "Accuracy by criterion", "criterion"),
        ("accuracy_on_labelers", "Accuracy on labelers", "labelers"),
        ("agreement_by_principle", "Agreement by principle", "principle"),
        ("agreement_by_probability", "Agreement by probability", "certainty"),
        ("reward_by_sqrt_kl", "Reward by √KL", "fit"),
    ],
)
def test_a_figure_of_figures_has_a_heading_and_its_rows_have_a_name(
    tmp_path: Path, key: str, heading: str, column: str
) -> None:
    figures = {
        "one": {"right": 0.5, "right_interval": [0.25, 0.75], "pairs": 8, "probability": 0.6},
        "two": {"right": 0.75, "pairs": 4, "probability": 0.9, "r_squared": 0.9},
    }
    report.write(tmp_path, ppo_config(), {key: figures})
    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert section(text, f"## {heading}")[:4] == [
        f"| {column} | right | pairs | probability | R² |",
        "| --- | --- | --- | --- | --- |",
        "| one | 0.5 (0.25 to 0.75) | 8 | 0.6 | - |",
        "| two | 0.75 | 4 | 0.9 | 0.9 |",
    ]


def test_measures_are_named_as_people_write_them(tmp_path: Path) -> None:
    summary = {
        "held_out_accuracy": 0.75,
        "length_only_accuracy": 0.5,
        "held_out_chosen_logp": -2.5,
        "answers_by_policy": {"base": 12, "dpo": 8},
        "chat_template_sha256": "0123456789abcdef0123",
        "held_out_accuracy_interval": [0.5, 1.0],
        "kl_coefficient": 0.05,
    }
    report.write(tmp_path, ppo_config(), summary)
    assert section((tmp_path / "report.md").read_text(encoding="utf-8"), "# ppo: r1")[1:] == [
        "| measure | value |",
        "| --- | --- |",
        "| held-out accuracy | 0.75 (0.5 to 1) |",
        "| length-only accuracy | 0.5 |",
        "| held-out chosen log-probability | -2.5 |",
        "| answers by policy | base 12, dpo 8 |",
        "| chat template sha256 | `0123456789abcdef` |",
        "| KL coefficient | 0.05 |",
    ]


def run_through(folder: Path, distances: Sequence[float]) -> tuple[str, str]:
    """Report a run whose reward is d (2 - log d) at these distances, which turns at e; return report and picture."""
    rows = [{"kl": d * d, "reward": d * (2 - math.log(d))} for d in distances]
    with MetricsFile(folder) as metrics:
        for step, row in enumerate(rows, start=1):
            metrics.write(step, **row)
    fits = frontier.summarise(rows)
    report.write(folder, ppo_config(), {"reward_over_sqrt_kl": fits} if fits else {})
    return tuple((folder / name).read_text(encoding="utf-8") for name in ("report.md", "plots/reward_by_kl.svg"))  # type: ignore[return-value]


def words_of(picture: str) -> list[str]:
    """Return what is written in a picture, but for the numbers along its axes."""
    texts = re.findall(r"<text[^>]*>([^<]*)</text>", picture)
    return [text for text in texts if not re.fullmatch(r"[\d.]+", text)]


AROUND = [
    "square root of KL (nats a sequence)",
    "reward (normalised)",
    "Reward against distance from the reference",
]
LEGEND = ["iterations, early ones lighter", "line, R² 0.87", "Gao's curve, R² 1.00"]


@pytest.mark.parametrize("last", [4.0, 2.0], ids=["beyond the peak", "before it"])
def test_reward_over_distance_is_drawn_with_its_line_its_curve_and_a_peak_that_is_near(
    tmp_path: Path, last: float
) -> None:
    text, picture = run_through(tmp_path, [last * n / 10 for n in range(1, 11)])
    assert section(text, "## Reward over √KL")[:2] == [
        "| fit | start | slope | R² | alpha | beta | peak | peak reward |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    assert section(text, "## Reward over √KL")[4].startswith("With d = √KL (nats a sequence), linear is start + slope")
    found = words_of(picture)
    assert found[:3] == AROUND
    assert [re.sub(r"line, R² 0\.\d\d", LEGEND[1], word) for word in found[3:]] == [
        *LEGEND,
        "predicted peak, 2.72 at 2.72",
    ]


def test_a_peak_that_is_far_away_is_not_drawn(tmp_path: Path) -> None:
    _, picture = run_through(tmp_path, [n / 10 for n in range(1, 11)])
    assert "Gao's curve, R² 1.00" in words_of(picture)
    assert "predicted peak" not in picture


def test_too_few_points_are_drawn_alone(tmp_path: Path) -> None:
    text, picture = run_through(tmp_path, [0.5, 1.0, 1.5])
    assert words_of(picture) == AROUND
    assert "Reward over" not in text
