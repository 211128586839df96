"""The race on a GPU, in its tiny form: both sides take the same steps, and no round begins too late."""

import time
from pathlib import Path

import pytest
import torch

from bench import gpu_race, ppo_sides, steps
from trainer.device import Device

CPU = Device(torch.device("cpu"), torch.float32)
SIZE = steps.TINY._replace(prompts=2)
PROMPT, ANSWER = SIZE.prompt, SIZE.answer


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL and transformers use what transformers has deprecated
@pytest.mark.parametrize(
    ("method", "ours", "theirs"),
    [
        ("sft", PROMPT + ANSWER, PROMPT + ANSWER),
        ("dpo", PROMPT + 2 * ANSWER, 2 * (PROMPT + ANSWER)),
        ("reward-4", PROMPT + 4 * ANSWER, 12 * (PROMPT + ANSWER)),
    ],
)
def test_both_sides_take_the_same_steps(method: str, ours: int, theirs: int, tmp_path: Path) -> None:
    mine, peer = (side() for side in gpu_race.pair(method, SIZE, CPU, 1, tmp_path))
    assert (mine.positions, peer.positions) == (ours * SIZE.prompts, theirs * SIZE.prompts)
    assert mine.loss == pytest.approx(peer.loss, rel=1e-4)
    assert mine.work > 0
    assert "losses" in gpu_race.row(method, [mine], [peer], CPU)


def test_our_side_takes_an_iteration_of_ppo(tmp_path: Path) -> None:
    case = gpu_race.ppo_case(SIZE, CPU)
    assert (case.episodes, case.episodes % case.forward) == (8, 0)
    ppo_sides.write_models(tmp_path, case)
    lap = gpu_race.ppo_lap(*ppo_sides.ours(tmp_path, case))
    tokens = SIZE.prompts * (PROMPT + 4 * ANSWER)  # of all answers, each prompt once
    assert 5 * tokens <= lap.positions <= 9 * tokens  # answering, judging, measuring both models, four epochs
    assert lap.work > 0


@pytest.mark.parametrize(("left", "laps"), [(60.0, 2), (-1.0, 0)])
def test_no_round_begins_after_the_time_is_spent(left: float, laps: int) -> None:
    lap = gpu_race.Lap(1.0, 1, 1.0)
    found = gpu_race.in_turns((lambda: lap, lambda: lap), 2, time.monotonic() + left, CPU)
    assert [len(side) for side in found] == [laps, laps]


def test_a_forward_of_trl_is_a_divisor_of_the_step() -> None:
    assert [gpu_race.largest_part(96, most) for most in (0, 1, 42, 500)] == [1, 1, 32, 96]
