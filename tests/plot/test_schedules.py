"""`plot schedules` against the formulas as the papers print them."""

import numpy as np
import pytest

from recbole_gen import cli
from recbole_gen.plot import schedules


def test_levels_are_those_of_diffrec_section_5_3_1():
    n = np.arange(1, 1001) / 1000
    own, levels = schedules.model_levels("DiffRec", "ml-100k")
    assert own == "DiffRec (default: sqrt)" and set(levels) == {"linear", "cosine", "sqrt"}
    np.testing.assert_allclose(levels["sqrt"][:-1], (1 - np.sqrt(n + 0.0001))[:-1], rtol=1e-5)
    cosine = np.cos((np.append(0, n) + 0.008) / 1.008 * np.pi / 2) ** 2
    np.testing.assert_allclose(levels["cosine"][:-1], (cosine[1:] / cosine[0])[:-1], rtol=1e-5)
    np.testing.assert_allclose(levels["linear"], np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)), rtol=1e-4)


def test_each_model_draws_the_family_it_uses():
    families = schedules.family_levels(timesteps=1000)
    dreamrec, diffrec = families.values()
    assert set(dreamrec) == {"linear", "exp", "cosine", "sqrt"} and set(diffrec) == {"linear", "cosine", "sqrt"}
    for model, family in (("DreamRec", dreamrec), ("DiffRec", diffrec)):
        assert model in next(name for name, levels in families.items() if levels is family)
        _, levels = schedules.model_levels(model, "ml-100k", settings={"timesteps": 1000})
        for name, level in levels.items():
            np.testing.assert_array_equal(level, family[name])
    assert dreamrec["sqrt"][0] > 0.975 > diffrec["sqrt"][0]  # the level before the first step is 0.99, or 1


def test_the_command_draws_the_levels_by_step(tmp_path, capsys):
    name = tmp_path / "figure"
    line = ["plot", "schedules", "--timesteps=50", "--schedules=linear,exp", f"--output={name}"]
    assert cli.main(line) == 0
    out = capsys.readouterr().out
    assert f"drawn in {name}.png and {name}.svg" in out and out.count("linear") == 2 and out.count("exp") == 1
    first = (tmp_path / "figure.svg").read_bytes()
    assert cli.main(line) == 0
    assert (tmp_path / "figure.svg").read_bytes() == first
    levels = schedules.family_levels(["linear", "exp"], 50, beta_end=0.5)
    figure = schedules.draw_schedules(levels)
    left = figure.axes[0].get_lines()[0]
    np.testing.assert_array_equal(left.get_xdata(), np.arange(1, 51))
    np.testing.assert_allclose(left.get_ydata(), np.cumprod(1 - np.linspace(1e-4, 0.5, 50)), rtol=1e-4)


@pytest.mark.parametrize(
    "given, message",
    [
        (["--schedules=cosin"], "no noise schedule 'cosin'; did you mean cosine"),
        (["--timesteps=1"], "timesteps must be at least 2"),
        (["--timesteps=many"], "--timesteps must be a number"),
        (["--beta_end=2"], "noise rates must lie strictly between 0 and 1"),
        (["--model=SASRec"], "SASRec has no noise schedule"),
        (["--model=DiffRec", "--schedules=exp"], "unknown noise schedule 'exp'"),
        (["--model=DreamRek"], "Did you mean DreamRec"),
    ],
)
def test_bad_input_is_one_message(given, message, refused):
    refused(["plot", "schedules", *given], message)
