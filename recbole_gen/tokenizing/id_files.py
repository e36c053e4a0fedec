"""Semantic IDs as a file: item_id and semantic_id, tab-separated, the digits with single spaces between them."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_gen.errors import UserError, counted
from recbole_gen.files import write_text

NOTE_FILE, FIGURE = "semantic-ids.json", "semantic-ids"
HEADER = "item_id\tsemantic_id"
NO_PART_OF_NAMES = "\t\n\r"
"""What ends a cell or a line."""


def require_names_for_cells(names: Sequence[str]) -> None:
    """Raise UserError for items whose names cannot stand in a cell of a tab-separated file."""
    odd = [name for name in names if not _fits_a_cell(name)]
    if odd:
        raise UserError(
            f"{counted(len(odd), 'item', 'have')} a name that is empty, or has a tab, a line end or what is no text in "
            f"it, such as {odd[0]!r}: a table of semantic IDs cannot have these; rename them beside the vectors"
        )


def _fits_a_cell(name: str) -> bool:
    try:
        name.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which JSON can name
        return False
    return bool(name) and not any(mark in name for mark in NO_PART_OF_NAMES)


def write_semantic_ids(path: Path, names: Sequence[str], ids: np.ndarray) -> None:
    """Write the file, whole or not at all. ``ids``: [n, digits], all different.

    Raises UserError for names that cannot be written, OSError where nothing can be.
    """
    require_names_for_cells(names)
    lines = [HEADER, *(f"{name}\t{' '.join(map(str, digits))}" for name, digits in zip(names, ids.tolist()))]
    write_text(path, "\n".join(lines) + "\n")


def digest_of(vectors: np.ndarray) -> str:
    """BLAKE2b, of 16 bytes, of vectors as little-endian float32, row after row."""
    return hashlib.blake2b(np.ascontiguousarray(vectors, dtype="<f4").data, digest_size=16).hexdigest()
