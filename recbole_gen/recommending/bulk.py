"""A file of histories to a file of recommendations, in bounded memory, and resumable."""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from tqdm import tqdm

from recbole_gen import __version__, compat
from recbole_gen.errors import UserError, counted
from recbole_gen.files import lock_folder, read_json, write_json
from recbole_gen.reading.item_vectors import find_vector_file
from recbole_gen.reading.row_counts import name_lines
from recbole_gen.recommending.history_files import open_histories
from recbole_gen.recommending.recommender import BY_POPULARITY, Recommender

TRIM_EVERY = 16
"""Parts after which freed memory is returned to the system."""


@dataclass
class Totals:
    """What has been done: users read, users with an answer that is kept, rows of them, events of unknown items, users
    whose kept answer is by popularity, users for whom the model came to fewer items than were asked for, those that
    `--between` leaves out since nothing predicts their time, and what is to be told of the file of histories, a line
    each (``notes``)."""

    users: int = 0
    kept: int = 0
    rows: int = 0
    unknown: int = 0
    by_popularity: int = 0
    short: int = 0
    without_window: int = 0
    notes: list[str] = field(default_factory=list)


def recommend_file(
    recommender: Recommender,
    histories: Path,
    output: Path,
    values: dict[str, Any],
    between: tuple[datetime.date, datetime.date] | None = None,
    candidates: list[str] | None = None,
) -> Totals:
    """Answer a file of histories, whole or not at all.

    Parts lie in OUTPUT.parts until all are there; those of the same command are taken up again.

    Args:
        values: options of the command line: k, exclude_seen, columns.
        between: first and last day that a user's window must meet.
        candidates: the items that may be recommended.

    Raises UserError for bad input, and for files that cannot be read or written.
    """
    parts = output.with_name(f"{output.name}.parts")
    _require_own_parts(parts)
    source = open_histories(histories, values, recommender.config)
    try:
        with lock_folder(parts, "recommendations"), _removed_if_nothing_is_done(parts):
            note = read_json(parts / "note.json")
            fingerprint = _fingerprint(values, histories)
            if note.get("made_of") != fingerprint:
                if note:
                    print(
                        f"what is in {parts} is of another command or of other files, and is begun again",
                        flush=True,
                    )
                note = {"made_of": fingerprint, "done": 0, "totals": {}}
            done, totals = note["done"], Totals(**note["totals"])
            if done:
                print(f"going on after {counted(totals.users, 'user')}", flush=True)
            with tqdm(unit=" users", disable=not sys.stderr.isatty(), initial=totals.users) as bar:
                for number, chunk in enumerate(source.read()):
                    if number < done:
                        continue
                    table = recommender.recommend_batch(chunk, values["k"], values["exclude_seen"], candidates)
                    totals.users += len(chunk)
                    totals.unknown += table.attrs["unknown"]
                    totals.short += table.attrs["short"]
                    if between is None:
                        totals.by_popularity += table.attrs["by_popularity"]
                    else:
                        totals.without_window += table.loc[table["from"].isna(), "user"].nunique()
                        table = _with_window_in(table, *between)
                        totals.by_popularity += table.loc[table["by"] == BY_POPULARITY, "user"].nunique()
                    totals.kept += table["user"].nunique()
                    totals.rows += len(table)
                    _write_part(parts / _part_name(number), table)
                    note.update(done=number + 1, totals=vars(totals))
                    write_json(parts / "note.json", note)  # the part is whole by now
                    bar.update(len(chunk))
                    if number % TRIM_EVERY == 0:
                        compat.return_freed_memory()  # what lists of different lengths have left behind
            if not note["done"]:
                raise UserError(f"{histories} has no histories")
            totals.notes = source.notes
            if totals.unknown:
                lines = name_lines(source.find_unknown(recommender.items), totals.unknown)
                totals.notes.append(
                    f"{counted(totals.unknown, 'event', 'were')} left out, of items that the model does not know{lines}"
                )
            _join_parts(parts, note["done"], output)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"stopped after {counted(totals.users, 'user')}; the same command goes on from there"
        ) from None
    except OSError as error:
        kept = f". What is done is kept in {parts}, and the same command goes on from there" if parts.exists() else ""
        raise UserError(
            f"{output} cannot be written ({error}): free some space, or choose another --output{kept}"
        ) from None
    shutil.rmtree(parts, ignore_errors=True)
    return totals


@contextlib.contextmanager
def _removed_if_nothing_is_done(parts: Path) -> Iterator[None]:
    """Leave no folder that the same command could not go on from."""
    try:
        yield
    finally:
        if not (parts / "note.json").exists():
            shutil.rmtree(parts, ignore_errors=True)


def _require_own_parts(parts: Path) -> None:
    """Raise UserError if something else than parts lies where they go: they are removed in the end."""
    own = r"\.lock|note\.json(\.\d+\.tmp)?|\d+\.(parquet|tmp)|whole\.\w+"
    if not os.path.lexists(parts):
        return
    if parts.is_symlink() or not parts.is_dir():
        raise UserError(f"{parts}, where parts of the answer go, is no folder: move it, or choose another --output")
    others = sorted(path.name for path in parts.iterdir() if not re.fullmatch(own, path.name))
    if others:
        raise UserError(
            f"{parts}, where parts of the answer go, has something else in it ({', '.join(others[:3])}): move it, or "
            f"choose another --output"
        )


def _fingerprint(values: dict[str, Any], histories: Path) -> str:
    """What parts are made of: options, files, and this version."""
    files = [histories, Path(str(values["checkpoint"])) / "best.pth", Path(str(values["checkpoint"])) / "when.json"]
    if values["candidates"]:
        files.append(Path(str(values["candidates"])))
    if values["items"]:
        vectors = find_vector_file(values["items"])
        files += [vectors, vectors.with_suffix(".json")]
    stamps = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files if path.exists()]
    return hashlib.sha256(json.dumps([__version__, values, stamps], default=str).encode()).hexdigest()


def _with_window_in(table: pd.DataFrame, first: datetime.date, last: datetime.date) -> pd.DataFrame:
    """The rows whose window meets these days."""
    meets = (table["from"] <= np.datetime64(last)) & (table["until"] >= np.datetime64(first))  # NaT is neither
    return table[meets]


def _part_name(number: int) -> str:
    return f"{number:06d}.parquet"


def _write_part(path: Path, table: pd.DataFrame) -> None:
    kinds = {"user": pa.string(), "rank": pa.int32(), "item": pa.string(), "score": pa.float32(), "by": pa.string(),
             "next_scene": pa.string()}  # fmt: skip
    columns = {}
    for name in table.columns:
        values = pa.Array.from_pandas(table[name], type=kinds.get(name))
        columns[name] = values if name in kinds else values.cast(pa.timestamp("s")).cast(pa.date32())
    temporary = path.with_suffix(".tmp")
    pyarrow.parquet.write_table(pa.table(columns), temporary)
    temporary.replace(path)


def _read_parts(folder: Path, number: int) -> Iterator[pa.Table]:
    for part in range(number):
        try:
            yield pyarrow.parquet.read_table(folder / _part_name(part), use_threads=False)
        except (pa.ArrowException, OSError) as error:
            raise UserError(
                f"{folder / _part_name(part)} is damaged ({error}): remove {folder}, and begin again"
            ) from None


def _join_parts(folder: Path, number: int, output: Path) -> None:
    """The parts as one file in the form that is asked for."""
    temporary = folder / f"whole{output.suffix}"
    kind = output.suffix.lower()
    schema = pyarrow.parquet.read_schema(folder / _part_name(0))
    try:
        if kind == ".parquet":
            with pyarrow.parquet.ParquetWriter(temporary, schema) as writer:
                for table in _read_parts(folder, number):
                    writer.write_table(table)
        elif kind == ".csv":
            quoting = pyarrow.csv.WriteOptions(include_header=True, quoting_style="needed")
            with pyarrow.csv.CSVWriter(temporary, schema, write_options=quoting) as writer:
                for table in _read_parts(folder, number):
                    writer.write_table(table)
        else:
            with open(temporary, "w", encoding="utf-8", newline="\n") as file:
                for table in _read_parts(folder, number):
                    for row in table.to_pylist():
                        file.write(json.dumps(row, default=str, ensure_ascii=False) + "\n")
        temporary.replace(output)
    finally:
        with contextlib.suppress(OSError):  # half of it, after an error
            temporary.unlink()
