"""Optuna as a searcher of Ray Tune. Its study is a journal of JSON lines in the sweep's folder, so that it goes on."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState
from ray.tune.search import Searcher

from recbole_gen.sweep import state
from recbole_gen.sweep.state import Sweep


class OptunaSearcher(Searcher):
    """Hands out the trials that are still open, then those that Optuna's TPE thinks of (Bergstra et al., Algorithms for
    Hyper-Parameter Optimization, 2011).

    A trial that the scheduler has ended counts with its best score, like one that has finished; one that has failed
    counts as failed. Those that run meanwhile are thought of as bad ones (Optuna's constant_liar), so that not all look
    in one place.

    Not Ray's own OptunaSearch: that keeps its study in a pickle, and takes conditional spaces only where it is not
    told of earlier trials.

    Args:
        mode: max or min, of the scores.
        trials: those that there are already, see `state.read_trials`.
    """

    def __init__(self, sweep: Sweep, mode: str, trials: list[dict[str, Any]]):
        super().__init__(metric="score", mode=mode)
        self.sweep, self.begun = sweep, max((trial["number"] for trial in trials), default=-1) + 1
        self.left = [trial["number"] for trial in trials if trial["status"] not in state.ENDED]
        self.numbers: dict[str, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(Path(sweep.folder) / "optuna.jsonl"))),
            sampler=optuna.samplers.TPESampler(seed=sweep.values.get("seed", 2020) + self.begun, constant_liar=True),
            direction="maximize" if mode == "max" else "minimize",
            load_if_exists=True,
        )
        for trial in trials:  # the sweep may have been killed before it told Optuna
            if trial["status"] in state.ENDED:
                self._tell_score(trial, trial["status"] == "failed")
        known = {trial.get("optuna") for trial in trials}
        for asked in self.study.get_trials(deepcopy=False, states=[TrialState.RUNNING]):
            if asked.number not in known:  # it was killed before it began that trial
                self.study.tell(asked.number, state=TrialState.FAIL)

    def suggest(self, trial_id: str) -> dict[str, int]:
        """The number of the next trial, as Ray's config."""
        if self.left:
            number = self.left.pop(0)
        else:
            number, trial = self.begun, self.study.ask()
            content = {"params": self.sweep.space.suggest(trial), "optuna": trial.number}
            state.write_new_trial(self.sweep, number, content)
            self.begun += 1
        self.numbers[trial_id] = number
        return {"number": number}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the score of a trial that has ended."""
        folder = self.sweep.trial_folder(self.numbers.pop(trial_id))
        trial = state.read_trial(folder)
        self._tell_score(trial, error or trial["status"] == "failed")

    def _tell_score(self, trial: dict[str, Any], has_failed: bool) -> None:
        if "optuna" not in trial:
            self._tell_given(trial, has_failed)
        elif has_failed or trial["score"] is None:
            self.study.tell(trial["optuna"], state=TrialState.FAIL, skip_if_finished=True)
        else:
            self.study.tell(trial["optuna"], trial["score"], skip_if_finished=True)

    def _tell_given(self, trial: dict[str, Any], has_failed: bool) -> None:
        """Of a trial that Optuna has not thought of, the defaults. It learns from it if the space has its values."""
        is_known = any(each.user_attrs.get("number") == trial["number"] for each in self.study.trials)
        if is_known or has_failed or trial["score"] is None:
            return
        dimensions = self.sweep.space.dimensions
        point = {key: dimensions[key].as_suggested(value) for key, value in trial["params"].items()}
        fixed = optuna.trial.FixedTrial(point)
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a number outside of a range
                self.sweep.space.suggest(fixed)
        except (UserWarning, ValueError):  # an option that is none of the space's
            return
        own = {"number": trial["number"]}
        self.study.add_trial(
            optuna.trial.create_trial(
                params=fixed.params, distributions=fixed.distributions, value=trial["score"], user_attrs=own
            )
        )

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the study and the trials' folders are saved as they grow."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing: see `save`."""
