"""Interaction times as PASRec reads them: whole days, shifted and scaled so that the data lies in [0, 1].

PASRec section 5.1.3: "converted to day-level granularity, then shifted to start from zero and normalized to [0, 1]".
Over which interactions the range is taken is not said; `time_range: all` takes every one, which tells a model the last
day of the collection, and `train` those that training shows.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

import numpy as np
import torch
from recbole.utils import FeatureType

from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError, counted
from recbole_gen.reading.parsing import far_from_today
from recbole_gen.reading.rules import END_OF_CALENDAR

SECONDS_PER_DAY = 86400
TIME_RANGES = ("all", "train")
CHUNK_SIZE = 1 << 20
MOST_DAYS = 36525
"""Days that a log may span without a word: 100 years."""


@dataclass(frozen=True)
class DayRange:
    """The days (since 1970-01-01, UTC) that are scaled to 0 and to 1."""

    first: int
    last: int

    def scale(self, seconds: torch.Tensor) -> torch.Tensor:
        """Unix seconds, float64 [...] -> float32 [...]. The day is exact; days after ``last`` are above 1."""
        if seconds.numel() > CHUNK_SIZE:  # float64 copies of a part only
            return torch.cat([self.scale(part) for part in seconds.flatten().split(CHUNK_SIZE)]).view(seconds.shape)
        days = torch.floor(seconds.double() / SECONDS_PER_DAY)
        return ((days - self.first) / (self.last - self.first)).float()


def find_day_range(dataset, train: SequenceRows) -> DayRange:
    """The days of a sequence data set that are scaled to 0 and to 1.

    Args:
        dataset: its `inter_feat` are all rows, with exact times in TIME_FIELD and its list.
        train: the rows that train, likewise.

    Raises UserError for missing, missing in part, infinite or decreasing times, for times that are not Unix seconds,
    and for a log of one day.
    """
    config, rows = dataset.config, dataset.inter_feat
    where, field = f"data set '{config['dataset']}'", config["TIME_FIELD"]
    list_field, toi = field + config["LIST_SUFFIX"], config["TOI_FIELD"]
    if toi in rows or toi + config["LIST_SUFFIX"] in rows:
        raise UserError(f"{where} has a column '{toi}' already: name the derived one with --TOI_FIELD=NAME")
    for name, kind in ((field, FeatureType.FLOAT), (list_field, FeatureType.FLOAT_SEQ)):
        if name not in rows or dataset.field2type[name] != kind:
            raise UserError(
                f"{where}: {config['model']} reads times, and there is no column '{name}:{kind.value}' among the "
                f"loaded {rows.columns}. {time_field_advice(config)}"
            )
    targets, histories = rows.targets[field], rows.lists[list_field]
    is_log = histories is targets  # sorted by time, where the histories of files are as they come
    every = targets if is_log else torch.cat([histories, targets])
    bad = int((~torch.isfinite(every)).sum())
    if bad:
        raise UserError(
            f"{where}: {bad} of the times in '{field}' and '{list_field}' are missing or infinite. Fill or remove "
            f"them, or use --model=PreferDiff, which reads no times."
        )
    if every.abs().max() >= END_OF_CALENDAR:
        raise UserError(
            f"{where}: TIME_FIELD '{field}' must hold Unix times in seconds, and its largest value is "
            f"{float(every.abs().max()):.4g}. Divide milliseconds by 1000."
        )
    if not is_log:
        _refuse_decreasing(dataset, _rows_out_of_order(rows, targets, histories))
    only = config["time_range"]
    if only == "train":
        every = torch.cat([train.lists[list_field][train.in_some_history()], train.targets[field][train.target]])
    days = torch.floor(every.double() / SECONDS_PER_DAY)
    first, last = int(days.min()), int(days.max())
    if first == last:
        wider = " Or scale by all of them: --time_range=all." if only == "train" else ""
        raise UserError(
            f"{where}: all times of '{field}'{' in training' if only == 'train' else ''} are on one day "
            f"({np.datetime64(first, 'D')}), so there is no time to predict. {time_field_advice(config)}{wider}"
        )
    if last - first > MOST_DAYS:
        far = int(far_from_today(every.numpy()).sum())
        logging.getLogger().warning(
            f"{where}: the times of '{field}' go from {np.datetime64(first, 'D')} to {np.datetime64(last, 'D')} "
            f"({far:,} of {len(every):,} are before 1970 or later than tomorrow), and "
            f"{config['model']} scales that to 0 to 1: one wrong date leaves next to nothing between the right ones. "
            f"val_interval leaves such rows out: --val_interval=\"{{{field}: '[0,{END_OF_CALENDAR // 100}]'}}\""
        )
    return DayRange(first, last)


def add_scaled_times(config, rows: SequenceRows, scale: DayRange) -> None:
    """Add the scaled times of targets and of histories' events to rows."""
    field, toi, suffix = config["TIME_FIELD"], config["TOI_FIELD"], config["LIST_SUFFIX"]
    targets, histories = rows.targets[field], rows.lists[field + suffix]
    scaled = scale.scale(targets)
    rows.add_field(toi, toi + suffix, scaled, scaled if histories is targets else scale.scale(histories))


def time_field_advice(config) -> str:
    """What to do about a log without the times that a model reads."""
    return (
        f"The times, Unix seconds, are named by --TIME_FIELD=NAME, and for split files their histories "
        f"NAME{config['LIST_SUFFIX']}:float_seq (ml-100k has 'timestamp'), and are loaded by a load_col, if you give "
        f"one; --model=PreferDiff is PASRec without times."
    )


def _refuse_decreasing(dataset, backwards: torch.Tensor) -> None:
    if not backwards.any():
        return
    row = int(backwards.nonzero()[0])
    ends = np.cumsum(dataset.file_size_list)
    part = int(np.searchsorted(ends, row, side="right"))
    name = f"{dataset.dataset_name}.{dataset.benchmark_filename_list[part]}.inter"
    columns = f"'{dataset.time_field}{dataset.config['LIST_SUFFIX']}' and '{dataset.time_field}'"
    raise UserError(
        f"data set '{dataset.dataset_name}': {counted(int(backwards.sum()), 'row', 'have')} times in {columns} that "
        f"go backwards; the first is row {row - int(ends[part - 1] if part else 0) + 1} of {name} (after the filters). "
        f"Sort each history by time, or use --model=PreferDiff, which reads no times."
    )


def _rows_out_of_order(rows: SequenceRows, targets: torch.Tensor, histories: torch.Tensor) -> torch.Tensor:
    """[n] bool: rows whose history, or its end and the target, go back in time."""
    some = rows.history_length > 0
    start, end = rows.start.long(), rows.start.long() + rows.history_length - 1
    falls = torch.zeros(len(histories), dtype=torch.int64)  # falls[i]: steps down among events 0 .. i
    falls[1:] = (histories[1:] < histories[:-1]).cumsum(0)
    within = falls[end.clamp(min=0)] - falls[start.clamp(max=len(falls) - 1)]
    return some & ((within > 0) | (histories[end.clamp(min=0)] > targets[rows.target]))
