"""The reward model: a language model's trunk with scalar heads, their normalisers, and its folder on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import nn
from transformers import AutoModelForSequenceClassification, PreTrainedModel, PreTrainedTokenizerBase

from trainer import chat_template, data, layers, members, shards, tree
from trainer.config import RANKING, ConfigError, Optim, RewardOptions, RunConfig, weights_of
from trainer.device import Device
from trainer.flops import Work, work_of
from trainer.layout import Layout, choose
from trainer.modeling import add_lora, cast_weights, check_length, from_pretrained, load_tokenizer
from trainer.records import Message

TOKENS_PER_FORWARD = 4096
CUT_MARK = " …"
"""What is put behind an answer that was cut off, before the end token, where every score is read: a token in the middle
of a sentence says what comes next and little of what was said (decision 0032)."""

# Texts of no one's, of which the scores are saved with a model: a lost or mixed-up head changes them.
PROBES = (
    ("What is the capital of France?", "Paris."),
    ("What is the capital of France?", "I would rather not say anything about that, thank you."),
    ("How do I boil an egg?", "Put it into boiling water, wait eight minutes, and cool it under the tap."),
    ("How do I boil an egg?", "Egg egg egg egg egg egg egg egg."),
)


class RewardModel(nn.Module):
    """An ensemble of E scalar heads for the ranking and for each of C criteria: L = (1 + C) E numbers an answer.

    The E heads sit on one trunk, or on the trunks of several whole models (`members`). Inside is transformers' sequence
    classifier, so any transformers can load a saved one. A decoder is read at the last real token, the end token, by
    heads without a bias, which a ranking loss cannot see. An encoder (BERT and its like) sees each answer whole, with
    its prompt, and is read by the head that its architecture brings. An answer that was cut off has the `cut_mark`
    before its end token. `mean` and `std` (L,) are measured after training, on reference answers, so that those score 0
    on average with standard deviation 1. The reward is the sum of the normalised scores times `mix`, the weights of the
    ranking and of the criteria. `log_nu` is of Davidson's loss, one for each model.
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        classifier: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *others: PreTrainedModel,
        criteria: Sequence[str] = (),
        ties: bool = False,
        cut_mark: str = CUT_MARK,
    ) -> None:
        super().__init__()
        self.cut_mark = cut_mark
        self.classifier = classifier
        self.others = nn.ModuleList(others)
        self.tokenizer = tokenizer
        self.names = (RANKING, *criteria)
        self.mix: dict[str, float] = {RANKING: 1.0}
        labels = classifier.config.num_labels * (1 + len(others))
        self.register_buffer("mean", torch.zeros(labels))
        self.register_buffer("std", torch.ones(labels))
        nus = [nn.Parameter(torch.zeros(())) for _ in range(1 + len(others))]
        self.log_nu = nn.ParameterList(nus) if ties else None

    @property
    def members(self) -> list[PreTrainedModel]:
        """The whole models, of which most ensembles have one."""
        return [self.classifier, *self.others]

    @property
    def size(self) -> int:
        """E, the heads of the ensemble, of all members together."""
        return len(self.mean) // len(self.names)

    def parameters_of(self, member: int) -> list[nn.Parameter]:
        """Return what is trained in one member."""
        found = [weight for weight in self.members[member].parameters() if weight.requires_grad]
        return found if self.log_nu is None else [*found, self.log_nu[member]]

    def head(self, member: int) -> nn.Linear:
        """Return the layer that gives a member's scores."""
        return head_of(self.members[member])

    @property
    def trunk(self) -> Any:
        """The model below the head."""
        return members.trunk_of(self.classifier)

    @property
    def is_encoder(self) -> bool:
        """Whether every token sees all others, so that there is no one token after which to read the score."""
        return not isinstance(getattr(self.classifier, "score", None), nn.Linear)

    def forward(self, batch: tree.Batch, member: int | None = None) -> torch.Tensor:
        """Return the normalised scores (N, L) float32; padding may be any token, it is never seen.

        The order is by the ranking and the criteria, then by member, then by head. With a `member` the scores are that
        one's alone, as its training sees them, not normalised.
        """
        if member is not None:
            return self._raw(self.members[member], batch)
        raw = [self.by_name(self._raw(one, batch)) for one in self.members]
        return (torch.cat(raw, dim=2).flatten(1) - self.mean) / self.std

    def _raw(self, classifier: Any, batch: tree.Batch) -> torch.Tensor:
        if self.is_encoder:
            scores: torch.Tensor = classifier(input_ids=batch.input_ids, attention_mask=batch.tree >= 0).logits
            return scores[: len(batch.ends)].float()  # one answer a row, in the order of the answers
        last = tree.hidden_states(members.trunk_of(classifier), classifier.config, batch)[batch.ends]
        # No matrix product: autocast would take it to bfloat16, which has three digits.
        raw: torch.Tensor = (last.float()[:, None] * classifier.score.weight.float()).sum(dim=2)
        return raw

    def by_name(self, scores: torch.Tensor) -> torch.Tensor:
        """Return scores (…, (1 + C) E) as (…, 1 + C, E)."""
        each = scores.shape[-1] // len(self.names)
        return scores.reshape(*scores.shape[:-1], len(self.names), each)

    def reward(self, scores: torch.Tensor) -> torch.Tensor:
        """Return the reward (…, E) by each head of the ensemble, of normalised scores (…, L)."""
        mix = torch.tensor([self.mix.get(name, 0.0) for name in self.names], device=scores.device)
        return (self.by_name(scores) * mix[:, None]).sum(dim=-2)

    def ranking(self, scores: torch.Tensor) -> torch.Tensor:
        """Return what the heads of the ranking say (…, E), in units of the loss, of normalised scores (…, L)."""
        return (scores * self.std.to(scores.device))[..., : self.size]

    def linear(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Return weights (D,) and bias of the reward, the mean over the ensemble, as it is read off hidden states."""
        heads = [self.by_name(one.score.weight.float().T) for one in self.members]  # (D, 1 + C, heads)
        weights = torch.cat(heads, dim=2).flatten(1).T / self.std[:, None]
        both = torch.cat([weights, (-self.mean / self.std)[:, None]], dim=1)  # (L, D + 1)
        mixed = self.reward(both.T).mean(dim=1)
        return mixed[:-1], mixed[-1]

    def use(self, mix: Mapping[str, float]) -> None:
        """Make the reward this weighted sum; nothing given leaves it as it is. Raises `ConfigError` on other names."""
        for name in mix:
            if name not in self.names:
                raise ConfigError(
                    f"options.reward_mix names {name}, of which the reward model has no head; "
                    f"it has heads for {', '.join(self.names)}."
                )
        self.mix = dict(mix) or self.mix

    def encode(
        self,
        messages: Sequence[Message],
        completions: Sequence[str],
        max_length: int,
        truncation: data.Truncation,
        ended: Sequence[bool] = (),
    ) -> tree.Tree:
        """Return the tree of a prompt and its completions as this model reads them (see `data.encode`)."""
        return data.encode(self.tokenizer, messages, completions, max_length, truncation, ended, self.cut_mark)

    def choose_layout(self, tokens: int, device: Device) -> Layout:
        """Return the layout that the trunk can take (see `layout.choose`): of an encoder, a row for every answer."""
        spread = self if shards.is_spread(self.classifier) else None
        if self.is_encoder:
            return Layout("rows", tokens, device, spread=spread)
        return replace(choose(self.trunk, self.classifier, tokens, device, self.members[1:]), spread=spread)

    def prepare_training(self, optim: Optim, device: Device) -> Work:
        """Let the layers be run as `optim` asks, and return the work of training one member for each token."""
        for one in self.members:
            layers.prepare(members.trunk_of(one), one.config, optim, device.device)
        return work_of(self.trunk, self.classifier.config, None, causal=not self.is_encoder)

    def merge(self, dtype: torch.dtype) -> None:
        """Merge the adapters and take the precision in which the model will be saved; thin adapters stay float32.

        A model that is spread over processes stays as it is (`modeling.cast_weights`).
        """
        if shards.is_spread(self.classifier):
            return
        members.merge(self.members)
        cast_weights(self.classifier, dtype)
        for other in self.others:
            for weight in members.own_parameters(cast("PreTrainedModel", other)).values():
                weight.data = weight.data.to(dtype)


def head_of(classifier: PreTrainedModel) -> nn.Linear:
    """Return the layer that gives the scores."""
    labels = classifier.config.num_labels
    layers = [layer for layer in classifier.modules() if isinstance(layer, nn.Linear)]
    return [layer for layer in layers if layer.out_features == labels][-1]


def new_reward_model(config: RunConfig, device: Device, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    """Return a reward model on the trunk of `config.model`, a decoder or an encoder, its heads from N(0, 1 / (D + 1)).

    Member n starts as the only one of a run with the seed of n more. With `optim.shard` each process keeps its part of
    the members. Refuses a tokenizer whose only possible padding is its end token: transformers reads a saved classifier
    at the last token that is not padding, and would never see that an answer ended.
    """
    if tokenizer.pad_token_id == tokenizer.eos_token_id:
        raise ConfigError(
            f"The tokenizer of {config.model} has no token for padding but its end token, so a reward model made with "
            "it could not tell a finished answer from a cut one; add a padding token to the tokenizer."
        )
    if not config.shard:
        return _new(config, device, tokenizer)
    mesh = shards.mesh_of(device)

    def load() -> RewardModel:
        model = _new(config, Device(torch.device("cpu"), device.dtype), tokenizer)
        for classifier in model.members:
            trunk = classifier if model.is_encoder else members.trunk_of(classifier)
            shards.spread(classifier, trunk, device, mesh)
        return model.to(device.device)

    return device.team.in_turn(load)


def _new(config: RunConfig, device: Device, tokenizer: PreTrainedTokenizerBase) -> RewardModel:
    options = cast("RewardOptions", config.options)
    dtype = device.dtype if config.lora else torch.float32
    criteria = tuple(weights_of(options.criteria))
    first = _load_classifier(config.model, dtype, tokenizer, options.heads * (1 + len(criteria))).to(device.device)
    check_length(first, config.model, config.max_length)
    copies = [members.twin(first, shared=config.lora is not None) for _ in range(options.models - 1)]
    for number, classifier in enumerate((first, *copies)):
        torch.manual_seed(config.seed + number)
        head = head_of(classifier).float()
        nn.init.normal_(head.weight, std=(head.in_features + 1) ** -0.5)
        if head.bias is not None:
            nn.init.zeros_(head.bias)
        if config.lora:  # on the trunk; the head stays trainable, in float32
            members.set_trunk(classifier, add_lora(members.trunk_of(classifier), config.lora))
    model = RewardModel(first, tokenizer, *copies, criteria=criteria, ties=options.loss == "davidson")
    model.use(weights_of(options.reward_mix))
    return model.to(device.device).eval()


def assemble(model: RewardModel, config: RunConfig, device: Device) -> RewardModel:
    """Return a model as it can be saved: `modeling.assemble` for reward models."""
    if not shards.is_spread(model.classifier):
        return model
    cpu = Device(torch.device("cpu"), device.dtype)
    plain = _new(config, cpu, model.tokenizer) if device.team.leads else None
    shards.copy_weights(model, plain)
    if plain is None:
        return model
    plain.merge(device.dtype)
    return plain


def score(model: RewardModel, trees: Sequence[tree.Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the reward (K,) float32 of each tree's completions, the mean over the ensemble, on the CPU."""
    return [scores.mean(dim=1) for scores in score_heads(model, trees, layout)]


def score_heads(model: RewardModel, trees: Sequence[tree.Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the reward (K, E) float32 of each tree's completions by each head of the ensemble, on the CPU."""
    return [model.reward(scores) for scores in score_all(model, trees, layout)]


@torch.no_grad()
def score_all(model: RewardModel, trees: Sequence[tree.Tree], layout: Layout) -> list[torch.Tensor]:
    """Return the normalised scores (K, L) float32 of each tree's completions, on the CPU (as `forward` orders them)."""
    scores: list[torch.Tensor] = [torch.empty(0)] * len(trees)
    for part, batch in layout.batches(trees):
        with layout.device.autocast():
            values = model(batch).cpu()
        for index, chunk in zip(part, torch.split(values, [len(trees[i].completions) for i in part]), strict=True):
            scores[index] = chunk
    return layout.device.team.merge(scores)


def score_texts(
    model: RewardModel,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[str],
    max_length: int,
    ended: Sequence[bool] = (),
) -> torch.Tensor:
    """Return the reward (N,) of completions, each of the prompt beside it, by the model's own tokenizer."""
    return model.reward(scores_of_texts(model, prompts, completions, max_length, ended)).mean(dim=1)


def scores_of_texts(
    model: RewardModel,
    prompts: Sequence[Sequence[Message]],
    completions: Sequence[str],
    max_length: int,
    ended: Sequence[bool] = (),
) -> torch.Tensor:
    """Return the normalised scores (N, L) of completions, each of the prompt beside it.

    One that is not among the `ended` is read behind the model's `cut_mark`; nothing given, all ended.
    """
    cuts = data.Truncation()
    trees = [
        model.encode(messages, [text], max_length, cuts, [end])
        for messages, text, end in zip(prompts, completions, ended or (True,) * len(completions), strict=True)
    ]
    # One answer a prompt: rows need no mask, and in the model's own precision no autocast.
    rows = Layout("rows", TOKENS_PER_FORWARD, Device(model.mean.device, torch.float32))
    return torch.cat(score_all(model, trees, rows))


def _ask(question: str) -> list[Message]:
    return [Message("user", question)]


def save_reward(model: RewardModel, folder: Path, max_length: int) -> None:
    """Save a merged reward model with `reward.json`: the normaliser, and probe texts with the scores they must have."""
    model.classifier.save_pretrained(folder)
    members.save(model.members, folder)
    model.tokenizer.save_pretrained(folder)
    chat_template.save(folder, model.tokenizer)
    texts = [text for _, text in PROBES]
    scores = scores_of_texts(model, [_ask(question) for question, _ in PROBES], texts, max_length).tolist()
    facts = {
        "heads": list(model.names),
        "mix": model.mix,
        "models": len(model.members),
        "mean": model.mean.tolist(),
        "std": model.std.tolist(),
        "nu": None if model.log_nu is None else [value.exp().item() for value in model.log_nu],
        "dtype": str(model.classifier.dtype).removeprefix("torch."),
        "max_length": max_length,
        "cut_mark": model.cut_mark,
        "probes": [
            {"prompt": question, "completion": text, "scores": values}
            for (question, text), values in zip(PROBES, scores, strict=True)
        ],
    }
    (folder / "reward.json").write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def load_reward(
    folder: str, dtype: torch.dtype, device: torch.device, mix: Mapping[str, float] | None = None
) -> RewardModel:
    """Load a saved reward model and check that its probe texts score as they did when it was saved.

    With a `mix` the reward is that weighted sum of its heads; else what it was saved with.
    """
    try:
        facts = json.loads((Path(folder) / "reward.json").read_text(encoding="utf-8"))
        mean, std, probes = torch.tensor(facts["mean"]), torch.tensor(facts["std"]), facts["probes"]
        prompts = [_ask(probe["prompt"]) for probe in probes]
        # A model of version 0.1 has heads of the ranking alone, and the mean of their scores.
        wanted = torch.tensor([probe.get("scores") or [probe["score"]] for probe in probes])
        names, count = facts.get("heads", [RANKING]), int(facts.get("models", 1))
        saved_mix = dict(facts.get("mix", {RANKING: 1.0}))
        cut_mark = str(facts.get("cut_mark", ""))  # without it a model has learned to read a cut answer where it stops
    except FileNotFoundError:
        raise ConfigError(f"{folder} holds no reward.json; it must be the final folder of a reward run.") from None
    except (UnicodeDecodeError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"{folder}/reward.json cannot be read: {error!r}.") from error
    tokenizer = load_tokenizer(folder)
    first = _load_classifier(folder, dtype, tokenizer, len(mean) // count)
    several = members.load(first, Path(folder), count)
    model = RewardModel(first, tokenizer, *several[1:], criteria=names[1:], cut_mark=cut_mark).to(device).eval()
    model.mean.copy_(mean)
    model.std.copy_(std)
    scores = scores_of_texts(model, prompts, [probe["completion"] for probe in probes], facts["max_length"])
    found = scores.cpu() if wanted.shape[1] == len(mean) else scores.cpu().mean(dim=1, keepdim=True)
    worst = (found - wanted).abs().max().item()
    # Scores have standard deviation 1: rounding moves them by hundredths, a lost head by about 1.
    if worst > (0.02 if facts["dtype"] == str(dtype).removeprefix("torch.") else 0.3):
        raise ConfigError(
            f"The reward model {folder} scores its probe texts {worst:.2f} off what was saved with it; "
            "its files do not belong together."
        )
    model.use(saved_mix)
    model.use(mix or {})
    return model


def _load_classifier(
    model: str, dtype: torch.dtype, tokenizer: PreTrainedTokenizerBase, labels: int
) -> PreTrainedModel:
    classifier: PreTrainedModel = from_pretrained(
        AutoModelForSequenceClassification, model, dtype=dtype, use_safetensors=True, num_labels=labels
    )
    classifier.config.pad_token_id = tokenizer.pad_token_id
    return classifier
