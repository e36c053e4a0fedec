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


def read_semantic_ids(path: str | Path, column: str | None = None) -> SemanticIds:
    """Read them. Raises UserError for a file that is missing, or damaged, or of another form, for a column that is not
    there, or not named where there are several, and for names or IDs that occur twice."""
    path = Path(path)
    if path.is_dir():
        path = path / "semantic-ids.tsv"
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise UserError(f"semantic_ids: there is no file {path}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"semantic_ids: {path} cannot be read ({error})") from None
    table = [line.split("\t") for line in lines]
    if len(table) < 2 or len(table[0]) < 2:
        raise UserError(
            f"semantic_ids: {path} must have a line of names, item_id and semantic_id with a tab between, and then a "
            f"line an item"
        )
    for number, row in enumerate(table, start=1):
        if len(row) != len(table[0]):
            raise UserError(f"semantic_ids: {path}, line {number} has {len(row)} cells, and the first {len(table[0])}")
    place = _place_of(column, path, table)
    names = [row[0] for row in table[1:]]
    digits = _digits([row[place] for row in table[1:]], path)
    return SemanticIds(path, _require_different(names, "item", path), digits)


def _place_of(column: str | None, path: Path, table: list[list[str]]) -> int:
    """Where the column of IDs stands."""
    head = table[0]
    ids = [place for place in range(1, len(head)) if len(table[1][place].split()) > 1]
    if column is None:
        if len(ids) == 1:
            return ids[0]
        found = ", ".join(head[place] for place in ids)
        cure = f"name one of {found} with --semantic_ids_column=NAME" if ids else "it needs one of digits with blanks"
        raise UserError(f"semantic_ids: {path} has {counted(len(ids), 'column')} of IDs: {cure}")
    if column not in head[1:]:
        raise UserError(
            f"semantic_ids_column: {path} has no column {column}{did_you_mean(column, head[1:], ': did you mean {}?')}"
        )
    return head.index(column, 1)


def _digits(texts: list[str], path: Path) -> np.ndarray:
    rows = [text.split() for text in texts]
    for number, row in enumerate(rows, start=2):
        odd = next((digit for digit in row if not (digit.isascii() and digit.isdecimal())), None)
        if odd is not None or len(row) != len(rows[0]) or not row:
            what = f"'{odd}', which is no digit" if odd else f"{len(row)} digits, and the first ID has {len(rows[0])}"
            raise UserError(f"semantic_ids: {path}, line {number} has {what}")
        if large := next((digit for digit in row if len(digit) > 5 or int(digit) > LARGEST_DIGIT), None):
            raise UserError(f"semantic_ids: {path}, line {number} has a digit above {LARGEST_DIGIT:,}: {large[:20]}")
    digits = np.array(rows, dtype=np.int64)
    _require_different([" ".join(row) for row in rows], "ID", path)
    return digits


def _require_different(texts: list[str], what: str, path: Path) -> list[str]:
    known: dict[str, int] = {}
    for number, text in enumerate(texts, start=2):
        if text in known:
            cure = ": a last digit tells equal IDs apart, as `tokenize` gives it" if what == "ID" else ""
            raise UserError(
                f"semantic_ids: {path} has the {what} '{text}' in line {known[text]} and in line {number}{cure}"
            )
        known[text] = number
    return texts
