"""Per-user metrics of runs, and statistics over users, against plain loops, SciPy and numbers worked out by hand."""

import json
import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from recbole_gen.errors import UserError
from recbole_gen.evaluation import significance

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
ALL = ["Hit", "NDCG", "MRR", "Recall", "Precision", "MAP", "ItemCoverage"]


def by_formula(places: list[int], count: int, k: int) -> dict[str, float]:
    """The definitions, for one row whose targets have these places (0: not in the list)."""
    found = sorted(place for place in places if 0 < place <= k)
    ideal = sum(1 / math.log2(place + 1) for place in range(1, min(count, k) + 1))
    return {
        f"hit@{k}": float(bool(found)),
        f"ndcg@{k}": sum(1 / math.log2(place + 1) for place in found) / ideal,
        f"mrr@{k}": 1 / found[0] if found else 0.0,
        f"recall@{k}": len(found) / count,
        f"precision@{k}": len(found) / k,
        f"map@{k}": sum((number + 1) / place for number, place in enumerate(found)) / min(count, k),
    }


def ranks_file(folder: Path, lines: list[tuple], columns=("row", "user_id", "item_id", "rank", "place")) -> Path:
    folder.mkdir(exist_ok=True)
    pd.DataFrame(lines, columns=columns).to_csv(folder / "ranks.test.tsv", sep="\t", index=False)
    return folder


def result_of(**values) -> dict:
    config = {"USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id", "topk": [1, 3], "metric_decimal_place": 4}
    return {"config": config, "test_result": values}


# Values of each row and user


def test_rows_of_hits_by_the_definitions(monkeypatch):
    monkeypatch.setattr(significance, "BLOCK_ROWS", 3)  # several blocks, the last one smaller
    targets = {0: [1], 1: [0], 2: [3, 1, 0], 3: [4, 2], 4: [0, 0], 5: [5, 4, 3, 2, 1, 0, 0], 6: [5]}
    lines = [(row, place) for row, places in targets.items() for place in places]
    rows, places = np.array(lines[::-1]).T  # in another order than that of the rows
    names = list(by_formula([1], 1, 2)) + list(by_formula([1], 1, 5))
    found = significance.row_values(rows, places, names, [2, 5])
    for row, own in targets.items():
        expected = by_formula(own, len(own), 2) | by_formula(own, len(own), 5)
        assert {name: values[row] for name, values in found.items()} == pytest.approx(expected)


@pytest.mark.parametrize(
    "model, values",
    [
        ("SASRec", {}),
        ("Pop", {}),
        ("GRU4Rec", {"protocol": "sequence_811", "targets": "all"}),
        ("SASRec", {"protocol": "holdout_82"}),
        ("Pop", {"protocol": "holdout_82"}),
    ],
    ids=str,
)
def test_values_of_users_are_those_that_a_run_has_reported(model, values, run):
    result = run(model, epochs=1, metrics=ALL, topk=[5, 10], valid_metric="NDCG@10", metric_decimal_place=10, **values)
    found = significance.read_per_user(result["run_dir"], result)
    reported = result["test_result"]
    assert set(found.values) == {name for name in reported if not name.startswith("itemcoverage")}
    assert {name: found.mean(name) for name in found.values} == pytest.approx(
        {name: reported[name] for name in found.values}, abs=1e-9
    )
    table = pd.read_csv(Path(result["run_dir"]) / "ranks.test.tsv", sep="\t")
    several = values.get("protocol") == "sequence_811"
    assert (found.rows > 1).any() == several and found.rows.sum() == table["row"].nunique()
    for k in (5, 10):
        by_row = [
            {"user": own["user_id"].iloc[0], **by_formula(own["place"].tolist(), len(own), k)}
            for _, own in table.groupby("row")
        ]
        expected = pd.DataFrame(by_row).groupby("user").mean()
        assert list(expected.index) == list(found.users)
        for name in expected.columns:
            assert found.values[name] == pytest.approx(expected[name].to_numpy())
    assert (found.history is None) == (model == "Pop")


def test_names_of_users_stay_as_they_are(tmp_path):
    lines = [(0, "NA", "i1", 1, 1), (1, "007", "i2", 9, 0), (2, "7", "i1", 2, 2), (3, "7", "i3", 1, 1)]
    found = significance.read_per_user(ranks_file(tmp_path / "run", lines), result_of(**{"hit@1": 0.5, "mrr@3": 0.625}))
    assert list(found.users) == ["007", "7", "NA"] and found.rows.tolist() == [1, 2, 1]
    assert found.values["mrr@3"].tolist() == [0, 0.75, 1] and found.mean("mrr@3") == 0.625


@pytest.mark.parametrize(
    "result, lines, columns, message",
    [
        (result_of(**{"hit@1": 0.5}), [(0, "u", "i", 1, 1)], None, "gives hit@1 1.000000, and result.json 0.5.*again"),
        (result_of(**{"hit@1": 1.0}), [(0, "u", "i", 1)], ("row", "user_id", "item_id", "rank"), "older version"),
        (result_of(**{"hit@1": 1.0}), [("u", "i", 1)], ("user_id", "item_id", "rank"), "older version.*run it again"),
        (result_of(**{"hit@1": 1.0}), [(0, "u", "i", 1, 4)], None, "places beyond the 3 that topk asks for"),
        (result_of(**{"hit@1": 1.0}), [(0, "u", "i", 1, "x")], None, "cannot be read"),
        (result_of(**{"hit@1": 1.0}), [], None, "holds no targets"),
    ],
)
def test_broken_files_are_one_message(result, lines, columns, message, tmp_path):
    columns = columns or ("row", "user_id", "item_id", "rank", "place")
    with pytest.raises(UserError, match=message):
        significance.read_per_user(ranks_file(tmp_path / "run", lines, columns), result)


def test_missing_files_and_metrics_are_named(tmp_path):
    with pytest.raises(UserError, match=r"there is no .*ranks\.test\.tsv.*save_ranks=true"):
        significance.read_per_user(tmp_path, result_of(**{"hit@1": 1.0}))
    result = result_of(**{"hit@1": 1.0, "itemcoverage@1": 0.1, "auc": 0.5, "period_hit@1": 1.0})
    assert significance.per_user_metrics(list(result["test_result"])) == ["hit@1"]
    for metric in ("itemcoverage@1", "auc", "period_hit@1", "hit@3"):
        with pytest.raises(UserError, match=f"{metric} has no value for each user.*there are: hit@1"):
            significance.read_per_user(tmp_path, result, [metric])


# Several seeds


def per_user(tmp_path, lines) -> significance.PerUser:
    hits = [float(line[-1] == 1) for line in lines]
    folder = ranks_file(tmp_path / f"run{len(list(tmp_path.iterdir()))}", lines)
    return significance.read_per_user(folder, result_of(**{"hit@1": sum(hits) / len(hits)}))


def test_a_user_is_averaged_over_the_seeds(tmp_path):
    """The seeds test in different orders."""
    one = per_user(tmp_path, [(0, "a", "i", 1, 1), (1, "b", "i", 1, 1), (2, "c", "j", 9, 0)])
    other = per_user(tmp_path, [(0, "c", "j", 9, 0), (1, "b", "i", 4, 0), (2, "a", "i", 1, 1)])
    both = significance.average_runs([one, other])
    assert list(both.users) == ["a", "b", "c"] and both.values["hit@1"].tolist() == [1, 0.5, 0]
    assert significance.average_runs([one]).values["hit@1"].tolist() == [1, 1, 0]


def test_seeds_that_test_other_users_are_pooled(tmp_path):
    one = per_user(tmp_path, [(0, "a", "i", 1, 1), (1, "b", "i", 9, 0)])
    other = per_user(tmp_path, [(0, "b", "i", 1, 1), (1, "b", "j", 1, 1), (2, "c", "i", 9, 0)])
    both = significance.average_runs([one, other])
    assert list(both.users) == ["a", "b", "c"] and both.rows.tolist() == [1, 3, 1]
    assert both.values["hit@1"].tolist() == pytest.approx([1, 2 / 3, 0])
    assert both.mean("hit@1") == pytest.approx(3 / 5)  # that of all five rows


@pytest.mark.parametrize(
    "lines, message",
    [
        ([(0, "a", "i", 1, 1)], "one and other were not tested on the same users .2 and 1; user b is one of one only"),
        ([(0, "a", "i", 1, 1), (1, "c", "i", 1, 1)], "user b is one of one only.*sequence_order: shuffle"),
        ([(n, u, "i", 1, 1) for n, u in enumerate("abc")], "user c is one of other only"),
        ([(0, "a", "i", 1, 1), (1, "b", "j", 1, 1)], "the same users, but not on the same rows and targets"),
        ([(0, "a", "i", 1, 1), (1, "b", "i", 1, 1), (2, "b", "i", 1, 1)], "not on the same rows and targets"),
    ],
)
def test_other_users_rows_or_targets_are_refused(lines, message, tmp_path):
    one = per_user(tmp_path, [(0, "a", "i", 1, 1), (1, "b", "i", 1, 1)])
    with pytest.raises(UserError, match=message):
        significance.require_same_test_set(one, per_user(tmp_path, lines), ("one", "other"))


# Tests


def test_paired_tests_are_scipys():
    random = np.random.default_rng(1)
    one, other = random.random(80), random.random(80) + 0.1
    other[:30] = one[:30]  # no difference
    assert significance.paired_test(one, other) == pytest.approx(scipy.stats.ttest_rel(one, other).pvalue, rel=1e-6)
    expected = scipy.stats.wilcoxon(one[30:], other[30:]).pvalue
    assert significance.paired_test(one, other, "wilcoxon") == pytest.approx(expected)
    assert significance.paired_test(other, one) == pytest.approx(significance.paired_test(one, other))


def test_p_is_always_a_number():
    values = np.array([0.1, 0.7, 0.2, 0.3])
    for test in significance.TESTS:
        assert significance.paired_test(values, values, test) == 1
        assert significance.paired_test(values, values * 3 / 3 + 1e-16, test) == 1  # sums in another order
        assert significance.paired_test(np.ones(1), np.zeros(1), test) == 1  # one user
        assert 0 <= significance.paired_test(values, values + 0.5, test) < 0.2  # the same difference for all
    with pytest.raises(UserError, match="no test 'z'; there are: t, wilcoxon"):
        significance.paired_test(values, values, "z")


@pytest.mark.parametrize(
    "given, expected",
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # x 3, x 1 but not below the one before, x 2, x 4
        ([0.2, 0.6, 0.5], [0.6, 1.0, 1.0]),
        ([0.01, 0.01], [0.02, 0.02]),
        ([0.3], [0.3]),
        ([], []),
    ],
)
def test_holm_by_hand(given, expected):
    assert significance.holm_correction(given) == pytest.approx(expected)


# Intervals


def scipys_interval(samples, statistic, seed: int, resamples: int = 300):
    options = {"n_resamples": resamples, "batch": 1, "method": "percentile", "paired": True, "vectorized": True}
    random = {"random_state": np.random.default_rng(seed)}
    return scipy.stats.bootstrap(samples, statistic, **options, **random).confidence_interval


def test_intervals_are_scipys():
    random = np.random.default_rng(3)
    values, rows = random.random((2, 70)), random.integers(1, 5, 70)
    means = significance.bootstrap_means(values, np.ones(70, dtype=int), 300, seed=7)
    low, high = scipys_interval((values[0],), lambda x, axis: x.mean(axis=axis), 7)
    assert significance.percentile_interval(means[0]) == pytest.approx((low, high))
    low, high = scipys_interval(tuple(values), lambda x, y, axis: (x - y).mean(axis=axis), 7)
    assert significance.percentile_interval(means[0] - means[1]) == pytest.approx((low, high))
    means = significance.bootstrap_means(values, rows, 300, seed=7)  # users with several rows count for more
    low, high = scipys_interval((values[1], rows), lambda x, n, axis: (x * n).sum(axis=axis) / n.sum(axis=axis), 7)
    assert significance.percentile_interval(means[1]) == pytest.approx((low, high))


def test_intervals_are_seeded_and_cover_the_truth():
    ones = np.ones(60, dtype=int)
    first, again, other = (significance.bootstrap_means(np.arange(60.0)[None], ones, 50, seed) for seed in (1, 1, 2))
    assert (first == again).all() and (first != other).any()
    random = np.random.default_rng(0)
    found = [
        significance.percentile_interval(significance.bootstrap_means(random.random((1, 60)) < 0.3, ones, 200, seed)[0])
        for seed in range(200)
    ]
    covered = np.mean([low <= 0.3 <= high for low, high in found])
    assert 0.88 < covered < 0.99


def test_a_run_read_back_from_its_json_gives_the_same(run):
    result = run("Pop", epochs=1)
    stored = json.loads((Path(result["run_dir"]) / "result.json").read_text())
    found, again = (significance.read_per_user(each["run_dir"], each) for each in (result, stored))
    significance.require_same_test_set(found, again, ("one", "other"))
    assert found.mean("ndcg@10") == again.mean("ndcg@10") == pytest.approx(result["test_result"]["ndcg@10"], abs=1e-4)
