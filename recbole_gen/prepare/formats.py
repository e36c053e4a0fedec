"""The files of publishers as batches of columns: delimited text, JSON lines, Parquet. In bounded memory, by pyarrow.

All text stays text here, as it is in the file; `numbers` and `seconds` read what stands in it. What is no row of its
format (too few or too many columns, no JSON) is counted and left out; see `Seen`.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from recbole_gen.errors import UserError, did_you_mean

BLOCK, LONGEST = 1 << 24, 1 << 28
"""Bytes that are read at once, and of the longest line."""
MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>", "\\N"]
"""What stands for no value: the words that RecBole reads as such in an atomic file, and that of database dumps."""
DELIMITERS = ",\t;|"
"""What a line of titles may be separated by, where nothing says it."""
UNITS = {"s": 1.0, "ms": 1e3, "us": 1e6, "ns": 1e9}
"""Name -> how many of it are a second."""
_LEAST = {"ms": 1e11, "us": 1e14, "ns": 1e17}
"""A typical time of at least this is in that unit: in seconds, 1e11 is the year 5138."""


@dataclass
class Seen:
    """What reading has met: rows, and lines that were no rows, with the first of them."""

    rows: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def count_bad(self, text: str, number: int = 1) -> None:
        self.bad += number
        if len(self.examples) < 3:
            self.examples.append(text.strip()[:80])


def delimiter_of(titles: str) -> str:
    """What separates the titles in a line of them."""
    return max(DELIMITERS, key=titles.count)


def delimited(
    stream: BinaryIO,
    wanted: Sequence[str],
    seen: Seen,
    delimiter: str = ",",
    titles: Sequence[str] = (),
    quotes: bool = False,
) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns of delimited text, as text: UTF-8 with or without BOM; lines end in LF or CRLF.

    Args:
        delimiter: one character, or one that is repeated ("::").
        titles: of all columns, where the first line has none.
        quotes: values may stand in double quotes and have line ends in them, as in RFC 4180.

    Raises UserError for missing columns, an empty file and other encodings.
    """
    for block in blocks(stream, quotes):
        if not titles:
            line, _, block = block.partition(b"\n")
            titles = _titles(line, delimiter, quotes)
            missing = [name for name in wanted if name not in titles]
            if missing:
                raise UserError(f"there is no column '{missing[0]}' among {titles}.{did_you_mean(missing[0], titles)}")
        if block.strip():
            yield from _rows(block, wanted, seen, delimiter, titles, quotes)


def _titles(line: bytes, delimiter: str, quotes: bool) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r")
    if not text:
        raise UserError("the first line, that of the titles, is empty")
    return next(csv.reader([text], delimiter=delimiter)) if quotes else text.split(delimiter)


def _rows(
    block: bytes, wanted: Sequence[str], seen: Seen, delimiter: str, titles: Sequence[str], quotes: bool
) -> Iterator[pa.RecordBatch]:
    # "::" is ":" with a column of nothing between any two.
    names = [part for title in titles for part in (title, *(f"{title} {n}" for n in range(1, len(delimiter))))]
    names = names[: len(names) - len(delimiter) + 1]

    def skip(row) -> str:
        seen.count_bad(row.text or "")
        return "skip"

    try:
        # In blocks of ours: Arrow's reader of streams reads far ahead, in a thread that it leaves behind on errors.
        table = pyarrow.csv.read_csv(
            pa.py_buffer(block),
            pyarrow.csv.ReadOptions(block_size=len(block) + 1, column_names=names),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter[0], invalid_row_handler=skip, quote_char='"' if quotes else False,
                newlines_in_values=quotes,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted), null_values=MISSING,
                strings_can_be_null=True,
            ),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        if "invalid UTF8" in str(error):
            raise UserError("it is no UTF-8 text: convert it, for example with iconv -f latin1 -t utf-8") from None
        raise UserError(str(error).splitlines()[0]) from None
    seen.rows += table.num_rows
    yield from table.to_batches()


def json_lines(stream: BinaryIO, wanted: Sequence[str], seen: Seen) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted keys, as text, of one JSON object a line, or one Python dict a line, as Amazon has them."""
    for block in blocks(stream):
        rows = []
        for line in block.splitlines():
            if line.strip():
                row = _object(line)
                values = None if row is None else [_text(row.get(key)) for key in wanted]
                if values is None:
                    seen.count_bad(line.decode("utf-8", "replace"))
                else:
                    rows.append(values)
        seen.rows += len(rows)
        columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(wanted))]
        yield pa.record_batch(columns, names=list(wanted))


def blocks(stream: BinaryIO, quotes: bool = False) -> Iterator[bytes]:
    """Whole lines, about BLOCK bytes at a time, without a BOM.

    With ``quotes``, line ends between double quotes end no line. Raises UserError for a quote that is never closed, and
    for an empty file.
    """
    rest, first = b"", True
    while chunk := stream.read(BLOCK):
        if first:
            chunk, first = chunk.removeprefix(b"\xef\xbb\xbf"), False
        chunk = rest + chunk
        end = _last_line_end(chunk, quotes)
        if end:
            yield chunk[:end]
        elif len(chunk) > LONGEST:
            raise UserError(f"a line is longer than {LONGEST >> 20} MiB, or a double quote is never closed")
        rest = chunk[end:]
    if first:
        raise UserError("the file is empty")
    if quotes and rest.count(b'"') % 2:
        raise UserError(f"a double quote is never closed: {rest[:80].decode('utf-8', 'replace')!r}")
    if rest:
        yield rest


def _last_line_end(chunk: bytes, quotes: bool) -> int:
    """Place behind the last line end that is outside of quotes, or 0. The chunk begins outside of them."""
    end = chunk.rfind(b"\n") + 1
    if not quotes:
        return end
    inside = chunk.count(b'"', 0, end) % 2
    while end and inside:
        before = chunk.rfind(b"\n", 0, end - 1) + 1
        inside ^= chunk.count(b'"', before, end) % 2
        end = before
    return end


def _text(value: Any) -> str | None:
    """A value as text; None for what is missing, and for what is no single value."""
    if isinstance(value, str):
        return None if value in MISSING else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _object(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text.strip())  # literals only: it runs nothing
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return value if isinstance(value, dict) else None


def parquet(path: Path, wanted: Sequence[str], seen: Seen) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns of a Parquet file, of their own types. Raises UserError for missing columns and
    damaged files."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path} has no column '{missing[0]}' among {file.schema_arrow.names}")
            for batch in file.iter_batches(1 << 19, columns=list(wanted)):
                seen.rows += batch.num_rows
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged, or no Parquet file: {str(error).splitlines()[0]}") from None


def tokens(column: pa.Array) -> pa.Array:
    """The values of a column as text. Numbers that are whole have no decimal point: pandas makes 7 to 7.0 where a value
    of the column is missing. Raises UserError for lists and the like."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
        column = column.cast(pa.int64()) if whole in (True, None) else column
    try:
        text = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UserError(f"values of type {column.type} cannot name anything: a token is text or a number") from None
    return pc.if_else(pc.is_in(text, pa.array(MISSING)), None, text)


def numbers(column: pa.Array) -> np.ndarray:
    """The numbers of a column, also those written as text: [n] float64, NaN where there is none."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            text = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
            return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)


def seconds(column: pa.Array, unit: str | None = None) -> tuple[np.ndarray, str]:
    """Unix seconds of numbers, of dates and times, or of text of either: [n] float64, NaN where there is none.

    ISO 8601 text without an offset is taken for UTC.

    Args:
        unit: that of numbers, one of UNITS; None for the one that makes them dates of today's calendar.

    Returns the seconds, and the unit of the numbers ("s" where there are none).
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _micros(column.cast(pa.timestamp("us"), safe=False)), unit or "s"
    if pa.types.is_null(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _scaled(numbers(column), unit)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"values of type {column.type} are no times: numbers, or dates such as 2024-05-31T12:00:00Z")
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float64()):
        if not _casts(column.drop_null()[:9], kind):  # refusing all of a column takes much longer than casting it
            continue
        try:
            whole = column.cast(kind)
        except pa.ArrowInvalid:  # not all of them have this form
            break
        return _scaled(numbers(whole), unit) if pa.types.is_floating(kind) else (_micros(whole), unit or "s")
    values = numbers(column)
    dates = np.isnan(values) & column.is_valid().to_numpy(zero_copy_only=False)
    values, unit = _scaled(values, unit)
    if dates.any():
        text = pd.Series(column.filter(pa.array(dates)).to_numpy(zero_copy_only=False), dtype=object).str.strip()
        stamps = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.as_unit("us")
        values[dates] = _micros(pa.array(stamps).cast(pa.timestamp("us")))
    return values, unit


def _casts(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _micros(stamps: pa.Array) -> np.ndarray:
    counts = pc.cast(pc.cast(stamps, pa.int64()), pa.float64(), safe=False)
    return pc.fill_null(pc.divide(counts, 1e6), np.nan).to_numpy(zero_copy_only=False)


def _scaled(values: np.ndarray, unit: str | None) -> tuple[np.ndarray, str]:
    unit = unit or unit_of(values)
    return values / UNITS[unit], unit


def unit_of(values: np.ndarray) -> str:
    """The unit that makes a typical time of these a date of today's calendar: s, ms, us or ns."""
    real = np.abs(values[np.isfinite(values)])
    typical = float(np.median(real)) if len(real) else 0.0
    return max((unit for unit, least in _LEAST.items() if typical >= least), key=lambda unit: UNITS[unit], default="s")
