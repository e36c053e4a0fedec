"""What a sweep says while it runs: a line for each trial that has ended."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from recbole_gen.files import read_json, write_json
from recbole_gen.sweep import state
from recbole_gen.sweep.failures import reason_of_death


def progress_callback(folder: str, number: int, metric: str, budget: Any = None):
    """A callback for Ray: says of each trial that it has ended, and writes down those that the scheduler has ended, and
    those whose processes died. ``budget`` is the stopper that must know which trials run, see `budget.make_stopper`."""
    from ray.tune import Callback

    class Progress(Callback):
        def __init__(self):
            self.ended = sum(trial["status"] in state.ENDED for trial in state.read_trials(folder))

        def on_trial_start(self, iteration, trials, trial, **info):
            if budget is not None:
                budget.running.add(trial.trial_id)

        def on_trial_recover(self, iteration, trials, trial, **info):
            print(f"trial {trial.config['number']}: its process died, and starts again", flush=True)

        def on_trial_complete(self, iteration, trials, trial, **info):
            self._end(trial, "pruned")

        def on_trial_error(self, iteration, trials, trial, **info):
            self._end(trial, "failed", reason_of_death(trial.num_failures))

        def _end(self, trial, status: str, reason: str | None = None) -> None:
            place = state.trial_folder(folder, trial.config["number"])
            content = read_json(place / "trial.json")
            if budget is not None:
                budget.running.discard(trial.trial_id)
            if budget is not None and content["status"] not in state.ENDED and budget.has_kept_open(trial.trial_id):
                if (known := state.read_trial(place))["epochs"]:
                    print(describe_trial(known, metric), flush=True)
                return
            if content["status"] not in state.ENDED:
                content.update(status=status, **({"reason": reason} if reason else {}))
                write_json(place / "trial.json", content)
                if reason and trial.error_file and Path(trial.error_file).exists():
                    shutil.copyfile(trial.error_file, place / "error.txt")
            self.ended += 1
            print(f"[{self.ended}/{number}] {describe_trial(state.read_trial(place), metric)}", flush=True)

    return Progress()


def describe_trial(trial: dict[str, Any], metric: str) -> str:
    """One line for the terminal."""
    score = "no score" if trial["score"] is None else f"{metric} {trial['score']:.4f}"
    why = f": {trial['reason']}" if trial.get("reason") else ""
    shown = {key: f"{value:.4g}" if type(value) is float else value for key, value in trial["params"].items()}
    params = ", ".join(f"{key}={value}" for key, value in shown.items())
    return f"trial {trial['number']} {state.status_text(trial)}{why}, {trial['epochs']} epochs, valid {score}; {params}"
