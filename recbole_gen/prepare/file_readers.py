"""The files of publishers as batches of columns: delimited text, JSON lines, Parquet. In bounded memory, by pyarrow.

All text stays text here, as it is in the file; `parsing` reads what stands in it. What is no row of its format (too few
or too many columns, no JSON) is counted and left out; see `ReadCounts`.
"""

from __future__ import annotations

import ast
import csv
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.prepare.parsing import MISSING

BLOCK, LONGEST = 1 << 24, 1 << 28
"""Bytes that are read at once, and of the longest line."""
DELIMITERS = ",\t;|"
"""What a line of titles may be separated by, where nothing says it."""


@dataclass
class ReadCounts:
    """What reading has met: rows, and lines that were no rows, with the first of them."""

    rows: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)

    def count_bad(self, text: str, number: int = 1) -> None:
        self.bad += number
        if len(self.examples) < 3:
            self.examples.append(text.strip()[:80])


def guess_delimiter(titles: str) -> str:
    """What separates the titles in a line of them."""
    return max(DELIMITERS, key=titles.count)


def read_delimited(
    stream: BinaryIO,
    wanted: Sequence[str],
    counts: ReadCounts,
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
    for block in read_blocks(stream, quotes):
        if not titles:
            line, _, block = block.partition(b"\n")
            titles = _parse_titles(line, delimiter, quotes)
            missing = [name for name in wanted if name not in titles]
            if missing:
                raise UserError(f"there is no column '{missing[0]}' among {titles}.{did_you_mean(missing[0], titles)}")
        if block.strip():
            yield from _parse_block(block, wanted, counts, delimiter, titles, quotes)


def _parse_titles(line: bytes, delimiter: str, quotes: bool) -> list[str]:
    text = line.decode("utf-8", "replace").rstrip("\r")
    if not text:
        raise UserError("the first line, that of the titles, is empty")
    return next(csv.reader([text], delimiter=delimiter)) if quotes else text.split(delimiter)


def _parse_block(
    block: bytes, wanted: Sequence[str], counts: ReadCounts, delimiter: str, titles: Sequence[str], quotes: bool
) -> Iterator[pa.RecordBatch]:
    # "::" is ":" with a column of nothing between any two.
    names = [part for title in titles for part in (title, *(f"{title} {n}" for n in range(1, len(delimiter))))]
    names = names[: len(names) - len(delimiter) + 1]

    def skip(row) -> str:
        counts.count_bad(row.text or "")
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
    counts.rows += table.num_rows
    yield from table.to_batches()


def read_json_lines(stream: BinaryIO, wanted: Sequence[str], counts: ReadCounts) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted keys, as text, of one JSON object a line, or one Python dict a line, as Amazon has them."""
    for block in read_blocks(stream):
        rows = []
        for line in block.splitlines():
            if line.strip():
                row = _parse_object(line)
                values = None if row is None else [_value_as_text(row.get(key)) for key in wanted]
                if values is None:
                    counts.count_bad(line.decode("utf-8", "replace"))
                else:
                    rows.append(values)
        counts.rows += len(rows)
        columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(wanted))]
        yield pa.record_batch(columns, names=list(wanted))


def read_blocks(stream: BinaryIO, quotes: bool = False) -> Iterator[bytes]:
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


def _value_as_text(value: Any) -> str | None:
    """A value as text; None for what is missing, and for what is no single value."""
    if isinstance(value, str):
        return None if value in MISSING else value
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _parse_object(line: bytes) -> dict[str, Any] | None:
    text = line.decode("utf-8", "replace")
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        try:
            value = ast.literal_eval(text.strip())  # literals only: it runs nothing
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            return None
    return value if isinstance(value, dict) else None


def read_parquet(path: Path, wanted: Sequence[str], counts: ReadCounts) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns of a Parquet file, of their own types. Raises UserError for missing columns and
    damaged files."""
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            missing = [name for name in wanted if name not in file.schema_arrow.names]
            if missing:
                raise UserError(f"{path} has no column '{missing[0]}' among {file.schema_arrow.names}")
            for batch in file.iter_batches(1 << 19, columns=list(wanted)):
                counts.rows += batch.num_rows
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path} is damaged, or no Parquet file: {str(error).splitlines()[0]}") from None
