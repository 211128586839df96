"""What a run can be asked for, as fields of a form: derived from the trainer's own dataclasses.

A new option of the trainer is a field here by itself, with its type, its default and the values it may have. What is
out of range is refused by the trainer's own reader; `placed` says beside which field its sentence belongs.
"""

from __future__ import annotations

import dataclasses
import inspect
import math
import re
import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, Union

from trainer.config import DEFAULTS, METHODS, OPTIONS, Lora, RunConfig

Kind = Literal["integer", "number", "choice", "switch", "words"]

BY_PEOPLE = tuple(method for method in METHODS if method not in ("sample", "score", "revise", "feedback"))
"""Methods that are started from a form of their own. Answers are sampled, and tasks scored, from a project's
pages, and what works by a constitution is run by hand (`docs/constitution.md`)."""

# Set from what the form lets one choose, or by the app itself.
NOT_OFFERED = frozenset({"run_id", "method", "model", "options", "device", "lora", "snapshot_id", "schema"}) | {
    "reward_model", "more_reward_models", "gold_model", "policies", "baseline",
}  # fmt: skip

MOST_GPUS = 1024
"""More than any worker offers; what a run asks for beyond its workers makes it wait."""

UNFIT = frozenset({("ppo", "compile"), ("rloo", "compile")})
"""By method, options that the trainer would refuse whatever else is chosen."""

# Sensible first values where they are not the trainer's own defaults, which suit training every weight.
FIRST: dict[str, dict[str, str]] = {
    "sft": {"learning_rate": "0.0002", "epochs": "3"},
    "reward": {"learning_rate": "0.0001", "epochs": "2"},
    "dpo": {"learning_rate": "0.00005"},
    "kto": {"learning_rate": "0.00005"},
    "ppo": {"learning_rate": "0.00003", "batch_size": "16"},
    "rloo": {"learning_rate": "0.00003", "batch_size": "16"},
}
MAIN = (
    "learning_rate", "batch_size", "epochs", "iterations", "loss", "turns", "margin", "heads", "models",
    "criteria", "beta",
    "label_smoothing", "length_normalised", "nll_weight", "kl_coefficient", "answers_per_prompt", "samples_per_prompt",
    "temperature", "max_new_tokens", "lora_rank", "max_length", "precision", "seed",
)  # fmt: skip
"""Fields that stand open; the others are one click away."""

SELDOM = {"ppo": {"temperature", "epochs"}, "rloo": {"temperature", "epochs"}}
"""Of those fields, the ones that a method needs seldom or never."""

OWN_LABELS = {
    ("ppo", "batch_size"): "Answers an iteration",
    ("rloo", "batch_size"): "Answers an iteration",
    ("evaluate", "batch_size"): "Answers at a time",
}
"""By method, names that mean something else there."""

LABELS = {
    "batch_size": "Prompts a step",
    "beta1": "Beta 1",
    "beta2": "Beta 2",
    "compile": "Compile the layers",
    "checkpoint_steps": "Steps between checkpoints",
    "grad_clip": "Gradient clipping",
    "criteria": "Criteria",
    "heads": "Heads (ensemble)",
    "kl_in": "KL in",
    "lora_rank": "LoRA rank",
    "lora_alpha": "LoRA alpha",
    "lora_targets": "LoRA layers",
    "max_length": "Longest text",
    "max_new_tokens": "Longest answer",
    "models": "Models (ensemble)",
    "nll_weight": "NLL weight",
    "samples_per_prompt": "Answers each",
    "shard": "Sharding",
    "sampling_batch_size": "Answers at once",
    "top_p": "Top p",
    "turns": "Assistant turns learned",
}
WORDS = {"kl": "KL", "ptx": "PTX", "ppo": "PPO", "gae": "GAE", "nll": "NLL"}
CHOICES = {
    "dpo": "DPO", "ipo": "IPO", "plackett_luce": "Plackett-Luce (whole rankings)", "davidson": "Davidson (with ties)",
    "pairs": "Bradley-Terry (pairs)", "last": "the last", "all": "all", "vllm": "vLLM",
}  # fmt: skip
HINTS = {
    "compile": "Faster steps after a slow first one; needs a C++ compiler on the worker.",
    "recompute_activations": "Less memory, a third more work.",
    "shard": "One model for all GPUs of the run, where one does not fit each; needs LoRA rank 0.",
    "lora_rank": "0 trains every weight.",
    "max_length": "Prompt and answer together, in tokens.",
    "max_new_tokens": "In tokens.",
    "lora_targets": "Names, with commas between them.",
    "criteria": "As in the guidelines: helpful, honest=0.5. Empty: none.",
    "reward_mix": "As in: ranking, honest=0.5. Empty: the ranking, or what the reward model was trained with.",
}


@dataclass(frozen=True)
class OptionField:
    """One field: its name in the form, where its value stands in run.json, and how it is typed in."""

    name: str
    path: tuple[str, ...]
    label: str
    hint: str
    kind: Kind
    default: str
    choices: tuple[tuple[str, str], ...]
    may_be_empty: bool
    is_main: bool

    def value(self, text: str) -> Any:
        """Return what was typed as run.json holds it; raise `ValueError` with a sentence when it is no such thing."""
        text = text.strip()
        if not text:
            return None
        match self.kind:
            case "integer":
                return _integer(text)
            case "number":
                return _number(text)
            case "words":
                return [word.strip() for word in text.split(",") if word.strip()]
        if text not in dict(self.choices):
            raise ValueError("Choose one of the values offered.")
        return text == "yes" if self.kind == "switch" else text


@lru_cache(maxsize=32)
def fields_of(method: str) -> tuple[OptionField, ...]:
    """Return the fields of a method's form, the most important first; raise `KeyError` for no method."""
    found: dict[str, OptionField] = {}
    keys = _leaves_of(RunConfig, (), _defaults(RunConfig) | DEFAULTS.get(method, {}))
    for path, hint, default in (*_leaves(OPTIONS[method], ("options",)), *keys, *_lora(method)):
        *group, name = path
        if name in found or group[-1:] == ["lora"]:
            name = f"{group[-1]}_{name}"
        field = None if (method, name) in UNFIT else _field(method, name, path, hint, default)
        if field is not None:
            found[name] = field
    order = {name: place for place, name in enumerate(MAIN)}
    return tuple(sorted(found.values(), key=lambda field: order.get(field.name, len(order))))


def first_values(method: str) -> dict[str, str]:
    """Return what the form is filled in with."""
    return {field.name: field.default for field in fields_of(method)} | FIRST.get(method, {})


def explanation(method: str) -> str:
    """Return what the trainer says of the method's options, as Markdown, the options by the form's names for them."""
    labels = {field.path[-1]: field.label for field in reversed(fields_of(method))}  # of two, the more important one
    texts = [
        re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(kind.__doc__ or ""))
        for kind in reversed(OPTIONS[method].__mro__)
        if dataclasses.is_dataclass(kind)
    ]
    return re.sub(
        r"`(?:\w+\.)*(\w+)`",
        lambda found: f"*{labels[found[1]]}*" if found[1] in labels else found[0],
        "\n\n".join(texts),
    )


def parse(method: str, texts: Mapping[str, str]) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what was typed as the keys of run.json, and a sentence for each field that cannot be read.

    A field that was not sent keeps the trainer's default; so does an empty one, unless empty has a meaning there.
    """
    values: dict[str, Any] = {"options": _defaults(OPTIONS[method])}
    errors: dict[str, str] = {}
    for field in fields_of(method):
        text = texts.get(field.name)
        if text is None:
            continue
        try:
            value = field.value(text)
        except ValueError as error:
            errors[field.name] = str(error)
            continue
        if value is None and not field.may_be_empty:
            continue
        place = values
        for key in field.path[:-1]:
            place = place.setdefault(key, {})
        place[field.path[-1]] = value
    rank = values.get("lora", {}).get("rank", 0)
    if rank == 0:
        values.pop("lora", None)
    elif "lora_alpha" not in texts:
        values["lora"]["alpha"] = 2.0 * rank
    return values, errors


def placed(method: str, sentence: str) -> tuple[str, str]:
    """Return (the field that a refusal of the trainer's is about or "", the sentence with the form's own names)."""
    names = {".".join(field.path): field for field in fields_of(method)}
    names |= {name.removeprefix("options."): field for name, field in names.items() if name.count(".") > 1}
    where: list[str] = []

    def renamed(found: re.Match[str]) -> str:
        field = names.get(found[0])
        if field is None or ("." not in found[0] and found.start() > 0):
            return found[0]
        where.append(field.name)
        return field.label if found.start() == 0 else field.label[0].lower() + field.label[1:]

    said = re.sub(r"\w+(?:\.\w+)*", renamed, sentence)
    return (where[0] if where else ""), said


def merged(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Return `below` with what `above` says put on top, group by group."""
    result = dict(below)
    for key, value in above.items():
        both = isinstance(value, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], value) if both else value
    return result


def _leaves(kind: type, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield (path, type, default) of every option that stands in a dataclass or in one of its groups."""
    yield from _leaves_of(kind, path, _defaults(kind))


def _leaves_of(
    kind: type, path: tuple[str, ...], defaults: Mapping[str, Any]
) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    hints = typing.get_type_hints(kind)
    groups = []
    for name, default in defaults.items():
        if dataclasses.is_dataclass(hints[name]):
            groups.append(name)
        elif name not in NOT_OFFERED:
            yield (*path, name), hints[name], default
    # The optimiser's fields come first and have their plain names; a second `batch_size` is named after its group.
    for name in sorted(groups, key=lambda name: name != "optim"):
        yield from _leaves_of(hints[name], (*path, name), defaults[name])


def _lora(method: str) -> Iterator[tuple[tuple[str, ...], Any, Any]]:
    """Yield the leaves of LoRA, which every method that trains takes."""
    return iter(()) if method in ("evaluate", "sample") else _leaves(Lora, ("lora",))


def _defaults(kind: Any) -> dict[str, Any]:
    """Return the defaults of a dataclass that need no answer from anybody, groups as mappings."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        if field.default is not dataclasses.MISSING:
            values[field.name] = field.default
        elif field.default_factory is not dataclasses.MISSING:
            made = field.default_factory()
            values[field.name] = dataclasses.asdict(made) if dataclasses.is_dataclass(made) else made  # type: ignore[arg-type]  # an instance
    return {name: value for name, value in values.items() if name not in NOT_OFFERED}


def _field(method: str, name: str, path: tuple[str, ...], hint: Any, default: Any) -> OptionField | None:
    may_be_empty = False
    if typing.get_origin(hint) in (Union, types.UnionType):
        parts = [part for part in typing.get_args(hint) if part is not type(None)]
        hint, may_be_empty = parts[0], True
    kind: Kind
    choices: tuple[tuple[str, str], ...] = ()
    if typing.get_origin(hint) is Literal:
        kind, choices = "choice", tuple((str(item), CHOICES.get(item, item)) for item in typing.get_args(hint))
    elif hint is bool:
        kind, choices = "switch", (("yes", "yes"), ("no", "no"))
    elif hint in (int, float):
        kind = "integer" if hint is int else "number"
    elif typing.get_origin(hint) is tuple and typing.get_args(hint)[0] is str:
        kind = "words"
    else:
        return None  # free text and lists of objects are set by the form itself
    return OptionField(
        name=name,
        path=path,
        label=OWN_LABELS.get((method, name)) or LABELS.get(name) or _label(name),
        hint=HINTS.get(name, "Empty: none." if may_be_empty and kind != "choice" else ""),
        kind=kind,
        default=_text(default),
        choices=((("", "none"), *choices) if may_be_empty and choices else choices),
        may_be_empty=may_be_empty,
        is_main=name in MAIN and name not in SELDOM.get(method, ()),
    )


def _label(name: str) -> str:
    words = [WORDS.get(word, word) for word in name.split("_")]
    return " ".join([words[0][:1].upper() + words[0][1:], *words[1:]])


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (tuple, list)):
        return ", ".join(map(str, value))
    if isinstance(value, float):
        return f"{value:.10f}".rstrip("0").rstrip(".") if value == 0 or 1e-7 < abs(value) < 1e7 else repr(value)
    return str(value)


def _integer(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("Enter a whole number.") from None


def _number(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise ValueError("Enter a number.")
    return value
