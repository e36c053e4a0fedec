"""The layers of the configuration: order, origins, parsing, and the way back from a stored run."""

import re
import sys

import numpy as np
import pytest
import yaml
from recbole.model.general_recommender import BPR

from recbole_gen import cli
from recbole_gen.config import places, registry
from recbole_gen.config.config import Config
from recbole_gen.config.places import RECBOLE_PROPERTIES
from recbole_gen.errors import UserError
from recbole_gen.model.dreamrec import DreamRec
from recbole_gen.options import YamlLoader, parse_arguments, parse_scalar


@pytest.fixture
def properties(tmp_path, monkeypatch, walks):
    """A copy of properties/ in which each file sets the keys of all layers above it, too: `state_N` for layer N."""
    folder = tmp_path / "properties"
    monkeypatch.setattr(places, "PROPERTIES", folder)
    for name, lines in {
        "overall.yaml": "",
        "recbole.yaml": "",
        "model/DreamRec.yaml": "",
        "dataset/toy.yaml": "load_col: ~\n",
        "protocol/leave_one_out.yaml": "",
        "paper/mine.yaml": "model: DreamRec\ndataset: toy\n",
    }.items():
        original = places.ROOT / "properties" / name
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text((original.read_text() if original.exists() else "") + lines)
    return folder


# Whole-number keys of RecBole's overall.yaml, one for each layer that is the last to set it.
LAYERS = {
    "metric_decimal_place": "overall.yaml",
    "loss_decimal_place": "model/DreamRec.yaml",
    "epochs": "dataset/toy.yaml",
    "train_batch_size": "protocol/leave_one_out.yaml",
    "eval_batch_size": "paper/mine.yaml",
    "eval_step": "{tmp_path}/first.yaml",
    "stopping_step": "{tmp_path}/second.yaml",
    "worker": "dict",
    "seed": "command line",
}


def test_each_layer_wins_over_the_one_before(properties, tmp_path):
    keys, given = list(LAYERS), {}
    for number, origin in enumerate(LAYERS.values(), start=1):
        values = dict.fromkeys(keys[number - 1 :], number)  # its own key, and those of all layers above
        if origin == "dict":
            given = values
        elif origin == "command line":
            line = [f"--{key}={value}" for key, value in values.items()]
        else:
            path = tmp_path / origin.format(tmp_path=tmp_path).removeprefix(f"{tmp_path}/")
            path = path if "first" in origin or "second" in origin else properties / origin
            lines = yaml.safe_load(path.read_text()) or {} if path.exists() else {}
            path.write_text(yaml.safe_dump({**lines, **values}))
    made = Config(
        config_file_list=[tmp_path / "first.yaml", tmp_path / "second.yaml"],
        config_dict={**given, "data_path": str(tmp_path)},
        argv=["--paper=mine", *line],
    )
    assert {key: made[key] for key in keys} == {key: number for number, key in enumerate(keys, start=1)}
    assert {key: made.origins[key] for key in keys} == {
        key: origin.format(tmp_path=tmp_path) for key, origin in LAYERS.items()
    }
    assert made.origins["clip_grad_norm"] == "RecBole overall.yaml"
    assert made.origins["MAX_ITEM_LIST_LENGTH"] == "model/DreamRec.yaml"
    shown = {line.partition(":")[0]: line.partition("  # ")[2] for line in made.describe().splitlines()}
    assert shown.items() >= {key: made.origins[key] for key in keys}.items()


def test_recboles_files_for_a_model_and_a_data_set_are_layers():
    made = Config(model="SASRec", dataset="ml-100k")
    assert made.origins["n_layers"] == "RecBole model/SASRec.yaml"
    assert made.origins["repeatable"] == "RecBole sequential.yaml"
    assert made.origins["metrics"] == "overall.yaml"
    assert made.origins["eval_args"] == "protocol/leave_one_out.yaml"
    assert made.origins["load_col"] == "RecBole dataset/ml-100k.yaml"
    assert made.origins["field_separator"] == "RecBole sample.yaml"  # which RecBole's ml-100k.yaml only repeats


def test_print_config_shows_values_and_origins_and_does_nothing(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.iterdir())
    assert cli.main([*arguments("--learning_rate=1e-3", "--epochs=7"), "--print-config"]) == 0
    out, message = capsys.readouterr()
    assert message == "" and sorted(tmp_path.iterdir()) == before
    lines = {line.partition(":")[0]: line for line in out.splitlines()}
    assert lines["epochs"].split("#") == ["epochs: 7".ljust(62), " command line"]
    assert re.fullmatch(r"noise_schedule: \w+ +# model/DreamRec.yaml", lines["noise_schedule"])
    assert lines["worker"].endswith("# RecBole overall.yaml")
    assert re.fullmatch(r"protocol: leave_one_out +# given", lines["protocol"])
    values = yaml.load(out, Loader=YamlLoader)
    assert values["learning_rate"] == 0.001 and values["epochs"] == 7 and values["topk"] == [5, 10, 20]
    assert values.keys() == lines.keys()


def test_nothing_is_evaluated(make_config, walks, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code = "__import__('os').system('touch x')"
    assert parse_scalar(code) == code
    assert parse_scalar("!!python/object/apply:os.system ['touch x']").startswith("!!python")
    assert make_config(wandb_project=code)["wandb_project"] == code
    line = [f"--data_path={tmp_path}", f"--wandb_project={code}"]
    made = Config(model="BPR", dataset="toy", argv=line)
    assert made["wandb_project"] == code
    assert parse_scalar("1 + 1") == "1 + 1"
    assert parse_scalar("::") == "::" and parse_scalar(":") == ":" and parse_scalar("a:") == "a:"  # separators
    assert parse_scalar("{a: 1}") == {"a": 1} == parse_scalar("a: 1")
    assert not (tmp_path / "x").exists()


def test_sys_argv_is_not_read(make_config, walks, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["prog", "--epochs=77", "--learning_rate=77", "--nonsense=1"])
    made = make_config("BPR", epochs=3)
    assert (made["epochs"], made["learning_rate"]) == (3, 0.001)


@pytest.mark.parametrize(
    "text, value",
    [
        ("['Recall','NDCG']", ["Recall", "NDCG"]),
        ("{'LS': 'valid_and_test'}", {"LS": "valid_and_test"}),
        ("{'split': {'RS': [0.8, 0.1, 0.1]}, 'order': 'TO'}", {"split": {"RS": [0.8, 0.1, 0.1]}, "order": "TO"}),
        ("1e-3", 0.001), ("1E5", 1e5), (".5", 0.5), ("-.5e1", -5.0), ("5.", 5.0), ("1", 1), ("-3", -3),
        ("None", None), ("~", None), ("null", None), ("True", True), ("false", False), ("[10,20]", [10, 20]),
        ("NDCG@10", "NDCG@10"), ("[0,inf)", "[0,inf)"), ("ml-100k", "ml-100k"), ("\t", "\t"), (" ", " "), ("", ""),
        ("[5", "[5"), ("2024-13-45", "2024-13-45"), ("a: b: c", "a: b: c"), ("1e", "1e"), ("e5", "e5"),
    ],
)  # fmt: skip
def test_values_are_read_as_yaml(text, value):
    parsed = parse_scalar(text)
    assert parsed == value and type(parsed) is type(value)


def test_forms_of_the_command_line():
    assert parse_arguments(["-m", "BPR", "-d", "toy", "--epochs", "3", "--topk", "[5, 10]", "--a=b=c"]) == {
        "model": "BPR", "dataset": "toy", "epochs": 3, "topk": [5, 10], "a": "b=c",
    }  # fmt: skip
    assert parse_arguments(["--mask_history", "--learning_rate", "-1", "--use_gpu"]) == {
        "mask_history": True, "learning_rate": -1, "use_gpu": True,
    }  # fmt: skip
    assert parse_arguments(["--epochs=3", "--epochs", "3"]) == {"epochs": 3}
    for bad in (["-x", "3"], ["3"], ["--a=1", "b"], ["--a=1", "--a=2"], ["-m=BPR"]):
        with pytest.raises(UserError):
            parse_arguments(bad)


def test_a_dict_takes_strings_as_recbole_does(make_config, walks):
    made = make_config("BPR", epochs="3", learning_rate="1e-2", topk="[5,10]", train_batch_size=np.int64(8))
    assert (made["epochs"], made["learning_rate"], made["topk"], made["train_batch_size"]) == (3, 0.01, [5, 10], 8)
    assert type(make_config("BPR", weight_decay=np.float64(0.5)).settings()["weight_decay"]) is float


@pytest.mark.parametrize("value", [True, False, "auto", "some/folder"])
def test_the_data_cache_is_a_switch_or_text(value, make_config, walks):
    assert make_config("BPR", data_cache=value)["data_cache"] == value


@pytest.mark.parametrize("value", [None, "", " ", ["a"], {"a": 1}])
def test_the_data_cache_is_nothing_else(value, make_config, walks):
    with pytest.raises(UserError, match="data_cache must be True or False or the name of a folder"):
        make_config("BPR", data_cache=value)


def test_configuration_files_are_separated_by_blanks(walks, tmp_path):
    (tmp_path / "a.yaml").write_text("epochs: 3\nlearning_rate: 0.5\n")
    (tmp_path / "b.yaml").write_text("epochs: 4\n")
    line = [f"--data_path={tmp_path}", f"--config_files={tmp_path}/a.yaml {tmp_path}/b.yaml"]
    made = Config(model="BPR", dataset="toy", argv=line)
    assert (made["epochs"], made["learning_rate"]) == (4, 0.5)
    assert made.origins["learning_rate"] == f"{tmp_path}/a.yaml"
    line[1] = f"--config_files=[{tmp_path}/b.yaml, {tmp_path}/a.yaml]"
    made = Config(model="BPR", dataset="toy", argv=line)
    assert made["epochs"] == 3


def test_parts_of_eval_args_keep_the_others(make_config, walks):
    made = make_config("BPR", eval_args={"split": {"RS": [0.5, 0.2, 0.3]}})
    assert made["eval_args"] == {
        "split": {"RS": [0.5, 0.2, 0.3]}, "group_by": "user", "order": "TO", "mode": {"valid": "full", "test": "full"},
    }  # fmt: skip


@pytest.mark.parametrize("model", ["DreamRec", "SASRec", "BPR", "FPMC"])
def test_settings_given_back_give_the_same_settings(model, make_config, walks):
    first = make_config(model, topk="[5, 10]", learning_rate=0.25, seed=7)
    stored = first.settings()
    again = Config(config_dict=stored)
    assert again.settings() == stored
    for made in (again, Config(stored=stored), Config(config_dict=yaml.safe_load(yaml.safe_dump(stored)))):
        ours, theirs = made.final_config_dict, first.final_config_dict
        assert {key: ours[key] for key in theirs} == theirs
    assert Config(stored=stored, argv=["--seed=8"])["seed"] == 8
    assert Config(stored=stored).origins["learning_rate"] == "resumed run"


def test_settings_hold_plain_data_only(make_config, walks):
    def plain(value):
        if isinstance(value, dict):
            return all(isinstance(key, str) and plain(item) for key, item in value.items())
        return all(map(plain, value)) if isinstance(value, list) else type(value) in (int, float, str, bool, type(None))

    stored = make_config("SASRec", topk=[5, 10], learning_rate=np.float32(0.5)).settings()
    assert plain(stored) and stored["topk"] == [5, 10] and stored["learning_rate"] == 0.5


def test_a_class_is_stored_by_its_path(walks, tmp_path):
    made = Config(model=DreamRec, dataset="toy", config_dict={"data_path": str(tmp_path)})
    assert made.settings()["model"] == "recbole_gen.model.dreamrec:DreamRec"
    assert made.origins["timesteps"] == "model/DreamRec.yaml" and not made.is_recbole_model
    theirs = Config(model=BPR, dataset="toy", config_dict={"data_path": str(tmp_path)})
    assert theirs.is_recbole_model and theirs["embedding_size"] == 64


def test_recboles_yaml_is_not_mixed_into_a_class_of_that_name(custom, walks, tmp_path, make_config):
    theirs = yaml.safe_load((RECBOLE_PROPERTIES / "model/DiffRec.yaml").read_text())
    assert "noise_scale" in theirs and "steps" in theirs
    custom.DiffRec = type("DiffRec", (custom.Custom,), {"__module__": "custom"})
    made = make_config("custom:DiffRec")
    assert made["model"] == "DiffRec" and made.model_class is custom.DiffRec and not made.is_recbole_model
    assert made["noise_scale"] is None and made["steps"] is None
    (tmp_path / "own_models/DiffRec.yaml").write_text("width: 12\nsteps: 3\n")
    made = make_config("custom:DiffRec")
    assert (made["width"], made["steps"], made["noise_scale"]) == (12, 3, None)
    assert made.origins["steps"] == "model/DiffRec.yaml"
    assert make_config(custom.DiffRec)["width"] == 12
    recboles = make_config("recbole.DiffRec")
    assert recboles.is_recbole_model and recboles["steps"] == theirs["steps"] and recboles["width"] is None
    assert recboles.settings()["model"] == "recbole.DiffRec"


def test_a_class_from_a_notebook_has_no_yaml_beside_it(custom, make_config, walks, monkeypatch):
    monkeypatch.delattr(custom, "__file__")
    assert make_config(custom.Custom)["width"] is None


def test_every_name_of_ours_is_found():
    for name in registry.MODELS:
        choice = registry.resolve_model(name)
        assert (choice.name, choice.model_class.__name__, choice.is_recbole) == (name, name, False)
    assert (
        registry.resolve_model("recbole.BPR") == registry.resolve_model("BPR") == registry.ModelChoice("BPR", BPR, True)
    )
