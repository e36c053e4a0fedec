"""That all models of a comparison are tested on the same rows, found out before the first run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from recbole.utils import ModelType, init_seed

from recbole_gen.config import keys
from recbole_gen.config.config import Config
from recbole_gen.data import cache, columns
from recbole_gen.data.rows import SequenceRows
from recbole_gen.errors import UserError
from recbole_gen.evaluation.ties import token_hashes

KEYS_WITHOUT_ROWS = ("MAX_ITEM_LIST_LENGTH", "selected_features", "normalize_field", "normalize_all", "unused_col")
"""Settings of data sets that decide what a row holds, and not which rows there are."""


@dataclass(frozen=True)
class TestRows:
    """The test rows of a model: tokens of the users of all targets, [m], hashes of users and targets, sorted, and the
    number of rows, of which one has several targets where they are a set; and whether they come as split files."""

    users: np.ndarray
    targets: np.ndarray
    rows: int
    are_files: bool = False

    __test__ = False  # no test of pytest's


def require_same_test_rows(configs: Mapping[str, Config]) -> None:
    """Split the data set for each kind of model and of settings among these; one label, one configuration.

    Raises UserError, with two labels, if their models would be tested on other rows, and for data that cannot be split.
    """
    kinds: dict[str, str] = {}
    for label, config in configs.items():
        kinds.setdefault(_kind_of_data(config), label)
    if len(kinds) < 2:
        return  # all of them split the same data in the same way
    (first, *others), rows = kinds.values(), {label: _test_rows(configs[label]) for label in kinds.values()}
    for label in others:
        _require_same(first, rows[first], label, rows[label])


def _kind_of_data(config: Config) -> str:
    """Equal for models that have the same rows for sure."""
    special = columns.special_dataset_class(config)
    settings = config.settings()
    read = [*keys.argument_lists()["Dataset"], "last_events", "empty_history", "tie_order", "tie_seed", "SCENE_FIELD"]
    values: dict[str, Any] = {key: settings.get(key) for key in read if key not in KEYS_WITHOUT_ROWS}
    is_sequential = config["MODEL_TYPE"] == ModelType.SEQUENTIAL
    return json.dumps([special and special.__name__, is_sequential, values], sort_keys=True)


def _test_rows(config: Config) -> TestRows:
    init_seed(config["seed"], config["reproducibility"])
    data, parts = cache.load_dataset(config)
    rows, fields = parts[2].inter_feat, (data.uid_field, data.iid_field)
    users, items = (rows[field].numpy() for field in fields)
    hashes = [token_hashes(data.field2id_token[field], 0)[ids] for field, ids in zip(fields, (users, items))]
    mixed = hashes[0] * np.uint64(0x9E3779B97F4A7C15) + hashes[1]
    if isinstance(rows, SequenceRows):
        n_rows = len(rows)
        if rows.future_counts is not None:
            mixed = mixed + rows.future_counts.numpy().astype(np.uint64)
    else:
        n_rows = len(torch.from_numpy(users).unique())  # RecBole's loaders have one row a user
    return TestRows(data.field2id_token[fields[0]][users], np.sort(mixed), n_rows, bool(config["benchmark_filename"]))


def _require_same(one: str, mine: TestRows, other: str, theirs: TestRows) -> None:
    if np.array_equal(mine.targets, theirs.targets) and mine.rows == theirs.rows:
        return
    counts = f"{mine.rows} and {theirs.rows} rows, {len(mine.targets)} and {len(theirs.targets)} targets"
    example = ""
    for label, these, those in ((one, mine, theirs), (other, theirs, mine)):
        extra = sorted(set(map(str, these.users)) - set(map(str, those.users)))
        if extra and not example:
            example = f"; user {extra[0]} is one of {label} only"
    raise UserError(
        f"{one} and {other} would not be tested on the same rows ({counts}{example}), so there is nothing to compare. "
        f"{_what_helps(one, mine, other, theirs)}"
    )


def _what_helps(one: str, mine: TestRows, other: str, theirs: TestRows) -> str:
    if np.array_equal(mine.targets, theirs.targets):
        once, each = (one, other) if mine.rows < theirs.rows else (other, one)
        cause = f"{once} ranks once a user, for all of his targets together, and {each} once a target. "
    else:
        cause = ""
    if mine.are_files or theirs.are_files:
        return (
            f"{cause}Models of both kinds need split files with one test line a user. Without models that read no "
            f"histories the others can be compared, and their diagnostics have Pop on their own rows"
        )
    return (
        f"{cause}The protocols leave_one_out, holdout_82 and period have the same rows for every kind of model, if all "
        f"of them load the same columns and filter alike"
    )
