"""Our losses and gradients beside those of TRL's own trainers, on one tiny batch (`bench.parity` and its likes)."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from bench import parity, parity_groups, parity_ppo


@pytest.mark.filterwarnings("ignore::FutureWarning")  # TRL and transformers use what transformers has deprecated
@pytest.mark.parametrize(
    "method",
    [
        parity.supervised,
        parity.rewards,
        parity.preferences,
        parity.flags,
        parity_groups.leave_one_out,
        parity_groups.grpo,
    ],
)
def test_losses_and_gradients_are_those_of_trl(method: Callable[[], list[parity.Row]]) -> None:
    rows = method()
    assert rows
    assert [row for row in rows if not row.gap <= parity.TOLERANCE] == []


def test_an_iteration_of_ppo_is_what_trl_said_of_it() -> None:
    rows = parity_ppo.rows(json.loads(parity_ppo.KEPT.read_text(encoding="utf-8")))
    assert len(rows) == len(parity_ppo.TOLD)
    # Kept on another machine, whose random weights may differ by rounding.
    assert [row for row in rows if not row.gap <= 1e-3] == []
