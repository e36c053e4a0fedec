"""Atomic files: RecBole's reading of them, on current pandas and in a fraction of the time."""

from __future__ import annotations

import builtins
import codecs
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow
from pyarrow import compute, csv

from recbole_gen.errors import UserError

MISSING = [
    "", "#N/A", "#N/A N/A", "#NA", "-1.#IND", "-1.#QNAN", "-NaN", "-nan", "1.#IND", "1.#QNAN", "<NA>", "N/A", "NA",
    "NULL", "NaN", "None", "n/a", "nan", "null",
]  # fmt: skip
"""Words that pandas takes for a missing value."""


def find_extremes_of_columns_at_once(module: ModuleType) -> None:
    """dataset.py:698, 763 and 782 ask Python's `max` and `min` for those of a column, which look at one number at a
    time: seconds for a log of millions. That module gets a `max` and a `min` that leave arrays to NumPy."""

    def of_arrays(builtin, of_array):
        def extreme(*values):
            is_column = len(values) == 1 and isinstance(values[0], np.ndarray) and values[0].dtype.kind == "f"
            return of_array(values[0]) if is_column and values[0].size else builtin(*values)

        return extreme

    vars(module).update(max=of_arrays(builtins.max, np.max), min=of_arrays(builtins.min, np.min))


def read_atomic_files_with_the_c_parser(module: ModuleType) -> None:
    """dataset.py:486 reads with pandas' Python engine (7 times slower), and dataset.py:501 fills missing sequences in
    place, which pandas 3 does not do. A data set class with `tokens_as_categories = True` gets single tokens as
    categories, a few bytes a row, from `_read_plainly` where it can. Deletable when upstream uses the C engine and
    assigns."""
    Dataset, FeatureSource, FeatureType = module.Dataset, module.FeatureSource, module.FeatureType

    def _load_feat(self, filepath, source):
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        with open(filepath, encoding=encoding) as file:
            header = file.readline().rstrip("\r\n").split(separator)
        token_type = "category" if getattr(self, "tokens_as_categories", False) else str
        columns: dict[str, str] = {}
        dtypes: dict[str, Any] = {}
        for title in header:
            field, colon, type_name = title.partition(":")
            if not colon or type_name not in {member.value for member in FeatureType}:
                raise UserError(
                    f"{filepath}: the column title '{title}' is not of the form name:type with type one of "
                    f"{', '.join(member.value for member in FeatureType)}"
                )
            if (load_col is not None and field not in load_col) or (unload_col and field in unload_col):
                continue
            ftype = FeatureType(type_name)
            columns[title] = field
            dtypes[title] = np.float64 if ftype == FeatureType.FLOAT else str
            if ftype == FeatureType.TOKEN:
                dtypes[title] = token_type
            if isinstance(source, FeatureSource) or source != "link":
                self.field2source[field], self.field2type[field] = source, ftype
                if not type_name.endswith("seq"):
                    self.field2seqlen[field] = 1
                if "float" in type_name:
                    self.field2bucketnum[field] = 2
        if not columns:
            self.logger.warning(f"No columns has been loaded from [{source}]")
            return None

        df = _read_plainly(filepath, separator, encoding, header, dtypes)
        if df is None:
            # A separator of several characters is a regular expression, which only the Python engine splits by.
            engine = "c" if len(separator) == 1 else "python"
            # Not as categories at once: where all tokens look like numbers, pandas would make them numbers, 007 as 7.
            as_text = {title: str if dtype == "category" else dtype for title, dtype in dtypes.items()}
            quoting = {"sep": separator, "usecols": list(columns), "dtype": as_text, "encoding": encoding}
            try:
                df = pd.read_csv(filepath, engine=engine, **quoting).astype(dtypes)
            except ValueError as error:
                raise UserError(f"{filepath} cannot be read as an atomic file: {error}") from error
        df = df.rename(columns=columns)

        for field in df:
            ftype = self.field2type[field]
            if not ftype.value.endswith("seq"):
                continue
            convert = float if ftype == FeatureType.FLOAT_SEQ else str
            dtype = np.float64 if ftype == FeatureType.FLOAT_SEQ else None
            gap = self.config["seq_separator"]
            lists = [
                np.array([convert(part) for part in text.split(gap) if part], dtype=dtype)
                for text in df[field].fillna("")
            ]
            longest = max(map(len, lists), default=0)
            in_log = source == FeatureSource.INTERACTION
            histories = _history_fields(header, self.config["LIST_SUFFIX"]) if in_log else ()
            limit, keeps_last = _sequence_limit(self.config["seq_len"] or {}, field, histories)
            if limit:
                lists = [values[-limit:] if keeps_last else values[:limit] for values in lists]
                longest = min(longest, limit)
            df[field] = pd.Series(lists, index=df.index, dtype=object)
            self.field2seqlen[field] = longest
        return df

    Dataset._load_feat = _load_feat


def _history_fields(header: list[str], suffix: str) -> set[str]:
    """Columns of split files that hold what another column of theirs, the target's, held before."""
    fields = {title.partition(":")[0] for title in header}
    return {field for field in fields if field.endswith(suffix) and field.removesuffix(suffix) in fields}


def _sequence_limit(seq_len: dict[str, int], field: str, histories) -> tuple[int | None, bool]:
    """How many values of a sequence are kept, and whether those are the last: of a history, as MAX_ITEM_LIST_LENGTH
    has it (dataset.py:518 keeps the first). What is said of one history holds for all columns of the same events."""
    if field not in histories:
        return seq_len.get(field), False
    return min((limit for name, limit in seq_len.items() if name in histories), default=None), True


def _read_plainly(
    path, separator: str, encoding: str, header: list[str], dtypes: dict[str, Any]
) -> pd.DataFrame | None:
    """The columns of ``dtypes`` as pandas' C engine would read them, in a quarter of its time and half of its memory
    (benchmarks/readers.py); None for a file that is to be left to pandas.

    Left to it are what pyarrow reads in another way (quotes, zero bytes, lines that end in CR alone, other encodings
    than UTF-8, and numbers such as nan(1)), columns that are neither "category" nor float64, and every file that
    pyarrow refuses, so that it is pandas that says what is wrong.
    """
    plain = (
        len(separator) == 1
        and len(header) == len(set(header)) > 1
        and codecs.lookup(encoding or "utf-8").name == "utf-8"
    )
    if not plain or not set(dtypes.values()) <= {"category", np.float64} or _has_odd_bytes(path):
        return None
    tokens, numbers = pyarrow.dictionary(pyarrow.int32(), pyarrow.string()), pyarrow.float64()
    kinds = {title: numbers if dtype == np.float64 else tokens for title, dtype in dtypes.items()}
    options = csv.ConvertOptions(
        column_types=kinds, include_columns=list(kinds), null_values=MISSING, strings_can_be_null=True
    )
    try:
        table = csv.read_csv(
            path,
            # Each block has a dictionary of its own: large ones have fewer tokens in several of them.
            csv.ReadOptions(block_size=1 << 24),
            csv.ParseOptions(delimiter=separator, quote_char=False),
            options,
        )
    except (pyarrow.ArrowException, ValueError):
        return None
    columns = {}
    for title in dtypes:
        column, table = table[title], table.drop_columns([title])  # one column at a time is in memory twice
        if kinds[title] == tokens:
            columns[title] = _categories(column)
        elif compute.any(compute.is_nan(column)).as_py():
            return None
        else:
            columns[title] = column.to_numpy()  # what is missing becomes NaN
    return pd.DataFrame(columns, copy=False)


def _has_odd_bytes(path) -> bool:
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            part += file.read(1) if part.endswith(b"\r") else b""
            if b'"' in part or b"\0" in part or part.count(b"\r") != part.count(b"\r\n"):
                return True
    return False


def _categories(column: pyarrow.ChunkedArray) -> pd.Categorical:
    """A column of dictionary arrays as one Categorical; what is missing has code -1."""
    wide = pyarrow.large_string()  # words of all chunks may have more than 2^31 bytes
    words = pyarrow.chunked_array([chunk.dictionary.cast(wide) for chunk in column.chunks], wide)
    every = words.combine_chunks().dictionary_encode()
    # Code of each word of each chunk's dictionary, and at the end of each what is missing.
    ends = np.cumsum([len(chunk.dictionary) for chunk in column.chunks])
    of_chunks = np.split(every.indices.to_numpy(), ends[:-1])
    codes = np.empty(len(column), np.int32)
    start = 0
    for chunk, of_words in zip(column.chunks, of_chunks, strict=True):
        local = chunk.indices.fill_null(len(of_words)).to_numpy()
        np.take(np.append(of_words, np.int32(-1)), local, out=codes[start : start + len(local)])
        start += len(local)
    return pd.Categorical.from_codes(codes, pd.Index(every.dictionary.to_pandas(), dtype=str))
