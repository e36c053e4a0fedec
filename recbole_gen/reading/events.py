"""The events of a log, a batch after the other: what cannot be used is counted by cause and left out."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.reading.file_readers import LogFile, read_file
from recbole_gen.reading.parsing import TimeParser, in_calendar, parse_tokens
from recbole_gen.reading.row_counts import NO_TIME, RowCounts


class EventReader:
    """Reads the events of one file.

    Args:
        columns: field -> its column.
        time: the field of times, None if there is none; the others are tokens.
        optional: fields without which an event is one all the same.
        forbidden: pattern of what cannot stand in a token, and the words for such a row.

    Attributes:
        rows: what has become of the rows.
        times: by what rule times were read.
    """

    def __init__(
        self,
        file: LogFile,
        columns: Mapping[str, str],
        time: str | None,
        optional: Collection[str] = (),
        times: TimeParser | None = None,
        forbidden: tuple[str, str] | None = None,
    ):
        self.file, self.columns, self.time, self.optional = file, columns, time, optional
        self.times, self.forbidden = times or TimeParser(), forbidden
        self.rows = RowCounts()
        if file.kind == "json":
            self.rows.not_a_row = "that are no JSON object"
        self._kept = np.empty(0, np.int64)

    def batches(self) -> Iterator[dict[str, Any]]:
        """Field -> its values: tokens as text, times in Unix seconds."""
        for batch in read_file(self.file, list(dict.fromkeys(self.columns.values())), self.rows.read):
            yield self._usable(batch)

    def _usable(self, batch: pa.RecordBatch) -> dict[str, Any]:
        rows, lines_of = self.rows, self.rows.read.lines_of
        tokens = {name: parse_tokens(batch.column(title)) for name, title in self.columns.items() if name != self.time}
        good = np.ones(batch.num_rows, dtype=bool)

        def leave(cause: str, mask: np.ndarray, show=None) -> None:
            rows.leave_out(cause, mask & good, lines_of, show)
            np.logical_and(good, ~mask, out=good)

        for name, title in self.columns.items():
            if name == self.time:
                stamps = batch.column(title)
                moments = self.times.parse(stamps)
                there = stamps.is_valid().to_numpy(zero_copy_only=False)
                leave(f"without a value in '{title}'", ~there)
                leave(NO_TIME, ~in_calendar(moments), lambda row, stamps=stamps: stamps[row].as_py())
            elif name not in self.optional and tokens[name].null_count:
                leave(f"without a value in '{title}'", tokens[name].is_null().to_numpy(zero_copy_only=False))
        for values in tokens.values() if self.forbidden else ():
            pattern, cause = self.forbidden  # type: ignore[misc]
            unfit = pc.fill_null(pc.match_substring_regex(values, pattern), False).to_numpy(zero_copy_only=False)
            leave(cause, unfit, lambda row, values=values: values[row].as_py())
        self._kept = np.flatnonzero(good)
        out: dict[str, Any] = tokens
        if len(self._kept) < len(good):
            kept = pa.array(good)
            out = {name: values.filter(kept) for name, values in tokens.items()}
        if self.time is not None:
            out[self.time] = moments[good] if len(self._kept) < len(good) else moments
            self.times.look_at(out[self.time])
        return out

    def lines_of(self, rows: Sequence[int]) -> list[int]:
        """The lines of events of the last batch."""
        return self.rows.read.lines_of(self._kept[list(rows)].tolist())

    def find_lines(self, events: Sequence[int]) -> list[int]:
        """The lines of these events (ascending, from 0, without what was left out); reads the file up to the last."""
        again = EventReader(self.file, self.columns, self.time, self.optional, self._times_again(), self.forbidden)
        found, start = list[int](), 0
        for batch in again.batches() if len(events) else ():
            size = len(next(iter(batch.values())))
            here = [event - start for event in events if start <= event < start + size]
            found += again.lines_of(here) if here else []
            start += size
            if start > events[-1]:
                break
        return found

    def _times_again(self) -> TimeParser:
        return TimeParser(self.times.unit, self.times.form)
