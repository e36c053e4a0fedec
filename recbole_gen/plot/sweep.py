"""`plot sweep`: a metric over one setting of the runs, such as the strength of guidance.

DreamRec section 5.4, figure 4 (guidance_scale); PASRec section 5.4, figure 4 (gamma, a line for each eta); DiffRec
sections 5.3.2 and 5.3.5, figures 3 (timesteps) and 7 (n_seeds).
"""

from __future__ import annotations

import shlex
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.errors import UserError
from recbole_gen.files import read_json
from recbole_gen.options import is_number
from recbole_gen.plot import run_selection

LINES_BY = ("model", "dataset", "protocol")
RESULTS = {"test": "test_result", "valid": "best_valid_result"}
MOST_NAMED = 6
"""A message names so many settings."""
MOST_TICKS = 12
"""Of more values than these, and of those that lie close together, only some are written at the axis."""


@dataclass(frozen=True)
class Line:
    """One line: its label, and for each value of the key, in the order of the axis, the metric's values in the runs."""

    label: str
    points: list[tuple[Any, list[float]]]

    def best(self, smaller: bool) -> int:
        """The place of the point with the best mean."""
        means = [mean(values) for _, values in self.points]
        return means.index(min(means) if smaller else max(means))


def draw(options: dict[str, Any]) -> None:
    """The figure `sweep`. Raises UserError for bad input."""
    key, part = options["key"], options["part"]
    if not isinstance(key, str):
        raise UserError("plot sweep needs --key=KEY, the setting that the runs differ in, such as guidance_scale")
    if part not in RESULTS:
        raise UserError(f"--part must be test or valid, got {part!r}")
    folders = run_selection.run_folders(options, "sweep")
    output = run_selection.output_path(options, folders, f"sweep.{key}")
    found = select_runs(run_selection.find_runs(folders, pruned=True), options["where"])
    _tell_trials_without_scores(folders)
    group = None if options["group"] is None else str(options["group"])
    found = runs_with_settings(found, *([key, group] if group else [key]))
    found = runs_with_results(found, part)
    metrics = str(options["metric"] or found[0].config["valid_metric"]).lower().replace(",", " ").split()
    ignore = str(options["ignore"] or "").replace(",", " ").split()
    panels = {metric: read_lines(found, key, metric, part, group, ignore) for metric in metrics}
    print(sweep_table(panels, key, part))
    written = figures.save_figure(draw_lines(panels, key, part, run_selection.common_title(found, but=[key])), output)
    print(f"drawn in {' and '.join(map(str, written))}")


def select_runs(found: Sequence[run_selection.Run], where: Any) -> list[run_selection.Run]:
    """The runs whose settings are those of ``where``, {key: value or list of values}.

    Raises UserError if it is no such mapping, names an unknown key, or leaves no run.
    """
    if where is None:
        return list(found)
    if not isinstance(where, dict) or not where:
        raise UserError(f'--where must be settings, as --where="{{dataset: ml-100k, seed: [1, 2]}}", got {where!r}')
    left = runs_with_settings(found, *where)
    for key, wanted in where.items():
        values = run_selection.distinct_values(run.config[key] for run in left)
        ways = [None if value == "none" else value for value in (wanted, *_as_list(wanted))]  # we print None as none
        left = [run for run in left if run.config[key] in ways]
        if not left:
            have = ", ".join(map(run_selection.format_value, values))
            raise UserError(
                f"--where: no run has {key}: {run_selection.format_value(wanted)}; the runs that are left have {have}"
            )
    return left


def runs_with_settings(found: Sequence[run_selection.Run], *keys: str) -> list[run_selection.Run]:
    """The runs whose models have all of these settings. Raises UserError if there is none."""
    for key in keys:
        known = dict.fromkeys(name for run in found for name in run.config)
        if key not in known:
            raise UserError(f"no run has a setting '{key}'{run_selection.suggestion(key, known)}")
        found = [run for run in found if key in run.config]
    return list(found)


def runs_with_results(found: Sequence[run_selection.Run], part: str) -> list[run_selection.Run]:
    """The runs that have a result on ``part``. Raises UserError if there is none."""
    left = [run for run in found if run.result and run.result[RESULTS[part]]]
    if not left and part == "test":
        raise UserError(f"none of {len(found)} runs was tested (trials of a sweep are not): use --part=valid")
    if not left:
        raise UserError(f"none of {len(found)} runs has a validation result: use --part=test")
    if len(left) < len(found):
        cure = "; of a sweep only the best trial is tested: --part=valid draws them all" if part == "test" else ""
        print(f"{len(found) - len(left)} of {len(found)} runs have no {part} result and are left out{cure}")
    return left


def _tell_trials_without_scores(folders: Sequence[Path]) -> None:
    """Say how many trials of a sweep are not drawn, since they have failed or go on."""
    files = {file.resolve() for folder in folders for file in folder.rglob("trial.json")}
    states = [str(read_json(file).get("status", "unreadable")) for file in files]
    counts = Counter(status for status in states if status not in ("finished", "pruned"))
    if counts:
        told = ", ".join(f"{number} {status}" for status, number in sorted(counts.items()))
        print(f"{sum(counts.values())} of {len(files)} trials are left out: {told}")


def read_lines(
    found: Sequence[run_selection.Run],
    key: str,
    metric: str,
    part: str,
    group: str | None = None,
    ignore: Sequence[str] = (),
) -> list[Line]:
    """A line for each model, data set and protocol, and each value of ``group``; a point for each value of ``key``.

    Runs of one point may differ in seed and in ``ignore`` only. Raises UserError if runs of one line differ in more
    than that, if no line has two values, and for a metric that a run does not have.
    """
    scores = {run.folder: run.result[RESULTS[part]] for run in found if run.result}
    missing = [score for score in scores.values() if metric not in score]
    if missing:
        near = run_selection.suggestion(metric, missing[0])
        common = ", ".join(name for name in missing[0] if all(name in score for score in scores.values()))
        raise UserError(f"not every run has the {part} metric '{metric}'{near}; all have: {common}")
    lines = []
    by = [name for name in (*LINES_BY, group) if name and name != key]
    for identity in run_selection.distinct_values([run.config[name] for name in by] for run in found):
        members = [run for run in found if [run.config[name] for name in by] == identity]
        label = run_selection.model_label(members[0], found, but=[key])
        if group:
            label = ", ".join(
                [*([label] if label else []), f"{group}={run_selection.format_value(members[0].config[group])}"]
            )
        _refuse_other_differences(members, label, (key, "seed", *ignore))
        values = sort_values(run_selection.distinct_values(run.config[key] for run in members))
        points = [(x, [scores[run.folder][metric] for run in members if run.config[key] == x]) for x in values]
        lines.append(Line(label or metric, points))
    if all(len(line.points) < 2 for line in lines):
        have = ", ".join(
            run_selection.format_value(x)
            for x in run_selection.distinct_values(x for line in lines for x, _ in line.points)
        )
        raise UserError(f"all runs of a line have the same {key} ({have}): a figure over {key} needs two values")
    return lines


def _refuse_other_differences(members: Sequence[run_selection.Run], label: str, allowed: Sequence[str]) -> None:
    others = run_selection.differing_settings(members, but=allowed)
    if not others:
        return
    listed = [
        f"{name} ({', '.join(map(run_selection.format_value, values[:4]))}{', ...' if len(values) > 4 else ''})"
        for name, values in list(others.items())[:MOST_NAMED]
    ]
    if len(others) > MOST_NAMED:
        listed.append(f"and {len(others) - MOST_NAMED} more")
    name, values = next(iter(others.items()))
    wanted = f"{{{name}: {run_selection.format_value(values[0])}}}"
    raise UserError(
        f"the runs of {label or 'one line'} differ not only in {allowed[0]} and seed, but also in {'; '.join(listed)}. "
        f"Choose among them, --where={shlex.quote(wanted)}, draw a line for each "
        f"value, --group={name}, or average over them as over seeds, --ignore={name}"
    )


def sort_values(values: Sequence[Any]) -> list[Any]:
    """Numbers by size; if one of them is something else, all by name."""
    return sorted(values) if all(map(is_number, values)) else sorted(values, key=run_selection.format_value)


def axis_scale(values: Sequence[float]) -> str:
    """`log` for positive numbers whose ratios are more even than their differences, and that span a factor of ten;
    `symlog` for such numbers and a zero; else `linear`."""
    positive = sorted(value for value in values if value > 0)
    if min(values) < 0 or len(positive) < 2 or positive[-1] < 10 * positive[0]:
        return "linear"
    if len(positive) == 2:
        uneven = positive[1] >= 100 * positive[0]
    else:
        uneven = _unevenness(np.diff(positive)) > _unevenness(np.diff(np.log(positive)))
    if not uneven:
        return "linear"
    return "log" if len(positive) == len(values) else "symlog"


def _unevenness(gaps: np.ndarray) -> float:
    return float(gaps.std() / gaps.mean())


def sweep_table(panels: dict[str, list[Line]], key: str, part: str) -> str:
    """Mean, standard deviation and number of runs of every point; a star at each line's best."""
    body = []
    for metric, lines in panels.items():
        for line in lines:
            best = line.best(run_selection.smaller_is_better(metric))
            for number, (x, values) in enumerate(line.points):
                spread = stdev(values) if len(values) > 1 else None
                star = "*" if number == best else ""
                body.append(
                    [line.label, run_selection.format_value(x), metric, mean(values), spread, len(values), star]
                )
    heads = ["", key, part, "mean", "deviation", "runs", "best"]
    return tabulate(body, headers=heads, floatfmt=("", "", "", ".4f", ".4f"), missingval="-", disable_numparse=[1])


def draw_lines(panels: dict[str, list[Line]], key: str, part: str, title: str = ""):
    """A panel for each metric; bars are standard deviations over seeds (n - 1), a ring marks each line's best point."""
    figure, axes = figures.new_figure(len(panels), squeeze=False)
    for panel, (metric, lines) in zip(axes.flat, panels.items(), strict=True):
        values = sort_values(run_selection.distinct_values(x for line in lines for x, _ in line.points))
        numbers = all(map(is_number, values))
        for number, line in enumerate(lines):
            # Categories stand side by side, lines of numbers on their numbers.
            shift = 0.5 * ((number + 0.5) / len(lines) - 0.5)
            places = [x if numbers else values.index(x) + shift for x, _ in line.points]
            means = [mean(each) for _, each in line.points]
            spreads = [stdev(each) if len(each) > 1 else 0.0 for _, each in line.points]
            look = figures.series_style(number) if numbers else {**figures.series_style(number), "linestyle": "none"}
            panel.errorbar(places, means, yerr=spreads if any(spreads) else None, capsize=3, label=line.label, **look)
            best = line.best(run_selection.smaller_is_better(metric))
            ring = {"s": 170, "facecolors": "none", "edgecolors": look["color"], "linewidths": 1.5, "zorder": 3}
            panel.scatter([places[best]], [means[best]], **ring)
        _ticks(panel, values, numbers)
        panel.set_xlabel(key)
        repeated = any(len(each) > 1 for line in lines for _, each in line.points)
        panel.set_ylabel(f"{metric}, {part}{', mean over seeds' if repeated else ''}")
        panel.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    handles.append(axes.flat[0].scatter([], [], s=120, facecolors="none", edgecolors="black", linewidths=1.5))
    labels.append("best")
    columns = 3 if len(panels) > 1 and max(map(len, labels)) < 30 else 2 if max(map(len, labels)) < 30 else 1
    figure.legend(handles, labels, loc="outside lower center", ncols=columns, frameon=False)
    return figure


def _ticks(panel, values: list[Any], numbers: bool) -> None:
    """Ticks at the values themselves, without those that would stand on each other."""
    if not numbers:
        long = sum(len(run_selection.format_value(x)) for x in values) > 40
        turn = {"rotation": 30, "ha": "right"} if long else {}
        panel.set_xticks(range(len(values)), [run_selection.format_value(x) for x in values], **turn)
        panel.set_xlim(-0.5, len(values) - 0.5)
        return
    scale = axis_scale(values)
    if scale == "symlog":
        panel.set_xscale(scale, linthresh=min(x for x in values if x > 0))
    else:
        panel.set_xscale(scale)
    transform = panel.xaxis.get_transform().transform
    places = transform(np.array(values, dtype=float))
    gap = (places.max() - places.min()) / MOST_TICKS
    kept = [0]
    for number in range(1, len(values)):
        if places[number] - places[kept[-1]] >= gap:
            kept.append(number)
    panel.set_xticks(
        [values[number] for number in kept], [run_selection.format_value(values[number]) for number in kept]
    )
    panel.minorticks_off()


def _as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
