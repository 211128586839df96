"""Options that save memory or time leave the training what it was; and what a step needs is counted rightly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from builders import CPU, MakeRun, options, read_lines, some_comparisons, some_demonstrations, without_clock
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaForCausalLM

from trainer import flops, layers, modeling, tree
from trainer.__main__ import main
from trainer.config import ConfigError, Lora, Optim, PpoOptions
from trainer.device import Device
from trainer.flops import Load, Work
from trainer.layout import Layout
from trainer.records import EXIT_BAD_INPUT, EXIT_DONE

STEPS = {"learning_rate": 5e-3, "batch_size": 4, "epochs": 1.0, "schedule": "constant", "warmup_fraction": 0.0}


def trained(make_run: MakeRun, method: str, name: str, more: dict[str, Any], **keys: Any) -> list[dict[str, Any]]:
    """Return the metrics of a short run with these optimiser's options."""
    run_dir = make_run(
        method,
        name=name,
        demonstrations=some_demonstrations(8, 2),
        comparisons=some_comparisons(8, 2),
        options={"optim": {**STEPS, **more}},
        **keys,
    )
    assert main([method, "--run", str(run_dir)]) == EXIT_DONE
    return without_clock(read_lines(run_dir / "metrics.jsonl"))


@pytest.mark.parametrize(("method", "lora"), [("sft", None), ("reward", {"rank": 4}), ("dpo", {"rank": 4})])
def test_recomputed_activations_give_the_same_training_bit_for_bit(
    make_run: MakeRun, method: str, lora: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes: list[int] = []
    plain = layers._recomputed

    def counted(forward: Any) -> Any:
        def count(*arguments: Any, **keywords: Any) -> Any:
            passes.append(1)
            return forward(*arguments, **keywords)

        return plain(count)

    monkeypatch.setattr(layers, "_recomputed", counted)
    kept = trained(make_run, method, "kept", {}, lora=lora)
    assert not passes
    again = trained(make_run, method, "again", {"recompute_activations": True}, lora=lora)
    assert passes
    assert again == kept


def test_recomputing_keeps_less_for_the_backward_pass(tiny_model: str) -> None:
    kept = []
    for optim in (Optim(), Optim(recompute_activations=True)):
        policy = modeling.load_policy(tiny_model, torch.float32, CPU.device)
        layers.prepare(policy.base_model, policy.config, optim, CPU.device)
        sizes: list[int] = []

        def pack(tensor: torch.Tensor, sizes: list[int] = sizes) -> torch.Tensor:
            sizes.append(tensor.numel())
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            policy.base_model(input_ids=torch.arange(4, 68)[None]).last_hidden_state.sum()
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


@pytest.mark.parametrize("method", ["sft", "reward", "dpo"])
def test_bfloat16_products_with_float32_weights_train_nearly_alike(make_run: MakeRun, method: str) -> None:
    exact = trained(make_run, method, "exact", {"learning_rate": 1e-3})
    rounded = trained(make_run, method, "rounded", {"learning_rate": 1e-3}, precision="bfloat16")
    assert rounded[0]["grad_norm"] != exact[0]["grad_norm"]
    for ours, theirs in zip(rounded, exact, strict=True):
        assert ours["loss"] == pytest.approx(theirs["loss"], rel=0.02)


def test_master_weights_and_moments_stay_in_float32(make_run: MakeRun) -> None:
    from safetensors.torch import load_file

    for name, lora in (("full", None), ("lora", {"rank": 4})):
        trained(make_run, "sft", name, {}, precision="bfloat16", lora=lora)
    for path in Path(make_run("sft", name="probe").parent).glob("*/checkpoints/*/*.safetensors"):
        if path.name in ("weights.safetensors", "optimizer.safetensors"):
            assert {tensor.dtype for tensor in load_file(path).values()} == {torch.float32}, path


COMPILED = {"max_steps": 1, "batch_size": 2, "compile": True}


def test_without_a_compiler_nothing_is_compiled_and_the_run_is_refused(
    make_run: MakeRun, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    run_dir = make_run("sft", demonstrations=some_demonstrations(2), options={"optim": COMPILED})
    monkeypatch.setenv("CXX", "no-such-compiler")
    assert main(["sft", "--run", str(run_dir)]) == EXIT_BAD_INPUT
    assert capsys.readouterr().err == (
        "optim.compile needs a C++ compiler, and there is none here; install g++ or set optim.compile to false.\n"
    )


@pytest.mark.slow  # compiling takes minutes on a busy machine
@pytest.mark.filterwarnings("ignore")  # of torch, about what its own compiler does
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("again", [False, True], ids=["kept", "recomputed"])
def test_a_compiled_layer_computes_the_same_and_so_do_its_gradients(again: bool) -> None:
    """One layer and batches of two lengths: each of the few programs takes long to make on a CPU."""
    from torch._dynamo.utils import counters  # it loads the compiler

    try:
        layers.check_compiler(CPU.device)
    except ConfigError:
        pytest.skip("no C++ compiler here")
    plain, compiled = little_llama(1), little_llama(1)
    for policy in (plain, compiled):
        policy.set_attn_implementation("sdpa")
    modeling.prepare_training(compiled, Optim(compile=True, recompute_activations=again), CPU)
    trees = [tree.Tree([5, 6, 7, 8], [[9, 10, 11]]), tree.Tree([12, 13], [[14, 15, 16, 17, 18], [19, 20]])]
    for part in (trees, [*trees, trees[0]]):
        batch = tree.collate(part, CPU.device, "packed")
        losses = [modeling.completion_logps(policy, batch).sum() for policy in (plain, compiled)]
        torch.testing.assert_close(losses[1], losses[0], rtol=1e-5, atol=1e-5)
        for loss in losses:
            loss.backward()
    assert counters["stats"]["unique_graphs"] > 0  # it was compiled, and did not run as it stands
    for one, other in zip(plain.parameters(), compiled.parameters(), strict=True):
        torch.testing.assert_close(other.grad, one.grad, rtol=1e-4, atol=1e-5)


def test_ppo_does_not_compile() -> None:
    PpoOptions(reward_model="x", optim=Optim(recompute_activations=True))
    with pytest.raises(ConfigError, match=r"optim\.compile must be false"):
        PpoOptions(reward_model="x", optim=Optim(compile=True))


def test_ppo_measures_and_trains_the_same_where_activations_are_computed_again(
    make_run: MakeRun, letter_judge: str
) -> None:
    from builders import OPTIM, PROMPTS

    chosen = options(letter_judge, iterations=1, optim={**OPTIM, "recompute_activations": True})
    run_dir = make_run("ppo", prompts=PROMPTS, options=chosen)
    assert main(["ppo", "--run", str(run_dir)]) == EXIT_DONE
    assert read_lines(run_dir / "metrics.jsonl")[0]["first_log_ratio"] == 0.0


# Operations

WIDTH, INNER, LAYERS, HEADS, KEYS, VOCABULARY, LENGTH = 32, 48, 3, 4, 2, 100, 10


def little_llama(depth: int = LAYERS) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        intermediate_size=INNER,
        num_hidden_layers=depth,
        num_attention_heads=HEADS,
        num_key_value_heads=KEYS,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    return LlamaForCausalLM(config).eval()


def test_the_work_of_a_small_llama_is_that_worked_out_by_hand() -> None:
    # A layer: queries and the way out 32 * 32 each, keys and values 32 * 16 each, three matrices of 32 * 48 in the MLP:
    # 1024 + 1024 + 512 + 512 + 4608 = 7680 weights, 23040 in three layers. Twice each forwards, and that thrice with
    # the backward pass: 138240 a token. A pair: 4 * 3 layers * 4 heads * 8 dimensions * 3 passes = 1152. The output
    # layer: 3200 weights, 19200 a token scored.
    policy = little_llama()
    work = flops.work_of(policy.base_model, policy.config, policy.get_output_embeddings())
    assert work == Work(138_240, 1_152, 19_200)
    assert work.flops(Load(2, 3, 1)) == 2 * 138_240 + 3 * 1_152 + 19_200
    for parameter in policy.parameters():
        parameter.requires_grad = False
    assert flops.work_of(policy.base_model, policy.config, policy.get_output_embeddings()) == Work(
        92_160, 1_152, 12_800
    )


@pytest.mark.parametrize("lora", [None, Lora(rank=2)])
def test_the_work_is_what_torch_counts_where_nothing_is_masked(lora: Lora | None) -> None:
    policy: Any = little_llama()
    if lora:
        policy = modeling.add_lora(policy, lora)
    work = modeling.prepare_training(policy, Optim(), CPU)
    with FlopCounterMode(display=False) as counter:
        policy(input_ids=torch.arange(LENGTH)[None]).logits.sum().backward()
    wanted = work.flops(Load(LENGTH, LENGTH * LENGTH, LENGTH))  # torch counts masked pairs, too
    if lora:
        # Below the first layer's adapters nothing is trained, so no gradient passes its queries, keys and values.
        wanted -= 2.0 * LENGTH * (WIDTH * (WIDTH + 2 * WIDTH // 2) + 3 * WIDTH * lora.rank)
    assert counter.get_total_flops() == wanted


def test_a_load_counts_a_shared_prompt_once_and_every_pair_that_is_seen() -> None:
    trees = [tree.Tree([1, 2, 3], [[4, 5], [6]]), tree.Tree([7], [[8]])]
    # p p p a a b: 1 + 2 + 3 pairs in the prompt, 4 + 5 of a, 4 of b; and 1 + 2 of the other tree.
    assert flops.load_of(trees, shared=True) == Load(8, 22, 4)
    # p p p a a and p p p b: 15 and 10.
    assert flops.load_of(trees, shared=False) == Load(11, 28, 4)
    layout = Layout("packed", 64, CPU)
    attempts = iter([True])

    def attempt() -> int:
        batches = len(list(layout.batches(trees)))
        if next(attempts, False):
            raise torch.OutOfMemoryError
        return batches

    layout.tokens = 128
    layout.step(attempt, torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.0))
    assert layout.take_load() == Load(8, 22, 4)  # what ran out of memory was not the step
    assert layout.take_load() == Load()


def test_the_share_of_the_peak_is_told_of_known_devices_only(monkeypatch: pytest.MonkeyPatch) -> None:
    cuda = torch.device("cuda")
    for name, wanted in (("NVIDIA H200", 989e12), ("NVIDIA A100-SXM4-80GB", 312e12), ("NVIDIA H100 PCIe", 756e12)):
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device, name=name: name)
        assert flops.peak(cuda, torch.bfloat16) == wanted
        assert flops.peak(cuda, torch.float32) is None
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda _device: "Something New")
    assert flops.peak(cuda, torch.bfloat16) is None
    assert flops.share_of_peak(494.5e12, 1.0, 989e12) == {"mfu": 0.5}
    assert flops.share_of_peak(494.5e12, 1.0, 989e12, processes=2) == {"mfu": 0.25}
    told = Device(torch.device("cpu"), torch.bfloat16).speed(100, Load(100, 1, 1), Work(1, 1, 1), 2.0)
    assert told["tokens_per_second"] == 50.0
    assert "mfu" not in told
