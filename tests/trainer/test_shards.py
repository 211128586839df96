"""Two processes over gloo that share one model train what one process trains, and each holds its half of it."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from builders import PROMPTS, MakeRun, options, read_lines, some_comparisons, some_demonstrations, timeless
from safetensors.torch import load_file, save_file
from test_encoders import encoder
from test_parallel import BUDGET, OPTIM, every_gradient, finish, flag, start, train, wait_for_a_line
from test_tree import FAMILIES, build, some_trees
from torch.distributed.tensor import DTensor
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from trainer import modeling, optim, parallel, sft, shards, tree
from trainer.__main__ import main
from trainer.config import ConfigError, Optim, RewardOptions, parse_run
from trainer.device import Device
from trainer.layout import Layout
from trainer.manifest import file_sha256
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE, EXIT_STOPPED

pytestmark = pytest.mark.timeout(900)
SHARD = {"shard": True, "recompute_activations": True}
CPU = torch.device("cpu")


def join() -> tuple[Device, int]:
    torch.use_deterministic_algorithms(True)
    return Device(CPU, torch.float32, parallel.join(CPU)), int(os.environ["RANK"])


# Gradients


def write_gradients(model: str, judge: str, folder: str) -> None:
    device, rank = join()
    save_file(every_gradient(model, judge, device, SHARD), Path(folder) / f"{rank}.safetensors")
    parallel.leave()


def test_the_gradients_of_a_shared_model_are_those_of_a_whole_one(
    sharp_model: str, letter_judge: str, tmp_path: Path
) -> None:
    pair = start(write_gradients, sharp_model, letter_judge, str(tmp_path))
    alone = every_gradient(sharp_model, letter_judge, Device(CPU, torch.float32), {})
    finish(pair)
    assert {name.partition("/")[0] for name in alone} == {"sft", "dpo", "kto", "reward", "ppo"}
    for rank in (0, 1):
        found = load_file(tmp_path / f"{rank}.safetensors")
        assert found.keys() == alone.keys()
        for name, wanted in alone.items():
            torch.testing.assert_close(found[name], wanted, rtol=1e-4, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}")


def compare_families() -> None:
    """As one of two compare the gradients of a shared model with those of a whole one, for every family."""
    device, _ = join()
    alone, mesh = Device(CPU, torch.float32), shards.mesh_of(device)
    trees = [tree.Tree(one.prompt, [completion]) for one in some_trees() for completion in one.completions]
    weights = [1.0] * len(trees)
    for family in FAMILIES:
        plain, shared = build(family), build(family)
        shards.spread(shared, shared.base_model, device, mesh)
        sft.backward(plain, trees, weights, Layout("packed", BUDGET, alone))
        layout = modeling.choose_layout(shared, BUDGET, device)
        assert layout.shared
        sft.backward(shared, trees, weights, layout)
        for (name, one), other in zip(plain.named_parameters(), shared.parameters(), strict=True):
            if one.grad is not None and other.grad is not None:
                found = shards.whole(other.grad)
                assert torch.allclose(found, one.grad, rtol=1e-4, atol=1e-5), (family, name)
            assert (one.grad is None) == (other.grad is None), (family, name)
    parallel.leave()


def test_every_family_can_be_shared() -> None:
    finish(start(compare_families))


# What each process holds


def write_what_is_held(model: str, folder: str) -> None:
    """Take one step of a model, and write down how much of everything is here, and the norm that was clipped."""
    device, rank = join()
    config = parse_run({"run_id": "r", "method": "sft", "model": model, "options": {"optim": {"shard": True}}})
    policy = modeling.load_trainable(config, device)
    chosen = Optim(grad_clip=0.5)
    optimizer = optim.build(policy.parameters(), chosen)
    policy.base_model(input_ids=torch.arange(4, 20)[None], use_cache=False).last_hidden_state[:, ::2].norm().backward()
    held: dict[str, int] = {"gathered": sum(p.numel() for p in policy.parameters() if not isinstance(p, DTensor))}
    held["weights"] = sum(p.to_local().numel() for p in policy.parameters() if isinstance(p, DTensor))
    gradients = [p.grad for p in policy.parameters()]
    held["gradients"] = sum(g.to_local().numel() for g in gradients if isinstance(g, DTensor))
    before = [shards.whole(p.detach()).clone() for p in policy.parameters()]
    _, norm = optim.update(optimizer, 1.0, chosen, 1, 1)
    moments = [value for state in optimizer.state.values() for key, value in state.items() if key != "step"]
    held["moments"] = sum(value.to_local().numel() for value in moments if isinstance(value, DTensor))
    assert len(moments) == 2 * len(before)
    assert not all(torch.equal(a, shards.whole(b)) for a, b in zip(before, policy.parameters(), strict=True))
    tensors = {key: torch.tensor(value) for key, value in held.items()}
    save_file(tensors | {"norm": torch.tensor(norm)}, Path(folder) / f"{rank}.safetensors")
    parallel.leave()


def test_each_process_holds_its_half_of_weights_gradients_and_moments(tiny_model: str, tmp_path: Path) -> None:
    finish(start(write_what_is_held, tiny_model, str(tmp_path)))
    halves = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    policy = modeling.load_policy(tiny_model, torch.float32, CPU)
    size = sum(parameter.numel() for parameter in policy.parameters())
    for name, wanted in (("weights", size), ("gradients", size), ("moments", 2 * size)):
        parts = [int(half[name]) for half in halves]
        assert sum(parts) == wanted
        assert max(parts) < 0.51 * wanted
    assert [int(half["gathered"]) for half in halves] == [0, 0]

    # The norm is that of all gradients, not of a part; both processes' losses were the same, so it is twice one's.
    policy.base_model(input_ids=torch.arange(4, 20)[None]).last_hidden_state[:, ::2].norm().backward()
    norm = 2 * torch.nn.utils.get_total_norm([p.grad for p in policy.parameters() if p.grad is not None])
    for half in halves:
        torch.testing.assert_close(half["norm"], norm.detach(), rtol=1e-5, atol=0)


# Whole runs


def arrange(make_run: MakeRun, judge: str, method: str, name: str, more: dict[str, Any], **keys: Any) -> Path:
    """Return a short run of the method that trains every weight, with more options of the optimiser."""
    steps = {**OPTIM, "learning_rate": 1e-3, **more}
    if method in ("ppo", "rloo"):
        chosen = options(judge, iterations=3, answers_per_prompt=2, ppo_epochs=1, keep="best")
        chosen["optim"] = {**chosen["optim"], **steps, "batch_size": 6}
        return make_run(method, name=name, prompts=PROMPTS, options=chosen, **keys)
    return make_run(
        method,
        name=name,
        demonstrations=some_demonstrations(7, 2),
        comparisons=[flag(row) for row in some_comparisons(5, 3)],
        options={"optim": steps, **({"models": 2} if method == "reward" else {})},
        **keys,
    )


@pytest.mark.parametrize("method", ["sft", "dpo", "kto", "reward", "ppo", "rloo"])
def test_a_shared_model_trains_as_a_whole_one_and_leaves_a_plain_folder(
    make_run: MakeRun, letter_judge: str, method: str
) -> None:
    one = arrange(make_run, letter_judge, method, "one", {})
    both = arrange(make_run, letter_judge, method, "both", {"shard": True})
    pair = start(train, method, str(both))
    assert main([method, "--run", str(one)]) == EXIT_DONE
    finish(pair)
    wanted, found = (read_lines(run_dir / "metrics.jsonl") for run_dir in (one, both))
    assert [row["step"] for row in found] == [row["step"] for row in wanted]
    for ours, theirs in zip(found, wanted, strict=True):
        assert ours.keys() == theirs.keys()
        for key in {"loss", "held_out_loss", "reward", "kl", "grad_norm", "margin"} & theirs.keys():
            assert ours[key] == pytest.approx(theirs[key], rel=2e-3, abs=1e-4), key
        assert ours.get("first_log_ratio", 0.0) == 0.0
    assert sorted(path.name for path in (both / "final").iterdir()) == sorted(p.name for p in (one / "final").iterdir())
    for path in (one / "final").glob("*.safetensors"):
        for name, tensor in load_file(path).items():
            torch.testing.assert_close(load_file(both / "final" / path.name)[name], tensor, rtol=1e-3, atol=1e-3)
    factory = AutoModelForSequenceClassification if method == "reward" else AutoModelForCausalLM
    loaded = factory.from_pretrained(both / "final")
    assert loaded.config.architectures == factory.from_pretrained(one / "final").config.architectures
    # Checkpoints are what one process writes.
    folder = max((both / "checkpoints").iterdir()).name
    for file in ("weights.safetensors", "optimizer.safetensors"):
        ours, theirs = (load_file(run_dir / "checkpoints" / folder / file) for run_dir in (both, one))
        assert {name: (t.shape, t.dtype) for name, t in ours.items()} == {
            name: (t.shape, t.dtype) for name, t in theirs.items()
        }


def test_a_shared_encoder_learns_what_a_whole_one_does(make_run: MakeRun, letter_judge: str, tmp_path: Path) -> None:
    base = {"model": encoder("bert", tmp_path / "encoder"), "max_length": 64}
    one = arrange(make_run, letter_judge, "reward", "one", {}, **base)
    both = arrange(make_run, letter_judge, "reward", "both", {"shard": True}, **base)
    pair = start(train, "reward", str(both))
    assert main(["reward", "--run", str(one)]) == EXIT_DONE
    finish(pair)
    assert read_lines(both / "metrics.jsonl")[-1]["loss"] == pytest.approx(
        read_lines(one / "metrics.jsonl")[-1]["loss"], rel=2e-3
    )
    # The mean would not do: no ranking tells the bias of the head anything, so Adam moves it by rounding alone.
    facts, wanted = (json.loads((run_dir / "final" / "reward.json").read_text()) for run_dir in (both, one))
    assert facts["std"] == pytest.approx(wanted["std"], rel=1e-2)


@pytest.mark.parametrize("method", ["dpo", "reward", "ppo"])
def test_a_run_that_shares_its_model_goes_on_to_the_same_bits(
    make_run: MakeRun, letter_judge: str, method: str
) -> None:
    more = {"shard": True, "epochs": 8.0}
    whole, stopped, more_of_them = (
        arrange(make_run, letter_judge, method, name, more) for name in ("whole", "stopped", "more of them")
    )
    finish(start(train, method, str(whole)))
    pair = start(train, method, str(stopped))
    wait_for_a_line(stopped, lambda: pair[0].exitcode)
    pair[1].terminate()
    finish(pair, EXIT_STOPPED)
    assert 1 <= len(read_lines(stopped / "metrics.jsonl")) < len(read_lines(whole / "metrics.jsonl"))
    shutil.copytree(stopped, more_of_them, dirs_exist_ok=True)
    finish(start(train, method, str(stopped)))
    assert timeless(stopped / "metrics.jsonl") == timeless(whole / "metrics.jsonl")
    for path in (whole / "final").iterdir():
        assert file_sha256(stopped / "final" / path.name) == file_sha256(path), path.name

    # Three go on from what two have saved: they hold other rows, of some weights more than others.
    if method == "dpo":
        finish(start(train, method, str(more_of_them), size=3))
        rows, wanted = (read_lines(run_dir / "metrics.jsonl") for run_dir in (more_of_them, whole))
        assert [row["step"] for row in rows] == [row["step"] for row in wanted]
        assert rows[-1]["loss"] == pytest.approx(wanted[-1]["loss"], rel=2e-3, abs=1e-4)


def test_a_shared_model_computes_in_bfloat16_and_keeps_float32(make_run: MakeRun, letter_judge: str) -> None:
    exact, rounded = (
        arrange(make_run, letter_judge, "sft", name, {"shard": True}, precision=name)
        for name in ("float32", "bfloat16")
    )
    for run_dir in (exact, rounded):
        finish(start(train, "sft", str(run_dir)))
    ours, theirs = (read_lines(run_dir / "metrics.jsonl") for run_dir in (rounded, exact))
    assert ours[0]["grad_norm"] != theirs[0]["grad_norm"]
    for row, wanted in zip(ours, theirs, strict=True):
        assert row["loss"] == pytest.approx(wanted["loss"], rel=0.02)
    for path in (rounded / "checkpoints").glob("*/*.safetensors"):
        if path.name != "rng.safetensors":
            assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}
    assert {t.dtype for t in load_file(rounded / "final" / "model.safetensors").values()} == {torch.bfloat16}


# Refusals


def test_one_process_has_nobody_to_share_a_model_with(make_run: MakeRun, letter_judge: str, capsys: Any) -> None:
    run_dir = arrange(make_run, letter_judge, "sft", "run", {"shard": True})
    assert main(["sft", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "optim.shard spreads a model over the processes of several GPUs, and this run has one; start it with "
        "python -m trainer.spawn and their number, or set optim.shard to false.\n"
    )


def test_what_does_not_go_with_a_shared_model_is_refused() -> None:
    keys: dict[str, Any] = {"run_id": "r", "method": "dpo", "model": "m", "options": {"optim": {"shard": True}}}
    assert parse_run(keys).shard
    with pytest.raises(ConfigError, match="does not go with lora"):
        parse_run({**keys, "lora": {"rank": 4}})
    with pytest.raises(ConfigError, match=r"optim\.shard and optim\.compile do not go together"):
        Optim(shard=True, compile=True)
    with pytest.raises(ConfigError, match=r"does not go with options\.loss davidson"):
        RewardOptions(loss="davidson", optim=Optim(shard=True))
    assert not parse_run({"run_id": "r", "method": "score", "model": "m"}).shard


def run_out_of_memory(model: str, folder: str) -> None:
    """As one of two of which the second runs out of memory, write down what is said of it and what comes next."""
    device, rank = join()
    config = parse_run({"run_id": "r", "method": "sft", "model": model, "options": {"optim": {"shard": True}}})
    layout = modeling.choose_layout(modeling.load_trainable(config, device), 128, device)
    layout.resume({}, Path(folder))

    def attempt() -> None:
        raise torch.OutOfMemoryError

    if rank == 1:
        with pytest.raises(torch.OutOfMemoryError) as refused:
            layout.step(attempt)
        (Path(folder) / "said.txt").write_text(str(refused.value))
    parallel.leave()


def test_where_memory_runs_out_in_a_shared_model_the_next_attempt_takes_smaller_forwards(
    tiny_model: str, tmp_path: Path
) -> None:
    finish(start(run_out_of_memory, tiny_model, str(tmp_path)))
    assert (tmp_path / "said.txt").read_text() == (
        "Memory ran out, and where processes share one model none of them can repeat its part alone; "
        "the next attempt goes on from the last checkpoint with 64 tokens a forward."
    )
    again = Layout("packed", 1024, Device(CPU, torch.float32))
    again.resume({"tokens_per_forward": 256}, tmp_path)
    assert again.tokens == 64
    again.resume({"tokens_per_forward": 256}, tmp_path / "elsewhere")
    assert again.tokens == 256
    assert [path.name for path in tmp_path.iterdir() if path.suffix != ".txt"] == ["tokens_per_forward.json"]
