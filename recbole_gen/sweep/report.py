"""What a sweep has found: the table of trials, the best one, and the files that are written of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import yaml
from tabulate import tabulate

from recbole_gen.files import write_text
from recbole_gen.sweep import state
from recbole_gen.sweep.hparams import write_hparams
from recbole_gen.sweep.parallel_coordinates import write_parallel_coordinates
from recbole_gen.training.result_text import describe_result


def trials_table(trials: list[dict[str, Any]], metric: str, bigger: bool) -> pd.DataFrame:
    """One line a trial, the best first, those that have failed last: number, status, valid score, epochs trained,
    seconds, CPU seconds of the epochs, parameters (empty where one is not set; lists and ~ as JSON), why it failed."""
    lines = [
        {
            "trial": trial["number"],
            "status": state.status_text(trial),
            f"valid {metric}": trial["score"],
            "best_epoch": trial["best_epoch"],
            "epochs_run": trial["epochs"],
            "seconds": trial.get("seconds"),
            "cpu_seconds": trial.get("cpu_seconds"),
            **state.flat_params(trial),
            "reason": trial.get("reason"),
        }
        for trial in sorted(trials, key=lambda trial: _sort_key(trial, bigger))
    ]
    frame = pd.DataFrame(lines, dtype=object)  # else the whole numbers of a column with gaps become floats
    return frame[[*(name for name in frame if name != "reason"), "reason"]]


def _sort_key(trial: dict[str, Any], bigger: bool) -> tuple[bool, bool, float, int]:
    score = trial["score"]
    size = 0.0 if score is None else -score if bigger else score
    return trial["status"] == "failed", score is None, size, trial["number"]


def results_text(trials: list[dict[str, Any]], best: dict[str, Any] | None, config, usage: str = "") -> str:
    """The table of trials, what they have taken (``usage``), and the test of the best one, for people."""
    frame = trials_table(trials, config["valid_metric"], config["valid_metric_bigger"])
    if frame["reason"].isna().all():
        frame = frame.drop(columns="reason")
    body = frame.where(frame.notna(), None)
    parts = [tabulate(body.values.tolist(), headers=list(body), floatfmt=".4g", missingval="-")]
    parts += [usage] if usage else []
    if best is not None:
        parts += ["", "the best by validation, tested:", describe_result(best)]
    return "\n".join(parts)


def write_results(
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
    frame = trials_table(trials, metric, config["valid_metric_bigger"])
    write_text(folder / "trials.csv", frame.to_csv(index=False))
    written = [folder / "trials.csv"]
    scored = state.scored_trials(trials)
    if scored:
        written += write_parallel_coordinates(folder, scored, metric, config["valid_metric_bigger"])
        write_hparams(folder, [trial for trial in scored if trial["status"] in state.ENDED], metric)
    winner = state.best_trial(trials, config["valid_metric_bigger"])
    if best and winner:
        chosen = {"model": config["model"], "dataset": config["dataset"], **settings(winner["params"])}
        chosen.pop("checkpoint_dir", None)
        head = _best_header(winner, best, metric)
        write_text(folder / "best.yaml", head + yaml.safe_dump(chosen, sort_keys=False, width=1000))
        written.append(folder / "best.yaml")
    return written


def _best_header(winner: dict[str, Any], best: dict[str, Any], metric: str) -> str:
    tested = ", ".join(f"{name} {value}" for name, value in (best["test_result"] or {}).items())
    ended = " (ended early by the scheduler)" if winner["status"] == "pruned" else ""
    return (
        f"# The best of the sweep by validation, trial {winner['number']}{ended}:\n"
        f"# {metric} {winner['score']:.4f} in epoch {winner['best_epoch']} of {winner['epochs']}.\n"
        f"# On the test rows: {tested or 'not tested'}\n"
        f"# python run_recbole_gen.py --config_files=best.yaml\n"
    )
