r"""How reliable each labeler is, estimated together with how good the answers are.

The model. An answer i has a score s_i ~ N(0, 1). Labeler l perceives it as b_l s_i plus Gumbel noise, independent for
every answer, and calls two answers tied when what they perceive differs by less than t_l > 0. So

    P(l prefers i to j) = sigma(b_l (s_i - s_j) - t_l)        P(l ties them) = 1 - both preferences

which is Bradley and Terry's model with ties after Rao and Kupper (1967), one discrimination b_l and one threshold t_l
for each labeler; without ties the ranking is Plackett and Luce's. b_l = 0 is a random clicker and b_l < 0 somebody who
ranks upside down, which Crowd-BT (Chen et al. 2013) expresses as a probability below one half.

The scores are integrated out, not maximised: with two or three rankings a task, scores that follow the rankings would
make every labeler look better the fewer there are (Neyman and Scott 1948). The pair (i, j) needs only d = s_i - s_j ~
N(0, 2), so the integral has one dimension, and the product over pairs is a composite likelihood (Varin, Reid and Firth
2011). A ranking of K answers holds K (K - 1) / 2 pairs but only K - 1 independent pieces, so each pair weighs 2 / K.

Priors, worth about a dozen judgements: b_l = m + e_l with m ~ N(1, 0.5^2) for the project and e_l ~ N(0, 0.75^2) for
the labeler; log t_l likewise with m ~ N(log 0.5, 1) and e_l ~ N(0, 1). Labelers who share few tasks stay near the
project's mean. Standard errors are the sandwich's, with the tasks as clusters, so dependent pairs cost their due.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from app.services.quality.statistics.evidence import Estimate
from app.services.quality.statistics.minimise import minimise
from app.services.quality.statistics.pairs import Floats, Ints, RankingTable, same_task
from app.services.quality.statistics.patterns import Judged, Patterns, chunks, judgements_of, merge, starts_of

NODES = 21
_x, _w = np.polynomial.hermite_e.hermegauss(NODES)
DIFFERENCES: Floats = _x * math.sqrt(2)
"""Nodes [Q] of the Gauss-Hermite quadrature over d ~ N(0, 2), and the logarithms of their weights."""
LOG_WEIGHTS: Floats = np.log(_w / _w.sum())

SKILL_MEAN, SKILL_COMMON, SKILL_OWN = 1.0, 0.5, 0.75
TIE_MEAN, TIE_COMMON, TIE_OWN = math.log(0.5), 1.0, 1.0


@dataclass(frozen=True)
class Reliability:
    """The fitted model. Entries are per labeler [L].

    `skill` is b_l with standard error `error`, `threshold` is t_l; `reliability` says the same as a probability: how
    often the labeler prefers the better of two answers, where they prefer one. `judgements` counts the pairs of answers
    that another labeler judged too: the only ones that say anything about reliability.
    """

    skill: Floats
    error: Floats
    threshold: Floats
    reliability: list[Estimate]
    judgements: Ints


@dataclass(frozen=True)
class Terms:
    """Per kind of judgement (labeler and value) and node [3 L, Q]: log P and its derivatives by b and log t."""

    log_p: Floats
    by_skill: Floats
    by_tie: Floats


def estimate(table: RankingTable, interval_z: float = 1.96) -> Reliability:
    """Fit the model to all rankings of a project."""
    labelers = table.number_of_labelers
    judged = judgements_of(table)
    patterns, pattern_of_unit = merge(judged, labelers)
    precision = _prior_precision(labelers)
    mean = np.concatenate([np.full(labelers, SKILL_MEAN), np.full(labelers, TIE_MEAN)])

    def objective(parameters: Floats) -> tuple[float, Floats]:
        value, gradient = log_likelihood(patterns, terms(parameters, labelers))
        pull = precision @ (parameters - mean)
        return float(0.5 * (parameters - mean) @ pull - value), pull - gradient

    fitted = minimise(objective, mean)
    covariance = _covariance(patterns, judged, pattern_of_unit, fitted, precision, table.task)
    skill, error = fitted[:labelers], np.sqrt(np.diag(covariance)[:labelers])
    shared = judged.unit_size[judged.unit] > 1
    judgements = np.bincount(judged.labeler[shared], minlength=labelers).astype(np.int32)
    return Reliability(
        skill=skill,
        error=error,
        threshold=np.exp(fitted[labelers:]),
        reliability=[
            Estimate(chance_right(b), chance_right(b - interval_z * e), chance_right(b + interval_z * e), int(n))
            for b, e, n in zip(skill, error, judgements, strict=True)
        ],
        judgements=judgements,
    )


def chance_right(skill: float) -> float:
    """Return how often a labeler of this skill prefers the better of two answers: the mean of sigma(b |d|).

    The difference d is N(0, 2). 0 gives one half, 1 gives 0.72; a negative skill lies below one half.
    """
    # A fine grid instead of the nodes, because |d| has a corner that quadrature would round off.
    grid = (np.arange(400) + 0.5) / 50
    density = np.exp(-(grid**2) / 4)
    return float((density / (1 + np.exp(-skill * grid))).sum() / density.sum())


def terms(parameters: Floats, labelers: int) -> Terms:
    """Return what each labeler with these parameters (all b, then all log t: [2 L]) would say of each difference."""
    skill, tie = parameters[:labelers, None], np.clip(parameters[labelers:, None], -12, 5)
    threshold = np.exp(tie)
    up, down = skill * DIFFERENCES - threshold, -skill * DIFFERENCES - threshold
    win, loss = _sigma(up), _sigma(down)
    # 1 - sigma(x - t) - sigma(-x - t) = (e^2t - 1) sigma(x - t) sigma(-x - t): no cancellation (Rao and Kupper 1967).
    log_tie = np.log(np.expm1(2 * threshold)) + _log_sigma(up) + _log_sigma(down)
    rises = 2 * threshold * np.exp(2 * threshold) / np.expm1(2 * threshold)  # of log(e^2t - 1) by log t
    log_p = np.stack([_log_sigma(down), log_tie, _log_sigma(up)], axis=1)
    by_skill = np.stack(
        [-DIFFERENCES * (1 - loss), DIFFERENCES * ((1 - win) - (1 - loss)), DIFFERENCES * (1 - win)], axis=1
    )
    by_tie = np.stack(
        [-threshold * (1 - loss), rises - threshold * ((1 - win) + (1 - loss)), -threshold * (1 - win)], axis=1
    )
    return Terms(*(array.reshape(3 * labelers, NODES) for array in (log_p, by_skill, by_tie)))


def _sigma(x: Floats) -> Floats:
    return np.exp(_log_sigma(x))


def _log_sigma(x: Floats) -> Floats:
    return -np.logaddexp(0.0, -x)


def _posterior(patterns: Patterns, which: slice, rows: slice, terms: Terms) -> tuple[Floats, Floats]:
    """Return log likelihoods [U] and, over the nodes, the posterior [U, Q] of some patterns' differences."""
    begin = patterns.starts[which] - patterns.starts[which.start]
    joint = np.add.reduceat(terms.log_p[patterns.kind[rows]], begin, axis=0) + LOG_WEIGHTS
    top = joint.max(axis=1, keepdims=True)
    posterior = np.exp(joint - top)
    mass = posterior.sum(axis=1, keepdims=True)
    return (top + np.log(mass))[:, 0], posterior / mass


def log_likelihood(patterns: Patterns, terms: Terms) -> tuple[float, Floats]:
    """Return the composite log likelihood and its gradient by all b, then all log t."""
    labelers = patterns.number_of_labelers
    value, mass = 0.0, np.zeros_like(terms.log_p)
    for which, rows in chunks(patterns):
        log_l, posterior = _posterior(patterns, which, rows, terms)
        weight = patterns.weight[which]
        value += float(weight @ log_l)
        weighted = (posterior * weight[:, None])[patterns.pattern[rows] - which.start]
        kind = patterns.kind[rows]
        order = np.argsort(kind, kind="stable")
        present, first = np.unique(kind[order], return_index=True)
        mass[present] += np.add.reduceat(weighted[order], first, axis=0)
    gradient = [
        (mass * derivative).sum(axis=1).reshape(labelers, 3).sum(axis=1)
        for derivative in (terms.by_skill, terms.by_tie)
    ]
    return value, np.concatenate(gradient)


def _prior_precision(labelers: int) -> Floats:
    """Return the inverse of the prior covariance [2 L, 2 L]; the common means are integrated out."""
    precision = np.zeros((2 * labelers, 2 * labelers))
    for start, common, own in ((0, SKILL_COMMON, SKILL_OWN), (labelers, TIE_COMMON, TIE_OWN)):
        block = np.full((labelers, labelers), common**2) + np.eye(labelers) * own**2
        precision[start : start + labelers, start : start + labelers] = np.linalg.inv(block)
    return precision


def _covariance(
    patterns: Patterns, judged: Judged, pattern_of_unit: Ints, parameters: Floats, precision: Floats, task: Ints
) -> Floats:
    """Return the covariance of the estimates [2 L, 2 L]: the sandwich H^-1 (J + prior) H^-1.

    H is the curvature at the maximum (by Louis 1982: what complete data would tell, less what is missing), J the
    variance of the tasks' gradients. The prior counts in both, so that a labeler without data has the prior's variance.
    """
    labelers = patterns.number_of_labelers
    fitted = terms(parameters, labelers)
    curvature, gradients = _curvature(patterns, fitted, _second_derivatives(parameters, labelers))
    inverse = np.linalg.inv(curvature + precision)
    place = np.arange(len(judged.unit)) - starts_of(judged.unit_size)[judged.unit]
    of_judgement = gradients[patterns.starts[pattern_of_unit[judged.unit]] + place] * judged.weight[:, None]
    per_ranking = np.column_stack(
        [np.bincount(judged.ranking, of_judgement[:, column], len(task)) for column in (0, 1)]
    )
    labeler = np.zeros(len(task), dtype=np.int32)
    labeler[judged.ranking] = judged.labeler
    variance = np.zeros_like(curvature)
    for left, right in ((np.arange(len(task)), np.arange(len(task))), *same_task(task)):
        _add_products(variance, labeler[left], per_ranking[left], labeler[right], per_ranking[right], left is not right)
    return inverse @ (variance + precision) @ inverse


def _second_derivatives(parameters: Floats, labelers: int, step: float = 1e-4) -> tuple[Floats, Floats, Floats]:
    """Return the derivatives of log P [3 L, Q] by b twice, by b and log t, by log t twice; by differences."""
    move = np.zeros_like(parameters)
    move[:labelers] = step
    above, below = terms(parameters + move, labelers), terms(parameters - move, labelers)
    skill_skill, skill_tie = (above.by_skill - below.by_skill) / (2 * step), (above.by_tie - below.by_tie) / (2 * step)
    move = np.roll(move, labelers)
    above, below = terms(parameters + move, labelers), terms(parameters - move, labelers)
    return skill_skill, skill_tie, (above.by_tie - below.by_tie) / (2 * step)


def _curvature(patterns: Patterns, terms: Terms, seconds: tuple[Floats, Floats, Floats]) -> tuple[Floats, Floats]:
    """Return the observed information [2 L, 2 L] and each judgement's gradient by b and log t [J, 2]."""
    labelers = patterns.number_of_labelers
    information = np.zeros((2 * labelers, 2 * labelers))
    gradients = np.empty((len(patterns.kind), 2))
    firsts = np.stack([terms.by_skill, terms.by_tie], axis=-1)
    for which, rows in chunks(patterns):
        _, posterior = _posterior(patterns, which, rows, terms)
        unit = patterns.pattern[rows] - which.start
        kind, weight = patterns.kind[rows], patterns.weight[which][unit]
        labeler, nodes = kind // 3, posterior[unit]
        gradient = np.einsum("jq,jqa->ja", nodes, firsts[kind])
        gradients[rows] = gradient
        own = [-(nodes * second[kind]).sum(axis=1) * weight for second in seconds]
        for (a, b), values in zip(((0, 0), (0, 1), (1, 1)), own, strict=True):
            summed = np.bincount(labeler, values, labelers)
            rows_, columns_ = np.arange(labelers) + a * labelers, np.arange(labelers) + b * labelers
            information[rows_, columns_] += summed
            if a != b:
                information[columns_, rows_] += summed
        everyone = np.arange(len(kind))
        for left, right in ((everyone, everyone), *same_task(unit)):
            together = np.einsum("jq,jqa,jqb->jab", nodes[left], firsts[kind[left]], firsts[kind[right]])
            together -= gradient[left][:, :, None] * gradient[right][:, None, :]
            _scatter(
                information, labeler[left], labeler[right], -together * weight[left][:, None, None], left is not right
            )
    return information, gradients


def _add_products(
    matrix: Floats, left: Ints, left_values: Floats, right: Ints, right_values: Floats, mirrored: bool
) -> None:
    _scatter(matrix, left, right, left_values[:, :, None] * right_values[:, None, :], mirrored)


def _scatter(matrix: Floats, left: Ints, right: Ints, blocks: Floats, mirrored: bool) -> None:
    """Add blocks [M, 2, 2] between labelers `left` and `right` to a matrix [2 L, 2 L], and transposed if mirrored."""
    labelers = len(matrix) // 2
    for a in (0, 1):
        for b in (0, 1):
            flat = (left + a * labelers).astype(np.int64) * len(matrix) + right + b * labelers
            added = np.bincount(flat, blocks[:, a, b], matrix.size).reshape(matrix.shape)
            matrix += added
            if mirrored:
                matrix += added.T
