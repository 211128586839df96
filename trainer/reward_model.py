"""The reward model: a language model's trunk with a scalar head, its normaliser, and its folder on disk."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from trainer import data, tree
from trainer.config import ConfigError, Lora, RewardOptions, RunConfig
from trainer.device import Device
from trainer.layout import Layout, choose
from trainer.modeling import add_lora, cast_weights, check_length, from_pretrained, load_tokenizer, merge_lora
from trainer.records import Message

TOKENS_PER_FORWARD = 4096

# Texts of no one's, of which the scores are saved with a model: a lost or mixed-up head changes them.
PROBES = (
    ("What is the capital of France?", "Paris."),
    ("What is the capital of France?", "I would rather not say anything about that, thank you."),
    ("How do I boil an egg?", "Put it into boiling water, wait eight minutes, and cool it under the tap."),
    ("How do I boil an egg?", "Egg egg egg egg egg egg egg egg."),
)


class RewardModel(nn.Module):
    """A trunk with E scalar heads: r(x, y), a number an answer and head.

    Inside is transformers' sequence classifier of E labels, so any transformers can load a saved one. A decoder is read
    at the last real token by heads without a bias, which a ranking loss cannot see. An encoder (BERT and its like) sees
    each answer whole, with its prompt, and is read by the head that its architecture brings. `mean` and `std` (E,) are
    measured after training, on reference answers, so that those score 0 on average with standard deviation 1. `log_nu`
    belongs to Davidson's loss.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(self, classifier: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, *, ties: bool = False) -> None:
        super().__init__()
        self.classifier = classifier
        self.tokenizer = tokenizer
        self.register_buffer("mean", torch.zeros(classifier.config.num_labels))
        self.register_buffer("std", torch.ones(classifier.config.num_labels))
        self.log_nu = nn.Parameter(torch.zeros(()), requires_grad=True) if ties else None

    @property
    def trunk(self) -> Any:
        """The model below the head."""
        return getattr(self.classifier, self.classifier.base_model_prefix)

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees all others, so that there is no one token after which to read the score."""
        return not isinstance(getattr(self.classifier, "score", None), nn.Linear)

    @property
    def head(self) -> nn.Linear:
        """The layer that gives the scores."""
        labels = self.classifier.config.num_labels
        layers = [layer for layer in self.classifier.modules() if isinstance(layer, nn.Linear)]
        return [layer for layer in layers if layer.out_features == labels][-1]

    def forward(self, batch: tree.Batch) -> torch.Tensor:
        """Return the normalised scores (N, E) float32; padding may be any token, it is never seen."""
        return (self._raw(batch) - self.mean) / self.std

    def _raw(self, batch: tree.Batch) -> torch.Tensor:
        if self.is_encoder:
            scores: torch.Tensor = self.classifier(input_ids=batch.input_ids, attention_mask=batch.tree >= 0).logits
            return scores.float()  # one answer a row, in the order of the answers
        last = tree.hidden_states(self.trunk, self.classifier.config, batch)[batch.ends]
        # No matrix product: autocast would take it to bfloat16, which has three digits.
        raw: torch.Tensor = (last.float()[:, None] * self.classifier.score.weight.float()).sum(dim=2)
        return raw

    def choose_layout(self, tokens: int, device: Device) -> Layout:
        """Return the layout that the trunk can take (see `layout.choose`): of an encoder, a row for every answer."""
        if self.is_encoder:
            return Layout(False, tokens, device)
        return choose(self.trunk, self.classifier, tokens, device)

    def add_lora(self, lora: Lora) -> None:
        """Put adapters on the trunk and leave the head trainable, in float32."""
        setattr(self.classifier, self.classifier.base_model_prefix, add_lora(self.trunk, lora))

    def merge(self, dtype: torch.dtype) -> None:
        """Merge the adapters and take the precision in which the model will be saved."""
        setattr(self.classifier, self.classifier.base_model_prefix, merge_lora(self.trunk))
        cast_weights(self.classifier, dtype)


def new_reward_model(config: RunConfig, device: Device, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """Return a reward model on the trunk of `config.model`, a decoder or an encoder, its heads from N(0, 1 / (D + 1)).

    Refuses a tokenizer whose only possible padding is its end token: transformers reads a saved classifier at the last
    token that is not padding, and would never see that an answer ended.
    """
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ConfigError(
            f"The tokenizer of {config.model} has no token for padding but its end token, so a reward model made with "
            "it could not tell a finished answer from a cut one; add a padding token to the tokenizer."
        )
    options = cast("RewardOptions", config.options)
    dtype = device.dtype if config.lora else torch.float32
    model = _load_classifier(
        config.model, dtype, device.device, tokenizer, options.heads, ties=options.loss == "davidson"
    )
    check_length(model.classifier, config)
    head = model.head.float()
    nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
    if head.bias is not None:
        nn.init.zeros_(head.bias)
    if config.lora:
        model.add_lora(config.lora)
    return model


def score(model: RewardModel, trees: Sequence[tree.Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the normalised scores (K,) float32 of each tree's completions, the mean over heads, on the CPU."""
    return [scores.mean(dim=1) for scores in score_heads(model, trees, layout)]


@torch.no_grad()
def score_heads(model: RewardModel, trees: Sequence[tree.Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the normalised scores (K, E) float32 of each tree's completions by each head, on the CPU."""
    scores: list[torch.Tensor] = [torch.empty(0)] * len(trees)
    for part, batch in layout.batches(trees):
        with layout.device.autocast():
            values = model(batch).cpu()
        for index, chunk in zip(part, torch.split(values, [len(trees[i].completions) for i in part]), strict=True):
            scores[index] = chunk
    return scores


def score_texts(
    model: RewardModel, prompts: Sequence[Sequence[Message]], completions: Sequence[str], max_length: int
) -> torch.Tensor:
    """Return the normalised scores (N,) of completions, each of the prompt beside it, by the model's own tokenizer."""
    cuts = data.Truncation()
    trees = [
        data.encode(model.tokenizer, messages, [text], max_length, cuts)
        for messages, text in zip(prompts, completions, strict=True)
    ]
    # One answer a prompt: rows need no mask, and in the model's own precision no autocast.
    rows = Layout(False, TOKENS_PER_FORWARD, Device(model.mean.device, torch.float32))
    return torch.cat(score(model, trees, rows))


def _ask(question: str) -> list[Message]:
    return [Message("user", question)]


def save_reward(model: RewardModel, folder: Path, max_length: int) -> None:
    """Save a merged reward model with `reward.json`: the normaliser, and probe texts with the scores they must have."""
    model.classifier.save_pretrained(folder)
    model.tokenizer.save_pretrained(folder)
    texts = [text for _, text in PROBES]
    scores = score_texts(model, [_ask(question) for question, _ in PROBES], texts, max_length).tolist()
    facts = {
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "nu": None if model.log_nu is None else model.log_nu.exp().item(),
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
        "max_length": max_length,
        "probes": [
            {"prompt": question, "completion": text, "score": score}
            for (question, text), score in zip(PROBES, scores, strict=True)
        ],
    }
    (folder / "reward.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_reward(folder: str, dtype: torch.dtype, device: torch.device) -> RewardModel:
    """Load a saved reward model and check that its probe texts score as they did when it was saved."""
    try:
        facts = json.loads((Path(folder) / "reward.json").read_text(encoding="utf-8"))
        mean, std, probes = torch.tensor(facts["mean"]), torch.tensor(facts["std"]), facts["probes"]
        prompts = [_ask(probe["prompt"]) for probe in probes]
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no reward.json; it must be the final folder of a reward run.") from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/reward.json cannot be read: {error!r}.") from error
    model = _load_classifier(folder, dtype, device, load_tokenizer(folder), len(mean))
    model.mean.copy_(mean)
    model.std.copy_(std)
    scores = score_texts(model, prompts, [probe["completion"] for probe in probes], facts["max_length"]).tolist()
    worst = max((abs(a - probe["score"]) for a, probe in zip(scores, probes, strict=True)), default=0.0)
    # Scores have standard deviation 1: rounding moves them by hundredths, a lost head by about 1.
    if worst > (0.02 if facts["dtype"] == str(dtype).removeprefix("torch.") else 0.3):
        raise ConfigError(
            f"The reward model {folder} scores its probe texts {worst:.2f} off what was saved with it; "
            "its files do not belong together."
        )
    return model


def _load_classifier(
    model: str,
    dtype: torch.dtype,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase,
    heads: int,
    *,
    ties: bool = False,
) -> RewardModel:
    classifier = from_pretrained(
        AutoModelForSequenceClassification, model, dtype=dtype, use_safetensors=True, num_labels=heads
    )
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return RewardModel(classifier, tokenizer, ties=ties).to(device).eval()
