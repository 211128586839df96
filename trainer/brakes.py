"""What holds a run of PPO or RLOO back when its policy runs away: KL checks, the best weights, and the way back."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from trainer.config import RolloutOptions
from trainer.records import DivergedError

NEGATIVE_KL_PATIENCE = 3
NEGATIVE_KL_NATS = 0.1  # a sequence; below it rounding may do as much
MOST_ROLL_BACKS = 3


class Weights(nn.Module):
    """A copy of what modules train, which a checkpoint keeps as if it were a module of its own."""

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        super().__init__()
        self.kept = nn.ParameterList([parameter.detach().clone() for parameter in trainable(modules)])

    @torch.no_grad()
    def take(self, modules: Mapping[str, nn.Module]) -> None:
        """Copy the modules' present weights."""
        for kept, parameter in zip(self.kept, trainable(modules), strict=True):
            kept.copy_(parameter)

    @torch.no_grad()
    def give(self, modules: Mapping[str, nn.Module]) -> None:
        """Put the copied weights into the modules."""
        for kept, parameter in zip(self.kept, trainable(modules), strict=True):
            parameter.copy_(kept)


def trainable(modules: Mapping[str, nn.Module]) -> list[nn.Parameter]:
    """Return what modules train, in a fixed order."""
    return [parameter for module in modules.values() for parameter in module.parameters() if parameter.requires_grad]


class Brakes:
    """Watches the KL to the starting model and keeps the best weights, where options ask for them.

    What it says depends on the metrics alone, and all it knows is in `counters` and `modules`; so a resumed run brakes
    where the uninterrupted one does.
    """

    def __init__(self, options: RolloutOptions, trained: Mapping[str, nn.Module]) -> None:
        self._options, self._trained = options, trained
        wanted = options.kl_limit is not None or options.keep == "best"
        self._best = Weights(trained) if wanted else None
        self._score = -float("inf")
        self.best_iteration = 0
        self.roll_backs = 0
        self._negative = 0

    @property
    def spent(self) -> bool:
        """Whether the run has gone back so often that it ends."""
        return self.roll_backs >= MOST_ROLL_BACKS

    def modules(self) -> dict[str, nn.Module]:
        """Return what a checkpoint keeps beside what is trained."""
        return {} if self._best is None else {"best": self._best}

    def counters(self) -> dict[str, Any]:
        """Return what a checkpoint keeps as JSON."""
        return {
            "best_score": self._score if self.best_iteration else None,
            "best_iteration": self.best_iteration,
            "roll_backs": self.roll_backs,
            "negative_kl_iterations": self._negative,
        }

    def resume(self, counters: Mapping[str, Any]) -> None:
        """Take what a checkpoint kept."""
        self.best_iteration = int(counters.get("best_iteration", 0))
        self._score = float(counters["best_score"]) if self.best_iteration else -float("inf")
        self.roll_backs = int(counters.get("roll_backs", 0))
        self._negative = int(counters.get("negative_kl_iterations", 0))

    def check_sign(self, kl: float, standard_error: float) -> None:
        """Refuse a KL (nats a sequence) that is clearly below 0 again and again.

        Of samples from the policy the mean log-ratio may be negative on a batch by chance, but not on three running.
        """
        self._negative = self._negative + 1 if kl < -max(2 * standard_error, NEGATIVE_KL_NATS) else 0
        if self._negative >= NEGATIVE_KL_PATIENCE:
            raise DivergedError(
                f"The KL to the starting model is negative: {kl:.3f} nats, below 0 for {self._negative} iterations "
                "running. So the answers do not come from the policy that is trained; check the sampler, its "
                "temperature and the precision."
            )

    def keep_best(self, iteration: int, reward: float, kl: float) -> None:
        """Keep the present weights if the answers of this iteration, theirs, have the best reward less KL penalty."""
        score = reward - self._options.kl_coefficient * kl
        if self._best is not None and score > self._score and not self.too_far(kl):
            self._score, self.best_iteration = score, iteration
            self._best.take(self._trained)

    def too_far(self, kl: float) -> bool:
        """Whether the policy has left the reach of `kl_limit`."""
        return self._options.kl_limit is not None and kl > self._options.kl_limit

    def roll_back(self, optimizers: Mapping[str, torch.optim.Optimizer]) -> None:
        """Go back to the best weights, and forget the moments of the way that led astray."""
        self.roll_backs += 1
        self.restore()
        for optimizer in optimizers.values():
            optimizer.state.clear()

    def restore(self) -> None:
        """Put the best weights into what is trained."""
        if self._best is not None:
            self._best.give(self._trained)
