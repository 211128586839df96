"""Who draws the answers of PPO and RLOO: few methods, so that another engine can take the place of our own sampler.

Every answer carries the number of the weights that it was drawn with. Training refuses answers whose weights are older
than the last but one, and weighs tokens where the sampler's log-probabilities are not the trainer's
(`losses.importance_weights`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, cast

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from trainer import modeling, rollout
from trainer.config import ConfigError, RolloutOptions, RunConfig, Sampling
from trainer.device import Device
from trainer.records import DivergedError

MOST_BEHIND = 1


class Sampler(Protocol):
    """Answers prompts from softmax(logits / temperature) over all tokens, and says how likely each token was."""

    def load(self, policy: PreTrainedModel, version: int) -> None:
        """Answer with the present weights of `policy` from now on; they are number `version`."""

    def answer(self, prompts: Sequence[list[int]], names: Sequence[str]) -> list[rollout.Answer]:
        """Return one answer to each prompt (token ids); the same names give the same answers as far as possible."""

    def counters(self) -> dict[str, int]:
        """Return what a checkpoint must keep, so that a resumed run samples as the run before did."""

    def resume(self, counters: Mapping[str, Any]) -> None:
        """Take what a checkpoint kept."""


class TransformersSampler:
    """Our own loop over a key-value cache (`rollout`), in this process."""

    def __init__(self, copy: PreTrainedModel | None, ends: Sequence[int], sampling: Sampling, seed: int) -> None:
        """Sample from `copy`, a plain model that takes the policy's weights, or without one from the policy itself."""
        self._copy, self._ends, self._sampling, self._seed = copy, ends, sampling, seed
        self._room = rollout.Room(sampling.batch_size)
        self._model: PreTrainedModel | None = copy
        self._version = 0

    def load(self, policy: PreTrainedModel, version: int) -> None:
        """Take the weights."""
        if self._copy is None:
            self._model = policy
        else:
            rollout.copy_weights(policy, self._copy)
        self._version = version

    def answer(self, prompts: Sequence[list[int]], names: Sequence[str]) -> list[rollout.Answer]:
        """Return an answer to each prompt, the same for the same weights, seed and name."""
        noise = rollout.noise(self._seed, names, self._sampling.max_new_tokens)
        answers = rollout.sample(self._model, prompts, self._sampling, self._ends, noise, self._room)
        return [answer._replace(version=self._version) for answer in answers]

    def counters(self) -> dict[str, int]:
        """Return how many answers memory has left room for at once."""
        return {"answers_at_once": self._room.answers}

    def resume(self, counters: Mapping[str, Any]) -> None:
        """Take as many at once as the run before did."""
        self._room.answers = int(counters.get("answers_at_once", self._room.answers))


def load_sampler(
    run_dir: Path, config: RunConfig, policy: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, device: Device
) -> Sampler:
    """Return the sampler that the options ask for.

    On the CPU a policy that is plain, whole and in the run's precision is sampled from as it is. Else a merged copy in
    that precision spares each of the many small steps of sampling the adapters, the casts, an attention made for trees,
    and the gathering of weights.
    """
    options = cast("RolloutOptions", config.options)
    ends = rollout.end_ids(policy, tokenizer)
    if options.sampler == "vllm":
        if device.team.size > 1:
            raise ConfigError(
                "options.sampler vllm takes a GPU for itself and does not go with several processes yet; "
                "use transformers, or one process."
            )
        from trainer.sampler_vllm import VllmSampler  # an optional extra, which few runs ask for

        return VllmSampler(run_dir / "sampler", config, tokenizer, ends, device)
    plain = config.lora is None and policy.dtype == device.dtype and device.device.type == "cpu" and not config.shard
    copy = None if plain else modeling.load_policy(config.model, device.dtype, device.device)
    return TransformersSampler(copy, ends, options.sampling, config.seed)


def check_versions(answers: Sequence[rollout.Answer], version: int) -> int:
    """Return how many answers are of older weights than `version`; refuse weights too old to learn from.

    Raises `DivergedError`: an engine that does not take the weights it is given would be trained on its own past.
    """
    for answer in answers:
        if not version - MOST_BEHIND <= answer.version <= version:
            raise DivergedError(
                f"The sampler answered with weights number {answer.version} where number {version} was given to it: "
                "it does not take the weights it is given."
            )
    return sum(answer.version != version for answer in answers)
