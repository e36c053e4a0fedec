"""What a sweep's folder tells: trials, the best one, a table, parallel coordinates, TensorBoard's hparams."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import yaml
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.files import read_json, write_json, write_text
from recbole_gen.quick_start import report

ENDED = ("finished", "pruned", "failed")
"""States of a trial that will not go on."""


def read_trials(folder: str | Path) -> list[dict[str, Any]]:
    """The trials of a sweep by number: what `trial.json` says (number, params, status, ...), its ``curve`` (a line an
    epoch), and of this the last ``score``, ``best_epoch`` and number of ``epochs``."""
    trials = []
    for path in sorted(Path(folder).glob("trials/*/trial.json")):
        trial = read_json(path)
        if not trial:
            continue
        curve = read_curve(path.parent)
        last = curve[-1] if curve else {"score": None, "best_epoch": None, "epoch": 0}
        known = {"score": last["score"], "best_epoch": last["best_epoch"], "epochs": last["epoch"]}
        trials.append({**trial, "curve": curve, **known})
    return sorted(trials, key=lambda trial: trial["number"])


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a trial; a last line that was cut off is not there."""
    try:
        lines = (folder / "epochs.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def best_of(trials: list[dict[str, Any]], bigger: bool) -> dict[str, Any] | None:
    """The trial with the best validation score, the first of equal ones; one that has failed does not count."""
    scored = [trial for trial in trials if trial["score"] is not None and trial["status"] != "failed"]
    return max(scored, key=lambda trial: trial["score"] if bigger else -trial["score"], default=None)


def progress(folder: str, number: int, metric: str):
    """A callback for Ray: says of each trial that it has ended, and writes down those that the scheduler has ended."""
    from ray.tune import Callback

    class Progress(Callback):
        def on_trial_complete(self, iteration, trials, trial, **info):
            self._end(trial, "pruned", None)

        def on_trial_error(self, iteration, trials, trial, **info):
            self._end(trial, "failed", "its process died, and again when it was started anew (out of memory?)")

        def _end(self, trial, status: str, reason: str | None) -> None:
            path = Path(folder) / "trials" / f"{trial.config['number']:04d}" / "trial.json"
            content = read_json(path)
            if content["status"] not in ENDED:
                content.update(status=status, **({"reason": reason} if reason else {}))
                write_json(path, content)
            known = read_trials(folder)
            ended = sum(each["status"] in ENDED for each in known)
            mine = next(each for each in known if each["number"] == trial.config["number"])
            print(f"[{ended}/{number}] {_line(mine, metric)}", flush=True)

    return Progress()


def _line(trial: dict[str, Any], metric: str) -> str:
    score = "no score" if trial["score"] is None else f"{metric} {trial['score']:.4f}"
    why = f": {trial['reason']}" if trial.get("reason") else ""
    params = ", ".join(f"{key}={value}" for key, value in trial["params"].items())
    return f"trial {trial['number']} {trial['status']}{why}, {trial['epochs']} epochs, valid {score}; {params}"


def table(trials: list[dict[str, Any]], metric: str, bigger: bool) -> pd.DataFrame:
    """One line a trial, the best first: number, status, valid score, epochs, seconds, parameters, why it failed."""
    lines = [
        {
            "trial": trial["number"],
            "status": trial["status"],
            f"valid {metric}": trial["score"],
            "best_epoch": trial["best_epoch"],
            "epochs": trial["epochs"],
            "seconds": trial.get("seconds"),
            **trial["params"],
            "reason": trial.get("reason"),
        }
        for trial in trials
    ]
    frame = pd.DataFrame(lines)
    frame = frame[[*(name for name in frame if name != "reason"), "reason"]]
    failed = frame["status"] == "failed"
    frame = frame.assign(failed=failed).sort_values(
        ["failed", f"valid {metric}", "trial"], ascending=[True, not bigger, True], na_position="last"
    )
    return frame.drop(columns="failed")


def text(trials: list[dict[str, Any]], best: dict[str, Any] | None, config) -> str:
    """The table of trials, and the test of the best one, for people."""
    metric = config["valid_metric"]
    frame = table(trials, metric, config["valid_metric_bigger"])
    if frame["reason"].isna().all():
        frame = frame.drop(columns="reason")
    body = frame.astype(object).where(frame.notna(), None)
    parts = [tabulate(body.values.tolist(), headers=list(body), floatfmt=".4g", missingval="-")]
    if best is not None:
        parts += ["", "the best by validation, tested:", report(best)]
    return "\n".join(parts)


def write(
    folder: Path, trials: list[dict[str, Any]], best: dict[str, Any] | None, config, values: dict[str, Any]
) -> list[Path]:
    """trials.csv, the plots, TensorBoard's hparams, and best.yaml, which `run --config_files` takes."""
    metric = config["valid_metric"]
    frame = table(trials, metric, config["valid_metric_bigger"])
    frame.to_csv(folder / "trials.csv", index=False)
    written = [folder / "trials.csv"]
    scored = [trial for trial in trials if trial["score"] is not None]
    if scored:
        written += _parallel(folder, scored, metric)
        _hparams(folder, scored, metric)
    if best is not None:
        winner = best_of(trials, config["valid_metric_bigger"]) or {}
        write_text(folder / "best.yaml", _best_yaml(winner, best, values, config))
        written.append(folder / "best.yaml")
    return written


def _best_yaml(winner: dict[str, Any], best: dict[str, Any], values: dict[str, Any], config) -> str:
    tested = ", ".join(f"{name} {value}" for name, value in best["test_result"].items())
    ended = " (ended early by the scheduler)" if winner["status"] == "pruned" else ""
    head = [
        f"# The best of the sweep by validation, trial {winner['number']}{ended}:",
        f"# {config['valid_metric']} {winner['score']:.4f} in epoch {winner['best_epoch']} of {winner['epochs']}.",
        f"# On the test rows: {tested}",
        "# python run_recbole_gen.py --config_files=best.yaml",
    ]
    chosen = {"model": config["model"], "dataset": config["dataset"], **values, **winner["params"]}
    chosen.pop("checkpoint_dir", None)
    return "\n".join([*head, yaml.safe_dump(chosen, sort_keys=False, width=1000)])


def _axes(trials: list[dict[str, Any]]) -> dict[str, list[Any]]:
    """The parameters that differ between trials, key -> value of each trial (None where it is not set)."""
    names = dict.fromkeys(name for trial in trials for name in trial["params"])
    columns = {name: [trial["params"].get(name) for trial in trials] for name in names}
    return {name: values for name, values in columns.items() if len({json.dumps(value) for value in values}) > 1}


def _scale(values: list[Any]) -> tuple[np.ndarray, list[float], list[str]]:
    """Where the values lie on an axis, with its ticks: numbers in their order (in the logarithm where they span decades
    and are positive), other values one after the other, "not set" below all."""
    numbers = [v for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)]
    if len(numbers) == len(values):
        positions = np.array(values, dtype=float)
        is_log = positions.min() > 0 and positions.max() / positions.min() >= 20
        positions = np.log10(positions) if is_log else positions
        ticks = np.unique(positions)
        if len(ticks) > 6:
            ticks = np.linspace(positions.min(), positions.max(), 6)
        return positions, ticks.tolist(), [f"{10**tick if is_log else tick:.3g}" for tick in ticks]
    distinct = sorted({json.dumps(v) for v in values if v is not None}, key=_by_value)
    if None in values:
        distinct.insert(0, "null")
    places = {name: float(place) for place, name in enumerate(distinct)}
    labels = ["not set" if name == "null" else str(json.loads(name)) for name in distinct]
    return np.array([places[json.dumps(v)] for v in values]), list(places.values()), labels


def _by_value(name: str) -> tuple[bool, float, str]:
    value = json.loads(name)
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return not is_number, value if is_number else 0.0, name


def _parallel(folder: Path, trials: list[dict[str, Any]], metric: str) -> list[Path]:
    """Parallel coordinates of the trials, coloured by score: a page to brush in, and a picture."""
    columns = {name: _scale(values) for name, values in _axes(trials).items()}
    scores = [trial["score"] for trial in trials]
    columns[f"valid {metric}"] = _scale(scores)
    title = f"{len(trials)} trials, coloured by valid {metric}"
    page = folder / "parallel.html"
    _parallel_page(columns, scores, title).write_html(page, include_plotlyjs=True)
    return [page, *figures.save(_parallel_picture(columns, scores, title), folder / "parallel.png")]


def _parallel_page(columns, scores: list[float], title: str):
    import plotly.graph_objects as go

    dimensions = [
        {"label": name, "values": positions, "tickvals": ticks, "ticktext": labels}
        for name, (positions, ticks, labels) in columns.items()
    ]
    line = {"color": scores, "colorscale": "Viridis", "showscale": True}
    return go.Figure(go.Parcoords(line=line, dimensions=dimensions)).update_layout(title=title)


def _parallel_picture(columns, scores: list[float], title: str):
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import Normalize

    figure, axes = figures.new(width=max(6.0, 1.7 * len(columns)), height=4.5)
    heights = np.stack([_to_unit(positions, positions) for positions, _, _ in columns.values()])  # [axes, trials]
    norm = Normalize(min(scores), max(scores))
    for number in np.argsort(scores):  # the best on top
        axes.plot(heights[:, number], color=colormaps["viridis"](norm(scores[number])), linewidth=1.8, alpha=0.9)
    for place, (positions, ticks, labels) in enumerate(columns.values()):
        axes.axvline(place, color="black", linewidth=0.8)
        for height, label in zip(_to_unit(np.array(ticks), positions), labels, strict=True):
            axes.annotate(
                label, (place, height), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8,
                bbox={"facecolor": "white", "edgecolor": "none", "pad": 0.5, "alpha": 0.8},
            )  # fmt: skip
    axes.set_xticks(range(len(columns)), list(columns), rotation=20, ha="right")
    axes.set_yticks([])
    axes.set_xlim(-0.1, len(columns) - 0.6)
    axes.set_frame_on(False)
    axes.set_title(title)
    figure.colorbar(ScalarMappable(norm, "viridis"), ax=axes, label=list(columns)[-1])
    return figure


def _to_unit(values: np.ndarray, positions: np.ndarray) -> np.ndarray:
    low, high = positions.min(), positions.max()
    return (values - low) / (high - low) if high > low else np.full(len(values), 0.5)


def _hparams(folder: Path, trials: list[dict[str, Any]], metric: str) -> None:
    """What TensorBoard's HPARAMS page shows, beside each trial's curves: `tensorboard --logdir=FOLDER/trials`."""
    from torch.utils.tensorboard import SummaryWriter

    for trial in trials:
        params = {
            key: value if isinstance(value, (int, float, str, bool)) else str(value)
            for key, value in trial["params"].items()
        }
        place = folder / "trials" / f"{trial['number']:04d}"
        with SummaryWriter(str(place), filename_suffix=".hparams") as writer:
            writer.add_hparams(params, {f"valid/best_{metric}": trial["score"]}, run_name=".")
