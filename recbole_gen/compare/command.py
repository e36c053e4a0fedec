"""`recbole-gen compare`: every model under the same split, items, metrics and masking, over several seeds.

Help, and mistakes in what this verb alone has, are answered before the comparison and its libraries are imported.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from recbole_gen.compare.arguments import REFUSED_KEYS, check_options
from recbole_gen.config.early_checks import check_models
from recbole_gen.options import asks_for_help, parse_arguments, split_options

USAGE = """\
usage: recbole-gen compare --models=NAME,NAME,... --dataset=NAME [--protocol=NAME] [--seeds=3] [--key=value ...]

  --models=A,B,C           models (ours, RecBole's, or classes of your own), or labels that --model_configs explains
  --seeds=3                so many, from the run's `seed` on; or a list, "[1, 2, 3]"
  --tie_orders=5           beside the runs over seeds, one for each of so many orders of a user's simultaneous events
                           (tie_order: random, tie_seed 1, 2, ...; or a list of these), all with the first seed: the
                           tables have the spread over them, and call no difference one that is no larger
  --model_configs=FOLDER   settings of single models: FOLDER/LABEL.yaml where there is one, or a mapping
                           "{SASRec: my.yaml, DSPnet-alone: other.yaml}"; a label that is no model has `model:` there
  --baseline=LABEL         what the others are tested against; by default the RecBole model that validates best
  --test=t                 paired test per user: t, or wilcoxon
  --resamples=2000         of the bootstrap over users
  --output=FOLDER          where runs and tables go (default saved/compare/DATASET-PROTOCOL); the same command again
                           goes on there, and repeats only what is not finished or has changed
  --ray                    several runs at a time, on this machine or, with --address=auto, on the cluster that it is
                           in; every machine must see the folders of data and output
  --cpus_per_run=1         threads of each run, and with --ray its cores; another number rounds sums differently
  --gpus_per_run=          with --ray: GPUs of each run, or a share of one (default one where there is one)
  --key=value              any key of `run`, for all models that have it; it wins over the files of --model_configs
"""
OPTIONS: dict[str, Any] = {
    "models": None, "seeds": 3, "tie_orders": None, "model_configs": None, "baseline": None, "test": "t",
    "resamples": 2000, "output": None, "ray": False, "address": None, "cpus_per_run": 1, "gpus_per_run": None,
}  # fmt: skip


def main(arguments: Sequence[str]) -> int:
    """The `compare` verb of the command line; returns the exit code, 1 if a run has failed.

    Raises UserError for bad input, before the first run, and Interrupted on Ctrl-C.
    """
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return 0
    asked, values = split_options(parse_arguments(arguments), OPTIONS, "compare", REFUSED_KEYS)
    check_options(asked, "compare", values)
    check_models(values, {label: _own_files(asked, label) for label in asked["models"]}, OPTIONS)
    from recbole_gen.compare.runs import run_comparison

    return run_comparison(asked, values, arguments)


def _own_files(asked: dict[str, Any], label: str) -> list[str]:
    return [str(asked["model_configs"][label])] if label in asked["model_configs"] else []
