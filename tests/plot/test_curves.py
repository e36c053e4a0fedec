"""`plot curves`: what is drawn of runs, against what they say of themselves."""

from pathlib import Path

import pytest
from torch.utils.tensorboard import SummaryWriter

from recbole_gen import cli
from recbole_gen.plot import curves, run_selection


@pytest.fixture
def unfinished(tmp_path):
    """A run of three epochs that was stopped and went on: epoch 1 was trained twice, and there is no result.json."""
    folder = tmp_path / "unfinished"
    for first, losses, scores in ((0, (8.0, 7.0), (0.1, 0.9)), (1, (4.0, 2.0), (0.3, 0.2))):
        with SummaryWriter(str(folder), filename_suffix=f".{first}") as events:
            for epoch, (loss, score) in enumerate(zip(losses, scores, strict=True), start=first):
                events.add_scalar("train/mse", loss, epoch)
                events.add_scalar("train/ranking", 1.0, epoch)
                events.add_scalar("train/learning_rate", 0.5, epoch)
                events.add_scalar("valid/ndcg@10", score, epoch)
                events.add_scalar("valid/rmse", 10 * score, epoch)
    lines = ["model: DiffRec", "dataset: toy  # command line", "protocol: ~", "seed: 1", "valid_metric: NDCG@10"]
    (folder / "config.yaml").write_text("\n".join(lines))
    return folder


def test_losses_and_best_epoch_are_those_of_the_result(run):
    result = run("SASRec", epochs=3, learning_rate=0.01)
    (curve,) = curves.read_curves(run_selection.find_runs([Path(result["run_dir"])], finished=False), "ndcg@10")
    assert curve.label == "SASRec" and curve.finished
    assert list(curve.loss.values()) == pytest.approx(result["train_loss"]) and list(curve.loss) == [1, 2, 3]
    assert curve.best_epoch == result["best_epoch"] + 1
    assert curve.scores[curve.best_epoch] == pytest.approx(result["best_valid_score"])


def test_without_events_the_result_says_the_loss_and_the_best_epoch(run):
    result = run("SASRec", tensorboard=False)
    (curve,) = curves.read_curves(run_selection.find_runs([Path(result["run_dir"])], finished=False), "hit@5")
    assert curve.loss == dict(enumerate(result["train_loss"], start=1))
    assert curve.scores == {result["best_epoch"] + 1: result["best_valid_result"]["hit@5"]}


def test_a_run_that_has_not_ended_is_drawn_from_its_events(unfinished, capsys):
    found = run_selection.find_runs([unfinished.parent], finished=False)
    (curve,) = curves.read_curves(found, "ndcg@10")
    assert curve.loss == {1: 9.0, 2: 5.0, 3: 3.0}  # the sum of both terms, the second epoch as trained the second time
    assert curve.scores == pytest.approx({1: 0.1, 2: 0.3, 3: 0.2})
    assert curve.best_epoch == 2 and not curve.finished
    assert curves.read_curves(found, "rmse", "mse")[0].loss == {1: 8.0, 2: 4.0, 3: 2.0}
    assert cli.main(["plot", "curves", f"--run={unfinished}"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[2].split() == ["DiffRec", "3", "no", "2", "0.3000", "3.0000"]
    first = [(unfinished / f"curves.{suffix}").read_bytes() for suffix in ("png", "svg")]
    assert cli.main(["plot", "curves", f"--run={unfinished}"]) == 0
    assert [(unfinished / f"curves.{suffix}").read_bytes() for suffix in ("png", "svg")] == first


def test_where_small_is_good_the_best_epoch_has_the_smallest_value(unfinished):
    path = unfinished / "config.yaml"
    path.write_text(path.read_text().replace("NDCG@10", "RMSE"))
    (curve,) = curves.read_curves(run_selection.find_runs([unfinished], finished=False), "ndcg@10")
    assert curve.best_epoch == 1


def test_the_figure_has_a_line_for_each_run_and_stars_at_the_best_epochs():
    drawn = [
        curves.Curve("a", {1: 300.0, 2: 4.0}, {1: 0.1, 2: 0.2}, 2, True),
        curves.Curve("b", {1: 5.0}, {1: 0.3}, None, False),
        curves.Curve("c", {}, {1: 0.4}, 1, True),
    ]
    left, right = curves.draw_curves(drawn, "ndcg@10").axes
    assert [line.get_xydata().tolist() for line in left.lines] == [[[1, 300], [2, 4]], [[1, 5]], []]
    assert left.get_yscale() == "log" and "sum over batches" in left.get_ylabel()
    stars = [each.get_offsets().tolist() for each in right.collections if len(each.get_offsets())]
    assert stars == [[[2, 0.2]], [[1, 0.4]]]


@pytest.mark.parametrize(
    "given, message",
    [
        (["--metric=ndgc@10"], "no run has the validation metric 'ndgc@10'; did you mean ndcg@10.* ndcg@10, rmse"),
        (["--loss=msee"], "no run has the term 'msee' of a loss; did you mean mse.* mse, ranking"),
        (["--output=."], "the figure . cannot be written"),
    ],
)
def test_bad_input_is_one_message(unfinished, given, message, refused):
    refused(["plot", "curves", f"--run={unfinished}", *given], message)


def test_a_folder_of_something_else_is_refused(unfinished, refused):
    (unfinished / "config.yaml").write_text("lr: 1")
    refused(
        ["plot", "curves", f"--run={unfinished}"], "no run in .*unfinished.* TensorBoard events beside a config.yaml"
    )
