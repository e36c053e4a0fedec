"""Files of histories, of any size: a log with a row an event, or a row a user."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from recbole_gen.config.config import Config
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.prepare import file_readers, filters
from recbole_gen.prepare.fields import ITEM, SCENE, TIME, USER
from recbole_gen.prepare.log import log_from_batches
from recbole_gen.prepare.parsing import parse_times, parse_tokens
from recbole_gen.recommending.histories import Histories, checked_times

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
SUFFIXES = (".csv", ".tsv", ".jsonl", ".parquet", ".inter")


def column_names(options: Mapping[str, Any], config: Config) -> dict[str, str]:
    """field -> its column in a file of histories: as the options say, or else as in the run's data set."""
    keys = {
        USER: ("user", "USER_ID_FIELD"), ITEM: ("item", "ITEM_ID_FIELD"), TIME: ("time", "TIME_FIELD"),
        SCENE: ("scene", "SCENE_FIELD"),
    }  # fmt: skip
    return {field: str(options[option]) or config[key] for field, (option, key) in keys.items()}


def read_histories(file: Path, names: Mapping[str, str], separator: str = " ") -> Iterator[Histories]:
    """The histories of a file, CHUNK_USERS users at a time.

    A file with a row a user (JSON lines, Parquet, or text whose lists are joined by ``separator``) is read as a stream.
    A log with a row an event is read whole, as numbers; its users come in the order in which they first occur.

    Args:
        names: field (USER, ITEM, TIME, SCENE) -> its column, where the user says so or the model does.

    Raises UserError for a file that cannot be read, missing columns, and times that are none.
    """
    if not file.is_file():
        raise UserError(f"there is no file {file}")
    kind = file.suffix.lower()
    if kind not in SUFFIXES:
        raise UserError(f"{file}: its name must end in one of {', '.join(SUFFIXES)}")
    try:
        titles, lists, delimiter = _read_header(file, kind)
        columns = _find_columns(titles, names)
        if columns[ITEM] in lists:
            yield from _read_lists(file, kind, columns, titles, delimiter, separator)
        else:
            yield from _read_log(file, kind, columns, titles, delimiter)
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from None


def _read_header(file: Path, kind: str) -> tuple[list[str], list[str], str]:
    """The titles of all columns, those of columns that hold lists, and what separates them in text."""
    if kind == ".parquet":
        try:
            schema = pyarrow.parquet.read_schema(file)
        except pa.ArrowException as error:
            raise UserError(f"it is damaged, or no Parquet file: {str(error).splitlines()[0]}") from None
        kinds = {name: schema.field(name).type for name in schema.names}
        return list(kinds), [name for name, each in kinds.items() if _is_list_type(each)], ""
    with open(file, "rb") as stream:
        line = stream.readline().removeprefix(b"\xef\xbb\xbf")
    if kind == ".jsonl":
        first = _parse_object(line)
        return list(first), [name for name, value in first.items() if isinstance(value, list)], ""
    text = line.decode("utf-8", "replace").rstrip("\r\n")
    delimiter = "\t" if kind in (".inter", ".tsv") else file_readers.guess_delimiter(text)
    titles = [title.strip('"').partition(":")[0] for title in text.split(delimiter)]
    return titles, [title for title in titles if title in HISTORY_COLUMNS], delimiter


def _is_list_type(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind)


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        first = json.loads(line)
    except ValueError:
        first = None
    if not isinstance(first, dict):
        raise UserError(f"its first line is no JSON object: {line[:60].decode('utf-8', 'replace')!r}")
    return first


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
            raise UserError(
                f"there is no column of {'users' if field == USER else 'items'} ({wanted or ' or '.join(known)}) among "
                f"{titles}.{hint} Name it with --{'user' if field == USER else 'item'}=COLUMN"
            )
    return columns


def _read_lists(
    file: Path, kind: str, columns: dict[str, str], titles: list[str], delimiter: str, separator: str
) -> Iterator[Histories]:
    if kind == ".parquet":
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(CHUNK_USERS, columns=list(columns.values())):
            yield _from_list_columns({field: batch.column(title) for field, title in columns.items()})
    elif kind == ".jsonl":
        yield from _read_json_lists(file, columns)
    else:
        wanted, held = list(columns.values()), None
        with open(file, "rb") as stream:
            stream.readline()
            for batch in file_readers.read_delimited(
                stream, wanted, file_readers.ReadCounts(), delimiter, titles, quotes=kind not in (".inter", ".tsv")
            ):
                held = pa.Table.from_batches([batch]) if held is None else pa.concat_tables(
                    [held, pa.Table.from_batches([batch])])  # fmt: skip
                while held.num_rows >= CHUNK_USERS:
                    yield _from_joined_text(held.slice(0, CHUNK_USERS), columns, separator)
                    held = held.slice(CHUNK_USERS)
        if held is not None and held.num_rows:
            yield _from_joined_text(held, columns, separator)


def _read_json_lists(file: Path, columns: dict[str, str]) -> Iterator[Histories]:
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
            if len(rows[USER]) == CHUNK_USERS:
                yield _from_rows(rows)
                rows = {field: [] for field in columns}
    if rows[USER]:
        yield _from_rows(rows)


def _from_rows(rows: dict[str, list[Any]]) -> Histories:
    return Histories.from_lists(rows[ITEM], rows.get(TIME), rows.get(SCENE), rows[USER])


def _from_joined_text(table: pa.Table, columns: dict[str, str], separator: str) -> Histories:
    lists: dict[str, Any] = {USER: table.column(columns[USER]).combine_chunks()}
    for field in columns:
        if field != USER:
            text = pc.fill_null(table.column(columns[field]).combine_chunks(), "")
            parts = pc.split_pattern(text, separator)
            lists[field] = pc.if_else(pc.equal(text, ""), pa.scalar([], parts.type), parts)
    return _from_list_columns(lists)


def _from_list_columns(columns: dict[str, Any]) -> Histories:
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
        parse_tokens(columns[USER]),
        np.concatenate([[0], np.cumsum(sizes)]),
        parse_tokens(flat[ITEM]),
        checked_times(parse_times(flat[TIME], "s")[0]) if TIME in flat else None,
        parse_tokens(flat[SCENE]) if SCENE in flat else None,
    ).sorted_by_time()


def _read_log(file: Path, kind: str, columns: dict[str, str], titles: list[str], delimiter: str) -> Iterator[Histories]:
    """A log, its users in the order in which they first occur."""
    wanted, seen = list(columns.values()), file_readers.ReadCounts()

    def batches() -> Iterator[dict[str, Any]]:
        if kind == ".parquet":
            yield from map(fields, file_readers.read_parquet(file, wanted, seen))
            return
        with open(file, "rb") as stream:
            if kind == ".jsonl":
                yield from map(fields, file_readers.read_json_lines(stream, wanted, seen))
            else:
                stream.readline()
                quotes = kind not in (".inter", ".tsv")
                yield from map(fields, file_readers.read_delimited(stream, wanted, seen, delimiter, titles, quotes))

    def fields(batch: pa.RecordBatch) -> dict[str, Any]:
        out: dict[str, Any] = {field: parse_tokens(batch.column(title)) for field, title in columns.items()
                               if field != TIME}  # fmt: skip
        if TIME in columns:
            out[TIME] = checked_times(parse_times(batch.column(columns[TIME]), "s")[0])
        return out

    log = filters.drop_missing(log_from_batches(batches(), list(columns), (USER, ITEM, SCENE)), USER, ITEM)
    if seen.bad:
        raise UserError(f"{seen.bad} line(s) are no rows of it, such as {seen.examples[0]!r}")
    order = np.lexsort((log[TIME], log[USER])) if TIME in columns else np.argsort(log[USER], kind="stable")
    log = log.take(order)
    users, starts = np.unique(log[USER], return_index=True)
    offsets = np.append(starts, len(log)).astype(np.int64)
    for first in range(0, len(users), CHUNK_USERS):
        chosen = users[first : first + CHUNK_USERS]
        start, stop = offsets[first], offsets[first + len(chosen)]
        yield Histories(
            log.tokens[USER].take(pa.array(chosen)),
            offsets[first : first + len(chosen) + 1] - start,
            log.tokens[ITEM].take(pa.array(log[ITEM][start:stop])),
            log[TIME][start:stop] if TIME in columns else None,
            log.tokens[SCENE].take(pa.array(log[SCENE][start:stop], mask=log[SCENE][start:stop] < 0))
            if SCENE in columns else None,
        )  # fmt: skip
