"""What stands in the columns of files, whether text or typed: tokens, numbers and times."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.errors import UserError
from recbole_gen.reading.rules import END_OF_CALENDAR, START_OF_CALENDAR, TIME_UNITS

_TYPICAL_FROM = {"ms": 1e11, "us": 1e14, "ns": 1e17}
"""A typical time of at least this is in that unit: in seconds, 1e11 is the year 5138."""
_TYPICAL_OF = 1 << 16
"""Times, the first of a file, of which the typical one is taken."""
_ZONE = r"(?:[Zz]|[+-]\d\d(?::?\d\d)?)\s*$"


def parse_tokens(column: pa.Array) -> pa.Array:
    """The values of a column as text. Numbers that are whole have no decimal point: pandas makes 7 to 7.0 where a value
    of the column is missing. Empty text is missing. Raises UserError for lists and the like."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    try:
        text = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UserError(f"values of type {kind} cannot name anything: a token is text or a number") from None
    if pa.types.is_floating(kind):
        column = column.cast(pa.float64())
        whole = pc.and_(pc.equal(pc.floor(column), column), pc.less(pc.abs(column), 2.0**53))
        text = pc.if_else(whole, pc.if_else(whole, column, 0.0).cast(pa.int64()).cast(pa.string()), text)
        text = pc.if_else(pc.is_finite(column), text, None)
    return pc.if_else(pc.equal(text, ""), None, text)


def without_point_zero(text: pa.Array) -> pa.Array:
    """Tokens of a text file in which numbers may be written 5.0 as well as 5: as the second."""
    if not pc.any(pc.ends_with(text, ".0")).as_py():
        return text
    return pc.replace_substring_regex(text, r"^(-?\d+)\.0$", r"\1")


def parse_numbers(column: pa.Array) -> np.ndarray:
    """The numbers of a column, also those written as text: [n] float64, NaN where there is none."""
    if _is_text(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            text = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
            return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)


def in_calendar(seconds: np.ndarray) -> np.ndarray:
    """[n] bool: which times are of the years 1 to 9999; NaN is none."""
    return (seconds >= START_OF_CALENDAR) & (seconds < END_OF_CALENDAR)


def far_from_today(seconds: np.ndarray) -> np.ndarray:
    """[n] bool: which times are before 1970 or later than tomorrow: dates, and yet most likely mistakes."""
    return (seconds < 0) | (seconds > time.time() + 86400)


class TimeParser:
    """The times of one file, a column or batch after the other, by one rule; see `notes` for what it was.

    Attributes:
        unit: of numbers, one of TIME_UNITS; None until some have been seen, whose typical one then decides.
        form: of dates as text, as `datetime.strptime` takes it; None for ISO 8601.
        zoneless: whether dates without a time zone were taken for UTC.
        seen, far: how many times `look_at` has seen, and how many of them were far from today.
    """

    def __init__(self, unit: str | None = None, form: str | None = None):
        self.unit, self.form, self.zoneless = unit, form, False
        self.seen, self.far = 0, 0
        self._example = ""
        self._given = unit is not None

    def parse(self, column: pa.Array) -> np.ndarray:
        """Unix seconds: [n] float64, NaN where there is none. They need not be `in_calendar`.

        Raises UserError for values of a type that is none of times.
        """
        if self.form is not None and _is_text(column.type):
            return self._parse_with_form(column)
        seconds, unit, zoneless = _parse(column, self.unit)
        self.unit, self.zoneless = self.unit or unit, self.zoneless or zoneless
        return seconds

    def in_seconds(self, values: np.ndarray) -> np.ndarray:
        """The same of numbers, which stay where they are if they are seconds."""
        self.unit = self.unit or time_unit_of(values)
        return values if self.unit in (None, "s") else values / TIME_UNITS[self.unit]

    def look_at(self, seconds: np.ndarray) -> None:
        """Count those of the times that are kept, [n] of the calendar, which are far from today."""
        self.seen += len(seconds)
        far = far_from_today(seconds)
        number = int(np.count_nonzero(far))
        if number and not self.far:
            self._example = str(np.datetime64(int(seconds[far.argmax()]), "s").astype("datetime64[D]"))
        self.far += number

    def notes(self, name: str) -> list[str]:
        """What to tell about the times of a column."""
        notes = []
        if self.unit not in (None, "s") and not self._given:
            notes.append(f"the times in '{name}' are taken for {self.unit}, and are made seconds")
        if self.zoneless:
            notes.append(f"the times in '{name}' name no time zone and are taken for UTC")
        if self.far:
            notes.append(
                f"{self.far:,} of {self.seen:,} times in '{name}' are before 1970 or later than tomorrow, such as "
                f"{self._example}, and are kept"
            )
        return notes

    def _parse_with_form(self, column: pa.Array) -> np.ndarray:
        encoded = column.dictionary_encode()
        text = pd.Series(encoded.dictionary.to_numpy(zero_copy_only=False), dtype=object)
        try:
            stamps = pd.to_datetime(text, format=self.form, errors="coerce", utc=True)
        except ValueError as error:
            raise UserError(f"the form of times {self.form!r} is none that strptime knows: {error}") from None
        self.zoneless = self.zoneless or ("%z" not in str(self.form) and bool(stamps.notna().any()))
        seconds = np.append(_seconds_of_stamps(stamps), np.nan)
        return seconds[encoded.indices.fill_null(len(text)).to_numpy(zero_copy_only=False)]


def parse_times(column: pa.Array, unit: str | None = None) -> tuple[np.ndarray, str]:
    """Unix seconds of numbers, of dates and times, or of text of either: [n] float64, NaN where there is none.

    ISO 8601 text without an offset is taken for UTC.

    Args:
        unit: that of numbers, one of TIME_UNITS; None for the one that makes them dates of today's calendar.

    Returns the seconds, and the unit of the numbers ("s" where there are none).
    """
    seconds, found, _ = _parse(column, unit)
    return seconds, found or "s"


def _parse(column: pa.Array, unit: str | None) -> tuple[np.ndarray, str | None, bool]:
    """Seconds, the unit (None where there are no numbers and none is given), and whether dates named no zone."""
    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        zoneless = getattr(kind, "tz", None) is None and column.null_count < len(column)
        return _seconds_of_micros(column.cast(pa.timestamp("us"), safe=False)), unit, zoneless
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind):
        return *_in_seconds(parse_numbers(column), unit), False
    if not _is_text(kind):
        raise UserError(f"values of type {kind} are no times: numbers, or dates such as 2024-05-31T12:00:00Z")
    for form in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float64()):
        some = column.drop_null()[:9]
        if not len(some) or not _can_cast(some, form):  # refusing all of a column takes much longer than casting it
            continue
        try:
            whole = column.cast(form)
        except pa.ArrowInvalid:  # not all of them have this form
            break
        if pa.types.is_floating(form):
            return *_in_seconds(parse_numbers(whole), unit), False
        return _seconds_of_micros(whole), unit, form.tz is None
    values = parse_numbers(column)
    dates = np.isnan(values) & column.is_valid().to_numpy(zero_copy_only=False)
    values, unit = _in_seconds(values, unit)
    zoneless = False
    if dates.any():
        text = pd.Series(column.filter(pa.array(dates)).to_numpy(zero_copy_only=False), dtype=object).str.strip()
        stamps = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True)
        values = values.copy()  # Arrow's memory is not ours to write into
        values[dates] = _seconds_of_stamps(stamps)
        zoneless = bool((stamps.notna() & ~text.str.contains(_ZONE, regex=True)).any())
    return values, unit, zoneless


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _can_cast(column: pa.Array, kind: Any) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _seconds_of_stamps(stamps: pd.Series) -> np.ndarray:
    return _seconds_of_micros(pa.array(stamps.dt.as_unit("us")).cast(pa.timestamp("us")))


def _seconds_of_micros(stamps: pa.Array) -> np.ndarray:
    counts = pc.cast(pc.cast(stamps, pa.int64()), pa.float64(), safe=False)
    return pc.fill_null(pc.divide(counts, 1e6), np.nan).to_numpy(zero_copy_only=False)


def _in_seconds(values: np.ndarray, unit: str | None) -> tuple[np.ndarray, str | None]:
    unit = unit or time_unit_of(values)
    return (values if unit in (None, "s") else values / TIME_UNITS[unit]), unit


def time_unit_of(values: np.ndarray) -> str | None:
    """The unit that makes a typical time of these a date of today's calendar: s, ms, us or ns; None without any."""
    for part in (values[:_TYPICAL_OF], values):
        real = part[np.isfinite(part)][:_TYPICAL_OF]
        if len(real):
            break
    else:
        return None
    typical = float(np.median(np.abs(real)))
    possible = [unit for unit, least in _TYPICAL_FROM.items() if typical >= least]
    return max(possible, key=lambda unit: TIME_UNITS[unit], default="s")
