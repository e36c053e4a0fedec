"""Times as PASRec reads them: whole days, scaled to [0, 1]; split files with times; and the runs of its family."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from stubs import equal

from recbole_gen import checkpoint, cli, quick_start
from recbole_gen.data.loaders import create_dataset
from recbole_gen.data.splits import training_pairs
from recbole_gen.data.times import DayRange
from recbole_gen.errors import UserError

SHARED = Path(__file__).resolve().parents[3] / "shared/data"
PARTS = ("train", "valid", "test")
DAY = 86400
MIDNIGHT = 16203 * DAY  # 2014-05-13, about 1.4e9: float32 counts in steps of 128 s here
FAMILY = ("DiffRec", "PASRec", "PreferDiff")


def needs(name):
    return pytest.mark.skipif(not (SHARED / name).is_dir(), reason=f"the data set {SHARED / name} is not here")


@pytest.fixture
def days(walks, tmp_path):
    """`walks` with a step every six hours: its users begin 25 days apart. As it is, it all happens in two hours."""
    path = tmp_path / "toy/toy.inter"
    title, *lines = path.read_text().splitlines()
    rows = [line.rpartition("\t") for line in lines]
    path.write_text("\n".join([title, *(f"{who}\t{int(time) * DAY // 4}" for who, _, time in rows)]) + "\n")


def random_log(seed: int = 0) -> dict:
    """12 users of 4 to 12 events in random order over 400 days, no two at the same time, and a rating."""
    rng = np.random.default_rng(seed)
    users = rng.permutation(np.repeat(np.arange(12), rng.integers(4, 13, size=12)))
    return {
        "user_id:token": [f"u{user}" for user in users],
        "item_id:token": [f"i{item}" for item in rng.integers(30, size=len(users))],
        "timestamp:float": (MIDNIGHT + rng.choice(400 * DAY, size=len(users), replace=False)).tolist(),
        "rating:float": rng.integers(1, 6, size=len(users)).tolist(),
    }


def by_user(log: dict) -> dict[str, list[int]]:
    """user -> times of his events, in order."""
    times: dict[str, list[int]] = {}
    for user, time in zip(log["user_id:token"], log["timestamp:float"], strict=True):
        times.setdefault(user, []).append(time)
    return {user: sorted(values) for user, values in times.items()}


def scaled(seconds: torch.Tensor, first: int, last: int) -> torch.Tensor:
    """The definition in whole numbers: day and quotient of each time, rounded to float32 once."""
    values = [(int(second) // DAY - first) / (last - first) for second in seconds.flatten().tolist()]
    return torch.tensor(values, dtype=torch.float64).float().reshape(seconds.shape)


def assert_scaled(rows, first: int, last: int) -> None:
    """`toi` and `toi_list` are those of the rows' exact times, and 0 in the padding."""
    real = torch.arange(rows["toi_list"].shape[1]) < rows["item_length"].unsqueeze(1)
    assert rows["toi"].dtype == rows["toi_list"].dtype == torch.float32
    assert torch.equal(rows["toi"], scaled(rows["timestamp"], first, last))
    assert torch.equal(rows["toi_list"], scaled(rows["timestamp_list"], first, last) * real)


# The derived field


def shown_in_training(log: dict, protocol: str) -> list[int]:
    """Times of the events that training shows, as a target or in a history."""
    users = by_user(log).values()
    if protocol == "leave_one_out":
        return [time for times in users for time in times[:-2]]
    targets = sorted(time for times in users for time in times[1:])  # nothing comes before a first event
    cut = targets[len(targets) * 8 // 10]
    before = [[time for time in times if time < cut] for times in users]
    return [time for times in before if len(times) > 1 for time in times]


@pytest.mark.parametrize("protocol", ["leave_one_out", "time_811"])
@pytest.mark.parametrize("time_range", ["all", "train"])
def test_days_are_scaled_in_every_row(protocol, time_range, write_atomic, make_config):
    log = random_log()
    write_atomic(log)
    config = make_config("PASRec", protocol=protocol, time_range=time_range, MAX_ITEM_LIST_LENGTH=5)
    dataset = create_dataset(config)
    parts = dataset.build()
    used = log["timestamp:float"] if time_range == "all" else shown_in_training(log, protocol)
    first, last = min(used) // DAY, max(used) // DAY
    assert dataset.day_range == DayRange(first, last)
    latest = []
    for part in parts:
        assert part.day_range == dataset.day_range
        rows = part.inter_feat[:]
        assert_scaled(rows, first, last)
        assert (rows["item_length"] < 5).any()  # so there is padding
        latest.append(max(float(rows["toi"].max()), float(rows["toi_list"].max())))
    if time_range == "all":
        assert max(latest) == 1
    else:
        assert latest[0] == 1 < latest[2]


def test_the_range_of_training_is_that_of_what_it_shows(write_atomic, make_config):
    """Two items of history are read: a, the first day, is shown by the pairs of b and c, not by that of d."""
    times = [day * DAY for day in (10, 20, 30, 40, 50, 60)]
    write_atomic({"user_id:token": ["u"] * 6, "item_id:token": list("abcdef"), "timestamp:float": times})
    values = {"time_range": "train", "MAX_ITEM_LIST_LENGTH": 2}
    for train_pairs, first in (("all", 10), ("last", 20)):
        dataset = create_dataset(make_config("PASRec", train_pairs=train_pairs, **values))
        test = dataset.build()[2].inter_feat[:]
        assert dataset.day_range == DayRange(first, 40)
        assert_scaled(test, first, 40)


@pytest.mark.parametrize("midnight", [MIDNIGHT, 0])  # 0: the days before it have negative numbers
def test_the_day_is_exact_at_midnight(midnight, write_atomic, make_config):
    times = [midnight - 3 * DAY, midnight - 1, midnight, midnight + 2 * DAY - 1, midnight + DAY + 0.5]
    write_atomic({"user_id:token": ["u"] * 5, "item_id:token": list("abced"), "timestamp:float": times})
    dataset = create_dataset(make_config("PASRec", MAX_ITEM_LIST_LENGTH=4))
    rows = [part.inter_feat[:] for part in dataset.build()]
    assert [part["toi_list"].tolist() for part in rows] == [
        [[0, 0, 0, 0], [0, 0.5, 0, 0]], [[0, 0.5, 0.75, 0]], [[0, 0.5, 0.75, 1]],
    ]  # fmt: skip
    assert [part["toi"].tolist() for part in rows] == [[0.5, 0.75], [1], [1]]
    assert dataset.day_range == DayRange(midnight // DAY - 3, midnight // DAY + 1)
    if midnight:
        assert np.float32(midnight - 1) == np.float32(midnight)  # what float32 would have made of it


def test_normalisation_and_unused_columns_leave_the_scaled_times_alone(write_atomic, make_config):
    write_atomic(random_log())
    rows = []
    for values in ({}, {"normalize_all": True}, {"unused_col": {"inter": ["timestamp", "timestamp_list"]}}):
        parts = create_dataset(make_config("PASRec", **values)).build()
        rows.append([part.inter_feat[:] for part in parts])
    for plain, normalised, without in zip(*rows, strict=True):
        assert plain["rating"].max() > 1 >= normalised["rating"].max()
        assert "timestamp" not in without and "timestamp_list" not in without
        for field in ("toi", "toi_list"):
            assert torch.equal(plain[field], normalised[field]) and torch.equal(plain[field], without[field])


@pytest.mark.parametrize("model", ["SASRec", "DreamRec", "DiffRec", "PreferDiff"])
def test_models_that_read_no_times_get_none(model, write_atomic, make_config):
    write_atomic(random_log())
    dataset = create_dataset(make_config(model))
    parts = dataset.build()
    assert dataset.day_range is None
    for part in parts:
        assert part.day_range is None
        assert {"timestamp", "timestamp_list"} <= set(part.inter_feat.columns)
        assert not {"toi", "toi_list"} & set(part.inter_feat.columns)


def events(dataset, part) -> list[tuple]:
    """(user, [(item, its scaled time), ...]), target last, of each row, in an order of their own."""
    rows = part.inter_feat[:]
    users, targets = (dataset.id2token(name, rows[name].numpy()) for name in ("user_id", "item_id"))
    histories = dataset.id2token("item_id", rows["item_id_list"].numpy())
    written = []
    for row, length in enumerate(rows["item_length"].tolist()):
        items = [*map(str, histories[row][:length]), str(targets[row])]
        times = [*rows["toi_list"][row][:length].tolist(), rows["toi"][row].item()]
        written.append((str(users[row]), list(zip(items, times, strict=True))))
    return sorted(written)


def test_a_log_in_any_order_gives_the_same_rows(write_atomic, make_config):
    log = random_log()
    order = np.argsort(log["timestamp:float"])
    found = []
    for columns in (log, {name: [values[row] for row in order] for name, values in log.items()}):
        write_atomic(columns)
        dataset = create_dataset(make_config("PASRec"))
        found.append([events(dataset, part) for part in dataset.build()])
    assert found[0] == found[1]
    assert log["timestamp:float"] != sorted(log["timestamp:float"])


def test_the_derived_field_can_have_another_name(days, run, write_atomic, tmp_path):
    plain = run("PASRec")
    title, *lines = (tmp_path / "toy/toy.inter").read_text().splitlines()
    own = [f"{line}\t{number % 7}" for number, line in enumerate(lines)]  # beside a `toi` that means something else
    (tmp_path / "toy/toy.inter").write_text("\n".join([f"{title}\ttoi:float", *own]) + "\n")
    renamed = run("PASRec", TOI_FIELD="day")
    assert renamed["config"]["TOI_FIELD"] == "day"
    for key in ("train_loss", "best_valid_result", "test_result"):
        assert renamed[key] == plain[key], key


# Split files


@pytest.fixture
def split_files(write_atomic):
    """60, 10 and 10 sessions of 1 to 7 items and a target; returns their times, all at midnight or a second before."""
    rng = np.random.default_rng(3)
    session, written = 0, []
    for part, rows in zip(PARTS, (60, 10, 10), strict=True):
        names = ("session_id:token", "item_id_list:token_seq", "item_id:token", "timestamp_list:float_seq",
                 "timestamp:float")  # fmt: skip
        columns: dict[str, list] = {name: [] for name in names}
        for length in rng.integers(1, 8, size=rows):
            *history, target = (rng.integers(30) + np.arange(length + 1)) % 30
            days = rng.integers(300) + rng.integers(1, 5, size=length + 1).cumsum()
            *times, time = (MIDNIGHT + DAY * days - rng.integers(2, size=length + 1)).tolist()
            row = (f"s{session}", [f"i{item}" for item in history], f"i{target}", times, time)
            for values, value in zip(columns.values(), row, strict=True):
                values.append(value)
            session += 1
        write_atomic(columns, suffix=f"{part}.inter")
        written.append([[*times, time] for *_, times, time in zip(*columns.values(), strict=True)])
    return written


BENCHMARK = {"protocol": "benchmark", "USER_ID_FIELD": "session_id"}


@pytest.mark.parametrize("time_range", ["all", "train"])
def test_days_of_split_files_are_scaled_in_every_row(time_range, split_files, make_config):
    dataset = create_dataset(make_config("PASRec", time_range=time_range, MAX_ITEM_LIST_LENGTH=5, **BENCHMARK))
    parts = dataset.build()
    if time_range == "all":  # with what is cut off the histories
        used = [time for part in split_files for times in part for time in times]
    else:
        used = [time for times in split_files[0] for time in times[-6:]]
    first, last = min(used) // DAY, max(used) // DAY
    assert dataset.day_range == DayRange(first, last)
    for part, sequences in zip(parts, split_files, strict=True):
        rows = part.inter_feat[:]
        assert_scaled(rows, first, last)
        assert torch.equal(rows["toi"], scaled(torch.tensor([times[-1] for times in sequences]), first, last))
        for toi_list, times in zip(rows["toi_list"], sequences, strict=True):
            kept = scaled(torch.tensor(times[-6:-1]), first, last).tolist()
            assert toi_list.tolist() == kept + [0] * (5 - len(kept))


def test_pasrec_runs_on_split_files(split_files, settings):
    values = settings("PASRec", topk=[5], valid_metric="NDCG@5", **BENCHMARK)
    del values["load_col"]  # the columns that are loaded by default are enough
    result = quick_start.run(config_dict=values)
    assert result["protocol"] == "benchmark" and result["diagnostics"]["rows"] == 10
    assert result["config"]["load_col"] == {
        "inter": ["session_id", "item_id", "timestamp", "item_id_list", "timestamp_list"]
    }
    assert np.isfinite(result["train_loss"]).all() and len(result["train_loss"]) == 2


@needs("prefdiff-beauty")
def test_prefdiff_beauty_has_its_rows_and_days(make_config):
    config = make_config("PASRec", "prefdiff-beauty", data_path=str(SHARED), protocol="benchmark")
    assert config["USER_ID_FIELD"] == "session_id"
    dataset = create_dataset(config)
    parts = dataset.build()
    assert [len(part) for part in parts] == [17890, 2236, 2237]
    every = []
    for part in parts:
        rows = part.inter_feat[:]
        assert rows["toi_list"].shape == (len(part), 10) and rows["item_length"].max() == 10
        assert (rows["item_length"] >= 4).all()
        real = rows["item_id_list"] != 0
        assert not rows["toi_list"][~real].any()
        every += [rows["toi"], rows["toi_list"][real]]
        assert (rows["toi"] >= rows["toi_list"].max(1).values).all()
    toi = torch.cat(every)
    assert len(toi) == 162150
    assert (toi.min(), toi.max()) == (0, 1)
    first = parts[0].inter_feat[[0]]
    assert_scaled(first, dataset.day_range.first, dataset.day_range.last)
    config["train_pairs"] = "last"  # there is one row a session as it is
    every = np.arange(17890)
    assert np.array_equal(training_pairs(config, dataset.inter_feat, dataset.uid_field, every), every)


# Runs


@pytest.mark.parametrize("model", FAMILY)
def test_a_run_that_goes_on_equals_one_that_never_stopped(model, days, arguments, tmp_path, capsys):
    own = ["--is_history=5"] if model == "DiffRec" else []

    def train(name: str, epochs: int) -> Path:
        line = arguments(f"--epochs={epochs}", f"--checkpoint_dir={tmp_path / name}", *own, model=model)
        assert cli.main(line) == 0
        (folder,) = (tmp_path / name).iterdir()
        return folder

    whole, part = train("whole", 3), train("part", 1)
    before = checkpoint.load(part / "last.pth")
    assert cli.main([f"--resume={part}", "--epochs=3"]) == 0
    assert capsys.readouterr() == ("", "")

    results = [json.loads((folder / "result.json").read_text()) for folder in (part, whole)]
    assert results[0]["model"] == model and results[0]["epochs"] == 3
    assert results[0]["test_result"].keys() >= {"hit@10", "ndcg@10", "mrr@20"}
    for key in ("test_result", "diagnostics", "best_valid_result", "best_valid_score", "best_epoch", "train_loss"):
        assert results[0][key] == results[1][key], key
    for name in ("last.pth", "best.pth"):
        a, b = (checkpoint.load(folder / name) for folder in (part, whole))
        for key in a.keys() - {"config", "train_seconds", "train_cpu_seconds"}:
            assert equal(a[key], b[key]), (name, key)
    assert not equal(before["state_dict"], checkpoint.load(part / "last.pth")["state_dict"])
    if model == "DiffRec":  # else nothing would show that the history of losses goes on
        assert (before["state_dict"]["steps.counts"] >= 5).all()


def scores(model, loader) -> torch.Tensor:
    model.eval()
    with torch.no_grad():
        return torch.cat([model.full_sort_predict(batch[0]) for batch in loader])


@pytest.mark.parametrize(
    "model, values",
    [
        ("DiffRec", {}),
        ("PASRec", {}),  # rff: its frequencies are drawn, and kept
        ("PASRec", {"time_encoding": "gaussian", "denoiser": "mlp"}),
        ("PASRec", {"time_encoding": "sinusoidal", "sampler": "stepwise"}),
        ("PreferDiff", {}),
    ],
)
def test_a_model_that_is_loaded_scores_as_it_did(model, values, days, run, monkeypatch):
    trainers = []

    def create_trainer(*given):
        trainers.append(original(*given))
        return trainers[-1]

    original = quick_start.create_trainer
    monkeypatch.setattr(quick_start, "create_trainer", create_trainer)
    result = run(model, epochs=1, **values)
    loaded = quick_start.load(result["run_dir"])
    trained = scores(trainers[0].model, loaded.test)
    assert trained.shape == (60, 41) and trained[:, 1:].unique(dim=0).shape[0] > 30
    assert loaded.model is not trainers[0].model
    kept = checkpoint.load(Path(result["run_dir"]) / "best.pth")["state_dict"].keys()
    derived = {name for name, _ in loaded.model.named_buffers()} - kept
    assert all(name.startswith(("diffusion.", "step_embedding.")) for name in derived)  # from sizes alone, not drawn
    assert torch.equal(scores(loaded.model, loaded.test), trained)
    if model == "PASRec":
        scale = loaded.train._dataset.day_range
        assert loaded.model.day_range.tolist() == [scale.first, scale.last] == [0, (100 * 59 + 10) // 4]


def test_pasrec_runs_with_every_choice_of_rows(days, run):
    common = {"epochs": 1, "MAX_ITEM_LIST_LENGTH": 4, "window_step": 3}
    choices: list[dict] = [{}, {"train_pairs": "last"}, {"train_pairs": "window"}]
    choices += [{"protocol": "time_811", "time_range": time_range} for time_range in ("all", "train")]
    results = [run("PASRec", **common, **values) for values in choices]
    assert len({result["train_loss"][0] for result in results}) == len(choices)
    for result in results:
        assert all(0 <= value <= 1 for value in result["test_result"].values())


def test_weights_of_another_scale_are_refused(days, arguments, tmp_path, capsys):
    """Times that are scaled over training only are other numbers for the same days."""
    given = (f"--checkpoint_dir={tmp_path / 'runs'}", "--protocol=time_811")
    assert cli.main(arguments(*given, model="PASRec")) == 0
    (folder,) = (tmp_path / "runs").iterdir()
    assert cli.main([f"--resume={folder}", "--epochs=2", "--time_range=train"]) == 2
    assert "use the times, the split and the time_range of their run" in capsys.readouterr().err


@pytest.fixture
def dated(run, write_atomic):
    """30 users, 8 events each on days of their own."""
    users, days = np.repeat(np.arange(30), 8), np.arange(240) % 8 * 5 + np.repeat(np.arange(30), 8)
    write_atomic({
        "user_id:token": [f"u{user}" for user in users], "item_id:token": [f"i{n % 30}" for n in range(240)],
        "timestamp:float": [float(MIDNIGHT + DAY * int(day)) for day in days],
    })  # fmt: skip


def test_one_wrong_date_is_told_and_its_run_ends(dated, run, tmp_path, caplog):
    with open(tmp_path / "toy/toy.inter", "a") as file:
        file.write("u3\ti1\t253402300799\n")  # 9999-12-31
    result = run("PASRec", epochs=1, state="WARNING")
    assert "from 2014-05-13 to 9999-12-31" in caplog.text and "val_interval" in caplog.text
    assert result["test_result"] and (Path(result["run_dir"]) / "when.json").is_file()


@pytest.mark.parametrize("error", [UserError("they are not numbers"), MemoryError("14 GB"), OSError(28, "full")])
def test_a_run_outlives_the_measuring_of_its_windows(dated, run, monkeypatch, caplog, error):
    def fail(*_):
        raise error

    monkeypatch.setattr(quick_start.calibration, "measure_windows", fail)
    result = run("PASRec", epochs=1, state="WARNING")
    folder = Path(result["run_dir"])
    assert json.loads((folder / "result.json").read_text())["test_result"] == result["test_result"]
    assert "was not measured" in caplog.text and not (folder / "when.json").exists()


def test_a_mistake_in_the_measuring_keeps_its_traceback_and_the_result(dated, run, monkeypatch, tmp_path):
    monkeypatch.setattr(quick_start.calibration, "measure_windows", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("PASRec", epochs=1, state="WARNING")
    assert len(list(tmp_path.rglob("result.json"))) == 1
