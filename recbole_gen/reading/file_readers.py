"""Files as batches of columns: atomic files, delimited text, JSON lines, Parquet. In bounded memory, by pyarrow.

All text stays text here, as it is in the file; `parsing` reads what stands in it. What is no row of its format (too few
or too many cells, no JSON) is counted and left out; see `ReadCounts`.
"""

from __future__ import annotations

import ast
import csv
import gzip
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv
import pyarrow.json
import pyarrow.parquet

from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.reading import text_blocks
from recbole_gen.reading.parsing import without_point_zero
from recbole_gen.reading.rules import BOM, FORMATS, LONE_CR, MISSING, decode_titles, plain_title, title_line

DELIMITERS = ",\t;|"
"""What a line of titles may be separated by, where nothing says it."""
EXAMPLES = 3
"""Lines that are named of each kind."""
LinesOf = Callable[[Sequence[int]], list[int]]


def first_names(names: Sequence[str]) -> str:
    """The first `EXAMPLES` of names as a message shows them, and how many more there are."""
    more = f" and {len(names) - EXAMPLES:,} more" if len(names) > EXAMPLES else ""
    return f"{', '.join(names[:EXAMPLES])}{more}"


@dataclass
class ReadCounts:
    """What reading has met.

    Attributes:
        rows: of the batches so far.
        bad: lines that were no rows.
        examples, lines: the first of these, and their numbers.
        lines_of: the numbers of the lines at which rows of the last batch begin; in Parquet, of the rows.
    """

    rows: int = 0
    bad: int = 0
    examples: list[str] = field(default_factory=list)
    lines: list[int] = field(default_factory=list)
    lines_of: LinesOf = list

    def count_bad(self, text: str, line: int | None = None) -> None:
        self.bad += 1
        if len(self.examples) < EXAMPLES:
            self.examples.append(text.strip()[:80])
            self.lines += [] if line is None else [line]


@dataclass(frozen=True)
class LogFile:
    """How a file is to be read.

    Attributes:
        kind: atomic, text, json or parquet.
        titles: of all columns, without their types; of JSON, the keys of the first line.
        delimiter: between the cells of a line.
        encoding: of an atomic file.
        first: the first object of JSON lines, which tells which values are lists.
    """

    path: Path
    kind: str
    titles: list[str]
    delimiter: str = ""
    encoding: str | None = "utf-8"
    first: dict[str, Any] = field(default_factory=dict)


def describe_file(path: Path, separator: str = "\t", encoding: str | None = "utf-8") -> LogFile:
    """What the name and the beginning of a file say of it; the separator and the encoding are those of atomic files.

    Raises UserError for another name, an empty file, and a first line that is no title line or no JSON object.
    """
    packed = path.suffix.lower() == ".gz"
    kind = FORMATS.get(Path(path.stem if packed else path.name).suffix.lower())
    if kind is None or (packed and kind in ("parquet", "atomic")):
        raise UserError(f"{path}: its name must end in one of {', '.join(FORMATS)} (or .csv.gz, .jsonl.gz, ...)")
    if kind == "atomic":
        return LogFile(path, kind, list(title_line(path, separator, encoding)), separator, encoding)
    if kind == "parquet":
        try:
            return LogFile(path, kind, pyarrow.parquet.read_schema(path).names)
        except (pa.ArrowException, OSError) as error:
            raise _no_parquet(path, error) from None
    with open_text(path) as stream:
        try:
            line = stream.readline()
        except (EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{path} is damaged, or not whole: {error}") from None
    if not line:
        raise UserError(f"{path}: the file is empty")
    if kind == "json":
        first = _parse_object(line.removeprefix(BOM))
        return LogFile(path, kind, list(first or ()), first=first or {})
    text = decode_titles(line, None) if _is_utf8(line) else line.decode("latin-1")
    delimiter = guess_delimiter(text)
    try:
        titles = _parse_titles(text, delimiter, True)
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    plain = [plain_title(title) for title in titles]
    if delimiter == "\t" and all(name != title for name, title in zip(plain, titles)):
        kind = "atomic"  # under another name
    return LogFile(path, kind, plain, delimiter)


def read_file(file: LogFile, wanted: Sequence[str], counts: ReadCounts) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns. Raises UserError for missing columns, and for what `rules` says is refused."""
    if file.kind == "parquet":
        yield from read_parquet(file.path, wanted, counts)
        return
    with open_text(file.path, file.encoding) as stream:
        try:
            if file.kind == "json":
                yield from read_json_lines(stream, wanted, counts)
            else:
                atomic = file.kind == "atomic"
                for batch in read_delimited(
                    stream, wanted, counts, file.delimiter, file.titles, quotes=not atomic, has_titles=True,
                    missing=("",) if atomic else MISSING,
                ):  # fmt: skip
                    yield batch if atomic else pa.record_batch(
                        [without_point_zero(column) for column in batch.columns], names=batch.schema.names)  # fmt: skip
        except (EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{file.path} is damaged, or not whole: {error}") from None
        except UserError as error:
            raise UserError(f"{file.path}: {error}") from None


def find_lines(file: LogFile, rows: Sequence[int]) -> list[int]:
    """The lines at which these rows begin (ascending, from 0, not counting lines that are none); reads to the last."""
    counts, found, wanted = ReadCounts(), list[int](), list(rows)
    for batch in read_file(file, file.titles[:1], counts) if wanted else ():
        start = counts.rows - batch.num_rows
        here = [row - start for row in wanted if start <= row < counts.rows]
        found += counts.lines_of(here) if here else []
        if counts.rows > wanted[-1]:
            break
    return found


def open_text(path: Path, encoding: str | None = "utf-8") -> BinaryIO:
    """A file as UTF-8, perhaps unpacked. Raises UserError, with the line, for what is not of its encoding."""
    if path.suffix.lower() == ".gz":
        return cast(BinaryIO, gzip.open(path))
    if text_blocks.is_utf8(encoding):
        return open(path, "rb")
    return io.BytesIO(text_blocks.as_utf8(path, encoding))


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
    has_titles: bool = False,
    missing: Sequence[str] = MISSING,
) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted columns of delimited text, as text: UTF-8 with or without BOM; lines end in LF or CRLF.

    Args:
        delimiter: one character, or several.
        titles: of all columns, where the first line has none, or ``has_titles`` that are to be passed over.
        quotes: values may stand in double quotes and have line ends in them, as in RFC 4180.
        missing: words that stand for no value, unless they are in quotes.

    Raises UserError for missing columns, an empty file, other encodings, and what `text_blocks` refuses.
    """
    skip = has_titles or not titles
    for line, block in text_blocks.read_blocks(stream, delimiter if quotes else None):
        if skip:
            first, _, block = block.partition(b"\n")
            titles = titles or _parse_titles(first.decode("utf-8", "replace"), delimiter, quotes)
            absent = [name for name in wanted if name not in titles]
            if absent:
                raise UserError(f"there is no column '{absent[0]}' among {titles}.{did_you_mean(absent[0], titles)}")
            skip, line = False, line + 1
        if block.strip(b"\r\n"):
            yield from _parse_block(block, line, wanted, counts, delimiter, titles, quotes, missing)


def _parse_titles(line: str, delimiter: str, quotes: bool) -> list[str]:
    text = line.rstrip("\r\n")
    if not text:
        raise UserError("the first line, that of the titles, is empty")
    try:
        return next(csv.reader([text], delimiter=delimiter)) if quotes else text.split(delimiter)
    except csv.Error as error:
        why = LONE_CR if "\r" in text else f"it is no line of titles: {error}"
        raise UserError(f"line 1: {why}") from None


def _parse_block(
    block: bytes,
    line: int,
    wanted: Sequence[str],
    counts: ReadCounts,
    delimiter: str,
    titles: Sequence[str],
    quotes: bool,
    missing: Sequence[str],
) -> Iterator[pa.RecordBatch]:
    quotes = quotes and text_blocks.has_quoted_cells(block, delimiter)
    if len(delimiter) > 1:
        block, delimiter = text_blocks.with_short_delimiter(block, delimiter)
    texts: list[str] = []

    def skip(row) -> str:
        texts.append(row.text or "")
        return "skip"

    try:
        # In blocks of ours: Arrow's reader of streams reads far ahead, in a thread that it leaves behind on errors.
        table = pyarrow.csv.read_csv(
            pa.py_buffer(block),
            pyarrow.csv.ReadOptions(block_size=len(block) + 1, column_names=list(titles)),
            pyarrow.csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=skip, quote_char='"' if quotes else False,
                newlines_in_values=quotes,
            ),
            pyarrow.csv.ConvertOptions(
                column_types=dict.fromkeys(wanted, pa.string()), include_columns=list(wanted),
                null_values=list(missing), strings_can_be_null=True, quoted_strings_can_be_null=False,
            ),
        )  # fmt: skip
    except pa.ArrowInvalid as error:
        if "invalid UTF8" in str(error):
            raise text_blocks.not_utf8(block, line) from None
        raise UserError(str(error).splitlines()[0]) from None
    if texts:
        _, bad = text_blocks.find_rows(block, delimiter, len(titles), quotes)
        for number, text in zip(bad, texts):
            counts.count_bad(text, line + int(number))
        counts.bad += max(len(texts) - len(bad), 0)

    def lines_of(rows: Sequence[int]) -> list[int]:
        good, _ = text_blocks.find_rows(block, delimiter, len(titles), quotes)
        return [line + int(good[row]) for row in rows if row < len(good)]

    counts.rows += table.num_rows
    counts.lines_of = lines_of
    yield from table.combine_chunks().to_batches()


def read_json_lines(stream: BinaryIO, wanted: Sequence[str], counts: ReadCounts) -> Iterator[pa.RecordBatch]:
    """Batches of the wanted keys, as text, of one JSON object a line, or one Python dict a line, as Amazon has them.

    Raises UserError, with the line, for bytes that are no UTF-8.
    """
    for first, block in text_blocks.read_blocks(stream):
        rows, lines = [], []
        for number, line in enumerate(block.split(b"\n"), first):
            if line.strip():
                if not _is_utf8(line):
                    raise text_blocks.not_utf8(line, number)
                row = _parse_object(line)
                values = None if row is None else [_value_as_text(row.get(key)) for key in wanted]
                if values is None:
                    counts.count_bad(line.decode(), number)
                else:
                    rows.append(values)
                    lines.append(number)
        counts.rows += len(rows)
        counts.lines_of = lambda places, lines=lines: [lines[place] for place in places]  # type: ignore[misc]
        columns = [pa.array([row[place] for row in rows], pa.string()) for place in range(len(wanted))]
        yield pa.record_batch(columns, names=list(wanted))


def _is_utf8(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


def _value_as_text(value: Any) -> str | None:
    """A value as text; None for what is missing, and for what is no single value."""
    if isinstance(value, str):
        return value or None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value != value:
        return None
    return name_of_number(value)


def name_of_number(value: float) -> str:
    """A number as a token: 5.0 and 5 are one."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() and abs(value) < 2**53 else str(value)


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
                first = counts.rows + 1
                counts.rows += batch.num_rows
                counts.lines_of = lambda places, first=first: [first + place for place in places]  # type: ignore[misc]
                yield batch
    except (pa.ArrowException, OSError) as error:
        raise _no_parquet(path, error) from None


def _no_parquet(path: Path, error: Exception) -> UserError:
    return UserError(f"{path} is damaged, or no Parquet file: {str(error).splitlines()[0]}")
