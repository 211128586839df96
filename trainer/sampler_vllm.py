"""Sampling with vLLM instead of our own loop: an optional extra, `pip install plackett[vllm]`.

vLLM runs in this process beside the trainer. Weights reach it as a folder of safetensors that it reads again in place
(`reload_weights`); its cache of prompts is emptied then. Its own batching decides the order of additions, so runs with
it repeat only roughly, and its log-probabilities are not the trainer's to the last digit: tokens are weighed for that.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import modeling
from trainer.config import ConfigError, RolloutOptions, RunConfig
from trainer.device import Device
from trainer.records import DivergedError
from trainer.rollout import Answer, copy_weights

MEMORY_SHARE = 0.3  # of the GPU, for vLLM's weights and cache; the trainer needs the rest


class VllmSampler:
    """A `sampler.Sampler` around `vllm.LLM`."""

    def __init__(
        self,
        folder: Path,
        config: RunConfig,
        tokenizer: PreTrainedTokenizerBase,
        ends: Sequence[int],
        device: Device,
    ) -> None:
        """Start the engine on the starting model; `folder` is where weights are handed over."""
        try:
            import vllm  # not there unless it was asked for
        except ImportError as error:
            raise ConfigError(
                "options.sampler is vllm, but vLLM is not installed; install the extra vllm of plackett, "
                "or set options.sampler to transformers."
            ) from error
        self._folder, self._ends, self._seed, self._version = folder, set(ends), config.seed, 0
        self._tokenizer = tokenizer
        self._copy = modeling.load_policy(config.model, device.dtype, torch.device("cpu"))
        sampling = cast("RolloutOptions", config.options).sampling
        self._parameters: dict[str, Any] = {
            "temperature": sampling.temperature,
            "top_p": 1.0,
            "max_tokens": sampling.max_new_tokens,
            "stop_token_ids": sorted(ends),
            "logprobs": 0,  # of the token drawn, and no other
            "detokenize": False,
        }
        self._new_parameters: Any = vllm.SamplingParams
        self._engine: Any = vllm.LLM(
            model=config.model,
            dtype=str(device.dtype).removeprefix("torch."),
            max_model_len=config.max_length,
            seed=config.seed,
            gpu_memory_utilization=MEMORY_SHARE,
            logprobs_mode="processed_logprobs",  # after the temperature, as the trainer computes them
            generation_config="vllm",  # no sampling defaults of the model
            trust_remote_code=False,
        )

    def load(self, policy: PreTrainedModel, version: int) -> None:
        """Write the merged weights and have the engine read them in place."""
        copy_weights(policy, self._copy)
        self._copy.save_pretrained(self._folder)
        self._tokenizer.save_pretrained(self._folder)
        self._engine.collective_rpc("reload_weights", kwargs={"weights_path": str(self._folder)})
        self._engine.reset_prefix_cache()
        self._version = version

    def answer(self, prompts: Sequence[list[int]], names: Sequence[str]) -> list[Answer]:
        """Return an answer to each prompt; each has a seed from its name."""
        requests = [{"prompt_token_ids": ids} for ids in prompts]
        parameters = [self._new_parameters(**self._parameters, seed=self._seed_of(name)) for name in names]
        outputs = self._engine.generate(requests, parameters, use_tqdm=False)
        return [self._read(output.outputs[0]) for output in outputs]

    def counters(self) -> dict[str, int]:
        """Return nothing: the engine makes its own batches."""
        return {}

    def resume(self, counters: Mapping[str, Any]) -> None:
        """Take nothing."""

    def _seed_of(self, name: str) -> int:
        return int.from_bytes(hashlib.sha256(f"{self._seed}/{name}".encode()).digest()[:4], "big")

    def _read(self, found: Any) -> Answer:
        ids = list(found.token_ids)
        if (found.finish_reason == "stop") != (ids[-1] in self._ends):
            raise DivergedError(
                "vLLM ended an answer without its end token, or went on behind one: what it samples is not what would "
                "be trained."
            )
        logps = [float(step[token].logprob) for token, step in zip(ids, found.logprobs, strict=True)]
        # The entropy is on average what the sampled tokens' log-probabilities say; vLLM gives no better.
        return Answer(
            ids, "stop" if found.finish_reason == "stop" else "length", logps, -sum(logps) / len(logps), self._version
        )
