"""PPO through the trainer's own command, on a tiny model and a reward model that likes one letter."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import ask, build_tokenizer, read_lines, without_clock
from conftest import MakeRun
from transformers import AutoModelForCausalLM

from trainer import data, modeling, ppo, reward_model, rollout, tree
from trainer.__main__ import main
from trainer.config import PpoOptions, RunConfig, load_run, parse_run
from trainer.device import Device
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED, Prompt, file_sha256, verify_manifest
from trainer.stop import StopSignal

CPU = Device(torch.device("cpu"), torch.float32)
PROMPTS = [Prompt(f"p{n}", ask("say " + "so " * (n % 3) + str(n))) for n in range(6)]
SAMPLING = {"max_new_tokens": 8, "temperature": 1.0}
OPTIM = {"learning_rate": 1e-2, "batch_size": 16, "schedule": "constant", "warmup_fraction": 0.0, "epsilon": 1e-5}


@pytest.fixture(scope="session")
def letter_judge(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a reward model whose score is the last letters' likeness to "a"; no training is needed for that."""
    folder = tmp_path_factory.mktemp("judge")
    config = parse_run({"run_id": "judge", "method": "reward", "model": tiny_model, "precision": "float32"})
    torch.manual_seed(1)
    tokenizer = build_tokenizer()
    model = reward_model.new_reward_model(config, CPU, tokenizer)
    texts = [letter * 6 for letter in "abcdefgh"]
    letters = data.encode(tokenizer, ask("say"), texts, 64, data.Truncation())
    with torch.no_grad():
        batch = tree.collate([letters], CPU.device, shared=False)
        hidden = tree.hidden_states(model.trunk, model.classifier.config, batch)[batch.ends]
        model.classifier.score.weight.copy_(hidden[:1] - hidden[1:].mean(dim=0))
        scores = model(batch)
        model.mean.copy_(scores.mean())
        model.std.copy_(scores.std())
    reward_model.save_reward(model, folder, 64)
    return str(folder)


@pytest.fixture(scope="session")
def sharp_model(tiny_model: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of the tiny model with larger weights: a fresh head is too flat for adapters to say much."""
    folder = tmp_path_factory.mktemp("sharp_model")
    policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
    with torch.no_grad():
        for parameter in policy.parameters():
            parameter.mul_(4 if parameter.ndim > 1 else 1)
    modeling.save_policy(policy, build_tokenizer(), folder, torch.float32)
    return str(folder)


def options(judge: str, **more: Any) -> dict[str, Any]:
    return {
        "reward_model": judge,
        "iterations": 12,
        "ppo_epochs": 2,
        "minibatches": 2,
        "kl_coefficient": 0.01,
        "missing_end_penalty": 0.0,
        "sampling": SAMPLING,
        "optim": OPTIM,
        **more,
    }


def timeless(path: Path) -> list[dict[str, Any]]:
    return [
        {key: value for key, value in row.items() if not key.endswith("_seconds")}
        for row in without_clock(read_lines(path))
    ]


def assert_same(run_dir: Path, whole: Path) -> None:
    assert timeless(run_dir / "metrics.jsonl") == timeless(whole / "metrics.jsonl")
    assert (run_dir / "rollouts.jsonl").read_bytes() == (whole / "rollouts.jsonl").read_bytes()
    for path in (whole / "final").iterdir():
        assert file_sha256(run_dir / "final" / path.name) == file_sha256(path), path.name


class StopAfter(StopSignal):
    """Asks to stop once so many iterations are written."""

    def __init__(self, run_dir: Path, lines: int) -> None:
        self.path, self.lines = run_dir / "metrics.jsonl", lines

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self.path.exists() and len(read_lines(self.path)) >= self.lines


@pytest.mark.parametrize("adapters", [{"rank": 4}, None], ids=["lora", "full"])
def test_the_reward_rises_from_a_policy_that_starts_as_its_reference(
    make_run: MakeRun, letter_judge: str, sharp_model: str, adapters: Any
) -> None:
    chosen = options(letter_judge, optim={**OPTIM, "learning_rate": 2e-2, "batch_size": 32})
    run_dir = make_run("ppo", prompts=PROMPTS, model=sharp_model, lora=adapters, options=chosen)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE

    rows = read_lines(run_dir / "metrics.jsonl")
    assert [(row["step"], row["total_steps"], row["episodes"]) for row in rows] == [
        (n, 12, 32 * n) for n in range(1, 13)
    ]
    assert [row["first_log_ratio"] for row in rows] == [0.0] * 12
    assert rows[0]["kl"] == 0.0
    assert rows[0]["kl_k3"] == 0.0
    assert max(row["sampler_gap"] for row in rows) < 1e-4
    start, end = (sum(row["reward"] for row in part) / 3 for part in (rows[:3], rows[-3:]))
    assert end > start + 0.3
    assert rows[-1]["kl"] > 0
    assert rows[-1]["kl_k3"] > 0

    verify_manifest(run_dir / "final")
    AutoModelForCausalLM.from_pretrained(run_dir / "final")
    report = (run_dir / "report.md").read_text(encoding="utf-8")
    for plot in ("reward", "kl", "reward_by_kl", "length", "entropy"):
        assert f"(plots/{plot}.svg)" in report
    assert {row["iteration"] for row in read_lines(run_dir / "rollouts.jsonl")} == set(range(1, 13))


def test_a_strong_kl_penalty_keeps_the_policy_near_its_reference(make_run: MakeRun, letter_judge: str) -> None:
    far = []
    for name, beta in (("free", 0.0), ("held", 5.0)):
        run_dir = make_run("ppo", name=name, prompts=PROMPTS, options=options(letter_judge, kl_coefficient=beta))
        assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
        far.append(read_lines(run_dir / "metrics.jsonl")[-1]["kl_k3"])
    assert far[1] < 0.5 * far[0]


def test_an_answer_that_does_not_end_pays_the_penalty(make_run: MakeRun, letter_judge: str) -> None:
    run_dir = make_run("ppo", prompts=PROMPTS, options=options(letter_judge, iterations=1, missing_end_penalty=2.0))
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    (row,) = read_lines(run_dir / "metrics.jsonl")
    assert row["ended"] < 1
    assert row["objective"] == pytest.approx(row["reward"] - 2.0 * (1 - row["ended"]), abs=1e-5)


def test_the_kl_coefficient_adapts_to_its_target(make_run: MakeRun, letter_judge: str) -> None:
    adaptive = options(letter_judge, iterations=3, kl_target=1000.0, kl_horizon=160, kl_coefficient=0.5)
    run_dir = make_run("ppo", prompts=PROMPTS, options=adaptive)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    # Far below the target each iteration of 16 episodes gives 1 - 0.2 * 16 / 160 = 0.98.
    found = [row["kl_coefficient"] for row in read_lines(run_dir / "metrics.jsonl")]
    assert found == pytest.approx([0.5, 0.49, 0.4802])


# The update


def some_episodes() -> ppo.Episodes:
    """Three answers of lengths 1, 4 and 2 to prompts of lengths 3, 1 and 2."""
    trees = [tree.Tree([5, 6, 7], [[1]]), tree.Tree([8], [[20, 21, 22, 1]]), tree.Tree([9, 10], [[30, 31]])]
    answers = [rollout.Answer(ids, "stop", [0.0] * len(ids), 0.0) for _, (ids,), _ in trees]
    mask = torch.arange(4) < torch.tensor([[1], [4], [2]])
    return ppo.Episodes(PROMPTS[:3], trees, answers, ["", "", ""], torch.tensor([1.0, -1.0, 0.5]), mask)


def actor_of(tiny_model: str, judge: str, **more: Any) -> tuple[ppo.Actor, RunConfig, PpoOptions]:
    keys = {"run_id": "r", "method": "ppo", "model": tiny_model, "precision": "float32", "lora": {"rank": 4}}
    config = parse_run({**keys, "options": options(judge, **more)})
    assert isinstance(config.options, PpoOptions)
    torch.manual_seed(0)
    actor = ppo.load_actor(config, CPU)
    with torch.no_grad():
        for parameter in (*actor.policy.parameters(), *actor.value_head.parameters()):
            if parameter.requires_grad:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return actor, config, config.options


def gradients(actor: ppo.Actor, episodes: ppo.Episodes, config: RunConfig) -> list[torch.Tensor]:
    """Return every gradient of one update over one minibatch, read before the step."""
    found: list[torch.Tensor] = []

    class Watcher(torch.optim.SGD):
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            found.extend(p.grad.clone() for group in self.param_groups for p in group["params"])

    chosen = config.options
    assert isinstance(chosen, PpoOptions)
    parts = [ppo.minibatches(episodes, chosen, 0, 1, 0)]
    estimates = ppo.estimate(actor, episodes, parts[0], episodes.scores, 0.1, config, CPU)
    optimizers: Any = {
        name: Watcher([p for p in module.parameters() if p.requires_grad], lr=0.0)
        for name, module in actor.modules().items()
    }
    ppo.update(actor, optimizers, episodes, estimates, parts, 1, chosen, CPU)
    return found


ONE_STEP = {"ppo_epochs": 1, "minibatches": 1}


def test_micro_batches_add_up_to_the_minibatchs_gradient(tiny_model: str, letter_judge: str) -> None:
    found = []
    for tokens in (64, 4096):
        optim = {**OPTIM, "tokens_per_forward": tokens, "grad_clip": 1e9}
        actor, config, chosen = actor_of(tiny_model, letter_judge, **ONE_STEP, optim=optim)
        episodes = some_episodes()
        long = [one._replace(prompt=[40] * 30 + one.prompt) for one in episodes.trees]
        episodes = episodes._replace(trees=long)
        assert len(ppo.minibatches(episodes, chosen, 0, 1, 0)[0]) == (3 if tokens == 64 else 1)
        found.append(gradients(actor, episodes, config))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_an_update_that_does_not_repeat_the_rollout_is_refused(tiny_model: str, letter_judge: str) -> None:
    actor, config, chosen = actor_of(tiny_model, letter_judge, **ONE_STEP)
    episodes = some_episodes()
    parts = [ppo.minibatches(episodes, chosen, 0, 1, 0)]
    estimates = ppo.estimate(actor, episodes, parts[0], episodes.scores, 0.1, config, CPU)
    optimizers = {
        n: torch.optim.AdamW([p for p in m.parameters() if p.requires_grad]) for n, m in actor.modules().items()
    }
    off = estimates._replace(logps=estimates.logps + 1e-3)
    with pytest.raises(RuntimeError, match=r"log-ratio of 0\.001 instead of 0"):
        ppo.update(actor, optimizers, episodes, off, parts, 1, chosen, CPU)
    ppo.update(actor, optimizers, episodes, estimates, parts, 1, chosen, CPU)


def test_estimates_are_those_of_each_answer_alone(tiny_model: str, letter_judge: str) -> None:
    actor, config, chosen = actor_of(tiny_model, letter_judge)
    episodes = some_episodes()
    together = ppo.estimate(
        actor, episodes, ppo.minibatches(episodes, chosen, 0, 1, 0), episodes.scores, 0.1, config, CPU
    )
    for n in range(3):
        length = len(episodes.trees[n].completions[0])
        one = ppo.Episodes(
            [PROMPTS[n]], [episodes.trees[n]], [episodes.answers[n]], [""], episodes.scores[n : n + 1],
            torch.ones(1, length, dtype=torch.bool),
        )  # fmt: skip
        alone = ppo.estimate(actor, one, [[[0]]], one.scores, 0.1, config, CPU)
        for name in ("logps", "reference_logps", "values", "returns"):
            grid, row = getattr(together, name), getattr(alone, name)
            torch.testing.assert_close(grid[n, :length], row[0], rtol=0, atol=1e-5)
            assert not grid[n, length:].any()


# Prompts, minibatches, warnings


def test_every_prompt_is_answered_once_before_any_is_answered_again() -> None:
    order = [i for iteration in range(1, 7) for i in ppo.episode_prompts(5, 7, iteration, seed=3)]
    assert len(order) == 42
    passes = [order[start : start + 5] for start in range(0, 40, 5)]
    assert all(sorted(one) == [0, 1, 2, 3, 4] for one in passes)
    assert len({tuple(one) for one in passes}) > 1


def test_each_epoch_sees_every_episode_once_in_another_order(tiny_model: str, letter_judge: str) -> None:
    _, _, chosen = actor_of(tiny_model, letter_judge, minibatches=2)
    epochs = [ppo.minibatches(some_episodes(), chosen, 0, 1, epoch) for epoch in range(6)]
    assert all(
        sorted(row for minibatch in epoch for part in minibatch for row in part) == [0, 1, 2] for epoch in epochs
    )
    assert len({str(epoch) for epoch in epochs}) > 1


def test_a_persistently_negative_kl_is_called_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    count = 0
    for kl in (-0.5, 0.1, -0.5, -0.5):
        count = ppo.watch_kl(kl, 0.1, count)
    assert count == 2
    assert capsys.readouterr().err == ""
    assert ppo.watch_kl(-0.5, 0.1, count) == 3
    assert "negative KL" in capsys.readouterr().err
    assert ppo.watch_kl(-0.1, 0.1, 3) == 0  # within two standard errors: chance


# Stop, resume, refuse


@pytest.mark.parametrize("adapters", [{"rank": 4}, None], ids=["lora", "full"])
def test_a_run_stopped_on_request_ends_as_an_uninterrupted_one(
    make_run: MakeRun, letter_judge: str, adapters: Any
) -> None:
    chosen = options(letter_judge, iterations=4, kl_target=0.5, kl_horizon=50)
    settings = {"prompts": PROMPTS, "lora": adapters, "options": chosen}
    whole = make_run("ppo", name="whole", **settings)
    assert main(["ppo", "--run", str(whole)]) == EXIT_DONE

    run_dir = make_run("ppo", name="stopped", **settings)
    assert ppo.run(run_dir, load_run(run_dir), StopAfter(run_dir, 2)) == EXIT_STOPPED
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_000002"]
    assert not (run_dir / "final").exists()
    with (run_dir / "rollouts.jsonl").open("a") as file:  # what a crash in the third iteration would leave
        file.write('{"iteration": 3, "text": "lost"}\n{"itera')
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


def test_the_command_stops_on_sigterm_with_a_checkpoint_and_goes_on(make_run: MakeRun, letter_judge: str) -> None:
    settings = {"prompts": PROMPTS, "lora": {"rank": 4}, "options": options(letter_judge, iterations=12)}
    whole, run_dir = make_run("ppo", name="whole", **settings), make_run("ppo", name="stopped", **settings)
    assert main(["ppo", "--run", str(whole)]) == EXIT_DONE

    command = [sys.executable, "-m", "trainer", "ppo", "--run", str(run_dir)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment) as process:
        while not (run_dir / "rollouts.jsonl").exists():
            assert process.poll() is None, process.communicate()
            time.sleep(0.005)  # a file of another process gives no event to wait for
        process.send_signal(signal.SIGTERM)
        _, error = process.communicate()
    assert process.returncode == EXIT_STOPPED, error
    done = len(read_lines(run_dir / "metrics.jsonl"))
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == [f"step_{done:06d}"]
    assert done < 12
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


@pytest.mark.parametrize(
    ("prompts", "judge", "sentence"),
    [
        (PROMPTS, "/no/such/judge", "holds no reward.json; it must be the final folder of a reward run"),
        ([], None, "no prompt in the train split"),
        ([Prompt("h", ask("hi"), split="held_out")], None, "no prompt in the train split"),
        ([Prompt("endless", ask("why " * 200))], None, "Prompt endless has"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_in_one_sentence(
    make_run: MakeRun,
    letter_judge: str,
    capsys: pytest.CaptureFixture[str],
    prompts: list[Prompt],
    judge: str | None,
    sentence: str,
) -> None:
    run_dir = make_run("ppo", prompts=prompts, options=options(judge or letter_judge, iterations=1))
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    error = capsys.readouterr().err
    assert sentence in error
    assert error.count("\n") == 1
    assert not (run_dir / "metrics.jsonl").exists()
    if judge is None:
        return
    config = json.loads((run_dir / "run.json").read_text())
    config["options"]["reward_model"] = letter_judge
    (run_dir / "run.json").write_text(json.dumps(config))
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
