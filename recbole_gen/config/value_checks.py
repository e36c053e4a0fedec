"""What the values of a configuration may be; `Config` has RecBole's own checks made after these."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.register import metric_types, metrics_dict
from recbole.utils import EvaluatorType

from recbole_gen.config.intervals import INTERVAL_KEYS, parse_intervals, read_interval, read_value_intervals
from recbole_gen.config.key_table import KeyTable
from recbole_gen.config.keys import Layer
from recbole_gen.config.layers import merge_layers
from recbole_gen.data.set_splits import SET_SPLITS
from recbole_gen.data.splits import SPLITS
from recbole_gen.errors import UserError, did_you_mean, quoted_option, refuse_shared_columns
from recbole_gen.options import is_number, is_whole
from recbole_gen.reading.parsing import time_unit_of

PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")
"""Caches that RecBole reads back with pickle."""
COLUMNS = ("USER_ID_FIELD", "ITEM_ID_FIELD", "TIME_FIELD", "ITEM_LIST_LENGTH_FIELD", "NEG_PREFIX", "LIST_SUFFIX")
VALUE = EvaluatorType.VALUE
_METRICS_WITHOUT_K = ("auc", "gauc", "logloss", "mae", "rmse")


class Checks:
    """The values of a configuration and where each comes from; its methods raise UserError for one that cannot be."""

    def __init__(self, values: dict[str, Any], origins: dict[str, str]):
        self.values, self.origins = values, origins

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise UserError(f"{key} must be {wanted}, got {self.values[key]!r} ({self.origins.get(key)})")

    def _check_times_of_filter(self) -> None:
        """Times in ms, us or ns are made seconds before they are filtered; no bound in those would leave any out."""
        field = self.values["TIME_FIELD"]
        wanted = (self.values["val_interval"] or {}).get(field)
        if not isinstance(wanted, str):
            return
        for bound in (bound for _, *bounds, _ in parse_intervals(wanted) for bound in bounds):
            unit = time_unit_of(np.array([bound]))
            if unit not in (None, "s"):
                raise UserError(
                    f"val_interval: {field} is in Unix seconds, which times of a file in ms, us or ns are made, and "
                    f"{bound:.0f} looks like {unit} ({self.origins.get('val_interval')})"
                )

    def check_values(self, table: KeyTable, shipped: Sequence[Layer]) -> None:
        """Every value must be what the table says of its key; numbers for keys that are text become text."""
        values = self.values
        for key in PICKLES:
            if values.get(key):
                raise UserError(f"{key} is not supported (RecBole would read the file with pickle): leave it unset")
        for key in INTERVAL_KEYS:
            values[key] = read_interval(key, values.get(key), self.origins.get(key))
        values["val_interval"] = read_value_intervals(values.get("val_interval"), self.origins.get("val_interval"))
        self._check_times_of_filter()
        for key in values:
            if key in table:
                values[key] = table.converted(key, values[key])
        for key, value in values.items():
            table.check(key, value, self.origins.get(key), values)
        if values["load_col"] is not None and "inter" not in values["load_col"]:
            self._refuse("load_col", "a mapping with the columns of the interactions, {inter: [user_id, item_id]}")
        cache = values["data_cache"]
        if isinstance(cache, str) and cache != "auto" and cache.casefold() in ("auto", "true", "false", "none"):
            self._refuse("data_cache", "auto, True, False or the name of a folder")
        refuse_shared_columns({key: values[key] for key in COLUMNS})
        if values.get("transform") == "mask_itemseq":
            self._check_masked_share()
        self._check_undeclared({key for key in values if key not in table}, shipped)

    def _check_masked_share(self) -> None:
        """Where nothing is masked, nothing is learned."""
        if self.values.get("mask_ratio") == 0 and not self.values.get("ft_ratio"):
            self._refuse("mask_ratio", "above 0 where ft_ratio is 0: nothing would be masked, and nothing learned")

    def _check_undeclared(self, keys: set[str], shipped: Sequence[Layer]) -> None:
        """Keys of a class of the user's own that say no kind: theirs is that of their default.

        A default of 1 may be a float's, or a switch's.
        """
        values, defaults = self.values, merge_layers(shipped)
        for key in keys & defaults.keys():
            value, default, text = values[key], defaults[key], isinstance(values[key], str)
            if isinstance(default, str) and is_number(value):
                values[key] = str(value)
            elif isinstance(default, str) and isinstance(value, bool):
                self._refuse(key, "text")
            elif isinstance(default, bool) and text:
                self._refuse(key, "True or False")
            elif is_number(default) and text:
                self._refuse(key, "a number")
            if key.endswith("_size") and is_number(value) and value < 1:
                self._refuse(key, "at least 1")
            if ("dropout" in key or key.endswith("_prob")) and is_number(value) and not 0 <= value <= 1:
                self._refuse(key, "from 0 to 1")

    def check_eval_args(self) -> None:
        """What `recbole_gen.data.splits` and RecBole would find out only after loading the data set, or never."""
        given = self.values["eval_args"] or {}
        mode, split, group = given.get("mode", "full"), given.get("split"), str(given.get("group_by")).lower()
        modes = list(mode.values()) if isinstance(mode, dict) else [mode]
        if not all(re.fullmatch(r"full|labeled|(uni|pop)[1-9]\d*", str(each)) for each in modes):
            raise UserError(f"eval_args: mode must be full, labeled, uni100 or pop100 (or so), got {mode!r}")
        if given.get("order", "RO") not in ("RO", "TO"):
            raise UserError(f"eval_args: order must be RO (random) or TO (by time), got {given['order']!r}")
        if group not in ("user", "none"):
            raise UserError(f"eval_args: group_by must be user or none, got {given['group_by']!r}")
        if split is None and self.values["benchmark_filename"]:
            return
        if not isinstance(split, dict) or len(split) != 1 or not split.keys() <= set(SPLITS):
            raise UserError(f"eval_args: split must be one of {', '.join(SPLITS)} with its value, got {split!r}")
        ((kind, shares),) = split.items()
        if kind in SET_SPLITS and set(modes) != {"full"}:
            raise UserError(
                f"a protocol whose targets are sets ranks all items: eval_args: mode must be full, got {mode!r}"
            )
        if kind in SET_SPLITS and self.values["mask_seen"] == "all":
            raise UserError(
                "mask_seen: all drops rows whose one target was seen before, and this protocol's targets are sets: "
                "mask_seen: True takes all that was seen out of the ranking, targets among it included"
            )
        if kind == "LS":
            return
        numbers = isinstance(shares, list) and len(shares) == 3 and all(map(is_number, shares))
        if not (numbers and shares[0] > 0 and min(shares) >= 0):
            raise UserError(f"eval_args: split: {kind} needs three shares such as [8, 1, 1], got {shares!r}")

    def check_metrics(self, model_class: type, own: Sequence[str], needs_metrics: bool) -> None:
        """``own`` are the names among the metrics that are the user's own; without ``needs_metrics`` the valid_metric,
        which may be one that is not there, is left as it is."""
        values = self.values
        names, topk = as_list(values["metrics"]), as_list(values["topk"])
        if not all(is_whole(k) and k > 0 for k in as_list(values["scene_topk"])):
            self._refuse("scene_topk", "a positive whole number or a list of them")
        recboles = {
            name: each.__name__ for name, each in metrics_dict.items() if each.__module__.startswith("recbole.")
        }
        for name in names:
            if name not in own and str(name).lower() not in recboles:
                hint = did_you_mean(name, recboles.values())
                known = f"{', '.join(recboles.values())}, and a class of your own as my_package.my_module:MyMetric"
                raise UserError(f"there is no metric '{name}'.{hint} There are: {known}")
        if not all(is_whole(k) and k > 0 for k in topk):
            self._refuse("topk", "a positive whole number or a list of them")
        mode = (values["eval_args"] or {}).get("mode")
        if "labeled" in (mode.values() if isinstance(mode, dict) else [mode]):
            ranking = [name for name in names if metric_types[name.lower()] != VALUE]
            if ranking:
                labels = [recboles[each] for each in _METRICS_WITHOUT_K if metric_types[each] == VALUE]
                raise UserError(
                    f"eval_args: mode labeled compares scores with labels, and {', '.join(map(str, ranking))} of "
                    f"metrics rank items: take {', '.join(labels)}, or mode full, uni100 or pop100"
                )
        if not needs_metrics:
            return
        plain = [name for name in names if name.lower() in _METRICS_WITHOUT_K or metric_types[name.lower()] == VALUE]
        computed = [*plain, *(f"{name}@{k}" for name in names if name not in plain for k in topk)]
        # Whether one that is no TopkMetric has cut-offs is the class's own business.
        computed += [
            name for name in own if name not in plain and not issubclass(metrics_dict[name.lower()], TopkMetric)
        ]
        split = (values["eval_args"] or {}).get("split") or ()
        if values["positives"] == "both" and not values["benchmark_filename"] and next(iter(split), None) in SET_SPLITS:
            computed += [f"period_{name}" for name in computed]
        if hasattr(model_class, "full_sort_predict_scene"):
            computed += [f"scene_{name}@{k}" for name in names for k in as_list(values["scene_topk"])]
        if str(values["valid_metric"]).lower() not in [name.lower() for name in computed]:
            raise UserError(
                f"valid_metric {values['valid_metric']} is not among the metrics computed: {', '.join(computed)}."
                f"{_nearest_metric(values['valid_metric'], names, computed)}"
            )


def _nearest_metric(given: Any, names: Sequence[str], computed: Sequence[str]) -> str:
    """The end of a message about a valid_metric that is not computed: the same at the nearest cut-off, or its name with
    another one, or the metric that metrics lacks."""
    name, _, k = str(given).lower().partition("@")
    same = [each for each in computed if each.lower().partition("@")[0] == name]
    if same:
        wanted = int(k) if k.isdecimal() else 0
        nearest = min(same, key=lambda each: abs(int(each.partition("@")[2] or 0) - wanted))
        more = f", or add {wanted} to topk" if wanted and "@" in nearest else ""
        return f" Take {quoted_option('valid_metric', nearest)}{more}"
    if name in metrics_dict and name not in [each.lower() for each in names]:
        return f" Add {metrics_dict[name].__name__} to metrics, or take {quoted_option('valid_metric', computed[0])}"
    return did_you_mean(given, computed)


def as_list(value: Any) -> list:
    """What RecBole takes as a list or as one value, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
