"""Generative and dual-sequence sequential recommendation on RecBole 1.2.1.

    from recbole_gen import run, load, Recommender

Everything here is imported when it is asked for. `import recbole_gen` alone has RecBole itself run on a current stack,
see `recbole_gen.compat`. Of RecBole's names, `run_recbole`, `load_data_and_model`, `Config` and `init_seed` work here
too; the others say in one line what to use (docs/recbole.md has the table).
"""

from __future__ import annotations

import importlib
from typing import Any

from recbole_gen import compat

compat.apply()

__version__ = "0.1.0"
__all__ = ["Config", "Recommender", "init_seed", "load", "load_data_and_model", "run", "run_recbole"]

_HOMES = {
    "run": "recbole_gen.quick_start",
    "load": "recbole_gen.quick_start",
    "Recommender": "recbole_gen.recommending.recommender",
    "Config": "recbole_gen.config.config",
    "init_seed": "recbole.utils",
}
"""Name -> the module that it is taken from."""
_RECOMMEND = "Recommender.load(folder).recommend(histories, k=10) recommends, for users of the data set or new ones"
_CASE_STUDY = f"{_RECOMMEND}; recbole.utils.case_study takes the model and the test loader of load(folder)"
_TUNE = "`recbole-gen tune --model=NAME --dataset=NAME --space=FILE` searches hyper-parameters, on validation metrics"
_LOADERS = "run(...) prepares its own data, and load(folder) returns the loaders of a finished run"
_INSTEAD = {
    "full_sort_topk": _CASE_STUDY,
    "full_sort_scores": _CASE_STUDY,
    "objective_function": _TUNE,
    "HyperTuning": _TUNE,
    "create_dataset": _LOADERS,
    "data_preparation": _LOADERS,
    "get_model": "Config(model=NAME, dataset=NAME).model_class is the class of a model",
    "get_trainer": "run(...) trains, and load(folder).model is what it has trained",
    "run_recboles": "run(..., config_dict={'nproc': 2}) starts the processes itself",
}
"""What a user of RecBole may look for here -> what there is."""


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    if name in _INSTEAD:  # an AttributeError would lose its text in `from recbole_gen import ...`
        raise ImportError(f"recbole_gen has no {name}: {_INSTEAD[name]}")
    raise AttributeError(f"module 'recbole_gen' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})


def run_recbole(model=None, dataset=None, config_file_list=None, config_dict=None, saved=True, queue=None):
    """`run` under the name, with the arguments and with the result that RecBole has for it.

    Models of recbole_gen come first (`DiffRec` is ours; `recbole.DiffRec` is RecBole's), and all run by the protocol of
    recbole_gen. The command line is not read: ``run(argv=sys.argv[1:])`` does that.

    Args:
        saved: whether the run's folder stays, below ``checkpoint_dir``.
        queue: is put what is returned.

    Returns best_valid_score, valid_score_bigger, best_valid_result and test_result as RecBole does, and run_dir: the
    folder for `load` and `Recommender.load`, None if it has not been kept. Raises UserError for bad input.
    """
    import tempfile

    from recbole.evaluator.register import smaller_metrics

    run = importlib.import_module("recbole_gen.quick_start").run
    arguments = model, dataset, config_file_list, config_dict
    if saved:
        outcome = run(*arguments)
    else:
        with tempfile.TemporaryDirectory() as folder:
            outcome = {**run(*arguments, run_dir=folder), "run_dir": None}
    metric = outcome["valid_metric"].split("@")[0].lower()
    result = {key: outcome[key] for key in ("best_valid_score", "best_valid_result", "test_result", "run_dir")}
    result["valid_score_bigger"] = metric not in smaller_metrics
    if queue is not None:
        queue.put(result)
    return result


def load_data_and_model(model_file, model=None):
    """`load` under the name and with the result that RecBole has for it.

    ``model_file`` is a run's folder, or the best.pth in it; ``model`` as of `load`. Returns the configuration, the
    model in evaluation mode with the weights of its best epoch, the training part of the data set (its names of users
    and items are those of the whole), and the loaders for training, validation and test. Raises UserError if there is
    no such run.
    """
    from pathlib import Path

    from recbole_gen.errors import UserError

    path = Path(model_file)
    if path.is_file() and path.name != "best.pth":
        importlib.import_module("recbole_gen.checkpoint").load(path)  # says what else it is
        raise UserError(f"{path} is not the best epoch of its run: load_data_and_model({str(path.parent)!r}) is")
    loaded = importlib.import_module("recbole_gen.quick_start").load(path.parent if path.is_file() else path, model)
    return loaded.config, loaded.model, loaded.train._dataset, loaded.train, loaded.valid, loaded.test
