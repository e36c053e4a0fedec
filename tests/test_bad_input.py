"""A user's mistake ends with exit code 2 and one message of cause and cure; a programmer's keeps its traceback."""

import pickle
import re
from pathlib import Path

import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.errors import UserError

MISTAKES = {
    "--model=BERT4Rec --mask_ratio=0 --ft_ratio=0": "mask_ratio must be above 0 where ft_ratio is 0",
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
    "--dataset=ml-10k": "no data set 'ml-10k'. Did you mean ml-100k or ml-1\\w+ or ml-1\\w+\\? Looked for",
    "--dataset=Toys": "no data set 'Toys'. Did you mean .*toy",  # one that is here
    "--dataset=zihu": "no data set 'zihu'. Did you mean zhihu",  # one that there is a recipe for
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
    "--MAX_ITEM_LIST_LENGTH=0": "MAX_ITEM_LIST_LENGTH must be a whole number from 1 to 10000, got 0",
    "--field_separator=": "field_separator must be text that is not empty",
    "--data_path": "data_path must be the name of a folder or file, got True",
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
    "--lr_scheduler=step": "lr_scheduler must be one of linear, cosine",
    "--warmup_steps=-1": "warmup_steps must be .*at least 0",
    "--weight_decay=-1": "weight_decay must be 0 or a positive number",
    "--clip_grad_norm=5": "clip_grad_norm must be a mapping",
    "--clip_grad_norm={norm: 5}": "clip_grad_norm has no 'norm' .*its parts are max_norm, norm_type",
    "--seed=-1": "seed must be a whole number from 0 to 4294967295, got -1",
    "--seed=2024-13-45": "seed must be a whole number, got '2024-13-45'",
    "--num_threads=many": "num_threads must be a whole number",
    "--use_gpu=Flase": "use_gpu must be True or False, got 'Flase'",
    "--state=LOUD": "state must be one of DEBUG, INFO",
    "--log_wandb=true": "log_wandb: .*install wandb",
    # evaluation
    "--metrics=[NDGC]": "no metric 'NDGC'. Did you mean NDCG",
    "--metrics=[NDCG, 5]": "no metric '5'",
    "--metrics=[AUC, NDCG]": "can not be used at the same time",
    "--topk=[5]": r"valid_metric NDCG@10 is not .* Take --valid_metric=NDCG@5, or add 10 to topk",
    "--topk=[1,50,8]": r"Take --valid_metric=NDCG@8, or",
    "--valid_metric=mrr": r"Take --valid_metric=MRR@5$",
    "--valid_metric=NDGC@10": r"Did you mean NDCG@10\?$",
    "--valid_metric=map@10": r"Add MAP to metrics, or take --valid_metric=Hit@5$",
    "--valid_metric=Recall@10": "valid_metric Recall@10 is not among the metrics computed: .*NDCG@10",
    "--valid_metric=NDCG@7": "valid_metric NDCG@7 is not among",
    "--valid_metric=NDCG": "valid_metric NDCG is not among",
    "--valid_metric=NDCG@x": "valid_metric NDCG@x is not among",
    "--topk=[10, 41]": r"topk \[10, 41\] needs more than the 40 items",
    "--topk=[10, 0]": "topk must be a positive whole number",
    "--topk=ten": "topk must be a positive whole number.*got 'ten'",
    "--eval_args={splitt: {LS: valid_and_test}}": "eval_args has no 'splitt'.*split, group_by, order, mode",
    "--eval_args={split: {LS: both}}": "LS must be one of",
    "--eval_args={split: {XX: both}}": "split must be one of RS, LS, TS, SS, TC",
    "--eval_args={split: {RS: [1]}}": "RS needs three shares",
    "--eval_args={split: {TC: [8, 2]}}": "TC needs three shares",
    "--model=BPR --protocol=time_811": "for sequential models, and BPR is none.*split: {RS",
    "--eval_args={mode: unifew}": "mode must be full, labeled, uni100",
    "--eval_args={order: XX}": "order must be RO .random. or TO",
    "--eval_args=5": "eval_args must be a mapping",
    # rows and times
    "--train_pairs=foo": "train_pairs must be one of all, prefixes, positions, last, window, cut, after, got 'foo'",
    "--window_step=0": "window_step must be a whole number of at least 1 or ~, got 0",
    "--window_step=2.5": "window_step must be a whole number or ~, got 2.5",
    "--time_range=foo": "time_range must be one of all, train, got 'foo'",
    "--time_encoding=rff": "unknown key 'time_encoding' .*for DreamRec: it is a key of PASRec",
    # DreamRec's own keys
    "--hidden_size=15": "hidden_size must be a multiple of 2, got 15",
    "--hidden_size=big": "hidden_size must be a whole number, got 'big'",
    "--hidden_size=-4": "hidden_size must be a whole number from 4 to 16384 and a multiple of 2, got -4",
    "--hidden_size=~": "hidden_size must be a whole number, got None",
    "--guidance_scale=strong": "guidance_scale must be a number, got 'strong'",
    "--timesteps=1": "timesteps must be a whole number from 2 to 100000, got 1",
    "--timesteps=10.5": "timesteps must be a whole number, got 10.5",
    "--sampling=ddim --ddim_stride=3": r"ddim_stride \(3\) must divide timesteps \(10\)",
    "--dropout_prob=2": "dropout_prob must be from 0 to 1, got 2",
    "--uncond_prob=-0.1": "uncond_prob must be from 0 to 1",
    "--sampling=exact": "sampling must be one of ancestral, ddim, got 'exact'",
    # DiffRec's
    "--model=DiffRec --rec_on=foo": "rec_on must be one of pred, clean, both, got 'foo'",
    "--model=DiffRec --infer=exact": "infer must be one of fast, full, got 'exact'",
    "--model=DiffRec --mse_reduction=max": "mse_reduction must be one of mean, sum, got 'max'",
    "--model=DiffRec --noise_schedule=exp": "noise_schedule must be one of sqrt, cosine, linear, got 'exp'",
    "--model=DiffRec --timesteps=1": "timesteps must be a whole number from 2 to 100000, got 1",
    "--model=DiffRec --n_seeds=0": "n_seeds must be a whole number from 1 to 10000, got 0",
    "--model=DiffRec --n_layers=0": "n_layers must be a whole number from 1 to 100, got 0",
    "--model=DiffRec --is_history=0": "is_history must be a whole number from 1 to 10000, got 0",
    "--model=DiffRec --hidden_size=15": "hidden_size must be a multiple of 2 and a multiple of n_heads .2., got 15",
    "--model=DiffRec --time_encoding=rff": "unknown key 'time_encoding' .*for DiffRec: it is a key of PASRec",
    # RecBole's models
    "--model=SASRec --hidden_size=7": "hidden_size must be a multiple of n_heads .2., got 7",
    "--model=SASRec --loss_type=XX": "loss_type must be one of CE, BPR, got 'XX'",
    "--model=BPR --embedding_size=big": "embedding_size must be a whole number, got 'big'",
    "--model=BPR --train_neg_sample_args=~": "BPR learns from pairs and needs train_neg_sample_args",
    "--model=BPR --train_neg_sample_args={number: 2}": "train_neg_sample_args has no 'number'",
    "--model=BPR --train_neg_sample_args={sample_num: few}": ": sample_num must be a whole number, got 'few'",
    "--model=BPR --eval_args={split: {LS: both}}": "both",
    "--model=BPR --protocol=sequence_811": "learns one vector a user.*leave_one_out",
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_explained(mistake, refused, arguments, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    given = mistake.split() if mistake == "--epochs 3 4" else re.split(r" (?=--)", mistake)
    model = "DreamRec"
    if given[0].startswith("--model=") and len(given) > 1:
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


DAY = 86400
# What PASRec (of its family) does not accept, on a log that it accepts.
MISTAKES_OF_PASREC = {
    "--ddim_stride=3": r"ddim_stride \(3\) must divide timesteps \(20\)",
    "--ddim_stride=0": "ddim_stride must be a whole number of at least 1, got 0",
    "--time_encoding=foo": "time_encoding must be one of sinusoidal, gaussian, rff, position, got 'foo'",
    "--time_encoding=position": "gamma must be 0 and eta 1 .got 0.5 and 0.8.; --model=PreferDiff has them so",
    "--model=PreferDiff --time_encoding=rff": "time_encoding must be position, got 'rff'",
    "--model=PreferDiff --gamma=0.5": "gamma must be 0 and eta 1 .got 0.5 and 1.0.",
    "--error=mae": "error must be one of mse_mean, mse_sum, cos_sq, got 'mae'",
    "--negatives=all": "negatives must be one of batch, random, got 'all'",
    "--num_negatives=0": "num_negatives must be a whole number from 1 to 100000, got 0",
    "--oracle=best": "oracle must be one of sample, mean",
    "--denoiser=cnn": "denoiser must be one of linear, mlp",
    "--denoiser=mlp --sampler=closed_form": "closed_form needs denoiser: linear; use sampler: stepwise",
    "--score_function=l2": "score_function must be one of inner, cosine",
    "--lambda_=2": "lambda_ must be from 0 to 1, got 2",
    "--eta=-1": "eta must be from 0 to 1, got -1",
    "--sigma=0": "sigma must be a positive number, got 0",
    "--noise_schedule=log": "noise_schedule must be one of linear, exp, cosine, sqrt, got 'log'",
    "--beta_end=1.5": "beta_end must be above 0 and below 1, got 1.5",
    "--n_heads=3": r"hidden_size must be a multiple of n_heads \(3\), got 16",
    "--TOI_FIELD=": "TOI_FIELD must be text that is not empty",
    "--TOI_FIELD=item_id": "has a column 'item_id' already: name the derived one with --TOI_FIELD=NAME",
    "--load_col={inter: [user_id, item_id]}": "TIME_FIELD 'timestamp' is not among .*load it if you give a load_col",
}


@pytest.fixture
def days(walks, write_atomic):
    """A log of 25 items over 33 days in place of `walks`; returns its columns."""
    columns = {
        "user_id:token": [f"u{user}" for user in range(12) for _ in range(6)],
        "item_id:token": [f"i{(3 * user + step) % 25}" for user in range(12) for step in range(6)],
        "timestamp:float": [(user + 4 * step) * DAY + 1_400_000_000 for user in range(12) for step in range(6)],
    }
    write_atomic(columns)
    return columns


@pytest.mark.parametrize("mistake", MISTAKES_OF_PASREC)
def test_a_mistake_in_pasrecs_keys_is_explained(mistake, days, refused, arguments, tmp_path):
    given, model = re.split(r" (?=--)", mistake), "PASRec"
    if given[0].startswith("--model="):
        model = given.pop(0).partition("=")[2]
    refused(arguments(*given, model=model), MISTAKES_OF_PASREC[mistake])
    assert not list(tmp_path.glob("saved/*/result.json"))


def times(values):
    return lambda columns: columns.update({"timestamp:float": values(columns["timestamp:float"])})


NO_COLUMN = "PASRec reads times, and there is no column"
BAD_TIMES = {  # what is done to a good log, and what is said of it
    "none": (
        lambda columns: columns.pop("timestamp:float"),
        rf"{NO_COLUMN} 'timestamp' among \['user_id', 'item_id'\] in .*toy\.inter\. .*--TIME_FIELD=NAME.*ml-100k has "
        "'timestamp'.*--model=PreferDiff is PASRec without times",
    ),
    "constant": (times(lambda given: given[:1] * 72), r"on one day \(2014-05-13\), so there is no time.*PreferDiff"),
    "one day": (
        times(lambda given: list(range(16204 * DAY - 72, 16204 * DAY))),
        r"all times of 'timestamp'.* are on one day \(2014-05-13\)",
    ),
    "order only": (times(lambda given: list(range(1, 73))), r"on one day \(1970-01-01\).*Unix seconds.*--TIME_FIELD"),
    "days": (times(lambda given: [time // DAY for time in given]), r"on one day \(1970-01-01\)"),
    "a field of that name": (
        lambda columns: columns.update({"toi:float": [0.5] * 72}),
        "has a column 'toi' already: name the derived one with --TOI_FIELD=NAME",
    ),
}


@pytest.mark.parametrize("time_range", ["all", "train"])
@pytest.mark.parametrize("bad", BAD_TIMES)
def test_bad_times_are_explained(bad, time_range, days, refused, arguments, write_atomic):
    change, pattern = BAD_TIMES[bad]
    change(days)
    write_atomic(days)
    refused(arguments(f"--time_range={time_range}", model="PASRec"), pattern)


def test_one_day_is_enough_for_the_model_that_is_offered(refused, arguments):
    refused(arguments(model="PASRec"), "on one day .1970-01-01.*--model=PreferDiff")  # the days of `walks`
    assert cli.main(arguments(model="PreferDiff")) == 0


# Split files


PARTS = ("train", "valid", "test")
TIME, TIMES = "timestamp:float", "timestamp_list:float_seq"


def without(name):
    return lambda columns: columns.pop(name)


def target_time(value, row=3):
    return lambda columns: columns[TIME].__setitem__(row, value)


def history_time(step, value, row=3):
    return lambda columns: columns[TIMES][row].__setitem__(step, value)


def history_type(kind):
    def change(columns):
        times = columns.pop(TIMES)
        columns[f"timestamp_list:{kind}"] = [row[0] for row in times] if kind == "float" else times

    return change


def every_time(value):
    def change(columns):
        columns[TIMES] = [[value(time) for time in row] for row in columns[TIMES]]
        columns[TIME] = [value(time) for time in columns[TIME]]

    return change


BAD_SPLIT_FILES = {  # in which parts (12 rows each), what is done to them, and what is said of it
    "no times": (PARTS, without(TIME), f"{NO_COLUMN} 'timestamp' among .* in .*toy.train.inter"),
    "no times of histories": (
        PARTS,
        without(TIMES),
        f"{NO_COLUMN} 'timestamp_list' among .* in .*toy.train.inter.*NAME_list:float_seq.*--model=PreferDiff",
    ),
    "no times of histories in one part": (["test"], without(TIMES), "toy.test.inter lacks 'timestamp_list'"),
    "one day": (PARTS, every_time(lambda time: 1_400_000_000), r"on one day \(2014-05-13\)"),
    "milliseconds in one history": (["valid"], history_time(2, 1_400_000_000_000), "Divide milliseconds by 1000"),
    "not a number in a history": (
        ["train"],
        history_time(1, "nan"),
        "1 of the times in .*'timestamp_list' are missing",
    ),
    "infinite in a history": (
        ["test"],
        history_time(1, "-inf"),
        "1 of the times in .*'timestamp_list' are missing or inf",
    ),
    "backwards in a history": (
        ["train"],
        history_time(1, 0),
        r"1 row has times in 'timestamp_list' and 'timestamp' that go backwards; the first is row 4 of "
        r"toy.train.inter \(after the filters\). Sort each history by time, or use --model=PreferDiff",
    ),
    "backwards in the first history": (
        ["train"],
        history_time(2, 0, row=0),
        "go backwards; the first is row 1 of toy.train.inter",
    ),
    "backwards to a target": (
        ["train"],
        target_time(0, row=11),
        "go backwards; the first is row 12 of toy.train.inter",
    ),
    "backwards in two parts": (["valid", "test"], history_time(2, 0, row=5), r"2 rows .*row 6 of toy.valid.inter"),
    "tokens for times": (PARTS, history_type("token_seq"), "no column 'timestamp_list:float_seq'"),
    "one number for times": (PARTS, history_type("float"), "no column 'timestamp_list:float_seq'"),
    "a field of that name": (
        PARTS,
        lambda columns: columns.update({"toi_list:float_seq": [[0.5] * 3] * 12}),
        "has a column 'toi' already: name the derived one with --TOI_FIELD=NAME",
    ),
}


@pytest.fixture
def write_parts(days, write_atomic):
    """write_parts(change, parts) writes 12 rows into each of three files; change(columns) in those parts."""

    def write(change, parts) -> None:
        users, items, events = (days[name] for name in days)
        for part in PARTS:
            columns: dict = {
                "user_id:token": users[::6],
                "item_id_list:token_seq": [items[row : row + 3] for row in range(0, 72, 6)],
                "item_id:token": items[3::6],
                TIMES: [events[row : row + 3] for row in range(0, 72, 6)],
                TIME: events[3::6],
            }
            if part in parts:
                change(columns)
            write_atomic(columns, suffix=f"{part}.inter")

    return write


@pytest.mark.parametrize("bad", BAD_SPLIT_FILES)
def test_bad_times_in_split_files_are_explained(bad, write_parts, refused, arguments):
    parts, change, pattern = BAD_SPLIT_FILES[bad]
    write_parts(change, parts)
    refused(arguments("--protocol=benchmark", model="PASRec"), pattern)


def test_good_times_and_equal_ones_are_accepted(days, write_parts, arguments, capsys):
    assert cli.main(arguments("--topk=[5]", "--valid_metric=NDCG@5", model="PASRec")) == 0
    write_parts(history_time(1, 1_400_000_000 + 3 * DAY), PARTS)  # that of the item before it
    assert cli.main(arguments("--topk=[5]", "--valid_metric=NDCG@5", "--protocol=benchmark", model="PASRec")) == 0
    assert capsys.readouterr() == ("", "")


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
