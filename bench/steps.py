"""What the benches of devices time: training steps of one method on a random model of a chosen size."""

from __future__ import annotations

import multiprocessing
import os
import random
import socket
import time
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple, cast

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from bench import race
from tests.trainer.builders import build_tokenizer
from trainer import dpo, flops, members, modeling, optim, reference, reward, sft, shards
from trainer.config import DpoOptions, Lora, Optim, RewardOptions
from trainer.device import Device
from trainer.rankings import Group, Ranking
from trainer.records import Message
from trainer.reward_model import RewardModel
from trainer.tree import Tree

Method = Literal["sft", "dpo", "reward"]
RATE = 1e-6
WARM = 2


class Size(NamedTuple):
    """A Llama, and what a step of it reads."""

    name: str
    width: int
    inner: int
    layers: int
    heads: int
    keys: int
    vocabulary: int
    prompt: int  # tokens
    answer: int
    prompts: int  # a step
    forward: int  # tokens

    def config(self, **more: Any) -> LlamaConfig:
        """Return the configuration of such a Llama, with `more` of its settings."""
        return LlamaConfig(
            vocab_size=self.vocabulary,
            hidden_size=self.width,
            intermediate_size=self.inner,
            num_hidden_layers=self.layers,
            num_attention_heads=self.heads,
            num_key_value_heads=self.keys,
            **more,
        )


TINY = Size("tiny", 64, 128, 2, 4, 2, 512, 24, 12, 4, 512)
SMALL = Size("0.1 B", 768, 2048, 12, 12, 12, 32_000, 512, 256, 64, 32_768)
LARGE = Size("1.1 B", 2048, 5632, 22, 32, 4, 32_000, 512, 256, 64, 16_384)


class Timed(NamedTuple):
    """What some steps took, warm-up left out: of all processes, and CPU seconds and positions of this one.

    `tokens` are those of the texts as the method counts them, `positions` what went through the trunk.
    """

    seconds: float
    cpu_seconds: float
    tokens: int
    flops: float
    peak_memory_mb: float
    loss: float
    positions: int


def run(
    method: Method, answers: int, size: Size, options: Optim, device: Device, steps: int, lora: Lora | None
) -> Timed:
    """Take `WARM` steps to warm up and then `steps` more; random tokens, so this says nothing of quality."""
    trees = trees_of(size, answers)
    order = Ranking(tuple((k,) for k in range(answers)), (), (0,) * max(1, answers), 1.0, "")
    groups = [Group((Message("user", str(n)),), one, (order,)) for n, one in enumerate(trees)]
    model: Any
    if method == "reward":
        classifier = llama(size, device, LlamaForSequenceClassification)
        if lora:
            members.set_trunk(classifier, modeling.add_lora(members.trunk_of(classifier), lora))
        model = RewardModel(classifier, build_tokenizer()).to(device.device)
        _spread(classifier, members.trunk_of(classifier), options, device)
        layout = model.choose_layout(options.tokens_per_forward, device)
        work = model.prepare_training(options, device)
        attempt: Any = partial(
            reward.backward, model, groups, torch.ones(len(groups), 1, device=device.device), RewardOptions(), layout
        )
    else:
        model = llama(size, device, LlamaForCausalLM)
        if lora:
            model = modeling.add_lora(model, lora)
        _spread(model, model.base_model, options, device)
        layout = modeling.choose_layout(model, options.tokens_per_forward, device)
        work = modeling.prepare_training(model, options, device)
        if method == "dpo":
            before = reference.tree_logps(model, trees, layout)
            attempt = partial(dpo.backward, model, groups, before, DpoOptions(), layout)
        else:
            attempt = partial(sft.backward, model, trees, [1.0] * len(trees), layout)
    optimizer = optim.build(model.parameters(), options)
    tokens, loss, total = 0, 0.0, steps + WARM
    started, cpu = 0.0, 0.0
    with race.counting(model.trunk if method == "reward" else modeling.core(model).base_model) as positions:
        for step in range(1, total + 1):
            if step == WARM + 1:
                wait(device)
                layout.take_load()
                positions.clear()
                tokens, started, cpu = 0, time.perf_counter(), time.process_time()
            figures, count = cast("tuple[Any, int]", layout.step(attempt, optimizer))
            loss = figures["loss"] if isinstance(figures, dict) else figures
            optim.update(optimizer, loss, options, step, total)
            tokens += count
        wait(device)
    return Timed(
        time.perf_counter() - started,
        time.process_time() - cpu,
        tokens,
        work.flops(layout.take_load()),
        device.peak_memory_mb(),
        loss,
        sum(positions),
    )


def trees_of(size: Size, answers: int) -> list[Tree]:
    """Return what a step reads: prompts of random tokens, each with so many answers."""
    draw = random.Random(0)

    def words(count: int) -> list[int]:
        return [draw.randrange(4, size.vocabulary) for _ in range(count)]

    return [Tree(words(size.prompt), [words(size.answer) for _ in range(answers)]) for _ in range(size.prompts)]


def _spread(model: Any, trunk: Any, options: Optim, device: Device) -> None:
    if options.shard:
        shards.spread(model, trunk, device, shards.mesh_of(device))


def share(timed: Timed, device: Device) -> str:
    """Return the share of the device's peak as text, or a dash where the peak is not known."""
    found = flops.share_of_peak(timed.flops, timed.seconds, flops.peak(device.device, device.dtype), device.team.size)
    return f"{found['mfu']:.1%}" if found else "-"


def optimiser(size: Size, **more: Any) -> Optim:
    """Return a constant rate and the size's budget of tokens a forward."""
    return Optim(learning_rate=RATE, schedule="constant", warmup_fraction=0.0, tokens_per_forward=size.forward, **more)


def in_processes(count: int, act: Callable[..., None], *arguments: Any) -> None:
    """Do `act` in so many processes that can find one another; raise if one of them fails."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = multiprocessing.get_context("spawn")
    pair = [context.Process(target=_place, args=(rank, count, port, act, arguments)) for rank in range(count)]
    for process in pair:
        process.start()
    for process in pair:
        process.join()
        if process.exitcode:
            raise RuntimeError(f"A process of the bench ended with {process.exitcode}.")


def _place(rank: int, count: int, port: int, act: Callable[..., None], arguments: tuple[Any, ...]) -> None:
    place = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(count)}
    os.environ |= {**place, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    act(*arguments)


def llama(size: Size, device: Device, kind: Any) -> Any:
    """Return a random Llama of a size in float32, the same one every time."""
    torch.manual_seed(0)
    config = size.config(max_position_embeddings=8192, num_labels=1, pad_token_id=0)
    with device.device:
        return kind(config).eval()


def wait(device: Device) -> None:
    """Wait until the device has done all that it was given."""
    if device.device.type == "cuda":
        torch.cuda.synchronize(device.device)
