"""Two processes over gloo train what one process trains: the same losses and weights up to the order of sums."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from builders import read_lines, some_demonstrations
from conftest import MakeRun
from safetensors.torch import load_file

from trainer.__main__ import main
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED

# Five demonstrations in steps of two: in each epoch's last step the second process has nothing to do.
OPTIM = {"learning_rate": 5e-3, "batch_size": 2, "epochs": 2.0, "schedule": "constant", "warmup_fraction": 0.0}


def two(*words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "trainer.spawn", "2", *words]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def make_sft(make_run: MakeRun, name: str) -> Path:
    return make_run("sft", name=name, demonstrations=some_demonstrations(7, 2), options={"optim": OPTIM})


def test_two_processes_train_as_one_does_and_resume_where_they_were_stopped(make_run: MakeRun) -> None:
    one, both = make_sft(make_run, "one"), make_sft(make_run, "both")
    assert main(["sft", "--run", str(one)]) == EXIT_DONE
    wanted = read_lines(one / "metrics.jsonl")

    process = two("sft", "--run", str(both))
    deadline = time.monotonic() + 120
    while not (both / "metrics.jsonl").exists() or not (both / "metrics.jsonl").read_text():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.killpg(process.pid, signal.SIGTERM)
    said, _ = process.communicate(timeout=120)
    assert process.returncode in (EXIT_STOPPED, EXIT_DONE), said
    process = two("sft", "--run", str(both))
    said, _ = process.communicate(timeout=240)
    assert process.returncode == EXIT_DONE, said

    found = read_lines(both / "metrics.jsonl")
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=1e-4)
        assert ours["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-3)
        assert ours["tokens"] == theirs["tokens"]
    weights, reference = (load_file(folder / "final" / "model.safetensors") for folder in (both, one))
    for name, tensor in reference.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-4)


def test_the_exit_code_is_the_trainings_own_and_a_method_that_cannot_share_is_refused(make_run: MakeRun) -> None:
    run_dir = make_sft(make_run, "run")
    process = two("dpo", "--run", str(run_dir))
    said, _ = process.communicate(timeout=120)
    assert process.returncode == EXIT_BAD_INPUT
    assert "dpo runs in one process; only sft can share its work among several." in said
