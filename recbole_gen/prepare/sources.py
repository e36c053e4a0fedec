"""Where the columns of a log stand in the files of a publisher, as plain data; `source_readers` reads them.

Light to import: recipes are listed without what it takes to read them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from recbole_gen.prepare.fields import ITEM, TIME, USER

ISO = "iso"
"""The unit of times that are dates as in ISO 8601."""


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


@dataclass(frozen=True)
class DelimitedFile:
    """Delimited text.

    Attributes:
        file: name of the file, or a pattern with a star for several that follow one another.
        columns: field -> its title.
        delimiter, titles: as `formats.read_delimited` takes them; with commas, values may be in quotes.
        unit: of the times, one of `TIME_UNITS`, or "iso".
        time_origin: seconds since 1970 at the zero of the times.
        max_rows: only so many of the first rows.
    """

    file: str
    columns: Mapping[str, str]
    delimiter: str = ","
    titles: tuple[str, ...] = ()
    unit: str = "s"
    time_origin: float = 0.0
    max_rows: int | None = None

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.columns)


@dataclass(frozen=True)
class JsonLinesFile:
    """One JSON object a line, or one Python dict; attributes as `DelimitedFile` has them."""

    file: str
    columns: Mapping[str, str]
    unit: str = "s"

    @property
    def fields(self) -> tuple[str, ...]:
        return tuple(self.columns)


@dataclass(frozen=True)
class UserLinesFile:
    """A line a user, as the first release of ZhihuRec has them: user, number, and `item|shown|read` times, all of which
    are separated by tabs or, in a list, by commas; 0 is no time."""

    file: str
    fields = (USER, ITEM, TIME)


@dataclass(frozen=True)
class JoinedFiles:
    """A log and a table that says more of its items.

    Attributes:
        table: the file with a row an item; ``key`` is its column that ``key_field``, a field of the log, refers to.
        columns: field -> its title in that table.
    """

    log: DelimitedFile
    table: str
    key: str
    key_field: str
    columns: Mapping[str, str]

    @property
    def file(self) -> str:
        return self.log.file

    @property
    def fields(self) -> tuple[str, ...]:
        return *self.log.fields, *self.columns


@dataclass(frozen=True)
class AtomicFile:
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
