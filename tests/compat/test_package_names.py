"""What a person imports from the package, and what users of RecBole look for in it."""

import importlib

import pytest

import recbole_gen
from recbole_gen import quick_start
from recbole_gen.errors import UserError


def test_the_face_hands_out_what_its_stub_says():
    from recbole_gen import Config, Recommender, init_seed, load, run

    assert (run, load) == (quick_start.run, quick_start.load)
    assert Recommender.__module__ == "recbole_gen.recommending.recommender"
    assert Config.__module__ == "recbole_gen.config.config"
    assert init_seed.__module__ == "recbole.utils.utils"
    assert set(recbole_gen.__all__) <= set(dir(recbole_gen))
    for name in recbole_gen.__all__:
        assert getattr(recbole_gen, name) is not None


@pytest.mark.parametrize("name", sorted(recbole_gen._INSTEAD))
def test_what_is_not_there_says_in_one_line_what_is(name):
    with pytest.raises(ImportError, match=f"^recbole_gen has no {name}: .*(run|load|Recommender|tune|Config)") as told:
        exec(f"from recbole_gen import {name}")
    assert "\n" not in str(told.value)


def test_quick_start_has_the_functions_of_recbole_s():
    from recbole_gen.quick_start import load_data_and_model, run_recbole

    assert (run_recbole, load_data_and_model) == (recbole_gen.run_recbole, recbole_gen.load_data_and_model)
    assert not hasattr(quick_start, "nosuch")


def test_any_other_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nosuch'"):
        _ = recbole_gen.nosuch
    assert not hasattr(recbole_gen, "nosuch")
    with pytest.raises(ImportError):
        importlib.import_module("recbole_gen.nosuch")


@pytest.fixture
def toy(write_atomic, tmp_path, one_thread):
    """The configuration of a run of seconds."""
    rows = [(f"u{u}", f"i{(u + 3 * t) % 11}", float(t)) for u in range(8) for t in range(6)]
    users, items, times = zip(*rows)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    return {
        "data_path": str(tmp_path), "checkpoint_dir": str(tmp_path / "runs"), "use_gpu": False, "epochs": 1,
        "hidden_size": 8, "inner_size": 8, "topk": [3], "valid_metric": "NDCG@3", "show_progress": False,
        "tensorboard": False,
    }  # fmt: skip


def test_run_recbole_returns_what_recbole_returns_and_the_run_can_be_loaded(toy, tmp_path):
    import numpy as np
    from recbole.utils.case_study import full_sort_topk

    told = []
    result = recbole_gen.run_recbole("SASRec", "toy", config_dict=toy, queue=type("", (), {"put": told.append}))
    keys = {"best_valid_score", "valid_score_bigger", "best_valid_result", "test_result", "run_dir"}
    assert result.keys() == keys and told == [result] and result["valid_score_bigger"] is True
    folder = result["run_dir"]
    config, model, data, train, valid, test = recbole_gen.load_data_and_model(f"{folder}/best.pth")
    assert (config["model"], type(model).__name__, model.training) == ("SASRec", "SASRec", False)
    assert set(data.field2id_token["item_id"]) == {"[PAD]", *(f"i{n}" for n in range(11))}
    assert len(train) and len(valid) and len(test)
    # RecBole's case study takes what comes back: the same items as the model ranks for the row of that user.
    user = data.token2id("user_id", "u3")
    interaction = next(batch for batch, *_ in test)
    scores = model.full_sort_predict(interaction).detach()
    scores[:, 0] = -np.inf
    wanted = scores[(interaction["user_id"] == user).nonzero()[0]].topk(4).indices
    assert full_sort_topk(np.array([user]), model, test, 4)[1].tolist() == wanted.tolist()

    assert recbole_gen.load_data_and_model(folder)[0]["model"] == "SASRec"
    with pytest.raises(UserError, match=r"last\.pth is not the best epoch"):
        recbole_gen.load_data_and_model(f"{folder}/last.pth")


def test_run_recbole_without_saving_leaves_nothing(toy, tmp_path):
    before = set(tmp_path.iterdir())
    result = recbole_gen.run_recbole("SASRec", "toy", config_dict=toy, saved=False)
    assert result["run_dir"] is None and result["test_result"]
    assert set(tmp_path.iterdir()) == before
