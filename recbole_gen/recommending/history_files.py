"""Files of histories, of any size: a log with a row an event, or a row a user."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recbole_gen.config.config import Config
from recbole_gen.errors import UserError, counted, did_you_mean, refuse_shared_columns
from recbole_gen.prepare import filters
from recbole_gen.prepare.fields import ITEM, SCENE, TIME, USER
from recbole_gen.prepare.log import log_from_batches
from recbole_gen.reading.events import EventReader
from recbole_gen.reading.file_readers import EXAMPLES, LogFile, describe_file, find_lines, open_text, read_file
from recbole_gen.reading.parsing import TimeParser, parse_tokens
from recbole_gen.reading.row_counts import RowCounts, name_lines
from recbole_gen.reading.rules import MAX_BAD
from recbole_gen.recommending.histories import Histories, checked_times
from recbole_gen.recommending.model_input import token_ids

CHUNK_USERS = 8192
"""Users that are read, answered and written at once."""
HISTORY_COLUMNS = ("history", "items", "item_id_list")
"""Columns that hold a whole history, by which a file with a row a user is known; others are read as logs."""
LIST_NAMES = {
    USER: ("user", "user_id"), ITEM: HISTORY_COLUMNS, TIME: ("times", "timestamp_list"),
    SCENE: ("scenes", "scene_list"),
}  # fmt: skip
LOG_NAMES = {
    USER: ("user_id", "user"), ITEM: ("item_id", "item"), TIME: ("timestamp", "time"), SCENE: ("scene",),
}  # fmt: skip


def column_names(options: Mapping[str, Any], config: Config) -> dict[str, str]:
    """field -> its column in a file of histories: as the options say, or else as in the run's data set."""
    keys = {
        USER: ("user", "USER_ID_FIELD"), ITEM: ("item", "ITEM_ID_FIELD"), TIME: ("time", "TIME_FIELD"),
        SCENE: ("scene", "SCENE_FIELD"),
    }  # fmt: skip
    return {field: str(options[option]) or config[key] for field, (option, key) in keys.items()}


def open_histories(path: Path, values: Mapping[str, Any], config: Config) -> HistoryFile:
    """A file of histories, read as the options of a command and the settings of the run say. Raises UserError."""
    share, form = values["max_bad"], str(values["time_format"]) or None
    if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share <= 1:
        raise UserError(f"--max_bad must be a share between 0 and 1, got {share}")
    of_atomic = config["field_separator"], config["encoding"]
    times = TimeParser(form=form)
    return HistoryFile(path, column_names(values, config), of_atomic=of_atomic, times=times, max_bad=share)


class HistoryFile:
    """A file of histories: a log with a row an event, or a row a user.

    Args:
        names: field (USER, ITEM, TIME, SCENE) -> its column, where the user says so or the model does.
        separator: between the values of a list that is text.
        of_atomic: the separator and the encoding of atomic files.
        times: unit and form of times, if the user says them.
        max_bad: share of rows that may be unusable.

    Attributes:
        is_log: whether it has a row an event.
        notes: what is to be told of it, once it is read.

    Raises UserError for a file that cannot be read, missing columns, and times that are none.
    """

    def __init__(
        self,
        path: Path,
        names: Mapping[str, str],
        separator: str = " ",
        of_atomic: tuple[str, str | None] = ("\t", "utf-8"),
        times: TimeParser | None = None,
        max_bad: float = MAX_BAD,
    ):
        if not path.is_file():
            raise UserError(f"there is no file {path}")
        self.path, self.separator, self.max_bad = path, separator, max_bad
        self.times = times or TimeParser()
        self.file = describe_file(path, *of_atomic)
        if self.file.kind == "json" and not self.file.first:
            raise UserError(f"{path}: its first line is no JSON object")
        with _errors_named(path):
            self.columns = _find_columns(_titles_with_events(self.file, names.get(ITEM)), names)
        self.is_log = self.columns[ITEM] not in _list_titles(self.file)
        self.notes: list[str] = []
        self._reader = EventReader(self.file, self.columns, TIME if TIME in self.columns else None, {SCENE}, self.times)

    def read(self) -> Iterator[Histories]:
        """The histories, CHUNK_USERS users at a time.

        Lists (JSON lines, Parquet, or text whose lists are joined by the separator) are read as a stream. A log is read
        whole, as numbers; its users come in the order in which they first occur, and of events with the same user, item
        and time the first one is read.
        """
        with _errors_named(self.path):
            if self.is_log:
                yield from self._read_log()
                return
            rows = RowCounts()
            yield from _told_twice(self._read_lists(rows), self)
            self.notes += rows.warnings(self.path)
            if TIME in self.columns:
                self.notes += self.times.notes(self.columns[TIME])

    def find_lines(self, rows: Sequence[int]) -> list[int]:
        """The lines of these rows (ascending, from 0), of a log of events, without those that were left out."""
        return self._reader.find_lines(rows) if self.is_log else find_lines(self.file, rows)

    def find_unknown(self, items: pa.Array) -> list[int]:
        """The lines of the first events of a log, or lists, with an item that is not among ``items``."""
        found: list[int] = []
        if not self.is_log:
            start = 0
            for chunk in self._read_lists(RowCounts()):
                rows = np.repeat(np.arange(len(chunk)), np.diff(chunk.offsets))[token_ids(chunk.items, items) <= 0]
                found += [start + int(row) for row in np.unique(rows)]
                start += len(chunk)
                if len(found) >= EXAMPLES:
                    break
            return find_lines(self.file, found[:EXAMPLES])
        again = EventReader(self.file, self.columns, self._reader.time, {SCENE}, self.times)
        for batch in again.batches():
            unknown = np.flatnonzero(token_ids(batch[ITEM], items) <= 0)
            found += again.lines_of(unknown[: EXAMPLES - len(found)].tolist()) if len(unknown) else []
            if len(found) >= EXAMPLES:
                break
        return found

    def _read_log(self) -> Iterator[Histories]:
        reader = self._reader
        log = log_from_batches(reader.batches(), list(self.columns), (USER, ITEM, SCENE))
        rows = reader.rows
        rows.refuse_too_many(self.path, self.max_bad, ", or allow more with --max_bad=SHARE")
        self.notes += rows.warnings(self.path)
        if TIME in self.columns:
            self.notes += self.times.notes(self.columns[TIME])
            first = filters.first_of_duplicates(log, USER, ITEM, TIME)
            repeated = np.flatnonzero(~first)
            if len(repeated):
                lines = name_lines(reader.find_lines(repeated[:EXAMPLES].tolist()), len(repeated))
                self.notes.append(
                    f"{counted(len(repeated), 'repeat')} of a row with the same user, item and time, left out{lines}"
                )
                log = log.take(first)
        order = np.lexsort((log[TIME], log[USER])) if TIME in self.columns else np.argsort(log[USER], kind="stable")
        log = log.take(order)
        users, starts = np.unique(log[USER], return_index=True)
        offsets = np.append(starts, len(log)).astype(np.int64)
        for first_user in range(0, len(users), CHUNK_USERS):
            chosen = users[first_user : first_user + CHUNK_USERS]
            start, stop = offsets[first_user], offsets[first_user + len(chosen)]
            yield Histories(
                log.tokens[USER].take(pa.array(chosen)),
                offsets[first_user : first_user + len(chosen) + 1] - start,
                log.tokens[ITEM].take(pa.array(log[ITEM][start:stop])),
                log[TIME][start:stop] if TIME in self.columns else None,
                log.tokens[SCENE].take(pa.array(log[SCENE][start:stop], mask=log[SCENE][start:stop] < 0))
                if SCENE in self.columns else None,
            )  # fmt: skip

    def _read_lists(self, rows: RowCounts) -> Iterator[Histories]:
        if self.file.kind == "json":
            yield from _read_json_lists(self.path, self.columns, self.times)
            return
        titles, held = list(self.columns.values()), None
        for batch in read_file(self.file, titles, rows.read):
            table = pa.Table.from_batches([batch])
            held = table if held is None else pa.concat_tables([held, table])
            while held.num_rows >= CHUNK_USERS:
                yield self._from_table(held.slice(0, CHUNK_USERS), rows)
                held = held.slice(CHUNK_USERS)
        if held is not None and held.num_rows:
            yield self._from_table(held, rows)
        rows.refuse_too_many(self.path, self.max_bad, ", or allow more with --max_bad=SHARE")

    def _from_table(self, table: pa.Table, rows: RowCounts) -> Histories:
        if self.file.kind != "parquet":
            return _from_joined_text(table, self.columns, self.separator, self.times)
        columns = {field: table.column(title).combine_chunks() for field, title in self.columns.items()}
        return _from_list_columns(columns, self.times)


@contextlib.contextmanager
def _errors_named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None


def _told_twice(chunks: Iterator[Histories], file: HistoryFile) -> Iterator[Histories]:
    """The same chunks; that users are named twice is noted at the end."""
    sums = []  # eight bytes a user
    for chunk in chunks:
        digests = [hashlib.blake2b(str(user).encode(), digest_size=8).digest() for user in chunk.users.to_pylist()]
        sums.append(np.frombuffer(b"".join(digests), np.uint64))
        yield chunk
    every = np.concatenate([np.empty(0, np.uint64), *sums])
    _, first = np.unique(every, return_index=True)
    if len(first) < len(every):
        again = np.ones(len(every), dtype=bool)
        again[first] = False
        places = np.flatnonzero(again)
        lines = name_lines(file.find_lines(places[:EXAMPLES].tolist()), len(places))
        file.notes.append(
            f"{counted(len(places), 'row', 'are')} of users who have a row before{lines}: each is answered by "
            f"itself; a log with a row an event is put together by users"
        )


def _list_titles(file: LogFile) -> list[str]:
    """The columns that hold lists."""
    if file.kind == "parquet":
        schema = pyarrow.parquet.read_schema(file.path)
        return [name for name in schema.names if _is_list_type(schema.field(name).type)]
    if file.kind == "json":
        return [name for name, value in file.first.items() if isinstance(value, list)]
    return [title for title in file.titles if title in HISTORY_COLUMNS]


def _is_list_type(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _titles_with_events(file: LogFile, items: str | None) -> list[str]:
    """The columns of a file; of JSON lines those of the first row and of the first whose history is not empty, for an
    empty one may come without times and scenes."""
    known = (items, *HISTORY_COLUMNS) if file.kind == "json" else ()
    history = next((name for name in known if name and file.first.get(name) == []), None)
    if history is None:
        return file.titles
    with open_text(file.path) as stream:
        for line in stream:
            with contextlib.suppress(ValueError, RecursionError):  # `_read_json_lists` says where
                row = json.loads(line)
                if isinstance(row, dict) and row.get(history):
                    return list(dict.fromkeys([*file.titles, *map(str, row)]))
    return file.titles


def _find_columns(titles: list[str], names: Mapping[str, str]) -> dict[str, str]:
    """field -> its column."""
    columns: dict[str, str] = {}
    has_lists = any(title in titles for title in HISTORY_COLUMNS)
    for field, known in (LIST_NAMES if has_lists else LOG_NAMES).items():
        wanted = names.get(field)
        candidates = [wanted] if wanted and wanted in titles else [each for each in known if each in titles]
        if candidates:
            columns[field] = candidates[0]
        elif field in (USER, ITEM):
            hint = did_you_mean(wanted, titles) if wanted else ""
            row_a_user = ""
            if field == ITEM:
                row_a_user = f" Or, with a row a user, give whole histories in a column {' or '.join(HISTORY_COLUMNS)}"
            raise UserError(
                f"there is no column of {'users' if field == USER else 'items'} ({wanted or ' or '.join(known)}) among "
                f"{titles}.{hint} Name it with --{'user' if field == USER else 'item'}=COLUMN.{row_a_user}"
            )
    options = {USER: "--user", ITEM: "--item", TIME: "--time", SCENE: "--scene"}
    refuse_shared_columns(
        {options[field]: column for field, column in columns.items()},
        f" (an option that is not given is named as in the run's data set); the file has {titles}",
    )
    return columns


def _read_json_lists(path: Path, columns: dict[str, str], times: TimeParser) -> Iterator[Histories]:
    rows: dict[str, list[Any]] = {field: [] for field in columns}
    numbers: list[int] = []
    with open_text(path) as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line)
                values = {field: row[key] for field, key in columns.items() if field in (USER, ITEM)}
                for field in columns.keys() - values:  # what has not happened has no times
                    values[field] = row[columns[field]] if values[ITEM] else row.get(columns[field])
            except (ValueError, RecursionError):
                raise UserError(f"line {number} is no JSON: {line[:60].decode('utf-8', 'replace')!r}") from None
            except (KeyError, TypeError):
                absent = [key for key in columns.values() if not isinstance(row, dict) or key not in row]
                raise UserError(f"line {number} has no '{absent[0]}', which other lines have") from None
            for field, value in values.items():
                rows[field].append(value)
            numbers.append(number)
            if len(numbers) == CHUNK_USERS:
                yield _from_rows(rows, numbers, times)
                rows, numbers = {field: [] for field in columns}, []
    if numbers:
        yield _from_rows(rows, numbers, times)


def _from_rows(rows: dict[str, list[Any]], numbers: list[int], times: TimeParser) -> Histories:
    try:
        return Histories.from_lists(rows[ITEM], rows.get(TIME), rows.get(SCENE), rows[USER], times)
    except UserError:
        for place, number in enumerate(numbers):  # which line is it?
            one = {field: values[place : place + 1] for field, values in rows.items()}
            try:
                Histories.from_lists(one[ITEM], one.get(TIME), one.get(SCENE), one[USER], times)
            except UserError as error:
                raise UserError(f"line {number}: {error}") from None
        raise


def _from_joined_text(table: pa.Table, columns: dict[str, str], separator: str, times: TimeParser) -> Histories:
    lists: dict[str, Any] = {USER: table.column(columns[USER]).combine_chunks()}
    for field in columns:
        if field != USER:
            text = pc.fill_null(table.column(columns[field]).combine_chunks(), "")
            parts = pc.split_pattern(text, separator)
            lists[field] = pc.if_else(pc.equal(text, ""), pa.scalar([], parts.type), parts)
    return _from_list_columns(lists, times)


def _from_list_columns(columns: dict[str, Any], times: TimeParser) -> Histories:
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
    users = parse_tokens(columns[USER])
    if users.null_count:
        raise UserError(f"{counted(users.null_count, 'row', 'have')} no user")
    return Histories(
        users,
        np.concatenate([[0], np.cumsum(sizes)]),
        parse_tokens(flat[ITEM]),
        checked_times(flat[TIME], times) if TIME in flat else None,
        parse_tokens(flat[SCENE]) if SCENE in flat else None,
    ).sorted_by_time()
