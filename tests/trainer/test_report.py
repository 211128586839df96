"""The report of a run: what it says, what it draws, and that the same run gives the same bytes."""

import json
import re
from pathlib import Path

from trainer import report
from trainer.config import RunConfig, parse_run
from trainer.records import MetricsFile


def ppo_config() -> RunConfig:
    options = {"reward_model": "/models/reward"}
    return parse_run({"run_id": "r1", "method": "ppo", "model": "/models/base", "seed": 7, "options": options})


def evaluate_config() -> RunConfig:
    return parse_run({"run_id": "e1", "method": "evaluate", "model": "/models/base"})


def test_the_headline_is_the_first_sentence_and_the_plots_follow(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in (1, 2, 3):
            metrics.write(step, reward=0.1 * step, kl=0.5 * step, entropy=2.0)
    report.write(tmp_path, ppo_config(), {"headline": "Reward rose from 0.1 to 0.3.", "kl": 1.5})

    text = (tmp_path / "report.md").read_text(encoding="utf-8")
    assert text.splitlines()[2] == "Reward rose from 0.1 to 0.3."
    assert "| kl | 1.5 |" in text
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
    assert "| policy | reward | kl | win rate | win rate interval |" in text
    assert "| dpo | 0.4 | 2.25 | 0.625 | 0.5 to 0.75 |" in text
    assert "| base | 0 | 0 | - | - |" in text
    assert "dpo" in (tmp_path / "plots" / "reward_by_kl.svg").read_text(encoding="utf-8")
    assert "dpo" in (tmp_path / "plots" / "win_rate.svg").read_text(encoding="utf-8")


def test_a_run_without_metrics_still_gets_its_report(tmp_path: Path) -> None:
    report.write(tmp_path, evaluate_config(), {})
    assert "ended after 0 steps" in (tmp_path / "report.md").read_text(encoding="utf-8")
    assert not (tmp_path / "plots").exists()


def test_a_bar_in_a_cell_does_not_break_the_table(tmp_path: Path) -> None:
    report.write(tmp_path, evaluate_config(), {"note": "a|b"})
    assert "| note | a\\|b |" in (tmp_path / "report.md").read_text(encoding="utf-8")
