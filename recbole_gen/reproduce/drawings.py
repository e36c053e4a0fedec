"""The figures of a reproduction."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from recbole_gen import figures
from recbole_gen.compare.drawings import drawn_label
from recbole_gen.reproduce.results import Reproduction

CAPTIONS = {
    "metrics": "The setting's metrics, published and ours; bars: one combined standard error",
    "models": "All models of the table by its first metric, published and ours; bars: one combined standard error",
}


def draw_figures(found: Reproduction) -> Iterator[tuple[str, Any]]:
    """The figures, as (name of CAPTIONS, figure)."""
    yield "metrics", _draw_metrics(found)
    yield "models", _draw_models(found)


def _draw_metrics(found: Reproduction):
    """A line a metric, in the order of the table."""
    lines = [
        (metric, found.published.get(found.label, {}).get(metric), found.own.measured[metric])
        for metric in found.metrics
    ]
    return _draw_lines(lines, f"{found.label}, %")


def _draw_models(found: Reproduction):
    """A line a model, those with a number of ours first."""
    metric, ours = found.metrics[0], {model.label: model.measured[found.metrics[0]] for model in found.models}
    rows = dict.fromkeys([*ours, *found.published])
    lines = [(drawn_label(row), found.published.get(row, {}).get(metric), ours.get(row)) for row in rows]
    return _draw_lines(lines, f"{metric}, %")


def _draw_lines(lines, about: str):
    """Lines of (name, published or None, Measured or None), the first on top."""
    figure, axes = figures.new_figure(width=6.0, height=1.3 + 0.32 * len(lines))
    (ours, theirs), drawn = (figures.series_style(0), figures.series_style(1)), {}
    for place, (_, published, measured) in enumerate(lines):
        if measured is not None:
            mean, error = 100 * measured.mean, 100 * measured.error
            axes.plot([mean - error, mean + error], [place, place], color=ours["color"], linewidth=2)
            (drawn["ours, mean over the seeds"],) = axes.plot(
                mean, place, color=ours["color"], marker=ours["marker"], linestyle="none", markersize=7
            )
            if len(measured.values) > 1:
                values = [100 * value for value in measured.values]
                (drawn["each seed"],) = axes.plot(
                    values, [place + 0.25] * len(values), "|", color=ours["color"], markersize=6
                )
        if published is not None:
            (drawn["published"],) = axes.plot(
                100 * published, place, color=theirs["color"], marker="D", linestyle="none", markersize=8,
                markerfacecolor="none",
            )  # fmt: skip
    axes.set_yticks(range(len(lines)), [name for name, *_ in lines])
    axes.set_ylim(len(lines) - 0.4, -0.6)
    axes.set_xlabel(about)
    axes.grid(axis="x", alpha=0.3)
    figure.legend(list(drawn.values()), list(drawn), loc="outside upper center", ncols=3, frameon=False, fontsize=9)
    return figure
