"""`plot curves`: training loss and validation metric by epoch, from a run's TensorBoard events."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.errors import UserError
from recbole_gen.plot import run_selection
from recbole_gen.plot.scalars import Series, read_scalars

LEARNING_RATE = "train/learning_rate"
"""The one tag of the trainer's under `train/` that is no term of the loss."""
SPREAD = 20
"""Losses whose largest is more than so many times their smallest are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Curve:
    """What is drawn of a run: its label, training loss and validation metric by epoch, and its best epoch.

    The weights of the best epoch are kept; before the first validation it is None. A loss is the sum over an epoch's
    batches, as in RecBole, and empty for a model that does not train.
    """

    label: str
    loss: Series
    scores: Series
    best_epoch: int | None
    finished: bool


def draw(options: dict[str, Any]) -> None:
    """The figure `curves`. Raises UserError for bad input."""
    folders = run_selection.run_folders(options, "curves")
    output = run_selection.output_path(options, folders, "curves")
    found = run_selection.find_runs(folders, finished=False)
    metric = str(options["metric"] or found[0].config["valid_metric"]).lower()
    curves = read_curves(found, metric, None if options["loss"] is None else str(options["loss"]))
    print(curve_table(curves, metric))
    written = figures.save_figure(
        draw_curves(curves, metric, options["loss"], run_selection.common_title(found)), output
    )
    print(f"drawn in {' and '.join(map(str, written))}")


def read_curves(found: Sequence[run_selection.Run], metric: str, loss: str | None = None) -> list[Curve]:
    """The curves of runs: ``metric`` in lower case, as ndcg@10; ``loss`` a term of the loss, None for their sum.

    Raises UserError if no run has the metric or the term; the message names those that there are.
    """
    names = run_selection.run_labels(found)
    tags = [_scalars_or_result(run, _scalars(run)) for run in found]
    metrics = dict.fromkeys(tag.removeprefix("valid/") for each in tags for tag in each if tag.startswith("valid/"))
    if metrics and metric not in metrics:
        near = run_selection.suggestion(metric, metrics)
        raise UserError(f"no run has the validation metric '{metric}'{near}; there are: {', '.join(metrics)}")
    terms = dict.fromkeys(tag.removeprefix("train/") for each in tags for tag in each if tag.startswith("train/"))
    if loss is not None and loss not in terms:
        near = run_selection.suggestion(loss, terms)
        raise UserError(f"no run has the term '{loss}' of a loss{near}; there are: {', '.join(terms) or 'none'}")
    if not metrics and not terms:
        raise UserError("none of the runs has finished an epoch yet: there is nothing to draw")
    return [
        Curve(name, _loss_series(each, loss), each.get(f"valid/{metric}", {}), _best_epoch(run, each), bool(run.result))
        for run, name, each in zip(found, names, tags, strict=True)
    ]


def _scalars(run: run_selection.Run) -> dict[str, Series]:
    return {tag: series for tag, series in read_scalars(run.folder).items() if tag != LEARNING_RATE}


def _scalars_or_result(run: run_selection.Run, tags: dict[str, Series]) -> dict[str, Series]:
    """The same; of a run without events (`tensorboard: False`) what its result says of the loss and the best epoch."""
    if tags or not run.result:
        return tags
    out: dict[str, Series] = {"train/loss": dict(enumerate(run.result["train_loss"], start=1))}
    best = {run.result["best_epoch"] + 1: run.result["best_valid_result"]}
    for epoch, metrics in best.items():
        out |= {f"valid/{name}": {epoch: value} for name, value in (metrics or {}).items()}
    return out


def _loss_series(tags: dict[str, Series], term: str | None) -> Series:
    if term is not None:
        return tags.get(f"train/{term}", {})
    total: Series = {}
    for tag, series in tags.items():
        if tag.startswith("train/"):
            total = {epoch: total.get(epoch, 0.0) + value for epoch, value in series.items()}
    return total if any(total.values()) else {}  # Pop's is always 0


def _best_epoch(run: run_selection.Run, tags: dict[str, Series]) -> int | None:
    if run.result:
        return run.result["best_epoch"] + 1 or None  # -1: there was no validation
    metric = str(run.config["valid_metric"]).lower()
    scores = tags.get(f"valid/{metric}")
    if not scores:
        return None
    pick = min if run_selection.smaller_is_better(metric) else max
    return pick(scores, key=lambda epoch: scores[epoch])


def curve_table(curves: Sequence[Curve], metric: str) -> str:
    """Epochs, best epoch with its score, and the last loss of each run."""
    body = []
    for curve in curves:
        epochs = max([*curve.loss, *curve.scores], default=0)
        best = curve.scores.get(curve.best_epoch) if curve.best_epoch else None
        last = curve.loss[max(curve.loss)] if curve.loss else None
        ended = "yes" if curve.finished else "no"
        body.append([curve.label, epochs, ended, curve.best_epoch, best, last])
    heads = ["", "epochs", "ended", "best epoch", f"valid {metric} there", "last loss"]
    return tabulate(body, headers=heads, floatfmt=".4f", missingval="-")


def draw_curves(curves: Sequence[Curve], metric: str, loss: str | None = None, title: str = ""):
    """Two panels, loss and metric over the epoch; a star marks the epoch whose weights are kept."""
    from matplotlib.ticker import LogFormatter, MaxNLocator

    figure, (left, right) = figures.new_figure(2)
    for number, curve in enumerate(curves):
        look = {**figures.series_style(number), "markersize": 5}
        for axes, series in ((left, curve.loss), (right, curve.scores)):
            epochs = sorted(series)
            values = [series[epoch] for epoch in epochs]
            # A dozen markers a line, at different places for lines that lie on each other.
            every = max(1, len(epochs) // 12)
            axes.plot(epochs, values, label=curve.label, markevery=(number % every, every), **look)
        if curve.best_epoch in curve.scores:
            score = curve.scores[curve.best_epoch]
            star = {"marker": "*", "s": 180, "color": look["color"], "edgecolor": "black", "zorder": 3}
            right.scatter([curve.best_epoch], [score], **star)
    losses = [value for curve in curves for value in curve.loss.values()]
    if losses and min(losses) > 0 and max(losses) > SPREAD * min(losses):
        left.set_yscale("log")
        left.yaxis.set_major_formatter(LogFormatter())  # 200 instead of 2 x 10^2
        left.yaxis.set_minor_formatter(LogFormatter())
    left.set_ylabel(("training loss" if loss is None else f"training loss: {loss}") + ", sum over batches")
    right.set_ylabel(f"{metric}, validation")
    for axes in (left, right):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.grid(alpha=0.3)
    if title:
        figure.suptitle(title)
    handles, names = left.get_legend_handles_labels()
    if any(curve.best_epoch in curve.scores for curve in curves):
        handles.append(right.scatter([], [], marker="*", s=180, color="white", edgecolor="black"))
        names.append("best epoch")
    columns = 3 if max(map(len, names)) < 30 else 2 if max(map(len, names)) < 50 else 1
    figure.legend(handles, names, loc="outside lower center", ncols=columns, frameon=False)
    return figure
