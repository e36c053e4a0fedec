"""The verb `plot`: figures of finished runs and of noise schedules, `recbole-gen plot FIGURE --key=value ...`.

Light to import: the module of a figure is imported when it is drawn.
"""

from __future__ import annotations

import importlib
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import asks_for_help, parse_arguments, verb_options


@dataclass(frozen=True)
class Option:
    """One `--key=value` of a figure: what its value is called in the help, what it does, and its default."""

    value: str
    help: str
    default: Any = None


@dataclass(frozen=True)
class Figure:
    """A figure, which the module of its name draws: what it shows, an example, and its options."""

    about: str
    example: str
    options: dict[str, Option]


OUTPUT = "where it goes; PNG and SVG are both written. Default: {}"
RUNS = Option(
    '"FOLDER ..."', "folders of runs, or folders that contain runs, separated by blanks; * stands for any text"
)
RUN = Option("FOLDER", "the same, for one")
MODEL = Option(
    "MODULE:CLASS",
    "of a run whose model is a class of somebody's own (several: blanks between): no checkpoint has code imported",
)
ONE_FOLDER = "in the folder that --runs names, the current one if it names several"

FIGURES = {
    "toi": Figure(
        "how well a run of PASRec predicts the time of the next interaction, beside three guesses that learn nothing "
        "(PASRec figure 5); prints a table, writes it as JSON beside the figure",
        "--run=saved/PASRec-...",
        {
            "run": Option("FOLDER", "the run's folder"),
            "model": MODEL,
            "part": Option("PART", "the rows to look at, test or valid", "test"),
            "output": Option("FILE", OUTPUT.format("FOLDER/toi.PART.png")),
            "horizon": Option("DAYS", "how many days after the last one of the data a predicted time may lie", 365),
            "noise": Option("SHARE", "error of a predicted encoding for which the width of its time is given", 0.01),
        },
    ),
    "tsne": Figure(
        "t-SNE of item embeddings, models side by side, coloured by popularity (DreamRec figures 3, 5 and 6)",
        '--runs="saved/SASRec-... saved/DreamRec-..."',
        {
            "runs": RUNS,
            "run": RUN,
            "model": MODEL,
            "max_items": Option("N", "of more items than this, draw so many, chosen at random", 5000),
            "seed": Option("N", "of t-SNE and of that choice", 2020),
            "output": Option("FILE", OUTPUT.format(f"tsne.png, {ONE_FOLDER}")),
        },
    ),
    "curves": Figure(
        "training loss and validation metric by epoch, also of runs that have not ended",
        '--runs="saved/SASRec-... saved/DreamRec-..."',
        {
            "runs": RUNS,
            "run": RUN,
            "metric": Option("NAME", "a validation metric, such as recall@20. Default: that of the first run"),
            "loss": Option("NAME", "one term of the training loss. Default: the sum of all terms"),
            "output": Option("FILE", OUTPUT.format(f"curves.png, {ONE_FOLDER}")),
        },
    ),
    "sweep": Figure(
        "a metric over one setting (DreamRec figure 4, PASRec figure 4, DiffRec figures 3 and 7); the mean over seeds, "
        "with the standard deviation as bars",
        "--runs=saved --key=guidance_scale",
        {
            "runs": RUNS,
            "run": RUN,
            "key": Option("KEY", "the setting, any key of the runs' configuration"),
            "metric": Option(
                '"NAME ..."', "a metric, or several, a panel each. Default: valid_metric of the first run"
            ),
            "part": Option("PART", "the rows that are scored, test or valid (at the best epoch)", "test"),
            "where": Option('"{KEY: VALUE}"', "only runs with these settings; [A, B] for one of several values"),
            "group": Option("KEY", "a second setting, a line for each value"),
            "ignore": Option('"KEY ..."', "settings that may differ as seeds do: the mean is over them, too"),
            "output": Option("FILE", OUTPUT.format(f"sweep.KEY.png, {ONE_FOLDER}")),
        },
    ),
    "schedules": Figure(
        "signal level of noise schedules by step (DiffRec figure 2, left); needs no run",
        "[--model=DiffRec]",
        {
            "model": Option("NAME", "a model, with its own settings. Default: both families of schedules there are"),
            "dataset": Option("NAME", "the data set to build the model for", "ml-100k"),
            "schedules": Option('"NAME,..."', "names of schedules. Default: all there are"),
            "timesteps": Option("T", "steps. Default: the model's, or 1000"),
            "beta_start": Option("RATE", "first noise rate of `linear`. Default: the model's, or 0.0001"),
            "beta_end": Option("RATE", "last noise rate of `linear`. Default: the model's, or 0.02"),
            "output": Option("FILE", OUTPUT.format("schedules.png in the current folder")),
        },
    ),
}


def main(arguments: Sequence[str]) -> None:
    """The `plot` verb of the command line. Raises UserError for bad input."""
    if not arguments or asks_for_help(arguments):
        asked = next((word for word in arguments if word in FIGURES), None)
        print(_usage() if asked is None else _usage_of_figure(asked))
        return
    name = arguments[0]
    if name not in FIGURES:
        if name.startswith("-"):
            raise UserError(f"plot what? A figure stands right behind the verb: {', '.join(FIGURES)}")
        near = did_you_mean(name, FIGURES)
        raise UserError(f"there is no figure '{name}'.{near} There are: {', '.join(FIGURES)}")
    figure = FIGURES[name]
    defaults = {key: option.default for key, option in figure.options.items()}
    options = verb_options(parse_arguments(arguments[1:]), defaults, f"plot {name}")
    importlib.import_module(f"recbole_gen.plot.{name}").draw(options)


def _usage() -> str:
    lines = ["usage: recbole-gen plot FIGURE --key=value ...", ""]
    for name, figure in FIGURES.items():
        lines += _two_columns(name, figure.about)
    return "\n".join([*lines, "", "recbole-gen plot FIGURE --help lists the options of one."])


def _usage_of_figure(name: str) -> str:
    figure = FIGURES[name]
    lines = [f"usage: recbole-gen plot {name} {figure.example}", "", *textwrap.wrap(figure.about, 98), ""]
    for key, option in figure.options.items():
        default = "" if option.default is None else f" (default {option.default})"
        lines += _two_columns(f"--{key}={option.value}", option.help + default)
    return "\n".join(lines)


def _two_columns(title: str, text: str) -> list[str]:
    """Two columns, 100 characters wide."""
    lines = textwrap.wrap(text, 74)
    return [f"  {title if number == 0 else '':<22}  {line}" for number, line in enumerate(lines)]
