"""The recipe of docs/cookbook.md, run as it stands, and TRL's other trainers on the exports that are meant for them.

Each runs in a process of its own, as a user would run it: what TRL warns of is not ours.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from run_builders import demonstrate, make_project, make_prompts, make_task, make_user, rank
from test_client import address
from tiny_model import write_tiny_policy

from app.client import Client
from app.db import transaction
from app.services.accounts import tokens

__all__ = ["address"]

PAGE = Path(__file__).parents[2] / "docs" / "cookbook.md"
LEARNERS = {
    "trl": "DPOTrainer",
    "trl-implicit": "RewardTrainer",
    "trl-text": "DPOTrainer",
    "hh": "RewardTrainer",
    "trl-unpaired": "KTOTrainer",
    "trl-sft": "SFTTrainer",
}
"""The trainer of TRL that takes each format."""

CHILD = """
import json, math, sys
import datasets, trl

model, learners = sys.argv[1], json.loads(sys.argv[2])
for name, learner in learners.items():
    rows = datasets.load_dataset("json", data_files=f"{name}.jsonl", split="train")
    config = getattr(trl, learner.replace("Trainer", "Config"))(
        output_dir=name, max_steps=1, per_device_train_batch_size=2, report_to=[], use_cpu=True, logging_steps=1,
        save_strategy="no",
    )
    trainer = getattr(trl, learner)(model=model, args=config, train_dataset=rows)
    assert math.isfinite(trainer.train().training_loss)
    print(json.dumps([name, trainer.state.global_step, rows.num_rows]))
"""


@pytest.fixture
def token(database: str) -> str:
    with transaction() as session:
        admin = make_user(session)
        project = make_project(session, admin, held_out_fraction=0)
        ada = make_user(session, "ada@example.org", "labeler")
        for number, prompt in enumerate(make_prompts(session, project, [f"{n}?" for n in range(6)])):
            task = make_task(session, prompt, ["yes", "no", "perhaps"])
            rank(session, task, ada, [[number % 3], [(number + 1) % 3, (number + 2) % 3]], strengths=[2], acceptable=1)
            demonstrate(session, prompt, ada, "Yes, gladly.")
        return tokens.create(session, admin, name="t", scopes=["export:read"], project_id=None, days=1)[1]


def ran(code: str, folder: Path, *arguments: str, **environment: str) -> str:
    offline = {"HF_HUB_OFFLINE": "1", "HF_HOME": str(folder / "cache"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], cwd=folder, capture_output=True, text=True, check=False,
        env=os.environ | offline | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_ten_lines_lead_from_rankings_to_a_run(address: str, token: str, tmp_path: Path) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.split("\n")) <= 12
    with Client(address, token) as client:
        project = client.projects()[0]["id"]
    ran(code, tmp_path, PLACKETT_URL=address, PLACKETT_TOKEN=token, PLACKETT_PROJECT=project,
        MODEL=write_tiny_policy(tmp_path / "model"))  # fmt: skip
    assert (tmp_path / "dpo" / "checkpoint-1" / "model.safetensors").exists()


def test_trl_trains_on_each_export_as_it_is(address: str, token: str, tmp_path: Path) -> None:
    with Client(address, token) as client:
        project = client.projects()[0]["id"]
        for name in LEARNERS:
            client.save(tmp_path / f"{name}.jsonl", project, name)
    model = write_tiny_policy(tmp_path / "model")
    said = ran(CHILD, tmp_path, model, json.dumps(LEARNERS)).splitlines()
    found = [json.loads(line) for line in said if line.startswith("[")]
    rows = {name: 18 if name == "trl-unpaired" else 6 if name == "trl-sft" else 12 for name in LEARNERS}
    assert found == [[name, 1, rows[name]] for name in LEARNERS]
