"""Causal language models: loading, LoRA, and the log-probabilities of completions. (Reward models: `reward_model`.)

Weights are read and written as safetensors only, and no code that comes with a model is ever run.
"""

from __future__ import annotations

import contextlib
import hashlib
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from safetensors import SafetensorError
from torch.utils.checkpoint import checkpoint as recompute
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase
from transformers.utils import logging

from trainer import chat_template, head, layers, shards, tree
from trainer.config import ConfigError, Lora, Optim, RunConfig
from trainer.device import Device
from trainer.flops import Work, work_of
from trainer.layout import Layout, choose
from trainer.manifest import file_sha256
from trainer.tree import Batch

DECIDING = (
    "config.json", "generation_config.json", "reward.json", "tokenizer.json", "tokenizer_config.json",
    "chat_template.jinja",
)  # fmt: skip
"""The files of a model's folder that decide with its weights what it computes."""

# Loading and saving


def load_tokenizer(model: str) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a local folder or hub id, with a pad token that is not its end token where one can be had.

    Our own masks never look at token values. Other readers of a saved reward model do (transformers pools at the last
    token that is not padding) and would never see the end token if both were one. An encoder's tokenizer has marks
    around a text (`[CLS]` and `[SEP]`) and no other beginning and end: they take those parts.
    """
    tokenizer = from_pretrained(AutoTokenizer, model)
    if tokenizer.eos_token is None and tokenizer.sep_token is not None:
        tokenizer.eos_token, tokenizer.bos_token = tokenizer.sep_token, tokenizer.bos_token or tokenizer.cls_token
    if tokenizer.pad_token_id is None or tokenizer.pad_token_id == tokenizer.eos_token_id:
        known = [tokenizer.unk_token, *tokenizer.all_special_tokens, *sorted(tokenizer.get_added_vocab())]
        spare = [token for token in known if token not in (None, tokenizer.eos_token, tokenizer.bos_token)]
        tokenizer.pad_token = (spare or [tokenizer.eos_token])[0]
    return tokenizer


def load_policy(model: str, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """Load a causal language model in evaluation mode (no dropout); raise `ConfigError` where that is impossible."""
    policy = from_pretrained(AutoModelForCausalLM, model, dtype=dtype, use_safetensors=True).to(device).eval()
    _check_head(policy, model)
    return policy


def load_trainable(config: RunConfig, device: Device) -> PreTrainedModel:
    """Load `config.model` to be trained: LoRA on a frozen base in the run's precision, else all weights in float32.

    With `optim.shard` each process keeps its part of them.
    """
    if config.shard:
        return _load_spread(config, device)
    policy = load_policy(config.model, device.dtype if config.lora else torch.float32, device.device)
    check_length(policy, config.model, config.max_length)
    return add_lora(policy, config.lora) if config.lora else policy


def load_frozen(config: RunConfig, device: Device) -> PreTrainedModel | None:
    """Load the model that a policy starts as, beside it; None with LoRA, where the policy holds it (`reference`)."""
    if config.lora:
        return None
    if config.shard:
        return _load_spread(config, device)
    return load_policy(config.model, torch.float32, device.device)


def _load_spread(config: RunConfig, device: Device) -> PreTrainedModel:
    """Load `config.model` in float32 and spread it; one process at a time holds all of it, in the CPU's memory."""
    mesh = shards.mesh_of(device)

    def load() -> PreTrainedModel:
        policy = load_policy(config.model, torch.float32, torch.device("cpu"))
        check_length(policy, config.model, config.max_length)
        shards.spread(policy, policy.base_model, device, mesh)
        return policy

    return device.team.in_turn(load)


def check_length(model: PreTrainedModel, name: str, max_length: int) -> None:
    """Refuse a `max_length` beyond the positions that the model was made for: what it says there would be noise."""
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is not None and max_length > positions:
        raise ConfigError(f"max_length is {max_length}, but the model {name} has {positions} positions.")


def assemble(model: PreTrainedModel, config: RunConfig, device: Device) -> PreTrainedModel:
    """Return a model as it can be saved: in the first process a plain one, in the run's precision on the CPU.

    That is of a model that is spread over the processes, all of which have to call this. Any other is returned itself.
    """
    if not shards.is_spread(model):
        return model
    plain = load_policy(config.model, device.dtype, torch.device("cpu")) if device.team.leads else None
    shards.copy_weights(model, plain)
    return plain or model


def save_policy(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, folder: Path, dtype: torch.dtype) -> None:
    """Save a whole model (adapters merged) and its tokenizer so that plain transformers loads the folder."""
    cast_weights(merge_lora(model), dtype).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    chat_template.save(folder, tokenizer)


def cast_weights(model: PreTrainedModel, dtype: torch.dtype) -> PreTrainedModel:
    """Give the weights, and they alone, another precision, as loading does.

    `model.to(dtype)` would also round the rotary frequencies, which a loaded model keeps in float32: what was judged
    and what is loaded later would then be two models. A model that is spread over processes stays as it is: its
    forwards have taken the run's precision all along.
    """
    if shards.is_spread(model):
        return model
    for parameter in model.parameters():
        parameter.data = parameter.data.to(dtype)
    return model


def fingerprint(model: str) -> str:
    """Return a hash of what a model computes: of the files of a folder that decide it, of the commit of a hub id."""
    folder = Path(model)
    if folder.is_dir():
        deciding = [path for path in map(folder.joinpath, DECIDING) if path.is_file()]
        files = sorted([*folder.glob("*.safetensors"), *deciding])
        return hashlib.sha256("".join(f"{path.name} {file_sha256(path)}\n" for path in files).encode()).hexdigest()
    return f"{model}@{from_pretrained(AutoConfig, model)._commit_hash}"  # no public name


def from_pretrained(factory: Any, model: str, **options: Any) -> Any:
    """Call a transformers Auto class; what it cannot load becomes a `ConfigError` of one sentence."""
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    looks_local = Path(model).is_absolute() or model.startswith(".") or model.count("/") > 1
    if looks_local and not Path(model).is_dir():
        raise ConfigError(f"The model folder {model} does not exist.")
    try:
        return factory.from_pretrained(model, trust_remote_code=False, **options)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        reason = str(error).strip().partition("\n")[0].rstrip(".")
        raise ConfigError(f"The model {model} cannot be loaded: {reason}.") from error


def _check_head(policy: PreTrainedModel, name: str) -> None:
    """Refuse a model whose logits are more than its head times the last hidden state (soft caps, scaled logits)."""
    ids = torch.tensor([[0, 1]], device=policy.device)
    with torch.no_grad():
        expected = policy(input_ids=ids, use_cache=False).logits.float()
        found = logits(policy, policy.base_model(input_ids=ids, use_cache=False).last_hidden_state)
    if not torch.allclose(expected, found, rtol=1e-3, atol=1e-3):
        raise ConfigError(
            f"The model {name} changes its logits after the output layer, which this trainer cannot follow."
        )


# LoRA


def add_lora(model: PreTrainedModel, lora: Lora) -> PreTrainedModel:
    """Freeze `model` and put float32 adapters on its linear layers (Hu et al. 2021). They start as no change at all."""
    targets = "all-linear" if lora.targets == ("all-linear",) else list(lora.targets)
    settings = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        target_modules=targets,
        task_type="CAUSAL_LM" if model.get_output_embeddings() is not None else "FEATURE_EXTRACTION",
    )
    try:
        with warnings.catch_warnings():
            # peft asks transformers by a name that transformers has since deprecated; nothing here can change that.
            warnings.filterwarnings(
                "ignore", message="`is_gradient_checkpointing` is deprecated", category=FutureWarning
            )
            return get_peft_model(model, settings, autocast_adapter_dtype=True)
    except ValueError as error:
        raise ConfigError(f"lora.targets do not fit the model: {str(error).partition(chr(10))[0]}") from error


def merge_lora(model: PreTrainedModel) -> PreTrainedModel:
    """Add the adapters into the weights they stand beside and return the plain model (as it is without adapters)."""
    return model.merge_and_unload() if hasattr(model, "merge_and_unload") else model


@contextlib.contextmanager
def reference(model: PreTrainedModel) -> Iterator[PreTrainedModel]:
    """Within the context `model`, which must have adapters, computes what it did before it was trained."""
    if not hasattr(model, "disable_adapter"):
        raise TypeError("Only a model with LoRA adapters holds its own reference.")
    with model.disable_adapter():
        yield model


# Log-probabilities


def core(model: PreTrainedModel) -> PreTrainedModel:
    """Return the transformers model, whose layers hold the adapters if there are any."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def prepare_training(
    model: PreTrainedModel, optim: Optim, device: Device, frozen: PreTrainedModel | None = None
) -> Work:
    """Let the model's layers be run as `optim` asks, and return the work of training it for each token.

    Its `frozen` copy is never compiled, but else says the same of the same text to the last bit.
    """
    plain = core(model)
    if frozen is not None:
        layers.shorten(frozen.base_model, optim, device.device)
    layers.prepare(plain.base_model, plain.config, optim, device.device)
    return work_of(plain.base_model, plain.config, plain.get_output_embeddings())


def choose_layout(model: PreTrainedModel, tokens: int, device: Device, frozen: PreTrainedModel | None = None) -> Layout:
    """Return the layout that a causal language model can take (see `layout.choose`), and its `frozen` copy too."""
    return choose(core(model).base_model, core(model), tokens, device, [frozen] if frozen else [])


def hidden_states(model: PreTrainedModel, batch: Batch) -> torch.Tensor:
    """Return the last hidden states (R * T, D) of a batch's rows, laid end to end."""
    return tree.hidden_states(core(model).base_model, core(model).config, batch)


def completion_logps(model: PreTrainedModel, batch: Batch, temperature: float = 1.0) -> torch.Tensor:
    """Return (M,) float32: the log-probability of each completion token given all before it, as `batch.targets`.

    The output layer runs on completion positions only, `head.ROWS` at a time, and is recomputed in the backward pass;
    (R, T, V) never exists.
    """
    return token_logps(model, hidden_states(model, batch)[batch.sources], batch.targets, temperature)


def logits(model: PreTrainedModel, hidden: torch.Tensor) -> torch.Tensor:
    """Return the float32 logits (…, V) of last hidden states (…, D), with the soft cap of the Gemma family."""
    values: torch.Tensor = model.get_output_embeddings()(hidden).float()
    cap = soft_cap(model)
    return values if cap is None else torch.tanh(values / cap) * cap


def soft_cap(model: PreTrainedModel) -> float | None:
    """Return what the Gemma family holds its logits below, None for other models."""
    cap: float | None = getattr(model.config, "final_logit_softcapping", None)
    return cap


def token_logps(
    model: PreTrainedModel, hidden: torch.Tensor, targets: torch.Tensor, temperature: float = 1.0
) -> torch.Tensor:
    """Return (M,) float32 log-probabilities of `targets` (M,) given hidden states (M, D), in chunks of rows.

    Logits are divided by `temperature` as the sampler's are, so both see one distribution.
    """
    output = model.get_output_embeddings()
    if head.is_plain(output) and soft_cap(model) is None:
        return head.token_logps(output.weight, hidden, targets, temperature)
    return torch.cat([chunk[0] for chunk in _score_chunks(model, hidden, targets, temperature, entropy=False)])


def token_logps_and_entropies(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float = 1.0,
    *,
    gradient: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return `token_logps` and, from the same pass, the entropy (M,) in nats at each position.

    The entropy has a `gradient` only where one asks for it.
    """
    chunks = list(_score_chunks(model, hidden, targets, temperature, entropy=True, entropy_gradient=gradient))
    return torch.cat([chunk[0] for chunk in chunks]), torch.cat([chunk[1] for chunk in chunks])


def _score_chunks(
    model: PreTrainedModel,
    hidden: torch.Tensor,
    targets: torch.Tensor,
    temperature: float,
    *,
    entropy: bool,
    entropy_gradient: bool = False,
) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Yield (log-probabilities, entropies) of `head.ROWS` positions at a time; logits are recomputed backwards."""

    def score(rows: torch.Tensor, wanted: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        scaled = logits(model, rows)
        if temperature != 1.0:
            scaled = scaled / temperature
        normaliser = scaled.logsumexp(dim=1)
        chosen = scaled.gather(1, wanted[:, None]).squeeze(1) - normaliser
        if not entropy:
            return chosen, chosen.new_empty(0)
        with torch.set_grad_enabled(entropy_gradient and torch.is_grad_enabled()):  # H = log Z - sum_v p_v z_v
            return chosen, normaliser - (torch.softmax(scaled, dim=1) * scaled).sum(dim=1)

    for rows, wanted in zip(torch.split(hidden, head.ROWS), torch.split(targets, head.ROWS), strict=True):
        yield recompute(score, rows, wanted, use_reentrant=False) if rows.requires_grad else score(rows, wanted)
