"""The course of a PPO or RLOO run: what it carries from one iteration to the next, tells of each, and saves.

That are the optimisers, the KL coefficient and the brakes. All else of an iteration follows from its number.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import cast

from torch import nn
from transformers import PreTrainedTokenizerBase

from trainer import checkpoint, losses, model_card, modeling, optim, report, rollout_log
from trainer.brakes import Brakes
from trainer.config import RolloutOptions, RunConfig
from trainer.episodes import Actor, Episodes, Measures
from trainer.flops import Work
from trainer.layout import Layout
from trainer.metrics import MetricsFile
from trainer.parallel import NoMetrics
from trainer.sampler import Sampler
from trainer.stop import StopSignal

Figures = dict[str, float | str]


class Clock:
    """The moments at which the parts of one iteration began and ended."""

    def __init__(self) -> None:
        self._moments = [time.perf_counter()]

    def lap(self) -> None:
        """A part ends here, and the next one begins."""
        self._moments.append(time.perf_counter())

    @property
    def total(self) -> float:
        """Seconds from the first moment to the last."""
        return self._moments[-1] - self._moments[0]

    def seconds(self) -> list[float]:
        """Return how long each part took."""
        return [round(after - before, 3) for before, after in itertools.pairwise(self._moments)]


class Course:
    """The state of a run between two iterations; made where an earlier attempt left it."""

    def __init__(
        self, run_dir: Path, config: RunConfig, actor: Actor, answerer: Sampler, layout: Layout, work: Work
    ) -> None:
        self._run_dir, self._config, self._actor, self._layout = run_dir, config, actor, layout
        self._answerer, self._work = answerer, work
        self._options = cast("RolloutOptions", config.options)
        self.optimizers = {
            name: optim.build(m.parameters(), self._options.optim) for name, m in actor.modules().items()
        }
        self._brakes = Brakes(self._options, actor.modules())
        self._done, counters = checkpoint.resume(run_dir, self._modules(), self.optimizers, layout.device.team)
        layout.resume(counters, run_dir)
        answerer.resume(counters)
        self._brakes.resume(counters)
        self.kl_coefficient = float(counters.get("kl_coefficient", self._options.kl_coefficient))
        self._spent = self.kl_coefficient  # in the present iteration
        self._told: Mapping[str, float] = {}
        if layout.device.team.leads:
            rollout_log.cut_texts(run_dir, self._done)

    def _modules(self) -> Mapping[str, nn.Module]:
        return self._actor.modules() | self._brakes.modules()

    def left(self) -> Iterator[int]:
        """Yield the numbers of the iterations to come, from 1; none after the brakes have ended the run."""
        for iteration in range(self._done + 1, self._options.iterations + 1):
            if self._brakes.spent:
                return
            yield iteration

    def update(self, iteration: int, told: Mapping[str, float], take_steps: Callable[[], Figures]) -> Figures:
        """Take the steps of an iteration, or go back where the policy has run away; return the figures of either."""
        self._told = told = self._layout.device.team.agree(told)
        self._brakes.check_sign(told["kl"], told["kl_standard_error"])
        self._brakes.keep_best(iteration, told["objective"], told["kl"])
        self._spent = self.kl_coefficient
        if not self._brakes.too_far(told["kl"]):
            return take_steps()
        self._brakes.roll_back(self.optimizers)
        self.kl_coefficient *= 2
        return {"event": "rolled back", "rolled_back_to": self._brakes.best_iteration}

    def close(
        self,
        metrics: MetricsFile | NoMetrics,
        stop: StopSignal,
        iteration: int,
        rolled: Episodes,
        measures: Measures,
        figures: Figures,
        clock: Clock,
        behind: int,
    ) -> bool:
        """Tell of an iteration, adapt the KL coefficient to its target, save where it is time; return whether to stop.

        `behind` is how many answers were drawn with older weights.
        """
        options = self._options
        rollout_seconds, estimate_seconds, update_seconds = clock.seconds()
        metrics.write(
            iteration,
            total_steps=options.iterations,
            episodes=iteration * options.optim.batch_size,
            **self._told,
            kl_coefficient=self._spent,
            **figures,
            answers_behind=behind,
            tokens_per_second=round(int(rolled.mask.sum()) / clock.total, 1),
            rollout_seconds=rollout_seconds,
            estimate_seconds=estimate_seconds,
            update_seconds=update_seconds,
            **self._layout.device.mfu(self._layout.take_load(), self._work, update_seconds),
            peak_memory_mb=self._layout.device.peak_memory_mb(),
        )
        team = self._layout.device.team
        if team.leads:
            rollout_log.write_texts(self._run_dir, rolled, measures, iteration)
        if options.kl_target is not None and "rolled_back_to" not in figures:
            self.kl_coefficient = losses.adapted_kl_coefficient(
                self.kl_coefficient, self._told["kl"], options.kl_target, options.optim.batch_size, options.kl_horizon
            )
        last = iteration == options.iterations or self._brakes.spent
        stops = team.any(stop.requested)
        if stops or last or iteration % self._config.checkpoint_steps == 0:
            state = {"kl_coefficient": self.kl_coefficient} | self._brakes.counters() | self._layout.counters()
            state |= self._answerer.counters()
            checkpoint.save(self._run_dir, iteration, self._modules(), self.optimizers, state, team)
        return stops

    def finish(self, tokenizer: PreTrainedTokenizerBase, more: Mapping[str, object]) -> None:
        """Save the policy, the last one or the best, and report, with what `more` there is to say."""
        if self._brakes.spent or self._options.keep == "best":
            self._brakes.restore()
        policy = modeling.assemble(self._actor.policy, self._config, self._layout.device)
        if not self._layout.device.team.leads:
            return
        summary = rollout_log.summarise(self._run_dir, self._options, self._brakes) | dict(more)
        checkpoint.write_final(
            self._run_dir,
            lambda folder: modeling.save_policy(policy, tokenizer, folder, self._layout.device.dtype),
            model_card.text(self._run_dir, self._config, summary),
        )
        report.write(self._run_dir, self._config, summary)
