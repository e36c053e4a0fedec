"""Where the columns of a log stand in the files of a publisher, and how they are read from there."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.errors import UserError
from recbole_gen.prepare import archive, formats
from recbole_gen.prepare.formats import Seen
from recbole_gen.prepare.log import ITEM, TIME, USER

Batch = Mapping[str, pa.Array]
"""Field -> its values of some rows: text, of the time and other numbers float64."""
ISO = "iso"


class Source(Protocol):
    """Something that a log can be read from.

    Attributes:
        file: its name, or a pattern with a star for several that follow one another.
        fields: those of its log, in their order in the atomic file.
    """

    @property
    def file(self) -> str: ...

    @property
    def fields(self) -> tuple[str, ...]: ...

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        """The rows in their order. Raises UserError for what is missing or damaged."""
        ...


@dataclass(frozen=True)
class Text:
    """Delimited text.

    Attributes:
        file: name of the file, or a pattern with a star for several that follow one another.
        columns: field -> its title.
        delimiter, titles: as `formats.delimited` takes them; with commas, values may be in quotes.
        unit: of the times, one of `formats.UNITS`, or "iso".
        begins: seconds since 1970 at the zero of the times.
        rows: only so many of the first rows.
    """

    file: str
    columns: Mapping[str, str]
    delimiter: str = ","
    titles: tuple[str, ...] = ()
    unit: str = "s"
    begins: float = 0.0
    rows: int | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        left = self.rows
        for name, stream in _members(raw, self.file):
            with _named(name):
                for batch in formats.delimited(
                    stream, list(self.columns.values()), seen, self.delimiter, self.titles, quotes=self.delimiter == ","
                ):
                    batch = batch.slice(0, left)
                    left = None if left is None else left - batch.num_rows
                    yield _fields(batch, self.columns, numbers, self.unit, self.begins)
                    if left == 0:
                        return


@dataclass(frozen=True)
class Lines:
    """One JSON object a line, or one Python dict; attributes as `Text` has them."""

    file: str
    columns: Mapping[str, str]
    unit: str = "s"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.columns)

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        for name, stream in _members(raw, self.file):
            with _named(name):
                for batch in formats.json_lines(stream, list(self.columns.values()), seen):
                    yield _fields(batch, self.columns, numbers, self.unit, 0.0)


@dataclass(frozen=True)
class ListsOfUsers:
    """A line a user, as the first release of ZhihuRec has them: user, number, and `item|shown|read` times, all of which
    are separated by tabs or, in a list, by commas; 0 is no time."""

    file: str
    fields = (USER, ITEM, TIME)

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        for name, stream in _members(raw, self.file):
            with _named(name):
                for block in formats.blocks(stream):
                    rows = []
                    for line in block.decode("utf-8", "replace").splitlines():
                        rows += _events(line, seen)
                    seen.rows += len(rows)
                    users, items, times = zip(*rows) if rows else ((), (), ())
                    yield {USER: pa.array(users, pa.string()), ITEM: pa.array(items, pa.string()),
                           TIME: pa.array(times, pa.float64())}  # fmt: skip


def _events(line: str, seen: Seen) -> list[tuple[str, str, float]]:
    user, *columns = line.split("\t")
    if len(columns) < 2:
        if line.strip():
            seen.count_bad(line)
        return []
    events = []
    for event in columns[1].split(","):
        item, *times = event.split("|")
        if len(times) != 2 or not times[1].isdecimal():
            seen.count_bad(event)
        else:
            events.append((user, item, float(times[1])))
    return events


@dataclass(frozen=True)
class Joined:
    """A log and a table that says more of its items.

    Attributes:
        table: the file with a row an item; ``key`` is its column that ``of``, a field of the log, refers to.
        gives: field -> its title in that table.
    """

    log: Text
    table: str
    key: str
    of: str
    gives: Mapping[str, str]

    @property
    def file(self) -> str:
        return self.log.file

    @property
    def fields(self) -> tuple[str, ...]:
        return *self.log.fields, *self.gives

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        keys: list[pa.Array] = []
        values: dict[str, list[pa.Array]] = {field: [] for field in self.gives}
        for name, stream in _members(raw, self.table):
            with _named(name):
                for batch in formats.delimited(stream, [self.key, *self.gives.values()], Seen()):
                    keys.append(batch.column(self.key))
                    for field, title in self.gives.items():
                        values[field].append(batch.column(title))
        known = pa.chunked_array(keys, pa.string())
        columns = {field: pa.chunked_array(parts, pa.string()) for field, parts in values.items()}
        for batch in self.log.batches(raw, numbers, seen):
            places = pc.index_in(batch[self.of], value_set=known)
            more = {field: column.take(places).combine_chunks() for field, column in columns.items()}
            yield {**batch, **more}


@dataclass(frozen=True)
class Atomic:
    """RecBole's atomic file of the same log, in place of the publisher's.

    Attributes:
        columns: field -> its name there.
        titles: of all columns, without their types.
    """

    columns: Mapping[str, str]
    titles: tuple[str, ...]
    file = "*.inter"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.columns)

    @classmethod
    def of(cls, raw: Path, columns: Mapping[str, str]) -> Atomic:
        """The file in ``raw``, of which users, items and times are wanted, and the other columns where they are there.

        Raises `archive.NotThere` if there is none, and UserError for missing columns.
        """
        for name, stream in _members(raw, cls.file):
            line = stream.readline().decode("utf-8-sig", "replace").rstrip("\r\n")
            titles = tuple(title.partition(":")[0] for title in line.split("\t"))
            for field in (USER, ITEM, TIME):
                if columns[field] not in titles:
                    raise UserError(f"{name}: there is no column '{columns[field]}' among {list(titles)}")
        return cls({field: column for field, column in columns.items() if column in titles}, titles)

    def batches(self, raw: Path, numbers: tuple[str, ...], seen: Seen) -> Iterator[Batch]:
        for name, stream in _members(raw, self.file):
            with _named(name):
                stream.readline()
                for batch in formats.delimited(stream, list(self.columns.values()), seen, "\t", self.titles):
                    yield _fields(batch, self.columns, numbers, "s", 0.0)


def _members(raw: Path, pattern: str) -> Iterator[tuple[str, BinaryIO]]:
    """Name and stream of the files, one after the other."""
    if "*" in pattern:
        with archive.open_members(raw, pattern) as members:
            yield from members
    else:
        with archive.open_member(raw, [pattern]) as stream:
            yield pattern, stream


def _fields(batch: pa.RecordBatch, columns: Mapping[str, str], numbers, unit: str, begins: float) -> Batch:
    """The columns of a batch by their fields, the times in Unix seconds."""
    out: dict[str, pa.Array] = {}
    for field, title in columns.items():
        column = batch.column(title)
        if field == TIME:
            out[field] = (
                formats.seconds(column)[0] if unit == ISO else formats.numbers(column) / formats.UNITS[unit] + begins
            )
        elif field in numbers:
            out[field] = formats.numbers(column)
        else:
            out[field] = column
    return out


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Errors in a file name it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{name}: {error}") from None
