"""Parallel coordinates of the trials, coloured by score: a page to brush in, and a picture."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen import figures
from recbole_gen.options import is_number

NOT_SET = "not set"
"""Value of a parameter in a trial that does not have it."""
COLOURS = "cividis"  # colour-blind readers see what others do
MOST_LABELS = 12
"""An axis of numbers has room for so many."""


def write_parallel_coordinates(folder: Path, trials: list[dict[str, Any]], metric: str, bigger: bool) -> list[Path]:
    """Parallel coordinates of the trials, coloured by score: a page to brush in, and a picture."""
    trials = sorted(trials, key=lambda trial: trial["score"], reverse=not bigger)  # the best is drawn on top
    axes, scores = parallel_axes(trials, metric), [trial["score"] for trial in trials]
    title = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}, coloured by valid {metric}"
    page = folder / "parallel.html"
    _interactive_page(axes, scores, title).write_html(page, include_plotlyjs=True)
    return [page, *figures.save_figure(_static_picture(axes, scores, title), folder / "parallel.png")]


@dataclass(frozen=True)
class Axis:
    """One axis of parallel coordinates: where each trial's value lies, and its ticks with their labels."""

    name: str
    positions: np.ndarray
    ticks: np.ndarray
    labels: list[str]

    def to_unit(self, values: np.ndarray) -> np.ndarray:
        """Heights between 0 and 1; the middle if all trials have one value."""
        low, high = self.positions.min(), self.positions.max()
        return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def parallel_axes(trials: list[dict[str, Any]], metric: str) -> list[Axis]:
    """An axis for each parameter that differs between trials (for each, if none does), and one for the score."""
    names = dict.fromkeys(name for trial in trials for name in trial["params"])
    columns = {name: [trial["params"].get(name, NOT_SET) for trial in trials] for name in names}
    differing = {name: values for name, values in columns.items() if len({json.dumps(value) for value in values}) > 1}
    parameters = [_parameter_axis(name, values) for name, values in (differing or columns).items()]
    return [*parameters, _numeric_axis(f"valid {metric}", [trial["score"] for trial in trials], is_log=False)]


def _parameter_axis(name: str, values: list[Any]) -> Axis:
    """Numbers in their order, in the logarithm where they are positive and span decades; if one of them is something
    else, all one after the other, "not set" below all."""
    if all(map(is_number, values)):
        return _numeric_axis(name, values, is_log=min(values) > 0 and max(values) / min(values) >= 20)
    distinct = sorted({json.dumps(value) for value in values}, key=_label_order)
    places = {text: float(place) for place, text in enumerate(distinct)}
    labels = [text.strip('"') for text in distinct]
    return Axis(name, np.array([places[json.dumps(value)] for value in values]), np.arange(len(distinct)), labels)


def _numeric_axis(name: str, values: list[float], is_log: bool) -> Axis:
    positions = np.log10(np.array(values, dtype=float)) if is_log else np.array(values, dtype=float)
    ticks = np.unique(positions)
    if len(ticks) > MOST_LABELS:
        ticks = np.linspace(positions.min(), positions.max(), 6)
    ticks = _spaced_ticks(ticks)
    shown = 10**ticks if is_log else ticks
    return Axis(name, positions, ticks, [f"{value:.{4 if value >= 1000 else 3}g}" for value in shown])


def _spaced_ticks(ticks: np.ndarray) -> np.ndarray:
    """Those whose labels do not stand on each other, from the highest on, in their order."""
    kept = [ticks[-1]]
    for tick in ticks[-2::-1]:
        if kept[-1] - tick >= np.ptp(ticks) / MOST_LABELS:
            kept.append(tick)
    return np.array(kept[::-1])


def _label_order(text: str) -> tuple[bool, bool, float, str]:
    value = json.loads(text)
    return value != NOT_SET, not is_number(value), value if is_number(value) else 0.0, text


def _interactive_page(axes: list[Axis], scores: list[float], title: str):
    import plotly.graph_objects as go

    dimensions = [
        {"label": axis.name, "values": axis.positions, "tickvals": axis.ticks, "ticktext": axis.labels} for axis in axes
    ]
    line = {"color": scores, "colorscale": COLOURS, "showscale": True, "colorbar": {"title": {"text": axes[-1].name}}}
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions, labelangle=-20, labelside="bottom"))
    return figure.update_layout(title=title, margin={"l": 80, "r": 80, "t": 70, "b": 110})


def _static_picture(axes: list[Axis], scores: list[float], title: str):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    longest = max(len(label) for axis in axes for label in axis.labels)
    figure, panel = figures.new_figure(width=max(6.0, (0.9 + 0.08 * min(longest, 30)) * len(axes)), height=4.5)
    heights = np.stack([axis.to_unit(axis.positions) for axis in axes])  # [axes, trials]
    norm, colours = Normalize(min(scores), max(scores)), colormaps[COLOURS]
    for number, score in enumerate(scores):
        panel.plot(heights[:, number], color=colours(norm(score)), linewidth=1.8, alpha=0.9, marker="o", markersize=3)
    for place, axis in enumerate(axes):
        panel.axvline(place, color="black", linewidth=0.8)
        for height, label in zip(axis.to_unit(axis.ticks), axis.labels, strict=True):
            panel.annotate(
                label, (place, height), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
    panel.set_xticks(range(len(axes)), [axis.name for axis in axes], rotation=20, ha="right")
    panel.set_yticks([])
    panel.set_xlim(-0.1, len(axes) - 0.4)
    panel.set_frame_on(False)
    panel.set_title(title)
    figure.colorbar(ScalarMappable(norm, COLOURS), ax=panel, label=axes[-1].name)
    return figure
