"""A protocol that leaves nothing to train on is one message, whatever `train_pairs` keeps."""

import pytest

from recbole_gen import cli


@pytest.fixture
def short(write_atomic, tmp_path):
    """12 users with two events each, all at one time but the last ones: a cut by time has nothing before it."""
    users = [f"u{number // 2}" for number in range(24)]
    items = [f"i{(number * 7) % 9}" for number in range(24)]
    times = [5] * 21 + [6, 7, 7]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    return [
        f"--data_path={tmp_path}",
        "--dataset=toy",
        "--protocol=time_811",
        f"--checkpoint_dir={tmp_path / 'saved'}",
        "--use_gpu=False",
    ]


@pytest.mark.parametrize("pairs", ["all", "last", "window"])
@pytest.mark.parametrize("model", ["SASRec", "DreamRec"])
def test_an_empty_training_part_is_told_before_training(model, pairs, short, capsys):
    assert cli.main([f"--model={model}", *short, f"--train_pairs={pairs}", "--epochs=1"]) == 2
    said = capsys.readouterr().err
    assert said.count("error: ") == 1 and "the training split is empty" in said and "Traceback" not in said
