"""A slice of benchmarks/random_settings.py, and what is said of settings with which RecBole's own code fails."""

import importlib.util
import sys
from pathlib import Path

import pytest

from recbole_gen import cli, quick_start
from recbole_gen.config.config import Config
from recbole_gen.errors import UserError

FILE = Path(__file__).parents[2] / "benchmarks/random_settings.py"
MODELS = ["DreamRec", "PASRec", "ACVAE", "BPR", "SASRec", "NeuMF", "HGN"]


@pytest.fixture(scope="module")
def random_settings():
    spec = importlib.util.spec_from_file_location("random_settings", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    sys.modules.pop("random_settings", None)


def test_random_settings_are_refused_or_run(random_settings, tmp_path):
    random_settings.write_log(tmp_path)
    base = {model: random_settings.base_settings(model, tmp_path) for model in MODELS}
    defaults = {model: Config(config_dict=base[model]).settings() for model in MODELS}
    outcomes = []
    for number in range(60):
        model, drawn = random_settings.draw_settings(number, 15, defaults, MODELS)
        try:
            config = Config(config_dict={**base[model], **drawn})
        except UserError as error:
            outcomes.append("refused")
            assert any(key in str(error) for key in drawn), (drawn, str(error))
            continue
        assert random_settings.nonsense(drawn, defaults[model], config) == [], drawn
        outcomes.append("accepted")
    assert 0.5 < outcomes.count("refused") / len(outcomes) < 0.95


# What RecBole's code raises


def test_what_a_model_of_recboles_raises_because_of_a_setting_is_one_message(refused, arguments, tmp_path):
    message = refused(
        arguments("--n_facet_reranker=2", "--reranker_CAN_NUM=5", model="SASRecCPR"),
        "SASRecCPR does not work with these settings .*n_facet_reranker: 2.*AssertionError: self.n_facet",
    )
    assert "state=DEBUG" in message
    refused(
        arguments("--unload_col={inter: [timestamp]}", "--load_col={inter: [user_id, item_id]}", model="BPR"),
        "the data set 'toy' does not work with these settings .*unload_col.*can not be set the same time",
    )


@pytest.mark.parametrize("model, given", [("BPR", {}), ("DreamRec", {"hidden_size": 8})])
def test_without_a_setting_to_blame_an_error_keeps_its_traceback(model, given, run, monkeypatch):
    def calculate_loss(self, interaction):
        raise RuntimeError("a defect")

    model_class = Config(model, "ml-100k").model_class
    monkeypatch.setattr(model_class, "calculate_loss", calculate_loss)
    with pytest.raises(RuntimeError, match="a defect") as caught:
        run(model, epochs=1, **given)
    assert not isinstance(caught.value, UserError)


def test_a_weight_decay_with_a_list_of_regularisation_weights(run):
    assert run("SHAN", epochs=1, weight_decay=0.1)["epochs"] == 1


def test_a_model_that_does_not_fit_into_memory_is_one_message(make_config, walks, monkeypatch):
    config = make_config("DreamRec")

    def __init__(self, config, dataset):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000 bytes")

    monkeypatch.setattr(config.model_class, "__init__", __init__)
    with pytest.raises(UserError, match="not enough memory for DreamRec of this size"):
        quick_start.create_model(config, None)


@pytest.mark.parametrize("given", ["--USER_ID_FIELD=item_id", "--TIME_FIELD=user_id"])
def test_one_column_is_not_two(given, refused, arguments):
    refused(arguments(given), "must name two columns, got '(user|item)_id' for both")


@pytest.mark.parametrize("given", ["--gpu_id=all", "--gpu_id=1e20", "--gpu_id=[0, x]", "--data_cache=.nan"])
def test_no_such_device_or_folder(given, refused, arguments):
    refused(arguments(given), rf"{given[2:].partition('=')[0]} must be ")


def test_devices_are_numbers(arguments):
    for given in ("--gpu_id=0,1", "--gpu_id=-1", "--gpu_id=[0, 1]"):
        assert cli.main(arguments(given, "--epochs=0")) == 0
