"""Items that training has never seen are found by their vectors, where the model's table is made of given ones."""

import json
import random

import numpy as np
import pytest

from recbole_gen import quick_start

ITEMS = 40


@pytest.fixture
def ring(write_atomic, tmp_path):
    """Data set `toy`: 200 users walk round a ring of items, nine out of ten steps to the next; and the file of the
    items' vectors, waves round the ring: those of an item that nobody has met say where it is."""
    draw = random.Random(0)
    users, items, times = [], [], []
    for user in range(200):
        item = draw.randrange(ITEMS)
        for step in range(8):
            users.append(f"u{user}"), items.append(f"i{item}"), times.append(100 * user + step)
            item = (item + 1) % ITEMS if draw.random() < 0.9 else draw.randrange(ITEMS)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    angles = np.outer(np.arange(ITEMS), np.arange(1, 9)) * 2 * np.pi / ITEMS
    np.save(tmp_path / "waves.npy", np.hstack([np.cos(angles), np.sin(angles)]).astype(np.float32) * 2**0.5)
    (tmp_path / "waves.json").write_text(json.dumps([f"i{n}" for n in range(ITEMS)]))
    return tmp_path / "waves.npy"


@pytest.fixture
def cold_hits(ring, tmp_path):
    """cold_hits(model, **values) -> hit@5 of the cold targets, of which there are 42 of 200."""

    def found(model, **values):
        small = {
            "SASRec": {"inner_size": 32, "n_heads": 1}, "BERT4Rec": {"inner_size": 32, "n_heads": 1},
            "DiffRec": {"inner_size": 16, "timesteps": 20, "n_seeds": 2},
        }.get(model, {"timesteps": 20, "ddim_stride": 5})  # fmt: skip
        common = {
            "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved"), "load_col": None, "use_gpu": False,
            "num_threads": 1, "epochs": 4, "train_batch_size": 64, "show_progress": False, "tensorboard": False,
            "MAX_ITEM_LIST_LENGTH": 4, "hidden_size": 16, "learning_rate": 0.01, "topk": [5], "valid_metric": "NDCG@5",
            "cold_items": 0.2, "item_vectors": str(ring), "item_vectors_use": "frozen",
        }  # fmt: skip
        result = quick_start.run(model, "toy", config_dict={**common, **small, **values}, quiet=True)
        cold = result["diagnostics"]["cold_targets"]
        assert cold["rows"] == 42
        return cold["hit@5"]

    return found


@pytest.mark.parametrize(
    ("model", "values"),
    [("SASRec", {}), ("SASRec", {"item_vectors_use": "adaptor"}), ("DreamRec", {})],
)
def test_cold_targets_are_found_by_given_vectors(cold_hits, model, values, caplog):
    assert cold_hits(model, **values) > 0.5  # by chance 0.125
    assert "nothing has trained" not in caplog.text


def test_vectors_that_learn_leave_cold_items_behind_and_that_is_told(cold_hits, caplog):
    told = "the 8 cold items keep vectors that nothing has trained"
    assert cold_hits("SASRec", item_vectors=None, item_vectors_use="init", epochs=2) < 0.25
    assert told in caplog.text
    caplog.clear()
    cold_hits("SASRec", item_vectors_use="init", epochs=1)
    assert told in caplog.text


def test_scores_of_an_output_layer_know_no_given_vector_and_that_is_told(cold_hits, caplog):
    cold_hits("DiffRec", epochs=1, tie_weights=False)
    assert "DiffRec scores items by weights of its own, output.weight" in caplog.text


@pytest.mark.parametrize(
    ("model", "values", "bias"),
    [
        ("DiffRec", {"tie_weights": True}, "output.bias"),
        ("BERT4Rec", {}, "output_bias"),
    ],
)
def test_a_number_of_each_item_beside_its_vector_is_told(cold_hits, caplog, model, values, bias):
    cold_hits(model, epochs=1, **values)
    told = f"{model} learns a number for each item beside its vector, {bias}: those of the 8 cold items stay"
    assert told in caplog.text
    caplog.clear()
    cold_hits("SASRec", epochs=1)
    assert "a number for each item" not in caplog.text
