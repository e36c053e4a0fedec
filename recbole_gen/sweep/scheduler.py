"""Which trials end early: Ray's ASHA, told what the trials of a sweep that goes on have reported."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

from recbole_gen.sweep import state
from recbole_gen.sweep.state import Sweep


def make_scheduler(sweep: Sweep, mode: str, epochs: int, trials: list[dict[str, Any]]):
    """Ray's ASHA (Li et al., A System for Massively Parallel Hyperparameter Tuning, 2020), which has seen what the
    trials of a sweep that goes on have reported; None for none.

    Ray would begin anew, and judge those that are left by each other alone.
    """
    if sweep.options["scheduler"] == "none":
        return None
    from ray.tune.schedulers import ASHAScheduler

    class Asha(ASHAScheduler):
        """Here a trial is its number: where it goes on in another Ray, it is the same one, and has passed its rungs."""

        def on_trial_add(self, tune_controller, trial):
            super().on_trial_add(tune_controller, by_number(trial))

        def on_trial_result(self, tune_controller, trial, result):
            return super().on_trial_result(tune_controller, by_number(trial), result)

        def on_trial_complete(self, tune_controller, trial, result):
            super().on_trial_complete(tune_controller, by_number(trial), result)

        def on_trial_remove(self, tune_controller, trial):
            super().on_trial_remove(tune_controller, by_number(trial))

    def by_number(trial) -> Any:
        return SimpleNamespace(trial_id=trial.config["number"])

    grace = min(sweep.options["grace_period"] or max(1, -(-epochs // 8)), epochs)
    scheduler = Asha(
        "epoch", "score", mode, max_t=epochs, grace_period=grace, reduction_factor=sweep.options["reduction_factor"],
        stop_last_trials=False,  # else Ray calls a trial at its last epoch stopped, and judges twice at a rung
    )  # fmt: skip
    for trial in trials:
        reported = state.validated_epochs(trial["curve"])
        if trial["status"] not in state.ENDED:
            reported = reported[:-1]  # the last one may not have been judged: `run_trial` reports it again
        known: Any = SimpleNamespace(config={"number": trial["number"]})
        scheduler.on_trial_add(None, known)
        for line in reported:
            scheduler.on_trial_result(None, known, line)
    return scheduler
