"""What RecBole's filters and files of features take away from a log, or add to it, without a word."""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pandas as pd

from recbole_gen.errors import UserError, counted

SHOWN = 3
"""Tokens that a message names."""


def note(dataset, text: str) -> None:
    """Warn of what has become of a data set, and keep the text in its `notes`, for those who get it from a cache."""
    dataset.logger.warning(text)
    dataset.notes = [*getattr(dataset, "notes", ()), text]


def _examples(tokens) -> str:
    shown = [str(token) for token in tokens[:SHOWN]]
    return ", ".join(shown) + (", ..." if len(tokens) > SHOWN else "")


def tell_what_filters_leave_out(module: ModuleType) -> None:
    """dataset.py:234-247 filters a log step by step, and says nothing of how much is left; dataset.py:1062 raises
    ValueError where nothing is. The join with files of features, which nobody asked for, is a warning."""
    Dataset, FeatureSource = module.Dataset, module.FeatureSource

    def _data_filtering(self):
        self._filter_nan_user_or_item()
        fields = [field for field in (self.uid_field, self.iid_field) if field in self.inter_feat]
        for step, key in (
            (self._remove_duplication, "rm_dup_inter"),
            (self._filter_by_field_value, "val_interval"),
            (self._filter_inter_by_user_or_item, "filter_inter_by_user_or_item"),
            (self._filter_by_inter_num, "user_inter_num_interval, item_inter_num_interval"),
        ):
            total, before = len(self.inter_feat), {field: self.inter_feat[field] for field in fields}
            step()
            left = len(self.inter_feat)
            if left == total:
                continue
            if left == 0:
                raise UserError(
                    f"data set '{self.dataset_name}': the filters leave nothing of inter_feat, {key} nothing of the "
                    f"last {total} interactions. Weaken user_inter_num_interval, item_inter_num_interval or "
                    f"val_interval, or give files of features that match (filter_inter_by_user_or_item)."
                )
            if step.__name__ == "_filter_inter_by_user_or_item":
                _tell_join(self, before, FeatureSource)
            else:
                self.logger.info(f"{key}: {left} of {total} interactions are left")
        self._reset_index()

    Dataset._data_filtering = _data_filtering


def _tell_join(dataset, before: dict[str, pd.Series], FeatureSource) -> None:
    lost = []
    for field, source in ((dataset.uid_field, FeatureSource.USER), (dataset.iid_field, FeatureSource.ITEM)):
        feat = getattr(dataset, f"{source.value}_feat")
        if feat is not None:
            there = before[field].drop_duplicates()
            gone = there[~there.isin(feat[field])]
            if len(gone):
                lost.append(
                    f"{len(gone)} of {len(there)} {source.value}s ({_examples(gone.tolist())}) are not in "
                    f"{dataset.dataset_name}.{source.value}"
                    + (", or val_interval has taken them out of it" if dataset.config["val_interval"] else "")
                )
    total = len(before[dataset.iid_field])
    note(
        dataset,
        f"{total - len(dataset.inter_feat)} of {total} interactions are left out: {', and '.join(lost)}. "
        f"Add them there, or keep the interactions with --filter_inter_by_user_or_item=False",
    )


def tell_what_files_of_features_add(module: ModuleType) -> None:
    """dataset.py:558-574 gives every user and item of a file of features a number, and a place in every ranking, though
    nobody had it; who is not in the file gets made-up features; dataset.py:357 leaves out lines of the same name."""
    Dataset, FeatureSource, FeatureType = module.Dataset, module.FeatureSource, module.FeatureType
    load, prepare = Dataset._load_user_or_item_feat, Dataset._user_item_feat_preparation

    def _load_user_or_item_feat(self, token, dataset_path, source, field_name):
        lines = []

        def read(path, source):
            feat = type(self)._load_feat(self, path, source)
            lines.append(0 if feat is None else len(feat))
            return feat

        self._load_feat = read
        try:
            feat = load(self, token, dataset_path, source, field_name)
        finally:
            del self._load_feat
        if feat is not None and len(feat) < lines[0]:
            note(
                self,
                f"{lines[0] - len(feat)} of {lines[0]} lines of {token}.{source.value} are left out: of several for "
                f"one {source.value} the first counts",
            )
        return feat

    def _user_item_feat_preparation(self):
        for field, source in ((self.uid_field, FeatureSource.USER), (self.iid_field, FeatureSource.ITEM)):
            feat = getattr(self, f"{source.value}_feat")
            if feat is not None:
                _tell_additions(self, field, source.value, feat, FeatureType)
        prepare(self)

    Dataset._load_user_or_item_feat = _load_user_or_item_feat
    Dataset._user_item_feat_preparation = _user_item_feat_preparation


def _tell_additions(dataset, field: str, name: str, feat: pd.DataFrame, FeatureType) -> None:
    """Tell of those in a file of features whom no interaction has, and of those whom it does not describe."""
    tokens, file = dataset.field2id_token[field], f"{dataset.dataset_name}.{name}"
    has, described = np.zeros(len(tokens), dtype=bool), np.zeros(len(tokens), dtype=bool)
    for column in {field, *dataset.alias[f"{name}_id"]}:
        if column in dataset.inter_feat:
            values = dataset.inter_feat[column]
            is_single = dataset.field2type[column] == FeatureType.TOKEN
            has[values.to_numpy(np.int64) if is_single else np.concatenate(values.to_numpy()).astype(np.int64)] = True
    described[feat[field].to_numpy(np.int64)] = True
    has[0] = described[0] = False  # padding, and what is missing
    added, bare = np.flatnonzero(described & ~has), np.flatnonzero(has & ~described)
    total = int(has.sum())
    if len(added):
        ranked = "They are in every ranking" if name == "item" else "They have numbers and vectors of their own"
        text = (
            f"{file} adds {counted(len(added), name)} to the {total} of the interactions ({_examples(tokens[added])})."
        )
        if name == "item":
            note(dataset, f'{text} {ranked}: --{name}_inter_num_interval="[1,inf)" leaves them out')
        else:
            dataset.logger.info(f"{text} {ranked}")
    if len(bare) and len(feat.columns) > 1:
        note(
            dataset,
            f"{len(bare)} of {total} {name}s are not in {file} ({_examples(tokens[bare])}): their features are made "
            f"up, means of numbers and padding for tokens",
        )


def tell_what_the_graph_leaves_out(module: ModuleType) -> None:
    """kg_dataset.py:203 takes away the interactions of every item that .link does not link to the graph."""
    Dataset = module.KnowledgeBasedDataset
    filter_link = Dataset._filter_link

    def _filter_link(self):
        before = self.inter_feat[self.iid_field]
        filter_link(self)
        left = len(self.inter_feat)
        if left < len(before):
            there = before.drop_duplicates()
            gone = there[~there.isin(list(self.item2entity))].tolist()
            text = (
                f"{len(before) - left} of {len(before)} interactions are left out: {len(gone)} of {len(there)} items "
                f"({_examples(gone)}) have no entity of the graph in {self.dataset_name}.link"
            )
            if left == 0:
                raise UserError(f"data set '{self.dataset_name}': {text}")
            note(self, text)

    Dataset._filter_link = _filter_link


def name_the_history_of_other_items(module: ModuleType) -> None:
    """sequential_dataset.py:164 reads the lengths of split histories from `item_id_list` whatever ITEM_ID_FIELD is."""
    Sequential = module.SequentialDataset

    def _benchmark_presets(self):
        suffix = self.config["LIST_SUFFIX"]
        for field in list(self.inter_feat):
            if field + suffix in self.inter_feat:
                setattr(self, f"{field}_list_field", field + suffix)
        length = self.item_list_length_field
        self.set_field_property(length, module.FeatureType.TOKEN, module.FeatureSource.INTERACTION, 1)
        self.inter_feat[length] = self.inter_feat[self.iid_field + suffix].map(len)

    Sequential._benchmark_presets = _benchmark_presets
