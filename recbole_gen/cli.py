"""The command line: `run_recbole_gen.py --model=DreamRec --dataset=ml-100k`, or `recbole-gen` once installed."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable, Sequence

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.files import CANNOT_WRITE_ERRORS, package_versions
from recbole_gen.options import asks_for_help

USAGE = """\
usage: recbole-gen [run] --model=NAME --dataset=NAME [--key=value ...]
       recbole-gen tune --model=NAME --dataset=NAME [--space=FILE]     search hyper-parameters with Ray Tune
       recbole-gen compare --models=NAME,NAME,... --dataset=NAME       models over several seeds, tables and tests
       recbole-gen leaderboard --models=NAME,... --dataset=NAME        each tuned with one budget, then compared
       recbole-gen reproduce [NAME]                                    a paper's table: published numbers and ours
       recbole-gen plot FIGURE --runs="FOLDER ..."                     toi, tsne, curves, sweep, schedules
       recbole-gen prepare [NAME]                                      a data set of the papers, or a log of your own
       recbole-gen prepare NAME --text_encoder=ENCODER --output=FOLDER vectors of a data set's items, from their texts
       recbole-gen recommend --checkpoint=FOLDER --histories=FILE --output=FILE     for users it need not know
       recbole-gen export --checkpoint=FOLDER --output=FOLDER          vectors of items, and of users
       recbole-gen serve --checkpoint=FOLDER                           recommendations over HTTP
       recbole-gen tokenize --item_vectors=FOLDER --output=FOLDER      semantic IDs of items, from their vectors
       recbole-gen models [NAME] | datasets [NAME]                     what there is, what it needs, what is installed
       (each of these verbs has its --help)

  --model=NAME         ours (DreamRec, DiffRec, PASRec, PreferDiff, ACVAE, DSPnet, TIGER), any model of RecBole (SASRec,
                       BPR, ...; recbole.DiffRec where both have it), or a class of your own:
                       my_package.my_module:MyModel
  --dataset=NAME       a data set as atomic files in dataset/NAME/NAME.inter, or under --data_path; ml-100k comes along,
                       and others are fetched (`datasets` and `prepare` list them)
  --protocol=NAME      how rows are split and what is scored: leave_one_out (default), time_811, sequence_811,
                       holdout_82, period (sets of targets), benchmark (files for each part)
  --paper=NAME         a published setting: model, data set, protocol and hyper-parameters in one (properties/paper/)
  --config_files=FILE  YAML files of your own, separated by blanks
  --resume=FOLDER      go on with a run where it stopped, e.g. with more --epochs
  --version            what is installed: recbole_gen, RecBole, PyTorch, Ray and Python
  --print-config       show every key with its value and where it comes from, and do nothing
  --key=value          any key of RecBole, of the model or of properties/overall.yaml; values are read as YAML
"""

PRINT_CONFIG = "--print-config"
VERSION = "--version"
VERBS = {
    "tune": ("sweep.command", "main"),
    "compare": ("compare.command", "main"),
    "leaderboard": ("leaderboard.command", "main"),
    "reproduce": ("reproduce.command", "main"),
    "plot": ("plot.command", "main"),
    "prepare": ("prepare.command", "main"),
    "recommend": ("recommending.recommend", "main"),
    "export": ("recommending.export", "main"),
    "serve": ("serving.serve", "main"),
    "tokenize": ("tokenizing.command", "main"),
    "models": ("catalogue", "models"),
    "datasets": ("catalogue", "datasets"),
}
"""verb -> module and function that take the arguments behind it."""
OPTION_VERBS = {("prepare", "--text_encoder"): ("text_vectors.command", "main")}
"""The same for a verb with an option that makes it the work of another room."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code: 0, 1 where runs have failed, 2 for bad input, 130 after Ctrl-C.

    141, as after SIGPIPE, where the reader of the output has gone, such as `| head`.
    """
    try:
        code = _main(argv)
        sys.stdout.flush()  # here, since at the end of Python nobody could answer for it
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + 13
    return code


def _main(argv: Sequence[str] | None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    if arguments[:1] == ["run"]:
        arguments.pop(0)
    is_run = not arguments or arguments[0].startswith("-") or "=" in arguments[0]
    if not arguments or arguments[0] == "help" or (is_run and asks_for_help(arguments)):
        print(USAGE, end="")
        return 0
    if VERSION in arguments:
        print(", ".join(f"{name} {version}" for name, version in package_versions(["recbole", "torch", "ray"]).items()))
        return 0
    try:
        if is_run:
            return _run(arguments)
        verb = _import_verb(*arguments)
        _refuse_print_config(*arguments)
        return verb(arguments[1:]) or 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in CANNOT_WRITE_ERRORS:
            raise
        print(f"error: {error.filename or 'a file'} cannot be written ({error.strerror}): free some space, or choose "
              f"another place", file=sys.stderr)  # fmt: skip
        return 2
    except KeyboardInterrupt as stop:
        print(str(stop) or "stopped by Ctrl-C", file=sys.stderr)
        return 130


def _import_verb(name: str, *arguments: str) -> Callable[[Sequence[str]], int | None]:
    """What carries out a verb; a module is imported only when it is asked for."""
    if name not in VERBS:
        hint = did_you_mean(name, VERBS)
        raise UserError(f"there is no verb '{name}', and options are --key=value.{hint} Verbs: run, {', '.join(VERBS)}")
    module, function = VERBS[name]
    if not asks_for_help(arguments):
        for (verb, option), place in OPTION_VERBS.items():
            if verb == name and any(word.partition("=")[0] == option for word in arguments):
                module, function = place
    return getattr(importlib.import_module(f"recbole_gen.{module}"), function)


def _refuse_print_config(verb: str, *arguments: str) -> None:
    """Raise UserError where what shows the keys of one run is asked of another verb."""
    if not asks_for_help(arguments) and any(word.partition("=")[0] == PRINT_CONFIG for word in arguments):
        raise UserError(
            f"{PRINT_CONFIG} shows the keys of a single run, and is not for {verb}: recbole-gen --model=NAME "
            f"--dataset=NAME {PRINT_CONFIG}, or --paper=NAME for a published setting"
        )


def _run(arguments: list[str]) -> int:
    given = [argument for argument in arguments if argument != PRINT_CONFIG]
    if wrong := next((argument for argument in given if argument.startswith(f"{PRINT_CONFIG}=")), None):
        raise UserError(f"{wrong}: {PRINT_CONFIG} takes no value, and shows all keys and their values")
    from recbole_gen.config.early_checks import check_command_line

    options = [option.removeprefix("--") for option in (PRINT_CONFIG, VERSION, "--help")]
    check_command_line(given, options)  # before what takes its time to load

    from recbole_gen.quick_start import configure, run

    if given == arguments:
        run(argv=arguments)
        return 0
    config, _ = configure(argv=given)
    print(config.describe())
    return 0
