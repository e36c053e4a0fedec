"""`recbole-gen leaderboard`: models tuned on validation with one budget, and their winners compared.

Help, and mistakes in what this verb alone has, are answered before searches and comparisons and their libraries are
imported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import REFUSED_KEYS, SHARED_KEYS, check_options
from recbole_gen.config.early_checks import check_models
from recbole_gen.config.papers import DEFAULT_PROTOCOL
from recbole_gen.config.places import docs_folder
from recbole_gen.errors import UserError
from recbole_gen.files import require_folder_output
from recbole_gen.leaderboard.published import budget_of_winners, read_published
from recbole_gen.leaderboard.spaces import find_spaces, models_of_labels
from recbole_gen.options import asks_for_help, parse_arguments, split_options, verb_options
from recbole_gen.sweep import command as tune

SAVED = Path("saved/leaderboard")
"""Where searches and runs go by default, under the current folder."""
USAGE = f"""\
usage: recbole-gen leaderboard --models=NAME,NAME,... --dataset=NAME [--protocol=NAME] [--key=value ...]
       recbole-gen leaderboard --pages [--docs=FOLDER]

  every model is tuned on validation by the machinery of `tune`, all with the same budget; then the winners are compared
  over seeds by that of `compare`. No test row is looked at before all settings are chosen

  --models=A,B,C           models (ours, RecBole's, or classes of your own), or labels that --model_configs explains
  --num_samples=8          trials of each model; what is a grid in its space is drawn here, too
  --defaults_first=true    one trial more of each, before the others: the values that it has without its space
  --cpu_minutes=10         CPU time of training and validation that the trials of each model may take together
  --searcher=random --scheduler=asha     those of `tune`
  --spaces=FOLDER          what is searched: FOLDER/LABEL.yaml or MODEL.yaml where there is one, else
                           properties/tune/MODEL.yaml; a model without any runs as it is
  --model_configs=FOLDER   what is not searched: settings of single models, as in `compare`
  --winners=FOLDER         of a leaderboard that is there, such as docs/leaderboard/ml-100k: its models are not searched
                           again, but trained and tested with the settings that were chosen for it; others are searched,
                           with its budget. So a page is checked, given more seeds, or one more model
  --seeds=5                runs of each winner: so many, from the run's `seed` on; or a list, "[1, 2, 3]"
  --tie_orders=5           beside them one for each of so many orders of a user's simultaneous events, as in `compare`
  --baseline=LABEL         what the others are tested against; by default the RecBole model that validates best
  --test=t                 paired test per user: t, or wilcoxon
  --resamples=2000         of the bootstrap over users
  --output=FOLDER          where searches, winners and runs go (default {SAVED}/NAME); the same command again goes on
                           there, and repeats only what is not finished or has changed
  --name=NAME              of the leaderboard (default the data set, and the protocol unless it is {DEFAULT_PROTOCOL})
  --docs=FOLDER            where its page goes, NAME/README.md with winners, spaces, tables and figures, and README.md,
                           the list of all (default docs/leaderboard of the checkout, or else the output folder)
  --pages                  alone: write all pages in --docs anew from their numbers, NAME/leaderboard.json
  --ray                    the runs, too, several at a time, as the trials always are; --address=auto joins the Ray
                           cluster that this machine is in; every machine must see the folders of data and output
  --cpus_per_run=1 --gpus_per_run=       what a trial or run gets, as in `compare`
  --key=value              any key of `run`, for all models that have it; it wins over the files of --model_configs, and
                           may not be searched
"""
OPTIONS: dict[str, Any] = {
    "models": None, "num_samples": 8, "cpu_minutes": 10, "defaults_first": True, "searcher": "random",
    "scheduler": "asha", "spaces": None, "winners": None,
    "model_configs": None, "seeds": 5, "tie_orders": None, "baseline": None, "test": "t", "resamples": 2000,
    "output": None, "name": None, "docs": None, "ray": False, "address": None, "cpus_per_run": 1, "gpus_per_run": None,
}  # fmt: skip
OF_SEARCHES = ("num_samples", "cpu_minutes", "defaults_first", "searcher", "scheduler", "address")
"""Options that `tune` has, too."""
PAGES_OPTIONS: dict[str, Any] = {"docs": None, "pages": False}


def main(arguments: Sequence[str]) -> int:
    """The `leaderboard` verb of the command line; returns the exit code, 1 if a search or a run has failed.

    Raises UserError for bad input, before the first trial, and Interrupted on Ctrl-C.
    """
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return 0
    given = parse_arguments(arguments)
    if "pages" in given:
        return _write_pages(given)
    asked, values = split_options(given, OPTIONS, "leaderboard", REFUSED_KEYS)
    if asked["winners"] is not None:
        asked["winners"] = read_published(asked["winners"])
        asked |= budget_of_winners(asked["winners"], given, OPTIONS)
    _check_options(asked, values)
    files = {label: [asked["model_configs"][label]] for label in asked["model_configs"]}
    own = {label: [str(file) for file in files.get(label, [])] for label in asked["models"]}
    check_models(values, own, OPTIONS)
    asked["spaces"] = find_spaces(models_of_labels(values, own), asked["spaces"], refused=SHARED_KEYS)
    asked["name"] = _board_name(asked["name"], values)
    asked["output"] = Path(str(asked["output"] or SAVED / asked["name"])).absolute()
    require_folder_output(asked["output"])
    docs = Path(str(asked["docs"])).absolute() if asked["docs"] else docs_folder("leaderboard")
    if docs is not None:
        require_folder_output(docs, "--docs")
        if asked["winners"] is not None:
            asked["winners"].require_room(docs / asked["name"], asked["models"])
    from recbole_gen.leaderboard.runs import run_leaderboard

    return run_leaderboard(asked, values, docs, arguments)


def _write_pages(given: dict[str, Any]) -> int:
    asked = verb_options(given, PAGES_OPTIONS, "leaderboard --pages")
    docs = Path(str(asked["docs"])) if asked["docs"] else docs_folder("leaderboard")
    if docs is None or not docs.is_dir():
        raise UserError(f"there are no pages in {docs or 'docs/leaderboard'}: --docs=FOLDER names another folder")
    from recbole_gen.leaderboard.pages import rewrite_pages

    for file in rewrite_pages(docs):
        print(f"written: {file}")
    return 0


def _check_options(asked: dict[str, Any], values: dict[str, Any]) -> None:
    """As for a comparison; and ``tune`` has the options of every model's search."""
    check_options(asked, "leaderboard", values)
    same = {key: asked[key] for key in OF_SEARCHES}
    of_trials = {"cpus_per_trial": asked["cpus_per_run"], "gpus_per_trial": asked["gpus_per_run"]}
    asked["tune"] = {**tune.OPTIONS, **same, **of_trials}
    tune.check_options(asked["tune"])


def _board_name(given: Any, values: dict[str, Any]) -> str:
    if given is None:
        protocol = values.get("protocol") or DEFAULT_PROTOCOL
        return f"{values.get('dataset')}" + ("" if protocol == DEFAULT_PROTOCOL else f"-{protocol}")
    if not re.fullmatch(r"\w[\w.+-]*", str(given)):
        raise UserError(f"--name={given} cannot be one: letters, digits and . + - _ can be in it")
    return str(given)
