"""One model spread over the processes of a training: each holds its part of weights, gradients and moments (FSDP2).

A part is the rows of every weight that belong to a process, as a `DTensor`. Where a layer's forward or backward begins
its weights are gathered, in the precision of the run; where it ends they are given up again, and gradients are summed
into the parts (`torch.distributed.fsdp.fully_shard`; Rajbhandari et al. 2020 call it ZeRO, stage 3). Optimiser and
clipping work on the parts as they are.

So every process has to make as many forwards and backwards as the others, which `Layout.batches` sees to. The weights
outside the layers (embeddings, output layer, the last norm) stay gathered from a forward to the end of its backward,
or to `close`: what scores hidden states finds them whole. Between the two nobody may look at parameters.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from trainer.config import ConfigError
from trainer.device import Device
from trainer.layers import layers_of


def mesh_of(device: Device) -> DeviceMesh:
    """Return the processes as `spread` takes them; all of them call it at one time."""
    return init_device_mesh(device.device.type, (device.team.size,))


def spread(model: Any, trunk: Any, device: Device, mesh: DeviceMesh) -> None:
    """Leave in this process its part of a model, which all processes have loaded alike; the rest is let go.

    `trunk` is the model without its head, and what is called from now on; an encoder is its own. Layer by layer the
    parts go to the process's device, so the whole model may come from the CPU. Nothing speaks with the others yet.
    Raises `ConfigError` where the layers cannot be found, or torch is too old.
    """
    if not hasattr(FSDPModule, "reset_iter_state"):
        raise ConfigError(f"optim.shard needs a newer torch than {torch.__version__}; constraints.txt names one.")
    policy = MixedPrecisionPolicy(param_dtype=device.dtype, reduce_dtype=torch.float32)
    for module in (*layers_of(trunk, model.config), model):
        unit = fully_shard(module, mesh=mesh, mp_policy=policy)
        # A step's losses are weighted for the whole step, so gradients are summed, and not divided by the processes.
        unit.set_gradient_divide_factor(1.0)
        unit.set_force_sum_reduction_for_comms(True)
    if trunk is not model:  # a call of the trunk counts as one of the model, which holds embeddings and head
        model.forward_trunk = trunk.forward
        register_fsdp_forward_method(model, "forward_trunk")
        trunk.forward = model.forward_trunk


def is_spread(model: nn.Module) -> bool:
    """Whether processes hold parts of a model."""
    return isinstance(model, FSDPModule)


def close(module: nn.Module) -> None:
    """Give up what forwards without a backward have gathered, of every spread model in a module."""
    for one in module.modules():
        if isinstance(one, FSDPModule):
            one.reshard()


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return a tensor, or that of which it is a part; then all processes have to call it."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gather(tensors: Mapping[str, torch.Tensor], *, keep: bool) -> dict[str, torch.Tensor]:
    """Return tensors whole, those that were parts on the CPU, in a process that is to `keep` them; else nothing.

    One is gathered at a time, so that a GPU never holds more than the largest.
    """
    found = {}
    for name, tensor in tensors.items():
        full = whole(tensor)
        if keep:
            found[name] = full.cpu() if isinstance(tensor, DTensor) else full
    return found


@torch.no_grad()
def copy_weights(source: nn.Module, target: nn.Module | None) -> None:
    """Copy the weights and buffers of a model into a plain one of the same architecture, where this process has one."""
    for tensors_of in (nn.Module.parameters, nn.Module.buffers):
        places = None if target is None else tensors_of(target)
        for tensor in tensors_of(source):
            full = whole(tensor)
            if places is not None:
                next(places).copy_(full)


def read(file: Any, key: str, like: torch.Tensor) -> torch.Tensor:
    """Return a tensor of an open safetensors file, or the part of it that this process holds of `like`.

    A part is read where `like` is one and the file's tensor has the shape of the whole.
    """
    stored = file.get_slice(key)
    if not isinstance(like, DTensor) or list(like.shape) != stored.get_shape():
        return file.get_tensor(key)  # type: ignore[no-any-return]
    own = like.to_local()
    first = like.device_mesh.get_local_rank() * -(-like.shape[0] // like.device_mesh.size())
    rows = stored[first : first + len(own)].to(own.device) if len(own) else torch.empty_like(own)
    return DTensor.from_local(
        rows, like.device_mesh, like.placements, run_check=False, shape=like.shape, stride=like.stride()
    )
