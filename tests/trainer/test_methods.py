"""SFT, reward and DPO through the trainer's own command, on a tiny model: they learn, and resume exactly."""

import dataclasses
import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import MakeRun, ask, build_tokenizer, read_lines, some_comparisons, some_demonstrations, without_clock
from transformers import AutoModelForCausalLM

from trainer import data, dpo, kto, modeling, optim, reward, sft
from trainer.__main__ import main
from trainer.config import ConfigError, DpoOptions, Lora, load_run
from trainer.manifest import file_sha256, verify_manifest
from trainer.rankings import deal_labelers
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED, Comparison, Demonstration, Message
from trainer.reward_model import CUT_MARK, load_reward, score_texts
from trainer.stop import StopSignal

FAST = {"learning_rate": 5e-3, "batch_size": 4, "epochs": 6.0, "schedule": "constant", "warmup_fraction": 0.0}
DATA = {
    "sft": {"demonstrations": some_demonstrations(8, 4)},
    "reward": {"comparisons": some_comparisons(8, 2), "demonstrations": some_demonstrations(3)},
    "dpo": {"comparisons": some_comparisons(8, 2)},
    "kto": {"comparisons": [dataclasses.replace(row, acceptable=1) for row in some_comparisons(8, 2)]},
}


def summary_of(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "report.json").read_text())["summary"]
    return summary


# Learning


def test_sft_learns_its_demonstrations_and_leaves_a_model_that_plain_transformers_loads(make_run: MakeRun) -> None:
    optim = {**FAST, "learning_rate": 2e-2}
    run_dir = make_run("sft", demonstrations=some_demonstrations(8, 4), lora={"rank": 4}, options={"optim": optim})
    assert main(["sft", "--run", str(run_dir)]) == EXIT_DONE

    rows = read_lines(run_dir / "metrics.jsonl")
    assert [row["step"] for row in rows] == list(range(1, 13))
    assert {row["total_steps"] for row in rows} == {12}
    assert rows[-1]["loss"] < rows[0]["loss"] - 0.2  # adapters on a random model with a frozen head learn slowly
    summary = summary_of(run_dir)
    assert (summary["train_demonstrations"], summary["held_out_demonstrations"]) == (8, 4)
    assert summary["held_out_loss"] < rows[1]["held_out_loss"]

    verify_manifest(run_dir / "final")
    model = AutoModelForCausalLM.from_pretrained(run_dir / "final")
    tokens = torch.tensor([[7, 8, 9]])
    assert torch.isfinite(model(input_ids=tokens).logits).all()


def test_memory_that_runs_out_over_the_held_out_split_does_not_end_sft(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, run_dir = (make_run("sft", name=name, **DATA["sft"], options={"optim": FAST}) for name in ("whole", "short"))
    assert main(["sft", "--run", str(whole)]) == EXIT_DONE
    honest, failures = modeling.completion_logps, iter([True])

    def completion_logps(*arguments: Any) -> torch.Tensor:
        if not torch.is_grad_enabled() and next(failures, False):
            torch.empty(1 << 60)  # more than there is anywhere
        return honest(*arguments)

    monkeypatch.setattr(modeling, "completion_logps", completion_logps)
    assert main(["sft", "--run", str(run_dir)]) == EXIT_DONE
    assert next(failures, None) is None
    assert summary_of(run_dir)["held_out_loss"] == pytest.approx(summary_of(whole)["held_out_loss"], rel=1e-5)


def test_the_first_sft_loss_is_what_transformers_computes_for_the_answers_tokens(
    make_run: MakeRun, tiny_model: str
) -> None:
    optim = {"batch_size": 3, "max_steps": 1, "tokens_per_forward": 64}  # three forwards
    run_dir = make_run("sft", demonstrations=some_demonstrations(3), options={"optim": optim})
    assert main(["sft", "--run", str(run_dir)]) == EXIT_DONE

    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), build_tokenizer()
    total, count = 0.0, 0
    for row in some_demonstrations(3):
        prompt, (completion,), _ = data.encode(tokenizer, row.messages, [row.completion], 512, data.Truncation())
        labels = [-100] * len(prompt) + completion
        ids = torch.tensor([prompt + completion])
        total += model(input_ids=ids, labels=torch.tensor([labels])).loss.item() * len(completion)
        count += len(completion)
    (row,) = read_lines(run_dir / "metrics.jsonl")
    assert row["loss"] == pytest.approx(total / count, rel=1e-4)


def test_all_turns_of_a_conversation_are_learned_when_asked_for(make_run: MakeRun) -> None:
    talk = (Message("user", "hi"), Message("assistant", "yo yo"), Message("user", "again"))
    rows = [Demonstration("d", talk, "yo", split="train")]
    tokens = []
    for turns in ("last", "all"):
        options = {"turns": turns, "optim": {**FAST, "max_steps": 1}}
        run_dir = make_run("sft", name=turns, demonstrations=rows, options=options)
        assert main(["sft", "--run", str(run_dir)]) == EXIT_DONE
        tokens.append(read_lines(run_dir / "metrics.jsonl")[0])
    last, everything = tokens
    assert last["tokens"] == everything["tokens"]  # one reading of the conversation
    assert last["loss"] != everything["loss"]


def test_a_template_that_does_not_fit_one_conversation_is_refused_before_the_first_step(
    make_run: MakeRun, tiny_model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    forgetful = shutil.copytree(tiny_model, tmp_path / "forgetful")
    (forgetful / "chat_template.jinja").write_text("{{ messages[-1]['content'] }}\n")  # what was said before is gone
    talk = (Message("user", "hi"), Message("assistant", "yo yo"), Message("user", "again"))
    rows = [Demonstration("a", talk[:1], "yo", split="train"), Demonstration("b", talk, "yo", split="held_out")]
    run_dir = make_run("sft", demonstrations=rows, model=str(forgetful), options={"turns": "all", "optim": FAST})
    assert main(["sft", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "set options.turns to last" in capsys.readouterr().err
    assert not (run_dir / "metrics.jsonl").exists()


def test_full_fine_tuning_trains_every_weight_and_saves_in_the_precision_of_the_run(make_run: MakeRun) -> None:
    run_dir = make_run("sft", demonstrations=some_demonstrations(8), precision="bfloat16", options={"optim": FAST})
    assert main(["sft", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"]
    assert AutoModelForCausalLM.from_pretrained(run_dir / "final").dtype is torch.bfloat16


def test_a_reward_model_learns_four_rankings_and_scores_the_better_answer_higher(make_run: MakeRun) -> None:
    run_dir = make_run(
        "reward",
        comparisons=some_comparisons(4, 2, labelers=2),
        demonstrations=some_demonstrations(3),
        lora={"rank": 4},
        options={"optim": FAST},
    )
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert rows[-1]["accuracy"] == 1.0
    assert rows[-1]["margin"] > rows[0]["margin"]
    # Two labelers ranked the same four prompts of three answers: 12 encodings a step, and pairs counted once.
    assert {row["tokens"] for row in rows} == {rows[0]["tokens"]}

    summary = summary_of(run_dir)
    assert (summary["train_prompts"], summary["train_pairs"]) == (4, 8)
    assert summary["held_out_accuracy"] == 1.0
    low, high = summary["held_out_accuracy_interval"]
    assert low <= summary["held_out_accuracy"] <= high
    assert 0 <= summary["length_only_accuracy"] <= 1

    model = load_reward(str(run_dir / "final"), torch.float32, torch.device("cpu"))
    better, worse = score_texts(model, [ask("is it red 99")] * 2, ["yes", "no green"], 128).tolist()
    assert better > worse
    references = some_demonstrations(3)
    scores = score_texts(model, [row.messages for row in references], [row.completion for row in references], 512)
    assert scores.mean().item() == pytest.approx(0.0, abs=1e-4)


def test_dpo_starts_at_ln_2_and_its_margin_rises(make_run: MakeRun) -> None:
    run_dir = make_run("dpo", comparisons=some_comparisons(4, 2), lora={"rank": 4}, options={"optim": FAST})
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert rows[0]["margin"] == pytest.approx(0.0, abs=1e-5)
    assert rows[-1]["accuracy"] == 1.0
    assert rows[-1]["margin"] > 0.3
    assert summary_of(run_dir)["held_out_margin"] > rows[0]["held_out_margin"]


@pytest.mark.parametrize(
    ("options", "start"),
    [
        ({"loss": "plackett_luce"}, math.log(3)),  # the best of three; the other two tie
        ({"loss": "ipo", "beta": 0.5}, 1.0),
        ({"label_smoothing": 0.1}, math.log(2)),
        ({"length_normalised": True, "beta": 2.0}, math.log(2)),
        ({"nll_weight": 0.2}, None),
    ],
    ids=["plackett_luce", "ipo", "cdpo", "length_normalised", "nll"],
)
def test_the_relatives_of_dpo_start_where_they_should_and_learn(
    make_run: MakeRun, options: dict[str, Any], start: float | None
) -> None:
    settings = {**options, "optim": {**FAST, "learning_rate": 2e-3}}
    run_dir = make_run("dpo", comparisons=some_comparisons(4, 2), lora={"rank": 4}, options=settings)
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    if start is None:  # ln 2 and a fifth of the negative log-likelihood a token, about that of 260 equal tokens
        assert rows[0]["loss"] == pytest.approx(math.log(2) + 0.2 * math.log(260), abs=0.1)
    else:
        assert rows[0]["loss"] == pytest.approx(start, abs=1e-4)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] == 1.0


@pytest.mark.parametrize(
    "options",
    [{"loss": "plackett_luce"}, {"loss": "davidson"}, {"margin": 0.5}, {"heads": 3}],
    ids=["plackett_luce", "davidson", "margin", "ensemble"],
)
def test_every_loss_of_the_reward_model_learns_and_resumes_exactly(make_run: MakeRun, options: dict[str, Any]) -> None:
    rows = [dataclasses.replace(row, strengths=(2,)) for row in some_comparisons(8, 2)]
    settings = {"comparisons": rows, "lora": {"rank": 4}, "options": {**options, "optim": FAST}, "checkpoint_steps": 5}
    whole, run_dir = make_run("reward", name="whole", **settings), make_run("reward", name="stopped", **settings)
    assert main(["reward", "--run", str(whole)]) == EXIT_DONE
    assert summary_of(whole)["held_out_accuracy"] == 1.0
    assert ("held_out_uncertainty" in summary_of(whole)) == ("heads" in options)
    nu = json.loads((whole / "final" / "reward.json").read_text())["nu"]
    assert nu is None if "davidson" not in options.values() else nu != 1.0  # learned

    assert reward.run(run_dir, load_run(run_dir), StopAfter(run_dir, 5)) == EXIT_STOPPED
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)


def test_the_report_of_a_reward_model_says_by_labeler_by_length_and_what_labelers_reach(make_run: MakeRun) -> None:
    run_dir = make_run("reward", comparisons=some_comparisons(4, 4, labelers=2), options={"optim": FAST})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    summary = summary_of(run_dir)
    assert set(summary["accuracy_by_labeler"]) == {"labeler 0", "labeler 1"}
    assert summary["labelers_agree"] == 1.0
    assert 0 <= summary["calibration_error"] <= 1
    lines = (run_dir / "report.md").read_text().splitlines()
    for column in ("labeler", "preferred answer"):
        assert lines[lines.index(f"## Accuracy by {column}") + 2] == f"| {column} | accuracy | pairs |"
    assert len(summary["chat_template_sha256"]) == 64


def test_nothing_is_learned_from_held_out_labelers_and_agreement_with_them_is_told_apart(make_run: MakeRun) -> None:
    # Half of the labelers say the opposite of the others: whoever is learned from is agreed with, the others are not.
    rows = some_comparisons(8, 4, labelers=4)
    strangers = {name for name, fold in deal_labelers(rows, 2).items() if fold == 1}
    assert len(strangers) == 2
    contrary = [dataclasses.replace(row, ranking=((0, 2), (1,))) if row.labeler in strangers else row for row in rows]
    run_dir = make_run("reward", comparisons=contrary, options={"labeler_folds": 2, "held_out_fold": 1, "optim": FAST})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_DONE
    by_labelers = summary_of(run_dir)["accuracy_on_labelers"]
    assert by_labelers["learned from"]["accuracy"] == 1.0
    assert by_labelers["never seen"]["accuracy"] == 0.0
    lines = (run_dir / "report.md").read_text().splitlines()
    assert lines[lines.index("## Accuracy on labelers") + 2 :][:4] == [
        "| labelers | accuracy | pairs |",
        "| --- | --- | --- |",
        "| learned from | 1 (1 to 1) | 16 |",
        "| never seen | 0 (0 to 0) | 16 |",
    ]


def test_more_folds_than_labelers_is_one_sentence(make_run: MakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = make_run("reward", comparisons=some_comparisons(4, labelers=2), options={"labeler_folds": 3})
    assert main(["reward", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "the comparisons are of 2 labelers only" in capsys.readouterr().err


def test_adapters_that_no_gradient_reaches_are_refused(tiny_model: str) -> None:
    model = modeling.add_lora(modeling.load_policy(tiny_model, torch.float32, torch.device("cpu")), Lora(rank=4))
    model(input_ids=torch.tensor([[5, 6]])).logits.sum().backward()
    optim.check_gradients(model)
    model.zero_grad()
    with pytest.raises(ConfigError, match="No gradient reaches the adapters"):
        optim.check_gradients(model)


def test_dpo_computes_its_reference_once_and_again_when_the_cache_is_of_other_inputs(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_dir = make_run("dpo", comparisons=some_comparisons(4), lora={"rank": 4}, options={"optim": {"max_steps": 1}})
    main(["dpo", "--run", str(run_dir)])
    cached = file_sha256(run_dir / "reference.safetensors")
    written = (run_dir / "reference.safetensors").stat().st_mtime_ns
    main(["dpo", "--run", str(run_dir)])
    assert (run_dir / "reference.safetensors").stat().st_mtime_ns == written

    other = make_run("dpo", name="other", comparisons=some_comparisons(5), options={"optim": {"max_steps": 1}})
    (other / "reference.safetensors").write_bytes((run_dir / "reference.safetensors").read_bytes())
    assert main(["dpo", "--run", str(other)]) == EXIT_DONE
    assert file_sha256(other / "reference.safetensors") != cached


def test_kto_starts_at_one_half_and_tells_acceptable_answers_from_others(make_run: MakeRun) -> None:
    options = {"optim": {**FAST, "tokens_per_forward": 64}}  # a forward a prompt, one baseline for all
    run_dir = make_run("kto", **DATA["kto"], lora={"rank": 4}, options=options)
    assert main(["kto", "--run", str(run_dir)]) == EXIT_DONE
    rows = read_lines(run_dir / "metrics.jsonl")
    assert rows[0]["loss"] == pytest.approx(0.5, abs=1e-5)
    assert rows[-1]["loss"] < rows[0]["loss"]
    assert rows[-1]["accuracy"] > 0.8
    assert summary_of(run_dir)["held_out_margin"] > 0


def test_kto_without_a_line_between_good_and_bad_is_one_sentence(
    make_run: MakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = make_run("kto", comparisons=some_comparisons(4))
    assert main(["kto", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert "says which answers are acceptable" in capsys.readouterr().err


@pytest.mark.parametrize("method", ["reward", "dpo", "kto"])
def test_answers_that_never_ended_are_learned_from_without_an_end_token_or_behind_a_mark(
    make_run: MakeRun, method: str
) -> None:
    rows = [dataclasses.replace(row, acceptable=1) for row in some_comparisons(4)]
    cut = [dataclasses.replace(row, ended=(True, False, False)) for row in rows]
    first = {}
    for name, comparisons in (("ended", rows), ("cut", cut)):
        options = {"optim": {**FAST, "max_steps": 1}}
        run_dir = make_run(method, name=name, comparisons=comparisons, options=options)
        assert main([method, "--run", str(run_dir)]) == EXIT_DONE
        first[name] = read_lines(run_dir / "metrics.jsonl")[0]
    more = len(build_tokenizer().encode(CUT_MARK)) if method == "reward" else -1
    assert first["cut"]["tokens"] - first["ended"]["tokens"] == more * 2 * 4


def test_dpo_s_log_probability_of_an_answer_that_never_ended_is_that_of_its_own_tokens(
    make_run: MakeRun, tiny_model: str
) -> None:
    row = Comparison("c", ask("which"), ("yes", "no"), ((0,), (1,)), ended=(False, True))
    run_dir = make_run("dpo", comparisons=[row], options={"optim": {**FAST, "max_steps": 1}})
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    (told,) = read_lines(run_dir / "metrics.jsonl")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(tiny_model), build_tokenizer()
    prompt = data.prompt_ids(tokenizer, row.messages)
    for text, key in (("yes", "chosen_logp"), ("no<end>", "rejected_logp")):
        ids = tokenizer.encode(text, add_special_tokens=False)
        labels = [-100] * len(prompt) + ids
        loss = model(input_ids=torch.tensor([prompt + ids]), labels=torch.tensor([labels])).loss.item()
        assert told[key] == pytest.approx(-loss * len(ids), rel=1e-4)


def test_dpo_refuses_to_start_from_another_model_than_its_reference() -> None:
    device, options = dpo.Device(torch.device("cpu"), torch.float32), DpoOptions()
    dpo.check_first_loss(math.log(2), math.log(2), options, device)
    with pytest.raises(ConfigError, match=r"not ln 2 = 0\.6931"):
        dpo.check_first_loss(0.70, math.log(2), options, device)


def test_truncated_prompts_are_counted_in_the_report(make_run: MakeRun) -> None:
    long = Comparison("c", (Message("user", "why " * 60),), ("yes", "no"), ((0,), (1,)))
    run_dir = make_run("dpo", comparisons=[long, *some_comparisons(2)], max_length=64, options={"optim": FAST})
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE
    assert summary_of(run_dir)["truncated_prompts"] == 1


@pytest.mark.parametrize("method", ["reward", "dpo"])
def test_rankings_that_prefer_nothing_are_counted_in_the_report(make_run: MakeRun, method: str) -> None:
    tie = Comparison("t", ask("which"), ("a", "b"), ((0, 1),))
    silent = [tie, dataclasses.replace(tie, ranking=(), split="held_out"), Comparison("s", ask("x"), ("a",), ((0,),))]
    weightless = dataclasses.replace(tie, weight=0.0)
    for name, rows, count in (("good", [], 0), ("silent", [*silent, weightless], 3)):
        run_dir = make_run(
            method, name=name, comparisons=[*some_comparisons(2), *rows], options={"optim": {**FAST, "max_steps": 1}}
        )
        assert main([method, "--run", str(run_dir)]) == EXIT_DONE
        assert summary_of(run_dir)["rankings_without_preference"] == count
        assert summary_of(run_dir)["train_prompts"] == 2


# Stop and resume


class StopAfter(StopSignal):
    """Asks to stop once a run has written so many steps: a SIGTERM at a moment of our choice."""

    def __init__(self, run_dir: Path, steps: int) -> None:
        self.path, self.steps = run_dir / "metrics.jsonl", steps

    @property
    def requested(self) -> bool:  # type: ignore[override]
        return self.path.exists() and len(read_lines(self.path)) >= self.steps


def assert_same(run_dir: Path, whole: Path) -> None:
    """Check that two runs left the same metrics, the same weights and the same findings, to the last bit."""
    assert without_clock(read_lines(run_dir / "metrics.jsonl")) == without_clock(read_lines(whole / "metrics.jsonl"))
    for path in (whole / "final").iterdir():
        assert file_sha256(run_dir / "final" / path.name) == file_sha256(path), path.name
    assert summary_of(run_dir) == summary_of(whole)


@pytest.mark.parametrize("adapters", [{"rank": 4}, None], ids=["lora", "full"])
@pytest.mark.parametrize("method", ["sft", "reward", "dpo", "kto"])
def test_a_run_stopped_twice_ends_as_an_uninterrupted_one(make_run: MakeRun, method: str, adapters: Any) -> None:
    settings = {**DATA[method], "lora": adapters, "options": {"optim": FAST}, "checkpoint_steps": 5}
    whole = make_run(method, name="whole", **settings)
    assert main([method, "--run", str(whole)]) == EXIT_DONE

    run_dir = make_run(method, name="stopped", **settings)
    module = {"sft": sft, "reward": reward, "dpo": dpo, "kto": kto}[method]
    config = load_run(run_dir)
    assert module.run(run_dir, config, StopAfter(run_dir, 3)) == EXIT_STOPPED
    assert [path.name for path in (run_dir / "checkpoints").iterdir()] == ["step_000003"]
    assert not (run_dir / "final").exists()
    assert module.run(run_dir, config, StopAfter(run_dir, 8)) == EXIT_STOPPED
    assert main([method, "--run", str(run_dir)]) == EXIT_DONE
    assert_same(run_dir, whole)
