"""Two processes over gloo train what one process trains: the same gradients, losses and weights up to rounding."""

from __future__ import annotations

import dataclasses
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    FORKS,
    PROMPTS,
    MakeRun,
    build_tokenizer,
    options,
    read_lines,
    some_comparisons,
    some_demonstrations,
    timeless,
    train,
)
from safetensors.torch import load_file, save_file
from test_ppo_update import ONE_STEP, actor_of, gradients, some_episodes
from transformers import PreTrainedModel

from trainer import data, dpo, kto, modeling, parallel, reward, reward_model, sft, shards, spawn, tree
from trainer.__main__ import main
from trainer.config import DpoOptions, KtoOptions, Optim, RewardOptions, parse_run
from trainer.device import Device
from trainer.layout import Layout
from trainer.manifest import file_sha256
from trainer.rankings import group_comparisons
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, EXIT_NO_SPACE, EXIT_STOPPED, Comparison

BUDGET = 96  # tokens a forward: a step is several of them in one process, and fewer in each of two
pytestmark = pytest.mark.timeout(900)
SECONDS = 600  # until a process is given up; the machine may be busy

# Five prompts in steps of two: in each epoch's last step the second process has nothing to do.
OPTIM = {"learning_rate": 5e-3, "batch_size": 2, "epochs": 2.0, "schedule": "constant", "warmup_fraction": 0.0}


def start(act: Callable[..., None], *arguments: str, size: int = 2) -> list[Any]:
    """Start two processes, or more, that can find one another and do `act`."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    team = [FORKS.Process(target=be_one, args=(rank, size, port, act, arguments)) for rank in range(size)]
    for process in team:
        process.start()
    return team


def be_one(rank: int, size: int, port: int, act: Callable[..., None], arguments: tuple[str, ...]) -> None:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(size)}
    os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    torch.set_num_threads(1)
    act(*arguments)


def finish(pair: list[Any], code: int = EXIT_DONE) -> None:
    for process in pair:
        process.join(SECONDS)
        assert process.exitcode == code


# Gradients

Gradients = dict[str, torch.Tensor]


def every_gradient(model: str, judge: str, device: Device, optim: dict[str, Any] | None = None) -> Gradients:
    """Return every gradient of one step of each method, and the loss of the step, on this process's share.

    Every weight is trained, and in PPO adapters. With options of the optimiser every weight is trained there, too.
    """
    found: Gradients = {}
    tokenizer = build_tokenizer()
    asked = {"run_id": "r", "model": model, "precision": "float32", "options": {"optim": optim or {}}}

    def load() -> tuple[PreTrainedModel, Layout]:
        policy = modeling.load_trainable(parse_run({**asked, "method": "sft"}), device)
        modeling.prepare_training(policy, Optim(**(optim or {})), device)
        return policy, modeling.choose_layout(policy, BUDGET, device)

    def take(name: str, module: torch.nn.Module, layout: Layout, attempt: Callable[[], Any]) -> None:
        optimizer = torch.optim.SGD([p for p in module.parameters() if p.requires_grad], lr=0.0)
        figures, tokens = layout.step(attempt, optimizer)
        loss = figures["loss"] if isinstance(figures, dict) else figures
        found[f"{name}/figures"] = torch.tensor([loss, tokens], dtype=torch.float64)
        gradients = {key: p.grad for key, p in module.named_parameters() if p.grad is not None}
        found.update({f"{name}/{key}": shards.whole(gradient).clone() for key, gradient in gradients.items()})

    # Five demonstrations of unlike lengths and weights: a mean of the processes' means would be another number.
    policy, layout = load()
    cuts = data.Truncation()
    rows = some_demonstrations(5)
    trees = [data.encode(tokenizer, row.messages, [row.completion * (1 + n)], 256, cuts) for n, row in enumerate(rows)]
    take("sft", policy, layout, partial(sft.backward, policy, trees, [1.0, 0.5, 2.0, 1.0, 3.0], layout))
    found["sft/held_out"] = torch.tensor([sft.held_out_loss(policy, trees, layout)])

    groups = group_comparisons(tokenizer, some_comparisons(5), 256, cuts)
    policy, layout = load()
    before = [torch.linspace(-60, -50, len(group.tree.completions)) for group in groups]
    take("dpo", policy, layout, partial(dpo.backward, policy, groups, before, DpoOptions(nll_weight=0.1), layout))
    found |= {
        f"dpo/held_out/{k}": torch.tensor(v) for k, v in dpo.judge(policy, groups, before, DpoOptions(), layout).items()
    }

    flagged = group_comparisons(tokenizer, [flag(row) for row in some_comparisons(5)], 256, cuts, flags=True)
    policy, layout = load()
    strangers = [tree.Tree(group.tree.prompt, [[20 + n, 1]]) for n, group in enumerate(flagged)]
    here = kto.Flagged(flagged, before, strangers, [torch.tensor([-20.0])] * 5)
    baseline = kto.movement(policy, here, layout)
    assert baseline > 0
    take("kto", policy, layout, partial(kto.backward, policy, here, baseline, KtoOptions(), layout))

    torch.manual_seed(0)
    scorer = reward_model.new_reward_model(parse_run({**asked, "method": "reward"}), device, tokenizer)
    layout = scorer.choose_layout(BUDGET, device)
    chosen = RewardOptions(optim=Optim())
    take("reward", scorer, layout, partial(reward.backward, scorer, groups, torch.ones(5, 1), chosen, layout))
    reward.normalise(scorer, trees, trees, layout)
    found["reward/normaliser"] = torch.cat([scorer.mean, scorer.std])

    # PPO whitens advantages over all answers, of which each process measures some.
    more = {"entropy_coefficient": 0.3, "kl_in": "loss", "kl_estimator": "k2", "ptx_coefficient": 0.5}
    more |= {"optim": {**OPTIM, **(optim or {}), "grad_clip": 1e9}}
    actor, run, _ = actor_of(model, judge, device, {"rank": 4} if optim is None else None, **ONE_STEP, **more)
    layout = modeling.choose_layout(actor.policy, BUDGET, device)
    texts = [tree.Tree([50, 51], [[60, 61, 1]]), tree.Tree([52], [[62, 1]]), tree.Tree([53], [[63] * 9])]
    found |= {f"ppo/{n}": gradient for n, gradient in enumerate(gradients(actor, some_episodes(), run, layout, texts))}
    return found


def flag(row: Comparison) -> Comparison:
    """Return a ranking of which the first group alone is acceptable."""
    return dataclasses.replace(row, acceptable=1)


def write_gradients(model: str, judge: str, folder: str) -> None:
    """As one of two processes write down the gradients, and the budget after memory has run out in the second."""
    rank = int(os.environ["RANK"])
    torch.use_deterministic_algorithms(True)
    cpu = torch.device("cpu")
    device = Device(cpu, torch.float32, parallel.join(cpu))
    found = every_gradient(model, judge, device)

    layout, failures = Layout("packed", 1024, device), iter([True, True] if rank == 1 else [])

    def attempt() -> int:
        if next(failures, False):
            raise torch.OutOfMemoryError
        return len(list(layout.batches([tree.Tree([1], [[2, 3]])] * 3)))

    layout.step(attempt)
    found["budget"] = torch.tensor(layout.tokens)
    save_file(found, Path(folder) / f"{rank}.safetensors")
    parallel.leave()


def test_the_gradients_of_two_processes_add_up_to_those_of_one(
    sharp_model: str, letter_judge: str, tmp_path: Path
) -> None:
    pair = start(write_gradients, sharp_model, letter_judge, str(tmp_path))
    alone = every_gradient(sharp_model, letter_judge, Device(torch.device("cpu"), torch.float32))
    finish(pair)
    both = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    assert {name.partition("/")[0] for name in alone} == {"sft", "dpo", "kto", "reward", "ppo"}
    for found in both:
        assert found.pop("budget") == 256  # halved twice in one, so from then on in both
        assert found.keys() == alone.keys()
        for name, wanted in alone.items():
            torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")
    for name, ours in both[0].items():  # what all processes hold is the same to the last bit
        assert torch.equal(ours, both[1][name]), name


# Whole runs


def wait_for_a_line(run_dir: Path, poll: Callable[[], int | None]) -> None:
    deadline = time.monotonic() + SECONDS
    metrics = run_dir / "metrics.jsonl"
    while not metrics.exists() or not metrics.read_text():
        assert poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)  # a file of another process gives no event to wait for


def arrange(make_run: MakeRun, judge: str, method: str, name: str, epochs: float = 2.0) -> Path:
    """Return a run of the method, of so few steps that the tests stay short."""
    optim = {**OPTIM, "epochs": epochs}
    if method == "sft":
        return make_run("sft", name=name, demonstrations=some_demonstrations(7, 2), options={"optim": OPTIM})
    if method in ("ppo", "rloo"):
        chosen = options(judge, iterations=4, answers_per_prompt=2, ppo_epochs=1, optim={**OPTIM, "batch_size": 6})
        return make_run(method, name=name, prompts=PROMPTS, lora={"rank": 4}, options=chosen)
    comparisons = [flag(row) for row in some_comparisons(5, 3)]
    more = {"heads": 2} if method == "reward" else {}
    lora = {"rank": 4} if method == "reward" else None
    return make_run(method, name=name, comparisons=comparisons, lora=lora, options={"optim": optim, **more})


@pytest.mark.parametrize("method", ["sft", "reward", "kto", "rloo"])
def test_two_processes_train_as_one_does(make_run: MakeRun, letter_judge: str, method: str) -> None:
    one, both = (arrange(make_run, letter_judge, method, name) for name in ("one", "both"))
    assert main([method, "--run", str(one)]) == EXIT_DONE
    finish(start(train, method, str(both)))
    wanted, found = (read_lines(run_dir / "metrics.jsonl") for run_dir in (one, both))
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    exact = ("tokens", "total_steps", "episodes", "updates")
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        assert {key: ours.get(key) for key in exact} == {key: theirs.get(key) for key in exact}
        for key in {"loss", "held_out_loss", "reward", "kl", "grad_norm", "margin"} & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-4), key
    weights, reference = (load_file(folder / "final" / "model.safetensors") for folder in (both, one))
    for name, tensor in reference.items():
        torch.testing.assert_close(weights[name], tensor, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", ["reward", "dpo", "ppo"])
def test_a_run_of_two_processes_that_was_stopped_goes_on_to_the_same_bits(
    make_run: MakeRun, letter_judge: str, method: str
) -> None:
    # Steps enough that the word to stop comes before the last one.
    whole, stopped, fewer = (
        arrange(make_run, letter_judge, method, name, epochs=8.0) for name in ("whole", "stopped", "fewer")
    )
    finish(start(train, method, str(whole)))
    pair = start(train, method, str(stopped))
    wait_for_a_line(stopped, lambda: pair[0].exitcode)
    pair[1].terminate()  # one is asked to stop, and both do
    finish(pair, EXIT_STOPPED)
    assert 1 <= len(read_lines(stopped / "metrics.jsonl")) < len(read_lines(whole / "metrics.jsonl"))
    subprocess.run(["cp", "-r", f"{stopped}/.", str(fewer)], check=True)

    finish(start(train, method, str(stopped)))
    assert timeless(stopped / "metrics.jsonl") == timeless(whole / "metrics.jsonl")
    for path in (whole / "final").iterdir():
        assert file_sha256(stopped / "final" / path.name) == file_sha256(path), path.name

    # One process goes on from what two have saved.
    assert main([method, "--run", str(fewer)]) == EXIT_DONE
    rows, wanted = (read_lines(run_dir / "metrics.jsonl") for run_dir in (fewer, whole))
    assert [row["step"] for row in rows] == [row["step"] for row in wanted]
    assert rows[-1]["loss"] == pytest.approx(wanted[-1]["loss"], rel=2e-3, abs=1e-4)


# The command


def test_the_command_passes_on_a_request_to_stop_and_ends_at_once_when_a_process_is_killed(make_run: MakeRun) -> None:
    slow = {"optim": {**OPTIM, "epochs": 10_000.0}}
    run_dir = make_run("sft", demonstrations=some_demonstrations(4), options=slow)
    command = [sys.executable, "-m", "trainer.spawn", "2", "sft", "--run", str(run_dir)]
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT, "text": True}
    with subprocess.Popen(command, **streams) as process:
        wait_for_a_line(run_dir, process.poll)
        process.terminate()  # it alone is told
        said, _ = process.communicate(timeout=SECONDS)
        assert process.returncode == EXIT_STOPPED, said
    before = len(read_lines(run_dir / "metrics.jsonl"))
    with subprocess.Popen(command, **streams) as process:
        deadline = time.monotonic() + SECONDS
        while (run_dir / "metrics.jsonl").read_text().count("\n") <= before:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)  # as above
        second = max(map(int, Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()))
        os.kill(second, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == 128 + signal.SIGKILL
    assert said.splitlines()[-1] == (
        "Process 2 of 2 was killed (SIGKILL), so the training ends; the same command goes on from its last checkpoint."
    )


def test_of_several_exit_codes_the_one_that_caused_the_others_counts() -> None:
    assert spawn.cause([None, 0]) is None
    assert spawn.cause([None, EXIT_STOPPED]) is None  # the first one is saving
    assert spawn.cause([1, EXIT_BAD_INPUT]) == EXIT_BAD_INPUT  # the first lost the second, which had refused
    assert spawn.cause([-signal.SIGABRT, EXIT_DIVERGED]) == EXIT_DIVERGED
    assert spawn.cause([EXIT_NO_SPACE, -signal.SIGABRT]) == EXIT_NO_SPACE
    assert spawn.cause([1, -signal.SIGKILL]) == -signal.SIGKILL
    assert spawn.cause([None, 1]) == 1


def test_a_method_that_cannot_share_its_work_is_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run_dir = make_run("sample", prompts=PROMPTS[:1])
    monkeypatch.setenv("WORLD_SIZE", "2")
    assert main(["sample", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "sample runs in one process; only sft, reward, dpo, kto, ppo, rloo can share its work among several.\n"
    )
