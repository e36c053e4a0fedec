"""Comparisons of finished runs: numbers with a known answer, what is refused, and files that can be read back."""

import io
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from recbole_gen.compare import drawings
from recbole_gen.compare.arguments import TESTS
from recbole_gen.compare.output_files import write_files
from recbole_gen.compare.statistics import summarise
from recbole_gen.compare.tables import terminal_text
from recbole_gen.errors import UserError
from recbole_gen.evaluation import significance

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")
USERS = 40
VALUES = {
    "hit": lambda place, k: float(0 < place <= k),
    "ndcg": lambda place, k: 1 / math.log2(place + 1) if 0 < place <= k else 0.0,
}


def metrics_of(places) -> dict[str, float]:
    """RecBole's, of rows with one target each, to four digits."""
    return {
        f"{name}@{k}": round(float(np.mean([value(place, k) for place in places])), 4)
        for name, value in VALUES.items()
        for k in (5, 10)
    }


def writer(tmp_path: Path):
    """write(model, places, seed=..., valid=..., lengths=..., result={...}, **config) makes a run of users u0, u1, ...

    places: where each user's one target stands, 0 for nowhere; lengths: of the histories that the model has read.
    """

    def write(model="SASRec", places=(), seed=2020, valid=0.1, lengths=None, result=(), **config) -> Path:
        folder = (
            tmp_path / f"runs/{model.replace(':', '.')}-2026-01-0{seed % 7 + 1}-{len(list(tmp_path.rglob('*.tsv')))}"
        )
        folder.mkdir(parents=True)
        numbers = range(len(places))
        columns = {"row": numbers, "user_id": [f"u{n}" for n in numbers], "item_id": "i", "rank": 1, "place": places}
        if lengths is not None:
            columns["history_length"] = lengths
        pd.DataFrame(columns).to_csv(folder / "ranks.test.tsv", sep="\t", index=False)
        settings = {
            "model": model, "dataset": "toy", "protocol": "leave_one_out", "metrics": ["Hit", "NDCG"], "topk": [5, 10],
            "valid_metric": "NDCG@10", "metric_decimal_place": 4,
            "USER_ID_FIELD": "user_id", "ITEM_ID_FIELD": "item_id",
            "eval_args": {"split": {"LS": "valid_and_test"}}, "mask_history": False, "mask_seen": None, "seed": seed,
            "repeatable": True, "MAX_ITEM_LIST_LENGTH": 50, "learning_rate": 0.001, **config,
        }  # fmt: skip
        content = {
            "model": model, "dataset": settings["dataset"], "protocol": settings["protocol"], "seed": seed,
            "best_valid_score": valid, "valid_metric": "NDCG@10", "best_valid_result": valid and {"ndcg@10": valid},
            "test_result": metrics_of(places), "epochs": 3, "parameters": 1000, "peak_memory_mib": {"process": 100},
            "diagnostics": {"rows": len(places), "lists": {"distinct_items": 10 + seed % 10, "mean_overlap": None}},
            "scoring": {"rows": len(places), "seconds": 0.5}, "seconds": {"load": 1, "train": 20.0, "test": 1},
            "threads": 1, "device": "cpu", "versions": {"recbole_gen": "0.1.0"}, "git_commit": "abc",
            "config": settings, **dict(result),
        }  # fmt: skip
        (folder / "result.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture
def made(tmp_path):
    return writer(tmp_path)


GOOD, BAD = [1] * 30 + [0] * 10, [1] * 10 + [0] * 30  # users 10 to 29 tell them apart


def of(summary, label: str):
    return next(contender for contender in summary.contenders if contender.label == label)


# Numbers


@pytest.mark.parametrize("test", ["t", "wilcoxon"])
def test_a_known_difference(made, test):
    summary = summarise({"bad": [made("GRU4Rec", BAD)], "good": [made("DreamRec", GOOD)]}, test=test)
    assert (
        summary.baseline == "bad"
        and summary.main_metric == "ndcg@10"
        and [s.label for s in summary.contenders] == ["good", "bad"]
    )
    assert (summary.users, summary.rows) == (USERS, USERS)
    good, one, other = of(summary, "good"), np.array(GOOD, float), np.array(BAD, float)
    found = good.differences["hit@5"]
    assert found.difference == 0.5 and 0 < found.low < 0.5 < found.high < 1
    differing = (one - other)[one != other]
    expected = scipy.stats.ttest_rel(one, other) if test == "t" else scipy.stats.wilcoxon(differing)
    assert found.p == pytest.approx(expected.pvalue) and found.p == found.p_holm
    assert good.intervals["hit@5"][0] < 0.75 < good.intervals["hit@5"][1]
    assert good.test["hit@5"].mean == 0.75 and good.test["hit@5"].sd is None and not of(summary, "bad").differences
    assert re.search(r"good +0\.7500\*", terminal_text(summary))


def test_equal_models_get_no_mark(made):
    """Two that do the same with other users are no different either; their mean is the same."""
    runs = {"a": [made("GRU4Rec", GOOD)], "b": [made("DreamRec", GOOD)], "c": [made("PASRec", GOOD[::-1])]}
    summary = summarise(runs)
    assert of(summary, "b").differences["ndcg@10"].p == of(summary, "b").differences["ndcg@10"].p_holm == 1
    assert of(summary, "b").differences["ndcg@10"].low == of(summary, "b").differences["ndcg@10"].high == 0
    assert of(summary, "c").differences["hit@5"].p == 1 and of(summary, "c").differences["hit@5"].low < 0
    assert "0.7500*" not in terminal_text(summary)


def test_seeds_are_averaged_and_spread(made):
    hits = (20, 24, 28)
    runs = [made(places=[1] * n + [0] * (USERS - n), seed=2020 + n) for n in hits]
    base = [made("GRU4Rec", [1] * 10 + [0] * 30, seed=seed) for seed in (1, 2)]
    summary = summarise({"SASRec": runs[::-1], "GRU4Rec": base}, baseline="GRU4Rec")
    found = of(summary, "SASRec")
    assert found.seeds == (2040, 2044, 2048) and found.test["hit@5"].values == (0.5, 0.6, 0.7)
    assert found.test["hit@5"].mean == pytest.approx(0.6) and found.test["hit@5"].sd == pytest.approx(0.1)
    assert found.differences["hit@5"].difference == pytest.approx(0.35)
    users = np.mean([[1.0] * n + [0.0] * (USERS - n) for n in hits], axis=0)
    assert found.differences["hit@5"].p == pytest.approx(scipy.stats.ttest_rel(users, np.array(BAD, float)).pvalue)
    assert found.costs == {
        "parameters": 1000, "epochs": 3, "train_seconds": 20, "users_per_second": 80, "peak_memory_mib": 100
    }  # fmt: skip
    assert found.diagnostics["lists.distinct_items"] == np.mean([10, 14, 18])
    assert "lists.mean_overlap" not in found.diagnostics
    text = terminal_text(summary)
    assert "0.6000 ± 0.1000*" in text and "over 2 to 3 seeds" in text and "same number of seeds" in text


def test_holm_is_over_the_models_of_a_metric(made):
    """p of b is the smaller one and doubled, p of c stays, but for being no smaller than that."""
    places = {"a": 20, "b": 34, "c": 26}
    runs = {label: [made("GRU4Rec", [1] * n + [0] * (USERS - n))] for label, n in places.items()}
    summary = summarise(runs, baseline="a")
    b, c = (of(summary, label).differences["hit@10"] for label in "bc")
    assert b.p < c.p < 0.05 and b.p_holm == pytest.approx(2 * b.p) and c.p_holm == max(c.p, 2 * b.p)


@pytest.mark.parametrize(
    "models, scores, expected, reason",
    [
        (["Pop", "DreamRec", "GRU4Rec", "SASRec"], [0.9, 0.8, 0.1, 0.2], "SASRec", "best mean validation NDCG@10"),
        (["DreamRec", "Pop"], [0.9, 0.1], "Pop", "best mean validation NDCG@10"),
        (["recbole.DiffRec", "DiffRec", "Pop"], [0.1, 0.2, 0.3], "recbole.DiffRec", "best mean validation"),
        (["DreamRec", "custom:Custom"], [0.1, 0.9], "DreamRec", "no model of RecBole"),
        (["DreamRec", "SASRec", "GRU4Rec"], [0.1, None, None], "SASRec", "no validation scores"),
    ],
)
def test_the_baseline_is_chosen_by_validation(models, scores, expected, reason, made):
    runs = {model: [made(model, GOOD if model != expected else BAD, valid=v)] for model, v in zip(models, scores)}
    summary = summarise(runs)
    assert summary.baseline == expected and reason in summary.baseline_reason
    assert summarise(runs, baseline=models[0]).baseline_reason == "as asked for"


def test_real_runs(run):
    runs = {
        model: [Path(run(model, epochs=1, seed=seed, group_metrics="length")["run_dir"]) for seed in (2020, 2021)]
        for model in ("Pop", "GRU4Rec")
    }
    summary = summarise(runs, resamples=100)
    assert summary.baseline == "GRU4Rec" and summary.users == 60
    for label, folders in runs.items():
        results = [json.loads((folder / "result.json").read_text()) for folder in folders]
        for metric in summary.metrics:
            values = [result["test_result"][metric] for result in results]
            assert of(summary, label).test[metric].mean == pytest.approx(np.mean(values))
            assert of(summary, label).test[metric].sd == pytest.approx(np.std(values, ddof=1))
    assert summary.groups == [] and any("10 interactions before" in note for note in summary.notes)
    assert any("rankings of Pop, and not of those of GRU4Rec" in note for note in summary.notes)
    assert "effective_rank" in " ".join(of(summary, "GRU4Rec").diagnostics)


# History lengths


def test_groups_are_those_of_the_runs(made):
    def diagnostics(low: float, high: float):
        groups = {
            "low": {"rows": 30, "history": [1, 4], "ndcg@10": low},
            "high": {"rows": 10, "history": [5, 9], "ndcg@10": high},
        }
        return {"result": {"diagnostics": {"groups": groups}}}

    runs = {
        "a": [made("SASRec", GOOD, **diagnostics(0.1, 0.2)), made("SASRec", GOOD, seed=1, **diagnostics(0.3, 0.6))],
        "b": [made("DreamRec", GOOD, lengths=[3] * USERS, **diagnostics(0.5, 0.5))],
    }
    summary = summarise(runs)
    assert [(g.name, g.rows, g.least, g.most) for g in summary.groups] == [("low", 30, 1, 4), ("high", 10, 5, 9)]
    assert of(summary, "a").by_length == pytest.approx({"low": 0.2, "high": 0.4})
    assert summary.length_of == "interactions before the test"


def test_groups_by_what_was_read(made):
    """Three lengths, known from one of the models, group the users of both; low has 20 users, 10 of them hits."""
    lengths = [2] * 20 + [5] * 12 + [9] * 8
    runs = {"SASRec": [made("SASRec", BAD, lengths=lengths)], "Pop": [made("Pop", GOOD, repeatable=False)]}
    summary = summarise(runs, metrics=["Hit@10"])
    assert [(g.name, g.rows, g.least) for g in summary.groups] == [("low", 20, 2), ("medium", 12, 5), ("high", 8, 9)]
    assert of(summary, "SASRec").by_length == {"low": 0.5, "medium": 0, "high": 0}
    assert of(summary, "Pop").by_length == pytest.approx({"low": 1, "medium": 10 / 12, "high": 0})
    assert summary.length_of == "interactions read" and not any("MAX_ITEM" in note for note in summary.notes)
    cut = summarise({"SASRec": [made("SASRec", BAD, lengths=lengths, MAX_ITEM_LIST_LENGTH=9)]})
    assert cut.groups and any("MAX_ITEM_LIST_LENGTH = 9" in note and "not told apart" in note for note in cut.notes)


@pytest.mark.parametrize(
    "lengths, note",
    [
        ([50] * 38 + [3, 4], "MAX_ITEM_LIST_LENGTH = 50 interactions are read, and most users have more"),
        ([7] * USERS, "all have 7 interactions"),
        (None, "No run tells how long"),
    ],
)
def test_lengths_that_tell_nothing_are_no_groups(lengths, note, made):
    summary = summarise({"SASRec": [made("SASRec", GOOD, lengths=lengths)]})
    assert summary.groups == [] and any(note in each and "--group_metrics=length" in each for each in summary.notes)


# What is refused


@pytest.mark.parametrize(
    "values, message",
    [
        ({"dataset": "ml-1m"}, "dataset is 'toy' and 'ml-1m'"),
        ({"protocol": "holdout_82"}, "protocol is 'leave_one_out' and 'holdout_82'"),
        ({"topk": [5, 10, 20]}, "topk is"),
        ({"metrics": ["Hit"]}, "metrics is"),
        ({"valid_metric": "Hit@10"}, "valid_metric is"),
        ({"eval_args": {"split": {"LS": "valid_only"}}}, "eval_args is"),
        ({"mask_history": True}, "mask_history is False and True"),
        ({"mask_seen": True}, "mask_seen is None and True"),
        ({"positives": "set"}, "positives is None and 'set'"),
        ({"val_interval": {"rating": "[4,inf)"}}, "val_interval is"),
    ],
)
def test_runs_that_answer_other_questions_are_refused(values, message, made):
    runs = {"a": [made("SASRec", GOOD)], "b": [made("DreamRec", GOOD, seed=7, **values)]}
    with pytest.raises(UserError, match="SASRec with seed 2020.* and DreamRec with seed 7.*" + re.escape(message)):
        summarise(runs)


def test_settings_that_mean_the_same_are_not_refused(made):
    other = {"metrics": ["ndcg", "HIT"], "topk": [10, 5], "valid_metric": "ndcg@10", "mask_seen": False, "seed": 3}
    summary = summarise({"a": [made("SASRec", GOOD)], "b": [made("DreamRec", BAD, **other)]})
    assert summary.notes == [note for note in summary.notes if "mask_seen" not in note]


@pytest.mark.parametrize(
    "values, ranked",
    [
        ({"mask_seen": False}, "all items"),
        ({"mask_seen": True}, "all items but what the user had before"),
        ({"mask_seen": None}, "all items"),  # of a sequential model
        ({"mask_seen": False, "mask_history": True}, None),
        (
            {"mask_seen": False, "mask_history": True, "eval_args": {"split": {"HO": [8, 2]}}},
            "all items but what the user had before",
        ),
    ],
)
def test_what_is_ranked_is_told(values, ranked, made):
    summary = summarise({"SASRec": [made("SASRec", GOOD, **values)]})
    assert dict(summary.facts).get("Ranked") == ranked


def test_other_test_rows_are_refused(made):
    with pytest.raises(UserError, match=r"SASRec with seed 2020.*GRU4Rec with seed 5.*not tested on the same users"):
        summarise({"a": [made("SASRec", GOOD)], "b": [made("GRU4Rec", GOOD[1:], seed=5, valid=0)]})


def test_runs_that_cannot_be_read_are_named(made, tmp_path):
    def refused(message: str, **values) -> None:
        with pytest.raises(UserError, match=message) as caught:
            summarise({"a": [made(places=GOOD, **values)]})
        assert "\n" not in str(caught.value)

    refused("no test result", result={"test_result": None})
    refused("older version.*run it again", result={"scoring": None})
    refused("gives hit@5 0.75.*result.json 0.9", result={"test_result": {"hit@5": 0.9, "ndcg@10": 0.75}})
    refused("none of the metrics auc has a value", result={"test_result": {"auc": 0.9}})
    with pytest.raises(UserError, match="nowhere holds no finished run"):
        summarise({"a": [tmp_path / "nowhere"]})
    broken = made(places=GOOD)
    (broken / "result.json").write_text("{")
    with pytest.raises(UserError, match=r"result\.json cannot be read.*run it again"):
        summarise({"a": [broken]})
    (broken / "result.json").write_text("[]")
    with pytest.raises(UserError, match="is not the result of a run"):
        summarise({"a": [broken]})


@pytest.mark.parametrize(
    "values, message",
    [
        ({"baseline": "b"}, "the baseline b is not among the contenders: a"),
        ({"test": "z"}, "there is no test 'z'; there are: t, wilcoxon"),
        ({"resamples": 0}, "resamples must be a whole number of at least 100, got 0"),
        ({"resamples": "many"}, "resamples must be a whole number"),
        ({"metrics": ["NDCG@7"]}, "no ndcg@7 of each user; there are: hit@5"),
        ({"contenders": {}}, "nothing to compare"),
        ({"contenders": {"a": []}}, "nothing to compare"),
    ],
)
def test_bad_arguments(values, message, made):
    with pytest.raises(UserError, match=message):
        summarise(**{"contenders": {"a": [made(places=GOOD)]}, **values})


def test_the_tests_that_the_options_name_are_those_of_the_statistics():
    assert tuple(significance.TESTS) == TESTS


def test_one_label_is_one_model_and_one_run_a_seed(made):
    with pytest.raises(UserError, match="a has two runs with seed 2020"):
        summarise({"a": [made(places=GOOD), made(places=GOOD)]})
    with pytest.raises(UserError, match="a has runs of two models, SASRec and GRU4Rec"):
        summarise({"a": [made(places=GOOD), made("GRU4Rec", GOOD, seed=2021)]})
    summary = summarise({"a": [made(places=GOOD), made(places=GOOD, seed=1, learning_rate=0.1)]})
    assert "The runs of a differ in more than their seed, in learning_rate." in summary.notes


# Files

AWKWARD = "a_b & <c> $x$ | 50%"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A summary of three contenders, two of them equal, with labels and reasons that need care; its folder."""
    tmp_path = tmp_path_factory.mktemp("written")
    made = writer(tmp_path)
    lengths = [2] * 20 + [5] * 12 + [9] * 8
    runs = {
        "SASRec": [made("SASRec", BAD, seed=seed, lengths=lengths) for seed in (1, 2)],
        AWKWARD: [made("DreamRec", GOOD, seed=seed) for seed in (1, 2)],
        "_same": [made("DiffRec", GOOD, seed=seed) for seed in (1, 2)],
    }
    summary = summarise(
        runs, resamples=200, left_out={"KGAT": "needs <links> & more"}, failed={"BPR, seed 1": "out of memory"}
    )
    files = write_files(summary, tmp_path / "out", "recbole-gen compare --models='a < b'")
    return summary, tmp_path / "out", files


def test_all_files_are_there_and_the_same_again(written, tmp_path):
    summary, _, files = written
    names = ["comparison.csv", "summary.csv", "comparison.md", "comparison.tex", "comparison.html"]
    figures = [f"{name}.{kind}" for name in ("metric", "cost", "length") for kind in ("png", "svg")]
    assert [file.name for file in files] == names + figures and all(file.stat().st_size for file in files)
    again = write_files(summary, tmp_path / "again", "recbole-gen compare --models='a < b'")
    assert [file.read_bytes() for file in files] == [file.read_bytes() for file in again]


def test_the_order_of_contenders_does_not_matter(made):
    runs = {"b": [made("SASRec", BAD)], "c": [made("DreamRec", GOOD)], "a": [made("DiffRec", GOOD)]}
    one, other = (summarise({label: runs[label] for label in labels}) for labels in ("bca", "acb"))
    assert one == other and [contender.label for contender in one.contenders] == ["a", "c", "b"]


def test_what_each_model_was_trained_on_is_told(made):
    runs = {
        "positions": [made("SASRec", GOOD, train_pairs="positions")],
        "rows": [made("SASRec", BAD, train_pairs="all")],
        "more": [made("GRU4Rec", BAD, train_pairs="all")],
        "Pop": [made("Pop", BAD, repeatable=False, train_pairs="all")],
    }
    assert "Trained on (train_pairs): all for more, rows; positions for positions." in summarise(runs).notes


def test_a_run_that_went_on_after_it_was_cut_off_is_no_other_configuration(made):
    runs = {"SASRec": [made("SASRec", GOOD, seed=1, resume=None), made("SASRec", GOOD, seed=2, resume="runs/SASRec-2")]}
    assert not [note for note in summarise(runs).notes if "differ" in note]


def test_tables_of_numbers_can_be_read_back(written):
    summary, folder, _ = written
    long, wide = (pd.read_csv(folder / name) for name in ("comparison.csv", "summary.csv"))
    assert list(long.columns) == ["label", "model", "seed", "part", "metric", "value"]
    own = long[(long["label"] == AWKWARD) & (long["part"] == "test") & (long["metric"] == "hit@5")]
    assert own["seed"].tolist() == [1, 2] and own["value"].tolist() == [0.75, 0.75]
    assert set(long["part"]) == {"valid", "test", "cost", "diagnostics"}
    wide = wide.set_index("label")
    assert list(wide.index) == [s.label for s in summary.contenders] and wide.loc["SASRec", "is_baseline"]
    found, line = of(summary, AWKWARD), wide.loc[AWKWARD]
    assert line["test.ndcg@10.mean"] == found.test["ndcg@10"].mean and line["test.ndcg@10.sd"] == 0
    assert line["against.hit@5.p_holm"] == pytest.approx(found.differences["hit@5"].p_holm)
    assert np.isnan(wide.loc["SASRec", "against.hit@5.p"]) and line["length.low.ndcg@10"] == 1


def cells(line: str, separator: str) -> list[str]:
    return [cell.strip() for cell in re.split(rf"(?<!\\){re.escape(separator)}", line)]


def test_markdown(written):
    text = (written[1] / "comparison.md").read_text()
    tables = [block.split("\n") for block in text.split("\n\n") if block.startswith("|")]
    assert len(tables) == 5
    for table in tables:
        assert len({len(cells(line, "|")) for line in table}) == 1
    body = {cells(line, "|")[1]: cells(line, "|")[2:-1] for line in tables[0][2:]}
    assert list(body) == [r"\_same", r"a\_b & \<c\> $x$ \| 50%", "SASRec"]
    for label in (r"\_same", r"a\_b & \<c\> $x$ \| 50%"):  # equal: both are best, and both differ
        assert body[label][0] == r"**0.7500** ± 0.0000\*"
    assert body["SASRec"][0] == "<u>0.2500</u> ± 0.0000"
    assert r"Left out: KGAT: needs \<links\> & more" in text and "Failed: BPR, seed 1: out of memory" in text
    assert "    recbole-gen compare --models='a < b'" in text and "figures/cost.svg" in text


def test_latex(written):
    text = (written[1] / "comparison.tex").read_text()
    rows = text[text.index(r"\toprule") : text.index(r"\bottomrule")].split("\n")
    rows = [row for row in rows if row.endswith(r"\\")]
    columns = len(re.search(r"\\begin\{tabular\}\{(l r*)\}".replace(" ", ""), text).group(1))
    assert len(rows) == 4 and {len(cells(row, "&")) for row in rows} == {columns} == {5}
    assert r"a\_b \& \textless{}c\textgreater{} \$x\$ \textbar{} 50\%" in text
    assert text.count(r"\textbf{0.7500}") == 8 and text.count(r"\underline{0.2500}") == 4
    assert text.count(r"\begin{") == text.count(r"\end{") == 2 and text.isascii()
    plain = re.sub(r"\\[{}]", "", text)
    assert plain.count("{") == plain.count("}")


class Page(HTMLParser):
    """Collects what a page asks for, and refuses elements that are not closed in order."""

    VOID = ("meta", "br", "link", "img", "input", "hr")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.ids: list[str] = []
        self.asked: list[str] = []
        self.text = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            self.ids += [value] if name == "id" else []
            self.asked += [value] if name in ("src", "href", "xlink:href", "action", "data", "srcset") else []

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def test_the_page_stands_alone(written):
    summary, folder, _ = written
    text = (folder / "comparison.html").read_text()
    page = Page(text)
    assert page.open == [] and not {"link", "script", "img", "iframe"} & set(page.tags) and page.tags.count("svg") == 3
    assert all(asked.startswith("#") for asked in page.asked) and "@import" not in text
    assert {asked[1:] for asked in page.asked} <= set(page.ids) and len(set(page.ids)) == len(page.ids)
    assert not re.search(r"url\((?!#)", text)
    for shown in (AWKWARD, "_same", "needs <links> & more", "out of memory", "--models='a < b'", "2026-01-0", "abc"):
        assert shown in page.text
    assert "<c>" not in text and "<links>" not in text
    assert text.count("<b>0.7500</b>") == 8 and text.count("<u>0.2500</u>") == 4
    assert "Mean ± standard deviation over 2 seeds (1, 2)" in page.text
    assert "95 % bootstrap intervals over users" in page.text and summary.baseline in page.text


def test_one_seed_has_no_spread(made, tmp_path):
    summary = summarise({"SASRec": [made(places=BAD)], "DreamRec": [made("DreamRec", GOOD)]})
    files = write_files(summary, tmp_path / "out", "")
    assert "length.png" not in [file.name for file in files]  # no lengths are known
    outputs = [
        terminal_text(summary),
        *((tmp_path / f"out/comparison.{kind}").read_text() for kind in ("md", "tex")),
    ]
    outputs.append(Page((tmp_path / "out/comparison.html").read_text()).text)
    for text in outputs:
        assert "±" not in text and r"\pm" not in text and "One seed (2020)" in text
    assert pd.read_csv(io.StringIO((tmp_path / "out/summary.csv").read_text()))["test.hit@5.sd"].isna().all()


def test_a_folder_that_cannot_be_written_is_one_message(made, tmp_path):
    (tmp_path / "file").write_text("")
    summary = summarise({"SASRec": [made(places=BAD)]})
    with pytest.raises(UserError, match=r"comparison\.csv cannot be written"):
        write_files(summary, tmp_path / "file", "")


LONG = ["one_word_that_goes_on_" * 3, "my_package.deeper.models:MyVeryOwnRecommender", "five words " * 5 + "."]


def test_long_labels_leave_room_in_figures_and_are_whole_in_them(made):
    runs = {label: [made("DreamRec", GOOD, lengths=[2] * 20 + [5] * 12 + [9] * 8)] for label in [*LONG, "Pop"]}
    summary = summarise(runs, resamples=200)
    drawn = dict(drawings.draw_figures(summary))
    assert drawn.keys() == {"metric", "cost", "length"}
    for figure in drawn.values():
        figure.draw_without_rendering()
        (axes,), width, height = figure.axes, *figure.get_size_inches() * figure.dpi
        assert axes.get_window_extent().width > 0.4 * width
        texts = [*axes.get_yticklabels(), *axes.texts, *(text for each in figure.legends for text in each.get_texts())]
        boxes = {"".join(text.get_text().split()): text.get_window_extent() for text in texts}
        for label in runs:
            box = boxes["".join(label.split())]
            assert box.x0 >= 0 and box.x1 <= width and box.y0 >= 0 and box.y1 <= height, label


@pytest.mark.parametrize(
    ("label", "drawn"),
    [
        ("SASRec", "SASRec"), ("a$b", r"a\$b"), ("guided DreamRec of ten steps", "guided DreamRec of ten\nsteps"),
        ("x" * 60, "\n".join(["x" * 25, "x" * 25, "x" * 10])), ("_" * 30, "_" * 26 + "\n" + "_" * 4),
    ],
)  # fmt: skip
def test_a_label_in_lines(label, drawn):
    assert drawings.drawn_label(label) == drawn


# Orders of simultaneous events


def tied_runs(made, tests: dict[str, list[list[int]]], seed=2020) -> dict[str, list[Path]]:
    """A run for each label and order, whose places are given."""
    return {
        label: [made(label, places, seed, tie_order="random", tie_seed=n) for n, places in enumerate(own, start=1)]
        for label, own in tests.items()
    }


def hits(number: int) -> list[int]:
    """Places of which so many of `USERS` are hits."""
    return [1] * number + [0] * (USERS - number)


def test_a_difference_within_the_spread_over_tie_orders_is_none(made):
    runs = {"SASRec": [made("SASRec", BAD)], "DreamRec": [made("DreamRec", GOOD)]}
    assert of(summarise(runs), "DreamRec").differences["hit@5"].tie_spread is None
    narrow = tied_runs(made, {"SASRec": [hits(9), hits(11)], "DreamRec": [hits(30), hits(32)]})
    found = summarise(runs, ties=narrow)
    spread = of(found, "DreamRec").over_ties["hit@5"]
    assert spread.mean == 0.775 and spread.sd == pytest.approx(0.05 / 2**0.5) and spread.values == (0.75, 0.8)
    assert (found.tie_seeds, found.tie_run_seed) == ((1, 2), 2020)
    text = terminal_text(found)
    assert re.search(r"DreamRec +0\.7500\*", text)
    assert "by more than the standard deviation over 2 tie orders of either model" in " ".join(text.split())
    line = next(line for line in text.split("Seeds and tie orders")[1].split("\n") if line.startswith("DreamRec"))
    assert line.split()[1:] == ["NDCG@10", "0.7500", "-", "0.7750", "0.0354", "0.7500", "0.8000"]

    wide = tied_runs(made, {"SASRec": [hits(0), hits(39)], "DreamRec": [hits(30), hits(32)]})
    text = terminal_text(summarise(runs, ties=wide))  # the baseline's own spread is 0.69, the difference 0.5
    assert re.search(r"DreamRec +0\.7500 ", text) and "0.7500*" not in text
    found = of(summarise(runs, ties=wide), "DreamRec").differences["hit@5"]
    assert found.p_holm < 0.05 and found.tie_spread == pytest.approx(39 / 40 / 2**0.5) and not found.is_one(0.05)


def test_an_order_of_the_file_that_is_not_like_a_drawn_one_is_told(made):
    runs = {"SASRec": [made("SASRec", hits(10))], "DreamRec": [made("DreamRec", hits(30))]}
    # Of two drawn orders the file's is outside two times in three, if it is like them: that says nothing.
    for of_dreamrec in ([30, 31], [33, 34], [31, 32, 31, 32, 31]):
        drawn = {"SASRec": [hits(10 + n % 2) for n in range(len(of_dreamrec))], "DreamRec": map(hits, of_dreamrec)}
        assert "not like a drawn one" not in terminal_text(summarise(runs, ties=tied_runs(made, drawn)))
    drawn = {"SASRec": [hits(10 + n % 2) for n in range(5)], "DreamRec": map(hits, [36, 37, 36, 37, 36])}
    better = tied_runs(made, drawn)
    told = " ".join(terminal_text(summarise(runs, ties=better)).split())
    assert "is not like a drawn one for DreamRec, whose NDCG@10 with the same seed is where fewer than 1 %" in told
    runs = {label: [made(label, hits(n), tie_order="random")] for label, n in (("SASRec", 10), ("DreamRec", 30))}
    assert "not like a drawn one" not in terminal_text(summarise(runs, ties=better))


def test_the_spread_over_tie_orders_is_in_all_files(made, tmp_path):
    runs = {"SASRec": [made("SASRec", BAD)], "DreamRec": [made("DreamRec", GOOD)]}
    ties = tied_runs(made, {"SASRec": [hits(9), hits(11)], "DreamRec": [hits(30), hits(32)]})
    write_files(summarise(runs, resamples=100, ties=ties), tmp_path / "out", "")
    wide = pd.read_csv(tmp_path / "out/summary.csv").set_index("label").loc["DreamRec"]
    assert wide["ties.hit@5.mean"] == 0.775 and wide["against.hit@5.tie_spread"] == pytest.approx(0.05 / 2**0.5)
    long = pd.read_csv(tmp_path / "out/tie_orders.csv")
    own = long[(long["label"] == "DreamRec") & (long["metric"] == "hit@5")]
    assert own[["seed", "tie_seed", "value"]].values.tolist() == [[2020, 1, 0.75], [2020, 2, 0.8]]
    assert "## Seeds and tie orders" in (tmp_path / "out/comparison.md").read_text()
    assert "<h2>Seeds and tie orders</h2>" in (tmp_path / "out/comparison.html").read_text()
    assert "2 tie orders" in (tmp_path / "out/comparison.tex").read_text()
    write_files(summarise(runs, resamples=100), tmp_path / "without", "")
    assert not (tmp_path / "without/tie_orders.csv").exists()
    assert "tie orders" not in (tmp_path / "without/comparison.html").read_text()


@pytest.mark.parametrize(("change", "message"), [
    ({"tie_order": "file"}, "differs in more than its tie order"), ({"tie_seed": 7}, "not the same tie orders"),
    ({"tie_seed": 1}, "not the same tie orders"),
    ({"seed": 1}, "differs in more than its tie order"), ({"model": "PASRec"}, "differs in more than its tie order"),
    ({"last_events": 5}, "last_events is None and 5"),
])  # fmt: skip
def test_runs_that_differ_in_more_than_the_tie_order_are_refused(change, message, made):
    runs = {"SASRec": [made("SASRec", BAD)], "DreamRec": [made("DreamRec", GOOD)]}
    ties = tied_runs(made, {"SASRec": [hits(9), hits(11)], "DreamRec": [hits(30)]})
    other = {"model": "DreamRec", "places": GOOD, "seed": 2020, "tie_order": "random", "tie_seed": 2, **change}
    ties["DreamRec"].append(made(**other))
    with pytest.raises(UserError, match=message):
        summarise(runs, ties=ties)


def test_runs_of_before_there_were_tie_orders_had_that_of_the_file(made):
    old, new = made("SASRec", BAD, seed=1), made("SASRec", BAD, seed=2, tie_order="file", tie_seed=None)
    found = summarise({"SASRec": [old, new]})
    assert not [note for note in found.notes if "differ" in note]
    with pytest.raises(UserError, match="tie_order is 'file' and 'random'"):
        summarise({"SASRec": [old], "DreamRec": [made("DreamRec", GOOD, tie_order="random", tie_seed=1)]})
