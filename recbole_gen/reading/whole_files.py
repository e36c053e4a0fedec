"""All of an atomic file at once, by all cores: what training reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from recbole_gen.errors import UserError
from recbole_gen.reading import text_blocks
from recbole_gen.reading.file_readers import EXAMPLES, LogFile, ReadCounts, find_lines, read_file
from recbole_gen.reading.parsing import TimeParser, in_calendar, parse_numbers
from recbole_gen.reading.row_counts import NO_TIME, RowCounts
from recbole_gen.reading.rules import MAX_BAD, MISSING, title_line

CATEGORIES, TEXT, NUMBERS, TIMES = "categories", "text", "numbers", "times"
"""What a column becomes: a Categorical, text, float64, or Unix seconds in float64; what is missing NaN."""


@dataclass(frozen=True)
class WholeFile:
    """The columns of a file in the order in which they were asked for, and what reading has met."""

    file: LogFile
    columns: dict[str, Any]
    counts: ReadCounts

    def lines_of(self, rows) -> list[int]:
        """The lines of rows, ascending, from 0."""
        return find_lines(self.file, rows)


def read_whole_file(
    path: Path, kinds: Mapping[str, str], times: TimeParser, separator: str = "\t", encoding: str | None = "utf-8"
) -> WholeFile:
    """Columns of an atomic file. ``kinds``: column -> CATEGORIES, TEXT, NUMBERS or TIMES.

    A quarter of the time of pandas' C engine, and half of its memory (benchmarks/readers.py). What pyarrow's threads
    cannot read (dates and words among numbers, other encodings, separators of several characters) is read in batches,
    by the same rules.

    Raises UserError, with the line, for what `text_blocks` refuses, and for a number that is none.
    """
    file = LogFile(path, "atomic", list(title_line(path, separator, encoding)), separator, encoding)
    absent = [name for name in kinds if name not in file.titles]
    if absent:
        raise UserError(f"{path} has no column '{absent[0]}' among {file.titles}")
    if len(separator) == 1 and text_blocks.is_utf8(encoding):
        if _has_odd_bytes(path):
            for _ in read_file(file, file.titles[:1], ReadCounts()):  # says where they are
                pass
        found = _read_by_threads(file, kinds, times)
        if found is not None:
            return found
    return _read_in_batches(file, kinds, times)


def _read_by_threads(file: LogFile, kinds: Mapping[str, str], times: TimeParser) -> WholeFile | None:
    """The file; None for one that is to be read in batches."""
    types = {CATEGORIES: pa.dictionary(pa.int32(), pa.string()), TEXT: pa.string()}
    bad: list[None] = []

    def skip(row) -> str:
        bad.append(None)
        return "skip"

    try:
        table = csv.read_csv(
            file.path,
            # Each block has a dictionary of its own: large ones have fewer tokens in several of them.
            csv.ReadOptions(block_size=text_blocks.BLOCK, column_names=file.titles, skip_rows=1),
            csv.ParseOptions(delimiter=file.delimiter, quote_char=False, invalid_row_handler=skip),
            csv.ConvertOptions(
                column_types={name: types.get(kind, pa.float64()) for name, kind in kinds.items()},
                include_columns=list(kinds), null_values=[""], strings_can_be_null=True,
            ),
        )  # fmt: skip
    except (pa.ArrowException, ValueError):
        return None
    counts = ReadCounts(table.num_rows)
    if bad:
        counts = _find_bad_lines(file, table.num_rows, len(bad))
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        column, table = table[name], table.drop_columns([name])  # one column at a time is in memory twice
        if kind == CATEGORIES:
            columns[name] = _categories(column)
        elif kind == TEXT:
            columns[name] = _text(column)
        elif pc.any(pc.is_nan(column)).as_py():
            return None
        else:
            values = column.to_numpy()  # what is missing becomes NaN
            columns[name] = times.in_seconds(values) if kind == TIMES else values
    return WholeFile(file, columns, counts)


def _find_bad_lines(file: LogFile, rows: int, bad: int) -> ReadCounts:
    counts = ReadCounts()
    for _ in read_file(file, file.titles[:1], counts):
        if counts.bad >= min(bad, EXAMPLES):
            break
    counts.rows, counts.bad = rows, bad
    return counts


def _read_in_batches(file: LogFile, kinds: Mapping[str, str], times: TimeParser) -> WholeFile:
    counts, parts = ReadCounts(), {name: list[Any]() for name in kinds}
    for batch in read_file(file, list(kinds), counts):
        for name, kind in kinds.items():
            column = batch.column(name)
            if kind == CATEGORIES:
                column = column.dictionary_encode()
            elif kind == TIMES:
                column = times.parse(column)
                none = np.isnan(column) & batch.column(name).is_valid().to_numpy(zero_copy_only=False)
                column = np.where(none, np.inf, column)  # what is there and no time is not missing
            elif kind == NUMBERS:
                column = _numbers(column, name, file.path, counts)
            parts[name].append(column)
    columns: dict[str, Any] = {}
    for name, kind in kinds.items():
        every = parts.pop(name)
        if kind == CATEGORIES:
            columns[name] = _categories(pa.chunked_array(every, pa.dictionary(pa.int32(), pa.string())))
        elif kind == TEXT:
            columns[name] = _text(pa.chunked_array(every, pa.string()))
        else:
            columns[name] = np.concatenate([np.empty(0), *every])
    return WholeFile(file, columns, counts)


def _numbers(column: pa.Array, name: str, path: Path, counts: ReadCounts) -> np.ndarray:
    values = parse_numbers(column)
    words = pa.array([*MISSING, "NAN", "-nan", "-NaN", "#NA"])
    wrong = np.isnan(values) & ~pc.is_in(pc.utf8_trim_whitespace(column), words).to_numpy(zero_copy_only=False)
    wrong &= column.is_valid().to_numpy(zero_copy_only=False)
    if wrong.any():
        row = int(wrong.argmax())
        raise UserError(
            f"{path}: line {counts.lines_of([row])[0]}: {column[row].as_py()!r} in the column '{name}:float' is no "
            f"number: mend it, leave the cell empty, or call the column '{name}:token'"
        )
    return values


def read_usable_rows(
    path: Path,
    kinds: Mapping[str, str],
    needed: Collection[str],
    times: TimeParser,
    separator: str = "\t",
    encoding: str | None = "utf-8",
) -> tuple[pd.DataFrame, list[str]]:
    """Columns of an atomic file, as `read_whole_file`, of the rows with a value in the columns ``needed`` that are
    there, and in that of times one of the calendar; and what to tell of the others.

    Raises UserError, too, if too many lines are no rows.
    """
    read = read_whole_file(path, kinds, times, separator, encoding)
    df = pd.DataFrame(read.columns, copy=False)
    rows, good = RowCounts(read.counts), np.ones(len(df), dtype=bool)

    def leave(cause: str, mask: np.ndarray, show=None) -> None:
        rows.leave_out(cause, mask & good, read.lines_of, show)
        np.logical_and(good, ~mask, out=good)

    for name, kind in kinds.items():
        if name not in needed and kind != TIMES:
            continue
        column = df[name]
        missing = (column.cat.codes == -1 if kind == CATEGORIES else column.isna()).to_numpy()
        if missing.any():
            leave(f"without a value in '{name}'", missing)
        if kind == TIMES:
            bad = ~in_calendar(column.to_numpy())
            if bad.any():
                leave(NO_TIME, bad, column.iloc.__getitem__)
    if rows.bad:
        cure = f"; or is field_separator not {separator!r}?"
        rows.refuse_too_many(path, MAX_BAD, cure, rows.read.bad)
    if not good.all():
        df = df.iloc[np.flatnonzero(good)].reset_index(drop=True)
    for name in (name for name, kind in kinds.items() if kind == TIMES):
        times.look_at(df[name].to_numpy())
    return df, rows.warnings(path)


def _has_odd_bytes(path: Path) -> bool:
    """Whether there is a zero byte, or a CR without LF."""
    with open(path, "rb") as file:
        while part := file.read(1 << 20):
            part += file.read(1) if part.endswith(b"\r") else b""
            if b"\0" in part or part.count(b"\r") != part.count(b"\r\n"):
                return True
    return False


def _text(column: pa.ChunkedArray) -> pd.Series:
    return column.cast(pa.large_string()).to_pandas()  # all chunks may have more than 2^31 bytes


def _categories(column: pa.ChunkedArray) -> pd.Categorical:
    """A column of dictionary arrays as one Categorical; what is missing has code -1."""
    wide = pa.large_string()  # words of all chunks may have more than 2^31 bytes
    words = pa.chunked_array([chunk.dictionary.cast(wide) for chunk in column.chunks], wide)
    every = words.combine_chunks().dictionary_encode()
    # Code of each word of each chunk's dictionary, and at the end of each what is missing.
    ends = np.cumsum([len(chunk.dictionary) for chunk in column.chunks])
    of_chunks = np.split(every.indices.to_numpy(), ends[:-1])
    codes = np.empty(len(column), np.int32)
    start = 0
    for chunk, of_words in zip(column.chunks, of_chunks):
        local = chunk.indices.fill_null(len(of_words)).to_numpy()
        np.take(np.append(of_words, np.int32(-1)), local, out=codes[start : start + len(local)])
        start += len(local)
    return pd.Categorical.from_codes(codes, pd.Index(every.dictionary.to_pandas(), dtype=str))
