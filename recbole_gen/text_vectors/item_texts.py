"""The text of each item, from columns of NAME.item."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from recbole_gen.config.places import dataset_keys, find_dataset
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.reading.parsing import TimeParser
from recbole_gen.reading.rules import title_line
from recbole_gen.reading.whole_files import TEXT, read_usable_rows

BETWEEN = ", "
"""What stands between the cells of an item's columns."""


@dataclass(frozen=True)
class ItemTexts:
    """Texts of items.

    Attributes:
        file: that they are of.
        columns: whose cells, in this order, are the text.
        texts: item -> text, in the order of the file; empty where all cells are.
        repeated: lines of items that have several: the first with a text counts.
        warnings: what to tell of lines that could not be used.
    """

    file: Path
    columns: list[str]
    texts: dict[str, str]
    repeated: int
    warnings: list[str]


def find_item_file(dataset: str, data_path: str) -> Path:
    """NAME.item: in ``data_path``, where it may be alone, or of a data set that `find_dataset` finds.

    Raises UserError if there is none.
    """
    alone = Path(data_path) / dataset / f"{dataset}.item"
    file = alone if alone.is_file() else find_dataset(dataset, data_path) / f"{dataset}.item"
    if not file.is_file():
        item = dataset_keys(dataset)["ITEM_ID_FIELD"]
        raise UserError(
            f"{dataset} has no file of its items, {file}: one with a title line such as "
            f"'{item}:token<tab>title:token_seq' and a line an item"
        )
    return file


def read_item_texts(
    dataset: str, data_path: str, columns: str | Sequence[str] = (), keys: Mapping[str, str] | None = None
) -> ItemTexts:
    """Read them.

    Args:
        columns: their names, or one text of them with commas or blanks between; all of type token_seq by default.
        keys: ITEM_ID_FIELD, field_separator and encoding, where they are not those of the data set.

    Raises UserError for a data set without an .item file, a file without such columns, and what no text can be read of.
    """
    file = find_item_file(dataset, data_path)
    settings = {**dataset_keys(dataset), **(keys or {})}
    item, separator, encoding = settings["ITEM_ID_FIELD"], settings["field_separator"], settings.get("encoding")
    titles = title_line(file, separator, encoding)
    if item not in titles:
        raise UserError(f"{file} has no column '{item}' among {', '.join(titles)}: --item=COLUMN names it")
    columns = _names_in(columns, titles) if isinstance(columns, str) else columns
    for column in columns:
        if column not in titles:
            near = did_you_mean(column, titles)
            raise UserError(f"--text_columns: {file} has no column '{column}' among {', '.join(titles)}.{near}")
        if column == item:
            raise UserError(f"--text_columns: '{column}' has the items' names, and --item says so: leave it out")
    columns = list(dict.fromkeys(columns)) or [
        name for name, kind in titles.items() if kind == "token_seq" and name != item
    ]
    if not columns:
        raise UserError(
            f'{file} has no column of type token_seq: --text_columns="a b" names those with the text, among '
            f"{', '.join(name for name in titles if name != item)}"
        )
    kinds = dict.fromkeys([item, *columns], TEXT)
    data, warnings = read_usable_rows(file, kinds, (item,), TimeParser(), separator, encoding)
    texts: dict[str, str] = {}
    for name, text in zip(data[item], _join(data[columns])):
        if not texts.get(name):
            texts[name] = text
    if not any(texts.values()):
        raise UserError(f"{file} has no text in {', '.join(columns)}")
    return ItemTexts(file, columns, texts, len(data) - len(texts), warnings)


def _names_in(text: str, titles: Collection[str]) -> list[str]:
    """The names of columns in a text: one, or several with commas, or else blanks, between them."""
    if text in titles:
        return [text]
    names = [name.strip() for name in (text.split(",") if "," in text else text.split())]
    if text and not any(names):
        raise UserError(f"--text_columns: {text!r} names no column")
    return [name for name in names if name]


def _join(cells: pd.DataFrame) -> list[str]:
    rows = zip(*(cells[name].fillna("").str.strip() for name in cells))
    return [BETWEEN.join(cell for cell in row if cell) for row in rows]
