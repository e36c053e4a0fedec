"""RecBole's sequential data sets with histories as windows: O(N) memory where it copies N x L values for every field.

RecBole gives every interaction its own padded copy of the user's history; here rows are `SequenceRows` over one log.
Splitters, samplers and models see the same `Interaction` columns with the same values.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import torch
from recbole.data.dataset import Dataset, KGSeqDataset, SequentialDataset
from recbole.data.interaction import Interaction
from recbole.utils import FeatureSource, FeatureType

from recbole_gen.data import cold_items, scenes, set_splits, splits, times
from recbole_gen.data.requirements import model_needs
from recbole_gen.data.rows import SequenceRows, compact_integers
from recbole_gen.data.whole_lines import every_prefix
from recbole_gen.errors import UserError, counted, did_you_mean
from recbole_gen.model.layers import FUTURE

SEQUENCE_TYPES = (FeatureType.TOKEN_SEQ, FeatureType.FLOAT_SEQ)


def _factorize_together(columns) -> tuple[list[np.ndarray], np.ndarray]:
    """Numbers of the tokens in columns, int64 [n] each, and the tokens: [i] is the one with number i.

    They are numbered in the order of their first appearance, one column after the other; what is missing has -1.
    """
    columns = [pd.factorize(column) for column in columns]
    of_distinct, tokens = pd.factorize(np.concatenate([np.asarray(distinct, dtype=object) for _, distinct in columns]))
    ends = np.cumsum([len(distinct) for _, distinct in columns])
    numbers = [
        np.append(part, -1)[codes] for (codes, _), part in zip(columns, np.split(of_distinct, ends[:-1]), strict=True)
    ]
    return numbers, tokens


class _InteractionCounts:
    """How many interactions each user, or each item, has, for the filter by these numbers.

    Attributes:
        name: of the table of their features.
        events: [n] who has each interaction that is left.
        features: [m] whom each row of the table describes; None without a table.
        gone: [tokens] bool, who has been filtered out.
    """

    def __init__(self, name: str, numbers: list[np.ndarray], tokens: np.ndarray, intervals: list[tuple]):
        self.name, self.intervals = name, intervals
        self.events, self.features = numbers[0], numbers[1] if len(numbers) > 1 else None
        self.gone = np.zeros(len(tokens), dtype=bool)
        self._described = np.zeros(len(tokens), dtype=bool)
        if self.features is not None:
            self._described[self.features] = True

    def remove_outside(self, within: Callable) -> np.ndarray:
        """Who goes now, [tokens] bool: who has a number outside of the intervals; of the table, who has none either.

        As in RecBole, those in the table also go if they have fewer than the first interval begins with.
        """
        count = np.bincount(self.events, minlength=len(self.gone))
        banned = (count > 0) & ~within(count, self.intervals)
        banned |= self._described & ~self.gone & (count < self.intervals[0][1])
        self.gone |= banned
        return banned


if TYPE_CHECKING:
    from recbole.data.dataset import SequentialDataset as _DatasetBase
else:
    _DatasetBase = object


class TimedLog(_DatasetBase):
    """A log that is sorted by time: the times are there, and stay as they are."""

    inter_feat: Any

    def _fill_nan(self):
        self._check_times()
        super()._fill_nan()

    def _normalize(self):
        # RecBole's ml-100k.yaml sets normalize_all, which would take the calendar out of the times.
        fields = (self.time_field, f"{self.time_field}{self.config['LIST_SUFFIX']}")
        times = {field: self.inter_feat[field].copy() for field in fields if field in self.inter_feat}
        super()._normalize()
        for field, values in times.items():
            self.inter_feat[field] = values

    def _check_times(self):
        where = f"data set '{self.dataset_name}'"
        if self.time_field not in self.inter_feat:
            if self.benchmark_filename_list is not None:
                return  # the order is in the files
            raise UserError(
                f"{where}: sequences need a time to sort by, and TIME_FIELD '{self.time_field}' is not among the "
                f"loaded columns {list(self.inter_feat)}.{did_you_mean(self.time_field, self.inter_feat)} "
                f"Name the column with --TIME_FIELD=NAME (ml-100k has "
                f"'timestamp'), and load it if you give a load_col."
            )
        is_number = self.field2type[self.time_field] == FeatureType.FLOAT
        if not is_number or self.time_field in self.config["numerical_features"]:
            raise UserError(
                f"{where}: TIME_FIELD '{self.time_field}' must be a number to sort by: its title in the .inter file "
                f"'{self.time_field}:float', and the field not among numerical_features."
            )
        missing = int(self.inter_feat[self.time_field].isna().sum())
        if missing:
            raise UserError(
                f"{where}: {missing} interaction(s) have no value in TIME_FIELD '{self.time_field}'. Fill or remove "
                f"them: a made-up time would change the order of the sequence."
            )


class WindowedSequences(TimedLog):
    """Replaces RecBole's augmentation, splitting and benchmark loading by windows; mixed into its data set classes.

    Raises UserError for missing columns, a missing, incomplete or non-numeric time, a history length below 1, and an
    empty split.
    """

    tokens_as_categories = True
    day_range: times.DayRange | None = None

    def __init__(self, config):
        if config["MAX_ITEM_LIST_LENGTH"] < 1:
            raise UserError(f"MAX_ITEM_LIST_LENGTH must be at least 1, got {config['MAX_ITEM_LIST_LENGTH']}")
        super().__init__(config)

    def _load_data(self, token, dataset_path):
        super()._load_data(token, dataset_path)
        self.had_rows = not self.inter_feat.empty
        missing = [field for field in (self.uid_field, self.iid_field) if field not in self.inter_feat]
        if missing:
            raise UserError(
                f"data set '{self.dataset_name}': {missing} (USER_ID_FIELD, ITEM_ID_FIELD) not among the loaded "
                f"columns {list(self.inter_feat)}.{did_you_mean(missing[0], self.inter_feat)} "
                f"Name the columns with --USER_ID_FIELD=NAME and "
                f"--ITEM_ID_FIELD=NAME, and load them if you give a load_col."
            )

    def _set_alias(self, alias_name, default_value):
        # The histories in benchmark files hold the same tokens as the targets; RecBole leaves it to the user to say so.
        histories = [field + self.config["LIST_SUFFIX"] for field in default_value if field]
        super()._set_alias(alias_name, [*default_value, *(name for name in histories if name in self.field2type)])

    def _init_alias(self):
        for field in self.fields(ftype=[FeatureType.TOKEN], source=[FeatureSource.INTERACTION]):
            if field + self.config["LIST_SUFFIX"] in self.field2type:
                self._set_alias(field, [field])
        super()._init_alias()

    def _filter_by_inter_num(self):
        """RecBole's filter, which counts with a Python object for every row: again and again, until all are enough."""
        keys = ("user_inter_num_interval", "item_inter_num_interval")
        if all(self.config[key] in (None, "[0,inf)") for key in keys):  # RecBole would count for nothing
            return
        if not self.tokens_as_categories:
            super()._filter_by_inter_num()
            return
        sides = []
        for name, field, key in zip(("user_feat", "item_feat"), (self.uid_field, self.iid_field), keys):
            intervals = self._parse_intervals_str(self.config[key])
            if intervals:
                features = getattr(self, name)
                columns = [self.inter_feat[field], *([] if features is None else [features[field]])]
                sides.append(_InteractionCounts(name, *_factorize_together(columns), intervals))
        rows = np.arange(len(self.inter_feat))  # those that are left
        while True:
            banned = [side.remove_outside(self._within_intervals) for side in sides]
            if not any(each.any() for each in banned):
                break
            kept = np.ones(len(rows), dtype=bool)
            for side, each in zip(sides, banned, strict=True):
                kept &= ~each[side.events]
            rows = rows[kept]
            for side in sides:
                side.events = side.events[kept]
        self.inter_feat = self.inter_feat.iloc[rows]
        for side in sides:
            if side.features is not None:
                features = getattr(self, side.name)
                setattr(self, side.name, features.loc[~side.gone[side.features]])

    def _remap(self, remap_list):
        """Number tokens in the order of their first appearance, as RecBole does, without a Python object for every row.

        The columns of ``remap_list``, triples of table, field and type, come one after the other.
        """
        if not self.tokens_as_categories or not remap_list:
            super()._remap(remap_list)
            return
        numbers, tokens = _factorize_together(
            [
                feat[field] if ftype == FeatureType.TOKEN else np.concatenate(feat[field].to_numpy())
                for feat, field, ftype in remap_list
            ]
        )
        tokens = np.array(["[PAD]", *tokens])
        ids = {token: number for number, token in enumerate(tokens)}
        for (feat, field, ftype), column in zip(remap_list, numbers, strict=True):
            if field not in self.field2id_token:
                self.field2id_token[field], self.field2token_id[field] = tokens, ids
            column += 1  # what is missing becomes 0
            if ftype == FeatureType.TOKEN:
                feat[field] = column
            else:
                feat[field] = np.split(column, np.cumsum(feat[field].map(len))[:-1])

    def _reset_index(self):
        empty = [name for name in self.feat_name_list if getattr(self, name).empty]
        if empty:
            if not getattr(self, "had_rows", True):
                raise UserError(f"data set '{self.dataset_name}': its files of interactions have titles and no rows")
            raise UserError(
                f"data set '{self.dataset_name}': the filters leave nothing of {', '.join(empty)}. Weaken "
                f"user_inter_num_interval, item_inter_num_interval or val_interval."
            )
        super()._reset_index()

    def _change_feat_format(self):
        if self.benchmark_filename_list is None:
            super()._change_feat_format()  # ends in data_augmentation()
            return
        rows = self._benchmark_rows(self.inter_feat)
        for name in self.feat_name_list:
            if name != "inter_feat":
                setattr(self, name, self._dataframe_to_interaction(getattr(self, name)))
        self.inter_feat = rows

    def data_augmentation(self):
        """Turn the log into rows, one a target: [previous items of the user] -> item, in (user, time) order."""
        self._aug_presets()
        log = self.inter_feat.interaction
        order = splits.order_by_user_and_time(log[self.uid_field].numpy(), log[self.time_field].numpy())
        if self.config["last_events"]:
            users = log[self.uid_field].numpy()[order]
            order = order[set_splits.last_events_mask(users, self.config["last_events"])]
        index = torch.from_numpy(order)
        events = {
            field: compact_integers(log.pop(field)[index]) for field in list(log)
        }  # one column at a time is there twice
        del order, index
        windows = splits.history_windows(
            events[self.uid_field].numpy(), self.max_item_list_len, bool(self.config["empty_history"])
        )
        suffix = self.config["LIST_SUFFIX"]
        lists = {field + suffix: values for field, values in events.items() if field != self.uid_field}
        target, start, length = map(torch.from_numpy, windows)
        self.inter_feat = SequenceRows(
            events, lists, target, start, length, self.max_item_list_len, self.item_list_length_field
        )

    def join(self, df):
        """Add the features of users and items to a batch (RecBole looks them up by a list of Python numbers)."""
        for field, features in ((self.uid_field, self.user_feat), (self.iid_field, self.item_feat)):
            if features is not None and field in df:
                index = df[field]
                df.update(Interaction({name: values[index] for name, values in features.interaction.items()}))
        return df

    def to(self, device):
        """A copy whose batches are gathered on ``device``: its rows and the features of users and items are there."""
        moved = self.copy(self.inter_feat.to(device))
        moved.user_feat, moved.item_feat = (
            None if features is None else features.to(device) for features in (self.user_feat, self.item_feat)
        )
        return moved

    def _benchmark_presets(self):
        suffix = self.config["LIST_SUFFIX"]
        if self.iid_field + suffix not in self.inter_feat:
            raise UserError(
                f"data set '{self.dataset_name}': with benchmark_filename the files of a sequential model hold the "
                f"histories, in a column '{self.iid_field}{suffix}:token_seq', which is not among the loaded columns "
                f"{list(self.inter_feat)}"
            )
        super()._benchmark_presets()

    def _benchmark_rows(self, data) -> SequenceRows:
        """Rows from files that hold the histories; cut to the last MAX_ITEM_LIST_LENGTH (RecBole keeps all)."""
        suffix = self.config["LIST_SUFFIX"]
        names = [field for field in data if field.endswith(suffix) and self.field2type[field] in SEQUENCE_TYPES]
        scalars = data.drop(columns=[*names, self.item_list_length_field])
        events = self._dataframe_to_interaction(scalars)
        lengths = data[self.iid_field + suffix].map(len).to_numpy(np.int64)
        lists = {}
        for field in names:
            own = data[field].map(len).to_numpy(np.int64)
            if len(wrong := np.flatnonzero(own != lengths)):
                user = self.id2token(self.uid_field, int(data[self.uid_field].iloc[wrong[0]]))
                raise UserError(
                    f"data set '{self.dataset_name}': '{field}' and '{self.iid_field}{suffix}' differ in length in "
                    f"{counted(len(wrong), 'row')}, first in one of user '{user}', with {own[wrong[0]]} and "
                    f"{lengths[wrong[0]]} entries. Entries are divided by {self.config['seq_separator']!r} "
                    f"(seq_separator)"
                )
            values = np.concatenate(data[field].to_numpy())
            if values.dtype != np.int64:
                values = values.astype(np.float64 if field == f"{self.time_field}{suffix}" else np.float32)
            lists[field] = compact_integers(torch.from_numpy(values))
            self.field2seqlen[field] = self.max_item_list_len
        end = np.cumsum(lengths)
        kept = np.minimum(lengths, self.max_item_list_len)
        rows = SequenceRows(
            {field: compact_integers(values) for field, values in events.interaction.items()},
            lists,
            torch.arange(len(data)),
            torch.from_numpy(end - kept),
            torch.from_numpy(kept),
            self.max_item_list_len,
            self.item_list_length_field,
        )
        rows.seen_counts = torch.from_numpy(lengths)
        return rows

    def inter_matrix(self, form="coo", value_field=None):
        if self.config["empty_history"]:  # every event is a target; RecBole adds what is only in a history
            return Dataset.inter_matrix(self, form, value_field)
        return super().inter_matrix(form, value_field)

    def build(self):
        """Split into training, validation and test rows as eval_args say; see `recbole_gen.data.splits`.

        For a model that reads times, their scaled form is added to the rows, and `day_range` says what the scale is;
        for one that reads scenes, those of the targets and histories; for one that learns sets, the later events.
        """
        if self.config["eval_args"]["order"] != "TO":
            raise UserError("sequences are split in the order of time: eval_args needs order: TO")
        self._change_feat_format()
        split, cold = splits.split_rows(self), cold_items.drawn_items(self)
        source = cold_items.training_source(self, split, cold)
        train = splits.training_pairs(self.config, source.rows, self.uid_field, source.chosen, source.cut)
        refuse_empty_parts(self, [train, *split.parts[1:]], split.may_be_empty)
        rows, by_time = self.inter_feat, None
        if model_needs(self.config, "times"):
            self.day_range = times.find_day_range(self, source.rows.take(train))
        if self.benchmark_filename_list is None:
            by_time = splits.compact_indices(np.argsort(rows[self.time_field].numpy(), kind="stable"))
        sets = self._event_counts(split, source, train)
        self._derive_columns(rows)
        self._drop_unused_col()  # not before the split and the scale, which may need them
        if source.rows is not rows:
            self._derive_columns(source.rows)
            for field in {*source.rows.columns} - {*rows.columns}:
                source.rows.drop(field)
        parts = [source.rows.take(train), *(rows.take(chosen) for chosen in split.parts[1:])]
        kept = self.config["train_pairs"]
        if by_time is None and cold is None and kept in ("prefixes", "positions"):
            parts[0] = every_prefix(parts[0], self.config["LIST_SUFFIX"], self.uid_field, kept)
        for part, (future, seen) in zip(parts, sets, strict=True):
            part.future_counts, part.seen_counts = future, part.seen_counts if seen is None else seen
            if model_needs(self.config, "future"):
                fields = [self.iid_field, *([self.config["SCENE_FIELD"]] if model_needs(self.config, "scenes") else [])]
                part.future_fields = {field: FUTURE + field + self.config["LIST_SUFFIX"] for field in fields}
        if cold is not None:
            parts[0].further_events = source.rows.further_events
        elif splits.cuts_users(self):
            parts[0].further_events = torch.from_numpy(splits.only_events(rows.targets[self.uid_field].numpy()))
        if by_time is not None:
            self.inter_feat = rows.take(by_time)  # the order of RecBole's, in which popularity sampling draws from it
        datasets = [self.copy(part) for part in parts]
        datasets[0].cold_events = source.left_out
        return datasets

    def _derive_columns(self, rows: SequenceRows) -> None:
        """Add what the model reads and the log does not have: scenes of the events, and their scaled times."""
        if model_needs(self.config, "scenes"):
            scenes.add_scenes(self, rows)
        if self.day_range is not None:
            times.add_scaled_times(self.config, rows, self.day_range)

    def _event_counts(self, split: splits.Split, source: cold_items.TrainingSource, train: np.ndarray) -> list[tuple]:
        """For each part, how many events its rows are to predict and how many were before; None for one, or unknown."""
        if self.benchmark_filename_list is not None:
            return [(None, None)] * 3
        rows = self.inter_feat
        users, future = rows.targets[self.uid_field], None
        if model_needs(self.config, "future"):
            every, target = source.rows.targets[self.uid_field], source.rows.target.numpy()
            most = self.config["future_events"]
            of_events = splits.training_future_counts(every.numpy(), target[source.chosen], most)
            future = torch.from_numpy(of_events[target[train]])
        sets: list[tuple] = [(future, None)]
        for part, chosen in enumerate(split.parts[1:]):
            target = rows.target[chosen]
            seen = target - torch.searchsorted(users, users[target]).to(target)
            sets.append((None if split.sizes is None else torch.from_numpy(split.sizes[part]), seen))
        return sets


def refuse_empty_parts(dataset, parts, may_be_empty: tuple[str, ...] = ()) -> None:
    """Raises UserError for a part of the data set without rows."""
    hint = ""
    if "LS" in (dataset.config["eval_args"]["split"] or {}) and not dataset.config["empty_history"]:
        hint = (
            " Leave-one-out tests users with three interactions or more, and validates those with four or more; "
            "--eval_args='{split: {LS: test_only}}' validates nobody."
        )
    if dataset.config["cold_items"] is not None:
        hint += " Training rows with cold items are left out: a smaller share of cold_items leaves more."
    for name, part in zip(("training", "validation", "test"), parts, strict=True):
        if len(part) == 0 and name not in may_be_empty:
            raise UserError(
                f"data set '{dataset.dataset_name}': the {name} split is empty ({len(dataset.inter_feat)} rows in all, "
                f"split {dataset.config['eval_args']['split']}). Use a larger data set, weaker filters "
                f"(user_inter_num_interval, item_inter_num_interval) or other ratios.{hint}"
            )


class SequenceDataset(WindowedSequences, SequentialDataset):
    """RecBole's `SequentialDataset` in O(N) memory, with exact times and a stable order."""


class KGSequenceDataset(WindowedSequences, KGSeqDataset):
    """The same with a knowledge graph beside it (GRU4RecKG, KSR)."""

    tokens_as_categories = False  # RecBole matches the graph's tokens with the items' as strings
