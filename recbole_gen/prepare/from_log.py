"""A log of the user's own, CSV, Parquet or JSON lines, as a data set: what cannot be used is counted and told."""

from __future__ import annotations

import gzip
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen import __version__
from recbole_gen.errors import UserError
from recbole_gen.prepare import file_readers, filters
from recbole_gen.prepare.atomic_file import FORBIDDEN_IN_TOKENS, write_atomic_file
from recbole_gen.prepare.dataset_folder import require_replaceable
from recbole_gen.prepare.fields import ITEM, SCENE, TIME, USER
from recbole_gen.prepare.file_readers import ReadCounts
from recbole_gen.prepare.log import log_from_batches
from recbole_gen.prepare.parsing import parse_times, parse_tokens
from recbole_gen.prepare.statistics import log_statistics, statistics_table

FORMATS = {".csv": "text", ".tsv": "text", ".txt": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json",
         ".parquet": "parquet", ".pq": "parquet"}  # fmt: skip
TOO_LATE = 1e11
"""Seconds since 1970 that are no time any more: the year 5138."""


@dataclass
class RowCounts:
    """What has become of the rows of a file.

    Attributes:
        read: what reading the file has met.
        without: column -> rows without a value in it.
        bad_times: rows whose time is no time.
        bad_tokens: rows with a user, item or scene that an atomic file cannot hold.
        repeats: rows of which another one has the same user, item and time.
    """

    read: ReadCounts = field(default_factory=ReadCounts)
    without: dict[str, int] = field(default_factory=dict)
    bad_times: int = 0
    bad_tokens: int = 0
    repeats: int = 0
    examples: dict[str, str] = field(default_factory=dict)

    @property
    def total(self) -> int:
        return self.read.rows + self.read.bad

    @property
    def bad(self) -> int:
        """Rows that cannot be used; repeats are no fault."""
        return self.read.bad + sum(self.without.values()) + self.bad_times + self.bad_tokens

    def summary(self) -> list[str]:
        """What to tell about them, a line each."""
        told = [f"{self.total:,} rows read"]
        if self.read.bad:
            told.append(f"{self.read.bad:,} without the right number of columns, such as {self.read.examples[0]!r}")
        told += [f"{number:,} without a value in '{column}'" for column, number in self.without.items() if number]
        if self.bad_times:
            told.append(f"{self.bad_times:,} whose time is no time, such as {self.examples['time']!r}")
        if self.bad_tokens:
            example = self.examples["token"]
            told.append(f"{self.bad_tokens:,} with a tab, quote or line end in a user, item or scene: {example!r}")
        if self.repeats:
            told.append(f"{self.repeats:,} repeats of a row with the same user, item and time, left out")
        return told


def prepare_log(
    file: Path,
    columns: Mapping[str, str],
    target: Path,
    unit: str | None = None,
    max_bad: float = 0.05,
    say: Callable[[str], None] = print,
) -> None:
    """Write a log as the data set ``target``, whole or not at all.

    Args:
        file: CSV (any of `file_readers.DELIMITERS`), JSON lines or Parquet, the first two also as .gz.
        columns: USER, ITEM and TIME, perhaps SCENE -> the column that has it.
        unit: of times that are numbers, one of `TIME_UNITS`; None to tell it from them.
        max_bad: share of rows that may be unusable.

    Raises UserError for a file or column that is not there, too many bad rows, and a folder that cannot be replaced.
    """
    require_replaceable(target)
    started, rows = time.perf_counter(), RowCounts(without=dict.fromkeys(columns.values(), 0))
    say(f"reading {file}")
    try:
        log = log_from_batches(
            _usable_batches(file, columns, unit, rows, say), list(columns), [each for each in columns if each != TIME]
        )
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    whole = filters.drop_duplicates(log, USER, ITEM, TIME)
    rows.repeats = len(log) - len(whole)
    for line in rows.summary():
        say(f"  {line}")
    _refuse_too_many(rows, file, max_bad)
    if not len(whole):
        raise UserError(f"{file} has no rows")
    numbers = log_statistics(whole)
    provenance: dict[str, Any] = {
        "recipe": "own log", "recbole_gen": __version__, "columns": dict(columns), "rows": rows.total, "bad": rows.bad,
        "source": {"name": file.name, "bytes": file.stat().st_size}, "repeats": rows.repeats, "statistics": numbers,
    }  # fmt: skip
    write_atomic_file(target, whole, {}, provenance)
    say(statistics_table(numbers, "", {}))
    first, last = (np.datetime64(int(moment), "s") for moment in (whole[TIME].min(), whole[TIME].max()))
    say(f"from {first} to {last} (UTC)")
    if whole[TIME].min() < 0 or whole[TIME].max() > time.time() + 86400 or last < np.datetime64("1995"):
        say("warning: these are no times of today's calendar; if their unit is another one, say --time_unit=UNIT")
    say(f"{target}/{target.name}.inter is written ({time.perf_counter() - started:.1f} s): --dataset={target.name}")


def _refuse_too_many(rows: RowCounts, file: Path, max_bad: float) -> None:
    if rows.bad > max_bad * rows.total:
        raise UserError(
            f"{rows.bad:,} of the {rows.total:,} rows of {file} cannot be used, a larger share than {max_bad:g}: see "
            f"to the causes above, or allow more with --max_bad=SHARE. Nothing is written"
        )


def _usable_batches(
    file: Path, columns: Mapping[str, str], unit: str | None, rows: RowCounts, say: Callable[[str], None]
) -> Iterator[dict[str, Any]]:
    """Batches of what can be used. A unit that is not given is that of the first batch with numbers."""
    for batch in _read_file(file, list(dict.fromkeys(columns.values())), rows.read):
        fields = {name: parse_tokens(batch.column(title)) for name, title in columns.items() if name != TIME}
        stamps = batch.column(columns[TIME])
        there = stamps.is_valid()
        moments, found = parse_times(stamps, unit)
        if unit is None and np.isfinite(moments).any():
            unit = found
            if unit != "s":
                say(f"  times are taken for {unit}")
        good = np.ones(batch.num_rows, dtype=bool)
        for name, title in columns.items():
            missing = ~(there if name == TIME else fields[name].is_valid()).to_numpy(zero_copy_only=False)
            rows.without[title] += int((missing & good).sum())
            good &= ~missing
        odd_times = good & ~(np.abs(moments) < TOO_LATE)
        if odd_times.any():
            rows.examples.setdefault("time", str(stamps[int(odd_times.argmax())].as_py()))
            rows.bad_times += int(odd_times.sum())
            good &= ~odd_times
        for values in fields.values():
            matches = pc.fill_null(pc.match_substring_regex(values, FORBIDDEN_IN_TOKENS), False)
            unfit = matches.to_numpy(zero_copy_only=False) & good
            if unfit.any():
                rows.examples.setdefault("token", values[int(unfit.argmax())].as_py())
                rows.bad_tokens += int(unfit.sum())
                good &= ~unfit
        kept = pa.array(good)
        yield {**{name: values.filter(kept) for name, values in fields.items()}, TIME: moments[good]}


def _read_file(file: Path, wanted: list[str], counts: ReadCounts) -> Iterator[pa.RecordBatch]:
    packed = file.suffix.lower() == ".gz"
    kind = FORMATS.get(Path(file.stem if packed else file.name).suffix.lower())
    if kind is None or (packed and kind == "parquet"):
        raise UserError(f"{file}: its name must end in one of {', '.join(FORMATS)} (or .csv.gz, .jsonl.gz, ...)")
    if kind == "parquet":
        yield from file_readers.read_parquet(file, wanted, counts)
        return
    with cast(BinaryIO, gzip.open(file) if packed else open(file, "rb")) as stream:
        try:
            if kind == "json":
                yield from file_readers.read_json_lines(stream, wanted, counts)
            else:
                delimiter = _guess_delimiter(file, packed)
                yield from file_readers.read_delimited(stream, wanted, counts, delimiter, quotes=True)
        except (EOFError, gzip.BadGzipFile) as error:
            raise UserError(f"{file} is damaged, or not whole: {error}") from None
        except UserError as error:
            raise UserError(f"{file}: {error}") from None


def _guess_delimiter(file: Path, packed: bool) -> str:
    """What separates the titles."""
    with cast(BinaryIO, gzip.open(file) if packed else open(file, "rb")) as stream:
        line = stream.readline().decode("utf-8-sig", "replace")
    return file_readers.guess_delimiter(line)


def log_columns(user: str, item: str, moment: str, scene: str | None) -> dict[str, str]:
    """The columns of a log as `prepare_log` takes them."""
    return {USER: user, ITEM: item, TIME: moment, **({SCENE: scene} if scene else {})}
