"""What the report of a DPO run warns of: better and worse answers that became unlikely together."""

import json
import re
from pathlib import Path

import pytest
from builders import WORDS, MakeRun, ask, read_lines

from trainer import dpo
from trainer.__main__ import main
from trainer.metrics import MetricsFile
from trainer.records import EXIT_DONE, Comparison

WARNING = re.compile(
    r" Better and worse answers became unlikely together: (.*) their log-probabilities fell "
    r"from (\S+) to (\S+) and from (\S+) to (\S+) nats; options\.nll_weight counters that\.$"
)


def alike(train: int, held_out: int) -> list[Comparison]:
    """Return pairs of answers that differ in their last letter alone, so that what lowers one lowers both."""
    return [
        Comparison(
            f"c{i}",
            ask(f"is it {WORDS[i % 10]} {i}"),
            ("abcdabcd", "abcdabce"),
            ((0,), (1,)),
            labeler="labeler",
            split="train" if i < train else "held_out",
        )
        for i in range(train + held_out)
    ]


@pytest.mark.parametrize("held_out", [4, 0], ids=["on held-out pairs", "in the last steps"])
@pytest.mark.parametrize("nll_weight", [0.0, 1.0])
def test_a_run_says_that_both_answers_became_unlikely_and_with_their_likelihood_in_the_loss_they_do_not(
    make_run: MakeRun, held_out: int, nll_weight: float
) -> None:
    fast = {"learning_rate": 2e-2, "batch_size": 4, "epochs": 6.0, "schedule": "constant", "warmup_fraction": 0.0}
    run_dir = make_run("dpo", comparisons=alike(8, held_out), options={"nll_weight": nll_weight, "optim": fast})
    assert main(["dpo", "--run", str(run_dir)]) == EXIT_DONE

    rows = read_lines(run_dir / "metrics.jsonl")
    assert rows[0]["chosen_log_ratio"] == rows[0]["rejected_log_ratio"] == pytest.approx(0.0, abs=1e-4)
    headline = json.loads((run_dir / "report.json").read_text())["summary"]["headline"]
    warned = WARNING.search(headline)
    assert headline == (run_dir / "report.md").read_text().splitlines()[2]
    if nll_weight:
        assert warned is None
        assert rows[-1]["chosen_log_ratio"] > 0
        return
    assert warned is not None
    assert warned[1] == ("on held-out pairs" if held_out else "in the last steps")
    better, better_end, worse, worse_end = map(float, warned.groups()[1:])
    # Eight letters and an end, each one of 260 equal tokens: 9 ln 260 = 50.
    assert (better, worse) == pytest.approx((-50.0, -50.0), abs=2.0)
    assert worse_end < better_end < (1 + dpo.UNLIKELIER) * better
    assert headline in (run_dir / "final" / "README.md").read_text()


@pytest.mark.parametrize(
    ("better", "worse", "said"),
    [
        (-2.0, -7.0, True),
        (-1.5, -7.0, False),  # the better answers fell by less than a tenth
        (2.0, -7.0, False),
        (-2.0, -2.5, False),
    ],
)
def test_both_have_to_have_fallen_clearly(tmp_path: Path, better: float, worse: float, said: bool) -> None:
    summary = {
        "held_out_chosen_logp": -20.0,
        "held_out_rejected_logp": -30.0,
        "held_out_chosen_log_ratio": better,
        "held_out_rejected_log_ratio": worse,
    }
    found = WARNING.fullmatch(dpo.warning(tmp_path, summary))
    assert (found is not None) == said
    if found:  # -20 is 2 below where it began, -30 is 7
        assert found.groups() == ("on held-out pairs", "-18.0", "-20.0", "-23.0", "-30.0")


def test_without_held_out_pairs_the_last_fifth_of_the_steps_counts(tmp_path: Path) -> None:
    with MetricsFile(tmp_path) as metrics:
        for step in range(1, 11):
            fall = -5.0 if step > 8 else 0.0
            metrics.write(
                step, chosen_logp=-10.0, rejected_logp=-12.0, chosen_log_ratio=fall, rejected_log_ratio=fall - 1
            )
    found = WARNING.fullmatch(dpo.warning(tmp_path, {}))
    assert found is not None
    assert found.groups() == ("in the last steps", "-5.0", "-10.0", "-6.0", "-12.0")
