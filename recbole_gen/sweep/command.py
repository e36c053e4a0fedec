"""`recbole-gen tune`: a search for hyper-parameters on Ray Tune; every trial is one `run()`.

Help, and mistakes in what this verb alone has, are answered before the search and its libraries are imported.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from recbole_gen.config.early_checks import check_values
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import asks_for_help, is_number, is_whole, parse_arguments, split_options
from recbole_gen.sweep.cluster import Resources
from recbole_gen.sweep.space_file import read_space
from recbole_gen.sweep.state import Sweep, read_sweep

USAGE = """\
usage: recbole-gen tune --model=NAME --dataset=NAME [--space=FILE] [--num_samples=10] [--key=value ...]
       recbole-gen tune --resume=FOLDER

  --space=FILE             what is searched: YAML, or RecBole's .hyper text (default properties/tune/MODEL.yaml)
  --num_samples=10         how often what is drawn is drawn; a grid is gone through so many times
  --defaults_first=false   or true: one trial more, before all others, of the values that a run has without the space
  --cpu_minutes=           CPU time of training and validation that all trials may take together: then no other starts,
                           and those that run stop after the epoch that they validate next; the best so far wins
  --searcher=random        or optuna, which learns from the trials that have ended
  --scheduler=asha         ends the weaker trials early; or none
  --grace_period=          epochs that no trial is ended before (default an eighth of all)
  --reduction_factor=3     asha keeps one in so many
  --cpus_per_trial=1 --gpus_per_trial=  what each trial gets; shares of a GPU, too (default one where there is one)
  --address=auto           join the Ray cluster that this machine is in, instead of starting one here
  --max_failures=2         how often a trial whose process dies starts again from its last epoch
  --output=FOLDER          the sweep's folder (default saved/tune/MODEL-DATASET-TIME); every machine must see it
  --resume=FOLDER          go on with a sweep: what has ended is kept; --num_samples and --cpu_minutes may be larger
                           now, and what trials get may change
  --key=value              any key of `run`, the same for all trials
"""
OPTIONS: dict[str, Any] = {
    "space": None, "num_samples": 10, "searcher": "random", "scheduler": "asha", "grace_period": None,
    "reduction_factor": 3, "cpus_per_trial": 1, "gpus_per_trial": None, "address": None, "max_failures": 2,
    "output": None, "resume": None, "cpu_minutes": None,
    "defaults_first": False,
}  # fmt: skip
ON_RESUME = ("num_samples", "cpu_minutes", "cpus_per_trial", "gpus_per_trial", "address", "max_failures")
"""Options that a sweep may go on with other values of."""
NEWER: dict[str, Any] = {"cpu_minutes": None, "defaults_first": False}
"""Options that sweeps of earlier versions do not have -> what they were run with."""


def main(arguments: Sequence[str]) -> int:
    """The `tune` verb of the command line; returns the exit code, 0 also if some of the trials have failed.

    Raises UserError, also if all trials have failed, or Interrupted on Ctrl-C.
    """
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return 0
    given = parse_arguments(arguments)
    if "resume" in given:
        sweep = _resumed_sweep(given)
    else:
        options, of_run = split_options(given, OPTIONS, "tune", refused=())
        check_options(options)
        space = None if options["space"] is None else read_space(str(options["space"]))
        check_values(of_run, options=OPTIONS)  # before what takes its time to load
        from recbole_gen.sweep.plan import new_sweep

        sweep = new_sweep(options, of_run, space)
    from recbole_gen.sweep.tune import run_sweep

    return run_sweep(sweep)


def _resumed_sweep(given: dict[str, Any]) -> Sweep:
    """The sweep of `--resume`, with the options that may be others now."""
    if given["resume"] is True or given["resume"] == "":
        raise UserError("--resume needs the folder of the sweep that is to go on")
    stored = read_sweep(str(given["resume"]))
    for key in given.keys() - {*ON_RESUME, "resume"}:
        can = ", ".join(f"--{name}" for name in ON_RESUME)
        near = "" if key in OPTIONS else did_you_mean(key, ON_RESUME, ": did you mean --{}?")
        raise UserError(f"--{key} cannot change when a sweep goes on{near or ';'} what can: {can}")
    split_options(given, OPTIONS, "tune", refused=())  # each has a value
    before = {**NEWER, **stored.options}
    if missing := ", ".join(OPTIONS.keys() - before.keys()):
        raise UserError(
            f"{stored.folder}/sweep.json is damaged (it has no option {missing}): start the sweep anew in another "
            f"--output"
        )
    options = {**before, **{key: given[key] for key in given if key in ON_RESUME}}
    check_options(options)
    for key in ("num_samples", "cpu_minutes"):
        if before[key] is not None and options[key] is not None and options[key] < before[key]:
            raise UserError(f"--{key}={options[key]}: this sweep has {before[key]} already, and can only get more")
    return replace(stored, options=options)


def check_options(options: dict[str, Any]) -> None:
    """Raise UserError for values that the options cannot have; names of choices become lower case."""
    for key, choices in (("searcher", ("random", "optuna")), ("scheduler", ("asha", "none"))):
        if str(options[key]).lower() not in choices:
            raise UserError(f"--{key} must be {' or '.join(choices)}, got {options[key]!r}")
        options[key] = str(options[key]).lower()  # --scheduler=None, too
    for key, least in (("num_samples", 1), ("max_failures", 0), ("reduction_factor", 2), ("grace_period", 1)):
        value = options[key]
        if not (is_whole(value) and value >= least) and not (key == "grace_period" and value is None):
            raise UserError(f"--{key} must be a whole number of at least {least}, got {value!r}")
    minutes = options["cpu_minutes"]
    if minutes is not None and not (is_number(minutes) and 0 < minutes < float("inf")):
        raise UserError(f"--cpu_minutes must be a number of minutes above 0, such as 10, got {minutes!r}")
    if not isinstance(options["defaults_first"], bool):
        raise UserError(f"--defaults_first must be true or false, got {options['defaults_first']!r}")
    Resources("trial", options["cpus_per_trial"], options["gpus_per_trial"])
    if options["searcher"] == "optuna" and importlib.util.find_spec("optuna") is None:
        raise UserError(
            "--searcher=optuna needs Optuna, which is not installed: pip install optuna (--searcher=random needs "
            "nothing more)"
        )
