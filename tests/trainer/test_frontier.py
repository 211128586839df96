"""Reward over sqrt(KL): planted lines and curves are found again, and where they turn."""

import math

import pytest

from trainer import frontier


def test_a_planted_line_is_found_again() -> None:
    line = frontier.fit_line([(d / 2, 0.5 + 1.5 * d / 2) for d in range(9)])
    assert line == pytest.approx((0.5, 1.5, 1.0))


def test_a_planted_curve_is_found_again_with_its_peak() -> None:
    # d (2 - log d) peaks where 2 - log d - 1 = 0: at e, with R = start + e.
    curve = frontier.fit_curve([(d, 0.3 + d * (2 - math.log(d))) for d in (0.2, 0.5, 1.0, 2.0, 3.0, 4.0, 6.0)])
    assert curve is not None
    assert (curve.start, curve.alpha, curve.beta) == pytest.approx((0.3, 2.0, 1.0))
    assert curve.peak == pytest.approx(math.e)
    assert curve.peak_reward == pytest.approx(0.3 + math.e)


def test_a_curve_that_only_rises_has_no_peak() -> None:
    curve = frontier.fit_curve([(d, d * (1 + 0.2 * math.log(d))) for d in (0.5, 1.0, 2.0, 3.0, 5.0)])
    assert curve is not None
    assert curve.beta == pytest.approx(-0.2)
    assert curve.peak is None


def test_a_run_that_never_moved_has_nothing_to_fit() -> None:
    assert frontier.summarise([{"kl": -0.1, "reward": float(n)} for n in range(20)]) == {}
    assert frontier.summarise([{"kl": float(n), "reward": float(n)} for n in range(4)]) == {}


def test_the_figures_of_a_run() -> None:
    found = frontier.summarise([{"kl": float(n * n), "reward": 2.0 * n} for n in range(6)])
    assert found["linear"] == pytest.approx({"start": 0.0, "slope": 2.0, "r_squared": 1.0})
    assert found["gao"]["alpha"] == pytest.approx(2.0)


def test_fits_say_the_reward_at_a_distance() -> None:
    assert frontier.Line(0.5, 1.5, 1.0).at(2.0) == 3.5
    curve = frontier.Curve(0.3, 2.0, 1.0, 1.0, math.e, 0.3 + math.e)
    assert curve.at(1.0) == 0.3 + 2.0  # log 1 = 0
    assert curve.at(math.e) == pytest.approx(curve.peak_reward)
    assert curve.at(0.0) == 0.3
