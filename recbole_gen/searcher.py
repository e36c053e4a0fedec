"""Optuna as a searcher of Ray Tune. Its study is a journal of JSON lines in the sweep's folder, so that it goes on."""

from __future__ import annotations

from pathlib import Path

import optuna
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from ray.tune.search import Searcher

from recbole_gen import tune
from recbole_gen.files import read_json


class OptunaPoints(Searcher):
    """Hands out the trials that are still open, then those that Optuna's default sampler (TPE) thinks of.

    Not Ray's own OptunaSearch: that keeps its study in a pickle, and takes conditional spaces only where it is not
    told of earlier trials.

    Args:
        left: numbers of the trials that have begun and not ended.
        begun: how many have begun; the next one gets this number.
    """

    def __init__(self, sweep: tune.Sweep, mode: str, left: list[int], begun: int):
        super().__init__(metric="score", mode=mode)
        self.sweep, self.space, self.left, self.begun = sweep, sweep.read_space(), list(left), begun
        self.numbers: dict[str, int] = {}
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.study = optuna.create_study(
            study_name="sweep",
            storage=JournalStorage(JournalFileBackend(str(Path(sweep.folder) / "optuna.jsonl"))),
            sampler=optuna.samplers.TPESampler(seed=sweep.values.get("seed", 2020) + begun),
            direction="maximize" if mode == "max" else "minimize",
            load_if_exists=True,
        )

    def suggest(self, trial_id: str):
        """The number of the next trial, as Ray's config."""
        if self.left:
            number = self.left.pop(0)
        else:
            number, trial = self.begun, self.study.ask()
            self.begun += 1
            content = {"params": self.space.suggest(trial), "optuna": trial.number}
            tune.begin(self.sweep, number, content)
        self.numbers[trial_id] = number
        return {"number": number}

    def on_trial_complete(self, trial_id: str, result=None, error=False):
        """Tell Optuna the score of a trial that has ended."""
        folder = self.sweep.trial_folder(self.numbers.pop(trial_id))
        score = (result or {}).get("score")
        failed = score is None or read_json(folder / "trial.json")["status"] == "failed"
        number = read_json(folder / "trial.json")["optuna"]
        if failed:
            self.study.tell(number, state=optuna.trial.TrialState.FAIL)
        else:
            self.study.tell(number, score)

    def save(self, checkpoint_path: str):
        """Nothing: the study and the trials' folders are saved as they grow."""

    def restore(self, checkpoint_path: str):
        """Nothing: see `save`."""
