"""The members of an ensemble of whole models: copies that share what is frozen, and their files in a saved folder.

With LoRA every member has adapters of its own on one base, which is held and saved once. The first member is merged
into the base, so that a saved folder is a plain model; the others become what they differ from it by, which is again
a product of two thin matrices: s B A - s_1 B_1 A_1 = [s B, -s_1 B_1] [A; A_1]. Without LoRA members are whole copies.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn
from transformers import PreTrainedModel

from trainer.config import ConfigError, Lora
from trainer.modeling import add_lora, merge_lora

ADAPTERS = "adapters"
Thin = dict[str, tuple[torch.Tensor, torch.Tensor]]
"""By layer, the factors A (r, in) and B (out, r) of what is added to its weights, the scale in B."""


def twin(classifier: PreTrainedModel, *, shared: bool) -> PreTrainedModel:
    """Return a copy of a model; with `shared` its trunk's weights are the very tensors of the other's trunk."""
    trunk = trunk_of(classifier)
    tensors = [*trunk.parameters(), *trunk.buffers()] if shared else []
    return copy.deepcopy(classifier, {id(tensor): tensor for tensor in tensors})


def trunk_of(classifier: PreTrainedModel) -> Any:
    """Return the model below the head."""
    return getattr(classifier, classifier.base_model_prefix)


def set_trunk(classifier: PreTrainedModel, trunk: Any) -> None:
    """Put a model below the head."""
    setattr(classifier, classifier.base_model_prefix, trunk)


def merge(classifiers: list[PreTrainedModel]) -> None:
    """Merge the adapters of the first member into the base, which all share, and make the others relative to it."""
    found = [thin(classifier) for classifier in classifiers]
    for classifier in classifiers[1:]:
        trunk = trunk_of(classifier)
        set_trunk(classifier, trunk.unload() if hasattr(trunk, "unload") else trunk)
    set_trunk(classifiers[0], merge_lora(trunk_of(classifiers[0])))
    for classifier, own in zip(classifiers[1:], found[1:], strict=True):
        if own:
            put(classifier, relative(own, found[0]))


def thin(classifier: PreTrainedModel) -> Thin:
    """Return the adapters of a model, by the names of the layers without them."""
    found = {}
    for name, layer in trunk_of(classifier).named_modules():
        if hasattr(layer, "lora_A") and layer.lora_A:
            (adapter,) = layer.lora_A
            down, up = layer.lora_A[adapter].weight, layer.lora_B[adapter].weight
            plain = name.removeprefix("base_model.model.")
            found[plain] = (down.detach().clone(), up.detach() * layer.scaling[adapter])
    return found


def relative(own: Thin, first: Thin) -> Thin:
    """Return what one model's adapters add beyond those of another."""
    return {
        name: (torch.cat([down, first[name][0]]), torch.cat([up, -first[name][1]], dim=1))
        for name, (down, up) in own.items()
    }


def put(classifier: PreTrainedModel, adapters: Thin) -> None:
    """Put frozen adapters on the trunk of a model."""
    (rank,) = {len(down) for down, _ in adapters.values()}
    trunk = add_lora(trunk_of(classifier), Lora(rank=rank, alpha=rank, targets=tuple(adapters)))
    set_trunk(classifier, trunk)
    layers = dict(trunk.named_modules())
    with torch.no_grad():
        for name, (down, up) in adapters.items():
            layer = layers[f"base_model.model.{name}"]
            layer.lora_A["default"].weight.copy_(down)
            layer.lora_B["default"].weight.copy_(up)
    trunk.requires_grad_(requires_grad=False)


def own_parameters(classifier: PreTrainedModel) -> dict[str, nn.Parameter]:
    """Return the weights that a member does not share: all of them, or its head where its trunk has adapters."""
    adapted = bool(thin(classifier))
    prefix = f"{classifier.base_model_prefix}."
    return {name: weight for name, weight in classifier.named_parameters() if not (adapted and name.startswith(prefix))}


def save(classifiers: list[PreTrainedModel], folder: Path) -> None:
    """Write `member_2.safetensors` and so on: what each further member does not share with the first."""
    for number, classifier in enumerate(classifiers[1:], start=2):
        tensors = {name: weight.detach().contiguous() for name, weight in own_parameters(classifier).items()}
        for name, (down, up) in thin(classifier).items():
            tensors |= {f"{ADAPTERS}/{name}/A": down.contiguous(), f"{ADAPTERS}/{name}/B": up.contiguous()}
        save_file(tensors, folder / f"member_{number}.safetensors", metadata={"format": "pt"})


def load(first: PreTrainedModel, folder: Path, count: int) -> list[PreTrainedModel]:
    """Return all members of a saved folder, the first given; raise `ConfigError` where a file does not fit."""
    members = [first]
    for number in range(2, count + 1):
        path = folder / f"member_{number}.safetensors"
        if not path.is_file():
            raise ConfigError(f"{folder} says that it holds {count} models, but {path.name} is not there.")
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 # no mapping
        adapters: Thin = {
            name.split("/")[1]: (tensors.pop(name), tensors.pop(f"{name[:-1]}B"))
            for name in sorted(tensors)
            if name.startswith(ADAPTERS) and name.endswith("/A")
        }
        member = twin(first, shared=bool(adapters))
        if adapters:
            put(member, adapters)
        own = own_parameters(member)
        if set(own) != set(tensors):
            raise ConfigError(f"{path} does not belong to the model beside it.")
        with torch.no_grad():
            for name, weight in own.items():
                weight.copy_(tensors[name])
        members.append(member)
    return members
