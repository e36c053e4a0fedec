"""Semantic IDs of items from a file, as `tokenize` writes them.

    item_id<TAB>semantic_id
    B00042<TAB>211 91 195 0

A file may have several columns of IDs, of which one is named. What is in other columns is not read.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from recbole_gen.errors import UserError, counted, did_you_mean

IDS_FILE = "semantic-ids.tsv"
"""In the folder of `tokenize`."""
LARGEST_DIGIT = 2**16 - 1
"""A digit is a row of a table: more values than this are a mistake."""


@dataclass(frozen=True)
class SemanticIds:
    """An ID an item.

    Attributes:
        names: of the items, each once, [n].
        digits: [n, m] int64, no two rows equal.
    """

    path: Path
    names: list[str]
    digits: np.ndarray


def find_id_file(path: str | Path) -> Path:
    """The table of IDs, of a file or the folder of `tokenize`. Raises UserError if there is none."""
    path = Path(path)
    file = path / IDS_FILE if path.is_dir() else path
    if not file.is_file():
        raise UserError(
            f"semantic_ids: there is no file {file}: --semantic_ids=PATH names another; `tokenize` writes one"
        )
    return file


def read_semantic_ids(path: str | Path, column: str | None = None) -> SemanticIds:
    """Read them; empty lines are passed over. Raises UserError for a file that is missing, or damaged, or of another
    form, for a column that is not there, or not named where there are several, and for names or IDs that occur twice.
    """
    path = find_id_file(path)
    try:
        lines = path.read_text(encoding="utf-8").split("\n")  # not splitlines: names may have other marks of a line end
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"semantic_ids: {path} cannot be read ({error})") from None
    table = {number: line.split("\t") for number, line in enumerate(lines, start=1) if line.strip()}
    (_, head), *rows = table.items() or [(1, [])]
    if not rows or len(head) < 2:
        raise UserError(
            f"semantic_ids: {path} must have a line of names, item_id and semantic_id with a tab between, and then a "
            f"line an item"
        )
    for number, row in rows:
        if len(row) != len(head):
            cells = counted(len(row), "cell")
            raise UserError(f"semantic_ids: {path}, line {number} has {cells}, and the line of names {len(head)}")
    place = _place_of(column, path, head, rows[0][1])
    names = {number: row[0] for number, row in rows}
    _require_different(names, "item", path)
    return SemanticIds(path, list(names.values()), _digits({number: row[place] for number, row in rows}, path))


def _place_of(column: str | None, path: Path, head: list[str], first: list[str]) -> int:
    """Where the column of IDs stands, of a table that begins with the cells ``head`` and ``first``."""
    if column is None:
        several = [place for place in range(1, len(head)) if len(first[place].split()) > 1]
        ids = [place for place in several if _are_digits(first[place])] or several
        if not ids:
            raise UserError(
                f"semantic_ids: {path} has no column of IDs, which are digits with blanks between; one of single "
                f"digits is named with --semantic_ids_column=NAME"
            )
        if len(ids) > 1:
            found = ", ".join(head[place] for place in ids)
            raise UserError(
                f"semantic_ids: {path} has {len(ids)} columns of IDs: name one of {found} with "
                f"--semantic_ids_column=NAME"
            )
        place = ids[0]
    elif column in head[1:]:
        place = head.index(column, 1)
    else:
        near = did_you_mean(column, head[1:], ": did you mean {}?") or f", but {', '.join(head[1:])}"
        raise UserError(f"semantic_ids_column: {path} has no column {column}{near}")
    if _are_digits(head[place]):
        raise UserError(
            f"semantic_ids: {path} begins with '{head[0]}' and '{head[place]}', and its first line must have the names "
            f"of the columns, item_id and semantic_id"
        )
    return place


def _are_digits(cell: str) -> bool:
    return cell.isascii() and cell.replace(" ", "").isdecimal()


def _digits(texts: dict[int, str], path: Path) -> np.ndarray:
    """texts: by their lines."""
    rows = [text.split() for text in texts.values()]
    for number, row in zip(texts, rows):
        odd = next((digit for digit in row if not (digit.isascii() and digit.isdecimal())), None)
        if odd is not None or len(row) != len(rows[0]) or not row:
            what = f"'{odd}', which is no digit" if odd else f"{len(row)} digits, and the first ID has {len(rows[0])}"
            raise UserError(f"semantic_ids: {path}, line {number} has {what}")
        if large := next((digit for digit in row if len(digit) > 5 or int(digit) > LARGEST_DIGIT), None):
            raise UserError(f"semantic_ids: {path}, line {number} has a digit above {LARGEST_DIGIT:,}: {large[:20]}")
    digits = np.array(rows, dtype=np.int64)
    # As numbers: 01 is 1.
    _require_different(dict(zip(texts, (" ".join(map(str, row)) for row in digits.tolist()))), "ID", path)
    return digits


def _require_different(texts: dict[int, str], what: str, path: Path) -> None:
    """texts: by their lines."""
    known: dict[str, int] = {}
    for number, text in texts.items():
        if text in known:
            cure = ": a last digit tells equal IDs apart, as `tokenize` gives it" if what == "ID" else ""
            raise UserError(
                f"semantic_ids: {path} has the {what} '{text}' in line {known[text]} and in line {number}{cure}"
            )
        known[text] = number
