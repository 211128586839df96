"""Whether our losses and gradients are TRL's: both compute them for one tiny batch, and the differences are printed.

TRL's own trainers (1.16) get the same ids, weights and reference; what is compared is what `trainer` runs for a step,
with trees, against what they run, with padded rows. RLOO and GRPO are in `bench.parity_groups`; PPO is TRL 1.12's, in
an environment of its own (`bench.parity_ppo`). All end with an error where a difference is more than rounding.
"""

from __future__ import annotations

import random
import sys
import tempfile
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from bench import race
from tests.trainer.builders import build_tokenizer
from trainer import dpo, kto, modeling, reference, reward, sft
from trainer.config import DpoOptions, KtoOptions, RewardOptions
from trainer.device import Device
from trainer.rankings import Group, Ranking
from trainer.reward_model import RewardModel
from trainer.tree import Tree

TOLERANCE = 2e-5  # relative: float32 over some dozens of tokens

VOCABULARY, BETA, PROMPTS, TOKENS = 96, 0.3, 4, 4096
CPU = Device(torch.device("cpu"), torch.float32)


class Row(NamedTuple):
    """A figure of both sides, of tensors the norm. `gap` is how far they are apart, of tensors in all their numbers."""

    what: str
    ours: float
    theirs: float
    gap: float


def main() -> None:
    """Compare with both versions of TRL, each in its environment."""
    race.in_peer_environment("bench.parity")
    race.in_peer_environment("bench.parity_groups")
    race.in_peer_environment("bench.parity_ppo", peer="trl==1.12.0")


def rows() -> list[Row]:
    """Return the comparisons with TRL 1.16 of the methods that learn from what is stored."""
    return [*supervised(), *rewards(), *preferences(), *flags()]


def show(title: str, found: Sequence[Row]) -> None:
    """Print a table of the comparisons; end the program with an error where one is further apart than rounding."""
    table = Table("", "ours", "TRL", "difference", title=title)
    for row in found:
        table.add_row(row.what, f"{row.ours:.7f}", f"{row.theirs:.7f}", f"{row.gap:.1e}")
    Console(width=120).print(table)
    apart = [row.what for row in found if not row.gap <= TOLERANCE]
    if apart:
        sys.exit(f"parity: {', '.join(apart)} differ by more than {TOLERANCE}.")


# --- The batch: prompts with answers of random ids, and random models of two layers. ---------------------------------


def ids(draw: random.Random, length: int) -> list[int]:
    """Return random ids, none of them a special one."""
    return [draw.randrange(8, VOCABULARY) for _ in range(length)]


def trees(answers: int) -> list[Tree]:
    """Return prompts of many lengths with answers of many lengths; the first, the best one, always has six tokens."""
    draw = random.Random(answers)
    return [
        Tree(ids(draw, 3 + 2 * n), [ids(draw, 6 if k == 0 else draw.randint(2, 9)) for k in range(answers)])
        for n in range(PROMPTS)
    ]


def config(**more: Any) -> LlamaConfig:
    """Return the configuration of a Llama of two layers."""
    return LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,  # far from uniform
        pad_token_id=0,
        bos_token_id=None,
        eos_token_id=1,
        **more,
    )


def policy(seed: int) -> Any:
    """Return a random language model."""
    torch.manual_seed(seed)
    return LlamaForCausalLM(config()).eval()


def classifier(seed: int) -> Any:
    """Return a random model with one score."""
    torch.manual_seed(seed)
    return LlamaForSequenceClassification(config(num_labels=1)).eval()


def compare(
    what: str, model: nn.Module, ours: Callable[[], float], theirs: Callable[[], torch.Tensor | float]
) -> list[Row]:
    """Return the losses of both sides, and the gradients that they give to the model.

    `theirs` may return a loss that has still to be gone back through.
    """
    losses, gradients = [], []
    for side in (ours, theirs):
        model.zero_grad()
        loss = side()
        if isinstance(loss, torch.Tensor):
            loss.backward()  # type: ignore[no-untyped-call]  # torch declares none
            loss = loss.item()
        losses.append(torch.tensor(loss))
        gradients.append(torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]))
    return [row(f"{what}: loss", *losses), row(f"{what}: gradient", *gradients)]


def row(what: str, ours: torch.Tensor, theirs: torch.Tensor) -> Row:
    """Return a comparison of two numbers or tensors: their norms, and the norm of their difference over TRL's."""
    ours, theirs = ours.detach().double(), theirs.detach().double()
    told = [float(side if side.ndim == 0 else side.norm()) for side in (ours, theirs)]
    return Row(what, told[0], told[1], float((ours - theirs).norm() / theirs.norm()))


def trainer_of(kind: Any, settings: Any, model: Any, examples: list[dict[str, Any]], **more: Any) -> tuple[Any, Any]:
    """Return a trainer of TRL that takes ids as they are, and the batch that it makes of the examples."""
    from datasets import Dataset

    class Tokenized(kind):  # type: ignore[misc]  # a class that is an argument
        """The trainer, given ids that are ready."""

        def _prepare_dataset(self, dataset: Any, *_: Any, **__: Any) -> Any:
            return dataset

    made = Tokenized(
        model=model,
        args=settings,
        train_dataset=Dataset.from_list(examples),
        processing_class=build_tokenizer(),
        **more,
    )
    return made, made.data_collator(examples)


# --- The methods. ----------------------------------------------------------------------------------------------------


def supervised() -> list[Row]:
    """Compare SFT on the answers alone, and on some turns of them."""
    from trl import SFTConfig, SFTTrainer

    found = []
    whole = trees(1)
    turns = [one._replace(scored=[[n % 3 > 0 for n in range(len(one.completions[0]))]]) for one in whole]
    for what, texts in (("SFT, answers alone", whole), ("SFT, the answers among several turns", turns)):
        examples = []
        for text in texts:
            asked = [True] * len(text.completions[0]) if text.scored is None else text.scored[0]
            labels = [token if ask else -100 for token, ask in zip(text.completions[0], asked, strict=True)]
            examples.append(
                {"input_ids": text.prompt + text.completions[0], "labels": [-100] * len(text.prompt) + labels}
            )
        model = policy(0)
        layout = modeling.choose_layout(model, TOKENS, CPU)
        with tempfile.TemporaryDirectory() as folder:
            settings = SFTConfig(folder, dataset_kwargs={"skip_prepare_dataset": True}, max_length=None, **race.PLAIN)
            peer, batch = trainer_of(SFTTrainer, settings, model, examples)
            found += compare(
                what,
                model,
                lambda: sft.backward(model, texts, [1.0] * len(texts), layout)[0],  # noqa: B023  (called in this turn)
                lambda: peer.compute_loss(peer.model, batch),  # noqa: B023  (called in this turn)
            )
    return found


def rewards() -> list[Row]:
    """Compare the reward model: a ranking of four answers against its six pairs, and margins."""
    from trl import RewardConfig, RewardTrainer

    found = []
    for what, margin, strengths in (
        ("reward model, rankings of four", 0.0, (0, 0, 0)),
        ("reward model, margins", 0.5, (1, 3, 2)),
    ):
        order = Ranking(((0,), (2,), (1,), (3,)), (), strengths, 1.0, "a")
        groups = [Group((), one, (order,)) for one in trees(4)]
        examples = [
            {
                "chosen_ids": group.tree.prompt + group.tree.completions[better],
                "rejected_ids": group.tree.prompt + group.tree.completions[worse],
                **({"margin": margin * strength} if margin else {}),
            }
            for group in groups
            for better, worse, strength in order.pairs()
        ]
        model = RewardModel(classifier(1), build_tokenizer())
        layout = model.choose_layout(TOKENS, CPU)
        options, copies = RewardOptions(margin=margin), torch.ones(len(groups), 1)
        with tempfile.TemporaryDirectory() as folder:
            peer, batch = trainer_of(
                RewardTrainer, RewardConfig(folder, max_length=None, **race.PLAIN), model.classifier, examples
            )
            found += compare(
                what,
                model.classifier,
                lambda: reward.backward(model, groups, copies, options, layout)[0]["loss"],  # noqa: B023  (called in this turn)
                lambda: peer.compute_loss(peer.model, dict(batch)),  # noqa: B023  (called in this turn)
            )
    return found


def preferences() -> list[Row]:
    """Compare DPO and its relatives, with a reference that is another model."""
    from trl import DPOConfig, DPOTrainer

    found = []
    better = Ranking(((0,), (1,)), (), (0,), 1.0, "a")
    groups = [Group((), one, (better,)) for one in trees(2)]
    examples = [
        {"prompt_ids": tree.prompt, "chosen_ids": tree.completions[0], "rejected_ids": tree.completions[1]}
        for tree in (group.tree for group in groups)
    ]
    for what, options, theirs in (
        ("DPO", DpoOptions(beta=BETA), {"loss_type": ["sigmoid"]}),
        ("DPO, length-normalised", DpoOptions(beta=BETA, length_normalised=True), {"loss_type": ["sigmoid_norm"]}),
        ("IPO, length-normalised", DpoOptions(beta=BETA, loss="ipo", length_normalised=True), {"loss_type": ["ipo"]}),
        (
            "DPO with a likelihood term",
            DpoOptions(beta=BETA, nll_weight=0.7),
            {"loss_type": ["sigmoid", "sft"], "loss_weights": [1.0, 0.7]},
        ),
    ):
        model, frozen = policy(0), policy(2)
        layout = modeling.choose_layout(model, TOKENS, CPU, frozen)
        before = reference.tree_logps(frozen, [group.tree for group in groups], layout)
        with tempfile.TemporaryDirectory() as folder:
            settings = DPOConfig(
                folder, beta=BETA, max_length=None, remove_unused_columns=False, **theirs, **race.PLAIN
            )
            peer, batch = trainer_of(DPOTrainer, settings, model, examples, ref_model=frozen)
            found += compare(
                what,
                model,
                lambda: dpo.backward(model, groups, before, options, layout)[0]["loss"],  # noqa: B023  (called in this turn)
                lambda: peer.compute_loss(peer.model, batch),  # noqa: B023  (called in this turn)
            )
    return found


def flags() -> list[Row]:
    """Compare KTO, whose baseline is measured on the answers to other prompts."""
    from trl import KTOConfig, KTOTrainer

    groups = [Group((), one, (Ranking(((0,),), (), (), 1.0, "a", acceptable=n % 2),)) for n, one in enumerate(trees(1))]
    strangers = [
        Tree(group.tree.prompt, groups[(n + 1) % len(groups)].tree.completions) for n, group in enumerate(groups)
    ]
    examples = [
        {
            "prompt_ids": group.tree.prompt,
            "completion_ids": group.tree.completions[0],
            "KL_completion_ids": stranger.completions[0],
            "label": bool(group.rankings[0].acceptable),
        }
        for group, stranger in zip(groups, strangers, strict=True)
    ]
    model, frozen = policy(0), policy(2)
    layout = modeling.choose_layout(model, TOKENS, CPU, frozen)
    sides = [reference.tree_logps(frozen, part, layout) for part in ([group.tree for group in groups], strangers)]
    here = kto.Flagged(groups, sides[0], strangers, sides[1])
    baseline = kto.movement(model, here, layout)
    options = KtoOptions(beta=BETA)
    with tempfile.TemporaryDirectory() as folder:
        settings = KTOConfig(folder, beta=BETA, max_length=None, remove_unused_columns=False, **race.PLAIN)
        peer, batch = trainer_of(KTOTrainer, settings, model, examples, ref_model=frozen)
        found = compare(
            "KTO",
            model,
            lambda: kto.backward(model, here, baseline, options, layout)[0]["loss"],
            lambda: peer.compute_loss(peer.model, batch),
        )
        (theirs,) = peer._metrics["eval"]["kl"] or peer._metrics["train"]["kl"]  # no public name
    return [*found, row("KTO: baseline, nats", torch.tensor(baseline), torch.tensor(theirs))]


if __name__ == "__main__":
    race.only_in_peer_environment()
    show(f"{race.TRL}, one tiny batch in float32", rows())
