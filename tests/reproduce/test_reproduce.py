"""`reproduce` through the command line: numbers beside the published ones, runs that are kept, pages, mistakes."""

import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recbole_gen import cli
from recbole_gen.compare.arguments import page_command
from recbole_gen.config import places
from recbole_gen.config.papers import read_paper
from recbole_gen.errors import UserError
from recbole_gen.reproduce import runs as reproduce_runs
from recbole_gen.reproduce.pages import index_text, markdown_text, read_results
from recbole_gen.reproduce.results import (
    Measured,
    ModelResult,
    Reproduction,
    overall_verdict,
    read_result,
    verdict,
    write_result,
)
from recbole_gen.reproduce.runs import users_error

pytestmark = pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")

PUBLISHED = {
    "paper": "Somebody, A Toy", "table": "table 1, toy", "unit": "percent", "metrics": ["Hit@5", "NDCG@5"],
    "rows": {"DreamRec": [4.1, 3.05], "Factors": [99.0, 98.0], "Unknown": [1.0, 0.5]},
    "sd": {"DreamRec": [0.1, 0.05]},
    "baselines": {"Factors": {"model": "FPMC", "epochs": 1}, "Pop": {}, "Nobody": {}}, "about": "Toys.",
}  # fmt: skip


@pytest.fixture
def properties(tmp_path, monkeypatch):
    """A copy of properties/ in which `toy-table` is the only published setting; the current folder is tmp_path."""
    folder = tmp_path / "properties"
    folder.mkdir()
    for file in places.PROPERTIES.iterdir():
        if file.name != "paper":
            (folder / file.name).symlink_to(file)
    (folder / "paper").mkdir()
    setting = {
        "model": "DreamRec", "dataset": "toy", "protocol": "leave_one_out", "hidden_size": 16, "timesteps": 10,
        "epochs": 2, "train_batch_size": 64, "metrics": ["Hit", "NDCG"], "topk": [5, 10], "valid_metric": "NDCG@5",
        "published": PUBLISHED,
    }  # fmt: skip
    (folder / "paper/toy-table.yaml").write_text(yaml.safe_dump(setting))
    monkeypatch.setattr(places, "PROPERTIES", folder)
    monkeypatch.setattr(places, "ROOT", tmp_path)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def line(tmp_path, walks, properties):
    """line("--key=value", ...) is a command line of `reproduce toy-table` on `walks`, with two seeds."""

    def make(*given: str, name: str = "toy-table") -> list[str]:
        common = (
            "--seeds=2", f"--docs={tmp_path / 'docs'}", "--resamples=100", f"--data_path={tmp_path}", "--use_gpu=false",
            "--num_threads=1", "--show_progress=false", "--state=ERROR", "--tensorboard=false",
        )  # fmt: skip
        kept = [each for each in common if each.partition("=")[0] not in [own.partition("=")[0] for own in given]]
        return ["reproduce", name, *kept, *given]

    return make


@pytest.fixture
def no_comparison(monkeypatch):
    """Without the tables and figures of `compare`, which take longer than the runs."""
    monkeypatch.setattr(reproduce_runs, "write_files", lambda *_: [])


def result(folder: Path) -> dict:
    return json.loads((folder / "result.json").read_text())


def kept(folder: Path) -> dict[Path, tuple[bytes, int]]:
    return {path: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.rglob("*") if path.is_file()}


def reproduction(values: dict[str, list[float]], published: dict[str, float], users_error: float) -> Reproduction:
    """One of a single model, with values of the seeds by metric."""
    measured = {
        metric: Measured(float(np.mean(each)), float(np.std(each, ddof=1)), users_error, each)
        for metric, each in values.items()
    }
    model = ModelResult("DreamRec", "DreamRec", list(range(2)), measured)
    return Reproduction(
        "x", "DreamRec", "Somebody", "table 1", 4, "toy", "leave_one_out", 60, 60, list(values),
        {"DreamRec": published}, {}, [model], {}, [], "", [], [], "reproduce x",
    )  # fmt: skip


def test_published_and_ours_from_the_runs_alone(line, tmp_path, capsys):
    assert cli.main(line()) == 0
    out, runs, docs = capsys.readouterr().out, tmp_path / "saved/reproduce/toy-table/runs", tmp_path / "docs"
    assert sorted(path.name for path in runs.iterdir()) == [
        "DreamRec-2020", "DreamRec-2021", "Factors-2020", "Factors-2021", "Pop-2020", "Pop-2021",
    ]  # fmt: skip
    found = read_result(docs / "toy-table.json")
    assert found == read_result(tmp_path / "saved/reproduce/toy-table/toy-table.json")
    assert [model.label for model in found.models] == ["DreamRec", "Factors", "Pop"]
    assert found.models[1].model == "FPMC" and found.left_out == {"Nobody": "this version has no model Nobody"}
    assert found.published["Factors"] == {"Hit@5": 0.99, "NDCG@5": 0.98}

    for model in found.models:
        folders = [runs / f"{model.label}-{seed}" for seed in (2020, 2021)]
        for metric, measured in model.measured.items():
            values = [result(folder)["test_result"][metric.lower()] for folder in folders]
            assert measured.values == values and measured.mean == pytest.approx(np.mean(values))
            assert measured.sd == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        deviations = []
        for folder in folders:
            places_of = pd.read_csv(folder / "ranks.test.tsv", sep="\t")["place"]
            deviations.append(places_of.between(1, 5).std(ddof=1) / 60**0.5)
        error = model.measured["Hit@5"].users_error
        assert error == pytest.approx(np.sqrt(np.mean(np.square(deviations))), abs=1e-12)

    page = (docs / "toy-table.md").read_text()
    own = found.own.measured["Hit@5"]
    for text in (out, page, (docs / "toy-table.html").read_text()):
        assert f"{100 * own.mean:.2f} ± {100 * own.sd:.2f}" in text and "4.10 ± 0.10" in text and "98.00" in text
        assert f"{100 * own.users_error:.2f}" in text and "Toys." in text
        assert "Not the published setting" not in text
    assert "reproduce toy-table --seeds=2 --resamples=100 --data_path=FOLDER" in page and str(tmp_path) not in page
    assert "[toy-table](toy-table.md)" in (docs / "README.md").read_text()
    assert (docs / "figures/toy-table-metrics.svg").exists() and (docs / "figures/toy-table-models.png").exists()
    assert (runs.parent / "comparison.html").exists()

    before = (kept(runs), (docs / "toy-table.json").read_bytes(), page, (docs / "toy-table.html").read_bytes())
    assert cli.main(line()) == 0
    assert "6 runs, 6 of them finished before" in capsys.readouterr().out
    after = (docs / "toy-table.json").read_bytes(), (docs / "toy-table.md").read_text()
    assert (kept(runs), *after, (docs / "toy-table.html").read_bytes()) == before

    for file in docs.glob("*.*"):
        if file.suffix != ".json":
            file.unlink()
    assert cli.main(["reproduce", "--pages", f"--docs={docs}"]) == 0
    assert (docs / "toy-table.md").read_text() == page and (docs / "README.md").exists()


def test_the_list_says_how_far_a_setting_is(line, tmp_path, capsys, no_comparison):
    assert cli.main(["reproduce"]) == 0
    assert re.search(r"toy-table +not run +Hit@5 +4\.10", capsys.readouterr().out)
    assert cli.main(line("--baselines=Pop")) == 0
    runs, docs = tmp_path / "saved/reproduce/toy-table/runs", f"--docs={tmp_path / 'docs'}"
    mean = read_result(tmp_path / "docs/toy-table.json").own.measured["Hit@5"].mean
    capsys.readouterr()
    assert cli.main(["reproduce", docs]) == 0
    told = capsys.readouterr().out
    assert "done, 2 seeds" in told and f"{100 * mean:.2f} ±" in told
    (runs / "DreamRec-2021/result.json").unlink()
    assert cli.main(["reproduce", docs]) == 0
    assert "1 of 2 seeds (3 of 4 runs)" in capsys.readouterr().out
    for file in sorted(runs.parent.rglob("*"), reverse=True):  # a fresh clone has the pages alone
        file.unlink() if file.is_file() else file.rmdir()
    assert cli.main(["reproduce", docs]) == 0
    assert "done, 2 seeds" in capsys.readouterr().out


def test_a_quick_look_is_small_and_goes_into_no_documents(line, tmp_path, capsys, properties, no_comparison):
    file = properties / "paper/toy-table.yaml"
    setting = yaml.safe_load(file.read_text()) | {"hidden_size": 256, "epochs": 40}
    setting["published"]["baselines"] = {"Factors": {"model": "FPMC", "embedding_size": 99, "epochs": 50}}
    file.write_text(yaml.safe_dump(setting))
    command = [each for each in line("--quick", "--learning_rate=0.01") if not each.startswith("--seeds")]
    assert cli.main(command) == 0
    out, folder = capsys.readouterr().out, tmp_path / "saved/reproduce/toy-table-quick"
    assert "NO REPRODUCTION" in out and "NO REPRODUCTION" in (folder / "toy-table.md").read_text()
    assert not (tmp_path / "docs").exists()
    own, other = (result(folder / f"runs/{label}-2020")["config"] for label in ("DreamRec", "Factors"))
    assert (own["hidden_size"], own["epochs"], own["learning_rate"]) == (64, 3, 0.01)
    assert (other["embedding_size"], other["epochs"], other["learning_rate"]) == (64, 3, 0.001)
    assert [path.name for path in (folder / "runs").iterdir() if path.name.startswith("DreamRec")] == ["DreamRec-2020"]
    assert cli.main(["reproduce"]) == 0
    assert re.search(r"toy-table +not run", capsys.readouterr().out)


def test_keys_of_training_are_for_the_setting_alone_and_told(line, tmp_path, capsys, no_comparison):
    (tmp_path / "mine.yaml").write_text("hidden_size: 8\nmask_history: true\n")
    assert cli.main(line("--seeds=1", "--baselines=Factors", "--epochs=3", "--config_files=mine.yaml")) == 0
    runs = tmp_path / "saved/reproduce/toy-table/runs"
    own, other = (result(runs / f"{label}-2020")["config"] for label in ("DreamRec", "Factors"))
    assert (own["epochs"], own["hidden_size"], own["mask_history"]) == (3, 8, True)
    assert (other["epochs"], other["mask_history"]) == (1, True)
    found = read_result(tmp_path / "docs/toy-table.json")
    assert found.changed == [
        "epochs 3 instead of 2", "hidden_size 8 instead of 16", "mask_history True instead of False",
    ]  # fmt: skip
    assert "Not the published setting: epochs 3 instead of 2" in capsys.readouterr().out
    assert found.own.measured["Hit@5"].sd is None


def test_item_vectors_are_for_the_setting_alone_and_pages_name_no_folder(line, tmp_path, no_comparison):
    np.save(tmp_path / "mine.npy", np.random.default_rng(0).normal(size=(40, 16)))
    (tmp_path / "mine.json").write_text(json.dumps([f"i{n}" for n in range(40)]))
    given = ("--item_vectors=mine.npy", "--item_vectors_use=frozen", "--detach_target=true")
    assert cli.main(line("--seeds=1", "--baselines=Factors", *given)) == 0
    runs = tmp_path / "saved/reproduce/toy-table/runs"
    assert result(runs / "DreamRec-2020")["config"]["item_vectors"] == str(tmp_path / "mine.npy")
    assert result(runs / "Factors-2020")["config"]["item_vectors"] is None
    found = read_result(tmp_path / "docs/toy-table.json")
    assert found.changed == ["item_vectors mine.npy instead of None", "item_vectors_use frozen instead of init"]
    page = (tmp_path / "docs/toy-table.md").read_text()
    assert "--item_vectors=FOLDER" in page and str(tmp_path) not in page


def test_a_baseline_that_fails_is_named(line, tmp_path, capsys, custom, properties, no_comparison):
    file = properties / "paper/toy-table.yaml"
    setting = yaml.safe_load(file.read_text())
    setting["published"]["baselines"] = {"Own": {"model": "custom:Custom", "epochs": 1}}
    file.write_text(yaml.safe_dump(setting))

    def trouble():
        raise RuntimeError("out of luck")

    custom.at, custom.trouble = 1, trouble
    assert cli.main(line("--seeds=1")) == 1
    told = capsys.readouterr()
    assert "Own, seed 2020: FAILED: RuntimeError: out of luck" in told.out
    assert "Failed: Own, seed 2020" in (tmp_path / "docs/toy-table.md").read_text()


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (("--protocol=time_811",), "would change the protocol, and the published numbers are for leave_one_out"),
        (("--dataset=ml-100k",), "would change the data set"),
        (("--model=SASRec",), "would change the model"),
        (("--paper=other",), "would change the setting"),
        (("--topk=[10]",), "do not measure Hit@5, NDCG@5, which the paper reports"),
        (("--metrics=[Hit]",), "do not measure NDCG@5"),
        (("--resume=saved/x",), "the same command again goes on"),
        (("--baselines=Popp",), "no baseline 'Popp' that is run. Did you mean Pop"),
        (("--baselines=Nope",), "no baseline 'Nope' that is run. There are: Factors, Nobody, Pop; or all, or none$"),
        (("--baselines=,",), "--baselines names none: all, none, or some of Factors, Nobody, Pop$"),
        (("--pages",), "goes without a name: recbole-gen reproduce --pages"),
        (("--seeds=0",), "--seeds must be a number"),
        (("--eval_args={split: {RS: [2, 1, 7]}}",), "would change what is trained and tested on"),
        (("--hiden_size=8",), "unknown key 'hiden_size'"),
        (("--n_layers=1",), "unknown key 'n_layers': neither DreamRec, whose setting this is, nor every model has it"),
        (("--hidden_size=many",), "hidden_size"),
        (("--data_path=nowhere",), "there is no data set 'toy'"),
        (("--test=u",), "there is no test 'u'"),
    ],
)
def test_mistakes_are_refused_before_the_first_run(line, refused, tmp_path, given, told):
    refused(line(*given), told)
    assert not (tmp_path / "saved").exists() and not (tmp_path / "docs").exists()


def test_unknown_names_and_settings_without_numbers(refused, properties):
    refused(["reproduce", "toy-tabel"], "there is no published setting 'toy-tabel'. Did you mean toy-table")
    (properties / "paper/bare.yaml").write_text("model: DreamRec\ndataset: toy\n")
    refused(["reproduce", "bare"], "no section `published`", "recbole-gen --paper=bare")
    refused(["reproduce", "--seeds=3"], "--seeds needs the name of a setting: recbole-gen reproduce NAME --seeds=... ")
    refused(["reproduce", "--quick"], "--quick needs the name of a setting: recbole-gen reproduce NAME --quick ")
    refused(["reproduce", "--pages", "--docs=nowhere"], "there are no pages in nowhere")
    refused(["reproduce", "--sedes=3"], "no option --sedes")
    refused(["reproduce", "--epochs=1"], "--epochs needs the name of a setting: recbole-gen reproduce NAME --epochs=")
    refused(["reproduce", "--gamma=1"], "--gamma needs the name of a setting")


def test_the_same_protocol_and_more_cut_offs_may_be_named(line, tmp_path, no_comparison):
    assert cli.main(line("--seeds=1", "--baselines=none", "--protocol=leave_one_out", "--topk=[1, 5, 10, 20]")) == 0
    assert set(read_result(tmp_path / "docs/toy-table.json").own.measured) == {"Hit@5", "NDCG@5"}


def test_orders_of_simultaneous_events_are_part_of_the_error(line, tmp_path, capsys, no_comparison):
    path = tmp_path / "toy/toy.inter"
    log = pd.read_csv(path, sep="\t")
    log["timestamp:float"] //= 4
    log.to_csv(path, sep="\t", index=False)
    assert cli.main(line("--baselines=none", "--tie_orders=3")) == 0
    assert "tie_order: random" in capsys.readouterr().out
    found, runs = read_result(tmp_path / "docs/toy-table.json"), tmp_path / "saved/reproduce/toy-table/runs"
    values = [result(runs / f"DreamRec-2020-ties{seed}")["test_result"]["hit@5"] for seed in (1, 2, 3)]
    measured = found.own.measured["Hit@5"]
    assert measured.ties_sd == pytest.approx(np.std(values, ddof=1)) and measured.ties_sd > 0
    assert measured.error**2 == pytest.approx(measured.users_error**2 + measured.sd**2 + measured.ties_sd**2)
    assert found.changed == [] and len(measured.values) == 2
    assert cli.main(["reproduce", f"--docs={tmp_path / 'docs'}"]) == 0
    assert "done, 2 seeds" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("difference", "error", "word"),
    [(0.011, 0.01, "above"), (0.01, 0.01, "reached"), (-0.01, 0.01, "reached"), (-0.011, 0.01, "below"),
     (0.0, 0.0, "reached"), (-0.001, 0.0, "below"), (0.001, 0.0, "above")],
)  # fmt: skip
def test_verdicts(difference, error, word):
    assert verdict(difference, error) == word


def test_the_error_combines_users_and_seeds():
    found = reproduction({"Hit@5": [0.03, 0.05], "NDCG@5": [0.03, 0.05]}, {"Hit@5": 0.04, "NDCG@5": 0.04}, 0.02)
    error = found.own.measured["Hit@5"].error
    assert error == pytest.approx((0.02**2 + (0.02**2 / 2)) ** 0.5)
    assert overall_verdict(found) == "reached"
    for ndcg, word in ((0.04 - 1.1 * error, "reached"), (0.04 + 1.1 * error, "below")):
        found.published["DreamRec"]["NDCG@5"] = ndcg
        assert overall_verdict(found) == word
    found.published["DreamRec"] = {"Hit@5": 0.0, "NDCG@5": 0.0}
    assert overall_verdict(found) == "above"


def test_the_error_over_users_is_that_of_the_metric():
    draw = np.random.default_rng(0)
    values = draw.random(2000) < 0.1
    assert users_error(values.astype(float), np.ones(2000)) == pytest.approx(values.std(ddof=1) / 2000**0.5)
    rows = draw.integers(1, 9, 2000)
    shares = draw.binomial(rows, 0.1) / rows
    means = []
    for _ in range(2000):
        users = draw.integers(0, 2000, 2000)
        means.append(shares[users] @ rows[users] / rows[users].sum())
    assert users_error(shares, rows) == pytest.approx(np.std(means), rel=0.05)
    assert users_error(np.array([1.0]), np.array([1])) == 0.0


def test_numbers_survive_their_file(tmp_path):
    found = reproduction({"Hit@5": [1 / 3, 0.1]}, {"Hit@5": 0.04}, 0.02)
    write_result(found, tmp_path / "x.json")
    assert read_result(tmp_path / "x.json") == found and read_result(tmp_path / "none.json") is None
    (tmp_path / "x.json").write_text('{"version": 0}')
    with pytest.raises(UserError, match="make it again"):
        read_result(tmp_path / "x.json")


def test_a_command_on_a_page_names_no_place():
    given = ["a-b", "--data_path=/home/me", "--output=/tmp/x", "--docs=d", "--seeds=[1, 2]", "--address=auto"]
    shown = page_command("reproduce", given)
    assert shown == "python run_recbole_gen.py reproduce a-b --data_path=FOLDER '--seeds=[1, 2]'"


def test_committed_pages_are_those_of_their_numbers():
    folder = Path(__file__).parents[2] / "docs/reproduction"
    results = read_results(folder)
    assert (folder / "README.md").read_text(encoding="utf-8") == index_text(results)
    for found in results:
        assert not found.is_quick
        assert found.published == read_paper(found.name).published.rows
        assert (folder / f"{found.name}.md").read_text(encoding="utf-8") == markdown_text(found)
