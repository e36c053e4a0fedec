"""The CPU time that the trials of a sweep may take together, training and validation, as a Stopper of Ray Tune."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_gen.sweep import state
from recbole_gen.sweep.state import Sweep


def cpu_seconds(trials: Sequence[dict[str, Any]]) -> float:
    """What the epochs of these trials have taken, in all processes that they have had."""
    return sum(trial.get("cpu_seconds") or 0.0 for trial in trials)


def is_spent(sweep: Sweep, trials: Sequence[dict[str, Any]]) -> bool:
    """Whether the trials have taken all of the CPU time that there is; never without a limit."""
    minutes = sweep.options["cpu_minutes"]
    return minutes is not None and cpu_seconds(trials) >= 60 * minutes


def make_stopper(sweep: Sweep, trials: Sequence[dict[str, Any]]):
    """A Stopper of Ray's: once the CPU time is spent, each trial stops after the epoch that it reports next, and when
    none runs any more the search ends. None without a limit.

    What it stops stays open: with more CPU time it goes on.
    """
    if sweep.options["cpu_minutes"] is None:
        return None
    from ray.tune import Stopper

    class Budget(Stopper):
        """``running`` has the names of Ray's for the trials that run, which the callback of the search keeps."""

        def __init__(self):
            self.running: set[str] = set()
            self.seconds = {trial["number"]: trial.get("cpu_seconds") or 0.0 for trial in trials}
            self.reported: set[str] = set()
            self.stopped: set[str] = set()

        def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
            if "number" not in result:  # the end of a trial that has reported nothing
                return False
            self.reported.add(trial_id)
            self.seconds[result["number"]] = result["cpu_seconds"]
            if self.is_spent():
                self.stopped.add(trial_id)
            return self.is_spent()

        def stop_all(self) -> bool:
            return self.is_spent() and not self.running

        def is_spent(self) -> bool:
            return sum(self.seconds.values()) >= 60 * sweep.options["cpu_minutes"]

        def has_kept_open(self, trial_id: str) -> bool:
            """Whether a trial has ended, or not begun, because of it."""
            return trial_id in self.stopped or (self.is_spent() and trial_id not in self.reported)

    return Budget()


def usage_text(sweep: Sweep, trials: Sequence[dict[str, Any]]) -> str:
    """How many trials have ended, and the CPU time of them all, for people."""
    minutes, used = sweep.options["cpu_minutes"], cpu_seconds(trials) / 60
    ended = sum(trial["status"] in state.ENDED for trial in trials)
    text = f"{ended} of {sweep.num_trials()} trials have ended; CPU time of all trials: {used:.2f} minutes"
    if minutes is None:
        return text
    if not is_spent(sweep, trials):
        return f"{text} of {minutes:g}"
    begun = sum(trial["status"] not in state.ENDED and trial["epochs"] > 0 for trial in trials)
    left = sweep.num_trials() - ended - begun
    return (
        f"{text}, and --cpu_minutes={minutes:g} is used up: {begun} were stopped after an epoch, {left} not started"
        f" (--resume with a larger number goes on with them)"
    )
