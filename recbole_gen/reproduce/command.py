"""`recbole-gen reproduce`: the papers' tables, by one command.

Help, the list of all settings, and mistakes are answered before the comparison and its libraries are imported.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import parse_seeds, parse_tie_seeds, require_test
from recbole_gen.config import keys
from recbole_gen.config.early_checks import check_models
from recbole_gen.config.places import docs_folder
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.files import require_folder_output
from recbole_gen.options import asks_for_help, parse_name, split_options, verb_options
from recbole_gen.reproduce.results import VERDICTS
from recbole_gen.reproduce.settings import make_plan, published_setting
from recbole_gen.reproduce.states import SAVED, list_text
from recbole_gen.sweep.cluster import Resources

USAGE = f"""\
usage: recbole-gen reproduce [NAME] [--seeds=5] [--output=FOLDER] [--ray] [--quick] [--key=value ...]

  without a name           all published settings with the state of each: what has been run, published and ours
  NAME                     run the published setting properties/paper/NAME.yaml, and the baselines of its table that it
                           names, over several seeds, and set the results beside the paper's numbers
  --seeds=5                so many, from the run's `seed` on; or a list, "[1, 2, 3]"
  --tie_orders=5           beside the runs over seeds, one for each of so many orders of a user's simultaneous events,
                           as in `compare`: their spread is part of the standard error
  --baselines=all          all that the setting names, none, or some: --baselines=SASRec,Pop
  --output=FOLDER          where runs and tables go (default {SAVED}/NAME); the same command again goes on there, and
                           repeats only what is not finished or has changed
  --docs=FOLDER            where the page goes, NAME.md, NAME.html and NAME.json with its numbers, beside README.md, the
                           list of all (default docs/reproduction of the checkout, or else the output folder)
  --quick                  a first look: one seed, at most 3 epochs, small sizes; no reproduction, and no page
  --pages                  without a name: write all pages in --docs anew from their numbers
  --test=t                 paired test per user against the setting's model: t, or wilcoxon
  --resamples=2000         of the bootstrap over users
  --ray                    several runs at a time, on this machine or, with --address=auto, on the cluster that it is
                           in; every machine must see the folders of data and output
  --cpus_per_run=1         threads of each run, and with --ray its cores; another number rounds sums differently
  --gpus_per_run=          with --ray: GPUs of each run, or a share of one (default one where there is one)
  --key=value              any key of `run`: one of training or of the model is for the setting's own model alone
                           (--epochs, --hidden_size), all others are for all models (--data_path, --mask_seen); the page
                           says what differs from the published setting. Data set, protocol and published metrics stay

{textwrap.fill(VERDICTS, 118)}
"""
OPTIONS: dict[str, Any] = {
    "seeds": None, "tie_orders": None, "baselines": "all", "output": None, "docs": None, "quick": False, "test": "t",
    "resamples": 2000, "ray": False, "address": None, "cpus_per_run": 1, "gpus_per_run": None,
}  # fmt: skip
LIST_OPTIONS: dict[str, Any] = {"docs": None, "pages": False}
SEEDS = 5
"""As many runs as a table of a paper needs to be believed."""


def main(arguments: Sequence[str]) -> int:
    """The `reproduce` verb of the command line; returns the exit code, 1 if a run has failed.

    Raises UserError for bad input, before the first run, and Interrupted on Ctrl-C.
    """
    if asks_for_help(arguments):
        print(USAGE, end="")
        return 0
    name, given = parse_name(arguments)
    if name is None:
        return _list_settings(given)
    setting = published_setting(name)
    if "pages" in given:
        raise UserError(
            f"--pages writes all pages anew, and goes without a name: recbole-gen reproduce --pages (that of {name} "
            f"is written at the end of its runs)"
        )
    asked, values = split_options(given, OPTIONS, "reproduce", ())
    _check_options(asked, name)
    plan = make_plan(setting, values, asked["baselines"], asked["quick"], OPTIONS)
    check_models(plan.values, plan.files)
    docs = Path(str(asked["docs"])).absolute() if asked["docs"] else docs_folder("reproduction")
    if docs is not None and not asked["quick"]:
        require_folder_output(docs, "--docs")
    from recbole_gen.reproduce.runs import run_reproduction

    return run_reproduction(plan, asked, docs, arguments)


def _list_settings(given: dict[str, Any]) -> int:
    known = [*LIST_OPTIONS, *OPTIONS, "help"]
    for key in [key for key in given if key not in LIST_OPTIONS]:
        near = did_you_mean(key, known, "did you mean --{}?")
        if near and key not in known and not keys.is_key(key):
            raise UserError(f"reproduce has no option --{key}: {near} (recbole-gen reproduce --help)")
        value = "" if given[key] is True else "=..."
        raise UserError(
            f"--{key} needs the name of a setting: recbole-gen reproduce NAME --{key}{value} (`recbole-gen reproduce` "
            f"lists the names)"
        )
    asked = verb_options(given, LIST_OPTIONS, "reproduce")
    docs = Path(str(asked["docs"])) if asked["docs"] else docs_folder("reproduction")
    if asked["pages"]:
        if docs is None or not docs.is_dir():
            raise UserError(f"there are no pages in {docs or 'docs/reproduction'}: --docs=FOLDER names another folder")
        from recbole_gen.reproduce.pages import rewrite_pages

        for file in rewrite_pages(docs):
            print(f"written: {file}")
        return 0
    print(list_text(SAVED, docs))
    return 0


def _check_options(asked: dict[str, Any], name: str) -> None:
    """Raise UserError for values that the options cannot have; seeds and folders take the form that the runs read."""
    require_test(asked["test"], asked["resamples"])
    Resources("run", asked["cpus_per_run"], asked["gpus_per_run"])
    default = 1 if asked["quick"] else SEEDS
    asked["seeds"] = parse_seeds(default if asked["seeds"] is None else asked["seeds"])
    asked["tie_orders"] = parse_tie_seeds(asked["tie_orders"])
    folder = SAVED / (f"{name}-quick" if asked["quick"] else name)
    asked["output"] = asked["output"] or folder
