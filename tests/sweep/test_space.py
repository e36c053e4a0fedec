"""Search spaces: what a file means, what is drawn from it, and what is said of one that means nothing."""

import itertools
import math
import random
import re
from pathlib import Path

import numpy as np
import pytest
from conftest import ON_ML_100K
from ray import tune
from ray.tune.search.variant_generator import generate_variants

from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.config.key_table import key_table
from recbole_gen.config.keys import known_keys
from recbole_gen.config.layers import selected_run, shipped_layers
from recbole_gen.config.places import PROPERTIES
from recbole_gen.errors import UserError
from recbole_gen.options import read_yaml
from recbole_gen.sweep.space import Dimension, Space
from recbole_gen.sweep.space_checks import require_allowed_values
from recbole_gen.sweep.space_file import read_space

EVERY_KIND = """
learning_rate: {loguniform: [1e-4, 1.0e-2]}
dropout_prob: {uniform: [0, 0.5]}
gamma: {quniform: [0.0, 1.0, 0.25]}
n_layers: {randint: [1, 4]}
inner_size: {qrandint: [64, 256, 64]}
timesteps: {lograndint: [10, 1000]}
hidden_size: {choice: [32, 64]}
guidance_scale: {grid: [0, 2, 4]}
epochs: 20
"""
IN_RANGE = {
    "learning_rate": lambda v: type(v) is float and 1e-4 <= v <= 1e-2,
    "dropout_prob": lambda v: type(v) is float and 0 <= v <= 0.5,
    "gamma": lambda v: v in (0.0, 0.25, 0.5, 0.75, 1.0),
    "n_layers": lambda v: type(v) is int and v in (1, 2, 3),
    "inner_size": lambda v: type(v) is int and v in (64, 128, 192, 256),
    "timesteps": lambda v: type(v) is int and 10 <= v < 1000,
    "hidden_size": lambda v: v in (32, 64),
    "guidance_scale": lambda v: v in (0, 2, 4),
    "epochs": lambda v: v == 20,
}


@pytest.fixture
def read(tmp_path):
    """read(text, name) reads a file of that name that holds the text."""

    def write_and_read(text: str, name: str = "space.yaml") -> Space:
        (tmp_path / name).write_text(text)
        return read_space(tmp_path / name)

    return write_and_read


class Trial:
    """The suggest_* of an Optuna trial, with a random choice; ``asked`` has what was asked for."""

    def __init__(self, seed: int = 0):
        self.random, self.asked = random.Random(seed), {}

    def suggest_float(self, name, low, high, *, step=None, log=False):
        self.asked[name] = ("float", low, high, step, log)
        return self.random.uniform(low, high) if step is None else low + step * self.random.randrange(3)

    def suggest_int(self, name, low, high, *, step=1, log=False):
        self.asked[name] = ("int", low, high, step, log)
        return self.random.randrange(low, high + 1, step)

    def suggest_categorical(self, name, choices):
        assert all(isinstance(choice, (str, int, float, bool, type(None))) for choice in choices)
        self.asked[name] = ("categorical", list(choices))
        return self.random.choice(choices)


def test_every_kind_is_drawn_from_its_range_as_plain_python(read):
    points = read(EVERY_KIND).sample(40, seed=1)
    assert len(points) == 120 and all(list(point) == list(IN_RANGE) for point in points)
    for name, holds in IN_RANGE.items():
        assert all(holds(point[name]) for point in points), name
    assert {point["n_layers"] for point in points} == {1, 2, 3}  # the upper end excluded, the lower one not
    assert {point["inner_size"] for point in points} == {64, 128, 192, 256}
    assert {point["hidden_size"] for point in points} == {32, 64}
    assert len({point["learning_rate"] for point in points}) == 120  # drawn anew at each point of the grid


def test_loguniform_is_even_in_the_logarithm(read):
    points = read("learning_rate: {loguniform: [1e-4, 1e-2]}").sample(400, seed=0)
    logarithms = np.log10([point["learning_rate"] for point in points])
    counts, _ = np.histogram(logarithms, bins=4, range=(-4, -2))
    assert abs(counts - 100).max() < 40  # four and a half standard deviations of a quarter of 400


def test_the_grid_is_rays(read):
    ours = read("a: {grid: [1, 2]}\nb: {grid: [x, y, z]}\nc: 5").sample(2, seed=0)
    spec = {"a": tune.grid_search([1, 2]), "b": tune.grid_search(["x", "y", "z"]), "c": 5}
    rays = [variant for _ in range(2) for _, variant in generate_variants(spec)]
    assert sorted(map(str, ours)) == sorted(map(str, rays))
    assert ours[:6] == [{"a": a, "b": b, "c": 5} for a, b in itertools.product([1, 2], "xyz")]


def test_samples_depend_on_the_seed_alone(read):
    one = read(EVERY_KIND)
    first = one.sample(3, seed=7)
    np.random.seed(99)
    random.seed(99)
    before = np.random.get_state()[1].tolist()
    assert one.sample(3, seed=7) == first and one.sample(3, seed=8) != first
    assert np.random.get_state()[1].tolist() == before
    assert one.sample(5, seed=7)[:9] == first  # more of them begin with the same


def test_number_counts_the_trials(read):
    one = read("a: {grid: [1, 2]}\nb: {grid: [1, 2, 3]}\nc: {uniform: [0, 1]}")
    assert one.num_trials(4) == 24 == len(one.sample(4, seed=0))
    for wrong in (0, -1, 1.5, True):
        with pytest.raises(UserError, match="num_samples must be a whole number of at least 1"):
            one.num_trials(wrong)
    with pytest.raises(UserError, match="seed must be"):
        one.sample(1, seed=-1)


CHAIN = """
ddim_stride: {choice: [10, 50], when: {sampling: ddim}}
sampling: {choice: [ddim, ancestral, other]}
ddim_compat: {choice: [true, false], when: {ddim_stride: 50, sampling: [ddim, other]}}
"""


def test_a_condition_decides_whether_a_key_is_set(read):
    points = read(CHAIN).sample(60, seed=0)
    for point in points:
        assert ("ddim_stride" in point) == (point["sampling"] == "ddim")
        assert ("ddim_compat" in point) == (point.get("ddim_stride") == 50)
    assert {point["sampling"] for point in points} == {"ddim", "ancestral", "other"}
    assert {point.get("ddim_compat") for point in points} == {None, True, False}


def test_a_grid_has_the_points_that_its_conditions_leave(read):
    one = read("sampling: {grid: [ddim, ancestral]}\nddim_stride: {grid: [10, 50], when: {sampling: ddim}}")
    ddim = [{"sampling": "ddim", "ddim_stride": 10}, {"sampling": "ddim", "ddim_stride": 50}]
    assert one.sample(1, seed=0) == [*ddim, {"sampling": "ancestral"}] and one.num_trials(3) == 9


def test_a_condition_tells_true_from_one(read):
    one = read("n: {grid: [1, true]}\nm: {grid: [5], when: {n: true}}")
    assert one.sample(1, seed=0) == [{"n": 1}, {"n": True, "m": 5}]


def test_optuna_is_asked_for_the_same_ranges(read):
    one, trial = read(EVERY_KIND), Trial()
    point = one.suggest(trial)
    assert list(point) == list(IN_RANGE) and point["epochs"] == 20
    assert trial.asked == {
        "learning_rate": ("float", 1e-4, 1e-2, None, True),
        "dropout_prob": ("float", 0, 0.5, None, False),
        "gamma": ("float", 0.0, 1.0, 0.25, False),
        "n_layers": ("int", 1, 3, 1, False),
        "inner_size": ("int", 64, 256, 64, False),
        "timesteps": ("int", 10, 999, 1, True),
        "hidden_size": ("categorical", [32, 64]),
        "guidance_scale": ("categorical", [0, 2, 4]),
    }


def test_optuna_is_asked_for_lists_as_text_and_only_where_the_condition_holds(read):
    one = read("mlp: {choice: [[64, 32], [128]]}\n" + CHAIN)
    points = [one.suggest(Trial(seed)) for seed in range(60)]
    assert {tuple(point["mlp"]) for point in points} == {(64, 32), (128,)}
    for point in points:
        assert ("ddim_stride" in point) == (point["sampling"] == "ddim")
    assert {point.get("ddim_compat") for point in points} == {None, True, False}


def test_the_file_of_recboles_documentation_reads_unchanged(read):
    """The example of its user guide, "Parameter Tuning"; there exp(uniform(low, high)) explains `loguniform`."""
    text = "learning_rate loguniform -8,0\nembedding_size choice [64,96,128]\n"
    text += "mlp_hidden_size choice ['[64,64,64]','[128,128]']\n"
    points = read(text, "model.hyper").sample(200, seed=0)
    logarithms = [math.log(point["learning_rate"]) for point in points]
    assert -8 <= min(logarithms) < -7.5 and -0.5 < max(logarithms) <= 0
    assert {point["embedding_size"] for point in points} == {64, 96, 128}
    assert {tuple(point["mlp_hidden_size"]) for point in points} == {(64, 64, 64), (128, 128)}


def test_recboles_other_kinds_and_its_loose_writing(read):
    text = (
        "\n# sizes\nembedding_size quniform 32, 128,32\n  dropout uniform 0,1.0   # share\ngamma quniform 0.0,1.0,0.5\n"
    )
    text += "tie choice (True, None, 'uniform') # any\n"
    points = read(text, "hyper.test").sample(100, seed=0)
    assert {point["embedding_size"] for point in points} == {32, 64, 96, 128}
    assert all(type(point["embedding_size"]) is int and 0 <= point["dropout"] <= 1 for point in points)
    assert {point["gamma"] for point in points} == {0.0, 0.5, 1.0}
    assert {point["tie"] for point in points} == {True, None, "uniform"}


def test_a_recbole_file_of_choices_is_its_exhaustive_search(read):
    one = read("learning_rate choice [0.01,0.005]\ntrain_batch_size choice [512,1024]\n", "bpr.hyper")
    pairs = itertools.product([0.01, 0.005], [512, 1024])
    assert one.sample(1, seed=0) == [{"learning_rate": a, "train_batch_size": b} for a, b in pairs]


def test_the_description_is_a_table_with_ranges_and_conditions(read):
    text = read(EVERY_KIND + "ddim_stride: {choice: [10, 50], when: {hidden_size: [32, 64]}}").describe()
    for part in (
        r"learning_rate\s+loguniform\s+0\.0001 to 0\.01",
        r"n_layers\s+randint\s+1 to 3",
        r"inner_size\s+qrandint\s+64 to 256 in steps of 64",
        r"guidance_scale\s+grid\s+0, 2, 4",
        r"epochs\s+constant\s+20",
        r"ddim_stride\s+choice\s+10, 50\s+hidden_size: 32 or 64",
        "the grid has 3 points",
    ):
        assert re.search(part, text), part


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "is empty"),
        ("learning_rate: [0.1, 0.01]\n", "nothing is searched.*every key has one value.*choice"),
        ("a: {loguniform: [1, 2]", "not valid YAML"),
        ("- a\n- b\n", "must hold `key: value` lines"),
        ("1: {choice: [1]}", "the key 1 is no name"),
        ("a: {choice: [1]}\nb: 2\na: {choice: [2]}\n", "line 3: 'a' is there twice, first in line 1"),
        ("a: {choice: [1, 2], choice: [3]}", "line 1: 'choice' is there twice"),
        ("\na: {loguniforn: [1, 2]}", r"space.yaml, line 2: a: there is no search 'loguniforn'. Did you mean log"),
        ("a: {choice: [1], grid: [2]}", "needs one of grid, choice, .* got choice, grid"),
        ("a: {when: {b: 1}}\nb: {choice: [1]}", "got none"),
        ("a: {uniform: [1]}", r"uniform needs \[low, high\], got \[1\]"),
        ("a: {quniform: [0, 1]}", r"quniform needs \[low, high, step\]"),
        ("a: {uniform: 3}", r"uniform needs \[low, high\], got 3"),
        ("a: {uniform: [2, 1]}", "low end below the high one, got 2 and 1"),
        ("a: {randint: [2, 2]}", "low end below the high one"),
        ("a: {uniform: [x, 1]}", "as numbers, got 'x'"),
        ("a: {uniform: [true, 2]}", "as numbers, got True"),
        ("a: {uniform: [0, .inf]}", "as numbers, got inf"),
        ("a: {randint: [1, 2.5]}", "as whole numbers, got 2.5"),
        ("a: {loguniform: [0, 1]}", "bounds above 0"),
        ("a: {lograndint: [-1, 5]}", "bounds above 0"),
        ("a: {quniform: [0, 1, 0.3]}", "a step that divides both ends, got 0, 1 and 0.3"),
        ("a: {qrandint: [1, 9, 4]}", "a step that divides both ends"),
        ("a: {quniform: [0, 1, 0]}", "a step above 0"),
        ("a: {qrandint: [1, 9, 1]}", r"steps of 1 are randint: \[1, 10\]"),
        ("a: {choice: []}", r"choice needs a list of at least one value, such as \[32, 64\], got \[\]"),
        ("a: {grid: 3}", "grid needs a list of at least one value"),
        ("a: {choice: [1, 2, 1.0]}", "has the value 1.0 twice"),
        ("a: {choice: [1, 2], when: {bb: 1}}\nbbb: {choice: [1]}", "names 'bb'.* Did you mean 'bbb'"),
        ("a: {choice: [1, 2], when: 3}", "`when` must name a key and its value"),
        ("a: {choice: [1, 2], when: {b: []}}\nb: {choice: [1]}", "`when` must name"),
        ("a: {choice: [1, 2], when: {b: 3}}\nb: {choice: [1, 2]}", "asks for b: 3, which 'b' never is: it is 1, 2"),
        ("a: {choice: [1, 2], when: {b: 4}}\nb: {randint: [1, 4]}", "'b' never is: it is 1 to 3"),
        ("a: {choice: [1, 2], when: {b: 0.5}}\nb: {uniform: [0, 1]}", "'b' is drawn from uniform"),
        ("a: {grid: [1, 2], when: {b: 1}}\nb: {choice: [1, 2]}", "a grid cannot depend on 'b'"),
        ("a: {choice: [1], when: {b: 1}}\nb: {choice: [1], when: {a: 1}}", "circle: a -> b -> a"),
        ("a: {choice: [1], when: {a: 1}}", "circle: a -> a"),
        ("dataset: {choice: [ml-100k, ml-1m]}", "dataset: belongs to the whole sweep"),
        ("model: DreamRec\na: {choice: [1, 2]}", "model: belongs to the whole sweep"),
        ("nproc: {choice: [1, 2]}", "nproc: belongs to the whole sweep"),
        ("protocol: {choice: [leave_one_out, time_811]}", "decides what is scored"),
        ("tie_seed: {choice: [1, 2]}", "decides what is scored"),
        ("period_start: {choice: [0.7, 0.8]}", "decides what is scored"),
        ("\n".join(f"k{i}: {{grid: [1, 2, 3, 4, 5, 6, 7, 8]}}" for i in range(12)), "grid .* has 68719476736 points"),
    ],
)  # fmt: skip
def test_a_wrong_space_is_one_message(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text)


@pytest.mark.parametrize(
    "text, message",
    [
        ("\n# only a remark\n", "is empty"),
        ("learning_rate choice\n", r"a.hyper, line 1: 'learning_rate choice' is not of RecBole's form"),
        ("a choice [1,2]\na choice [3]\n", "line 2: 'a' is there twice, first in line 1"),
        ("a unifrom 1,2", "no search 'unifrom'. Did you mean uniform"),
        ("a randint 1,2", "a file whose name ends in .yaml may have"),
        ("a uniform 1", r"uniform needs \[low, high\]"),
        ("a uniform 1,x", "got 'x'"),
        ("a loguniform 0,-8", "exponents of e.*low end below the high one"),
        ("a loguniform 0,1000", "e\\^1000 is too large"),
        ("a choice 3", "choice needs a list"),
        ("a choice [__import__('os').getcwd(), 1]", "choice needs a list"),
        ("model choice ['BPR','Pop']", "belongs to the whole sweep"),
    ],
)
def test_a_wrong_recbole_file_is_one_message(read, text, message):
    with pytest.raises(UserError, match=message):
        read(text, "a.hyper")


def test_a_file_that_is_missing_or_no_text_is_one_message(read, tmp_path):
    for name in ("none.yaml", "none.hyper"):
        with pytest.raises(UserError, match=f"there is no .*{name}"):
            read_space(tmp_path / name)
    for name in ("bytes.yaml", "bytes.hyper"):
        (tmp_path / name).write_bytes(b"\xff\xfe\x00a")
        with pytest.raises(UserError, match=name):
            read_space(tmp_path / name)
    (tmp_path / "folder.hyper").mkdir()
    with pytest.raises(UserError, match="cannot be read"):
        read_space(tmp_path / "folder.hyper")


def test_a_seed_may_be_searched_and_a_protocol_may_be_fixed(read):
    points = read("seed: {grid: [1, 2]}\nprotocol: time_811\neval_args: {choice: [{order: TO}]}").sample(1, seed=0)
    assert points == [{"seed": n, "protocol": "time_811", "eval_args": {"order": "TO"}} for n in (1, 2)]


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_point_of_a_published_space_is_a_run(name):
    one = read_space(PROPERTIES / f"tune/{name}.yaml")
    points = [*one.sample(4, seed=0)[:5], one.suggest(Trial())]
    for point in points:
        config = Config(model=name, dataset="ml-100k", config_dict={**ON_ML_100K.get(name, {}), **point})
        assert {key: config[key] for key in point} == point
        if name in ("PASRec", "PreferDiff"):  # which sample by DDIM; DreamRec does on request
            assert config["timesteps"] % config["ddim_stride"] == 0


def test_pasrec_searches_a_width_only_where_the_encoding_has_one():
    points = read_space(PROPERTIES / "tune/PASRec.yaml").sample(30, seed=0)
    assert {(point["time_encoding"], "sigma" in point) for point in points} == {
        ("sinusoidal", False), ("gaussian", True), ("rff", True)
    }  # fmt: skip


def test_the_published_grid_of_acvae_is_that_of_its_section_4_7():
    points = read_space(PROPERTIES / "tune/ACVAE.yaml").sample(1, seed=0)
    alphas, betas = (0.0, 0.05, 0.1, 0.2), (0.0, 0.05, 0.1, 0.2, 0.3, 0.5, 1.0)
    assert [tuple(point.values()) for point in points] == list(itertools.product(alphas, betas))


def test_a_space_is_read_back_from_its_yaml_and_may_do_without_a_grid(read, tmp_path):
    one = read(
        "learning_rate: {loguniform: [1.0e-5, 0.1]}\nepochs: 3\nsampling: {grid: [ddim, ancestral]}\n"
        "timesteps: {qrandint: [10, 100, 10]}\nddim_stride: {choice: [5, 10], when: {sampling: ddim}}\n"
        "history_optimizer: {choice: [{learner: adam}, ~]}\n"
    )
    (tmp_path / "again.yaml").write_text(one.as_yaml())
    assert read_space(tmp_path / "again.yaml") == one and one.num_trials(3) == 6
    drawn = one.without_grid()
    assert drawn.num_trials(3) == 3 and {point["sampling"] for point in drawn.sample(20, seed=0)} == {
        "ddim",
        "ancestral",
    }
    assert drawn.dimensions["ddim_stride"] == one.dimensions["ddim_stride"]


def test_there_is_a_space_for_each_of_our_models_and_some_of_recbole():
    names = {file.stem for file in (PROPERTIES / "tune").iterdir()}
    assert names == {*registry.MODELS, "SASRec", "GRU4Rec", "BERT4Rec", "FPMC"}


def model_of_label(file: Path) -> str:
    """The model of a leaderboard's spaces/LABEL.yaml or models/LABEL.yaml: LABEL, or what the latter says."""
    own = file.parents[1] / "models" / file.name
    return (read_yaml(own) if own.exists() else {}).get("model", file.stem)


@pytest.mark.parametrize(
    "file",
    sorted([*(PROPERTIES / "tune").iterdir(), *(PROPERTIES / "leaderboard").glob("*/spaces/*")]),
    ids=lambda file: str(file.relative_to(PROPERTIES)),
)
def test_a_space_has_keys_of_its_model_and_values_that_runs_may_have(file):
    model = model_of_label(file)
    info, space = registry.model_info(model), read_space(file)
    selected = selected_run([("model", {"model": model, "dataset": "ml-100k"})])
    assert space.dimensions.keys() <= known_keys(shipped_layers(info, selected)[0])
    require_allowed_values(space.dimensions.values(), key_table(info), str(file))


@pytest.mark.parametrize(
    "file", sorted((PROPERTIES / "leaderboard").glob("*/models/*")), ids=lambda file: str(file.relative_to(PROPERTIES))
)
def test_what_a_leaderboard_fixes_are_keys_of_its_model_that_are_not_searched(file):
    model, fixed = model_of_label(file), read_yaml(file).keys() - {"model"}
    selected = selected_run([("model", {"model": model, "dataset": "ml-100k"})])
    assert fixed <= known_keys(shipped_layers(registry.model_info(model), selected)[0])
    own = file.parents[1] / "spaces" / file.name
    space = read_space(own if own.exists() else PROPERTIES / "tune" / f"{model}.yaml")
    assert not fixed & space.dimensions.keys()


@pytest.mark.parametrize(
    "model, line, pattern",
    [
        ("DreamRec", "dropout_prob: {uniform: [0.0, 1.5]}", "dropout_prob must be from 0 to 1, got 1.5 "),
        ("DreamRec", "timesteps: {randint: [1, 50]}", "timesteps must be a whole number from 2 to 100000, got 1 "),
        ("DreamRec", "timesteps: {uniform: [2, 50]}", "timesteps must be a whole number, got 2.0 "),
        ("DreamRec", "hidden_size: {lograndint: [4, 32768]}", "hidden_size must be a whole number .*got 32767 "),
        ("DreamRec", "sampling: {choice: [ancestral, ddpm]}", "sampling must be one of ancestral, ddim, got 'ddpm' "),
        ("DreamRec", "learning_rate: {quniform: [0, 0.1, 0.1]}", "learning_rate must be a positive number, got 0.0 "),
        ("SASRec", "n_layers: {grid: [1, 1000]}", "n_layers must be a whole number from 1 to 100, got 1000 "),
        ("SASRec", "epochs: 1:30\nn_heads: {choice: [1, 2]}", "epochs must be a whole number, got '1:30' "),
    ],
)
def test_a_value_that_no_run_may_have_is_told_before_the_first_trial(
    model, line, pattern, arguments, refused, tmp_path
):
    (tmp_path / "space.yaml").write_text(f"{line}\n")
    given = [each for each in arguments(model=model) if each.partition("=")[0][2:] not in line]
    command = ["tune", *given, f"--space={tmp_path}/space.yaml", f"--output={tmp_path}/sweep"]
    refused(command, rf"{pattern}\(.*space\.yaml\)")
    assert not (tmp_path / "sweep").exists()


def test_ends_that_are_allowed_are_no_mistake():
    table = key_table(registry.model_info("DreamRec"))
    searched = [
        Dimension("dropout_prob", "uniform", (0, 1)), Dimension("timesteps", "randint", (2, 100_001)),
        Dimension("timesteps", "qrandint", (2, 100_000, 2)), Dimension("sampling", "choice", ("ancestral", "ddim")),
        Dimension("last_events", "grid", (None, 5)), Dimension("checkpoint_dir", "constant", (7,)),
    ]  # fmt: skip
    require_allowed_values(searched, table, "space.yaml")
