"""The picture of a PPO or RLOO run's reward over the distance that it went, with what was fitted to it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from trainer import frontier
from trainer.evaluation_plots import COLORS, GREY

if TYPE_CHECKING:
    from matplotlib.axes import Axes

EARLY = "#c3d3e4"  # the first iteration's colour; the last one's is that of every first line
NEAR = 1.5  # a peak farther away than so many times the way that was gone is not drawn: nothing was seen there
SMOOTH = 120  # places at which a curve is computed


def frontier_painter(found: Sequence[frontier.Point], fits: dict[str, Any]) -> Callable[[Axes], None]:
    """Return what paints each iteration's (d, reward), lighter the earlier, with the line, the curve and its peak.

    `fits` is what `frontier.summarise` told, or nothing. Beyond the farthest point the curve is dotted up to its peak.
    """

    def paint(axes: Axes) -> None:
        from matplotlib.colors import LinearSegmentedColormap

        xs, ys = zip(*found, strict=True)
        shades = LinearSegmentedColormap.from_list("iterations", [EARLY, COLORS[0]])
        axes.scatter(xs, ys, s=16, c=range(len(found)), cmap=shades, linewidths=0, zorder=3)
        if not fits:
            return
        near, far = min(xs), max(xs)
        line, curve = frontier.Line(**fits["linear"]), frontier.Curve(**fits["gao"])
        # The legend has an iteration of its own: the first one is too light to be recognised by.
        axes.plot([], [], "o", markersize=4, color=COLORS[0], label="iterations, early ones lighter")
        axes.plot(
            [near, far], [line.at(near), line.at(far)], "--", color=GREY, linewidth=1.2, label=_told("line", line)
        )
        axes.plot(*_track(curve, near, far), color=COLORS[1], label=_told("Gao's curve", curve))
        if curve.peak is not None and curve.peak_reward is not None and near <= curve.peak <= NEAR * far:
            if curve.peak > far:
                axes.plot(*_track(curve, far, curve.peak), ":", color=COLORS[1])
            label = f"predicted peak, {curve.peak_reward:.2f} at {curve.peak:.2f}"
            axes.plot([curve.peak], [curve.peak_reward], "D", markersize=5.5, color=COLORS[1], zorder=4, label=label)
        axes.margins(y=0.08)
        axes.legend(fontsize=8)

    return paint


def _told(name: str, fit: frontier.Line | frontier.Curve) -> str:
    return f"{name}, R² {fit.r_squared:.2f}"


def _track(curve: frontier.Curve, start: float, end: float) -> tuple[list[float], list[float]]:
    places = [start + (end - start) * n / SMOOTH for n in range(SMOOTH + 1)]
    return places, [curve.at(place) for place in places]
