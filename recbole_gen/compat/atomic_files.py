"""Atomic files: RecBole's data sets read them as everything here does, by `recbole_gen.reading`."""

from __future__ import annotations

import builtins
from collections.abc import Collection
from pathlib import Path
from types import ModuleType

import numpy as np
import pandas as pd

from recbole_gen.compat.filters import note
from recbole_gen.errors import UserError
from recbole_gen.reading import whole_files
from recbole_gen.reading.parsing import TimeParser, time_unit_of
from recbole_gen.reading.rules import title_line


def find_extremes_of_columns_at_once(module: ModuleType) -> None:
    """dataset.py:698, 763 and 782 ask Python's `max` and `min` for those of a column, which look at one number at a
    time: seconds for a log of millions. That module gets a `max` and a `min` that leave arrays to NumPy."""

    def of_arrays(builtin, of_array):
        def extreme(*values):
            is_column = len(values) == 1 and isinstance(values[0], np.ndarray) and values[0].dtype.kind == "f"
            return of_array(values[0]) if is_column and values[0].size else builtin(*values)

        return extreme

    vars(module).update(max=of_arrays(builtins.max, np.max), min=of_arrays(builtins.min, np.min))


def read_atomic_files_by_our_rules(module: ModuleType) -> None:
    """dataset.py:486 reads with pandas' Python engine (28 times slower), which takes a double quote for the beginning
    of a quoted cell, so that rows vanish, and NA, null, None and more words for what is missing; dataset.py:501 fills
    missing sequences in place, which pandas 3 does not do. Rows without user or item are left out here, those of split
    files too, which dataset.py:156 keeps, as the padding; and with a time that is none. What has been left out, and
    how times were taken, is told by `note`. A data set class with `tokens_as_categories = True`
    gets single tokens as categories, a few bytes a row. Deletable when upstream has such rules."""
    Dataset, FeatureSource, FeatureType = module.Dataset, module.FeatureSource, module.FeatureType

    def _load_feat(self, filepath, source):
        load_col, unload_col = self._get_load_and_unload_col(source)
        if load_col == set():
            return None
        separator, encoding = self.config["field_separator"], self.config["encoding"]
        is_log = source == FeatureSource.INTERACTION
        token_kind = whole_files.CATEGORIES if getattr(self, "tokens_as_categories", False) else whole_files.TEXT
        kinds: dict[str, str] = {}
        titles = title_line(Path(filepath), separator, encoding)
        for field, type_name in titles.items():
            if (load_col is not None and field not in load_col) or (unload_col and field in unload_col):
                continue
            ftype = FeatureType(type_name)
            kinds[field] = {
                FeatureType.FLOAT: whole_files.NUMBERS,
                FeatureType.TOKEN: token_kind,
            }.get(ftype, whole_files.TEXT)
            if ftype == FeatureType.FLOAT and is_log and field == self.time_field:
                kinds[field] = whole_files.TIMES
            if isinstance(source, FeatureSource) or source != "link":
                self.field2source[field], self.field2type[field] = source, ftype
                if not type_name.endswith("seq"):
                    self.field2seqlen[field] = 1
                if "float" in type_name:
                    self.field2bucketnum[field] = 2
        if not kinds:
            self.logger.warning(f"No columns has been loaded from [{source}]")
            return None

        times = TimeParser()
        needed = {FeatureSource.INTERACTION: [self.uid_field, self.iid_field], FeatureSource.USER: [self.uid_field],
                  FeatureSource.ITEM: [self.iid_field]}.get(source, [])  # fmt: skip
        if source == FeatureSource.KG:  # a triple without one of its parts, else, has the padding there
            needed = [self.head_entity_field, self.relation_field, self.tail_entity_field]
        elif source == "link":
            needed = [self.iid_field, self.entity_field]
        df, notes = whole_files.read_usable_rows(Path(filepath), kinds, needed, times, separator, encoding)
        if is_log and notes and df.empty:
            raise UserError(f"{filepath} has no row that can be used: {' '.join(notes).partition(': ')[2]}")
        for line in [*notes, *times.notes(self.time_field)]:
            if line not in getattr(self, "notes", ()):  # of the times of three parts once
                note(self, line)

        for field in df:
            ftype = self.field2type[field]
            if not ftype.value.endswith("seq"):
                continue
            convert = float if ftype == FeatureType.FLOAT_SEQ else str
            dtype = np.float64 if ftype == FeatureType.FLOAT_SEQ else None
            gap = self.config["seq_separator"]
            try:
                lists = [
                    np.array([convert(part) for part in text.split(gap) if part], dtype=dtype)
                    for text in df[field].fillna("")
                ]
            except ValueError as error:
                raise UserError(f"{filepath}: in a list of the column '{field}:float_seq', {error}") from None
            if is_log and dtype and field == f"{self.time_field}{self.config['LIST_SUFFIX']}":
                unit = time_unit_of(np.concatenate([*lists[:10_000], np.zeros(0)]))
                if unit and times.unit and unit != times.unit:
                    raise UserError(
                        f"{filepath}: the times in '{self.time_field}' are taken for {times.unit}, and those in "
                        f"'{field}' for {unit}: write both in one unit"
                    )
                lists = [times.in_seconds(values) for values in lists]
            longest = max(map(len, lists), default=0)
            in_log = source == FeatureSource.INTERACTION
            histories = _history_fields(titles, self.config["LIST_SUFFIX"]) if in_log else ()
            limit, keeps_last = _sequence_limit(self.config["seq_len"] or {}, field, histories)
            if limit:
                lists = [values[-limit:] if keeps_last else values[:limit] for values in lists]
                longest = min(longest, limit)
            df[field] = pd.Series(lists, index=df.index, dtype=object)
            self.field2seqlen[field] = longest
        return df

    Dataset._load_feat = _load_feat


def _history_fields(fields: Collection[str], suffix: str) -> set[str]:
    """Columns of split files that hold what another column of theirs, the target's, held before."""
    return {field for field in fields if field.endswith(suffix) and field.removesuffix(suffix) in fields}


def _sequence_limit(seq_len: dict[str, int], field: str, histories) -> tuple[int | None, bool]:
    """How many values of a sequence are kept, and whether those are the last: of a history, as MAX_ITEM_LIST_LENGTH
    has it (dataset.py:518 keeps the first). What is said of one history holds for all columns of the same events."""
    if field not in histories:
        return seq_len.get(field), False
    return min((limit for name, limit in seq_len.items() if name in histories), default=None), True
