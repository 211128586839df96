"""The hash of the chat template goes with a model, and a run from one whose template has changed says so."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import PROMPTS, MakeRun, options, read_lines, some_comparisons, some_demonstrations

from trainer import chat_template, modeling
from trainer.__main__ import main
from trainer.config import ConfigError
from trainer.records import EXIT_DONE
from trainer.reward_model import load_reward

ONCE = {"optim": {"batch_size": 2, "max_steps": 1}}
WARNING = "was trained with another chat template"


def said(run_dir: Path) -> dict[str, Any]:
    """Return what the report, the card and the folder of the model say."""
    summary = json.loads((run_dir / "report.json").read_text())["summary"]
    card = (run_dir / "final" / "README.md").read_text()
    (stored,) = read_lines(run_dir / "final" / "template.json")
    assert stored == {"chat_template_sha256": summary["chat_template_sha256"]}
    assert f"| chat template | sha256 `{summary['chat_template_sha256'][:16]}` |" in card
    found: dict[str, Any] = summary
    return found


@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto", "ppo", "rloo"])
def test_a_trained_model_keeps_its_template_s_hash_and_a_change_of_it_is_told(
    make_run: MakeRun, letter_judge: str, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    settings: dict[str, Any] = {
        "demonstrations": some_demonstrations(2),
        "comparisons": [dataclasses.replace(row, acceptable=1) for row in some_comparisons(2)],
        "prompts": PROMPTS,
        "options": ONCE,
    }
    if method in ("ppo", "rloo"):
        settings["options"] = options(letter_judge, iterations=1, answers_per_prompt=2)
    first = make_run("sft", name="parent", demonstrations=some_demonstrations(2), options=ONCE)
    assert main(["sft", "--run", str(first)]) == EXIT_DONE

    same = make_run(method, name="same", model=str(first / "final"), **settings)
    assert main([method, "--run", str(same)]) == EXIT_DONE
    assert "chat_template_warning" not in said(same)
    assert WARNING not in capsys.readouterr().err

    path = first / "final" / "chat_template.jinja"
    path.write_text(path.read_text().replace("<assistant>{% endif", "<assistant> {% endif"))
    changed = make_run(method, name="changed", model=str(first / "final"), **settings)
    assert main([method, "--run", str(changed)]) == EXIT_DONE
    summary = said(changed)
    assert WARNING in summary["chat_template_warning"]
    assert summary["chat_template_warning"] in capsys.readouterr().err
    assert summary["chat_template_sha256"] != said(same)["chat_template_sha256"]


def test_a_judge_s_own_change_is_told_and_a_hash_that_cannot_be_read_is_refused(
    letter_judge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    judge = load_reward(letter_judge, torch.float32, torch.device("cpu"))
    assert "chat_template_warning" not in chat_template.facts(letter_judge, judge.tokenizer)
    judge.tokenizer.chat_template = None
    found = chat_template.facts(letter_judge, judge.tokenizer)
    assert found["chat_template_sha256"] is None
    assert "today (none, the plain form)" in capsys.readouterr().err
    (tmp_path / chat_template.FILE).write_text("{}")
    with pytest.raises(ConfigError, match="cannot be read"):
        chat_template.facts(str(tmp_path), judge.tokenizer)


def test_a_model_from_elsewhere_has_nothing_to_compare(tiny_model: str) -> None:
    found = chat_template.facts(tiny_model, modeling.load_tokenizer(tiny_model))
    assert list(found) == ["chat_template_sha256"]
