"""`plot sweep` on runs whose results are written down by hand, and how runs are found and told apart."""

import json

import pytest
from torch.utils.tensorboard import SummaryWriter

from recbole_gen import cli
from recbole_gen.plot import run_selection, sweep

CONFIG = {
    "model": "DreamRec", "dataset": "toy", "protocol": "leave_one_out", "seed": 1, "guidance_scale": 0, "epochs": 5,
    "valid_metric": "NDCG@10", "checkpoint_dir": "saved", "oracle": "sample", "loss": {"kind": "a"},
}  # fmt: skip


@pytest.fixture
def write(tmp_path):
    """write(ndcg, folder, **settings) leaves a finished run with this ndcg@10 on test, and half of it on valid."""

    def leave(ndcg, folder="sweep", tested=True, **values):
        place = tmp_path / folder / f"run{len(list(tmp_path.rglob('result.json'))):03}"
        place.mkdir(parents=True)
        config = {**CONFIG, **values}
        test = {"ndcg@10": ndcg, "hit@10": 2 * ndcg} if tested else None
        result = {"model": config["model"], "config": config, "test_result": test, "best_epoch": 1, "train_loss": [2.0]}
        result["best_valid_result"] = {"ndcg@10": ndcg / 2}
        (place / "result.json").write_text(json.dumps(result))
        return place

    return leave


@pytest.fixture
def swept(write, tmp_path):
    """Three strengths of guidance, two seeds each: means 0.2, 0.4 and 0.3, deviations 0.1 times the root of 2."""
    for w, mean in ((4.0, 0.3), (0.0, 0.2), (2.0, 0.4)):
        for seed, step in ((1, -0.1), (2, 0.1)):
            write(mean + step, guidance_scale=w, seed=seed, checkpoint_dir=f"saved{seed}")
    return tmp_path / "sweep"


def test_points_are_means_over_seeds_with_their_deviation(swept, capsys):
    assert cli.main(["plot", "sweep", f"--run={swept}", "--key=guidance_scale"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines() if line.startswith("DreamRec")]
    assert [line[1:6] for line in lines] == [
        ["0", "ndcg@10", "0.2000", "0.1414", "2"],
        ["2", "ndcg@10", "0.4000", "0.1414", "2"],
        ["4", "ndcg@10", "0.3000", "0.1414", "2"],
    ]
    assert [line[6:] for line in lines] == [[], ["*"], []]
    assert (swept / "sweep.guidance_scale.png").exists()
    text = (swept / "sweep.guidance_scale.svg").read_text()
    assert all(word in text for word in ("guidance_scale", "ndcg@10, test, mean over seeds", "toy, leave_one_out"))
    assert cli.main(["plot", "sweep", f"--run={swept}", "--key=guidance_scale"]) == 0
    assert (swept / "sweep.guidance_scale.svg").read_text() == text


def test_the_figure_has_these_points_bars_and_rings(swept):
    found = run_selection.find_runs([swept])
    panels = {name: sweep.read_lines(found, "guidance_scale", name, "test") for name in ("ndcg@10", "hit@10")}
    figure = sweep.draw_lines(panels, "guidance_scale", "test")
    left, right = figure.axes
    (bars,) = left.containers
    assert bars.lines[0].get_xdata().tolist() == [0, 2, 4]
    assert bars.lines[0].get_ydata() == pytest.approx([0.2, 0.4, 0.3])
    low, high = bars.lines[2][0].get_segments()[1][:, 1]
    assert (low, high) == pytest.approx((0.4 - 0.1 * 2**0.5, 0.4 + 0.1 * 2**0.5))
    assert left.collections[-2].get_offsets()[0].tolist() == pytest.approx([2, 0.4])
    assert right.containers[0].lines[0].get_ydata() == pytest.approx([0.4, 0.8, 0.6])
    assert [tick.get_text() for tick in left.get_xticklabels()] == ["0", "2", "4"]


def test_an_error_is_best_where_it_is_smallest():
    line = sweep.Line("x", [(1, [3.0]), (2, [1.0, 2.0]), (3, [9.0])])
    assert line.best(smaller=False) == 2 and line.best(smaller=True) == 1
    assert run_selection.smaller_is_better("rmse") and run_selection.smaller_is_better("giniindex@10")
    assert not run_selection.smaller_is_better("scene_recall@5")


def test_lines_are_models_data_sets_and_the_values_of_a_group(swept, write):
    for w, ndcg in ((0.0, 0.7), (2.0, 0.6)):
        write(ndcg, dataset="other", guidance_scale=w)
    lines = sweep.read_lines(run_selection.find_runs([swept]), "guidance_scale", "ndcg@10", "test")
    assert [(line.label, [x for x, _ in line.points]) for line in lines] == [
        ("DreamRec, toy", [0, 2, 4]), ("DreamRec, other", [0, 2]),
    ]  # fmt: skip
    toy = sweep.select_runs(run_selection.find_runs([swept]), {"dataset": "toy", "guidance_scale": [0, 4]})
    lines = sweep.read_lines(toy, "guidance_scale", "ndcg@10", "test", group="seed")
    assert {line.label: [values for _, values in line.points] for line in lines} == {
        "DreamRec, seed=1": [[pytest.approx(0.1)], [pytest.approx(0.2)]],
        "DreamRec, seed=2": [[pytest.approx(0.3)], [pytest.approx(0.4)]],
    }
    (line,) = sweep.read_lines(
        run_selection.find_runs([swept]), "dataset", "ndcg@10", "test", ignore=["guidance_scale"]
    )
    assert [x for x, _ in line.points] == ["other", "toy"]


def test_runs_that_differ_in_more_are_refused_until_told_apart(swept, write, refused, capsys):
    write(0.9, guidance_scale=2.0, oracle="mean", epochs=None)
    line = ["plot", "sweep", f"--run={swept}", "--key=guidance_scale"]
    refused(
        line, r"also in epochs \(5, none\); oracle \(sample, mean\)", "--where=", "--group=epochs", "--ignore=epochs"
    )
    refused(
        [*line, "--group=oracle", "--where={epochs: 7}"], "no run has epochs: 7; the runs that are left have 5, none"
    )
    assert cli.main([*line, "--where={epochs: none}", "--key=guidance_scale"]) == 2
    capsys.readouterr()
    assert cli.main([*line, "--where={oracle: sample}"]) == 0
    assert cli.main([*line, "--ignore=oracle epochs"]) == 0
    assert "0.5667" in capsys.readouterr().out  # (0.3 + 0.5 + 0.9) / 3


def test_words_are_categories_and_stand_side_by_side(write, tmp_path):
    for ndcg, oracle in ((0.1, "sample"), (0.3, "mean"), (0.2, None)):
        for dataset in ("toy", "other"):
            write(ndcg, oracle=oracle, dataset=dataset)
    lines = sweep.read_lines(run_selection.find_runs([tmp_path]), "oracle", "ndcg@10", "test")
    axes = sweep.draw_lines({"ndcg@10": lines}, "oracle", "test").axes[0]
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["mean", "none", "sample"]
    drawn = [bars.lines[0].get_xdata().tolist() for bars in axes.containers]
    assert drawn == [[-0.125, 0.875, 1.875], [0.125, 1.125, 2.125]]


@pytest.mark.parametrize(
    "values, scale",
    [
        ([0, 2, 4, 6, 8, 10], "linear"),
        ([0.1, 0.3, 0.5, 0.7, 0.9], "linear"),
        ([1, 5, 10, 15, 20], "linear"),
        ([10, 100, 1000], "log"),
        ([10, 50, 100, 200, 500, 1000, 1500, 2000], "log"),
        ([1e-4, 1e-2], "log"),
        ([1, 20], "linear"),
        ([0, 1e-4, 1e-3, 1e-2], "symlog"),
        ([-100, 1, 10, 100], "linear"),
    ],
)
def test_the_axis_follows_the_spread_of_the_values(values, scale):
    assert sweep.axis_scale(values) == scale


def test_trials_without_a_test_are_drawn_by_their_validation(write, tmp_path, refused, capsys):
    for w in (0.0, 2.0):
        write(0.4 + w / 10, guidance_scale=w, tested=False)
    (tmp_path / "sweep/ray").mkdir()
    (tmp_path / "sweep/ray/result.json").write_text('{"trial": 1}\n{"trial": 1}\n')  # Ray's, a line for each report
    line = ["plot", "sweep", f"--run={tmp_path}", "--key=guidance_scale"]
    refused(line, "none of 2 runs was tested", "use --part=valid")
    assert cli.main([*line, "--part=valid"]) == 0
    assert "0.2000" in capsys.readouterr().out
    write(0.9, guidance_scale=0.0), write(0.8, guidance_scale=1.0)
    assert cli.main(line) == 0
    assert "2 of 4 runs have no test result and are left out" in capsys.readouterr().out


@pytest.mark.parametrize(
    "given, message",
    [
        (["--key=guidance_scal"], "no run has a setting 'guidance_scal'; did you mean guidance_scale"),
        (["--key=epochs", "--ignore=guidance_scale"], r"have the same epochs \(5\): a figure over epochs needs two"),
        (
            ["--key=guidance_scale", "--metric=ndgc@10"],
            "the test metric 'ndgc@10'; did you mean ndcg@10.*: ndcg@10, hit@10",
        ),
        (["--key=guidance_scale", "--part=train"], "--part must be test or valid"),
        (["--key=guidance_scale", "--where=toy"], "--where must be settings"),
        (["--key=guidance_scale", "--where={datset: toy}"], "no run has a setting 'datset'; did you mean dataset"),
        (["--key=guidance_scale", "--output=w.pdf"], "ends in .png or .svg"),
    ],
)
def test_bad_input_is_one_message(swept, given, message, refused):
    refused(["plot", "sweep", f"--run={swept}", *given], message)


def test_a_folder_without_runs_is_refused(tmp_path, swept, refused):
    (tmp_path / "empty").mkdir()
    refused(["plot", "sweep", f"--runs={swept} {tmp_path}/empty", "--key=seed"], "there is no run in .*empty")


def test_runs_are_told_apart_by_what_differs(write, tmp_path):
    write(0.1, model="my.module:MyModel")
    write(0.1, seed=1), write(0.1, seed=2, loss={"kind": "b"}, num_threads=4)
    write(0.1, model="SASRec"), write(0.1, model="SASRec")
    write(0.1, model="GRU4Rec", loss={"kind": "a"}), write(0.1, model="GRU4Rec", loss={"kind": "b"})
    write(0.1, model="BPR", epochs=1, oracle="a", guidance_scale=1, seed=1), write(0.1, model="BPR", seed=2)
    assert run_selection.run_labels(run_selection.find_runs([tmp_path])) == [
        "MyModel", "DreamRec, seed=1", "DreamRec, seed=2", "SASRec, run003", "SASRec, run004",
        "GRU4Rec, loss={'kind': 'a'}", "GRU4Rec, loss={'kind': 'b'}", "BPR, run007", "BPR, run008",
    ]  # fmt: skip


def test_each_run_is_found_once_and_a_star_names_many(swept, write, tmp_path):
    write(0.1, folder="other")
    options = {"runs": f"{tmp_path}/sw* {swept} {tmp_path}/other", "run": None}
    folders = run_selection.run_folders(options, "sweep")
    assert folders == [swept, tmp_path / "other"]
    assert [run.folder.name for run in run_selection.find_runs([*folders, tmp_path])] == [
        f"run{n:03}" for n in range(7)
    ]


@pytest.fixture
def write_trial(tmp_path):
    """write_trial(status, ndcg, **settings) leaves a trial of a sweep without result.json: best in its second epoch."""

    def leave(status, ndcg, **values):
        place = tmp_path / "sweep" / "trials" / f"{len(list(tmp_path.rglob('trial.json'))):04}"
        place.mkdir(parents=True)
        (place / "trial.json").write_text(json.dumps({"number": 0, "params": {}, "status": status}))
        (place / "config.yaml").write_text(json.dumps({**CONFIG, **values, "metric_decimal_place": 4}))
        lines = [{"epoch": 2, "score": ndcg, "best_epoch": 2}, {"epoch": 3, "score": ndcg, "best_epoch": 2}]
        (place / "epochs.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        with SummaryWriter(place) as events:
            for step, hit in enumerate((0.5, 0.123456, 0.9)):  # steps from 0, as the trainer counts
                events.add_scalar("valid/hit@10", hit, step)
        return place

    return leave


def test_trials_that_were_ended_early_are_drawn_by_their_validation(write, write_trial, tmp_path, capsys):
    write(0.8, guidance_scale=3.0, resume="trials/0007/last.pth")
    write_trial("pruned", 0.3, guidance_scale=1.0), write_trial("pruned", 0.1, guidance_scale=0.0)
    write_trial("failed", 0.9, guidance_scale=5.0), write_trial("open", 0.9, guidance_scale=6.0)
    call = ["plot", "sweep", f"--run={tmp_path}", "--key=guidance_scale"]
    assert cli.main([*call, "--part=valid", "--metric=ndcg@10"]) == 0
    out = capsys.readouterr().out
    rows = [line.split() for line in out.splitlines() if line.startswith("DreamRec")]
    assert [(row[1], row[3]) for row in rows] == [("0", "0.1000"), ("1", "0.3000"), ("3", "0.4000")]
    assert "2 of 4 trials are left out: 1 failed, 1 open" in out
    assert cli.main(call) == 2  # of the three only one is tested
    assert "2 of 3 runs have no test result" in (said := capsys.readouterr().out) and "--part=valid" in said


def test_a_pruned_trial_has_all_metrics_of_its_best_epoch(write_trial, tmp_path):
    write_trial("pruned", 0.3)
    (run,) = run_selection.find_runs([tmp_path], pruned=True)
    assert run.result["best_valid_result"] == {"hit@10": 0.1235, "ndcg@10": 0.3}
    assert run.result["test_result"] is None


@pytest.mark.parametrize("text", ["", "{", "[]\n", '{"epoch": 1}\n'])
def test_a_pruned_trial_with_a_damaged_curve_is_named(text, write_trial, tmp_path, capsys):
    (write_trial("pruned", 0.3) / "epochs.jsonl").write_text(text)
    assert cli.main(["plot", "sweep", f"--run={tmp_path}", "--key=guidance_scale"]) == 2
    assert "epochs.jsonl cannot be read" in capsys.readouterr().err


@pytest.mark.parametrize("figure", [["sweep", "--key=seed"], ["curves"]])
def test_a_damaged_result_is_named_and_not_passed_over(figure, write, tmp_path, capsys):
    write(0.4)
    place = write(0.3, seed=2)
    (place / "config.yaml").write_text(json.dumps(CONFIG))
    (place / "result.json").write_text('{"model": "Dre')
    assert cli.main(["plot", *figure, f"--run={tmp_path}"]) == 2
    assert f"{place / 'result.json'} is damaged" in capsys.readouterr().err
