"""What current NumPy, pandas, SciPy, torch and Ray have taken away from RecBole 1.2.1."""

from __future__ import annotations

import builtins
import warnings
from functools import partial
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import torch


def restore_numpy_aliases(_module: ModuleType) -> None:
    """config/configurator.py:626-635, data/interaction.py:31, evaluator/metrics.py: names that NumPy 1.24 and 2.0
    removed (#2174). Deletable when RecBole stops reading them (pull request 2203)."""
    aliases = {
        "bool": np.bool_, "int": np.int_, "float": np.float64, "complex": np.complex128, "object": np.object_,
        "str": np.str_, "long": np.int_, "unicode": np.str_, "float_": np.float64, "complex_": np.complex128,
        "unicode_": np.str_,
    }  # fmt: skip
    for name, value in aliases.items():
        if name not in np.__dict__:
            setattr(np, name, value)


def restore_dok_update(_module: ModuleType) -> None:
    """lightgcn.py:111, ngcf.py:110, gcmc.py:174 and others build their graph by `dok_matrix._update`, which SciPy 1.13
    removed (#2055). Deletable when they use a public call."""
    from scipy.sparse import dok_matrix

    if not hasattr(dok_matrix, "_update"):

        def _update(self, entries):
            for index, value in entries.items():
                self[index] = value

        dok_matrix._update = _update


def count_elements_of_sequence_columns(module: ModuleType) -> None:
    """dataset.py:722, 1217, kg_dataset.py:316 and sequential_dataset.py:165 call `series.agg(len)` for the length of
    each element; pandas 3 hands the function the whole series and returns one number. The module gets a `len` that
    answers a series element by element (it never asks for the length of a series otherwise)."""

    def element_len(value):
        return value.map(builtins.len) if isinstance(value, pd.Series) else builtins.len(value)

    vars(module)["len"] = element_len


def fill_missing_values_by_assignment(module: ModuleType) -> None:
    """dataset.py:648, 650: `feat[field].fillna(..., inplace=True)` changes a copy under pandas 3. Symptom: the padding
    row of an item feature becomes -9223372036854775808. Deletable when upstream assigns."""
    Dataset, FeatureType = module.Dataset, module.FeatureType

    def _fill_nan(self):
        for feat_name in self.feat_name_list:
            feat = getattr(self, feat_name)
            for field in feat:
                ftype = self.field2type[field]
                if ftype == FeatureType.TOKEN:
                    feat[field] = feat[field].fillna(0)
                elif ftype == FeatureType.FLOAT:
                    feat[field] = feat[field].fillna(feat[field].mean())
                else:
                    empty = np.array([], dtype=np.int64 if ftype == FeatureType.TOKEN_SEQ else np.float64)
                    feat[field] = feat[field].map(lambda value, empty=empty: empty if np.ndim(value) == 0 else value)

    Dataset._fill_nan = _fill_nan


def report_to_ray_by_position(module: Any) -> None:
    """quick_start.py:223: `objective_function` reports its metrics as keywords, which current Ray refuses. Outside of a
    trial of Ray's, as under hyperopt or alone, there is nobody to report to."""
    tune = module.tune

    def report(**metrics):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*meant to only be called inside a function")
            tune.report(metrics)

    module.tune = SimpleNamespace(report=report)


def use_current_mixed_precision(module: Any) -> None:
    """trainer.py:235, 1383: `torch.cuda.amp` warns at every epoch that torch 2.4 has moved its content."""
    module.amp = SimpleNamespace(
        GradScaler=partial(torch.amp.GradScaler, "cuda"), autocast=partial(torch.autocast, "cuda")
    )


def sort_tensors_as_arrays(module: ModuleType) -> None:
    """interaction.py:347 hands torch tensors to `np.argsort`, whose result NumPy wraps as a tensor in a way that it has
    deprecated: a warning for every column that is sorted by. That module gets a NumPy whose argsort takes them as
    arrays. Deletable when upstream sorts by torch."""

    class NumPy:
        def __getattr__(self, name):
            return getattr(np, name)

        @staticmethod
        def argsort(values, *args, **kwargs):
            return np.argsort(np.asarray(values), *args, **kwargs)

    vars(module)["np"] = NumPy()
