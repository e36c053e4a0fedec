"""Histories of users whom a model need not know: from Python, or from files of any size, as flat arrays of tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recbole_gen.data.times import END_OF_CALENDAR
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.prepare import formats
from recbole_gen.prepare import log as logs
from recbole_gen.prepare.log import ITEM, SCENE, TIME, USER

CHUNK = 8192
"""Users that are read, answered and written at once."""
LISTS = ("history", "items", "item_id_list")
"""Columns that hold a whole history, by which a file with a row a user is known; others are read as logs."""
NAMES = {
    USER: ("user", "user_id"), ITEM: LISTS, TIME: ("times", "timestamp_list"), SCENE: ("scenes", "scene_list"),
}  # fmt: skip
LOG_NAMES = {
    USER: ("user_id", "user"), ITEM: ("item_id", "item"), TIME: ("timestamp", "time"), SCENE: ("scene",),
}  # fmt: skip
KINDS = (".csv", ".tsv", ".jsonl", ".parquet", ".inter")


@dataclass(frozen=True)
class Histories:
    """n histories with N events, one after the other, oldest first.

    Attributes:
        users: [n] tokens.
        offsets: [n + 1] where each history begins and ends, int64.
        items: [N] tokens.
        times: [N] Unix seconds, float64, or None.
        scenes: [N] tokens, or None.
    """

    users: pa.Array
    offsets: np.ndarray
    items: pa.Array
    times: np.ndarray | None = None
    scenes: pa.Array | None = None

    def __len__(self) -> int:
        return len(self.users)

    def part(self, start: int, stop: int) -> Histories:
        """Those from ``start`` to before ``stop``."""
        first, last = int(self.offsets[start]), int(self.offsets[min(stop, len(self))])
        events = slice(first, last)
        return Histories(
            self.users[start:stop],
            self.offsets[start : min(stop, len(self)) + 1] - first,
            self.items[events],
            None if self.times is None else self.times[events],
            None if self.scenes is None else self.scenes[events],
        )

    @classmethod
    def of(
        cls,
        histories: Sequence[Sequence[Any]],
        times: Sequence[Sequence[Any]] | None = None,
        scenes: Sequence[Sequence[Any]] | None = None,
        users: Sequence[Any] | None = None,
    ) -> Histories:
        """From lists of tokens, with lists of times (Unix seconds, or dates) and scenes of the same lengths.

        Users without a name are called by their place, from 0. Raises UserError where lengths differ, for values that
        are no tokens, and for times that are none.
        """
        if isinstance(histories, (str, bytes, Mapping)):
            raise UserError("histories are lists of items, one for each user: [['item 1', 'item 2'], ['item 3']]")
        rows = [_row(row) for row in histories]
        sizes = np.fromiter(map(len, rows), np.int64, len(rows))
        offsets = np.concatenate([[0], np.cumsum(sizes)])
        if users is not None and len(users) != len(rows):
            raise UserError(f"there are {len(users)} users and {len(rows)} histories")
        seconds = None if times is None else _seconds(_flat("times", times, sizes))
        return cls(
            _tokens(range(len(rows)) if users is None else users),
            offsets,
            _tokens(item for row in rows for item in row),
            seconds,
            None if scenes is None else _tokens(_flat("scenes", scenes, sizes)),
        ).sorted()

    def sorted(self) -> Histories:
        """Each history by time, where there are times; simultaneous events stay as they are."""
        if self.times is None or not len(self.times):
            return self
        row = np.repeat(np.arange(len(self)), np.diff(self.offsets))
        falls = (np.diff(self.times) < 0) & (np.diff(row) == 0)
        if not falls.any():
            return self
        order = np.lexsort((self.times, row))
        scenes = None if self.scenes is None else self.scenes.take(pa.array(order))
        return Histories(self.users, self.offsets, self.items.take(pa.array(order)), self.times[order], scenes)


def _row(row: Any) -> Sequence[Any]:
    if isinstance(row, (str, bytes)) or not hasattr(row, "__iter__"):
        raise UserError(f"a history is a list of items, and not {row!r:.60}")
    return row if hasattr(row, "__len__") else list(row)


def _flat(name: str, values: Sequence[Any], sizes: np.ndarray) -> list[Any]:
    if len(values) != len(sizes):
        raise UserError(f"there are {len(values)} lists of {name} for {len(sizes)} histories")
    for place, (value, size) in enumerate(zip(values, sizes)):
        if len(_row(value)) != size:
            raise UserError(f"history {place} has {size} items and {len(value)} {name}")
    return [each for value in values for each in value]


def _tokens(values: Any) -> pa.Array:
    found = list(values)
    for value in found:
        if not isinstance(value, (str, int, np.integer, np.str_)) or isinstance(value, bool):
            raise UserError(f"{value!r:.60} cannot be the name of a user, item or scene: a token is text or a number")
    return pa.array(map(str, found), pa.string())


def _seconds(values: list[Any]) -> np.ndarray:
    if not values:
        return np.empty(0)
    try:
        column = pa.array(values, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        raise UserError("times are Unix seconds, or dates such as 2024-05-31T12:00:00Z, all of one kind") from None
    return checked_times(formats.seconds(column, "s")[0])


def checked_times(seconds: np.ndarray) -> np.ndarray:
    """The times. Raises UserError if one is missing, infinite, or beyond the calendar."""
    bad = ~(np.abs(seconds) < END_OF_CALENDAR)
    if bad.any():
        raise UserError(
            f"{int(bad.sum())} of the times are missing, or are no Unix seconds and no dates (milliseconds are to be "
            f"divided by 1000)"
        )
    return seconds


def read(file: Path, names: Mapping[str, str], separator: str = " ") -> Iterator[Histories]:
    """The histories of a file, CHUNK users at a time.

    A file with a row a user (JSON lines, Parquet, or text whose lists are joined by ``separator``) is read as a stream.
    A log with a row an event is read whole, as numbers; its users come in the order in which they first occur.

    Args:
        names: field (USER, ITEM, TIME, SCENE) -> its column, where the user says so or the model does.

    Raises UserError for a file that cannot be read, missing columns, and times that are none.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    kind = file.suffix.lower()
    if kind not in KINDS:
        raise UserError(f"{file}: its name must end in one of {', '.join(KINDS)}")
    try:
        titles, lists, delimiter = _head(file, kind)
        columns = _columns(titles, names)
        if columns[ITEM] in lists:
            yield from _wide(file, kind, columns, titles, delimiter, separator)
        else:
            yield from _log(file, kind, columns, titles, delimiter)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def _head(file: Path, kind: str) -> tuple[list[str], list[str], str]:
    """The titles of all columns, those of columns that hold lists, and what separates them in text."""
    if kind == ".parquet":
        try:
            schema = pyarrow.parquet.read_schema(file)
        except pa.ArrowException as error:
            raise UserError(f"it is damaged, or no Parquet file: {str(error).splitlines()[0]}") from None
        kinds = {name: schema.field(name).type for name in schema.names}
        return list(kinds), [name for name, each in kinds.items() if _is_list(each)], ""
    with open(file, "rb") as stream:
        line = stream.readline().removeprefix(b"\xef\xbb\xbf")
    if kind == ".jsonl":
        first = _object(line)
        return list(first), [name for name, value in first.items() if isinstance(value, list)], ""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    delimiter = "\t" if kind in (".inter", ".tsv") else formats.delimiter_of(text)
    titles = [title.strip('"').partition(":")[0] for title in text.split(delimiter)]
    return titles, [title for title in titles if title in LISTS], delimiter


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _object(line: bytes) -> dict[str, Any]:
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if not isinstance(first, dict):
        raise UserError(f"its first line is no JSON object: {line[:60].decode('utf-8', 'replace')!r}")
    return first


def _columns(titles: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """field -> its column."""
    columns: dict[str, str] = {}
    has_lists = any(title in titles for title in LISTS)
    for field, known in (NAMES if has_lists else LOG_NAMES).items():
        wanted = names.get(field)
        candidates = [wanted] if wanted and wanted in titles else [each for each in known if each in titles]
        if candidates:
            columns[field] = candidates[0]
        elif field in (USER, ITEM):
            hint = did_you_mean(wanted, titles) if wanted else ""
            raise UserError(
                f"there is no column of {'users' if field == USER else 'items'} ({wanted or ' or '.join(known)}) among "
                f"{titles}.{hint} Name it with --{'user' if field == USER else 'item'}=COLUMN"
            )
    return columns


def _wide(
    file: Path, kind: str, columns: dict[str, str], titles: list[str], delimiter: str, separator: str
) -> Iterator[Histories]:
    if kind == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(CHUNK, columns=list(columns.values())):
            yield _of_lists({field: batch.column(title) for field, title in columns.items()})
    elif kind == ".jsonl":
        yield from _json_lists(file, columns)
    else:
        wanted, held = list(columns.values()), None
        with open(file, "rb") as stream:
            stream.readline()
            for batch in formats.delimited(
                stream, wanted, formats.Seen(), delimiter, titles, quotes=kind not in (".inter", ".tsv")
            ):
                held = pa.Table.from_batches([batch]) if held is None else pa.concat_tables(
                    [held, pa.Table.from_batches([batch])])  # fmt: skip
                while held.num_rows >= CHUNK:
                    yield _of_text(held.slice(0, CHUNK), columns, separator)
                    held = held.slice(CHUNK)
        if held is not None and held.num_rows:
            yield _of_text(held, columns, separator)


def _json_lists(file: Path, columns: dict[str, str]) -> Iterator[Histories]:
    rows: dict[str, list[Any]] = {field: [] for field in columns}
    with open(file, "rb") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                for field, key in columns.items():
                    rows[field].append(row[key])
            except (ValueError, RecursionError):
                raise UserError(f"line {number} is no JSON: {line[:60].decode('utf-8', 'replace')!r}") from None
            except (KeyError, TypeError):
                raise UserError(f"line {number} has no '{key}', which the first line has") from None
            if len(rows[USER]) == CHUNK:
                yield _of_rows(rows)
                rows = {field: [] for field in columns}
    if rows[USER]:
        yield _of_rows(rows)


def _of_rows(rows: dict[str, list[Any]]) -> Histories:
    return Histories.of(rows[ITEM], rows.get(TIME), rows.get(SCENE), rows[USER])


def _of_text(table: pa.Table, columns: dict[str, str], separator: str) -> Histories:
    lists: dict[str, Any] = {USER: table.column(columns[USER]).combine_chunks()}
    for field in columns:
        if field != USER:
            text = pc.fill_null(table.column(columns[field]).combine_chunks(), "")
            parts = pc.split_pattern(text, separator)
            lists[field] = pc.if_else(pc.equal(text, ""), pa.scalar([], parts.type), parts)
    return _of_lists(lists)


def _of_lists(columns: dict[str, Any]) -> Histories:
    """From Arrow's columns of lists."""
    items = columns[ITEM]
    sizes = pc.fill_null(pc.list_value_length(items), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    for field in (TIME, SCENE):
        if field in columns:
            others = pc.fill_null(pc.list_value_length(columns[field]), 0).to_numpy(zero_copy_only=False)
            if (others != sizes).any():
                place = int((others != sizes).argmax())
                raise UserError(
                    f"user {columns[USER][place].as_py()} has {sizes[place]} items and {others[place]} values in the "
                    f"column of {'times' if field == TIME else 'scenes'}"
                )
    flat = {field: pc.list_flatten(column) for field, column in columns.items() if field != USER}
    return Histories(
        formats.tokens(columns[USER]),
        np.concatenate([[0], np.cumsum(sizes)]),
        formats.tokens(flat[ITEM]),
        checked_times(formats.seconds(flat[TIME], "s")[0]) if TIME in flat else None,
        formats.tokens(flat[SCENE]) if SCENE in flat else None,
    ).sorted()


def _log(file: Path, kind: str, columns: dict[str, str], titles: list[str], delimiter: str) -> Iterator[Histories]:
    """A log, its users in the order in which they first occur."""
    wanted, seen = list(columns.values()), formats.Seen()

    def batches() -> Iterator[dict[str, Any]]:
        if kind == ".parquet":
            yield from map(fields, formats.parquet(file, wanted, seen))
            return
        with open(file, "rb") as stream:
            if kind == ".jsonl":
                yield from map(fields, formats.json_lines(stream, wanted, seen))
            else:
                stream.readline()
                quotes = kind not in (".inter", ".tsv")
                yield from map(fields, formats.delimited(stream, wanted, seen, delimiter, titles, quotes))

    def fields(batch: pa.RecordBatch) -> dict[str, Any]:
        out: dict[str, Any] = {field: formats.tokens(batch.column(title)) for field, title in columns.items()
                               if field != TIME}  # fmt: skip
        if TIME in columns:
            out[TIME] = checked_times(formats.seconds(batch.column(columns[TIME]), "s")[0])
        return out

    log = logs.with_value(logs.gather(batches(), list(columns), (USER, ITEM, SCENE)), USER, ITEM)
    if seen.bad:
        raise UserError(f"{seen.bad} line(s) are no rows of it, such as {seen.examples[0]!r}")
    order = np.lexsort((log[TIME], log[USER])) if TIME in columns else np.argsort(log[USER], kind="stable")
    log = log.take(order)
    users, starts = np.unique(log[USER], return_index=True)
    offsets = np.append(starts, len(log)).astype(np.int64)
    for first in range(0, len(users), CHUNK):
        chosen = users[first : first + CHUNK]
        start, stop = offsets[first], offsets[first + len(chosen)]
        yield Histories(
            log.tokens[USER].take(pa.array(chosen)),
            offsets[first : first + len(chosen) + 1] - start,
            log.tokens[ITEM].take(pa.array(log[ITEM][start:stop])),
            log[TIME][start:stop] if TIME in columns else None,
            log.tokens[SCENE].take(pa.array(log[SCENE][start:stop], mask=log[SCENE][start:stop] < 0))
            if SCENE in columns else None,
        )  # fmt: skip
