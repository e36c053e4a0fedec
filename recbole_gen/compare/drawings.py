"""The figures of a comparison."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from recbole_gen import figures
from recbole_gen.compare.summary import Summary, metric_title
from recbole_gen.compare.tables import length_range

CAPTIONS = {
    "metric": "Accuracy of each model, with 95 % bootstrap intervals over users",
    "cost": "Accuracy against cost of inference",
    "length": "Accuracy by length of the user's history",
}

LINE_LENGTH = 26
"""Characters of a label in a line of a figure."""
SHORT_LABEL = 16
"""Of labels up to this length three stand side by side in a legend."""


def draw_figures(summary: Summary) -> Iterator[tuple[str, Any]]:
    """The figures that the runs have the numbers for, as (name of CAPTIONS, figure)."""
    yield "metric", _draw_metric(summary)
    if any(s.costs["users_per_second"] for s in summary.contenders):
        yield "cost", _draw_cost(summary)
    if summary.groups:
        yield "length", _draw_lengths(summary)


def drawn_label(label: str) -> str:
    """A label as matplotlib draws it: a long one in lines, broken behind `_`, `.` and the like where there are any; a
    dollar sign is no formula."""
    lines = [""]
    for word in re.findall(rf"[^\s_.:+-]{{1,{LINE_LENGTH - 1}}}[\s_.:+-]?|[\s_.:+-]", label):
        if len(lines[-1] + word.rstrip()) > LINE_LENGTH:
            lines.append("")
        lines[-1] += word
    return "\n".join(line.rstrip() for line in lines).replace("$", r"\$")


def _num_lines(summary: Summary) -> int:
    """Lines of the longest label."""
    return max(drawn_label(contender.label).count("\n") for contender in summary.contenders) + 1


def _draw_metric(summary: Summary):
    """The best on top: mean, interval over users, and each seed as a small mark."""
    number = len(summary.contenders)
    figure, axes = figures.new_figure(width=6.0, height=1.2 + (0.24 + 0.16 * _num_lines(summary)) * number)
    for place, contender in enumerate(summary.contenders):
        spread, (low, high) = contender.test[summary.main_metric], contender.intervals[summary.main_metric]
        colour = figures.series_style(place)["color"]
        axes.plot([low, high], [place, place], color=colour, linewidth=2)
        axes.plot(spread.mean, place, color=colour, marker=figures.series_style(place)["marker"], markersize=8)
        if len(spread.values) > 1:
            axes.plot(spread.values, [place + 0.25] * len(spread.values), "|", color=colour, markersize=7)
    axes.set_yticks(range(number), [drawn_label(s.label) for s in summary.contenders])
    axes.set_ylim(number - 0.4, -0.6)
    seeds = "; ticks: each seed" if any(len(s.seeds) > 1 for s in summary.contenders) else ""
    about = f"{metric_title(summary.main_metric)}, test\n(lines: 95 % intervals over users{seeds})"
    figure.supxlabel(about, fontsize="medium")  # of the whole figure: long names leave little room under the axes
    axes.grid(axis="x", alpha=0.3)
    return figure


def _draw_cost(summary: Summary):
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = figures.new_figure(width=6.0)
    points = []
    for place, contender in enumerate(summary.contenders):
        speed, spread = contender.costs["users_per_second"], contender.test[summary.main_metric]
        if speed:
            look = figures.series_style(place)
            axes.plot(speed, spread.mean, color=look["color"], marker=look["marker"], markersize=8)
            ends = spread.mean - (spread.sd or 0), spread.mean + (spread.sd or 0)
            axes.plot([speed, speed], ends, color=look["color"], linewidth=1.5, alpha=0.5)
            points.append((speed, spread.mean, ends, drawn_label(contender.label), look["color"]))
    axes.set_xscale("log")
    low, high = min(point[0] for point in points), max(point[0] for point in points)
    axes.set_xlim(low / 2, high * 2)
    axes.margins(y=0.15)
    axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high < 50 * low else (1.0,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    bars = "\n(bars: standard deviation over seeds)" if any(len(s.seeds) > 1 for s in summary.contenders) else ""
    axes.set_xlabel(f"users scored per second, log scale{bars}")
    axes.set_ylabel(f"{metric_title(summary.main_metric)}, test")
    axes.grid(alpha=0.3)
    _label_points(figure, axes, points)
    return figure


def _label_points(figure, axes, points) -> None:
    """Write each point's name beside it, where it covers no other name, point or bar, and stays inside."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.transforms import Bbox

    figure.draw_without_rendering()
    renderer, inside = FigureCanvasAgg(figure).get_renderer(), axes.get_window_extent()
    to_pixels = axes.transData.transform
    marks = [Bbox([to_pixels((x, y))] * 2).padded(7) for x, y, *_ in points]
    bars = [Bbox([to_pixels((x, low)), to_pixels((x, high))]).padded(1) for x, _, (low, high), *_ in points]
    taken: list[Any] = []
    for number, (x, y, _, name, colour) in enumerate(points):
        label = axes.annotate(name, (x, y), (0, 0), textcoords="offset points", color=colour, fontsize=9)
        label.set_in_layout(False)
        clashes = []
        for place in LABEL_OFFSETS:
            _place_label(label, *place)
            box = label.get_window_extent(renderer)
            others = [each for each in range(len(points)) if each != number]
            covered = sum(box.overlaps(other) for other in [*taken, *(marks[each] for each in others)])
            crossed = sum(box.overlaps(bars[each]) for each in others)
            outside = not (inside.contains(box.x0, box.y0) and inside.contains(box.x1, box.y1))
            clashes.append(covered + 2 * outside + 0.3 * crossed)
        _place_label(label, *LABEL_OFFSETS[clashes.index(min(clashes))])
        taken.append(label.get_window_extent(renderer))


# Right, left, above, below, then aslant and farther off, in points.
LABEL_OFFSETS = (
    (8, 0), (-8, 0), (0, 8), (0, -8), (7, 7), (-7, 7), (7, -7), (-7, -7), (0, 20), (0, -20), (10, 18), (-10, 18),
    (10, -18), (-10, -18),
)  # fmt: skip


def _place_label(label, dx: int, dy: int) -> None:
    label.set_position((dx, dy))
    label.set_ha("left" if dx > 0 else "right" if dx < 0 else "center")
    label.set_va("bottom" if dy > 0 else "top" if dy < 0 else "center")


def _draw_lengths(summary: Summary):
    number = len(summary.contenders)
    figure, axes = figures.new_figure(width=6.0, height=4.0 + 0.12 * number * _num_lines(summary))
    places = range(len(summary.groups))
    lines = []
    for place, contender in enumerate(summary.contenders):
        values = [contender.by_length[group.name] for group in summary.groups]
        lines += axes.plot(places, values, **figures.series_style(place), markersize=7)
    axes.set_xticks(places, [f"{g.name}\n{length_range(g)}\n{g.rows:,} rows" for g in summary.groups])
    axes.set_xlim(-0.3, len(summary.groups) - 0.7)
    axes.set_xlabel(f"length of the history ({summary.length_of})")
    axes.set_ylabel(f"{metric_title(summary.main_metric)}, test")
    axes.grid(alpha=0.3)
    figure.legend(
        lines,
        [drawn_label(s.label) for s in summary.contenders],
        loc="outside upper center",
        ncols=3 if max(len(s.label) for s in summary.contenders) <= SHORT_LABEL else 2,
        frameon=False,
        fontsize=9,
    )
    return figure
