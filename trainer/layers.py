"""How the layers of a model in training are run: compiled, or with their activations computed again backwards.

Neither changes what a layer computes, beyond the rounding of compiled code. On a CPU their norms take fewer passes.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint as recompute

from trainer import branches, norms
from trainer.config import ConfigError, Optim

COMPILERS = ("g++", "clang++", "c++")


def prepare(trunk: nn.Module, config: Any, optim: Optim, device: torch.device) -> None:
    """Let the layers of `trunk`, a model of this transformers configuration, be run as `optim` asks.

    Raises `ConfigError` where they cannot be found, or nothing here can compile.
    """
    shorten(trunk, optim, device)
    if not (optim.compile or optim.recompute_activations):
        return
    if optim.compile:
        check_compiler(device)
        branches.register(compiled=True)
    for layer in layers_of(trunk, config):
        forward = layer.forward
        if optim.compile:
            forward = torch.compile(forward, dynamic=True)  # batches have many lengths, and few need code of their own
        if optim.recompute_activations:
            forward = _recomputed(forward)
        layer.forward = forward  # a module's own attribute stands before its class's


def shorten(trunk: nn.Module, optim: Optim, device: torch.device) -> None:
    """Let norms take fewer passes on a CPU, where layers are not compiled."""
    if device.type == "cpu" and not optim.compile:
        norms.install(trunk)


def layers_of(trunk: nn.Module, config: Any) -> list[nn.Module]:
    """Return the blocks that a model is a stack of."""
    depth = config.get_text_config().num_hidden_layers
    for module in trunk.modules():
        if isinstance(module, nn.ModuleList) and len(module) == depth:
            return list(module)
    raise ConfigError(
        f"The layers of the model {config.model_type} cannot be told apart, so optim.compile, "
        "optim.recompute_activations and optim.shard do not go with it."
    )


def check_compiler(device: torch.device) -> None:
    """Refuse to compile where nothing can: every step would fail, or run uncompiled without a word."""
    named = os.environ.get("CXX")
    if not any(map(shutil.which, [named] if named else COMPILERS)):
        raise ConfigError(
            "optim.compile needs a C++ compiler, and there is none here; install g++ or set optim.compile to false."
        )
    if device.type == "cuda" and importlib.util.find_spec("triton") is None:
        raise ConfigError("optim.compile on a GPU needs Triton; install it or set optim.compile to false.")


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """Return a forward that keeps only its inputs where a gradient is wanted (Chen et al. 2016)."""

    def again(*arguments: Any, **keywords: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **keywords)
        # No dropout, so no random state to keep.
        return recompute(forward, *arguments, use_reentrant=False, preserve_rng_state=False, **keywords)

    return again
