"""The trainer: exact resume, early stopping, the best epoch, loss terms by name, and what a run leaves behind."""

import json
import math
import mmap
import re
import subprocess
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from stubs import equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from recbole_gen import checkpoint, quick_start
from recbole_gen.config.places import ROOT
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.errors import UserError
from recbole_gen.training import environment
from recbole_gen.training.trainer import NonFiniteLoss, create_trainer


def saved(result, name="last.pth"):
    return checkpoint.load(f"{result['run_dir']}/{name}")


def scalars(result) -> dict[str, list[float]]:
    """What TensorBoard shows of a run."""
    events = EventAccumulator(result["run_dir"])
    events.Reload()
    return {tag: [event.value for event in events.Scalars(tag)] for tag in events.Tags()["scalars"]}


# MultiVAE counts its steps in an attribute, to anneal; FPMC and BPR draw negative items from NumPy's stream; RecBole's
# trainer of RecVAE has two optimisers.
@pytest.mark.parametrize("model", ["DreamRec", "SASRec", "FPMC", "BPR", "MultiVAE", "RecVAE"])
def test_resumed_run_equals_uninterrupted_run(run, model):
    values = {"stopping_step": 2, "eval_step": 1}
    if model == "MultiVAE":
        values |= {"total_anneal_steps": 10, "anneal_cap": 1.0, "mlp_hidden_size": [32], "latent_dimension": 16}
    elif model == "RecVAE":
        values |= {"hidden_dimension": 32, "latent_dimension": 16}
    whole = run(model, epochs=4, **values)
    part = run(model, epochs=2, **values)
    before = saved(part)
    resumed = quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=4"])

    assert resumed["run_dir"] == part["run_dir"]
    for key in ("test_result", "diagnostics", "best_valid_result", "best_valid_score", "best_epoch", "train_loss"):
        assert resumed[key] == whole[key], key
    for name in ("last.pth", "best.pth"):
        a, b = saved(resumed, name), saved(whole, name)
        for key in a.keys() - {"config", "train_seconds", "train_cpu_seconds"}:
            assert equal(a[key], b[key]), (name, key)
    assert not equal(before["state_dict"], saved(resumed)["state_dict"])
    assert not equal(before["random_states"], saved(resumed)["random_states"])
    assert resumed["seconds"]["train"] > before["train_seconds"] > 0  # the epochs of before count too
    assert resumed["seconds"]["train_cpu"] > before["train_cpu_seconds"] > 0


def test_run_that_stopped_early_does_not_train_on(run):
    values = {"learning_rate": 0.5, "stopping_step": 1}
    stopped = run(epochs=60, **values)
    last = saved(stopped)
    assert stopped["epochs"] < 60 and last["cur_step"] == 2
    assert stopped["epochs"] - 1 - stopped["best_epoch"] == 2
    resumed = quick_start.run(argv=[f"--resume={stopped['run_dir']}"])
    assert resumed["epochs"] == stopped["epochs"]
    assert resumed["test_result"] == stopped["test_result"]
    assert equal(saved(resumed), last)
    patient = quick_start.run(argv=[f"--resume={stopped['run_dir']}", "--stopping_step=2"])
    assert patient["epochs"] > stopped["epochs"]


def test_values_given_with_resume_win_over_those_of_the_run(run, tmp_path):
    part = run(epochs=1)
    (tmp_path / "more.yaml").write_text("epochs: 2\nlearning_rate: 0.25\n")
    resumed = quick_start.run(config_file_list=[tmp_path / "more.yaml"], argv=[f"--resume={part['run_dir']}"])
    assert resumed["epochs"] == 2 and resumed["config"]["hidden_size"] == 16
    assert [group["lr"] for group in saved(resumed)["optimizer"]["param_groups"]] == [0.25]
    resumed = quick_start.run(
        config_dict={"learning_rate": 0.5, "weight_decay": 0.125}, argv=[f"--resume={part['run_dir']}", "--epochs=3"]
    )
    group = saved(resumed)["optimizer"]["param_groups"][0]
    assert (resumed["epochs"], group["lr"], group["weight_decay"]) == (3, 0.5, 0.125)


@pytest.mark.parametrize(
    "argument, named",
    [
        ("--learner=sgd", "learner"),
        ("--hidden_size=32", r"hidden_size was 16 and is 32 \(command line\)\. .*leave out .*without --resume$"),
        ("--model=SASRec", "checkpoint of model DreamRec"),
        ("--protocol=sequence_811", "checkpoint of protocol leave_one_out"),
        ("--item_inter_num_interval=[13,inf)", "other values of 'user_id'|other values of 'item_id'"),
    ],
)
def test_resume_refuses_what_cannot_go_on(run, argument, named):
    part = run(epochs=1)
    before = {path.name: path.read_bytes() for path in Path(part["run_dir"]).glob("[!re.]*")}  # not the log, not events
    assert before.keys() == {"config.yaml", "best.pth", "last.pth"}
    with pytest.raises(checkpoint.CheckpointError, match=named):
        quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=2", argument])
    assert before == {name: (Path(part["run_dir"]) / name).read_bytes() for name in before}


@pytest.mark.parametrize(
    "model, stored, given, changed",
    [
        ("SASRec", {"n_layers": 2, "hidden_dropout_prob": 0.5}, ["--n_layers=3"], "n_layers was 2 and is 3"),
        ("GRU4Rec", {"hidden_size": 8}, ["--hidden_size=16", "--embedding_size=32", "--learning_rate=0.5"],
         r"embedding_size was 64 and is 32 \(command line\); hidden_size was 8 and is 16 \(command line\)\."),
        ("custom:Custom", {}, ["--width=4"], "width was 8 and is 4"),
    ],
)  # fmt: skip
def test_settings_that_change_the_weights_of_a_run_are_named(
    model, stored, given, changed, settings, custom, refused, tmp_path, capsys
):
    quick_start.run(config_dict=settings(model, epochs=1, **stored), run_dir=tmp_path / "run", quiet=True)
    capsys.readouterr()
    message = refused([f"--resume={tmp_path / 'run'}", f"--model={model}", "--epochs=2", *given, "--state=ERROR"])
    assert re.search(changed, message) and "Error(s) in loading" not in message and "torch.Size" not in message
    assert "learning_rate" not in message and message.count("\n") == 1


def test_a_run_is_not_asked_for_fewer_epochs_than_it_has(run, refused, tmp_path, capsys):
    result = run(epochs=2)
    capsys.readouterr()
    folder = Path(result["run_dir"])
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (tmp_path / "less.yaml").write_text("epochs: 0\n")
    for less in (["--epochs=1"], [f"--config_files={tmp_path / 'less.yaml'}"]):
        for resume in (folder, folder / "last.pth"):
            refused([f"--resume={resume}", *less], "has 2 epochs already", "nothing to train", "--epochs=2 tests")
    assert before == {path.name: path.read_bytes() for path in folder.iterdir()}
    again = quick_start.run(argv=[f"--resume={folder}", "--epochs=2"])
    assert again["test_result"] == result["test_result"] and again["epochs"] == 2


@pytest.mark.parametrize("model, mode", [("DreamRec", "full"), ("FPMC", "full"), ("FPMC", "uni20")])
def test_evaluation_does_not_change_training(run, model, mode):
    values = {"epochs": 3, "eval_args": {"mode": mode}}  # uni20 draws items to rank from NumPy's stream
    often, seldom = run(model, eval_step=1, **values), run(model, eval_step=3, **values)
    assert equal(saved(often)["state_dict"], saved(seldom)["state_dict"])
    assert equal(saved(often)["random_states"], saved(seldom)["random_states"])
    assert often["train_loss"] == seldom["train_loss"]


def test_best_checkpoint_is_that_of_the_best_validation_epoch(run):
    for rate in (0.1, 0.2, 0.5, 1.0):  # which epoch is the best depends on the processor's rounding
        result = run(epochs=8, learning_rate=rate)
        scores = scalars(result)["valid/ndcg@10"]
        assert len(scores) == 8 and len(set(scores)) > 4
        best = max(epoch for epoch, score in enumerate(scores) if score == max(scores))
        if best < 7:
            break
    assert best < 7, "the last epoch is always the best: this data cannot tell best from last"
    assert result["best_epoch"] == best
    assert result["best_valid_score"] == result["best_valid_result"]["ndcg@10"] == pytest.approx(max(scores), abs=1e-6)
    assert saved(result, "best.pth")["next_epoch"] == best + 1 and saved(result)["next_epoch"] == 8
    assert equal(saved(run(epochs=best + 1, learning_rate=rate))["state_dict"], saved(result, "best.pth")["state_dict"])


def test_a_smaller_metric_can_be_the_better_one(run):
    result = run(epochs=6, learning_rate=0.1, metrics=["GiniIndex", "NDCG"], valid_metric="GiniIndex@10")
    scores = scalars(result)["valid/giniindex@10"]
    assert len(set(scores)) > 1 and result["best_valid_score"] == pytest.approx(min(scores), abs=1e-6)


def test_test_result_is_that_of_the_best_checkpoint_each_time(run):
    result = run(epochs=4, learning_rate=0.1)
    config, _ = quick_start.configure(config_dict=result["config"])
    config["checkpoint_dir"] = result["run_dir"]
    train, _, test = create_loaders(config, create_dataset(config))
    torch.manual_seed(99)
    np.random.seed(99)
    trainer = create_trainer(config, config.model_class(config, train._dataset))
    trainer.vocabulary = {"user_id": saved(result)["vocabulary"]["user_id"]}
    fresh = trainer.evaluate(test, load_best_model=False)
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()
    assert trainer.evaluate(test) == result["test_result"] != fresh
    assert trainer.evaluate(test) == result["test_result"]
    assert trainer.evaluate(test, load_best_model=False) == result["test_result"]
    assert equal(before, (torch.get_rng_state(), np.random.get_state()[1].tolist()))


def test_items_drawn_for_evaluation_are_the_same_each_time(run):
    result = run("BPR", eval_args={"mode": "uni20"})
    again = quick_start.run(argv=[f"--resume={result['run_dir']}"])
    assert again["test_result"] == result["test_result"]
    other = quick_start.run(argv=[f"--resume={result['run_dir']}", "--seed=1"])
    assert other["test_result"] != result["test_result"]


def test_gradients_are_clipped(run):
    values = {"learner": "sgd", "learning_rate": 1.0, "train_batch_size": 4096}  # one step: the change is the gradient
    start = saved(run(epochs=0, **values), "best.pth")["state_dict"]

    def length(**clip):
        end = saved(run(epochs=1, **values, **clip))["state_dict"]
        return math.sqrt(sum(float((end[name] - start[name]).square().sum()) for name in start))

    free = length()
    assert free > 0.02
    assert length(clip_grad_norm={"max_norm": 0.01}) == pytest.approx(0.01, rel=1e-3)
    assert length(clip_grad_norm={"max_norm": 100.0}) == pytest.approx(free, rel=1e-6)


def test_loss_terms_are_logged_by_name(run, custom):
    result = run("custom:Custom")
    shown = scalars(result)
    assert shown.keys() >= {"train/ranking", "train/decay", "valid/ndcg@10", "valid/hit@5"}
    assert [a + b for a, b in zip(shown["train/ranking"], shown["train/decay"], strict=True)] == pytest.approx(
        result["train_loss"], rel=1e-5
    )
    log = (Path(result["run_dir"]) / "run.log").read_text()
    assert f"ranking: {shown['train/ranking'][1]:.4f}" in log
    assert f"decay: {shown['train/decay'][1]:.4f}" in log


def test_a_term_that_is_not_finite_is_named_and_the_last_good_epoch_kept(run, custom):
    whole = run("custom:Custom", epochs=4)
    custom.steps, custom.at, custom.trouble = 0, 8 + 8 + 3, lambda: float("nan")
    with pytest.raises(NonFiniteLoss, match=r"loss 'decay' is nan in epoch 3, step 3;") as caught:
        run("custom:Custom", epochs=4)
    assert "'ranking'" not in str(caught.value)
    (folder,) = [path.parent for path in Path(whole["run_dir"]).parent.glob("*/last.pth")
                 if not (path.parent / "result.json").exists()]  # fmt: skip
    assert str(folder / "last.pth") in str(caught.value)
    assert checkpoint.load(folder / "last.pth")["next_epoch"] == 2
    resumed = quick_start.run(argv=[f"--resume={folder}"])
    assert resumed["train_loss"] == whole["train_loss"]
    assert equal(saved(resumed)["state_dict"], saved(whole)["state_dict"])


def test_an_infinite_loss_is_called_loss_where_the_model_names_none(run, custom):
    del custom.Custom.loss_names
    custom.at, custom.trouble = 1, lambda: float("inf")
    with pytest.raises(NonFiniteLoss, match=r"loss 'loss_2' is inf in epoch 1, step 1; no epoch is finished yet"):
        run("custom:Custom")
    with pytest.raises(NonFiniteLoss, match=r"loss 'loss' is (nan|inf) in epoch 1, step [2-8];"):
        run(learner="sgd", learning_rate=1e30, epochs=3)


def test_settings_far_from_their_defaults_are_named_and_no_other_is_blamed(run, custom):
    with pytest.raises(NonFiniteLoss) as first:
        run("DiffRec", step_scale=1e30)
    assert "step 1;" in str(first.value) and "Far from the defaults: step_scale 1e+30 (default 0.1)" in str(first.value)
    assert "learning_rate is not the cause" in str(first.value) and "max_norm" not in str(first.value)
    with pytest.raises(NonFiniteLoss) as later:
        run(learner="sgd", learning_rate=1e30, weight_decay=1e-4, epochs=3)
    message = str(later.value)
    assert "Far from the defaults: learning_rate 1e+30 (default " in message and "weight_decay" not in message
    assert "Usual causes: steps that are too large (learning_rate 1e+30: a smaller one, or --clip_grad_norm" in message
    custom.at, custom.trouble = 3, lambda: float("nan")
    with pytest.raises(NonFiniteLoss) as unknown:
        run("custom:Custom", clip_grad_norm={"max_norm": 1.0})
    assert "Far from" not in str(unknown.value) and "clip_grad_norm" not in str(unknown.value)


def test_scores_that_are_not_numbers_tell_whether_the_weights_are(run):
    with pytest.raises(UserError, match=r"scores that are not numbers: its weights are .*learning_rate 1e\+20 \(def"):
        run("SASRec", learner="sgd", learning_rate=1e20, epochs=1, train_batch_size=10000)


def test_the_bad_step_is_found_between_two_looks_at_the_loss(run, custom):
    custom.at, custom.trouble = 60, lambda: float("nan")
    with pytest.raises(NonFiniteLoss, match=r"loss 'decay' is nan in epoch 1, step 60;"):
        run("custom:Custom", train_batch_size=4)


def test_a_run_writes_into_its_folder_only(run, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    result = run(checkpoint_dir="saved", epochs=2)
    folder = here / "saved" / Path(result["run_dir"]).name
    assert str(folder) == result["run_dir"]
    assert [path.name for path in here.iterdir()] == ["saved"]
    assert list((here / "saved").iterdir()) == [folder]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["here", "toy"]
    assert [path.name for path in (tmp_path / "toy").iterdir()] == ["toy.inter"]
    names = {path.name for path in folder.iterdir()}
    (events,) = [name for name in names if name.startswith("events.out.tfevents.")]
    named = {"config.yaml", "result.json", "run.log", "ranks.test.tsv", "best.pth", "last.pth", ".lock"}
    assert names == {events, *named}

    stored = json.loads((folder / "result.json").read_text())
    assert stored == json.loads(json.dumps(result))
    assert stored["best_valid_result"].keys() == stored["test_result"].keys() == {
        f"{metric}@{k}" for metric in ("hit", "ndcg", "mrr") for k in (5, 10, 20)
    }  # fmt: skip
    assert stored["epochs"] == len(stored["train_loss"]) == 2
    assert stored["seconds"].keys() == {"load", "train", "train_cpu", "test"} and stored["seconds"]["train"] > 0
    assert stored["peak_memory_mib"]["process"] > 50
    assert stored["versions"].keys() >= {"recbole_gen", "recbole", "torch", "numpy", "python"}
    assert all(isinstance(version, str) for version in stored["versions"].values())
    assert yaml.safe_load((folder / "config.yaml").read_text())["hidden_size"] == stored["config"]["hidden_size"] == 16

    log = (folder / "run.log").read_text()
    assert "epoch 1 training" in log and "epoch 2 evaluating" in log and "\x1b" not in log
    assert str(stored["test_result"]["ndcg@10"]) in log


def test_the_commit_is_that_of_the_source(monkeypatch, tmp_path):
    def git(*command):
        line = ["git", "-C", tmp_path, *command]
        return subprocess.run(line, check=True, capture_output=True, text=True).stdout.strip()

    assert environment.git_commit() is None or (ROOT / ".git").exists()
    monkeypatch.setattr(environment, "ROOT", tmp_path)
    assert environment.git_commit() is None
    git("init", "-q")
    (tmp_path / "file").write_text("1")
    git("add", "file")
    git("-c", "user.name=a", "-c", "user.email=a@b", "commit", "-q", "-m", "one")
    assert environment.git_commit() == git("rev-parse", "HEAD")
    (tmp_path / "file").write_text("2")
    assert environment.git_commit() == git("rev-parse", "HEAD") + "-dirty"


def test_tensorboard_can_be_switched_off(run):
    result = run(tensorboard=False, diagnostics=False, save_ranks=False)
    names = {path.name for path in Path(result["run_dir"]).iterdir()}
    assert names == {"config.yaml", "result.json", "run.log", "best.pth", "last.pth", ".lock"}
    assert result["diagnostics"] is None and result["test_result"]


def test_a_model_of_ones_own_that_learns_from_pairs_gets_negative_items(run, custom):
    custom.Custom.input_type = custom.InputType.PAIRWISE
    seen = []
    custom.at, custom.trouble = 1, lambda: 1.0
    loss = custom.Custom.calculate_loss

    def calculate_loss(self, interaction):
        seen.append(interaction["neg_item_id"])
        return loss(self, interaction)

    custom.Custom.calculate_loss = calculate_loss
    assert run("custom:Custom", epochs=1)["config"]["train_neg_sample_args"]["sample_num"] == 1
    assert len(seen) == 8 and len(set(torch.cat(seen).tolist())) > 20
    with pytest.raises(UserError, match="train_neg_sample_args"):
        run("custom:Custom", train_neg_sample_args=None)


def test_whoever_watches_sees_every_epoch_after_its_checkpoints(settings, tmp_path):
    seen = []

    def watch(epoch):
        seen.append((epoch, checkpoint.load(tmp_path / "here/last.pth")["next_epoch"]))

    values = settings("SASRec", epochs=5, eval_step=2)
    result = quick_start.run(config_dict=values, run_dir=tmp_path / "here", on_epoch=watch, test=False)
    assert result["run_dir"] == str(tmp_path / "here") and (tmp_path / "here/result.json").exists()
    assert [(epoch.number, saved) for epoch, saved in seen] == [(n, n) for n in (1, 2, 3, 4, 5)]
    assert [epoch.valid_score is None for epoch, _ in seen] == [True, False, True, False, True]
    assert [epoch.best_valid_score is None for epoch, _ in seen] == [True, False, False, False, False]
    assert seen[3][0].valid_result["ndcg@10"] == seen[3][0].valid_score
    assert max(seen[1][0].valid_score, seen[3][0].valid_score) == seen[4][0].best_valid_score
    assert result["best_valid_score"] == seen[4][0].best_valid_score
    assert result["test_result"] is None and not (tmp_path / "here/ranks.test.tsv").exists()  # nobody has looked


def test_a_run_that_is_watched_has_one_process(settings):
    with pytest.raises(UserError, match="nproc: 1"):
        quick_start.run(config_dict=settings("SASRec", nproc=2), on_epoch=print)


def test_peak_memory_is_that_of_the_run(run):
    with mmap.mmap(-1, 1 << 30) as large:  # goes back to the system, which malloc's memory need not
        for _ in range(1 << 10):
            large.write(bytes(1 << 20))
        before = environment.peak_memory()["process"]
    assert run("SASRec", epochs=1)["peak_memory_mib"]["process"] < before - 300


@pytest.mark.parametrize("model", ["Pop", "ItemKNN"])
def test_a_model_of_one_epoch_is_validated_whatever_the_step(run, model):
    result = run(model, epochs=10, eval_step=5)
    assert result["best_valid_result"] and (Path(result["run_dir"]) / "best.pth").exists()
