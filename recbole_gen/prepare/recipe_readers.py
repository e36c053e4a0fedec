"""Batches of a log from each kind of source: what `read_batches` does for a class of `sources`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from functools import singledispatch
from pathlib import Path
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.errors import UserError
from recbole_gen.prepare import archive
from recbole_gen.prepare.fields import ITEM, TIME, USER
from recbole_gen.prepare.sources import ISO, AtomicFile, DelimitedFile, JoinedFiles, JsonLinesFile, UserLinesFile
from recbole_gen.reading import file_readers, text_blocks
from recbole_gen.reading.file_readers import ReadCounts
from recbole_gen.reading.parsing import parse_numbers, parse_times
from recbole_gen.reading.rules import TIME_UNITS, decode_titles, plain_title

Batch = Mapping[str, Any]
"""Field -> its values of some rows: text as a pa.Array, the time and other numbers as [n] float64."""


@singledispatch
def read_batches(source, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    """The rows of a source in ``raw`` in their order; ``numbers``: fields that are no tokens.

    Raises UserError for what is missing or damaged.
    """
    raise TypeError(f"there is no reader for {source!r}")


@read_batches.register(DelimitedFile)
def _(source: DelimitedFile, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    left, titles, quotes = source.max_rows, list(source.columns.values()), source.delimiter == ","
    for name, stream in _open_files(raw, source.file):
        with _errors_named(name):
            for batch in file_readers.read_delimited(stream, titles, counts, source.delimiter, source.titles, quotes):
                batch = batch.slice(0, left)
                left = None if left is None else left - batch.num_rows
                yield _parse_fields(batch, source.columns, numbers, source.unit, source.time_origin)
                if left == 0:
                    return


@read_batches.register(JsonLinesFile)
def _(source: JsonLinesFile, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    for name, stream in _open_files(raw, source.file):
        with _errors_named(name):
            for batch in file_readers.read_json_lines(stream, list(source.columns.values()), counts):
                yield _parse_fields(batch, source.columns, numbers, source.unit)


@read_batches.register(UserLinesFile)
def _(source: UserLinesFile, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    for name, stream in _open_files(raw, source.file):
        with _errors_named(name):
            for _, block in text_blocks.read_blocks(stream):
                rows = []
                for line in block.decode("utf-8", "replace").split("\n"):
                    rows += _user_events(line.removesuffix("\r"), counts)
                counts.rows += len(rows)
                users, items, times = zip(*rows) if rows else ((), (), ())
                yield {USER: pa.array(users, pa.string()), ITEM: pa.array(items, pa.string()),
                       TIME: pa.array(times, pa.float64())}  # fmt: skip


def _user_events(line: str, counts: ReadCounts) -> list[tuple[str, str, float]]:
    user, *columns = line.split("\t")
    if len(columns) < 2:
        if line.strip():
            counts.count_bad(line)
        return []
    events = []
    for event in columns[1].split(","):
        item, *times = event.split("|")
        if len(times) != 2 or not times[1].isdecimal():
            counts.count_bad(event)
        else:
            events.append((user, item, float(times[1])))
    return events


@read_batches.register(JoinedFiles)
def _(source: JoinedFiles, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    keys: list[pa.Array] = []
    values: dict[str, list[pa.Array]] = {field: [] for field in source.columns}
    for name, stream in _open_files(raw, source.table):
        with _errors_named(name):
            for batch in file_readers.read_delimited(stream, [source.key, *source.columns.values()], ReadCounts()):
                keys.append(batch.column(source.key))
                for field, title in source.columns.items():
                    values[field].append(batch.column(title))
    known = pa.chunked_array(keys, pa.string())
    columns = {field: pa.chunked_array(parts, pa.string()) for field, parts in values.items()}
    for events in read_batches(source.log, raw, numbers, counts):
        places = pc.index_in(events[source.key_field], value_set=known)
        more = {field: column.take(places).combine_chunks() for field, column in columns.items()}
        yield {**events, **more}


@read_batches.register(AtomicFile)
def _(source: AtomicFile, raw: Path, numbers: tuple[str, ...], counts: ReadCounts) -> Iterator[Batch]:
    for name, stream in _open_files(raw, source.file):
        with _errors_named(name):
            for batch in file_readers.read_delimited(
                stream, list(source.columns.values()), counts, "\t", source.titles, has_titles=True, missing=("",)
            ):
                yield _parse_fields(batch, source.columns, numbers)


def find_atomic_file(raw: Path, columns: Mapping[str, str]) -> AtomicFile:
    """The atomic file in ``raw``, of which users, items and times are wanted, and the other columns where they are
    there.

    Raises `archive.MemberNotFound` if there is none, and UserError for missing columns.
    """
    for name, stream in _open_files(raw, AtomicFile.file):
        titles = tuple(map(plain_title, decode_titles(stream.readline()).split("\t")))
        for field in (USER, ITEM, TIME):
            if columns[field] not in titles:
                raise UserError(f"{name}: there is no column '{columns[field]}' among {list(titles)}")
    return AtomicFile({field: column for field, column in columns.items() if column in titles}, titles)


def _open_files(raw: Path, pattern: str) -> Iterator[tuple[str, BinaryIO]]:
    """Name and stream of the files, one after the other."""
    if "*" in pattern:
        with archive.open_members(raw, pattern) as members:
            yield from members
    else:
        with archive.open_member(raw, [pattern]) as stream:
            yield pattern, stream


def _parse_fields(
    batch: pa.RecordBatch,
    columns: Mapping[str, str],
    numbers: tuple[str, ...],
    unit: str = "s",
    time_origin: float = 0.0,
) -> Batch:
    """The columns of a batch by their fields, the times in Unix seconds."""
    out: dict[str, Any] = {}
    for field, title in columns.items():
        column = batch.column(title)
        if field == TIME and unit == ISO:
            out[field], _ = parse_times(column)
        elif field == TIME:
            out[field] = parse_numbers(column) / TIME_UNITS[unit] + time_origin
        else:
            out[field] = parse_numbers(column) if field in numbers else column
    return out


@contextlib.contextmanager
def _errors_named(name: str) -> Iterator[None]:
    """Errors in a file name it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
