"""What stands in the columns of files, whether text or typed: tokens, numbers and times."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recbole_gen.errors import UserError
from recbole_gen.prepare.fields import TIME_UNITS

MISSING = ["", "NA", "N/A", "NaN", "nan", "null", "NULL", "None", "n/a", "#N/A", "<NA>", "\\N"]
"""What stands for no value: the words that RecBole reads as such in an atomic file, and that of database dumps."""
_TYPICAL_FROM = {"ms": 1e11, "us": 1e14, "ns": 1e17}
"""A typical time of at least this is in that unit: in seconds, 1e11 is the year 5138."""


def parse_tokens(column: pa.Array) -> pa.Array:
    """The values of a column as text. Numbers that are whole have no decimal point: pandas makes 7 to 7.0 where a value
    of the column is missing. Raises UserError for lists and the like."""
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    if pa.types.is_floating(column.type):
        whole = pc.all(pc.equal(pc.floor(column), column)).as_py()
        column = column.cast(pa.int64()) if whole in (True, None) else column
    try:
        text = column.cast(pa.string())
    except (pa.ArrowNotImplementedError, pa.ArrowInvalid):
        raise UserError(f"values of type {column.type} cannot name anything: a token is text or a number") from None
    return pc.if_else(pc.is_in(text, pa.array(MISSING)), None, text)


def parse_numbers(column: pa.Array) -> np.ndarray:
    """The numbers of a column, also those written as text: [n] float64, NaN where there is none."""
    if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
        try:
            column = column.cast(pa.float64())
        except pa.ArrowInvalid:
            text = pd.Series(column.to_numpy(zero_copy_only=False), dtype=object)
            return pd.to_numeric(text, errors="coerce").to_numpy(dtype=np.float64)
    return pc.fill_null(column.cast(pa.float64(), safe=False), np.nan).to_numpy(zero_copy_only=False)


def parse_times(column: pa.Array, unit: str | None = None) -> tuple[np.ndarray, str]:
    """Unix seconds of numbers, of dates and times, or of text of either: [n] float64, NaN where there is none.

    ISO 8601 text without an offset is taken for UTC.

    Args:
        unit: that of numbers, one of TIME_UNITS; None for the one that makes them dates of today's calendar.

    Returns the seconds, and the unit of the numbers ("s" where there are none).
    """
    if pa.types.is_timestamp(column.type) or pa.types.is_date(column.type):
        return _seconds_of_micros(column.cast(pa.timestamp("us"), safe=False)), unit or "s"
    if pa.types.is_null(column.type) or pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return _in_seconds(parse_numbers(column), unit)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise UserError(f"values of type {column.type} are no times: numbers, or dates such as 2024-05-31T12:00:00Z")
    for kind in (pa.timestamp("us", "UTC"), pa.timestamp("us"), pa.float64()):
        if not _can_cast(column.drop_null()[:9], kind):  # refusing all of a column takes much longer than casting it
            continue
        try:
            whole = column.cast(kind)
        except pa.ArrowInvalid:  # not all of them have this form
            break
        if pa.types.is_floating(kind):
            return _in_seconds(parse_numbers(whole), unit)
        return _seconds_of_micros(whole), unit or "s"
    values = parse_numbers(column)
    dates = np.isnan(values) & column.is_valid().to_numpy(zero_copy_only=False)
    values, unit = _in_seconds(values, unit)
    if dates.any():
        text = pd.Series(column.filter(pa.array(dates)).to_numpy(zero_copy_only=False), dtype=object).str.strip()
        stamps = pd.to_datetime(text, format="ISO8601", errors="coerce", utc=True).dt.as_unit("us")
        values[dates] = _seconds_of_micros(pa.array(stamps).cast(pa.timestamp("us")))
    return values, unit


def _can_cast(column: pa.Array, kind: pa.DataType) -> bool:
    try:
        column.cast(kind)
    except pa.ArrowInvalid:
        return False
    return True


def _seconds_of_micros(stamps: pa.Array) -> np.ndarray:
    counts = pc.cast(pc.cast(stamps, pa.int64()), pa.float64(), safe=False)
    return pc.fill_null(pc.divide(counts, 1e6), np.nan).to_numpy(zero_copy_only=False)


def _in_seconds(values: np.ndarray, unit: str | None) -> tuple[np.ndarray, str]:
    unit = unit or time_unit_of(values)
    return values / TIME_UNITS[unit], unit


def time_unit_of(values: np.ndarray) -> str:
    """The unit that makes a typical time of these a date of today's calendar: s, ms, us or ns."""
    real = np.abs(values[np.isfinite(values)])
    typical = float(np.median(real)) if len(real) else 0.0
    possible = [unit for unit, least in _TYPICAL_FROM.items() if typical >= least]
    return max(possible, key=lambda unit: TIME_UNITS[unit], default="s")
