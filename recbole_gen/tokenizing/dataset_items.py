"""Items that have semantic IDs beside those of a data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_gen.config.places import dataset_keys, event_files, find_dataset
from recbole_gen.errors import UserError, counted
from recbole_gen.reading.file_readers import first_names
from recbole_gen.reading.parsing import TimeParser
from recbole_gen.reading.rules import title_line
from recbole_gen.reading.whole_files import CATEGORIES, TEXT, read_usable_rows


def items_of_dataset(name: str, data_path: str, column: str = "") -> tuple[set[str], set[str]]:
    """The items with events, those of histories in split files included, and those of NAME.item.

    ``column``: of the items, if it has another name than the data set's ITEM_ID_FIELD.

    Raises UserError for a data set that is not there, cannot be read, or has no such column.
    """
    folder, keys = find_dataset(name, data_path), dataset_keys(name)
    item, separator = column or keys["ITEM_ID_FIELD"], keys["field_separator"]
    history = f"{item}{keys['LIST_SUFFIX']}"
    with_events, described = set[str](), set[str]()

    def read(file: Path, kinds: dict[str, str]):
        return read_usable_rows(file, kinds, (item,), TimeParser(), separator, keys.get("encoding"))[0]

    for file in event_files(name, folder):
        titles = title_line(file, separator)
        if item not in titles:
            raise UserError(f"{file} has no column '{item}' among {', '.join(titles)}: --item=COLUMN names it")
        kinds = {each: kind for each, kind in ((item, CATEGORIES), (history, TEXT)) if each in titles}
        data = read(file, kinds)
        with_events.update(data[item].unique())
        if history in data:
            lists = data[history].dropna()
            with_events.update(each for cell in lists for each in cell.split(keys["seq_separator"]) if each)
    item_file = folder / f"{name}.item"
    if item_file.exists() and item in title_line(item_file, separator):
        described.update(read(item_file, {item: CATEGORIES})[item].unique())
    return with_events, described


def compare_items(
    names: Sequence[str], dataset: str, with_events: set[str], described: set[str]
) -> tuple[dict[str, Any], list[str]]:
    """What to write down of names that have vectors and of a data set's items, and what to tell.

    Raises UserError if no item with events has a vector.
    """
    having = set(names)
    without = sorted(with_events - having)
    if len(without) == len(with_events):
        example = f", such as '{without[0]}'," if without else ""
        raise UserError(
            f"--dataset: none of the {counted(len(without), 'item')} of {dataset}{example} has a vector; those are of "
            f"'{names[0]}' and {len(names) - 1:,} others: are they of this data set?"
        )
    idle = sorted(having - with_events)
    unknown = [name for name in idle if name not in described]
    note = {
        "name": dataset,
        "items_with_events": len(with_events),
        "items_without_vector": len(without),
        "vectors_of_items_without_events": len(idle) - len(unknown),
        "vectors_of_no_item": len(unknown),
    }
    lines = [f"{dataset}: {len(with_events) - len(without):,} of its {counted(len(with_events), 'item')} have a vector"]
    if without:
        lines.append(f"  {counted(len(without), 'item', 'have')} none, and get no semantic ID: {first_names(without)}")
    if unknown:
        lines.append(
            f"  {counted(len(unknown), 'vector', 'are')} of no item of it, and {_get(unknown)} a semantic ID, too: "
            f"{first_names(unknown)}"
        )
    if cold := [name for name in idle if name in described]:
        lines.append(
            f"  {counted(len(cold), 'vector', 'are')} of items in {dataset}.item without an event, and {_get(cold)} a "
            f"semantic ID, too: {first_names(cold)}"
        )
    return note, lines


def _get(names: Sequence[str]) -> str:
    return "gets" if len(names) == 1 else "get"
