"""A log while it is prepared: one flat column a field, tokens as codes."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa

from recbole_gen.errors import UserError


@dataclass(frozen=True)
class Log:
    """N events, in the order of their file.

    Attributes:
        columns: field -> [N], int32 codes of a field of tokens (-1 for a missing one), float64 of a field of numbers.
        tokens: field of tokens -> its values; the code of a value is its place.
    """

    columns: dict[str, np.ndarray]
    tokens: dict[str, pa.Array]

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, field: str) -> np.ndarray:
        if field not in self.columns:
            raise UserError(f"this log has no {field}, which the filtering reads")
        return self.columns[field]

    def take(self, rows: np.ndarray) -> Log:
        """The given events, by mask [N] or by index."""
        return replace(self, columns={field: values[rows] for field, values in self.columns.items()})

    def drop(self, *fields: str) -> Log:
        """Without these fields."""
        columns = {field: values for field, values in self.columns.items() if field not in fields}
        return Log(columns, {field: values for field, values in self.tokens.items() if field not in fields})

    def n_distinct(self, field: str) -> int:
        """How many values of a field of tokens occur."""
        return int(np.count_nonzero(self.value_counts(field)))

    def value_counts(self, field: str) -> np.ndarray:
        """How often each value of a field of tokens occurs, by code."""
        codes = self.columns[field]
        return np.bincount(codes[codes >= 0], minlength=len(self.tokens[field]))


class _TokenEncoder:
    """Numbers the values of a field in the order in which they first appear."""

    def __init__(self) -> None:
        self.known: dict[str, int] = {}

    def encode(self, column: pa.Array) -> np.ndarray:
        encoded = column.dictionary_encode()
        codes = [self.known.setdefault(value, len(self.known)) for value in encoded.dictionary.to_pylist()]
        places = encoded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
        return np.append(np.array(codes, dtype=np.int32), np.int32(-1))[places]  # the last one for what is missing


def log_from_batches(batches: Iterable[Mapping[str, Any]], fields: Sequence[str], tokens: Collection[str]) -> Log:
    """One log of many batches: field -> column, text of the ``tokens``, numbers of the other fields, NaN for a missing
    one. Memory is that of the codes and numbers, and of each distinct token once.
    """
    codes = {field: _TokenEncoder() for field in fields if field in tokens}
    parts: dict[str, list[np.ndarray]] = {field: [] for field in fields}
    for batch in batches:
        for field in fields:
            values = batch[field]
            parts[field].append(codes[field].encode(values) if field in codes else np.asarray(values, np.float64))
    columns = {}
    for field in fields:
        kind = np.int32 if field in codes else np.float64
        columns[field] = np.concatenate([np.array([], dtype=kind), *parts.pop(field)])
    return Log(columns, {field: pa.array(list(known.known), pa.string()) for field, known in codes.items()})
