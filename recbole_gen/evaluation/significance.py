"""Does a difference between two models hold for other users? Per-user metrics of finished runs, tests and intervals.

A test over users says whether a difference would hold for other users of this data set with THESE trained models; the
standard deviation over seeds says how much training them again would change. Neither says the other, and neither says
anything about other data sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.stats
from recbole.evaluator.register import metrics_dict

from recbole_gen.errors import UserError
from recbole_gen.evaluation import user_metrics

PER_ROW_METRICS = ("hit", "mrr", "precision", "ndcg", "recall", "map")
"""RecBole's metrics that are a mean over test rows of something that the row's own hits decide."""
METRICS_WITH_TARGET_COUNTS = ("ndcg", "recall", "map")
"""Those that ask for the number of a row's targets, too."""
TESTS = {"t": "paired t-test", "wilcoxon": "Wilcoxon signed-rank test"}
BLOCK_ROWS = 1 << 16
"""Rows of hits that are in memory at once."""


@dataclass(frozen=True)
class PerUser:
    """What the users of a test set contribute to the metrics of a run, or of several runs on average.

    Attributes:
        users: [n] tokens, sorted.
        rows: [n] how many test rows each has.
        values: metric -> [n], the mean over the user's rows.
        history: [n] mean length of the histories that the model has read for them; None if it reads none.
        targets: [lines] hashes of what was to be predicted, user and item, sorted: equal for equal test sets.
    """

    users: np.ndarray
    rows: np.ndarray
    values: dict[str, np.ndarray]
    history: np.ndarray | None
    targets: np.ndarray

    def mean(self, metric: str) -> float:
        """The metric as the run reports it: over rows, so that a user with more rows counts for more."""
        return float(self.values[metric] @ self.rows / self.rows.sum())


def per_user_metrics(metrics: Sequence[str]) -> list[str]:
    """Those of the metrics, named as in a run's test_result (`ndcg@10`), that have a value a row and so a user."""
    return [name for name in metrics if _has_row_values(name.partition("@")[0]) and name.partition("@")[2].isdigit()]


def _has_row_values(metric: str) -> bool:
    return metric in PER_ROW_METRICS or user_metrics.has_row_values(metric)


def row_values(rows: np.ndarray, places: np.ndarray, metrics: Sequence[str], topk: Sequence[int]) -> dict:
    """Metrics of each row, [n_rows] each, by RecBole's own classes on rows of hits that are built again.

    Args:
        rows: [lines] number of the row of each target, 0 to n_rows - 1, each at least once.
        places: [lines] place of the target among the row's best max(topk) items, 0 if it is not there.
        metrics: names such as `ndcg@10`, of `per_user_metrics`.
    """
    counts, width = np.bincount(rows), max(topk)
    order = np.argsort(rows, kind="stable")
    first = np.append(0, counts.cumsum())
    shape = {"topk": list(topk), "metric_decimal_place": 4}
    classes = {name: metrics_dict[name](shape) for name in {metric.partition("@")[0] for metric in metrics}}
    out = {metric: np.empty(len(counts)) for metric in metrics}
    for start in range(0, len(counts), BLOCK_ROWS):
        stop = min(start + BLOCK_ROWS, len(counts))
        lines = order[first[start] : first[stop]]
        lines = lines[places[lines] > 0]
        hits = np.zeros((stop - start, width), dtype=bool)
        hits[rows[lines] - start, places[lines] - 1] = True
        for name, metric_class in classes.items():
            with_counts = name in METRICS_WITH_TARGET_COUNTS or (
                name not in PER_ROW_METRICS and user_metrics.takes_counts(metric_class)
            )
            values = metric_class.metric_info(*((hits, counts[start:stop]) if with_counts else (hits,)))
            for metric in metrics:
                kind, _, k = metric.partition("@")
                if kind == name:
                    out[metric][start:stop] = values[:, int(k) - 1]
    return out


def read_per_user(folder: str | Path, result: dict[str, Any], metrics: Sequence[str] | None = None) -> PerUser:
    """Per-user values of a finished run, from its ranks.test.tsv.

    Args:
        result: the content of the run's result.json.
        metrics: names of its test_result; by default all that have a value a user (see `per_user_metrics`).

    Raises UserError if a metric has none, the file is missing or broken, or gives other numbers than result.json.
    """
    path, config, reported = Path(folder) / "ranks.test.tsv", result["config"], result["test_result"]
    topk = config["topk"] if isinstance(config["topk"], list) else [config["topk"]]
    metrics = list(per_user_metrics(list(reported)) if metrics is None else metrics)
    for metric in metrics:
        if metric not in reported or metric not in per_user_metrics([metric]):
            known = ", ".join(per_user_metrics(list(reported))) or "none"
            raise UserError(f"{metric} has no value for each user in {folder}; there are: {known}")
    table = _read_ranks(path, config["USER_ID_FIELD"], config["ITEM_ID_FIELD"], max(topk))
    rows, numbers = pd.factorize(table["row"])
    by_row = row_values(rows, table["place"].to_numpy(), metrics, topk)
    for metric in metrics:
        if not abs(by_row[metric].mean() - reported[metric]) <= max(10.0 ** -config["metric_decimal_place"], 1e-9):
            raise UserError(
                f"{path} gives {metric} {by_row[metric].mean():.6f}, and result.json {reported[metric]}: they are not "
                f"of the same run. Run it again"
            )
    first = np.empty(len(numbers), dtype=np.int64)
    first[rows[::-1]] = np.arange(len(rows))[::-1]  # of the lines of a row the first one is written last
    user_of_row, users = pd.factorize(table["user"].iloc[first], sort=True)
    n_rows = np.bincount(user_of_row)

    def by_user(values: np.ndarray) -> np.ndarray:
        return np.bincount(user_of_row, weights=values) / n_rows

    history = table["history_length"].to_numpy()[first] if "history_length" in table else None
    return PerUser(
        np.asarray(users, dtype=object),
        n_rows,
        {metric: by_user(values) for metric, values in by_row.items()},
        None if history is None else by_user(history),
        np.sort(pd.util.hash_pandas_object(table[["user", "item"]], index=False).to_numpy()),
    )


def _read_ranks(path: Path, user: str, item: str, width: int) -> pd.DataFrame:
    """Columns row, user, item, place and perhaps history_length of a ranks.test.tsv."""
    if not path.exists():
        raise UserError(f"there is no {path}: per-user values need it. Run it again, with --save_ranks=true")
    try:
        titles = pd.read_csv(path, sep="\t", nrows=0).columns
        if not {"row", "place", user, item} <= set(titles):
            raise UserError(f"{path} was written by an older version, without the columns row and place: run it again")
        wanted = [name for name in ("row", user, item, "place", "history_length") if name in titles]
        kinds = {"row": np.int64, user: str, item: str, "place": np.int64, "history_length": np.float64}
        kinds = {name: kinds[name] for name in wanted}
        table = pd.read_csv(path, sep="\t", usecols=wanted, dtype=kinds, keep_default_na=False)
    except (OSError, ValueError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{path} cannot be read ({error}): run it again") from None
    table = table.rename(columns={user: "user", item: "item"})
    if not len(table) or not table["place"].between(0, width).all():
        raise UserError(f"{path} holds no targets, or places beyond the {width} that topk asks for: run it again")
    return table


def require_same_test_set(one: PerUser, other: PerUser, names: tuple[str, str]) -> None:
    """Raise UserError, with the two names, unless both were tested on the same users, rows and targets."""
    mine, theirs = names
    if not np.array_equal(one.users, other.users):
        extra, who = sorted(set(one.users) - set(other.users)), mine
        if not extra:
            extra, who = sorted(set(other.users) - set(one.users)), theirs
        raise UserError(
            f"{mine} and {theirs} were not tested on the same users ({len(one.users)} and {len(other.users)}; user "
            f"{extra[0]} is one of {who} only), so there is nothing to pair. A split that is drawn by the seed "
            f"(sequence_order: shuffle, order: RO) needs the same seeds for all"
        )
    if not (np.array_equal(one.rows, other.rows) and np.array_equal(one.targets, other.targets)):
        raise UserError(
            f"{mine} and {theirs} were tested on the same users, but not on the same rows and targets: the data or its "
            f"split has changed between them. Run both again"
        )


def average_runs(runs: Sequence[PerUser]) -> PerUser:
    """The mean of several runs, one a seed, user by user.

    Where the seed draws who is tested (sequence_order: shuffle, order: RO), a user's value is the mean over all rows
    that he has in any run, and the rows of all runs count.
    """
    first = runs[0]
    if all(_is_same_test_set(first, run) for run in runs[1:]):
        values = {metric: np.mean([run.values[metric] for run in runs], axis=0) for metric in first.values}
        return PerUser(first.users, first.rows, values, first.history, first.targets)
    users, place = np.unique(np.concatenate([run.users for run in runs]), return_inverse=True)
    n_rows = np.concatenate([run.rows for run in runs])
    rows = np.bincount(place, weights=n_rows).astype(np.int64)

    def pooled(parts: list[np.ndarray]) -> np.ndarray:
        return np.bincount(place, weights=np.concatenate(parts) * n_rows) / rows

    values = {metric: pooled([run.values[metric] for run in runs]) for metric in first.values}
    known = [run.history for run in runs if run.history is not None]
    history = pooled(known) if len(known) == len(runs) else None
    return PerUser(users, rows, values, history, np.sort(np.concatenate([run.targets for run in runs])))


def _is_same_test_set(one: PerUser, other: PerUser) -> bool:
    pairs = ((one.users, other.users), (one.rows, other.rows), (one.targets, other.targets))
    return all(np.array_equal(mine, theirs) for mine, theirs in pairs)


def paired_test(one: np.ndarray, other: np.ndarray, test: str = "t") -> float:
    """Two-sided p of the hypothesis that two models do equally well, from values [n] of the same users.

    Each user counts once, however many test rows he has (his value is the mean over them), while the metric itself
    counts rows: where users have several, as under protocol sequence_811, the two can disagree.

    ``t`` is Student's paired t-test, `scipy.stats.ttest_rel`; ``wilcoxon`` is `scipy.stats.wilcoxon`, in which users
    without a difference are left out. Equal models, or a single user, give 1, never nan.
    """
    if test not in TESTS:
        raise UserError(f"there is no test '{test}'; there are: {', '.join(TESTS)}")
    # Rounded, so that sums in another order are no difference.
    difference = np.round(np.asarray(one, dtype=float) - np.asarray(other, dtype=float), 12)
    if len(difference) < 2 or not difference.any():
        return 1.0
    if test == "wilcoxon":
        return float(scipy.stats.wilcoxon(difference[difference != 0]).pvalue)
    if np.ptp(difference) == 0:
        return 0.0  # the same difference for all users: t is infinite
    return float(scipy.stats.ttest_rel(difference, np.zeros_like(difference)).pvalue)


def holm_correction(p: Sequence[float]) -> list[float]:
    """Holm's step-down correction of the p values of one family of tests (Holm 1979): a corrected p below .05 keeps the
    chance of any false difference in the family below .05.

    The smallest of m is multiplied by m, the next by m - 1, ...; none may be smaller than the one before, or above 1.
    """
    given = np.asarray(p, dtype=float)
    order = np.argsort(given, kind="stable")
    steps = given[order] * np.arange(len(given), 0, -1)
    corrected = np.empty(len(given))
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1) if len(given) else steps
    return corrected.tolist()


def bootstrap_means(values: np.ndarray, rows: np.ndarray, resamples: int = 2000, seed: int = 2020) -> np.ndarray:
    """Means over the rows of users drawn again and again, with replacement (Efron 1979); [m, resamples].

    All m series of values [m, n] get the same users each time, so differences of the results are those of paired
    resamples. rows: [n] test rows of each user. It holds the numbers of one resample at a time, n of them.
    """
    n = len(rows)
    random, totals = np.random.default_rng(seed), values * rows
    means = np.empty((len(values), resamples))
    for number in range(resamples):
        times = np.bincount(random.integers(0, n, n), minlength=n).astype(float)
        means[:, number] = totals @ times / (rows @ times)
    return means


def percentile_interval(means: np.ndarray, level: float = 0.95) -> tuple[float, float]:
    """Percentile interval of the means of resamples, [resamples]."""
    low, high = np.quantile(means, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)
