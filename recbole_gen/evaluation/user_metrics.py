"""Metrics of the user's own, named in `metrics` as my_package.my_module:MyMetric.

They are subclasses of RecBole's `AbstractMetric`, `TopkMetric` or `LossMetric`, and enter RecBole's tables of metrics
for this process; from then on they have the name of their class, as RecBole's have.
"""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from recbole.evaluator.base_metric import AbstractMetric
from recbole.evaluator.collector import DataStruct
from recbole.evaluator.register import metric_information, metric_types, metrics_dict, smaller_metrics
from recbole.utils import EvaluatorType

from recbole_gen.errors import UserError
from recbole_gen.options import import_named

NEEDS = (
    "rec.items", "rec.topk", "rec.meanrank", "rec.score", "data.num_items", "data.num_users", "data.count_items",
    "data.count_users", "data.label",
)  # fmt: skip
"""What RecBole collects for a metric that names it in `metric_need`."""


def is_class_path(name: Any) -> bool:
    """Whether the name of a metric is that of a class in a module."""
    return isinstance(name, str) and ":" in name


def register_metrics(names: Sequence[Any]) -> list[Any]:
    """The names of metrics with those of classes in place of paths; the classes are imported, and RecBole knows them.

    Raises UserError for a path that leads to no metric, and for a class with the name of another metric.
    """
    known: dict[str, str] = {}
    for path in filter(is_class_path, names):
        name = _import_metric(path).__name__.lower()
        if known.setdefault(name, path) != path:
            raise UserError(f"metrics: {known[name]} and {path} have one name: rename one of the classes")
        _register_class(path)
    return [_import_metric(name).__name__ if is_class_path(name) else name for name in names]


def _import_metric(path: str) -> type:
    metric = import_named(path, f"metrics: {path}", "MyMetric")
    module_name, _, class_name = path.partition(":")
    if not (isinstance(metric, type) and issubclass(metric, AbstractMetric)):
        raise UserError(
            f"metrics: {path}: module '{module_name}' has no class '{class_name}' that is a metric, a subclass of "
            f"AbstractMetric, TopkMetric or LossMetric of recbole.evaluator.base_metric"
        )
    return metric


def _register_class(path: str) -> None:
    """Into RecBole's tables (recbole/evaluator/register.py), in place of an earlier class of that name."""
    metric: Any = _import_metric(path)
    name = metric.__name__.lower()
    if name in metrics_dict and metrics_dict[name].__module__.startswith("recbole."):
        raise UserError(f"metrics: {path}: RecBole has a metric {metrics_dict[name].__name__}: rename the class")
    needed = getattr(metric, "metric_need", None)
    if not isinstance(getattr(metric, "metric_type", None), EvaluatorType) or not isinstance(needed, (list, tuple)):
        raise UserError(
            f"metrics: {path}: the class needs `metric_type`, an EvaluatorType, and `metric_need`, a list of what it "
            f"reads: {', '.join(NEEDS)}; TopkMetric and LossMetric have both"
        )
    unknown = [each for each in needed if each not in NEEDS]
    if unknown:
        raise UserError(f"metrics: {path}: metric_need has '{unknown[0]}', and can have {', '.join(NEEDS)}")
    metrics_dict[name], metric_types[name], metric_information[name] = metric, metric.metric_type, list(needed)
    if name in smaller_metrics:
        smaller_metrics.remove(name)
    if metric.smaller is True:
        smaller_metrics.append(name)


def check_value_names(config) -> None:
    """See that the metrics of one's own that read top-k hits call their values as RecBole's do, mymetric@10.

    They are tried on two rows. Raises UserError for other names, or none.
    """
    for name in config["metrics"]:
        metric = metrics_dict[name.lower()]
        if metric.__module__.startswith("recbole.") or metric.metric_need != ["rec.topk"]:
            continue
        wanted = [f"{name.lower()}@{k}" for k in config["topk"]]
        values = metric(config).calculate_metric(_collected_hits(np.eye(2, max(config["topk"])), np.ones(2)))
        if not isinstance(values, dict) or not set(wanted) <= values.keys():
            got = ", ".join(map(str, values)) if isinstance(values, dict) else repr(values)
            raise UserError(
                f"metrics: {metric.__module__}:{name} must name its values {', '.join(wanted)}, and has {got or 'none'}"
                f": `return self.topk_result('{name.lower()}', values)` does"
            )


def has_row_values(name: str) -> bool:
    """Whether a metric of one's own, by the name of its class in any case, is the mean over test rows of what its
    `metric_info` returns, [n, K], for rows of hits, [n, K] bool, and their numbers of targets, [n], if it takes them.
    """
    metric = metrics_dict.get(name.lower())
    if metric is None or metric.__module__.startswith("recbole.") or metric.metric_need != ["rec.topk"]:
        return False
    hits, counts = np.array([[1, 0, 1], [0, 0, 0], [0, 1, 0], [0, 0, 1]], dtype=bool), np.array([3, 1, 1, 2])
    tried = metric({"topk": [1, 2, 3], "metric_decimal_place": 12})
    try:
        values = np.asarray(tried.metric_info(*((hits, counts) if takes_counts(tried) else (hits,))))
        means = tried.calculate_metric(_collected_hits(hits, counts))
        return all(abs(means[f"{name.lower()}@{k}"] - values[:, k - 1].mean()) < 1e-9 for k in (1, 2, 3))
    except Exception:  # of the user's code, which need not have a `metric_info` that can be called so
        return False


def takes_counts(metric: AbstractMetric) -> bool:
    """Whether the `metric_info` of a top-k metric reads the number of targets of each row beside its hits."""
    return len(inspect.signature(metric.metric_info).parameters) > 1


def _collected_hits(hits: np.ndarray, counts: np.ndarray) -> DataStruct:
    """Rows as RecBole collects them: `rec.topk`, [n, K + 1]."""
    struct = DataStruct()
    struct.set("rec.topk", torch.from_numpy(np.column_stack([hits, counts]).astype(np.int32)))
    return struct
