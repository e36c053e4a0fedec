"""The verb `tune`: sweeps on Ray over small models on `walks`; what fails, is killed, is interrupted, and goes on."""

import csv
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import yaml
from ray.cluster_utils import Cluster

from recbole_gen import cli, quick_start
from recbole_gen.config.config import Config
from recbole_gen.errors import UserError
from recbole_gen.sweep import cluster, command, plan, state, trial, tune
from recbole_gen.sweep.scheduler import make_scheduler
from recbole_gen.sweep.space_file import read_space
from recbole_gen.sweep.state import Sweep

ROOT = Path(__file__).resolve().parents[2]
SPACE = """\
learning_rate: {loguniform: [1.0e-3, 1.0e-1]}
sampling: {choice: [ancestral, ddim]}
ddim_stride: {choice: [2, 5], when: {sampling: ddim}}
"""


@pytest.fixture
def space(tmp_path):
    """space(text) writes a search space and returns `--space=FILE`."""

    def write(text: str = SPACE, name: str = "my.yaml") -> str:
        (tmp_path / name).write_text(text)
        return f"--space={tmp_path / name}"

    return write


@pytest.fixture
def line(arguments, tmp_path):
    """The command line of a sweep in `tmp_path/sweep` with one trial."""

    def given(*more: str, model: str = "DreamRec") -> list[str]:
        own = [] if any(each.startswith("--num_samples") for each in more) else ["--num_samples=1"]
        words = arguments(f"--output={tmp_path / 'sweep'}", *own, *more, model=model)
        # DreamRec's stride is searched in SPACE, and a key that is searched is not given for all.
        return ["tune", *(each for each in words if not each.startswith("--ddim_stride"))]

    return given


@pytest.fixture
def make_sweep(settings, space, tmp_path):
    """A sweep that is not run; keywords are options of `tune`."""

    def make(text: str = SPACE, epochs: int = 9, **given) -> Sweep:
        path = Path(space(text).removeprefix("--space="))
        own = {**command.OPTIONS, "num_samples": 2, **given}
        (tmp_path / "sweep").mkdir(exist_ok=True)
        return Sweep(str(tmp_path / "sweep"), settings(epochs=epochs), own, str(path), read_space(path))

    return make


@pytest.fixture
def write_trial(tmp_path):
    """write_trial(number, status, scores) writes a trial with these best scores so far of its epochs, validated all."""

    def write(number: int, status: str = "finished", scores=(), **content) -> dict:
        folder = tmp_path / f"sweep/trials/{number:04d}"
        folder.mkdir(parents=True)
        (folder / "trial.json").write_text(json.dumps({"number": number, "status": status, "params": {}, **content}))
        common = {"train_loss": 1.0, "best_epoch": 1}
        curve = [
            {"epoch": n, "score": score, "valid_score": score, **common} for n, score in enumerate(scores, start=1)
        ]
        state.write_curve(folder, curve)
        return state.read_trial(folder)

    return write


# Bad input


@pytest.mark.parametrize(
    "text, patterns",
    [
        ("", ["my.yaml is empty"]),
        ("hidden_size: 8\n", ["nothing is searched in .*my.yaml"]),
        ("hiden_size: {choice: [8, 16]}\n", ["unknown key 'hiden_size' .*my.yaml.*did you mean 'hidden_size'"]),
        ("timesteps: {choice: [ten, 20]}\n", ["timesteps", "whole number", "my.yaml"]),
        ("epochs: {choice: [0, 1]}\n", ["epochs must be at least 1"]),
        ("model: {choice: [SASRec, DreamRec]}\n", ["belongs to the whole sweep"]),
    ],
)
def test_a_bad_space_is_one_message_and_leaves_nothing(line, refused, space, tmp_path, text, patterns):
    given = [each for each in line(space(text), "--num_samples=20") if not each.startswith(("--epochs", "--timesteps"))]
    refused(given, *patterns)
    assert not (tmp_path / "sweep").exists()


@pytest.mark.parametrize(
    "given, pattern",
    [
        ("--num_samples=0", "--num_samples must be a whole number of at least 1"),
        ("--defaults_first=2", "--defaults_first must be true or false, got 2"),
        ("--num_samples=true", "--num_samples must be|--num_samples needs a value"),
        ("--num_sample=3", r"unknown key 'num_sample' \(command line\): did you mean 'num_samples'\?$"),
        ("--hidden_siz=3", r"unknown key 'hidden_siz' \(command line\).*did you mean 'hidden_size'"),
        ("--searcher=hyperopt", "--searcher must be random or optuna"),
        ("--scheduler=pbt", "--scheduler must be asha or none"),
        ("--grace_period=0", "--grace_period must be"),
        ("--cpu_minutes=0", "--cpu_minutes must be a number of minutes above 0"),
        ("--cpu_minutes=-1", "--cpu_minutes must be"),
        ("--cpu_minutes=ten", "--cpu_minutes must be"),
        ("--reduction_factor=1.5", "--reduction_factor must be"),
        ("--max_failures=-1", "--max_failures must be"),
        ("--cpus_per_trial=0", "--cpus_per_trial must be a number"),
        ("--cpus_per_trial=1.5", "--cpus_per_trial above 1 must be whole"),
        ("--gpus_per_trial=many", "--gpus_per_trial must be a number"),
        ("--nproc=2", "nproc must be 1"),
        ("--eval_step=0", "eval_step and epochs must be at least 1"),
        ("--learning_rate=0.1", "learning_rate: given for all trials, and searched in"),
        ("--dataset=nowhere", "nowhere"),
        ("--space=nowhere.yaml", "nowhere.yaml"),
        ("--address=nonsense", "--address=nonsense: there is no Ray cluster.*ray start --head"),
    ],
)
def test_bad_options_are_one_message_and_leave_nothing(no_ray, line, refused, space, tmp_path, given, pattern):
    refused(line(space(), given), pattern)
    assert not (tmp_path / "sweep").exists()


def test_a_model_without_a_space_of_its_own_needs_one(line, refused):
    refused(line(model="NARM"), "no search space for NARM: give one with --space=FILE")


def test_without_optuna_the_message_says_how_to_get_it(line, refused, space, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *more: None if name == "optuna" else find(name, *more)
    )
    refused(line(space(), "--searcher=optuna"), "Optuna, which is not installed: pip install optuna")


def test_a_folder_with_something_else_in_it_is_refused(line, refused, space, tmp_path):
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep/notes.txt").write_text("mine")
    refused(line(space()), "not an empty folder: name another --output")
    assert [path.name for path in (tmp_path / "sweep").iterdir()] == ["notes.txt"]


@pytest.mark.parametrize(
    "given, pattern",
    [
        (["--num_samples=1"], "has 2 already, and can only get more"),
        (["--cpu_minutes=1"], "has 3 already, and can only get more"),
        (["--space=other.yaml"], "--space cannot change .*what can: --num_samples"),
        (["--epochs=3"], "--epochs cannot change"),
    ],
)
def test_what_cannot_change_when_a_sweep_goes_on(make_sweep, refused, given, pattern):
    sweep = make_sweep(cpu_minutes=3)
    state.write_sweep(sweep)
    refused(["tune", f"--resume={sweep.folder}", *given], pattern)


def test_only_a_sweep_goes_on(make_sweep, line, refused, space, tmp_path):
    refused(["tune", f"--resume={tmp_path}"], "there is no sweep in that folder")
    refused(["tune", "--resume"], "--resume needs the folder")
    state.write_sweep(make_sweep())
    refused(line(space()), "there is a sweep in .*go on with it by --resume=")


def test_the_help_names_every_option(capsys):
    assert cli.main(["tune", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"--{option}=" in out for option in command.OPTIONS)


# What a sweep knows without running


def test_a_sweep_is_written_down_and_read_back(make_sweep):
    sweep = make_sweep(reduction_factor=4)
    state.write_sweep(sweep)
    again = command._resumed_sweep({"resume": sweep.folder, "num_samples": 3})
    assert (again.values, again.options) == (sweep.values, {**sweep.options, "num_samples": 3})
    assert again.space == sweep.space and (sweep.num_trials(), again.num_trials()) == (2, 3)
    state.write_sweep(again)  # over itself
    assert command._resumed_sweep({"resume": sweep.folder}).num_trials() == 3


def test_points_stay_and_more_come_behind_them(make_sweep, write_trial):
    first = plan.planned_points(make_sweep())
    for number, point in enumerate(first):
        write_trial(number, params=point)
    assert plan.planned_points(make_sweep(num_samples=3))[:2] == first


def test_defaults_come_first_where_they_are_asked_for(make_sweep, write_trial):
    """Without the space DreamRec samples by ancestral steps, and has no stride."""
    drawn = plan.planned_points(make_sweep())
    sweep = make_sweep(defaults_first=True)
    rate = Config(config_dict=sweep.values)["learning_rate"]
    assert plan.planned_points(sweep) == [{"learning_rate": rate, "sampling": "ancestral"}, *drawn]
    assert (sweep.num_trials(), make_sweep(num_samples=3, defaults_first=True).num_trials()) == (3, 4)
    write_trial(0, params={"learning_rate": 0.5})  # begun before the defaults were others
    assert plan.planned_points(sweep) == [{"learning_rate": 0.5}, *drawn]


def test_the_trial_of_defaults_has_what_the_space_fixes_and_the_user_gives(make_sweep):
    text = "timesteps: 20\nhidden_size: {grid: [8, 16]}\nsampling: {choice: [ddim]}\nddim_stride: {choice: [2, 5]}\n"
    sweep = make_sweep(text, defaults_first=True)
    sweep.values.update(hidden_size=12, sampling="ddim", ddim_stride=4)
    assert plan.default_point(sweep) == {"timesteps": 20, "hidden_size": 12, "sampling": "ddim", "ddim_stride": 4}
    assert sweep.num_trials() == 5 and len(plan.planned_points(sweep)) == 5  # the grid twice


@pytest.mark.parametrize("epochs", ["{choice: [3, 12]}", "{randint: [3, 13]}", "{grid: [12, 4]}"])
def test_the_most_epochs_of_any_trial_are_known(make_sweep, epochs):
    sweep = make_sweep(f"epochs: {epochs}\n")
    assert plan.check_trials(sweep, [{"epochs": 3}])[1] in (12, 13)


def judged(scheduler, number, epoch, score):
    trial = SimpleNamespace(config={"number": number})
    return scheduler.on_trial_result(None, trial, {"epoch": epoch, "score": score})


def test_asha_knows_what_trials_of_before_have_reported(make_sweep, write_trial):
    """Rungs of 9 epochs with grace 1 and factor 3: epochs 1, 3 and 9. Numbers by hand: of 0.1, 0.2, 0.3 and 0.4 the
    upper third begins at 0.3."""
    for number, score in enumerate((0.1, 0.2, 0.3, 0.4)):
        write_trial(number, scores=[score])
    sweep = make_sweep(grace_period=1)
    scheduler = make_scheduler(sweep, "max", 9, state.read_trials(sweep.folder))
    for number, score, wanted in ((4, 0.29, "STOP"), (5, 0.41, "CONTINUE")):
        scheduler.on_trial_add(None, SimpleNamespace(config={"number": number}))
        assert judged(scheduler, number, 1, score) == wanted
    alone = make_scheduler(sweep, "max", 9, [])
    alone.on_trial_add(None, SimpleNamespace(config={"number": 4}))
    assert judged(alone, 4, 1, 0.29) == "CONTINUE"


def test_asha_does_not_judge_a_trial_twice_where_it_goes_on(make_sweep, write_trial):
    """Trial 0 came first to the rung at epoch 1, and was not judged there. Others were better later."""
    write_trial(0, "open", scores=[0.1, 0.1])
    for number in (1, 2, 3):
        write_trial(number, scores=[0.5])
    sweep = make_sweep(grace_period=1)
    scheduler = make_scheduler(sweep, "max", 9, state.read_trials(sweep.folder))
    scheduler.on_trial_add(None, SimpleNamespace(config={"number": 0}))
    assert judged(scheduler, 0, 2, 0.1) == "CONTINUE"  # its last epoch, which `run_trial` reports again
    assert judged(scheduler, 0, 2, 0.1) == "CONTINUE"
    for number in (1, 2, 3):
        assert judged(scheduler, number, 3, 0.5) == "CONTINUE"
    assert judged(scheduler, 0, 3, 0.1) == "STOP"


def test_asha_judges_the_last_epoch_of_a_trial_that_goes_on(make_sweep, write_trial):
    """It may have been written down without having been judged."""
    write_trial(0, "open", scores=[0.1])
    for number in (1, 2, 3):
        write_trial(number, scores=[0.5])
    sweep = make_sweep(grace_period=1)
    scheduler = make_scheduler(sweep, "max", 9, state.read_trials(sweep.folder))
    scheduler.on_trial_add(None, SimpleNamespace(config={"number": 0}))
    assert judged(scheduler, 0, 1, 0.1) == "STOP"


def test_asha_keeps_small_scores_where_smaller_is_better(make_sweep, write_trial):
    for number, score in enumerate((0.1, 0.2, 0.3, 0.4)):
        write_trial(number, scores=[score])
    sweep = make_sweep(grace_period=1)
    scheduler = make_scheduler(sweep, "min", 9, state.read_trials(sweep.folder))
    for number, score, wanted in ((4, 0.31, "STOP"), (5, 0.05, "CONTINUE")):
        scheduler.on_trial_add(None, SimpleNamespace(config={"number": number}))
        assert judged(scheduler, number, 1, score) == wanted


def test_scheduler_none_is_none(make_sweep):
    assert make_scheduler(make_sweep(scheduler="none"), "max", 9, []) is None


def test_optuna_hears_of_every_trial_also_after_a_kill(make_sweep):
    from recbole_gen.sweep.searcher import OptunaSearcher

    sweep = make_sweep(num_samples=4, searcher="optuna")
    points = OptunaSearcher(sweep, "max", [])
    numbers = [points.suggest(f"ray{n}")["number"] for n in range(4)]
    assert numbers == [0, 1, 2, 3]
    for number, status, score in ((0, "pruned", 0.25), (1, "failed", 0.9), (2, "finished", 0.5)):
        folder = sweep.trial_folder(number)
        line = {"epoch": 1, "score": score, "valid_score": score, "train_loss": 1.0, "best_epoch": 1}
        state.write_curve(folder, [line])
        content = json.loads((folder / "trial.json").read_text())
        (folder / "trial.json").write_text(json.dumps({**content, "status": status}))
    points.on_trial_complete("ray0", {"score": 0.25})
    points.study.ask()  # and killed here, before that trial began, and before it heard of 1 and 2
    again = OptunaSearcher(sweep, "max", state.read_trials(sweep.folder))
    states = [(trial.state.name, trial.value) for trial in again.study.trials]
    assert states == [("COMPLETE", 0.25), ("FAIL", None), ("COMPLETE", 0.5), ("RUNNING", None), ("FAIL", None)]
    assert again.suggest("new0") == {"number": 3} and again.suggest("new1") == {"number": 4}
    drawn = [trial["params"] for trial in state.read_trials(sweep.folder)]
    assert len(drawn) == 5 and all(("ddim_stride" in each) == (each["sampling"] == "ddim") for each in drawn)
    again.on_trial_complete("new0", error=True)
    assert again.study.trials[3].state.name == "FAIL"


@pytest.mark.parametrize("text, learns", [(SPACE, True), ("learning_rate: {loguniform: [0.5, 0.6]}\n", False)])
def test_optuna_learns_from_the_defaults_if_the_space_has_them(make_sweep, text, learns):
    from recbole_gen.sweep.searcher import OptunaSearcher

    sweep = make_sweep(text, searcher="optuna", defaults_first=True)
    (point,) = plan.planned_points(sweep)
    state.write_new_trial(sweep, 0, {"params": point})
    points = OptunaSearcher(sweep, "max", state.read_trials(sweep.folder))
    assert [points.suggest(f"ray{n}")["number"] for n in range(3)] == [0, 1, 2]
    line = {"epoch": 1, "score": 0.25, "valid_score": 0.25, "train_loss": 1.0, "best_epoch": 1}
    state.write_curve(sweep.trial_folder(0), [line])
    content = json.loads((sweep.trial_folder(0) / "trial.json").read_text())
    (sweep.trial_folder(0) / "trial.json").write_text(json.dumps({**content, "status": "finished"}))
    points.on_trial_complete("ray0", {"score": 0.25})
    again = OptunaSearcher(sweep, "max", state.read_trials(sweep.folder))  # and is not told twice
    told = [(each.params, each.value) for each in again.study.trials if each.state.name == "COMPLETE"]
    assert told == [(point, 0.25)] * learns


def test_a_machine_without_memory_is_one_message(make_sweep, monkeypatch):
    """Ray ends trials, and if one of them has just begun it gives up all, with words of its own."""
    from ray.tune import Tuner

    def fit(self):
        raise RuntimeError(
            "Caught unexpected exception: 2 worker(s) were killed due to the node running low on memory."
        )

    monkeypatch.setattr(Tuner, "fit", fit)
    sweep = make_sweep()
    points = plan.planned_points(sweep)
    with pytest.raises(UserError, match=r"memory .* used up.*tune --resume=.*--cpus_per_trial=2"):
        tune._run_trials(sweep, points, Config(config_dict=sweep.values), 9, {"cpu": 1, "gpu": 0})
    assert [each["status"] for each in state.read_trials(sweep.folder)] == ["open", "open"]


# Sweeps

on_ray = pytest.mark.xdist_group("ray")  # one Ray at a time


def built_and_shared(folder: Path) -> tuple[list[str], list[str]]:
    """The machines that have built the data set, and those that have read it: one for each trial."""
    logs = "".join(path.read_text() for path in sorted(folder.glob("trials/*/run.log")))
    return tuple(re.findall(rf"the data set is shared, {how} .*?-(\w+)/", logs) for how in ("as", "from"))


@on_ray
def test_a_sweep_ends_with_the_best_trial_tested_and_can_go_on(two_cores, line, space, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "sweep"
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)]
    assert cli.main(line(space(), "--num_samples=2", "--epochs=2", "--state=INFO")) == 0
    # Ray Tune leaves a handler behind, and a leaderboard would need a Ctrl-C for each search that it has made.
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1)] == before
    out = capsys.readouterr().out
    assert "2 trials of DreamRec on toy" in out and "[2/2] trial" in out and "the best by validation, tested:" in out
    trials = state.read_trials(folder)
    assert {trial["status"] for trial in trials} <= {"finished", "pruned"} and len(trials) == 2
    best = state.best_trial(trials, bigger=True)
    results = [json.loads(path.read_text()) for path in folder.glob("trials/*/result.json")]
    tested = [result["run_dir"] for result in results if result["test_result"]]
    assert tested == [str(folder / f"trials/{best['number']:04d}")]
    built, shared = built_and_shared(folder)
    assert len(built) == 1 and len(shared) == 2  # the other trial, and the test of the best
    with open(folder / "trials.csv", newline="") as file:
        assert sorted(int(row["trial"]) for row in csv.DictReader(file)) == [0, 1]
    assert not (folder / "ray").exists() and not list(Path(tempfile.gettempdir()).glob(f"{cache_name(folder)}*"))

    alone = quick_start.run(config_file_list=[folder / "best.yaml"], config_dict={"checkpoint_dir": str(tmp_path)})
    assert alone["best_valid_score"] == best["score"] or best["status"] == "pruned"
    assert alone["train_loss"][: best["epochs"]] == [each["train_loss"] for each in best["curve"]]

    before = {path: path.read_bytes() for path in folder.glob("trials/*/trial.json")}
    monkeypatch.setattr(tune, "_test_best", lambda *_: None)
    assert cli.main(["tune", f"--resume={folder}", "--num_samples=3"]) == 0
    assert len(state.read_trials(folder)) == 3
    assert all(path.read_bytes() == content for path, content in before.items())


@on_ray
def test_a_sweep_ends_with_its_cpu_minutes_and_goes_on_with_more(two_cores, line, space, tmp_path, monkeypatch, capsys):
    folder = tmp_path / "sweep"
    given = line(space(), "--num_samples=3", "--epochs=2", "--cpu_minutes=0.0001", "--scheduler=none")
    assert cli.main(given) == 0
    out, trials = capsys.readouterr().out, state.read_trials(folder)
    assert re.search(r"0 of 3 trials have ended; CPU time .* --cpu_minutes=0.0001 is used up", out)
    assert {trial["status"] for trial in trials} == {"open"}
    # Those that ran were stopped after one epoch, and the others have not begun, whatever was free when.
    begun = [trial for trial in trials if trial["epochs"]]
    assert 1 <= len(begun) <= 2 and all(trial["epochs"] == 1 and trial["cpu_seconds"] > 0 for trial in begun)
    best = state.best_trial(trials, bigger=True)
    assert json.loads((folder / f"trials/{best['number']:04d}/result.json").read_text())["test_result"]
    assert yaml.safe_load((folder / "best.yaml").read_text())["model"] == "DreamRec"
    with open(folder / "trials.csv", newline="") as file:
        rows = {int(row["trial"]): row for row in csv.DictReader(file)}
    assert {rows[trial["number"]]["status"] for trial in begun} == {"stopped"}
    assert {rows[trial["number"]]["status"] for trial in trials if not trial["epochs"]} == {"not started"}

    assert cli.main(["tune", f"--resume={folder}"]) == 0  # nothing is left to spend
    assert [trial["epochs"] for trial in state.read_trials(folder)] == [trial["epochs"] for trial in trials]
    monkeypatch.setattr(tune, "_test_best", lambda *_: None)
    assert cli.main(["tune", f"--resume={folder}", "--cpu_minutes=5"]) == 0
    assert "3 of 3 trials have ended" in capsys.readouterr().out
    after = state.read_trials(folder)
    assert [trial["status"] for trial in after] == ["finished"] * 3 and {trial["epochs"] for trial in after} == {2}
    assert all(after[trial["number"]]["cpu_seconds"] > trial["cpu_seconds"] for trial in begun)


@on_ray
def test_a_trial_that_was_ended_is_tested_with_the_epochs_that_it_has(two_cores, make_sweep, write_trial):
    sweep = make_sweep(epochs=9)
    best = write_trial(0, "pruned", [0.1])  # killed between its second checkpoint and the line about it
    folder = sweep.trial_folder(0)
    quick_start.run(config_dict={**sweep.values, "epochs": 2}, run_dir=folder, test=False, quiet=True)
    weights = (folder / "last.pth").read_bytes()
    result = trial.test_trial(sweep, best, cluster.WorkingEnvironment.current())
    assert result["test_result"] and result["epochs"] == 2
    assert (folder / "last.pth").read_bytes() == weights


def cache_name(folder: Path) -> str:
    return Sweep(str(folder), {}, {}, "", None).data_cache("").name


TROUBLE = """
import os, signal
from pathlib import Path
import custom

MARK = Path(__file__).parent


class Trouble(custom.Custom):
    '''`width` says what goes wrong in the second of three epochs.'''

    def __init__(self, config, dataset):
        super().__init__(config, dataset)
        self.width, self.steps = config["width"], 0

    def calculate_loss(self, interaction):
        self.steps += 1
        if self.steps == 10:
            self.trouble()
        return super().calculate_loss(interaction)

    def trouble(self):
        if self.width == 5:
            raise KeyError("a mistake of its programmer")
        if self.width == 6 or (self.width == 7 and not (MARK / "killed").exists()):
            (MARK / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if self.width == 8 and (MARK / "driver").exists():
            driver = int((MARK / "driver").read_text())
            (MARK / "driver").unlink()
            os.kill(driver, signal.SIGINT)
"""


@pytest.fixture
def trouble(custom, tmp_path, monkeypatch):
    """The folder of the model `trouble:Trouble`."""
    (tmp_path / "own_models/trouble.py").write_text(TROUBLE)
    (tmp_path / "own_models/Trouble.yaml").write_text("width: 4\nlearning_rate: 0.01\n")
    yield tmp_path / "own_models"
    sys.modules.pop("trouble", None)


@on_ray
def test_trials_that_fail_are_recorded_and_the_others_go_on(
    two_cores, no_test_of_best, trouble, line, space, settings, tmp_path, capsys
):
    folder = tmp_path / "sweep"
    text = "width: {grid: [7, 5, 6]}\n"
    given = line(space(text), "--epochs=3", "--scheduler=none", "--max_failures=1", model="trouble:Trouble")
    assert cli.main(given) == 0
    out = capsys.readouterr().out
    trials = state.read_trials(folder)
    assert [trial["status"] for trial in trials] == ["finished", "failed", "failed"]
    assert "KeyError: 'a mistake of its programmer' (see error.txt)" in out
    assert "trouble.py" in (folder / "trials/0001/error.txt").read_text()
    assert "trial 0: its process died, and starts again" in out
    assert trials[2]["reason"] == "its process died 2 times (killed, or out of memory?); see error.txt"
    assert trials[2]["epochs"] == 1 and "died" in (folder / "trials/0002/error.txt").read_text()
    # The one that was killed went on where it was, and is what it would have been.
    assert [each["epoch"] for each in trials[0]["curve"]] == [1, 2, 3]
    values = settings("trouble:Trouble", width=7, epochs=3)
    alone = quick_start.run(config_dict=values)
    assert [each["train_loss"] for each in trials[0]["curve"]] == alone["train_loss"]
    assert trials[0]["score"] == alone["best_valid_score"]


@on_ray
def test_a_sweep_of_failures_is_one_message_with_the_reasons(two_cores, make_sweep, write_trial, capsys):
    sweep = make_sweep(num_samples=2)
    state.write_sweep(sweep)
    for number, reason in enumerate(("training loss is nan", "its process died")):
        write_trial(number, "failed", scores=[0.9] * number, params={"sampling": "ancestral"}, reason=reason)
    assert cli.main(["tune", f"--resume={sweep.folder}"]) == 2
    out, message = capsys.readouterr()
    assert "no trial came to a validation score" in message and "Traceback" not in message
    assert "trial 0: training loss is nan\ntrial 1: its process died" in message and "trials.csv" in out
    assert not (Path(sweep.folder) / "best.yaml").exists()


@on_ray
def test_after_ctrl_c_an_optuna_sweep_goes_on(
    two_cores, no_test_of_best, default_sigint, trouble, line, space, tmp_path, capsys
):
    folder = tmp_path / "sweep"
    (trouble / "driver").write_text(str(os.getpid()))
    given = line(
        space("width: {choice: [8]}\nlearning_rate: {loguniform: [1.0e-3, 1.0e-1]}\n"), "--searcher=optuna",
        "--num_samples=2", "--epochs=3", "--scheduler=none", "--cpus_per_trial=2", model="trouble:Trouble",
    )  # fmt: skip
    assert cli.main(given) == 130
    message = capsys.readouterr().err
    assert message.startswith("stopped by Ctrl-C") and f"go on with tune --resume={folder}" in message
    begun = state.read_trials(folder)
    assert any(trial["status"] == "open" for trial in begun)
    assert cli.main(["tune", f"--resume={folder}"]) == 0
    trials = state.read_trials(folder)
    assert [trial["status"] for trial in trials] == ["finished"] * 2
    assert [trial["params"] for trial in trials[: len(begun)]] == [trial["params"] for trial in begun]
    assert all([each["epoch"] for each in trial["curve"]] == [1, 2, 3] for trial in trials)
    journal = optuna.storages.journal.JournalFileBackend(str(folder / "optuna.jsonl"))
    study = optuna.load_study(study_name="sweep", storage=optuna.storages.JournalStorage(journal))
    assert [(trial.state.name, trial.value) for trial in study.trials] == [
        ("COMPLETE", trial["score"]) for trial in trials
    ]


@on_ray
def test_a_sweep_on_two_machines_goes_on_after_its_driver_was_killed(no_ray, settings, space, tmp_path, capsys):
    """A cluster of two local nodes with a core each; the first driver is killed when one of three trials has ended."""
    folder = tmp_path / "sweep"
    values = settings(epochs=3, state="INFO")
    values.pop("ddim_stride")
    machines = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    try:
        machines.add_node(num_cpus=1)
        given = [f"--{key}={value}" for key, value in values.items()]
        given += [space(), "--num_samples=3", f"--output={folder}", f"--address={machines.address}", "--scheduler=none"]
        command = [sys.executable, "-u", str(ROOT / "run_recbole_gen.py"), "tune", *given]
        driver = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        for text in driver.stdout:
            if text.startswith("[1/3]"):
                break
        driver.kill()
        driver.wait()
        ended = {t["number"]: t for t in state.read_trials(folder) if t["status"] in state.ENDED}
        assert 1 <= len(ended) < 3
        assert cli.main(["tune", f"--resume={folder}"]) == 0
        assert "3 of 3 trials have ended" in capsys.readouterr().out
    finally:
        machines.shutdown()
    trials = state.read_trials(folder)
    assert [trial["status"] for trial in trials] == ["finished"] * 3
    assert all(trials[number] == trial for number, trial in ended.items())
    assert all([each["epoch"] for each in trial["curve"]] == [1, 2, 3] for trial in trials)
    built, shared = built_and_shared(folder)
    assert len(built) == len(set(built)) == 2 and set(shared) <= set(built)
    assert yaml.safe_load((folder / "best.yaml").read_text())["model"] == "DreamRec"
