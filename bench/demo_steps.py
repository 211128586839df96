"""What trees save the demo: its own training runs again, as they are and with each answer behind a prompt of its own.

It needs what `make demo` leaves in its data folder. Each of the demo's runs of SFT, reward model, DPO and PPO is made
again from its data, model and options, both ways in turns, every time in a process of its own; what counts are the CPU
seconds of whole commands.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich.console import Console
from rich.table import Table

from app.settings import get_settings

METHODS = ("sft", "reward", "dpo", "ppo")
ROUNDS = 1


def main() -> None:
    """Run each of the demo's trainings in turns and print a table."""
    folder = get_settings().var / "demo"
    found = sorted(folder.glob("runs/*/run.json"))
    runs = {json.loads(path.read_text(encoding="utf-8"))["method"]: path.parent for path in found}
    if not runs.keys() >= set(METHODS):
        print(f"demo-steps: skipped, {folder} has no whole demo; run make demo", file=sys.stderr)
        return
    table = Table("run", "CPU seconds as trees", "as rows", "rows over trees", "what the reports say: trees, rows")
    for method in METHODS:
        laps: dict[str, list[dict[str, Any]]] = {"trees": [], "rows": []}
        for _ in range(ROUNDS):
            for form, told in laps.items():
                told.append(again(runs[method], method, form))
                print(method, form, told[-1], file=sys.stderr, flush=True)
        trees, rows = (min(lap["cpu"] for lap in told) for told in laps.values())
        said = " / ".join(str(told[0]["headline"]) for told in laps.values())
        table.add_row(method, f"{trees:.1f}", f"{rows:.1f}", f"{rows / trees:.2f}", said)
    Console(width=160).print(table)


def again(run_dir: Path, method: str, form: str) -> dict[str, Any]:
    """Run a training again in a folder of its own and return its CPU seconds and what it says of held-out data."""
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "run"
        copy.mkdir()
        shutil.copy(run_dir / "run.json", copy)
        shutil.copytree(run_dir / "data", copy / "data")
        command = [sys.executable, "-W", "ignore", "-m", "bench.demo_steps", method, form, str(copy)]
        told = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        found: dict[str, Any] = json.loads(told.splitlines()[-1])
        return found


def child(method: str, form: str, run_dir: str) -> None:
    """Run in this process and print what it took, as JSON."""
    from trainer import __main__ as trainer
    from trainer import layout, modeling, reward_model

    def rows(*arguments: Any) -> layout.Layout:
        return replace(layout.choose(*arguments), form="rows")

    choose = rows if form == "rows" else layout.choose
    with patch.object(modeling, "choose", choose), patch.object(reward_model, "choose", choose):
        if trainer.main([method, "--run", run_dir]):
            sys.exit("the run failed")
    summary = json.loads((Path(run_dir) / "report.json").read_text(encoding="utf-8"))["summary"]
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(json.dumps({"cpu": round(used.ru_utime + used.ru_stime, 1), "headline": summary["headline"]}))


if __name__ == "__main__":
    child(*sys.argv[1:])
