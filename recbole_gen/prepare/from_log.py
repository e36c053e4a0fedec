"""A log of the user's own, CSV, Parquet or JSON lines, as a data set: what cannot be used is counted and told."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen import __version__
from recbole_gen.errors import UserError, counted, refuse_shared_columns
from recbole_gen.prepare import filters
from recbole_gen.prepare.atomic_file import FORBIDDEN_IN_TOKENS, write_atomic_file
from recbole_gen.prepare.dataset_folder import require_replaceable
from recbole_gen.prepare.fields import ITEM, SCENE, TIME, USER
from recbole_gen.prepare.log import log_from_batches
from recbole_gen.prepare.statistics import log_statistics, statistics_table
from recbole_gen.prepare.tied_ends import tied_ends
from recbole_gen.reading.events import EventReader
from recbole_gen.reading.file_readers import EXAMPLES, describe_file
from recbole_gen.reading.parsing import TimeParser, far_from_today
from recbole_gen.reading.row_counts import name_lines
from recbole_gen.reading.rules import MAX_BAD, plain_title


def prepare_log(
    file: Path,
    columns: Mapping[str, str],
    target: Path,
    unit: str | None = None,
    max_bad: float = MAX_BAD,
    say: Callable[[str], None] = print,
    time_format: str | None = None,
) -> None:
    """Write a log as the data set ``target``, whole or not at all.

    Args:
        file: an atomic file, CSV (any of `file_readers.DELIMITERS`), JSON lines or Parquet, of which CSV and JSON lines
            also as .gz.
        columns: USER, ITEM and TIME, perhaps SCENE -> the column that has it.
        unit: of times that are numbers, one of `TIME_UNITS`; None to tell it from them.
        max_bad: share of rows that may be unusable.
        time_format: of times that are dates and not as in ISO 8601, as strptime takes it.

    Raises UserError for a file or column that is not there, too many bad rows, and a folder that cannot be replaced.
    """
    require_replaceable(target, ("--from", file))
    started = time.perf_counter()
    say(f"reading {file}")
    try:
        reader = EventReader(
            describe_file(file), columns, TIME, {SCENE}, TimeParser(unit, time_format),
            (FORBIDDEN_IN_TOKENS, "with a tab or line end in a user, item or scene"),
        )  # fmt: skip
        log = log_from_batches(reader.batches(), list(columns), [each for each in columns if each != TIME])
    except OSError as error:
        raise UserError(f"{file} cannot be read: {error}") from None
    first = filters.first_of_duplicates(log, USER, ITEM, TIME)
    repeated = np.flatnonzero(~first)
    whole, rows = log.take(first) if len(repeated) else log, reader.rows
    say(f"  {counted(rows.total, 'row')} read")
    for line in rows.told():
        say(f"  {line}")
    if len(repeated):
        lines = name_lines(reader.find_lines(repeated[:EXAMPLES].tolist()), len(repeated))
        say(f"  {counted(len(repeated), 'repeat')} of a row with the same user, item and time, left out{lines}")
    if SCENE in columns and (without := int((whole[SCENE] < 0).sum())):
        say(f"  {without:,} without a value in '{columns[SCENE]}', which are kept, without a scene")
    for line in reader.times.notes(columns[TIME]):
        say(f"  {line}")
    rows.refuse_too_many(file, max_bad, ", or allow more with --max_bad=SHARE. Nothing is written")
    if not len(whole):
        raise UserError(f"{file} has no rows")
    numbers, ties = log_statistics(whole), tied_ends(whole[USER], whole[ITEM], whole[TIME])
    provenance: dict[str, Any] = {
        "recipe": "own log", "recbole_gen": __version__, "columns": dict(columns), "rows": rows.total, "bad": rows.bad,
        "source": {"name": file.name, "bytes": file.stat().st_size}, "repeats": len(repeated), "statistics": numbers,
        "tied_last_events": ties.as_json(),
    }  # fmt: skip
    write_atomic_file(target, whole, {}, provenance)
    say(statistics_table(numbers, "", {}))
    say("last events: " + ties.describe())
    start, end = (np.datetime64(int(moment), "s") for moment in (whole[TIME].min(), whole[TIME].max()))
    say(f"from {start} to {end} (UTC)")
    far = np.count_nonzero(far_from_today(whole[TIME]))
    if far > len(whole) / 2 or end < np.datetime64("1995"):  # else they are single ones, which are told above
        say("warning: these are no times of today's calendar; if their unit is another one, say --time_unit=UNIT")
    say(f"{target}/{target.name}.inter is written ({time.perf_counter() - started:.1f} s): --dataset={target.name}")


def log_columns(user: str, item: str, moment: str, scene: str | None) -> dict[str, str]:
    """The columns of a log as `prepare_log` takes them. Raises UserError where one is to be two things."""
    names = {USER: user, ITEM: item, TIME: moment, **({SCENE: scene} if scene else {})}
    columns = {field: plain_title(name) for field, name in names.items()}
    options = {USER: "--user", ITEM: "--item", TIME: "--time", SCENE: "--scene"}
    refuse_shared_columns({options[field]: column for field, column in columns.items()})
    return columns
