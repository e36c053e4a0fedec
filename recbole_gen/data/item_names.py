"""What a file has by the names of items, in the order of a data set's items."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from recbole_gen.errors import UserError


def rows_of_items(key: str, path: Path, rows: Sequence[str], names: Sequence[str]) -> np.ndarray:
    """Which row of a file each item has, [n_items]: -1 for padding, the first of ``names``, and for items without one.

    rows: the name of each. Raises UserError, which names ``key`` and file, if no item has one.
    """
    row_of = {name: row for row, name in enumerate(rows)}
    found = np.array([-1, *(row_of.get(name, -1) for name in names[1:])])
    if (found < 0).all():
        raise UserError(
            f"{key}: none of the {len(names) - 1:,} items of the data set, such as '{names[1]}', is among the "
            f"{len(rows):,} of {path}, such as '{rows[0]}'"
        )
    return found
