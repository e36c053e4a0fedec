"""What a comparison finds, as plain data: `summarise` in statistics.py makes it, tables, page and figures show it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from recbole.evaluator.register import metrics_dict

COSTS = {
    "parameters": "parameters",
    "epochs": "epochs",
    "train_seconds": "training (s)",
    "users_per_second": "users scored per second",
    "peak_memory_mib": "peak memory (MiB)",
}


@dataclass(frozen=True)
class SeedStatistics:
    """A metric over the seeds, or over tie orders: mean, standard deviation (ddof=1; None of one value), the values."""

    mean: float
    sd: float | None
    values: tuple[float, ...]

    @classmethod
    def of(cls, values: Sequence[float]) -> SeedStatistics:
        """The statistics of at least one value."""
        sd = float(np.std(values, ddof=1)) if len(values) > 1 else None
        return cls(float(np.mean(values)), sd, tuple(map(float, values)))


@dataclass(frozen=True)
class BaselineDifference:
    """A metric's difference to the baseline, its 95 % interval, p, and p after Holm's correction over the models.

    tie_spread: the larger of the two models' standard deviations over tie orders; None where there were no such runs.
    """

    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    tie_spread: float | None = None

    def is_one(self, level: float) -> bool:
        """Whether it is called a difference: by the test, and by the order of simultaneous events."""
        return self.p_holm < level and (self.tie_spread is None or abs(self.difference) > self.tie_spread)


@dataclass(frozen=True)
class LengthGroup:
    """Test rows by the length of the user's history, from ``least`` to ``most`` interactions."""

    name: str
    rows: int
    least: int
    most: int


@dataclass(frozen=True)
class Contender:
    """One model of a comparison, with all of its runs.

    Attributes:
        label, model: its name here, and the model's.
        seeds: those of its runs, in ascending order; what follows is in this order, or a mean over them.
        test, valid: metric -> its spread over the seeds.
        intervals: metric -> 95 % bootstrap interval over users of the mean.
        differences: metric -> comparison with the baseline; empty for the baseline itself.
        costs: parameters, epochs, seconds of training, users (test rows) scored per second, MiB of the process.
        diagnostics: the numbers of the runs' diagnostics by their path, such as lists.distinct_items.
        by_length: name of a history-length group -> the main metric.
        by_seed: seed -> all numbers of that run, as (part, metric) -> value.
        over_ties: metric -> its spread on the test part over tie orders; empty where there were no such runs.
    """

    label: str
    model: str
    seeds: tuple[int, ...]
    test: dict[str, SeedStatistics]
    valid: dict[str, SeedStatistics]
    intervals: dict[str, tuple[float, float]]
    differences: dict[str, BaselineDifference]
    costs: dict[str, float | None]
    diagnostics: dict[str, float]
    by_length: dict[str, float]
    by_seed: dict[int, dict[tuple[str, str], float]]
    over_ties: dict[str, SeedStatistics] = field(default_factory=dict)


@dataclass(frozen=True)
class Summary:
    """All contenders, the best one by the main metric first.

    Attributes:
        metrics: those compared, the main one first.
        valid_metric: the one that chose the epochs, as in best_valid_result.
        baseline, baseline_reason: the label compared against, and why it is.
        groups: users by history length; empty if they cannot be told apart (`notes` says why).
        length_of: what the lengths of the groups count.
        notes: what a reader has to know to not misread the numbers.
        facts: data set, protocol, versions and such, as (title, text).
        left_out, failed: label -> reason.
        tie_seeds, tie_run_seed: of the runs over tie orders: the seeds of the orders, and that of all these runs.
        seeds_have_drawn_orders: whether the runs over seeds have drawn orders, too, instead of the file's.
    """

    dataset: str
    protocol: str
    metrics: list[str]
    valid_metric: str
    baseline: str
    baseline_reason: str
    test: str
    resamples: int
    users: int
    rows: int
    contenders: list[Contender]
    groups: list[LengthGroup]
    length_of: str
    notes: list[str]
    facts: list[tuple[str, str]]
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    tie_seeds: tuple[int, ...] = ()
    tie_run_seed: int | None = None
    seeds_have_drawn_orders: bool = False

    @property
    def main_metric(self) -> str:
        """The metric that models are sorted and drawn by."""
        return self.metrics[0]


def metric_title(metric: str) -> str:
    """NDCG@10 for ndcg@10, period_NDCG@10 for period_ndcg@10; names that are not RecBole's stay as they are."""
    whole, at, k = metric.partition("@")
    before, line, name = ("", "", whole) if whole in metrics_dict else whole.rpartition("_")
    return f"{before}{line}{metrics_dict[name].__name__}{at}{k}" if name in metrics_dict else metric
