"""The trainer's command refuses bad input with exit code 2 and one sentence, before anything heavy is loaded."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from builders import MakeRun, ask, some_comparisons, some_demonstrations

from trainer.__main__ import main
from trainer.config import Optim, PpoOptions, Sampling, parse_run
from trainer.manifest import write_manifest
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, Comparison

QUICK = {"optim": {"max_steps": 1, "batch_size": 2}}


def refusal(run_dir: Path, method: str, capsys: pytest.CaptureFixture[str]) -> str:
    """Run the command, which must refuse, and return its sentence."""
    capsys.readouterr()
    assert main([method, "--run", str(run_dir)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err.strip()
    assert error.endswith(".")
    assert "\n" not in error
    assert not (run_dir / "final").exists()
    return error


def test_the_same_run_directory_is_accepted_when_nothing_is_wrong_with_it(make_run: MakeRun) -> None:
    assert main(["sft", "--run", str(make_run("sft", demonstrations=some_demonstrations(2), options=QUICK))]) == 0


def edit_config(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def apply(run_dir: Path) -> None:
        config = json.loads((run_dir / "run.json").read_text())
        change(config)
        (run_dir / "run.json").write_text(json.dumps(config))

    return apply


def append(line: str) -> Callable[[Path], None]:
    def apply(run_dir: Path) -> None:
        with (run_dir / "data" / "demonstrations.jsonl").open("a") as file:
            file.write(line + "\n")
        write_manifest(run_dir / "data")

    return apply


def change_without_manifest(run_dir: Path) -> None:
    (run_dir / "data" / "demonstrations.jsonl").write_text("{}\n")


def test_what_a_run_leaves_out_below_an_option_keeps_the_default_of_its_method() -> None:
    given = {"reward_model": "judge", "sampling": {"max_new_tokens": 7}, "optim": {"learning_rate": 0.5}}
    options = parse_run({"run_id": "r", "method": "ppo", "model": "m", "options": given}).options
    assert isinstance(options, PpoOptions)
    assert options.sampling == Sampling(temperature=1.0, max_new_tokens=7)
    assert options.optim == Optim(schedule="constant", epsilon=1e-5, learning_rate=0.5)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda run_dir: (run_dir / "run.json").unlink(), "does not exist; --run must name a run directory"),
        (lambda run_dir: (run_dir / "run.json").write_text("{"), "is not valid JSON"),
        (edit_config(lambda config: config.update(colour="red")), "unknown key 'colour'"),
        (edit_config(lambda config: config.update(method="dpo")), "asks for dpo, not for sft"),
        (edit_config(lambda config: config.update(model="/no/such/model")), "/no/such/model does not exist"),
        (edit_config(lambda config: config.update(device="tpu9")), "device must be auto, cpu or cuda"),
        (edit_config(lambda config: config.update(seed="one")), "seed must be of type int"),
        (lambda run_dir: (run_dir / "data" / "manifest.json").unlink(), "has no manifest.json"),
        (change_without_manifest, "differs from its hash in the manifest"),
        (append("not json"), "line 3 is not valid JSON"),
        (append('{"id": "x", "messages": [], "completion": "y"}'), "line 3: messages must be a non-empty list"),
        (
            append('{"id": "x", "messages": [{"role": "user", "content": "q"}], "completion": "y", "weight": -1}'),
            "line 3: weight must not be negative",
        ),
        (lambda run_dir: (run_dir / "data" / "demonstrations.jsonl").unlink(), "is in the manifest but not there"),
    ],
)
def test_each_bad_input_is_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], damage: Callable[[Path], None], sentence: str
) -> None:
    run_dir = make_run("sft", demonstrations=some_demonstrations(2), options=QUICK)
    damage(run_dir)
    assert sentence in refusal(run_dir, "sft", capsys)


def test_no_demonstration_to_train_on_is_one_sentence(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run("sft", demonstrations=some_demonstrations(0, held_out=2), options=QUICK)
    assert "no demonstration in the train split" in refusal(run_dir, "sft", capsys)


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_ties_alone_and_no_rankings_at_all_are_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    tie = Comparison("c", ask("which"), ("a", "b"), ((0, 1),))
    single = Comparison("d", ask("which"), ("a",), ((0,),))
    silent = [tie, single, single, Comparison("e", ask("which"), ("a", "b"), ())]
    for name, rows, why in (
        ("ties", [tie], "all tied: 1"),
        ("single", [single], "of a single answer: 1"),
        ("silent", silent, "all tied: 1, empty: 1, of a single answer: 2"),
        ("weightless", [replace(some_comparisons(1)[0], weight=0.0)], "of no weight: 1"),
        ("none", [], "none at all"),
        ("held out", some_comparisons(0, held_out=2), "none at all"),
    ):
        run_dir = make_run(method, name=name, comparisons=rows, options=QUICK)
        error = refusal(run_dir, method, capsys)
        assert f"no ranking in the train split that prefers one answer to another ({why})" in error


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_a_length_beyond_the_model_s_positions_is_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    rows = {"demonstrations": some_demonstrations(2), "comparisons": some_comparisons(2)}
    run_dir = make_run(method, **rows, max_length=513, options=QUICK)
    assert "max_length is 513" in refusal(run_dir, method, capsys)


def test_a_loss_that_is_not_finite_ends_with_its_own_code(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    optim = {"learning_rate": 0.9, "schedule": "constant", "warmup_fraction": 0.0, "grad_clip": 1e30, "epsilon": 1e-30}
    options = {"optim": {**optim, "epochs": 400.0, "weight_decay": 1e10}}
    run_dir = make_run("sft", demonstrations=some_demonstrations(2), options=options)
    assert main(["sft", "--run", str(run_dir)]) == EXIT_DIVERGED
    assert "Training diverged at step" in capsys.readouterr().err


def test_a_bad_configuration_is_refused_without_loading_torch(make_run: MakeRun) -> None:
    run_dir = make_run("sft", demonstrations=some_demonstrations(2), options={"optim": {"batch_size": 0}})
    code = (
        "import sys; from trainer.__main__ import main; code = main(sys.argv[1:]);"
        "print('torch' in sys.modules); sys.exit(code)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, "sft", "--run", str(run_dir)], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (EXIT_BAD_INPUT, "False\n")
    assert result.stderr == "optim.batch_size must be at least 1.\n"
