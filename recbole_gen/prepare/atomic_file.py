"""A prepared log as RecBole's atomic file, with a note of what it was made from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.files import write_json
from recbole_gen.prepare.dataset_folder import PROVENANCE_FILE, replace_folder
from recbole_gen.prepare.log import Log

ROWS_AT_ONCE = 1 << 20
"""Rows that are text at once."""
FORBIDDEN_IN_TOKENS = r"[\t\r\n\x00]"
"""What cannot stand in a token: an atomic file has no way to quote it."""


def write_atomic_file(target: Path, log: Log, names: Mapping[str, str], provenance: Mapping[str, Any]) -> None:
    """Write a log as <target>/<name of target>.inter, whole or not at all, in place of what was prepared there before.

    Args:
        names: field -> its name in the file, where it is another one.
        provenance: what prepare.json has beside the list of files.

    Raises UserError for a folder that holds other files, or that cannot be written.
    """
    file = f"{target.name}.inter"
    with replace_folder(target) as new:
        _write_rows(new / file, log, names)
        write_json(new / PROVENANCE_FILE, {**provenance, "files": [file]})


def _write_rows(path: Path, log: Log, names: Mapping[str, str]) -> None:
    kinds = {field: "token" if field in log.tokens else "float" for field in log.columns}
    titles = "\t".join(f"{names.get(field, field)}:{kind}" for field, kind in kinds.items())
    whole = {field: _is_whole(log[field]) for field, kind in kinds.items() if kind == "float"}
    types = {field: pa.string() if kind == "token" else pa.int64() if whole[field] else pa.float64()
             for field, kind in kinds.items()}  # fmt: skip
    with open(path, "wb") as file:
        file.write(titles.encode() + b"\n")
        for start in range(0, len(log), ROWS_AT_ONCE):
            rows = slice(start, start + ROWS_AT_ONCE)
            file.write(_lines([_column(log, field, rows, types[field]) for field in kinds]))


def _lines(columns: Sequence[pa.Array]) -> pa.Buffer:
    """Rows as lines. Arrow's own writer of CSV refuses a double quote in a token, and there is no quoting here."""
    wide = pa.large_string()  # together they may have more than 2^31 bytes
    cells = [pc.fill_null(column.cast(pa.string()).cast(wide), "") for column in columns]
    cells[-1] = pc.binary_join_element_wise(cells[-1], pa.scalar("", wide), pa.scalar("\n", wide))
    lines = pc.binary_join_element_wise(*cells, pa.scalar("\t", wide))
    _, ends, text = lines.buffers()  # one line lies behind the other there
    return text.slice(0, int(np.frombuffer(ends, np.int64)[len(lines)]))


def _is_whole(values: np.ndarray) -> bool:
    real = values[~np.isnan(values)]
    return bool((real == np.floor(real)).all() and (np.abs(real) < 2**53).all())


def _column(log: Log, field: str, rows: slice, kind: pa.DataType) -> pa.Array:
    values = log[field][rows]
    if field in log.tokens:
        return log.tokens[field].take(pa.array(values, mask=values < 0))
    missing = np.isnan(values)
    return pc.cast(pa.array(np.where(missing, 0.0, values), mask=missing), kind)
