"""Minimising a smooth function of many variables: L-BFGS with backtracking (Nocedal and Wright 2006, algorithm 7.5)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from app.services.quality.statistics.pairs import Floats

Objective = Callable[[Floats], tuple[float, Floats]]
MEMORY = 12


def minimise(objective: Objective, start: Floats, *, tolerance: float = 1e-5, steps: int = 200) -> Floats:
    """Return a local minimum near `start`. `objective` gives value and gradient; `tolerance` bounds the gradient."""
    point = start.copy()
    value, gradient = objective(point)
    moves: list[tuple[Floats, Floats]] = []
    for _ in range(steps):
        if np.abs(gradient).max() <= tolerance * max(1.0, abs(value)):
            break
        direction = -_inverse_hessian_times(gradient, moves)
        slope = float(direction @ gradient)
        length = 1.0 if moves else min(1.0, 1.0 / float(np.abs(gradient).sum()))
        for _ in range(40):
            candidate = point + length * direction
            new_value, new_gradient = objective(candidate)
            if new_value <= value + 1e-4 * length * slope:
                break
            length /= 2
        else:
            break
        move, change = candidate - point, new_gradient - gradient
        if move @ change > 1e-12:  # else the curvature is not positive and would spoil the directions
            moves = [*moves[-MEMORY + 1 :], (move, change)]
        point, value, gradient = candidate, new_value, new_gradient
    return point


def _inverse_hessian_times(gradient: Floats, moves: list[tuple[Floats, Floats]]) -> Floats:
    result = gradient.copy()
    weights = []
    for move, change in reversed(moves):
        weight = (move @ result) / (move @ change)
        result -= weight * change
        weights.append(weight)
    if moves:
        move, change = moves[-1]
        result *= (move @ change) / (change @ change)
    for (move, change), weight in zip(moves, reversed(weights), strict=True):
        result += (weight - (change @ result) / (move @ change)) * move
    return result
