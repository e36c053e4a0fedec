"""Keys of other models, and what is known of a command line before RecBole or a model is imported."""

import logging
from pathlib import Path

import pytest
import yaml
from recbole.utils import InputType, argument_list

from recbole_gen import cli
from recbole_gen.config import early_checks, keys, registry
from recbole_gen.config.config import Config
from recbole_gen.config.layers import run_values, selected_run, shipped_layers
from recbole_gen.errors import UserError

SHARED = "loss_type: CE\nhidden_size: 16\nkl_weight: 0.5\n"


@pytest.fixture
def shared(tmp_path):
    """One file of settings for SASRec, DreamRec and ACVAE."""
    file = tmp_path / "shared.yaml"
    file.write_text(SHARED)
    return file


def test_recboles_arguments_are_those_of_its_module():
    assert keys.argument_lists() == {
        kind: getattr(argument_list, f"{kind.lower()}_arguments")
        for kind in ("General", "Training", "Evaluation", "Dataset")
    }


@pytest.mark.parametrize("name", ["DreamRec", "recbole.DiffRec", *registry.recbole_model_names()])
def test_a_name_says_which_files_a_model_has(name):
    try:
        choice = registry.resolve_model(name)
    except UserError as error:
        assert "needs a package that is not installed" in str(error)
        return
    chosen = selected_run([("dict", {"model": name, "dataset": "ml-100k"})])
    light, full = registry.model_info(name), choice.info
    assert light is not None and shipped_layers(light, chosen) == shipped_layers(full, chosen)
    assert (light.name, light.is_recbole, light.is_users_own) == (full.name, full.is_recbole, False)


def test_a_key_of_another_model_in_a_file_is_ignored_with_a_warning(shared, walks, tmp_path):
    given = {"config_file_list": [shared], "config_dict": {"data_path": str(tmp_path)}}
    dreamrec = Config("DreamRec", "toy", **given)
    assert dreamrec["hidden_size"] == 16 and dreamrec["loss_type"] is None and dreamrec["kl_weight"] is None
    loss, weight = sorted(dreamrec.ignored, key=lambda line: line.startswith("kl"))
    assert loss.startswith(f"loss_type ({shared}) is ignored: DreamRec does not read it, ") and "BERT4Rec" in loss
    assert weight == f"kl_weight ({shared}) is ignored: DreamRec does not read it, ACVAE does"
    assert dreamrec.describe().splitlines()[-2:] == [f"# {line}" for line in dreamrec.ignored]
    assert dreamrec.settings().keys().isdisjoint({"loss_type", "kl_weight"})
    assert yaml.safe_load(dreamrec.describe())["hidden_size"] == 16
    sasrec = Config("SASRec", "toy", **given)
    assert sasrec["loss_type"] == "CE" and [line.partition(" ")[0] for line in sasrec.ignored] == ["kl_weight"]
    assert Config("DreamRec", "toy", config_dict={"data_path": str(tmp_path)}).ignored == []


def test_elsewhere_it_is_a_mistake_and_the_cure_is_named(walks, make_config):
    pattern = (
        r"unknown key 'kl_weight' \(dict\) for DreamRec: it is a key of ACVAE\. Leave it out, take --model=ACVAE, or "
        r"put it into a file of --config_files, .* ignored, with a warning\."
    )
    with pytest.raises(keys.UnknownKeys, match=pattern):
        make_config("DreamRec", kl_weight=1)
    with pytest.raises(keys.UnknownKeys, match=r"\(command line\) for DiffRec: it is a key of recbole\.DiffRec"):
        early_checks.check_command_line(["--model=DiffRec", "--dataset=toy", "--noise_scale=1"])


def test_a_key_that_no_model_reads_is_a_mistake_in_a_file_too(shared, walks, tmp_path):
    shared.write_text("loss_tipe: CE\nkl_weight: 1\n")
    with pytest.raises(keys.UnknownKeys) as caught:
        Config("SASRec", "toy", [shared], {"data_path": str(tmp_path)})
    assert f"unknown key 'loss_tipe' ({shared}): did you mean 'loss_type'?" in str(caught.value)
    assert "kl_weight" not in str(caught.value)


def test_the_warning_is_told_once_a_run(shared, run, settings, caplog):
    result = run(config_files=str(shared), epochs=1, state="INFO")
    text = Path(result["run_dir"], "run.log").read_text()
    assert text.count("kl_weight") == text.count("kl_weight (") == 1 and text.count("loss_type (") == 1
    assert sum("kl_weight" in record.message for record in caplog.records) == 1
    assert "# kl_weight (" in Path(result["run_dir"], "config.yaml").read_text()
    # It goes on without the file, whose keys of other models it has never had.
    assert cli.main([f"--resume={result['run_dir']}", "--epochs=2", "--state=ERROR"]) == 0
    assert cli.main([f"--resume={result['run_dir']}", "--epochs=3", f"--config_files={shared}", "--state=ERROR"]) == 0


def test_a_key_of_another_model_is_a_mistake_where_a_run_goes_on(run, refused):
    folder = run(epochs=1, state="ERROR")["run_dir"]
    refused([f"--resume={folder}", "--kl_weight=1"], "unknown key 'kl_weight' .command line. for DreamRec")


def test_a_key_of_another_model_is_a_mistake_in_the_space_of_a_sweep(arguments, refused, tmp_path):
    (tmp_path / "space.yaml").write_text("kl_weight: {grid: [0, 1]}\n")
    line = ["tune", *arguments(model="SASRec"), f"--space={tmp_path}/space.yaml", f"--output={tmp_path}/sweep"]
    refused(line, r"unknown key 'kl_weight' \(.*space\.yaml\) for SASRec: it is a key of ACVAE")


def test_a_published_setting_is_a_file(walks, tmp_path):
    config = Config("SASRec", "toy", argv=["--paper=dreamrec-zhihu", f"--data_path={tmp_path}"])
    assert any(line.startswith("guidance_scale (paper/dreamrec-zhihu.yaml) is ignored") for line in config.ignored)
    assert config.origins["protocol"] == "paper/dreamrec-zhihu.yaml"


def test_what_a_verb_gives_its_runs_has_no_keys_of_other_models(shared, caplog):
    values = {"dataset": "toy", "config_files": str(shared), "epochs": 3}
    with caplog.at_level(logging.WARNING):
        given = run_values(values, model="DreamRec")
    assert given.keys() == {"model", "dataset", "epochs", "hidden_size", "data_path"}
    assert ["kl_weight" in record.message for record in caplog.records] == [True, False]
    assert run_values(values, [str(shared)], model="ACVAE")["kl_weight"] == 0.5
    assert run_values({**values, "kl_weight": 1}, model="DreamRec")["kl_weight"] == 1  # and Config refuses it
    assert run_values({**values, "loss_tipe": 1}, model="DreamRec").keys() >= {"loss_tipe"}


def test_a_comparison_takes_one_file_for_all(shared, arguments, capsys, tmp_path):
    line = [
        argument
        for argument in arguments()
        if not argument.startswith(("--model=", "--hidden_size", "--time", "--ddim"))
    ]
    shared.write_text(SHARED + "inner_size: 16\ntimesteps: 10\nddim_stride: 5\n")
    (tmp_path / "own").mkdir()
    (tmp_path / "own/DreamRec.yaml").write_text("n_heads: 1\nlearning_rate: 0.01\n")  # n_heads is SASRec's
    command = ["compare", "--models=DreamRec,SASRec", f"--config_files={shared}", f"--model_configs={tmp_path}/own"]
    assert cli.main([*command, *line, "--seeds=1", f"--output={tmp_path}/out"]) == 0
    assert "SASRec" in capsys.readouterr().out
    settings = yaml.safe_load((tmp_path / "out/runs/SASRec-2020/config.yaml").read_text())
    assert settings["loss_type"] == "CE" and "kl_weight" not in settings and "timesteps" not in settings


def test_a_class_of_ones_own_without_a_yaml_is_told_where_one_would_be(custom, walks, make_config, tmp_path, shared):
    file = tmp_path / "own_models/Custom.yaml"
    assert make_config("custom:Custom").missing_settings is None
    file.unlink()
    config = make_config("custom:Custom")
    note = f"there is no {file}, where Custom would have the defaults of its own keys"
    assert config.missing_settings == file and config.describe().endswith(f"# {note}")
    pattern = f"unknown key 'width'.*\nCustom's own keys have their defaults in {file}, which does not exist"
    with pytest.raises(keys.UnknownKeys, match=pattern):
        make_config("custom:Custom", width=3)
    with pytest.raises(keys.UnknownKeys, match=str(file)):  # it may be that the class reads it: nobody has said so
        Config("custom:Custom", "toy", [shared], {"data_path": str(tmp_path)})


@pytest.mark.parametrize("loss_type, kind", [("CE", "POINTWISE"), ("BPR", "PAIRWISE")])
def test_a_class_of_ones_own_says_what_it_learns_from(loss_type, kind, custom, walks, make_config, tmp_path):
    del custom.Custom.input_type
    file = tmp_path / "own_models/Custom.yaml"
    file.unlink()
    with pytest.raises(
        UserError, match=rf"Custom .*input_type = InputType.POINTWISE.*{file}, .*`loss_type: {loss_type}`"
    ):
        make_config("custom:Custom")
    custom.Custom.input_type = InputType[kind]
    config = make_config("custom:Custom")
    assert config["MODEL_INPUT_TYPE"] == InputType[kind]
    del custom.Custom.input_type
    file.write_text(f"width: 8\nloss_type: {loss_type}\n")
    again = make_config("custom:Custom")
    for key in ("MODEL_INPUT_TYPE", "train_neg_sample_args"):
        assert again[key] == config[key]


def test_a_class_that_reads_what_nothing_sets_fails_with_the_name_of_the_file(custom, run, tmp_path):
    file = tmp_path / "own_models/Custom.yaml"
    file.unlink()
    with pytest.raises(TypeError) as caught:
        run("custom:Custom", state="INFO")
    notes = getattr(caught.value, "__notes__", None)
    assert notes is None or ("width" in notes[0] and str(file) in notes[0])
    (folder,) = (tmp_path / "saved").iterdir()
    assert f"there is no {file}" in (folder / "run.log").read_text()


# Before anything is imported


@pytest.mark.parametrize(
    "line, pattern",
    [
        (["--model=DreamRek"], "unknown model 'DreamRek'. Did you mean DreamRec"),
        (["--model=SASRec", "--protocol=leave_one"], "no protocol 'leave_one'. Did you mean leave_one_out"),
        (["--paper=nobody"], "no paper 'nobody'"),
        (
            ["--model=SASRec", "--learning_rat=1"],
            "unknown key 'learning_rat' .command line.: did you mean 'learning_rate'",
        ),
        (["--model=SASRec", "--config_files=nowhere.yaml"], "no configuration file nowhere.yaml"),
        (["--resume=nowhere"], "there is no checkpoint nowhere"),
    ],
)
def test_a_command_line_is_checked_as_config_does(line, pattern):
    with pytest.raises(UserError, match=pattern) as early:
        early_checks.check_command_line([*line, "--dataset=ml-100k"])
    if not line[0].startswith("--resume"):
        with pytest.raises(UserError) as late:
            Config(argv=[*line, "--dataset=ml-100k"])
        assert str(early.value) == str(late.value)


def test_what_would_have_to_be_loaded_is_left_to_config(tmp_path):
    (tmp_path / "last.pth").touch()
    early_checks.check_command_line([f"--resume={tmp_path}", "--nonsense=1"])
    early_checks.check_command_line(["--model=nowhere:Model", "--dataset=toy", "--nonsense=1"])
    early_checks.check_command_line(["--model=DreamRec", "--dataset=toy", "--hidden_size=a"])


def test_verbs_check_what_their_runs_get(tmp_path):
    common = {"dataset": "toy", "kl_weight": 1}
    early_checks.check_values({**common, "model": "ACVAE"})
    pattern = r"^unknown key 'num_sample' .command line.: did you mean 'num_samples'\?$"
    with pytest.raises(UserError, match=pattern):
        early_checks.check_values({"dataset": "toy", "model": "BPR", "num_sample": 3}, options=["num_samples"])
    with pytest.raises(UserError, match="kl_weight"):
        early_checks.check_values({**common, "model": "SASRec"})


def test_a_comparison_checks_its_models(tmp_path):
    (tmp_path / "mine.yaml").write_text("model: ACVAE\n")
    common = {"dataset": "toy", "kl_weight": 1}
    early_checks.check_models(common, {"mine": [str(tmp_path / "mine.yaml")], "SASRec": []})
    with pytest.raises(UserError, match=r"^unknown key 'kl_weight' .*: it is a key of ACVAE, and not of SASRec or BPR"):
        early_checks.check_models(common, {"SASRec": [], "BPR": []})
    with pytest.raises(UserError, match=r"^unknown key 'epochz' \(command line\): did you mean 'epochs'\?$"):
        early_checks.check_models({"dataset": "toy", "epochz": 1}, {"SASRec": [], "BPR": []})
    with pytest.raises(UserError, match=r"unknown model 'mine'.*A label of your own needs a file"):
        early_checks.check_models(common, {"SASRec": [], "mine": []})
