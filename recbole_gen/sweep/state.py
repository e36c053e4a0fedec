"""The state of a sweep: what was asked for, and what lies in its folder.

A sweep is a folder: `sweep.json` (what was asked for), trials/NUMBER for each trial, and at the end the best one. What
is in the trials' folders decides how a sweep goes on: settings (`trial.json`), a line an epoch (`epochs.jsonl`), the
run's checkpoints. Ray's own state, which is pickled and saved every few seconds only, is not read back.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError
from recbole_gen.files import require_json, write_json, write_text
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_file import read_space

ENDED = ("finished", "pruned", "failed")
"""States of a trial that will not go on."""
CURVE_KEYS = {"epoch", "score", "valid_score", "train_loss", "best_epoch"}
"""What a line of `epochs.jsonl` has."""


@dataclass(frozen=True)
class Sweep:
    """What a sweep was asked for: ``values`` that every trial's `run` gets, ``options`` of `tune`, and the space, with
    the file that it was read from."""

    folder: str
    values: dict[str, Any]
    options: dict[str, Any]
    space_file: str
    space: Space

    def trial_folder(self, number: int) -> Path:
        """Where a trial is, in the sweep's folder."""
        return trial_folder(self.folder, number)

    def data_cache(self, node: str) -> Path:
        """Where the trials on one machine of the cluster, by Ray's name for it, share their data set."""
        name = hashlib.blake2b(self.folder.encode(), digest_size=8).hexdigest()
        return Path(tempfile.gettempdir()) / f"recbole_gen-{name}-{node[:12]}"

    def num_trials(self) -> int:
        """How many trials there are to be."""
        wanted = self.options["num_samples"]
        drawn = wanted if self.options["searcher"] == "optuna" else self.space.num_trials(wanted)
        return drawn + bool(self.options.get("defaults_first"))

    def trial_settings(self, params: dict[str, Any]) -> dict[str, Any]:
        """What `run` gets for the trial with these parameters."""
        return {"num_threads": max(1, int(self.options["cpus_per_trial"])), **self.values, **params}


def write_sweep(sweep: Sweep) -> None:
    """What `read_sweep` reads."""
    file = Path(sweep.space_file)
    copy = Path(sweep.folder) / f"space{file.suffix or '.hyper'}"
    if file != copy:
        shutil.copyfile(file, copy)
    content = {"values": sweep.values, "options": sweep.options, "space": copy.name}
    write_json(Path(sweep.folder) / "sweep.json", content)


def read_sweep(folder: str) -> Sweep:
    """The sweep in a folder. Raises UserError if there is none, or if its sweep.json is damaged."""
    place = Path(folder).absolute()
    if not (place / "sweep.json").exists():
        raise UserError(f"--resume={folder}: there is no sweep in that folder (it would have a sweep.json)")
    cure = "start the sweep anew in another --output; what its trials have found stays in their folders"
    stored = require_json(place / "sweep.json", {"values": dict, "options": dict, "space": str}, cure)
    file = place / stored["space"]
    return Sweep(str(place), stored["values"], stored["options"], str(file), read_space(file))


def trial_folder(folder: str | Path, number: int) -> Path:
    """The folder of a trial, in the sweep's."""
    return Path(folder) / "trials" / f"{number:04d}"


def write_new_trial(sweep: Sweep, number: int, content: dict[str, Any]) -> None:
    """Write down a trial that is to run."""
    write_json(sweep.trial_folder(number) / "trial.json", {"number": number, "status": "open", **content})


def read_trials(folder: str | Path) -> list[dict[str, Any]]:
    """The trials of a sweep, by number, see `read_trial`. Raises UserError for files that are damaged."""
    trials = [read_trial(path.parent) for path in sorted(Path(folder).glob("trials/*/trial.json"))]
    return sorted(trials, key=lambda trial: trial["number"])


def read_trial(folder: Path) -> dict[str, Any]:
    """What `trial.json` says of a trial (number, params, status, ...), its ``curve`` (a line an epoch), and of this the
    last ``score``, ``best_epoch`` and number of ``epochs``. Raises UserError for files that are damaged."""
    trial = require_json(folder / "trial.json", {"number": int, "params": dict, "status": str}, _cure(folder))
    if folder.name != f"{trial['number']:04d}":
        raise UserError(f"{folder / 'trial.json'} is of trial {trial['number']}: {_cure(folder)}")
    curve = read_curve(folder)
    last = curve[-1] if curve else {"score": None, "best_epoch": None, "epoch": 0}
    known = {"score": last["score"], "best_epoch": last["best_epoch"], "epochs": last["epoch"]}
    return {**trial, "curve": curve, **known}


def read_curve(folder: Path) -> list[dict[str, Any]]:
    """The epochs of a trial: epoch (from 1), best ``score`` so far and its ``best_epoch``, ``valid_score`` of the epoch
    itself (None if it was not validated), train_loss. Raises UserError for a file that is damaged."""
    path = folder / "epochs.jsonl"
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {_cure(folder)}") from None
    if not all(isinstance(line, dict) and line.keys() >= CURVE_KEYS for line in lines):
        raise UserError(f"{path} is damaged (a line is not that of an epoch): {_cure(folder)}")
    return lines


def _cure(folder: Path) -> str:
    return f"remove the folder {folder}, and the trial is made anew"


def write_curve(folder: Path, lines: list[dict[str, Any]]) -> None:
    """What `read_curve` reads, whole or not at all."""
    write_text(folder / "epochs.jsonl", "".join(json.dumps(line) + "\n" for line in lines))


def status_text(trial: dict[str, Any]) -> str:
    """The status of a trial for people: what is open when a sweep is over was stopped by its limit of CPU time."""
    return trial["status"] if trial["status"] in ENDED else "stopped" if trial["epochs"] else "not started"


def validated_epochs(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The epochs that have a score of their own."""
    return [line for line in lines if line["valid_score"] is not None]


def best_trial(trials: list[dict[str, Any]], bigger: bool) -> dict[str, Any] | None:
    """The trial with the best validation score, the first of equal ones; one that has failed does not count."""
    return max(scored_trials(trials), key=lambda trial: trial["score"] if bigger else -trial["score"], default=None)


def scored_trials(trials: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Those with a validation score that have not failed."""
    return [trial for trial in trials if trial["score"] is not None and trial["status"] != "failed"]


def flat_params(trial: dict[str, Any]) -> dict[str, Any]:
    """The parameters of a trial for tables: numbers and text as they are, lists and None as JSON."""
    values = trial["params"].items()
    return {key: value if isinstance(value, (int, float, str)) else json.dumps(value) for key, value in values}
