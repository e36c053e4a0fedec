"""What a sweep's folder tells: trials, the best one, a table, parallel coordinates, TensorBoard's hparams."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.files import read_json, write_json, write_text
from recbole_gen.options import is_number
from recbole_gen.quick_start import report

ENDED = ("finished", "pruned", "failed")
"""States of a trial that will not go on."""
NOT_SET = "not set"
"""Value of a parameter in a trial that does not have it."""
COLOURS = "cividis"  # colour-blind readers see what others do
MOST_LABELS = 12
"""An axis of numbers has room for so many."""


def trial_folder(folder: str | Path, number: int) -> Path:
    """The folder of a trial, in the sweep's."""
    return Path(folder) / "trials" / f"{number:04d}"


def read_trials(folder: str | Path) -> list[dict[str, Any]]:
    """The trials of a sweep, by number, see `read_trial`."""
    trials = [read_trial(path.parent) for path in sorted(Path(folder).glob("trials/*/trial.json"))]
    return sorted(trials, key=lambda trial: trial["number"])


def read_trial(folder: Path) -> dict[str, Any]:
    """What `trial.json` says of a trial (number, params, status, ...), its ``curve`` (a line an epoch), and of this the
    last ``score``, ``best_epoch`` and number of ``epochs``."""
    curve = read_curve(folder)
    last = curve[-1] if curve else {"score": None, "best_epoch": None, "epoch": 0}
    known = {"score": last["score"], "best_epoch": last["best_epoch"], "epochs": last["epoch"]}
    return {**read_json(folder / "trial.json"), "curve": curve, **known}


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a trial: epoch (from 1), best ``score`` so far and its ``best_epoch``, ``valid_score`` of the epoch
    itself (None if it was not validated), train_loss."""
    try:
        lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


def write_curve(folder: Path, lines: list[dict[str, Any]]) -> None:
    """What `read_curve` reads, whole or not at all."""
    write_text(folder / "epochs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def validated(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs that have a score of their own."""
    return [line for line in lines if line["valid_score"] is not None]


def best_of(trials: list[dict[str, Any]], bigger: bool) -> dict[str, Any] | None:
    """The trial with the best validation score, the first of equal ones; one that has failed does not count."""
    return max(_scored(trials), key=lambda trial: trial["score"] if bigger else -trial["score"], default=None)


def _scored(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [trial for trial in trials if trial["score"] is not None and trial["status"] != "failed"]


def progress(folder: str, number: int, metric: str):
    """A callback for Ray: says of each trial that it has ended, and writes down those that the scheduler has ended, and
    those whose processes died."""
    from ray.tune import Callback

    class Progress(Callback):
        def __init__(self):
            self.ended = sum(trial["status"] in ENDED for trial in read_trials(folder))

        def on_trial_recover(self, iteration, trials, trial, **info):
            print(f"trial {trial.config['number']}: its process died, and starts again", flush=True)

        def on_trial_complete(self, iteration, trials, trial, **info):
            self._end(trial, "pruned")

        def on_trial_error(self, iteration, trials, trial, **info):
            died = "its process died" if trial.num_failures < 2 else f"its process died {trial.num_failures} times"
            self._end(trial, "failed", f"{died} (killed, or out of memory?); see error.txt")

        def _end(self, trial, status: str, reason: str | None = None) -> None:
            place = trial_folder(folder, trial.config["number"])
            content = read_json(place / "trial.json")
            if content["status"] not in ENDED:
                content.update(status=status, **({"reason": reason} if reason else {}))
                write_json(place / "trial.json", content)
                if reason and trial.error_file and Path(trial.error_file).exists():
                    shutil.copyfile(trial.error_file, place / "error.txt")
            self.ended += 1
            print(f"[{self.ended}/{number}] {_line(read_trial(place), metric)}", flush=True)

    return Progress()


def _line(trial: dict[str, Any], metric: str) -> str:
    score = "no score" if trial["score"] is None else f"{metric} {trial['score']:.4f}"
    why = f": {trial['reason']}" if trial.get("reason") else ""
    shown = {key: f"{value:.4g}" if type(value) is float else value for key, value in trial["params"].items()}
    params = ", ".join(f"{key}={value}" for key, value in shown.items())
    return f"trial {trial['number']} {trial['status']}{why}, {trial['epochs']} epochs, valid {score}; {params}"


def table(trials: list[dict[str, Any]], metric: str, bigger: bool) -> pd.DataFrame:
    """One line a trial, the best first, those that have failed last: number, status, valid score, epochs trained,
    seconds, parameters (empty where one is not set; lists and ~ as JSON), why it failed."""
    lines = [
        {
            "trial": trial["number"],
            "status": trial["status"],
            f"valid {metric}": trial["score"],
            "best_epoch": trial["best_epoch"],
            "epochs_run": trial["epochs"],
            "seconds": trial.get("seconds"),
            **{key: _cell(value) for key, value in trial["params"].items()},
            "reason": trial.get("reason"),
        }
        for trial in sorted(trials, key=lambda trial: _rank(trial, bigger))
    ]
    frame = pd.DataFrame(lines, dtype=object)  # else the whole numbers of a column with gaps become floats
    return frame[[*(name for name in frame if name != "reason"), "reason"]]


def _rank(trial: dict[str, Any], bigger: bool) -> tuple[bool, bool, float, int]:
    score = trial["score"]
    size = 0.0 if score is None else -score if bigger else score
    return trial["status"] == "failed", score is None, size, trial["number"]


def _cell(value: Any) -> Any:
    return value if isinstance(value, (int, float, str)) else json.dumps(value)


def text(trials: list[dict[str, Any]], best: dict[str, Any] | None, config) -> str:
    """The table of trials, and the test of the best one, for people."""
    frame = table(trials, config["valid_metric"], config["valid_metric_bigger"])
    if frame["reason"].isna().all():
        frame = frame.drop(columns="reason")
    body = frame.where(frame.notna(), None)
    parts = [tabulate(body.values.tolist(), headers=list(body), floatfmt=".4g", missingval="-")]
    if best is not None:
        parts += ["", "the best by validation, tested:", report(best)]
    return "\n".join(parts)


def write(
    folder: Path,
    trials: list[dict[str, Any]],
    best: dict[str, Any] | None,
    config,
    settings: Callable[[dict[str, Any]], dict[str, Any]],
) -> list[Path]:
    """trials.csv, the plots, TensorBoard's hparams, and best.yaml, which `run --config_files` takes.

    Args:
        best: the result of the best trial, tested; None if there is none.
        settings: what `run` got for the parameters of a trial.
    """
    metric = config["valid_metric"]
    frame = table(trials, metric, config["valid_metric_bigger"])
    write_text(folder / "trials.csv", frame.to_csv(index=False))
    written = [folder / "trials.csv"]
    scored = _scored(trials)
    if scored:
        written += _parallel(folder, scored, metric, config["valid_metric_bigger"])
        _hparams(folder, scored, metric)
    winner = best_of(trials, config["valid_metric_bigger"])
    if best and winner:
        chosen = {"model": config["model"], "dataset": config["dataset"], **settings(winner["params"])}
        chosen.pop("checkpoint_dir", None)
        head = _head(winner, best, metric)
        write_text(folder / "best.yaml", head + yaml.safe_dump(chosen, sort_keys=False, width=1000))
        written.append(folder / "best.yaml")
    return written


def _head(winner: dict[str, Any], best: dict[str, Any], metric: str) -> str:
    tested = ", ".join(f"{name} {value}" for name, value in (best["test_result"] or {}).items())
    ended = " (ended early by the scheduler)" if winner["status"] == "pruned" else ""
    return (
        f"# The best of the sweep by validation, trial {winner['number']}{ended}:\n"
        f"# {metric} {winner['score']:.4f} in epoch {winner['best_epoch']} of {winner['epochs']}.\n"
        f"# On the test rows: {tested or 'not tested'}\n"
        f"# python run_recbole_gen.py --config_files=best.yaml\n"
    )


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


def axes_of(trials: list[dict[str, Any]], metric: str) -> list[Axis]:
    """An axis for each parameter that differs between trials (for each, if none does), and one for the score."""
    names = dict.fromkeys(name for trial in trials for name in trial["params"])
    columns = {name: [trial["params"].get(name, NOT_SET) for trial in trials] for name in names}
    differing = {name: values for name, values in columns.items() if len({json.dumps(value) for value in values}) > 1}
    parameters = [_axis(name, values) for name, values in (differing or columns).items()]
    return [*parameters, _numbers(f"valid {metric}", [trial["score"] for trial in trials], is_log=False)]


def _axis(name: str, values: list[Any]) -> Axis:
    """Numbers in their order, in the logarithm where they are positive and span decades; if one of them is something
    else, all one after the other, "not set" below all."""
    if all(map(is_number, values)):
        return _numbers(name, values, is_log=min(values) > 0 and max(values) / min(values) >= 20)
    distinct = sorted({json.dumps(value) for value in values}, key=_by_value)
    places = {text: float(place) for place, text in enumerate(distinct)}
    labels = [text.strip('"') for text in distinct]
    return Axis(name, np.array([places[json.dumps(value)] for value in values]), np.arange(len(distinct)), labels)


def _numbers(name: str, values: list[float], is_log: bool) -> Axis:
    positions = np.log10(np.array(values, dtype=float)) if is_log else np.array(values, dtype=float)
    ticks = np.unique(positions)
    if len(ticks) > MOST_LABELS:
        ticks = np.linspace(positions.min(), positions.max(), 6)
    ticks = _apart(ticks)
    shown = 10**ticks if is_log else ticks
    return Axis(name, positions, ticks, [f"{value:.{4 if value >= 1000 else 3}g}" for value in shown])


def _apart(ticks: np.ndarray) -> np.ndarray:
    """Those whose labels do not stand on each other, from the highest on, in their order."""
    kept = [ticks[-1]]
    for tick in ticks[-2::-1]:
        if kept[-1] - tick >= np.ptp(ticks) / MOST_LABELS:
            kept.append(tick)
    return np.array(kept[::-1])


def _by_value(text: str) -> tuple[bool, bool, float, str]:
    value = json.loads(text)
    return value != NOT_SET, not is_number(value), value if is_number(value) else 0.0, text


def _parallel(folder: Path, trials: list[dict[str, Any]], metric: str, bigger: bool) -> list[Path]:
    """Parallel coordinates of the trials, coloured by score: a page to brush in, and a picture."""
    trials = sorted(trials, key=lambda trial: trial["score"], reverse=not bigger)  # the best is drawn on top
    axes, scores = axes_of(trials, metric), [trial["score"] for trial in trials]
    title = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}, coloured by valid {metric}"
    page = folder / "parallel.html"
    _parallel_page(axes, scores, title).write_html(page, include_plotlyjs=True)
    return [page, *figures.save(_parallel_picture(axes, scores, title), folder / "parallel.png")]


def _parallel_page(axes: list[Axis], scores: list[float], title: str):
    import plotly.graph_objects as go

    dimensions = [
        {"label": axis.name, "values": axis.positions, "tickvals": axis.ticks, "ticktext": axis.labels} for axis in axes
    ]
    line = {"color": scores, "colorscale": COLOURS, "showscale": True, "colorbar": {"title": {"text": axes[-1].name}}}
    figure = go.Figure(go.Parcoords(line=line, dimensions=dimensions, labelangle=-20, labelside="bottom"))
    return figure.update_layout(title=title, margin={"l": 80, "r": 80, "t": 70, "b": 110})


def _parallel_picture(axes: list[Axis], scores: list[float], title: str):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    longest = max(len(label) for axis in axes for label in axis.labels)
    figure, panel = figures.new(width=max(6.0, (0.9 + 0.08 * min(longest, 30)) * len(axes)), height=4.5)
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


def _hparams(folder: Path, trials: list[dict[str, Any]], metric: str) -> None:
    """What TensorBoard's HPARAMS page shows, beside each trial's curves: `tensorboard --logdir=FOLDER/trials`."""
    from torch.utils.tensorboard import SummaryWriter

    for trial in trials:
        place = trial_folder(folder, trial["number"])
        if any(place.glob("*.hparams")):
            continue  # of an earlier part of the sweep
        params = {key: _cell(value) for key, value in trial["params"].items()}
        with SummaryWriter(str(place), filename_suffix=".hparams") as writer:
            writer.add_hparams(params, {f"valid/best_{metric}": trial["score"]}, run_name=".")
