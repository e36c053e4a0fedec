"""`plot tsne`: which vectors are drawn, in which colours, and that the picture is the same every time."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_gen import checkpoint, cli, quick_start
from recbole_gen.plot import tsne


def test_vectors_are_the_item_table_and_counts_those_of_the_training_log(run, tmp_path):
    folder = run("SASRec", epochs=1)["run_dir"]
    loaded = quick_start.load(folder)
    vectors, counts = tsne.item_vectors_and_counts(loaded)
    stored = checkpoint.load(Path(folder) / "best.pth")["state_dict"]["item_embedding.weight"]
    assert stored.shape[0] == len(vectors) + 1  # the padding row
    np.testing.assert_array_equal(vectors, stored[1:])
    log = pd.read_csv(tmp_path / "toy/toy.inter", sep="\t")
    training = log[log["timestamp:float"] % 100 < 9]  # leave_one_out holds out the last two of eleven
    expected = training["item_id:token"].value_counts()
    tokens = loaded.train._dataset.id2token("item_id", np.arange(1, len(counts) + 1))
    assert counts.tolist() == [expected.get(token, 0) for token in tokens]


def test_far_groups_stay_apart_and_the_same_seed_gives_the_same_places():
    draw = np.random.default_rng(0)
    vectors = np.concatenate([draw.normal(size=(30, 8)), 50 + draw.normal(size=(30, 8))]).astype(np.float32)
    places, divergence = tsne.tsne_embedding(vectors, seed=1)
    one, other = places[:30], places[30:]
    between = np.linalg.norm(one[:, None] - other[None], axis=-1).min()
    within = np.linalg.norm(one[:, None] - one[None], axis=-1)
    assert between > np.median(within) and divergence > 0
    again, same = tsne.tsne_embedding(vectors, seed=1)
    np.testing.assert_array_equal(again, places)
    assert same == divergence


def test_a_sample_is_the_same_for_every_run():
    assert tsne.sample_items(5, 5, seed=1).tolist() == [0, 1, 2, 3, 4]
    chosen = tsne.sample_items(1000, 100, seed=1)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()
    again, other = tsne.sample_items(1000, 100, seed=1), tsne.sample_items(1000, 100, seed=2)
    assert chosen.tolist() == again.tolist() != other.tolist()


def test_untrained_items_are_crosses_and_colours_have_one_scale():
    places = np.arange(12.0).reshape(6, 2)
    maps = [
        tsne.ItemMap("a", places, np.array([100, 0, 1, 10, 0, 5]), 6, 1.0),
        tsne.ItemMap("b", places, np.array([1, 2, 3, 4, 5, 6]), 60, 2.0),
    ]
    figure = tsne.draw_maps(maps, "toy")
    left, right = figure.axes[:2]
    points, crosses = left.collections[:2]
    assert points.get_array().tolist() == [1, 5, 10, 100]  # the popular ones on top
    assert points.get_offsets().tolist() == [[4, 5], [10, 11], [6, 7], [0, 1]]
    assert crosses.get_offsets().tolist() == [[2, 3], [8, 9]]
    assert [each.collections[0].norm.vmax for each in (left, right)] == [100, 100]
    assert left.get_xlabel().startswith("6 items") and right.get_xlabel().startswith("6 of 60 items")


def test_the_command_draws_models_side_by_side(run, tmp_path, capsys):
    folders = [run(model, epochs=1)["run_dir"] for model in ("SASRec", "DreamRec")]
    line = ["plot", "tsne", f"--runs={' '.join(folders)}", f"--output={tmp_path}/figure", "--max_items=35"]
    assert cli.main(line) == 0
    rows = capsys.readouterr().out.splitlines()[-3:]
    assert [row.split()[:3] for row in rows[:2]] == [["SASRec", "35", "40"], ["DreamRec", "35", "40"]]
    written = [(tmp_path / f"figure.{suffix}").read_bytes() for suffix in ("png", "svg")]
    assert b"35 of 40 items" in written[1] and b"t-SNE of item embeddings, toy, leave_one_out" in written[1]
    assert cli.main(line) == 0
    assert [(tmp_path / f"figure.{suffix}").read_bytes() for suffix in ("png", "svg")] == written


def test_a_model_without_item_vectors_is_refused(run, refused, capsys):
    folder = run("Pop")["run_dir"]
    capsys.readouterr()  # the run's log
    refused(["plot", "tsne", f"--run={folder}"], "Pop has no table of item vectors")


def test_vectors_that_cannot_be_drawn_are_refused():
    with pytest.raises(ValueError, match="more than 30 items, x has 30"):
        tsne.tsne_embedding(np.eye(30, dtype=np.float32), 1, "x")
    with pytest.raises(ValueError, match="vectors of x are all the same"):
        tsne.tsne_embedding(torch.ones(50, 4).numpy(), 1, "x")


@pytest.mark.parametrize(
    "given, message", [("--max_items=30", "--max_items must be a whole number from 31 on"), ("--seed=x", "--seed must")]
)
def test_bad_input_is_one_message(given, message, refused):
    refused(["plot", "tsne", "--run=x", given], message)
