"""PPO through the trainer's own command, on a tiny model and a reward model that likes one letter."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import (
    CPU,
    OPTIM,
    PROMPTS,
    MakeRun,
    StopAfter,
    ask,
    assert_same,
    kill_after,
    options,
    read_lines,
    some_demonstrations,
)
from transformers import AutoModelForCausalLM

from trainer import data, episodes, modeling, ppo, ptx, reward_model, rollout, tree
from trainer.__main__ import main
from trainer.config import load_run, parse_run
from trainer.episodes import Measures
from trainer.manifest import verify_manifest
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_DONE, EXIT_STOPPED, Demonstration, Prompt


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
    for plot in ("reward", "kl", "reward_by_kl", "length", "entropy", "clipped"):
        assert f"(plots/{plot}.svg)" in report
    assert "## Reward over √KL" in report.splitlines()
    assert "Gao's curve, R²" in (run_dir / "plots" / "reward_by_kl.svg").read_text(encoding="utf-8")
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


def test_scores_beyond_the_clip_are_cut_off(make_run: MakeRun, letter_judge: str) -> None:
    rewards = {}
    for clip in (None, 0.01):
        run_dir = make_run(
            "ppo", name=f"{clip}", prompts=PROMPTS, options=options(letter_judge, iterations=1, reward_clip=clip)
        )
        assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
        rewards[clip] = [line["reward"] for line in read_lines(run_dir / "rollouts.jsonl")]
    assert max(map(abs, rewards[None])) > 0.02
    assert rewards[0.01] == pytest.approx([max(-0.01, min(0.01, reward)) for reward in rewards[None]])


def test_several_answers_a_prompt_and_several_reward_models(
    make_run: MakeRun, letter_judge: str, two_headed_judge: str
) -> None:
    rewards = {}
    for way in ("mean", "worst", "uncertainty_weighted"):
        ensemble = {"more_reward_models": [two_headed_judge], "reward_ensemble": way, "uncertainty_coefficient": 0.5}
        chosen = options(letter_judge, iterations=1, answers_per_prompt=4, **ensemble)
        run_dir = make_run("ppo", name=way, prompts=PROMPTS, options=chosen)
        assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
        (row,) = read_lines(run_dir / "metrics.jsonl")
        assert row["episodes"] == 16
        assert row["first_log_ratio"] == 0.0
        assert row["reward_uncertainty"] > 0.1
        rewards[way] = row["reward"]
        assert len({line["prompt_id"] for line in read_lines(run_dir / "rollouts.jsonl")}) == 1
    assert rewards["worst"] < rewards["uncertainty_weighted"] < rewards["mean"]


def test_a_mix_of_demonstrations_keeps_the_policy_from_unlearning_them(make_run: MakeRun, letter_judge: str) -> None:
    kept = []
    for name, coefficient in (("plain", 0.0), ("ptx", 2.0)):
        chosen = options(letter_judge, ptx_coefficient=coefficient, ptx_batch_size=4, iterations=6)
        run_dir = make_run(
            "ppo", name=name, prompts=PROMPTS, demonstrations=some_demonstrations(6, held_out=2), options=chosen
        )
        assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
        policy = modeling.load_policy(str(run_dir / "final"), torch.float32, CPU.device)
        texts = ptx.read(run_dir, modeling.load_tokenizer(str(run_dir / "final")), 64, data.Truncation())
        assert len(texts) == 6
        with torch.no_grad():
            logps = modeling.completion_logps(policy, tree.collate(list(texts), CPU.device, "packed"))
        kept.append(-logps.mean().item())
    assert "ptx_loss" not in read_lines(run_dir.parent / "plain" / "metrics.jsonl")[0]
    losses_seen = [row["ptx_loss"] for row in read_lines(run_dir / "metrics.jsonl")]
    assert losses_seen[-1] < losses_seen[0]
    assert kept[1] < kept[0] - 0.5


def test_what_reward_models_and_the_mix_had_to_cut_is_counted_in_the_report(
    make_run: MakeRun, letter_judge: str, tmp_path: Path
) -> None:
    # The other judge's template says every question 40 times: what fits the policy does not fit that judge.
    model = reward_model.load_reward(letter_judge, torch.float32, CPU.device)
    template = str(model.tokenizer.chat_template)
    model.tokenizer.chat_template = template.replace("message['content']", "message['content'] * 40")
    reward_model.save_reward(model, tmp_path, 64)
    long = Demonstration("long", ask("say " * 20), "so " * 20)
    settings: dict[str, Any] = {
        "prompts": PROMPTS,
        "demonstrations": [long, *some_demonstrations(3)],
        "max_length": 64,
    }
    for name, folder, cut in (("whole", letter_judge, 0), ("cut", str(tmp_path), 1)):
        chosen = options(folder, iterations=2, ptx_coefficient=0.1, ptx_batch_size=2)
        run_dir = make_run("ppo", name=name, **settings, options=chosen)
        assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
        summary = json.loads((run_dir / "report.json").read_text())["summary"]
        assert (summary["truncated_prompts"], summary["truncated_completions"]) == (32 * cut, 0)
        assert (summary["ptx_truncated_prompts"], summary["ptx_truncated_completions"]) == (1, 1)
        assert [row["truncated_prompts"] for row in read_lines(run_dir / "metrics.jsonl")] == [16 * cut] * 2


def test_a_mix_without_demonstrations_is_refused(make_run: MakeRun, letter_judge: str, capsys: Any) -> None:
    run_dir = make_run("ppo", prompts=PROMPTS, options=options(letter_judge, ptx_coefficient=1.0, iterations=1))
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "no demonstration in the train split" in capsys.readouterr().err


def test_an_iteration_stops_early_where_the_policy_has_left_the_one_that_answered(
    make_run: MakeRun, letter_judge: str
) -> None:
    chosen = options(letter_judge, iterations=2, ppo_epochs=4, kl_stop=1e-4)
    run_dir = make_run("ppo", prompts=PROMPTS, options=chosen)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    for row in read_lines(run_dir / "metrics.jsonl"):
        assert row["event"] == "kl stop"
        assert 1 <= row["updates"] < 8


def test_beyond_the_limit_the_run_goes_back_to_its_best_weights_and_at_last_ends(
    make_run: MakeRun, letter_judge: str, sharp_model: str
) -> None:
    optim = {**OPTIM, "learning_rate": 5e-2}
    chosen = options(letter_judge, iterations=30, kl_limit=1.0, kl_coefficient=0.001, optim=optim)
    settings = {"prompts": PROMPTS, "model": sharp_model, "lora": {"rank": 4}, "options": chosen}
    run_dir = make_run("ppo", **settings)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    back = [row for row in rows if row.get("event") == "rolled back"]
    assert len(back) == 3
    assert len(rows) < 30
    for row in back:
        assert row["kl"] > 1.0
        assert rows[row["rolled_back_to"] - 1]["kl"] <= 1.0
        assert "policy_loss" not in row
    assert rows[back[0]["step"]]["kl_coefficient"] == 0.002
    assert rows[back[0]["step"]]["kl"] == pytest.approx(rows[back[0]["rolled_back_to"] - 1]["kl"], abs=0.5)
    assert "ended there because its KL went beyond 1 nats 3 times" in (run_dir / "report.md").read_text()

    stopped = make_run("ppo", name="stopped", **settings)
    after = back[0]["step"]
    assert ppo.run(stopped, load_run(stopped), StopAfter(stopped, after)) == EXIT_STOPPED
    assert main(["ppo", "--run", str(stopped)]) == EXIT_DONE
    assert_same(stopped, run_dir)


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


def test_a_run_killed_in_the_middle_of_anything_ends_as_an_uninterrupted_one(
    make_run: MakeRun, letter_judge: str, two_headed_judge: str
) -> None:
    everything = {
        "answers_per_prompt": 2, "more_reward_models": [two_headed_judge], "reward_ensemble": "worst", "kl_target": 0.5,
        "kl_horizon": 50, "kl_stop": 0.05, "kl_limit": 50.0, "keep": "best", "ptx_coefficient": 0.5,
        "entropy_coefficient": 0.01, "whiten_rewards": True,
    }  # fmt: skip
    chosen = options(letter_judge, iterations=7, **everything)
    settings = {"prompts": PROMPTS, "demonstrations": some_demonstrations(6), "lora": {"rank": 4}, "options": chosen}
    whole, run_dir = (make_run("ppo", name=name, checkpoint_steps=2, **settings) for name in ("whole", "killed"))
    assert main(["ppo", "--run", str(whole)]) == EXIT_DONE
    for lines in (1, 3):  # before the first checkpoint, and between two
        kill_after(run_dir, "ppo", lines)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
    assert read_lines(whole / "metrics.jsonl")[-1]["kl_coefficient"] != 0.01


def test_a_resumed_run_keeps_the_room_for_answers_that_memory_left_it(
    make_run: MakeRun, letter_judge: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = {"prompts": PROMPTS, "lora": {"rank": 4}, "options": options(letter_judge, iterations=3)}
    plain, whole, run_dir = (make_run("ppo", name=name, **settings) for name in ("plain", "whole", "stopped"))
    assert main(["ppo", "--run", str(plain)]) == EXIT_DONE
    honest = rollout._sample_batch
    for folder in (whole, run_dir):
        failures = iter([True])

        def sample_batch(*arguments: Any, failures: Any = failures) -> list[rollout.Answer]:
            if next(failures, False):
                torch.empty(1 << 60)  # more than there is anywhere
            return honest(*arguments)

        monkeypatch.setattr(rollout, "_sample_batch", sample_batch)
        stop = StopAfter(folder, 1 if folder == run_dir else 99)
        assert ppo.run(folder, load_run(folder), stop) == (EXIT_STOPPED if folder == run_dir else EXIT_DONE)
    state = json.loads((run_dir / "checkpoints" / "step_000001" / "state.json").read_text())
    assert state["counters"]["answers_at_once"] == 8
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
    first, second = (read_lines(folder / "rollouts.jsonl")[0]["text"] for folder in (plain, whole))
    assert first == second


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_a_run_of_default_length_is_saved_on_its_way(method: str) -> None:
    asked = {"run_id": "r", "method": method, "model": "m", "options": {"reward_model": "j"}}
    config = parse_run(asked)
    assert config.checkpoint_steps == 5 < config.options.iterations  # type: ignore[union-attr]
    assert parse_run({**asked, "checkpoint_steps": 7}).checkpoint_steps == 7


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


@pytest.mark.parametrize("method", ["ppo", "rloo"])
def test_a_run_that_finds_itself_wrong_ends_with_a_sentence_and_a_code_of_its_own(
    make_run: MakeRun, letter_judge: str, monkeypatch: pytest.MonkeyPatch, capsys: Any, method: str
) -> None:
    honest, codes = episodes.measure, []
    for off in (0.0, 1e-3):

        def measure_wrongly(*arguments: Any, off: float = off) -> Measures:
            found = honest(*arguments)
            return found._replace(logps=found.logps + off)

        monkeypatch.setattr(episodes, "measure", measure_wrongly)
        run_dir = make_run(
            method, name=f"off{off}", prompts=PROMPTS, options=options(letter_judge, iterations=1, answers_per_prompt=2)
        )
        codes.append(main([method, "--run", str(run_dir)]))
    assert codes == [EXIT_DONE, EXIT_DIVERGED]
    error = capsys.readouterr().err
    assert error.startswith("Iteration 1 starts with a log-ratio of 0.001 instead of 0")
    assert error.count("\n") == 1
    assert not (run_dir / "checkpoints").exists()
