"""Files of a sweep that are damaged, and what is said of them."""

import json
from pathlib import Path

import pytest

from recbole_gen import cli
from recbole_gen.errors import UserError
from recbole_gen.sweep import command, plan, state

TRIAL = {"number": 1, "params": {"learning_rate": 0.1}, "status": "finished"}
LINE = {"epoch": 1, "score": 0.2, "valid_score": 0.2, "train_loss": 1.0, "best_epoch": 1}


@pytest.fixture
def trial(tmp_path):
    """The folder of trial 1, whole."""
    folder = state.trial_folder(tmp_path, 1)
    folder.mkdir(parents=True)
    (folder / "trial.json").write_text(json.dumps(TRIAL))
    state.write_curve(folder, [LINE])
    return folder


@pytest.fixture
def stored(tmp_path):
    """A sweep's folder with this sweep.json."""

    def write(text: str) -> str:
        (tmp_path / "sweep.json").write_text(text)
        return f"--resume={tmp_path}"

    return write


@pytest.mark.parametrize(
    "text",
    ["", "{", "null", "[1]", "{}", '{"values": 1, "options": {}, "space": "s"}',
     json.dumps({"values": {}, "options": command.OPTIONS})],
)  # fmt: skip
def test_a_damaged_sweep_is_one_message(text, stored, capsys):
    assert cli.main(["tune", stored(text)]) == 2
    assert "sweep.json is damaged" in (said := capsys.readouterr().err) and "--output" in said


def test_a_sweep_without_an_option_is_damaged(stored, tmp_path, capsys):
    (tmp_path / "space.yaml").write_text("learning_rate: {choice: [0.1]}")
    options = {key: value for key, value in command.OPTIONS.items() if key != "scheduler"}
    resume = stored(json.dumps({"values": {}, "options": options, "space": "space.yaml"}))
    assert cli.main(["tune", resume]) == 2
    assert "no option scheduler" in capsys.readouterr().err


def test_whole_files_are_read(trial, tmp_path):
    (known,) = state.read_trials(tmp_path)
    assert known == {**TRIAL, "curve": [LINE], "score": 0.2, "best_epoch": 1, "epochs": 1}


@pytest.mark.parametrize(
    "text", ["", "{", "7", "{}", json.dumps({**TRIAL, "params": None}), json.dumps({**TRIAL, "number": 2})]
)
def test_a_damaged_trial_names_its_file_and_the_folder_to_remove(text, trial, tmp_path):
    (trial / "trial.json").write_text(text)
    with pytest.raises(UserError, match=f"trial.json.*remove the folder {trial}"):
        state.read_trials(tmp_path)


@pytest.mark.parametrize("text", ["{", "[]\n", '{"epoch": 1}\n', json.dumps(LINE) + "\n{"])
def test_a_damaged_curve_names_its_file(text, trial, tmp_path):
    (trial / "epochs.jsonl").write_text(text)
    with pytest.raises(UserError, match=r"epochs.jsonl is damaged.*remove the folder"):
        state.read_trials(tmp_path)


def test_a_trial_whose_folder_was_removed_is_made_anew_with_its_own_settings(trial, tmp_path):
    class Drawn:
        def sample(self, num_samples, seed):
            return [{"learning_rate": number} for number in range(num_samples)]

    sweep = state.Sweep(str(tmp_path), {}, {"searcher": "random", "num_samples": 3}, str(Path("s.yaml")), Drawn())
    assert plan.planned_points(sweep) == [{"learning_rate": 0}, TRIAL["params"], {"learning_rate": 2}]
