"""Checkpoints that are complete or absent, and the exact resume from them. Safetensors and JSON only.

    checkpoints/step_000200/   weights.safetensors    the trainable weights alone; a frozen base is where it was
                               optimizer.safetensors
                               rng.safetensors        torch, CUDA, NumPy
                               state.json             step, counters, Python's generator, hashes of inputs and models
                               manifest.json          sha256 of each file, written last
    final/                     a whole model for plain transformers, template.json (the chat template's hash), the card,
                               and manifest.json

A folder is written aside, flushed to the disk and renamed; `manifest.verify_manifest` checks either kind. Where the
writing fails, as on a full disk, nothing of it stays.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from trainer import modeling, shards
from trainer.config import ConfigError, RolloutOptions, RunConfig, load_run
from trainer.jsonl import RecordError
from trainer.manifest import MANIFEST_SCHEMA, file_sha256, verify_manifest
from trainer.parallel import ALONE, Team

KEEP = 2

Modules = Mapping[str, nn.Module]
Optimizers = Mapping[str, torch.optim.Optimizer]


def save(
    run_dir: Path,
    step: int,
    modules: Modules,
    optimizers: Optimizers,
    counters: Mapping[str, Any] | None = None,
    team: Team = ALONE,
) -> Path:
    """Write the checkpoint of `step` (steps done) and keep the last two; return its folder.

    `modules` and `optimizers` are named by the caller; of the modules only what is trainable is kept. `counters` is
    any JSON object: what the loop must know to go on that does not follow from the step. Of several processes all call
    this: the first one writes, and is given whatever is spread over them.
    """
    folder = run_dir / "checkpoints" / f"step_{step:06d}"
    weights, moments = (
        partial(shards.gather, tensors, keep=team.leads)
        for tensors in (_trainable(modules), _optimizer_tensors(optimizers))
    )
    if not team.leads:
        weights(), moments()
        return folder

    def fill(aside: Path) -> None:
        save_file(weights(), aside / "weights.safetensors")
        save_file(moments(), aside / "optimizer.safetensors")
        save_file(_rng_tensors(), aside / "rng.safetensors")
        version, internal, gauss = random.getstate()
        state = {
            "step": step,
            "counters": dict(counters or {}),
            "python_rng": [version, list(internal), gauss],
            "inputs": _inputs(run_dir),
            "models": _models(run_dir),
        }
        (aside / "state.json").write_text(json.dumps(state) + "\n", encoding="utf-8")

    _write_folder(folder, fill, step=step)
    for old in sorted(folder.parent.glob("step_*"))[:-KEEP]:
        shutil.rmtree(old)
    return folder


def latest(run_dir: Path) -> Path | None:
    """Return the newest checkpoint whose hashes are right; say on stderr which newer ones were passed over."""
    for folder in sorted((run_dir / "checkpoints").glob("step_*"), reverse=True):
        try:
            verify_manifest(folder)
        except RecordError as error:
            print(f"Checkpoint {folder.name} is damaged and is passed over: {error}", file=sys.stderr)
        else:
            return folder
    return None


def resume(run_dir: Path, modules: Modules, optimizers: Optimizers, team: Team = ALONE) -> tuple[int, dict[str, Any]]:
    """Let every process begin where an earlier attempt left the run, and with the weights of the first one.

    See `load`. A checkpoint knows nothing of how many processes wrote it: any number can go on from it.
    """
    _models.cache_clear()
    models = team.agree(_models(run_dir) if team.leads else [])
    done, counters = team.in_turn(lambda: load(run_dir, modules, optimizers, models))
    team.follow(_trainable(modules).values())
    return done, counters


def load(run_dir: Path, modules: Modules, optimizers: Optimizers, models: Sequence[str]) -> tuple[int, dict[str, Any]]:
    """Load the newest good checkpoint into `modules`, `optimizers` and the random generators; (0, {}) without one.

    Returns (steps done, counters) and cuts `metrics.jsonl` back to those steps, so that it ends as an uninterrupted
    run's would. Raises `ConfigError` when run.json, the data or a model changed since the checkpoint was written;
    `models` are the fingerprints of the models as they are.
    """
    folder = latest(run_dir)
    if folder is None:
        cut_metrics(run_dir, 0)
        return 0, {}
    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    if state["inputs"] != _inputs(run_dir):
        raise ConfigError(
            f"{run_dir} has checkpoints of another configuration or other data; "
            "use a new run directory, or delete its checkpoints to start again."
        )
    # A checkpoint from before they were kept says nothing of the models.
    changed = [
        name
        for name, then, now in zip(_model_names(run_dir), state.get("models", models), models, strict=True)
        if then != now
    ]
    if changed:
        raise ConfigError(
            f"{' and '.join(changed)} changed since {run_dir} wrote its checkpoints; bring back what was there, "
            "use a new run directory, or delete its checkpoints to start again."
        )
    _load_trainable(folder / "weights.safetensors", modules)
    _load_optimizers(folder / "optimizer.safetensors", optimizers)
    _set_rng(folder / "rng.safetensors", state["python_rng"])
    cut_metrics(run_dir, state["step"])
    return int(state["step"]), dict(state["counters"])


def write_final(run_dir: Path, fill: Callable[[Path], None], card: str) -> Path:
    """Make `final/` from what `fill` writes into the folder it is given, and the model's card.

    It replaces one that an earlier attempt has left.
    """

    def fill_with_card(aside: Path) -> None:
        fill(aside)
        (aside / "README.md").write_text(card, encoding="utf-8")

    folder = run_dir / "final"
    _write_folder(folder, fill_with_card)
    return folder


def _write_folder(folder: Path, fill: Callable[[Path], None], **facts: Any) -> None:
    aside = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        _write_aside(aside, fill, facts)
    except BaseException:
        shutil.rmtree(aside, ignore_errors=True)  # on a full disk its bytes are wanted
        raise
    if folder.exists():
        shutil.rmtree(folder)
    aside.rename(folder)
    _flush(folder.parent)


def _write_aside(aside: Path, fill: Callable[[Path], None], facts: Mapping[str, Any]) -> None:
    fill(aside)
    files = {
        str(path.relative_to(aside)): {"sha256": file_sha256(path), "bytes": path.stat().st_size}
        for path in sorted(aside.rglob("*"))
        if path.is_file()
    }
    manifest = {"schema": MANIFEST_SCHEMA, "files": files, **facts}
    (aside / "manifest.json").write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    for path in [*(aside / name for name in files), aside / "manifest.json", aside]:
        _flush(path)


def _flush(path: Path) -> None:
    """Ask the system to put a file or a folder's entries on the disk, so that a rename never outruns its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _inputs(run_dir: Path) -> dict[str, str]:
    paths = (run_dir / RunConfig.FILE, run_dir / "data" / "manifest.json")
    return {path.name: file_sha256(path) for path in paths if path.exists()}


@lru_cache(maxsize=1)
def _models(run_dir: Path) -> list[str]:
    """Return the fingerprints of the models that a run reads: as they were when the attempt began.

    They are taken once, for there may be gigabytes, and what a checkpoint comes from is what was loaded then.
    """
    return [modeling.fingerprint(name) for name in _model_names(run_dir)]


def _model_names(run_dir: Path) -> list[str]:
    config = load_run(run_dir)
    options = config.options
    judges = [options.reward_model, *options.more_reward_models] if isinstance(options, RolloutOptions) else []
    return [config.model, *judges]


def _trainable(modules: Modules) -> dict[str, torch.Tensor]:
    return {
        f"{name}/{key}": parameter.detach().contiguous()
        for name, module in modules.items()
        for key, parameter in module.named_parameters()
        if parameter.requires_grad
    }


def _load_trainable(path: Path, modules: Modules) -> None:
    targets = _trainable(modules)
    with safe_open(path, framework="pt") as file:
        if set(file.keys()) != set(targets):
            raise ConfigError(
                f"{path} holds other weights than this run trains; delete its checkpoints to start again."
            )
        for key, target in targets.items():
            target.copy_(shards.read(file, key, target))


def _optimizer_tensors(optimizers: Optimizers) -> dict[str, torch.Tensor]:
    """Return the state of every parameter under `name/index/key`, the index as in `state_dict`."""
    return {
        f"{name}/{index}/{key}": torch.as_tensor(value).contiguous()
        for name, optimizer in optimizers.items()
        for index, values in optimizer.state_dict()["state"].items()
        for key, value in values.items()
    }


def _load_optimizers(path: Path, optimizers: Optimizers) -> None:
    states: dict[str, dict[int, dict[str, torch.Tensor]]] = {name: {} for name in optimizers}
    parameters = {name: [p for group in one.param_groups for p in group["params"]] for name, one in optimizers.items()}
    with safe_open(path, framework="pt") as file:
        for entry in file.keys():  # noqa: SIM118 # a safetensors file is no mapping
            name, index, key = entry.split("/")
            state = states[name].setdefault(int(index), {})
            state[key] = shards.read(file, entry, parameters[name][int(index)])
    for name, optimizer in optimizers.items():
        groups = optimizer.state_dict()["param_groups"]
        optimizer.load_state_dict({"state": states[name], "param_groups": groups})


def _rng_tensors() -> dict[str, torch.Tensor]:
    _, keys, position, has_gauss, gauss = np.random.get_state()  # the generator `device.setup` seeded
    tensors = {
        "torch": torch.get_rng_state(),
        "numpy_keys": torch.from_numpy(np.asarray(keys).astype(np.int64)),
        "numpy_rest": torch.tensor([position, has_gauss, gauss], dtype=torch.float64),
    }
    if torch.cuda.is_available():
        tensors["cuda"] = torch.cuda.get_rng_state()  # this process's own device
    return tensors


def _set_rng(path: Path, python_rng: list[Any]) -> None:
    random.setstate((python_rng[0], tuple(python_rng[1]), python_rng[2]))
    with safe_open(path, framework="pt") as file:
        torch.set_rng_state(file.get_tensor("torch"))
        position, has_gauss, gauss = file.get_tensor("numpy_rest").tolist()
        keys = file.get_tensor("numpy_keys").numpy().astype(np.uint32)
        np.random.set_state(("MT19937", keys, int(position), int(has_gauss), gauss))  # as above
        if torch.cuda.is_available() and "cuda" in file.keys():  # noqa: SIM118 # a safetensors file is no mapping
            torch.cuda.set_rng_state(file.get_tensor("cuda"))


def cut_metrics(run_dir: Path, step: int) -> None:
    """Drop the metrics of later steps, and a last line that a crash cut short."""
    path = run_dir / "metrics.jsonl"
    if not path.exists():
        return
    kept = []
    for line in path.read_text(encoding="utf-8").splitlines(keepends=True):
        if not line.endswith("\n") or json.loads(line)["step"] > step:
            break
        kept.append(line)
    aside = path.with_suffix(".partial")
    aside.write_text("".join(kept), encoding="utf-8")
    aside.replace(path)
