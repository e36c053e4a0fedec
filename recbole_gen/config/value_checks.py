"""What the values of a configuration may be; `Config` has RecBole's own checks made after these."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from recbole.evaluator.base_metric import TopkMetric
from recbole.evaluator.register import metric_types, metrics_dict
from recbole.utils import EvaluatorType

from recbole_gen.config.keys import Layer
from recbole_gen.config.registry import MODELS
from recbole_gen.data.scenes import SCENE_RULES
from recbole_gen.data.set_splits import POSITIVES, SET_SPLITS
from recbole_gen.data.splits import SPLITS, TRAIN_PAIRS
from recbole_gen.data.times import TIME_RANGES
from recbole_gen.errors import UserError, did_you_mean
from recbole_gen.options import is_number, is_whole

PICKLES = ("save_dataset", "dataset_save_path", "save_dataloaders", "dataloaders_save_path")
"""Caches that RecBole reads back with pickle."""
TEXT_TOO = ("reranker_CAN_NUM", "period_start")
"""Keys with a number for a default that also take text ("100,50", a date)."""
SWITCH_TOO = ("data_cache",)
"""Keys with text for a default that also take True and False."""
LEAST = {
    "epochs": 0, "train_batch_size": 1, "eval_batch_size": 1, "eval_step": 0, "stopping_step": 0, "seed": 0,
    "worker": 0, "num_threads": 0, "nproc": 1, "MAX_ITEM_LIST_LENGTH": 1, "n_heads": 1, "n_layers": 1, "window_step": 1,
    "last_events": 2, "future_events": 1, "least_history": 1, "least_future": 1,
}  # fmt: skip
MAPPINGS = (
    "eval_args", "train_neg_sample_args", "clip_grad_norm", "load_col", "unload_col", "unused_col", "val_interval",
    "seq_len", "threshold", "preload_weight", "discretization",
)  # fmt: skip
LISTS = ("normalize_field", "alias_of_user_id", "alias_of_item_id", "alias_of_entity_id", "alias_of_relation_id")
TEXTS = ("data_path", "checkpoint_dir", "learner", "field_separator", "seq_separator", "TOI_FIELD", "SCENE_FIELD")
CHOICES = {
    "train_pairs": TRAIN_PAIRS, "time_range": TIME_RANGES, "positives": POSITIVES, "scene_rule": (None, *SCENE_RULES),
    "group_metrics": (None, "length"), "mask_seen": (None, True, False),
}  # fmt: skip
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
PARTS = {
    "eval_args": ("split", "group_by", "order", "mode"),
    "train_neg_sample_args": ("distribution", "sample_num", "alpha", "dynamic", "candidate_num"),
}
_STRICT_LAYERS = ("RecBole overall.yaml", "RecBole sample.yaml", "overall.yaml")
VALUE = EvaluatorType.VALUE
_METRICS_WITHOUT_K = ("auc", "gauc", "logloss", "mae", "rmse")


class Checks:
    """The values of a configuration and where each comes from; its methods raise UserError for one that cannot be."""

    def __init__(self, values: dict[str, Any], origins: dict[str, str]):
        self.values, self.origins = values, origins

    def _refuse(self, key: str, wanted: str) -> NoReturn:
        raise UserError(f"{key} must be {wanted}, got {self.values[key]!r} ({self.origins.get(key)})")

    def check_kinds(self, shipped: Sequence[Layer], model: str) -> None:
        """A value must be of the kind of its default: a number, a switch, or text (which a number is turned into).

        RecBole's models and the user's own are less strict: a default of 1 may be a float's, or a switch's.
        """
        strict: dict[str, Any] = {}
        loose: dict[str, Any] = {}
        for origin, layer in shipped:
            if origin in _STRICT_LAYERS or (origin == f"model/{model}.yaml" and model in MODELS):
                strict.update(layer)
            elif "model/" in origin:
                loose.update(layer)
        values = self.values
        for key, default in {**loose, **strict}.items():
            value, text = values[key], isinstance(values[key], str)
            if isinstance(default, str) and is_number(value):
                values[key] = str(value)
            elif isinstance(default, str) and isinstance(value, bool) and key not in SWITCH_TOO:
                self._refuse(key, "text")
            elif isinstance(default, bool) and (text or (key in strict and value not in (True, False))):
                self._refuse(key, "True or False")
            elif is_number(default) and key not in TEXT_TOO:
                whole = key in strict and isinstance(default, int)
                if text or (key in strict and not (isinstance(value, int) if whole else is_number(value))):
                    self._refuse(key, "a whole number" if whole else "a number")

    def check_values(self) -> None:
        values = self.values
        for key in PICKLES:
            if values.get(key):
                raise UserError(f"{key} is not supported (RecBole would read the file with pickle): leave it unset")
        for key, value in values.items():
            if key in LEAST and value is not None and not (is_whole(value) and value >= LEAST[key]):
                self._refuse(key, f"a whole number of at least {LEAST[key]}")
            if key.endswith("_size") and is_number(value) and value < 1:
                self._refuse(key, "at least 1")
            if ("dropout" in key or key.endswith("_prob")) and is_number(value) and not 0 <= value <= 1:
                self._refuse(key, "from 0 to 1")
            if key in MAPPINGS and not (value is None or isinstance(value, dict)):
                self._refuse(key, "a mapping such as {key: value} (a value with brackets or commas in it needs quotes)")
            if key in LISTS and not (value is None or isinstance(value, list)):
                self._refuse(key, "a list such as [name]")
        for key in TEXTS:
            if not values[key]:
                self._refuse(key, "text that is not empty")
        for key, choices in CHOICES.items():
            if values[key] not in choices:
                self._refuse(key, f"one of {', '.join('~' if choice is None else str(choice) for choice in choices)}")
        use = values["data_cache"]
        if not (isinstance(use, bool) or (isinstance(use, str) and use.strip())):
            self._refuse("data_cache", "auto, True, False or a folder")
        if str(values["state"]).upper() not in LOG_LEVELS:
            self._refuse("state", f"one of {', '.join(LOG_LEVELS)}")
        if not 0 < values["learning_rate"] < math.inf:
            self._refuse("learning_rate", "a positive number")
        if not 0 < values["tail_ratio"] < math.inf:
            self._refuse("tail_ratio", "a positive number")
        if not 0 <= values["weight_decay"] < math.inf:
            self._refuse("weight_decay", "0 or a positive number")
        if values["seed"] >= 2**32:
            self._refuse("seed", "less than 2**32")
        clip = values["clip_grad_norm"]
        if clip and not (clip.keys() <= {"max_norm", "norm_type"} and is_number(clip.get("max_norm"))):
            self._refuse("clip_grad_norm", "a mapping such as {max_norm: 1.0}")
        for key, parts in PARTS.items():
            for part in values[key] or {}:
                if part not in parts:
                    raise UserError(f"{key} has no '{part}' ({self.origins[key]}): its parts are {', '.join(parts)}")
        number = (values["train_neg_sample_args"] or {}).get("sample_num", 1)
        if not (is_whole(number) and number > 0):
            self._refuse("train_neg_sample_args", "a mapping with a positive whole number as sample_num")

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
                f"valid_metric {values['valid_metric']} is not among the metrics computed: {', '.join(computed)}"
            )


def as_list(value: Any) -> list:
    """What RecBole takes as a list or as one value, as a list."""
    return list(value) if isinstance(value, (list, tuple)) else [value]
