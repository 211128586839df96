"""The trainer's command. A bad configuration or bad data is refused before anything heavy is imported.

    python -m trainer {sft,reward,dpo,kto,ppo,rloo,evaluate,sample,score,revise,feedback} --run DIR

Exit codes: 0 done · 2 bad configuration or data, one sentence on stderr · 3 stopped on request, checkpoint saved ·
4 the run found itself wrong, as by a loss that is not finite · 5 the disk is full, make room and run the same command
again · others: a crash; run the same command again. Either way it goes on from the last checkpoint.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from trainer.allocator import keep_freed
from trainer.config import METHODS, SPLITTABLE, ConfigError, RunConfig, load_run
from trainer.jsonl import RecordError
from trainer.manifest import verify_manifest
from trainer.records import EXIT_BAD_INPUT, EXIT_DIVERGED, EXIT_NO_SPACE, DivergedError
from trainer.space import is_full
from trainer.stop import StopSignal


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one method on one run directory and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m trainer", description="Train, judge or sample from a model.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--run", required=True, type=Path, metavar="DIR", help="the run directory, with run.json in it")
    options = parser.parse_args(arguments)
    run_dir: Path = options.run
    try:
        config = _check(run_dir, options.method)
        # Idle OpenMP threads spin by default. Beside any other busy process (a database, a web server) that burnt three
        # times the CPU time and made steps up to six times slower; asleep they cost nothing measurable. Read by libgomp
        # when torch is first imported, so it is set before.
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
        keep_freed()
        with StopSignal() as stop:
            method = importlib.import_module(f"trainer.{config.method}")
            code: int = method.run(run_dir, config, stop)
            if processes() > 1:
                importlib.import_module("trainer.parallel").leave()
            return code
    except (ConfigError, RecordError) as error:
        print(error, file=sys.stderr)
        return EXIT_BAD_INPUT
    except DivergedError as error:
        print(error, file=sys.stderr)
        return EXIT_DIVERGED
    except Exception as error:
        if not is_full(error):
            raise
        with contextlib.suppress(OSError):  # stderr may be a file on that disk
            print(
                f"The disk is full, so {run_dir} cannot be written to: make room and run the same command again; "
                "it goes on from the last checkpoint.",
                file=sys.stderr,
                flush=True,
            )
        return EXIT_NO_SPACE


def processes() -> int:
    """Return how many processes share this training."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def _check(run_dir: Path, method: str) -> RunConfig:
    config = load_run(run_dir)
    if processes() > 1 and method not in SPLITTABLE:
        raise ConfigError(
            f"{method} runs in one process; only {', '.join(SPLITTABLE)} can share its work among several."
        )
    if config.shard and processes() == 1:
        raise ConfigError(
            "optim.shard spreads a model over the processes of several GPUs, and this run has one; start it with "
            "python -m trainer.spawn and their number, or set optim.shard to false."
        )
    if config.method != method:
        raise ConfigError(f"{run_dir / config.FILE} asks for {config.method}, not for {method}.")
    verify_manifest(run_dir / "data")
    return config


if __name__ == "__main__":
    sys.exit(main())
