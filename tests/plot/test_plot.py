"""The verb `plot`, and `plot toi`: what it prints, writes and draws, against the log itself."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.plot import command, toi

DAY = 86400


@pytest.fixture
def days(tmp_path, walks):
    """The walks of `toy`, a step every three days; the last step of every fifth user comes ten days later."""
    path = tmp_path / "toy/toy.inter"
    log = pd.read_csv(path, sep="\t")
    users, steps = log["timestamp:float"] // 100, log["timestamp:float"] % 100
    late = (users % 5 == 0) & (steps == 10)
    log["timestamp:float"] = DAY * (10000 + 2 * users + 3 * steps + 10 * late) + 3600 * steps
    log.to_csv(path, sep="\t", index=False)
    return log


@pytest.fixture
def trained(days, run):
    def train(model="PASRec", **values):
        return run(model, hidden_size=16, timesteps=20, ddim_stride=5, **values)["run_dir"]

    return train


def test_persistence_is_the_last_day_and_errors_are_in_days(trained, days):
    rows = toi.toi_rows(quick_start.load(trained()), "test", horizon=365, noise=0.01)
    day = days.assign(day=days["timestamp:float"] // DAY).groupby("user_id:token")["day"].agg(list)
    gaps = sorted(float(each[-1] - each[-2]) for each in day)
    assert sorted(rows["persistence"]["error"]) == gaps
    assert {len(values) for row in rows.values() for values in row.values()} == {60}
    assert all(((row["cosine"] >= -1.0001) & (row["cosine"] <= 1.0001)).all() for row in rows.values())
    assert (rows["model"]["width"] >= 1).all() and (rows["model"]["error"] >= 0).all()


def test_the_constant_is_the_best_one_for_the_training_rows(trained):
    run = quick_start.load(trained(time_encoding="rff"))
    encode, times = run.model.time_encoding, run.train._dataset.inter_feat[run.model.TOI]
    best = toi.mean_direction(encode, times)
    encodings = torch.nn.functional.normalize(encode(times.double()), dim=-1)
    mean = float((encodings @ best).mean())
    torch.manual_seed(0)
    for other in best + 0.1 * torch.randn(50, len(best)).double():
        assert float((encodings @ other / other.norm()).mean()) < mean


def test_the_command_prints_a_table_and_draws_a_figure(trained, tmp_path, capsys):
    folder = trained()
    assert cli.main(["plot", "toi", f"--run={folder}", f"--output={tmp_path / 'figure.png'}"]) == 0
    out = capsys.readouterr().out
    assert "PASRec" in out and "persistence" in out and "constant" in out and "60 test rows of toy" in out
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
    assert "time of another row" in (tmp_path / "figure.svg").read_text()
    summary = json.loads((tmp_path / "figure.json").read_text())
    assert summary["persistence"]["mae_days"] == pytest.approx((48 * 3 + 12 * 13) / 60)
    assert summary["persistence"]["within_7"] == pytest.approx(0.8)
    assert cli.main(["plot", "toi", f"--run={folder}", "--part=valid"]) == 0
    assert (tmp_path / folder / "toi.valid.png").exists() and (tmp_path / folder / "toi.valid.json").exists()


def test_a_model_that_has_learned_the_rhythm_beats_persistence(trained, capsys):
    """Steps are three days apart: the model can know it, persistence is always three days late."""
    folder = trained(epochs=30, eta=0.2, learning_rate=0.01, time_encoding="gaussian", sigma=0.05)
    rows = toi.toi_rows(quick_start.load(folder), "valid", horizon=365, noise=0.01)
    assert np.median(rows["model"]["error"]) < np.median(rows["persistence"]["error"]) == 3


@pytest.mark.parametrize(
    "given, message",
    [
        (["tsnee"], "no figure 'tsnee'. Did you mean tsne? There are: toi, tsne, curves"),
        (["tsne"], "plot tsne needs --runs="),
        (["curves", "--runs=x", "--run=x"], "plot curves needs --runs="),
        (["curves", "--runs=nowhere"], "there is no folder nowhere"),
        (["sweep", "--runs=x"], "plot sweep needs --key=KEY"),
        (
            ["sweep", "--runs=.", "--kye=x"],
            "no option --kye: did you mean --key? All its options are --runs, --run, --key",
        ),
        (["toi"], "plot toi needs --run=FOLDER"),
        (["toi", "--run=nowhere"], "there is no run in nowhere"),
        (["toi", "--run=x", "--parts=test"], "no option --parts"),
        (["toi", "--run=x", "--part=train"], "--part must be test or valid"),
        (["toi", "--run=x", "--horizon=-1"], "--horizon must be"),
        (["toi", "--run=x", "--noise=2"], "--noise must be"),
    ],
)
def test_bad_input_is_one_message(given, message, capsys):
    assert cli.main(["plot", *given]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and "Traceback" not in error


def test_a_run_without_times_is_refused(trained, capsys):
    assert cli.main(["plot", "toi", f"--run={trained('PreferDiff')}"]) == 2
    assert "PreferDiff predicts no times" in capsys.readouterr().err


def test_a_figure_that_cannot_be_written_is_one_message(trained, tmp_path, capsys):
    folder = trained()
    (tmp_path / "file").write_text("")
    for name in ("file/figure.png", "figure.xyz", "saved"):
        assert cli.main(["plot", "toi", f"--run={folder}", f"--output={tmp_path / name}"]) == 2
        assert "cannot be written" in capsys.readouterr().err


def test_the_help_lists_figures_and_the_options_of_each(capsys):
    assert cli.main(["plot", "--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"\n  {name} " in out for name in ("toi", "tsne", "curves", "sweep", "schedules"))
    for name, figure in command.FIGURES.items():
        assert cli.main(["plot", name, "--help"]) == 0
        out = capsys.readouterr().out
        assert all(f"--{key}=" in out for key in figure.options) and max(map(len, out.splitlines())) <= 120


LIGHT = """
import sys, types
package = sys.modules["recbole_gen"] = types.ModuleType("recbole_gen")
package.__path__ = [sys.argv[1]]
from recbole_gen.errors import UserError
from recbole_gen.plot import command
command.main(["--help"])
command.main(["toi", "--help"])
for wrong in (["tio"], ["toi", "--rnu=x"]):
    try:
        command.main(wrong)
    except UserError:
        continue
    raise SystemExit(f"{wrong} is taken")
heavy = {"numpy", "pandas", "pyarrow", "torch", "recbole", "matplotlib"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_help_and_mistakes_need_no_libraries():
    package = str(Path(command.__file__).parents[1])
    subprocess.run([sys.executable, "-c", LIGHT, package], check=True, stdout=subprocess.DEVNULL)
