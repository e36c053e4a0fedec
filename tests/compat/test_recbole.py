"""RecBole's own run_recbole, trainers and load_data_and_model, on the current stack."""

import logging
import pickle
import sys
import warnings

import pytest
import torch
from recbole.config import Config
from recbole.quick_start import load_data_and_model, objective_function, run_recbole
from recbole.utils import get_trainer

import recbole_gen
from recbole_gen import checkpoint
from recbole_gen.checkpoint import CheckpointError

SMALL = {
    "epochs": 1, "use_gpu": False, "state": "ERROR", "show_progress": False, "embedding_size": 8, "hidden_size": 8,
    "inner_size": 8, "n_layers": 1, "MAX_ITEM_LIST_LENGTH": 5, "train_batch_size": 4096, "eval_batch_size": 4096,
    "metrics": ["Recall", "NDCG"], "topk": [3], "valid_metric": "NDCG@3",
}  # fmt: skip
CE = {"train_neg_sample_args": None}


@pytest.fixture(autouse=True)
def in_a_folder_of_its_own(tmp_path, monkeypatch, one_thread):
    """RecBole writes log/, log_tensorboard/ and saved/ where it is, reads the arguments of the process, and takes the
    root logger for itself."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["test"])
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(handlers):
        handler.close()
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def settings(write_atomic, tmp_path):
    rows = [(f"u{u}", f"i{(u + 3 * t) % 11}", float(t), "ab"[(u + t) % 2]) for u in range(20) for t in range(8)]
    users, items, times, _ = zip(*rows)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times})
    write_atomic({"item_id:token": [f"i{n}" for n in range(11)], "class:token": list("abababababa")}, suffix="item")
    return {
        **SMALL, "data_path": str(tmp_path), "selected_features": ["class"],
        "load_col": {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "class"]},
    }  # fmt: skip


def only_checkpoint(tmp_path):
    (path,) = (tmp_path / "saved").glob("*.pth")
    return path


@pytest.mark.parametrize(
    ("model", "more"),
    [("BPR", {}), ("LightGCN", {}), ("Pop", {}), ("ItemKNN", {"k": 3}), ("SASRec", CE), ("FDSA", CE), ("NeuMF", {})],
)
def test_run_recbole_reads_back_what_it_has_written(model, more, settings, tmp_path):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*torch.cuda.amp")
        result = run_recbole(model, "toy", config_dict={**settings, **more})
    path = only_checkpoint(tmp_path)
    content = torch.load(path, weights_only=True)
    assert content["format"] == checkpoint.RECBOLE_FORMAT and content["config"]["model"] == model
    config, loaded, data, train, valid, test = load_data_and_model(str(path))
    assert type(config) is Config and config["MODEL_TYPE"] is loaded.type
    assert config["device"] == torch.device("cpu") and config["data_path"].endswith("toy")
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, loaded)
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
    assert trainer.evaluate(valid, model_file=path) == result["best_valid_result"]
    assert (data.item_num, len(train.dataset)) == (12, len(train._dataset))


def test_a_run_goes_on_where_it_stopped(settings, tmp_path):
    run_recbole("SASRec", "toy", config_dict={**settings, **CE})
    path = only_checkpoint(tmp_path)
    config, model, _, train, valid, _ = load_data_and_model(path)
    config["epochs"] = 3
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    trainer.resume_checkpoint(path)
    assert trainer.start_epoch == 1 and trainer.optimizer.state_dict()["state"]
    trainer.fit(train, valid)
    assert list(trainer.train_loss_dict) == [1, 2]


def test_the_configuration_of_a_checkpoint_is_the_one_that_was_written(settings, tmp_path, monkeypatch):
    wanted = Config("SASRec", "toy", config_dict={**settings, **CE})
    run_recbole("SASRec", "toy", config_dict={**settings, **CE})
    monkeypatch.setattr(sys, "argv", ["test", "--epochs=99"])  # of the process that reads
    config = load_data_and_model(only_checkpoint(tmp_path))[0]
    assert config.final_config_dict == wanted.final_config_dict
    assert {*vars(wanted)} == {*vars(config)} and str(config) and config.model_class is wanted.model_class


def test_pretraining_and_fine_tuning_of_s3rec(settings, tmp_path):
    run_recbole("S3Rec", "toy", config_dict={
        **settings, **CE, "train_stage": "pretrain", "pretrain_epochs": 1, "save_step": 1, "item_attribute": "class",
    })  # fmt: skip
    path = tmp_path / "saved/S3Rec-toy-1.pth"
    assert path.exists()
    result = run_recbole("S3Rec", "toy", config_dict={
        **settings, **CE, "train_stage": "finetune", "pre_model_path": str(path), "item_attribute": "class",
    })  # fmt: skip
    assert 0 <= result["test_result"]["recall@3"] <= 1


def test_neumf_pretrained_in_two_halves(settings, tmp_path):
    halves = {"mf_pretrain_path": str(tmp_path / "mf.pth"), "mlp_pretrain_path": str(tmp_path / "mlp.pth")}
    for half in ("mf", "mlp"):
        own = {**settings, **halves, "mf_train": half == "mf", "mlp_train": half == "mlp"}
        run_recbole("NeuMF", "toy", config_dict={**own, "checkpoint_dir": half})
        (path,) = (tmp_path / half).glob("*.pth")
        load_data_and_model(path)[1].dump_parameters()
    run_recbole("NeuMF", "toy", config_dict={**settings, **halves, "use_pretrain": True})


def test_objective_function_works_where_no_ray_listens(settings):
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*report")
        outcome = objective_function(config_dict={**settings, "model": "BPR", "dataset": "toy"}, saved=True)
    assert outcome["model"] == "BPR" and outcome["test_result"]


def test_each_loader_names_the_other_for_its_files(settings, tmp_path):
    run_recbole("SASRec", "toy", config_dict={**settings, **CE})
    theirs = only_checkpoint(tmp_path)
    with pytest.raises(CheckpointError, match=r"of RecBole's own Trainer.*recbole\.quick_start\.load_data_and_model"):
        checkpoint.load(theirs)
    with pytest.raises(CheckpointError, match=r"of RecBole's own Trainer"):
        recbole_gen.load_data_and_model(theirs)
    ours = tmp_path / "run/best.pth"
    ours.parent.mkdir()
    checkpoint.save(ours, {"state_dict": {}})
    config, model, *_ = load_data_and_model(theirs)
    trainer = get_trainer(config["MODEL_TYPE"], config["model"])(config, model)
    for read in (load_data_and_model, trainer.resume_checkpoint):
        with pytest.raises(CheckpointError, match=r"is a checkpoint of recbole_gen.*recbole_gen\.load\('.*/run'\)"):
            read(ours)
    with pytest.raises(CheckpointError, match=r"is the folder of a run.*recbole_gen\.load"):
        load_data_and_model(ours.parent)


def test_pickled_checkpoints_stay_refused(settings, tmp_path):
    old = tmp_path / "old.pth"
    torch.save({"config": Config("SASRec", "toy", config_dict={**settings, **CE}), "state_dict": {}}, old)
    with pytest.raises(CheckpointError, match=r"pickled Python objects.*refused.*train the model again"):
        load_data_and_model(old)
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        load_data_and_model(tmp_path / "nosuch.pth")
    foreign = tmp_path / "foreign.pth"
    torch.save({"state_dict": {}}, foreign)
    with pytest.raises(CheckpointError, match="is not a checkpoint of RecBole's trainers"):
        load_data_and_model(foreign)


def test_what_a_checkpoint_cannot_hold_is_left_out_with_a_warning(settings, tmp_path, caplog):
    caplog.set_level("WARNING")
    odd = {"state": "WARNING", "user_function": pickle.dumps, "own": {1: (2, None)}}
    run_recbole("BPR", "toy", config_dict={**settings, **odd})
    path = only_checkpoint(tmp_path)
    config = torch.load(path, weights_only=True)["config"]
    assert "user_function" not in config and config["own"] == {1: (2, None)}
    assert "user_function is a builtin_function_or_method, and is left out" in caplog.text
    load_data_and_model(path)


def test_metrics_of_coverage_and_popularity(settings):
    metrics = ["Recall", "ItemCoverage", "AveragePopularity", "GiniIndex", "ShannonEntropy", "TailPercentage"]
    result = run_recbole("BPR", "toy", config_dict={**settings, "metrics": metrics, "valid_metric": "Recall@3"})
    assert {*result["test_result"]} == {f"{metric.lower()}@3" for metric in metrics}


def test_a_negative_gpu_is_the_cpu(settings, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
    for gpu_id, device in (("-1", "cpu"), (-1, "cpu"), ("", "cpu"), ("1", "cuda:1")):
        config = Config("BPR", "toy", config_dict={**settings, "use_gpu": True, "gpu_id": gpu_id})
        assert config["device"] == torch.device(device), gpu_id
