"""A user's mistake ends with exit code 2 and one message of cause and cure; a programmer's keeps its traceback."""

import pickle
import re
from pathlib import Path

import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.errors import UserError


@pytest.fixture
def refused(capsys, recwarn):
    """refused(arguments, *patterns): exit code 2 and one message, on stderr, that holds each pattern."""

    def check(line: list[str], *patterns: str) -> str:
        assert cli.main(line) == 2
        out, message = capsys.readouterr()
        assert out == "" and message.startswith("error: ") and message.count("error:") == 1
        assert "Traceback" not in message and 'File "' not in message
        for pattern in patterns:
            assert re.search(pattern, message), message
        return message

    return check


MISTAKES = {
    # keys and names
    "--lerning_rate=1": "unknown key 'lerning_rate' .command line.: did you mean 'learning_rate'",
    "--margin=1": "unknown key 'margin' .*for DreamRec: it is a key of CFKG",
    "--hidden-size=8": "unknown key 'hidden-size'.*'hidden_size'",
    "--=5": "unknown key ''",
    "--model=DreamReck": "unknown model 'DreamReck'. Did you mean DreamRec",
    "--model=dreamrec": "Did you mean DreamRec",
    "--model=recbole.DreamRec": "unknown model 'recbole.DreamRec'",
    "--model=5": "unknown model '5'",
    "--model": "no model given",
    "--model=no_such_module:Model": "no module 'no_such_module'.*PYTHONPATH",
    "--model=os:NoSuchClass": "module 'os' has no class 'NoSuchClass'",
    "--model=collections:OrderedDict": "has no class 'OrderedDict' that is a RecBole model",
    "--model=.here:Model": "from the top",
    "--model=:Model": "from the top",
    "--dataset": "no dataset given",
    "--dataset=no-such": "no data set 'no-such'. Looked for\n.*/no-such/no-such.inter\n(.*\n)*.*atomic files",
    "--dataset=ml-1m": "RecBole offers it as atomic files at https://.*ml-1m.zip : unpack them into",
    "--dataset=/data/toy": "no data set '/data/toy'",
    "--protocol=leave_one": "no protocol 'leave_one'. Did you mean leave_one_out.*sequence_811",
    "--paper=dreamrec-zhiu": "no paper 'dreamrec-zhiu'. Did you mean dreamrec-zhihu",
    "--save_dataset=true": "save_dataset is not supported.*pickle",
    # the form of the command line and of files
    "epochs=3": "'epochs=3' is not of the form --key=value",
    "--epochs 3 4": "'4' is not of the form",
    "--epochs=1 --epochs=2": "--epochs is given twice, as 1 and as 2",
    "--config_files=no_such.yaml": "no configuration file no_such.yaml",
    "--config_files": "needs the names of YAML files",
    "--config_files=.": "configuration file . cannot be read",
    "--resume=no_such_folder": "--resume=no_such_folder: there is no checkpoint",
    "--resume": "--resume needs the folder",
    "--resume=5": "--resume=5: there is no checkpoint",
    # the data
    "--load_col={inter: [user_id, item_id]}": "need a time to sort by, and TIME_FIELD 'timestamp' is not among",
    "--TIME_FIELD=time": "TIME_FIELD 'time'",
    "--eval_args={split: {RS: [1, 0, 0]}}": "the validation split is empty",
    "--user_inter_num_interval=[100,inf)": "the filters leave nothing",
    "--load_col=5": "load_col must be a mapping",
    "--val_interval={rating: [3,inf)}": "val_interval must be a mapping.*quotes",
    "--normalize_field=timestamp": "normalize_field must be a list",
    "--MAX_ITEM_LIST_LENGTH=0": "MAX_ITEM_LIST_LENGTH must be a whole number of at least 1, got 0",
    "--field_separator=": "field_separator must be text that is not empty",
    "--data_path": "data_path must be text, got True",
    # training
    "--learning_rate=-1": "learning_rate must be a positive number, got -1",
    "--learning_rate=fast": "learning_rate must be a number, got 'fast'",
    "--learning_rate=.nan": "learning_rate must be a positive number",
    "--epochs=-1": "epochs must be a whole number of at least 0, got -1",
    "--epochs=1.5": "epochs must be a whole number, got 1.5",
    "--epochs": "epochs must be a whole number.*, got True",
    "--train_batch_size=0": "train_batch_size must be a whole number of at least 1",
    "--eval_step=-1": "eval_step must be a whole number of at least 0",
    "--learner=adamm": "learner must be one of adam, adamw.*got 'adamm'",
    "--learner=5": "learner must be one of.*got '5'",
    "--weight_decay=-1": "weight_decay must be 0 or a positive number",
    "--clip_grad_norm=5": "clip_grad_norm must be a mapping",
    "--clip_grad_norm={norm: 5}": "clip_grad_norm must be a mapping such as {max_norm: 1.0}",
    "--seed=-1": "seed must be a whole number of at least 0",
    "--seed=2024-13-45": "seed must be a whole number, got '2024-13-45'",
    "--num_threads=many": "num_threads must be a whole number",
    "--use_gpu=Flase": "use_gpu must be True or False, got 'Flase'",
    "--state=LOUD": "state must be one of DEBUG, INFO",
    "--log_wandb=true": "log_wandb: .*install wandb",
    # evaluation
    "--metrics=[NDGC]": "no metric 'NDGC'. Did you mean NDCG",
    "--metrics=[NDCG, 5]": "no metric '5'",
    "--metrics=[AUC, NDCG]": "can not be used at the same time",
    "--valid_metric=Recall@10": "valid_metric Recall@10 is not among the metrics computed: .*NDCG@10",
    "--valid_metric=NDCG@7": "valid_metric NDCG@7 is not among",
    "--valid_metric=NDCG": "valid_metric NDCG is not among",
    "--valid_metric=NDCG@x": "valid_metric NDCG@x is not among",
    "--topk=[10, 41]": r"topk \[10, 41\] needs more than the 40 items",
    "--topk=[10, 0]": "topk must be a positive whole number",
    "--topk=ten": "topk must be a positive whole number.*got 'ten'",
    "--eval_args={splitt: {LS: valid_and_test}}": "eval_args has no 'splitt'.*split, group_by, order, mode",
    "--eval_args={split: {LS: both}}": "LS must be one of",
    "--eval_args={split: {XX: both}}": "split must be one of RS, LS, TS, SS",
    "--eval_args={split: {RS: [1]}}": "RS needs three shares",
    "--eval_args={mode: unifew}": "mode must be full, labeled, uni100",
    "--eval_args={order: XX}": "order must be RO .random. or TO",
    "--eval_args=5": "eval_args must be a mapping",
    # DreamRec's own keys
    "--hidden_size=15": "hidden_size must be an even number of at least 4, got 15",
    "--hidden_size=big": "hidden_size must be a whole number, got 'big'",
    "--hidden_size=-4": "hidden_size must be at least 1, got -4",
    "--hidden_size=~": "hidden_size must be a whole number, got None",
    "--guidance_scale=strong": "guidance_scale must be a number, got 'strong'",
    "--timesteps=1": "timesteps must be at least 2, got 1",
    "--timesteps=10.5": "timesteps must be a whole number, got 10.5",
    "--sampling=ddim --ddim_stride=3": r"ddim_stride \(3\) must divide timesteps \(10\)",
    "--dropout_prob=2": "dropout_prob must be from 0 to 1, got 2",
    "--uncond_prob=-0.1": "uncond_prob must be from 0 to 1",
    "--sampling=exact": "sampling must be one of ancestral, ddim, got 'exact'",
    # RecBole's models
    "--model=SASRec --hidden_size=7": "SASRec does not accept its configuration: .*hidden size .7.",
    "--model=SASRec --loss_type=XX": "loss_type must be CE or BPR, got 'XX'",
    "--model=BPR --embedding_size=big": "embedding_size must be a number, got 'big'",
    "--model=BPR --train_neg_sample_args=~": "BPR learns from pairs and needs train_neg_sample_args",
    "--model=BPR --train_neg_sample_args={number: 2}": "train_neg_sample_args has no 'number'",
    "--model=BPR --train_neg_sample_args={sample_num: few}": "positive whole number as sample_num",
    "--model=BPR --eval_args={split: {LS: both}}": "both",
    "--model=BPR --protocol=sequence_811": "learns one vector a user.*leave_one_out",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained(mistake, refused, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = mistake.split() if mistake == "--epochs 3 4" else re.split(r" (?=--)", mistake)
    model = "DreamRec"
    if given[0].startswith(("--model=SASRec", "--model=BPR")):
        model = given.pop(0).partition("=")[2]
    line = arguments(*given, model=model)
    if given[0].startswith("--resume"):
        line = given
    if given[0].startswith("--paper"):
        line = [argument for argument in line if not argument.startswith(("--model", "--dataset"))]
    if given[0].startswith(("--margin", "--model=")) or model != "DreamRec":
        line = [argument for argument in line if "hidden_size=16" not in argument]
    refused(line, MISTAKES[mistake])
    assert not list(tmp_path.glob("saved/*/result.json"))


def test_the_same_line_without_a_mistake_is_accepted(arguments, capsys):
    assert cli.main(arguments()) == 0
    assert capsys.readouterr() == ("", "")
    assert cli.main(["run", *arguments("--epochs=1", "--epochs=1")]) == 0
    assert cli.main(arguments(model="SASRec")) == 0


@pytest.mark.parametrize(
    "text, pattern",
    [
        ("epochs: [1,", "is not valid YAML"),
        ("- epochs\n- 3\n", "must hold `key: value` lines, found list"),
        ("just text", "found str"),
        ("when: 2024-13-45\n", "is not valid YAML"),
        ("epochs: !!python/object/apply:os.getcwd []\n", "is not valid YAML"),
        ("epochz: 3\n", "unknown key 'epochz' .*own.yaml.: did you mean 'epochs'"),
        ("5: 3\n", "unknown key '5'"),
    ],
)
def test_a_bad_configuration_file_is_explained(text, pattern, refused, arguments, tmp_path):
    (tmp_path / "own.yaml").write_text(text)
    refused(arguments(f"--config_files={tmp_path}/own.yaml"), r"own\.yaml", pattern)


def test_bytes_that_are_no_text_are_explained(refused, arguments, tmp_path):
    (tmp_path / "own.yaml").write_bytes(b"\xff\xfe\x00")
    refused(arguments(f"--config_files={tmp_path}/own.yaml"), r"own\.yaml is not valid YAML")


@pytest.mark.parametrize("damage", ["truncated", "empty", "pickle", "foreign", "other model", "other data"])
def test_a_bad_checkpoint_is_explained(damage, refused, run, write_atomic, tmp_path):
    folder = Path(run(epochs=1, state="ERROR")["run_dir"])
    last, more = folder / "last.pth", []
    if damage == "truncated":
        last.write_bytes(last.read_bytes()[:-1000])
    elif damage == "empty":
        last.write_bytes(b"")
    elif damage == "pickle":
        last.write_bytes(pickle.dumps({"model": Path("x")}))
    elif damage == "foreign":
        torch.save({"state_dict": {}}, last)
    elif damage == "other model":
        more = ["--model=SASRec"]
    else:
        items = [f"j{step}" for step in range(50)]
        write_atomic({"user_id:token": ["u"] * 50, "item_id:token": items, "timestamp:float": list(range(50))})
    pattern = {
        "truncated": "truncated or not a checkpoint",
        "empty": "truncated or not a checkpoint",
        "pickle": "pickled Python objects",
        "foreign": "not a checkpoint of recbole_gen",
        "other model": "checkpoint of model DreamRec, not of SASRec",
        "other data": "trained with other values of 'user_id'",
    }[damage]
    refused([f"--resume={folder}", "--epochs=2", *more], r"last\.pth", pattern)


def test_a_folder_that_cannot_be_made_is_explained(refused, arguments, tmp_path):
    (tmp_path / "taken").write_text("")
    refused(arguments(f"--checkpoint_dir={tmp_path}/taken"), "cannot be made.*--checkpoint_dir")


def test_numbers_are_accepted_as_names(arguments, monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    assert cli.main(arguments("--checkpoint_dir=123")) == 0
    assert [path.name for path in Path("123").glob("*/result.json")] == ["result.json"]


@pytest.mark.parametrize("error", [ValueError, TypeError, KeyError, RuntimeError, NotImplementedError, OSError])
def test_an_error_in_a_model_of_ones_own_keeps_its_traceback(error, arguments, custom, capsys):
    def fail():
        raise error("my own mistake")

    custom.at, custom.trouble = 3, fail
    with pytest.raises(error, match="my own mistake") as caught:
        cli.main(arguments(model="custom:Custom"))
    assert not isinstance(caught.value, UserError)
    assert "calculate_loss" in [entry.name for entry in caught.traceback]


def test_an_error_in_a_constructor_or_module_of_ones_own_keeps_its_traceback(arguments, custom, tmp_path, monkeypatch):
    def __init__(self, config, dataset):
        raise ValueError("my own mistake")

    monkeypatch.setattr(custom.Custom, "__init__", __init__)
    with pytest.raises(ValueError, match="my own mistake") as caught:
        cli.main(arguments(model="custom:Custom"))
    assert not isinstance(caught.value, UserError)
    (tmp_path / "own_models/broken_module.py").write_text("import os\nos.no_such_name\n")
    with pytest.raises(AttributeError, match="no_such_name"):
        cli.main(arguments("--model=broken_module:Model"))


def test_bad_input_in_python_is_a_user_error(settings):
    with pytest.raises(UserError, match=r"unknown key 'lerning_rate' \(dict\)"):
        quick_start.run(config_dict=settings(lerning_rate=1))


@pytest.mark.parametrize("line", [[], ["--help"], ["-h"]])
def test_help(line, capsys):
    assert cli.main(line) == 0
    out, message = capsys.readouterr()
    assert out.startswith("usage: recbole-gen") and message == ""
