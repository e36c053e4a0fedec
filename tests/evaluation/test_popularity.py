"""One name, one number: Pop as a model, and the line `Pop` of every result."""

import random

import pytest

from recbole_gen.quick_start import run

COMMON = {
    "dataset": "toy", "epochs": 1, "use_gpu": False, "show_progress": False, "state": "ERROR", "tensorboard": False,
    "num_threads": 1, "MAX_ITEM_LIST_LENGTH": 3, "load_col": None,
}  # fmt: skip
SMALL = {"hidden_size": 8, "inner_size": 8, "n_layers": 1}


@pytest.fixture
def split_files(write_atomic):
    """A line a user; items 11 to 20 are in histories only, and most of the events are."""
    draw = random.Random(3)
    for part, users in (("train", range(40)), ("valid", range(40, 50)), ("test", range(50, 70))):
        columns: dict[str, list] = {"user_id:token": [], "item_id_list:token_seq": [], "item_id:token": []}
        for user in users:
            history = [draw.randint(1, 20) for _ in range(draw.randint(1, 8))]
            for values, value in zip(columns.values(), (f"u{user}", history, draw.randint(1, 10)), strict=True):
                values.append(value)
        write_atomic(columns, suffix=f"{part}.inter")


@pytest.mark.parametrize("files", ["benchmark", "leave_one_out"])
def test_pop_is_the_line_of_every_model(files, split_files, walks, tmp_path):
    given = {**COMMON, "protocol": files, "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved")}
    given["mask_seen"] = False
    pop = run("Pop", config_dict=given)
    sequential = run("SASRec", config_dict={**given, **SMALL})
    general = run("ItemKNN", config_dict=given)
    assert pop["test_result"] == sequential["diagnostics"]["pop"] == general["diagnostics"]["pop"]
    assert max(pop["test_result"].values()) > 0
    trained = [result["diagnostics"]["trained_items_only"] for result in (pop, sequential, general)]
    assert len({(each["rows"], str(each["pop"])) for each in trained}) == 1


def test_pop_counts_alike_whatever_the_batches_and_however_often(split_files, tmp_path):
    given = {**COMMON, "protocol": "benchmark", "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "saved")}
    first = run("Pop", config_dict=given)
    other = run("Pop", config_dict={**given, "train_batch_size": 7, "epochs": 3})
    assert first["test_result"] == other["test_result"]
    again = run(config_dict={"resume": first["run_dir"]})
    assert again["test_result"] == first["test_result"]
