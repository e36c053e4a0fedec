"""The text of each item, from columns of NAME.item."""

from __future__ import annotations

from collections.abc import Sequence
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
        repeated: lines of items that had one before, which counts.
        warnings: what to tell of lines that could not be used.
    """

    file: Path
    columns: list[str]
    texts: dict[str, str]
    repeated: int
    warnings: list[str]


def read_item_texts(dataset: str, data_path: str, columns: Sequence[str] = (), item: str = "") -> ItemTexts:
    """Read them. ``columns``: all of type token_seq by default; ``item``: the data set's ITEM_ID_FIELD.

    Raises UserError for a data set without an .item file, a file without such columns, and what no text can be read of.
    """
    folder, keys = find_dataset(dataset, data_path), dataset_keys(dataset)
    file, separator, encoding = folder / f"{dataset}.item", keys["field_separator"], keys.get("encoding")
    item = item or keys["ITEM_ID_FIELD"]
    if not file.is_file():
        raise UserError(
            f"{dataset} has no file of its items, {file}: one with a title line such as "
            f"'{item}:token<tab>title:token_seq' and a line an item"
        )
    titles = title_line(file, separator, encoding)
    if item not in titles:
        raise UserError(f"{file} has no column '{item}' among {', '.join(titles)}: --item=COLUMN names it")
    for column in columns:
        if column not in titles:
            near = did_you_mean(column, titles)
            raise UserError(f"--text_columns: {file} has no column '{column}' among {', '.join(titles)}.{near}")
        if column == item:
            raise UserError(f"--text_columns: '{column}' has the items' names, and --item says so: leave it out")
    columns = list(dict.fromkeys(columns)) or [name for name, kind in titles.items() if kind == "token_seq"]
    if not columns:
        raise UserError(
            f'{file} has no column of type token_seq: --text_columns="a b" names those with the text, among '
            f"{', '.join(name for name in titles if name != item)}"
        )
    kinds = dict.fromkeys([item, *columns], TEXT)
    data, warnings = read_usable_rows(file, kinds, (item,), TimeParser(), separator, encoding)
    first = data[~data[item].duplicated()]
    texts = dict(zip(first[item], _join(first[columns])))
    if not any(texts.values()):
        raise UserError(f"{file} has no text in {', '.join(columns)}")
    return ItemTexts(file, columns, texts, len(data) - len(first), warnings)


def _join(cells: pd.DataFrame) -> list[str]:
    rows = zip(*(cells[name].fillna("").str.strip() for name in cells))
    return [BETWEEN.join(cell for cell in row if cell) for row in rows]
