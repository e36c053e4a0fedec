"""From what was asked for to the trials of a sweep, each of which `run` must accept before the first one starts."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from recbole_gen.config.config import Config
from recbole_gen.config.layers import Source, read_user_layers, run_values, with_origins
from recbole_gen.config.places import PROPERTIES
from recbole_gen.data import requirements
from recbole_gen.errors import UserError, did_you_mean, quoted_option
from recbole_gen.files import require_folder_output
from recbole_gen.prepare.missing_dataset import with_dataset_fetched
from recbole_gen.sweep import state
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_checks import require_allowed_values
from recbole_gen.sweep.space_file import read_space
from recbole_gen.sweep.state import Sweep

MAX_CHECKED = 200
"""Settings that are checked before a sweep starts; more would take their time."""


def new_sweep(options: dict[str, Any], of_run: dict[str, Any], space: Space | None = None) -> Sweep:
    """The sweep that a command line asks for, see `asked_sweep`. Raises UserError for an output folder that is in use,
    too."""
    sweep = asked_sweep(options, of_run, space)
    folder = Path(sweep.folder)
    if (folder / "sweep.json").exists():
        raise UserError(
            f"there is a sweep in {folder}: go on with it by "
            f"{quoted_option('resume', folder)}, or name another --output"
        )
    if folder.exists() and not (folder.is_dir() and all(path.name == ".lock" for path in folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: name another --output")
    return sweep


def asked_sweep(
    options: dict[str, Any],
    of_run: dict[str, Any],
    space: Space | None = None,
    files: Sequence[Source] = (),
    **weaker: Any,
) -> Sweep:
    """What a command line asks for, whatever lies in its folder.

    Args:
        options: those of `tune`, all of them.
        of_run: keys of `run` on the command line.
        space: what the file of ``options`` holds; None where there is none, for the one of the model.
        files: settings of the model, which those on the command line win over.
        weaker: keys of `run` that all others win over.

    Raises UserError if `run` does not accept the keys, or a value that the space can draw, if there is no space or a
    key of it is given, too, and for an output folder that cannot be one.
    """
    values = run_values(of_run, files, **weaker)
    config = base_config(values, of_run, options, files)
    path = Path(str(options["space"] or PROPERTIES / f"tune/{config['model']}.yaml"))
    if space is None and not path.is_file():
        raise UserError(
            f"there is no search space for {config['model']}: give one with --space=FILE, such as a YAML file with the "
            f"line `learning_rate: {{loguniform: [1.0e-4, 1.0e-2]}}`"
        )
    space = space or read_space(path)
    given = of_run.keys() | {key for _, layer in read_user_layers(files) for key in layer}
    if both := sorted(given & space.dimensions.keys()):
        raise UserError(f"{', '.join(both)}: given for all trials, and searched in {path}; take one of the two out")
    require_allowed_values(space.dimensions.values(), config.table, str(path))
    name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    folder = Path(str(options["output"] or Path(config["checkpoint_dir"]) / "tune" / name)).absolute()
    require_folder_output(folder)
    return Sweep(str(folder), values, options, str(path), space)


def base_config(
    values: dict[str, Any], given: dict[str, Any], options: Iterable[str] = (), files: Sequence[Source] = ()
) -> Config:
    """The configuration without the space. Raises UserError, which knows the names of the options of `tune`, too."""
    try:
        return with_dataset_fetched(partial(Config, config_dict=values))
    except UserError as error:
        message = with_origins(error, given, files)
        near = {key: did_you_mean(key, options, "--{}", cutoff=0.8) for key in getattr(error, "unknown", ())}
        hints = [f"--{key}: tune has an option {option}" for key, option in near.items() if option]
        raise UserError("\n".join([message, *hints])) from None


def planned_points(sweep: Sweep) -> list[dict[str, Any]]:
    """The settings of the trials that are known before they run: all of a random search, those begun of another, with
    the defaults as the first one where they are asked for."""
    begun = {trial["number"]: trial["params"] for trial in state.read_trials(sweep.folder)}
    points = [default_point(sweep)] if sweep.options.get("defaults_first") else []
    if sweep.options["searcher"] == "optuna":
        return list(begun.values()) or points
    points += sweep.space.sample(sweep.options["num_samples"], sweep.values.get("seed", 2020))
    return [begun.get(number, point) for number, point in enumerate(points)]


def default_point(sweep: Sweep) -> dict[str, Any]:
    """The settings of the trial that a run without the space is; keys of which the space has one value have this."""
    settings = Config(config_dict=sweep.values, needs_data=False).settings()
    point: dict[str, Any] = {}
    for dimension in sweep.space.parents_first():
        is_fixed = dimension.kind == "constant"
        if (is_fixed or dimension.name in settings) and dimension.is_active(point):
            point[dimension.name] = dimension.values[0] if is_fixed else settings[dimension.name]
    return {name: point[name] for name in sweep.space.dimensions if name in point}


def check_trials(sweep: Sweep, points: list[dict[str, Any]]) -> tuple[Config, int]:
    """See that `run` accepts the settings that are to come, before the first trial.

    Returns a configuration of a trial, and the most epochs of any. Raises UserError that names the file of the space,
    and the point.
    """
    distinct = {json.dumps(point, sort_keys=True): point for point in points or sweep.space.sample(20, 0)}
    searched = sweep.space.dimensions.get("epochs")
    epochs = [value for value in searched.values if isinstance(value, int)] if searched else []
    for point in [*distinct.values()][:MAX_CHECKED]:
        try:
            config = with_dataset_fetched(partial(Config, config_dict={**sweep.values, **point}))
        except UserError as error:
            message = with_origins(error, {}).replace("(dict)", f"({sweep.space_file})")
            raise UserError(f"{message}\n(in a trial with {json.dumps(point)}, of {sweep.space_file})") from None
        if config["nproc"] > 1:
            raise UserError("a trial has one process: nproc must be 1")
        if config["eval_step"] < 1 or config["epochs"] < 1:
            raise UserError("a sweep compares validation scores: eval_step and epochs must be at least 1")
        epochs.append(config["epochs"])
    requirements.check_before_loading(config)
    return config, max(epochs)
