"""The command line: `run_recbole_gen.py --model=DreamRec --dataset=ml-100k`, or `recbole-gen` once installed."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from recbole_gen.errors import UserError

USAGE = """\
usage: recbole-gen [run] --model=NAME --dataset=NAME [--key=value ...]
       recbole-gen plot toi --run=FOLDER          accuracy of predicted times (recbole-gen plot --help)

  --model=NAME         ours (DreamRec, DiffRec, PASRec, PreferDiff, ACVAE, DSPnet), any model of RecBole (SASRec, BPR,
                       ...; recbole.DiffRec where both have it), or a class of your own: my_package.my_module:MyModel
  --dataset=NAME       a data set as atomic files in dataset/NAME/NAME.inter, or under --data_path; ml-100k comes along
  --protocol=NAME      how rows are split and what is scored: leave_one_out (default), time_811, sequence_811,
                       holdout_82, period (sets of targets), benchmark (files for each part)
  --paper=NAME         a published setting: model, data set, protocol and hyper-parameters in one (properties/paper/)
  --config_files=FILE  YAML files of your own, separated by blanks
  --resume=FOLDER      go on with a run where it stopped, e.g. with more --epochs
  --print-config       show every key with its value and where it comes from, and do nothing
  --key=value          any key of RecBole, of the model or of properties/overall.yaml; values are read as YAML
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 2 for bad input, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        arguments.pop(0)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0
    try:
        if arguments[0] == "plot":
            from recbole_gen import plot

            plot.main(arguments[1:])
            return 0
        if arguments[0] == "compare":
            from recbole_gen import compare

            return compare.main(arguments[1:])
        if arguments[0] == "tune":
            from recbole_gen import tune

            return tune.main(arguments[1:])
        if arguments[0] in ("models", "datasets"):
            from recbole_gen import catalogue

            getattr(catalogue, arguments[0])(arguments[1:])
            return 0
        return _run(arguments)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped by Ctrl-C", file=sys.stderr)
        return 130


def _run(arguments: list[str]) -> int:
    from recbole_gen.quick_start import configure, run

    if "--print-config" in arguments:
        config, _ = configure(argv=[argument for argument in arguments if argument != "--print-config"])
        try:
            print(config.describe(), flush=True)
        except BrokenPipeError:  # the reader of the pipe, such as `| head`, has seen enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    run(argv=arguments)
    return 0
