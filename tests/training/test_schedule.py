"""Learning rates over a run: warm-up and decay by step, for all optimisers, the same after a resume."""

import math
from pathlib import Path

import pytest
import torch
from stubs import equal
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch.optim.optimizer import register_optimizer_step_pre_hook

from recbole_gen import checkpoint, quick_start
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.errors import UserError
from recbole_gen.training.schedule import RateSchedule
from recbole_gen.training.trainer import create_trainer

pytestmark = pytest.mark.usefixtures("one_thread")

QUICK = {"diagnostics": False, "save_ranks": False, "tensorboard": False}

STEPS = 8
"""Of an epoch of `custom` and SASRec on `walks`."""
RATE = 0.01


def saved(result, name="last.pth") -> dict:
    return checkpoint.load(Path(result["run_dir"]) / name)


@pytest.fixture
def rates():
    """Every step's learning rate, in order."""
    seen: list[float] = []
    handle = register_optimizer_step_pre_hook(lambda optimizer, *_: seen.append(optimizer.param_groups[0]["lr"]))
    yield seen
    handle.remove()


@pytest.mark.parametrize(
    "decay, warmup, expected",
    [
        (None, 0, [1, 1, 1, 1, 1, 1, 1, 1]),
        (None, 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, 1, 1, 1]),
        ("linear", 0, [1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8]),
        ("linear", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, 3 / 4, 2 / 4, 1 / 4]),
        ("cosine", 4, [1 / 4, 2 / 4, 3 / 4, 1, 1, (1 + math.sqrt(0.5)) / 2, 1 / 2, (1 - math.sqrt(0.5)) / 2]),
        ("linear", 16, [step / 16 for step in range(1, 9)]),
    ],
)
def test_factors_of_eight_steps(decay, warmup, expected):
    schedule = RateSchedule(decay, warmup)
    assert [schedule.factor(step, 8) for step in range(8)] == pytest.approx(expected)
    assert schedule.factor(8, 8) == pytest.approx(1 if decay is None else 8 / 16 + 1 / 16 if warmup == 16 else 0)
    assert bool(schedule) is (decay is not None or warmup > 0)


@pytest.mark.parametrize("decay", ["linear", "cosine", None])
def test_each_step_of_a_run_has_its_rate(run, rates, decay):
    result = run("SASRec", epochs=3, lr_scheduler=decay, warmup_steps=10, learning_rate=RATE, eval_step=3)
    schedule = RateSchedule(decay, 10)
    expected = [RATE * schedule.factor(step, 3 * STEPS) for step in range(3 * STEPS)]
    assert rates == pytest.approx(expected, rel=1e-12)
    events = EventAccumulator(result["run_dir"])
    events.Reload()
    shown = [event.value for event in events.Scalars("train/learning_rate")]
    assert shown == pytest.approx([expected[STEPS - 1], expected[2 * STEPS - 1], expected[-1]])


def test_without_a_schedule_nothing_changes(run, rates):
    assert "initial_lr" not in saved(run("SASRec", epochs=1, **QUICK))["optimizer"]["param_groups"][0]
    assert rates == [0.001] * STEPS


class Stopped(Exception):
    pass


@pytest.fixture
def stopped_after(settings, tmp_path):
    """stopped_after(n, model, **values): a run that ended abruptly after ``n`` of its epochs; returns its folder."""

    def stopped_after(number: int, model: str, **values) -> Path:
        def stop(epoch):
            if epoch.number == number:
                raise Stopped

        folder = tmp_path / f"stopped after {number}"
        with pytest.raises(Stopped):
            quick_start.run(config_dict=settings(model, **values), run_dir=folder, on_epoch=stop)
        return folder

    return stopped_after


# ACVAE has three optimisers, of two kinds here. A warm-up of 10 steps ends within the second epoch.
@pytest.mark.parametrize("model, decay", [("SASRec", "linear"), ("SASRec", None), ("ACVAE", "cosine")])
def test_a_run_that_was_stopped_equals_one_that_never_was(run, stopped_after, model, decay):
    adversary = {"learner": "adam", "learning_rate": 0.02, "weight_decay": 0.1}
    more = {"adversary_optimizer": adversary, "train_batch_size": 8} if model == "ACVAE" else {}
    values = {"epochs": 4, "lr_scheduler": decay, "warmup_steps": 10, "eval_step": 2, **QUICK, **more}
    whole = run(model, **values)
    for epochs in (1, 3):  # in the middle of the warm-up, and of the decay
        folder = stopped_after(epochs, model, **values)
        resumed = quick_start.run(argv=[f"--resume={folder}"])
        for key in ("train_loss", "best_valid_result", "test_result"):
            assert resumed[key] == whole[key], (epochs, key)
        for key in ("state_dict", "optimizer", "steps"):
            assert equal(saved(resumed)[key], saved(whole)[key]), (epochs, key)


def test_all_optimisers_have_the_same_factor(run):
    rates = {"main": RATE, "contrast": 0.0003, "adversary": 0.0005}
    result = run(
        "ACVAE", epochs=2, train_batch_size=8, learning_rate=RATE, lr_scheduler="linear", warmup_steps=2, **QUICK
    )
    last = saved(result)
    factor = RateSchedule("linear", 2).factor(last["steps"] - 1, last["steps"])
    assert 0 < factor < 0.2
    for name, rate in rates.items():
        (group,) = last["optimizer"][name]["param_groups"]
        assert group["lr"] == pytest.approx(rate * factor), name


def test_more_epochs_stretch_the_schedule_over_all_of_them(run, rates):
    part = run("SASRec", epochs=1, lr_scheduler="linear", learning_rate=RATE, **QUICK)
    assert rates[-1] == pytest.approx(RATE / STEPS)
    rates.clear()
    quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=4"])
    assert rates == pytest.approx([RATE * (1 - step / (4 * STEPS)) for step in range(STEPS, 4 * STEPS)])


def test_a_resumed_run_has_the_schedule_and_the_rate_that_are_given_then(run, rates):
    part = run("SASRec", epochs=2, lr_scheduler="linear", learning_rate=RATE, **QUICK)
    rates.clear()
    quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=4", "--learning_rate=0.5"])
    assert rates == pytest.approx([0.5 * (1 - step / (4 * STEPS)) for step in range(2 * STEPS, 4 * STEPS)])
    rates.clear()
    quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=5", "--lr_scheduler=~"])
    assert rates == [0.5] * STEPS
    rates.clear()
    quick_start.run(argv=[f"--resume={part['run_dir']}", "--epochs=6", "--lr_scheduler=cosine"])
    assert rates == pytest.approx([0.25 * (1 + math.cos(math.pi * step / 48)) for step in range(40, 48)])


def test_a_run_that_stops_early_leaves_the_schedule_as_it_is(run, rates):
    result = run("SASRec", epochs=60, lr_scheduler="linear", learning_rate=0.5, stopping_step=0, eval_step=1, **QUICK)
    assert result["epochs"] < 60
    assert rates == pytest.approx([0.5 * (1 - step / (60 * STEPS)) for step in range(result["epochs"] * STEPS)])


def test_steps_that_the_scaler_skips_count(make_config, walks, rates):
    config = make_config(
        "SASRec", epochs=1, train_batch_size=64, warmup_steps=4, lr_scheduler="linear", tensorboard=False
    )
    train, _, _ = create_loaders(config, create_dataset(config))
    trainer = create_trainer(config, config.model_class(config, train._dataset))
    trainer.scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    trainer.model.item_embedding.weight.register_hook(lambda grad: grad * (1.0 if trainer.steps > 2 else torch.inf))
    trainer.fit(train, saved=False)
    (state,) = {int(each["step"]) for each in trainer.optimizer.state_dict()["state"].values()}
    assert state == len(train) - 3 == trainer.steps - 3
    group = trainer.optimizer.param_groups[0]
    factor = RateSchedule("linear", 4).factor(len(train) - 1, len(train))
    assert group["lr"] == pytest.approx(config["learning_rate"] * factor)


def test_two_processes_follow_the_schedule_of_one(run, quick_processes):
    values = {"epochs": 2, "train_batch_size": 32, "lr_scheduler": "cosine", "warmup_steps": 5, **QUICK}
    one, two = (saved(run("SASRec", nproc=nproc, **values))["optimizer"]["param_groups"] for nproc in (1, 2))
    assert one[0]["lr"] == two[0]["lr"] < one[0]["initial_lr"] == 0.001


# RecBole's trainers, on top of ours


@pytest.mark.parametrize("model", ["BPR", "MultiVAE", "Pop"])
def test_the_rate_ends_at_the_end_for_loaders_of_other_kinds(run, rates, model):
    run(model, epochs=3, lr_scheduler="linear", learning_rate=RATE, train_batch_size=16, **QUICK)
    assert len(rates) > 3 or model == "Pop"
    assert rates == pytest.approx([RATE * (1 - step / len(rates)) for step in range(len(rates))])


def test_passes_of_one_epoch_all_go_through_its_part_of_the_schedule(run, rates):
    values = {"n_enc_epochs": 2, "n_dec_epochs": 1, "train_batch_size": 4096, **QUICK}  # a step a pass
    run("RecVAE", epochs=2, lr_scheduler="linear", learning_rate=RATE, **values)
    assert rates == pytest.approx([RATE] * 3 + [RATE / 2] * 3)


def test_pre_training_has_a_schedule_of_its_own_epochs(settings, rates, tmp_path):
    lines = [f"i{item}\tc{item % 4}" for item in range(40)]
    values = {"pretrain_epochs": 2, "save_step": 2, "lr_scheduler": "linear", "learning_rate": RATE, **QUICK}
    values = settings("S3Rec", epochs=9, hidden_size=16, inner_size=16, **values)
    (tmp_path / "toy/toy.item").write_text("\n".join(["item_id:token\tclass:token_seq", *lines]) + "\n")
    quick_start.run(config_dict=values)
    assert len(rates) > 2
    assert rates == pytest.approx([RATE * (1 - step / len(rates)) for step in range(len(rates))])


def test_a_trainer_with_steps_of_its_own_has_no_schedule(make_config, walks):
    config = make_config("NCL", warmup_steps=5)
    with pytest.raises(UserError, match="NCL is trained in steps of its own"):
        create_trainer(config, torch.nn.Linear(1, 1))


def test_a_warm_up_that_is_all_of_the_run_is_told(run):
    result = run("SASRec", epochs=1, warmup_steps=STEPS, **QUICK)
    log = (Path(result["run_dir"]) / "run.log").read_text()
    assert f"warmup_steps: {STEPS} is no less than the {STEPS} steps of the whole run" in log
