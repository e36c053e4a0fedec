"""Recommendations from a run: those of its evaluator, without its data set, and refused where something is odd."""

import json
import logging
import os
import random
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import SMALL
from evaluator_ranks import require_ranks_of_evaluator, rows_of_test

from recbole_gen import checkpoint, quick_start
from recbole_gen.cli import main
from recbole_gen.config import registry
from recbole_gen.config.places import ROOT
from recbole_gen.errors import UserError
from recbole_gen.evaluation import calibration
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.recommender import Recommender

DAY = 86400
START = 1_700_006_400  # 2023-11-15


@pytest.fixture(scope="module")
def data_path(tmp_path_factory):
    """`shop`: 80 users, 40 items, 12 steps each, mostly to the next item; a step takes as many days as the user's
    habit, and mostly keeps the scene."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(0)
    lines = ["user_id:token\titem_id:token\ttimestamp:float\tscene:token"]
    for user in range(80):
        item, time, scene = draw.randrange(40), START + draw.randrange(90) * DAY, "abc"[user % 3]
        for _ in range(12):
            lines.append(f"u{user}\ti{item}\t{time}\t{scene}")
            item = (item + 1) % 40 if draw.random() < 0.8 else draw.randrange(40)
            time += (1 + user % 7) * DAY + draw.randrange(DAY // 2)
            scene = scene if draw.random() < 0.8 else draw.choice("abc")
    (folder / "shop").mkdir()
    (folder / "shop/shop.inter").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def trained(data_path, tmp_path_factory):
    """trained(model, **values): the folder of a run on `shop`, which is made once."""
    made = {}

    def get(model: str, **values) -> Path:
        key = json.dumps([model, values], sort_keys=True)
        if key not in made:
            common = {
                "data_path": str(data_path), "checkpoint_dir": str(tmp_path_factory.mktemp("runs")), "use_gpu": False,
                "num_threads": 1, "epochs": 2, "train_batch_size": 64, "show_progress": False, "state": "ERROR",
                "load_col": None, "MAX_ITEM_LIST_LENGTH": 8, **SMALL.get(model, {}),
            }  # fmt: skip
            made[key] = Path(quick_start.run(model, "shop", config_dict={**common, **values}, quiet=True)["run_dir"])
        return made[key]

    return get


@pytest.fixture
def moved(trained, tmp_path, monkeypatch):
    """moved(model): the run copied to another place, where nothing knows of its data set."""

    def get(model: str, **values) -> Path:
        folder = tmp_path / "elsewhere"
        shutil.copytree(trained(model, **values), folder)
        monkeypatch.chdir(tmp_path)
        return folder

    return get


@pytest.mark.parametrize("model", registry.MODELS)
def test_recommendations_are_the_evaluators(trained, model):
    table = require_ranks_of_evaluator(trained(model))
    assert table["rank"].max() == 20 and table.groupby("user").size().eq(20).all()


@pytest.mark.parametrize("model", ["DreamRec", "PASRec", "DSPnet", "SASRec"])
def test_a_copy_without_the_data_set_says_the_same(trained, moved, monkeypatch, model):
    rows = rows_of_test(trained(model))
    here = Recommender.load(trained(model)).recommend(**rows)
    folder = moved(model)
    monkeypatch.setattr("recbole_gen.config.places.find_dataset", lambda *_: pytest.fail("it looked for the data set"))
    recommender = Recommender.load(folder)
    pd.testing.assert_frame_equal(recommender.recommend(**rows), here)
    pd.testing.assert_frame_equal(recommender.recommend(**rows), here)  # and again


SAMPLES = [
    ("DreamRec", {}), ("DreamRec", {"denoiser": "mlp"}), ("PASRec", {}), ("PreferDiff", {}),
    ("DiffRec", {"infer": "full", "noise_per_user": True}), ("ACVAE", {"eval_noise": "sample"}),
]  # fmt: skip


def scores_of(table: pd.DataFrame) -> pd.DataFrame:
    """A row a user, a column an item."""
    return table.pivot(index="user", columns="item", values="score")


def part_of(rows: dict, index) -> dict:
    return {name: values and [values[i] for i in index] for name, values in rows.items()}


@pytest.mark.parametrize(("model", "values"), SAMPLES)
def test_a_history_has_the_same_answer_in_any_order_and_company(trained, monkeypatch, model, values):
    """Its noise does not depend on its place in a call; scores are as equal as matrix products of other sizes are."""
    table = require_ranks_of_evaluator(trained(model, **values))
    recommender, rows = Recommender.load(trained(model, **values)), rows_of_test(trained(model, **values))
    n = len(rows["users"])
    orders = [range(n)[::-1], random.Random(1).sample(range(n), n), [3], [5, 3, 5, 9]]
    everything = {"k": 40, "exclude_seen": False}
    wanted = scores_of(recommender.recommend(**rows, **everything))
    read = {str((history[-8:], rows["times"] and model == "PASRec" and rows["times"][i][-8:]))
            for i, history in enumerate(rows["histories"])}  # fmt: skip
    assert wanted.notna().all(axis=None) and 70 < len(wanted.drop_duplicates()) <= len(read)
    for size, order in [(4096, order) for order in orders] + [(7, range(n)), (1, range(n)[::-9])]:
        monkeypatch.setitem(recommender.config.final_config_dict, "eval_batch_size", size)
        some = part_of(rows, order)
        names = some.pop("users")
        got = scores_of(recommender.recommend(**some, **everything, users=[str(place) for place in range(len(names))]))
        got.index = [names[int(place)] for place in got.index]
        np.testing.assert_allclose(got[wanted.columns], wanted.loc[got.index], rtol=1e-3, atol=1e-4)
    assert len(table) == 20 * n


def test_another_seed_is_other_noise(trained):
    folder = trained("DreamRec")
    rows, recommender = rows_of_test(folder), Recommender.load(folder)
    first = recommender.recommend(**rows)
    recommender.model.seed += 1
    assert not first["item"].equals(recommender.recommend(**rows)["item"])


def test_a_file_may_come_in_any_order(trained, tmp_path, monkeypatch):
    rows = rows_of_test(trained("PASRec"))
    answers = []
    for number, users_at_once in enumerate((10_000, 7)):
        monkeypatch.setattr("recbole_gen.recommending.history_files.CHUNK_USERS", users_at_once)
        order = range(len(rows["users"]))[:: -1 if number else 1]
        given = part_of(rows, order) | {"scenes": [["a"] * len(rows["histories"][i]) for i in order]}
        file, out = write_histories(tmp_path, given, "jsonl"), tmp_path / f"{number}.csv"
        line = ["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={out}", "--k=20"]
        assert main(line) == 0
        answers.append(pd.read_csv(out).sort_values(["user", "item"]).reset_index(drop=True))
    pd.testing.assert_frame_equal(*(each.drop(columns="rank") for each in answers), rtol=1e-3, atol=1e-4)


def test_what_was_seen_is_left_out_unless_it_may_come_again(trained):
    recommender = Recommender.load(trained("SASRec"))
    history = [f"i{n}" for n in range(20)]  # longer than the model reads
    table = recommender.recommend([history], k=40)
    assert len(table) == 20 and not set(table["item"]) & set(history)
    again = recommender.recommend([history], k=40, exclude_seen=False)
    assert sorted(again["item"]) == sorted(f"i{n}" for n in range(40))
    assert again["score"].is_monotonic_decreasing and again["rank"].tolist() == list(range(1, 41))


def test_only_candidates_are_recommended(trained, caplog):
    recommender = Recommender.load(trained("SASRec"))
    table = recommender.recommend([["i1"], ["i2"]], candidates=["i5", "i2", "no such item"], k=3)
    assert table[table["user"] == "0"]["item"].isin(["i5", "i2"]).all() and len(table) == 3
    assert "1 of 3 candidates" in caplog.text
    with pytest.raises(UserError, match="none of the candidates"):
        recommender.recommend([["i1"]], candidates=["x"])


def test_unknown_items_are_left_out_and_told(trained, caplog):
    recommender = Recommender.load(trained("SASRec"))
    caplog.set_level(logging.WARNING)
    clean = recommender.recommend([["i1", "i2"]], users=["anna"])
    mixed = recommender.recommend([["?", "i1", "??", "i2"]], users=["anna"])
    pd.testing.assert_frame_equal(mixed, clean)
    assert mixed.attrs["unknown"] == 2 and "2 events" in caplog.text and "'?', '??'" in caplog.text


def test_an_item_may_have_the_name_of_padding(tmp_path, trained, data_path):
    text = (data_path / "shop/shop.inter").read_text()
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop/shop.inter").write_text(text.replace("\ti7\t", "\t[PAD]\t"))
    renamed, plain = (Recommender.load(trained("GRU4Rec", **more)) for more in ({"data_path": str(tmp_path)}, {}))
    found = renamed.recommend([["[PAD]", "i4"]], k=5)
    assert found["item"].tolist() == plain.recommend([["i7", "i4"]], k=5)["item"].tolist()
    assert "[PAD]" in renamed.recommend([["i4"]], k=40)["item"].tolist()


def test_an_empty_history_is_answered_by_popularity(trained, caplog):
    recommender = Recommender.load(trained("SASRec"))
    table = recommender.recommend([[], ["i1"], ["?"]], k=5)
    assert table.groupby("user")["by"].first().to_dict() == {"0": "popularity", "1": "model", "2": "popularity"}
    assert table.attrs["by_popularity"] == 2 and "2 users are answered by popularity" in caplog.text
    counts = checkpoint.load(trained("SASRec") / "best.pth")["serving"]["counts"]
    best = [recommender.items[int(place)].as_py() for place in counts.topk(5).indices]
    first = table[table["user"] == "0"]
    assert first["score"].tolist() == counts.topk(5).values.tolist() and set(first["item"]) == set(best)


@pytest.mark.parametrize("place", [0, 1, 2])
@pytest.mark.parametrize("more", [{}, {"times": None}, {"times": []}])
def test_an_empty_history_has_no_times_to_give(place, more, trained, tmp_path):
    rows = rows_of_test(trained("PASRec"))
    users = [{"user": f"n{n}", "history": rows["histories"][n], "times": rows["times"][n]} for n in range(2)]
    users.insert(place, {"user": "cold", "history": [], **more})
    file, out = tmp_path / "h.jsonl", tmp_path / "out.csv"
    file.write_text("".join(json.dumps(row) + "\n" for row in users))
    assert main(["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={out}"]) == 0
    found = pd.read_csv(out).groupby("user", sort=False)["by"].first().to_dict()
    assert found == {row["user"]: "popularity" if row["user"] == "cold" else "model" for row in users}
    recommender = Recommender.load(trained("PASRec"))
    answers = recommender.recommend([row["history"] for row in users], times=[row.get("times") for row in users])
    assert answers["item"].tolist() == pd.read_csv(out)["item"].tolist()


def test_a_history_without_its_times_is_refused_with_its_line(trained, tmp_path, refused):
    rows = rows_of_test(trained("PASRec"))
    file = tmp_path / "h.jsonl"
    line = ["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={tmp_path / 'o.csv'}"]
    good = {"user": "a", "history": rows["histories"][0], "times": rows["times"][0]}
    for bad in ({"user": "b", "history": ["i1"]}, {"user": "b", "history": ["i1"], "times": None}):
        file.write_text("".join(json.dumps(row) + "\n" for row in ({"user": "c", "history": []}, good, bad)))
        refused(line, "line 3")


def test_an_empty_history_is_answered_by_a_model_that_was_trained_with_them(trained):
    folder = trained("DreamRec", protocol="sequence_811", targets="all", empty_history=True)
    table = Recommender.load(folder).recommend([[]])
    assert (table["by"] == "model").all()


def test_a_model_that_knows_users_answers_for_those_only(trained, caplog):
    recommender = Recommender.load(trained("FPMC"))
    table = recommender.recommend([["i1"], ["i1"]], users=["u1", "somebody"])
    assert table.groupby("user")["by"].first().to_dict() == {"u1": "model", "somebody": "popularity"}
    assert "the model does not know them" in caplog.text


def test_histories_may_be_of_any_length_and_number(trained):
    recommender = Recommender.load(trained("SASRec"))
    long = ["i1"] * 100_000 + ["i2", "i3"]
    assert recommender.recommend([long])["item"].tolist() == recommender.recommend([long[-8:]], k=11).query(
        "item != 'i1'")["item"].tolist()[:10]  # fmt: skip
    assert recommender.recommend([]).empty and list(recommender.recommend([]))[:4] == ["user", "rank", "item", "score"]


def test_times_are_read_and_predicted(trained):
    recommender = Recommender.load(trained("PASRec"))
    rows = rows_of_test(trained("PASRec"))
    table = recommender.recommend(**rows)
    when = recommender.when(rows["histories"], rows["times"], rows["users"])
    assert len(when) == 80 and when["user"].tolist() == rows["users"]
    merged = table.drop_duplicates("user").merge(when, on="user")
    for name in ("when", "from", "until"):
        assert (merged[f"{name}_x"] == merged[f"{name}_y"]).all()
    last = pd.to_datetime([times[-1] // DAY * DAY for times in rows["times"]], unit="s")
    assert (when["from"] >= last).all() and (when["until"] >= when["from"]).all()
    assert when["when"].dt.normalize().eq(when["when"]).all()
    dates = [[str(np.datetime64(int(time), "s")) for time in times] for times in rows["times"]]
    pd.testing.assert_frame_equal(recommender.when(rows["histories"], dates, rows["users"]), when)
    mixed = [
        list(zip(*random.Random(0).sample(list(zip(h, t)), len(h)))) for h, t in zip(rows["histories"], rows["times"])
    ]
    shuffled = recommender.when([h for h, _ in mixed], [t for _, t in mixed], rows["users"])
    pd.testing.assert_frame_equal(shuffled, when)  # histories are sorted by time
    assert recommender.when([[]], [[]])["when"].isna().all()


def test_windows_hold_what_they_held_in_validation(trained):
    folder = trained("PASRec")
    run, report = quick_start.load(folder), json.loads((folder / "when.json").read_text())
    recommender = Recommender.load(folder)
    for part, loader in (("valid", run.valid), ("test", run.test)):
        inside, rows = 0, 0
        for batch in loader:
            interaction = batch[0]
            said = run.model.when(interaction).day.numpy()
            first, last = recommender.window.around(said, run.model.last_day(interaction).numpy())
            true = np.floor(interaction["timestamp"].numpy() / DAY)
            inside += int(((true >= first) & (true <= last)).sum())
            rows += len(true)
        if part == "valid":
            assert inside / rows >= report["level"]
        else:
            assert report["test_rows"] == rows and report["model"]["coverage"] == pytest.approx(inside / rows)
    told = recommender.window.describe()
    assert "persistence" in told and "constant" in told and f"{report['model']['coverage']:.1%}" in told


@pytest.mark.parametrize("days", [None, (-3, 4), (2, 9), (-8, -2), (5, 5)])
def test_the_day_is_inside_its_window(trained, days):
    recommender = Recommender.load(trained("PASRec"))
    window = days and calibration.DayWindow(*days, recommender.window.report)
    recommender._scorer._window = window
    draw, items = random.Random(1), recommender.items.to_pylist()[1:]
    histories = [draw.choices(items, k=draw.randint(1, 12)) for _ in range(400)]
    first = rows_of_test(trained("PASRec"))["times"][0][0]
    times = [sorted(first + draw.randrange(400 * DAY) for _ in history) for history in histories]
    when = recommender.when(histories, times)
    assert ((when["from"] <= when["when"]) & (when["when"] <= when["until"])).all()
    last = pd.to_datetime([row[-1] // DAY * DAY for row in times], unit="s")
    assert (when["from"] >= last).all()
    if days and days[0] <= 0 <= days[1]:  # the window is around the day that the model says
        early, late = (when[name] - when["when"] for name in ("from", "until"))
        assert (early.dt.days >= days[0]).all() and (late.dt.days == days[1]).all()
    if days == (2, 9):
        assert (when["when"] == when["from"]).all()


def test_a_guess_that_is_as_good_is_told():
    numbers = {"lower": -1, "upper": 2, "coverage": 0.8, "median_width": 4.0, "score": 5.0, "mean_error": 1.0}
    report = {
        "level": 0.8,
        "valid_rows": 99,
        "test_rows": 99,
        "model": numbers,
        "constant": {**numbers, "score": 9.0},
    }
    for score, said in ((4.0, True), (5.0, True), (6.0, False)):
        window = calibration.DayWindow(-1, 2, {**report, "persistence": {**numbers, "score": score}})
        assert ("Do not rely" in window.describe()) == said


def test_quantiles_of_a_window_are_conformal():
    errors = np.arange(1, 100)  # 99 of them: the rank of p is 100 p
    assert calibration._conformal_quantile(errors, 0.1) == 10 and calibration._conformal_quantile(errors, 0.9) == 90
    assert (
        calibration._conformal_quantile(np.array([5]), 0.1) == calibration._conformal_quantile(np.array([5]), 0.9) == 5
    )


def test_models_without_times_say_none(trained):
    recommender = Recommender.load(trained("SASRec"))
    with pytest.raises(UserError, match="predicts no times: train PASRec"):
        recommender.when([["i1"]])
    with pytest.raises(UserError, match="predicts no scenes: train DSPnet"):
        recommender.next_scenes([["i1"]])
    with pytest.raises(UserError, match="reads the times of histories"):
        Recommender.load(trained("PASRec")).recommend([["i1"]])


def test_scenes_are_read_and_predicted(trained):
    recommender = Recommender.load(trained("DSPnet"))
    table = recommender.recommend([["i1", "i2"], ["i3"]], scenes=[["a", "a"], ["no such scene"]], users=["x", "y"])
    scenes = recommender.next_scenes([["i1", "i2"], ["i3"]], scenes=[["a", "a"], ["no such scene"]], users=["x", "y"])
    assert set(scenes["scene"]) == set("abc") and scenes["rank"].tolist() == [1, 2, 3] * 2
    first = scenes[scenes["rank"] == 1].set_index("user")["scene"].to_dict()
    assert table.drop_duplicates("user").set_index("user")["next_scene"].to_dict() == first
    with pytest.raises(UserError, match="reads the scenes of histories"):
        recommender.recommend([["i1"]])


@pytest.mark.parametrize(
    ("call", "words"),
    [
        ({"histories": ["i1", "i2"]}, "a history is a list of items"),
        ({"histories": "i1"}, "lists of items"),
        ({"histories": [[None]]}, "cannot be the name"),
        ({"histories": [["i1"]], "k": 0}, "at least 1"),
        ({"histories": [["i1"]], "times": [[1, 2]]}, "history 0 has 1 item and 2 times"),
        ({"histories": [["i1"]], "times": [[1], [2]]}, "2 lists of times for 1 histories"),
        ({"histories": [["i1"]], "times": [["soon"]]}, "no Unix seconds"),
        ({"histories": [["i1"]], "times": [[1e30]]}, "no dates of the years 1 to 9999"),
        ({"histories": [["i1"]], "users": ["a", "b"]}, "2 users, 1 history$"),
    ],
)
def test_bad_input_gets_a_message(trained, call, words):
    with pytest.raises(UserError, match=words):
        Recommender.load(trained("SASRec")).recommend(**call)


def changed(folder, change):
    content = checkpoint.load(folder / "best.pth")
    change(content)
    checkpoint.save(folder / "best.pth", content)


def set_weights(content):
    next(value for value in content["state_dict"].values() if value.is_floating_point()).fill_(float("nan"))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.pop("serving"), "kept nothing to recommend with"),
        (lambda content: content.update(model="GRU4Rec"), "it was changed"),
        (lambda content: content["config"].update(model="GRU4Rec"), "it was changed"),
        (lambda content: content["vocabulary"]["item_id"].pop(), "of another size"),
        (lambda content: content["serving"]["sizes"].update(item_id=7), "of another size"),
        (lambda content: content["serving"].update(counts=torch.zeros(3)), "counts other items"),
        (lambda content: content["serving"].pop("types"), "of another version"),
        (lambda content: content["serving"]["types"].update(item_id="text"), "of what kind its columns are"),
        (lambda content: content["serving"].update(scenes=3), "of what kind its columns are"),
        (lambda content: content["state_dict"].popitem(), "do not fit the model"),
        (set_weights, "weights that are not numbers"),
        (lambda content: content.pop("state_dict"), "has no 'state_dict'"),
        (lambda content: content["config"].update(hidden_size=8), "do not fit the model"),
    ],
)
def test_a_checkpoint_that_was_changed_is_refused(moved, change, words):
    folder = moved("SASRec")
    changed(folder, change)
    with pytest.raises(UserError, match=words):
        Recommender.load(folder)


def test_a_checkpoint_that_is_none_is_refused(moved, tmp_path):
    folder = moved("SASRec")
    whole = (folder / "best.pth").read_bytes()
    (folder / "best.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="truncated or not a checkpoint"):
        Recommender.load(folder)
    torch.save({"format": checkpoint.FORMAT, "x": Path("/")}, folder / "best.pth")
    with pytest.raises(UserError, match="pickled Python objects"):
        Recommender.load(folder)
    with pytest.raises(UserError, match="there is no run"):
        Recommender.load(tmp_path / "nowhere")


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"level": 0.8, "test_rows": 5, "model": {"lower": NaN}}'])
def test_a_damaged_calibration_is_refused(moved, text):
    folder = moved("PASRec")
    (folder / "when.json").write_text(text)
    with pytest.raises(UserError, match=r"when\.json is damaged"):
        Recommender.load(folder)


# The command line


def write_histories(folder, rows, form):
    """The rows of `rows_of_test` as a file of one of the forms."""
    users, histories, times, scenes = (rows[name] for name in ("users", "histories", "times", "scenes"))
    file = folder / f"histories.{form.partition(' ')[0]}"
    frame = pd.DataFrame({"user": users, "history": histories, "times": times, "scenes": scenes})
    events = pd.DataFrame({
        "user_id": np.repeat(users, [len(h) for h in histories]), "item_id": [i for h in histories for i in h],
        "timestamp": [t for row in times for t in row], "scene": [s for row in scenes for s in row],
    })  # fmt: skip
    if form == "jsonl":
        file.write_text("\n".join(json.dumps(record) for record in frame.to_dict("records")))
    elif form == "parquet":
        frame.to_parquet(file)
    elif form == "parquet log":
        events.to_parquet(file)
    elif form == "jsonl log":
        file.write_text("\n".join(json.dumps(record) for record in events.to_dict("records")))
    elif form == "csv":
        frame = frame.assign(**{name: [" ".join(map(str, each)) for each in frame[name]] for name in list(frame)[1:]})
        frame.to_csv(file, index=False)
    elif form == "csv log":
        events.sample(frac=1, random_state=0).to_csv(file, index=False)
    elif form == "inter log":
        kinds = {"timestamp": "float"}
        events.rename(columns=lambda c: f"{c}:{kinds.get(c, 'token')}").to_csv(file, sep="\t", index=False)
    return file


def by_user(table):
    return table.sort_values(["user", "rank"]).reset_index(drop=True)


@pytest.mark.parametrize("form", ["jsonl", "jsonl log", "parquet", "parquet log", "csv", "csv log", "inter log"])
@pytest.mark.parametrize("model", ["DSPnet"])
def test_files_of_every_form_are_answered_alike(trained, tmp_path, model, form):
    rows = rows_of_test(trained(model))
    expected = Recommender.load(trained(model)).recommend(**rows, k=3)
    file = write_histories(tmp_path, rows, form)
    out = tmp_path / "out.parquet"
    arguments = [f"--checkpoint={trained(model)}", f"--histories={file}", f"--output={out}", "--k=3"]
    assert main(["recommend", *arguments]) == 0
    got = pd.read_parquet(out)
    pd.testing.assert_frame_equal(by_user(got), by_user(expected), check_dtype=False, check_exact=False, rtol=1e-5)


@pytest.mark.parametrize("form", ["csv", "jsonl", "parquet"])
def test_every_form_of_output_has_the_same_table(trained, tmp_path, form):
    rows = rows_of_test(trained("PASRec"))
    file, out = write_histories(tmp_path, rows, "jsonl"), tmp_path / f"out.{form}"
    line = ["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={out}", "--when"]
    assert main(line) == 0
    read = {"csv": pd.read_csv, "jsonl": lambda path: pd.read_json(path, lines=True), "parquet": pd.read_parquet}[form]
    got = read(out)
    expected = Recommender.load(trained("PASRec")).recommend(**rows)
    assert list(got) == list(expected) and len(got) == len(expected)
    assert got["item"].tolist() == expected["item"].tolist()
    assert pd.to_datetime(got["from"]).tolist() == expected["from"].tolist()
    assert not list(tmp_path.glob("*.parts"))


def test_between_keeps_users_whose_window_meets_the_days(trained, tmp_path, capsys):
    rows = rows_of_test(trained("PASRec"))
    file, out = write_histories(tmp_path, rows, "jsonl"), tmp_path / "out.csv"
    when = Recommender.load(trained("PASRec")).when(rows["histories"], rows["times"], rows["users"])
    first, last = when["from"].quantile([0.3, 0.4]).dt.strftime("%Y-%m-%d")
    line = ["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={out}"]
    assert main([*line, "--between", first, last, "--k=2"]) == 0
    kept = when[(when["from"] <= last) & (when["until"] >= first)]["user"].tolist()
    assert 0 < len(kept) < len(when) and pd.read_csv(out)["user"].unique().tolist() == kept
    said = capsys.readouterr().out
    assert f"{len(kept)} users" in said and "interval score" in said and "popularity" not in said


def test_between_counts_those_who_have_no_window_and_no_popularity_of_users_left_out(trained, tmp_path, capsys):
    rows = rows_of_test(trained("PASRec"))
    rows = {name: list(rows[name])[:4] for name in ("users", "histories", "times")}
    rows["scenes"] = [["a"] * len(each) for each in [*rows["histories"], "b", "c"]]
    rows["users"] += ["new", "newer"]
    rows["histories"] += [["nothing we know"], ["nor this"]]
    rows["times"] += [[START], [START]]
    file, out = write_histories(tmp_path, rows, "jsonl"), tmp_path / "out.csv"
    line = ["recommend", f"--checkpoint={trained('PASRec')}", f"--histories={file}", f"--output={out}", "--k=1"]
    assert main([*line, "--between", "1971-01-01", "2199-01-01"]) == 0
    said = capsys.readouterr().out
    assert "4 rows of 4 users" in said and "6 histories read" in said
    assert "2 users are left out by --between" in said and "by popularity" not in said
    out.unlink()
    assert main(line) == 0
    assert "2 users are answered by popularity" in capsys.readouterr().out


def test_an_interrupted_command_goes_on_with_the_same_result(trained, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("recbole_gen.recommending.history_files.CHUNK_USERS", 16)
    rows = rows_of_test(trained("DreamRec"))
    rows |= {"scenes": [["a"] * len(h) for h in rows["histories"]]}
    file = write_histories(tmp_path, rows, "jsonl")
    line = ["recommend", f"--checkpoint={trained('DreamRec')}", f"--histories={file}"]
    assert main([*line, f"--output={tmp_path / 'whole.csv'}"]) == 0
    answer, calls = Recommender.recommend_batch, []

    def interrupted(self, *arguments):
        calls.append(None)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return answer(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Recommender, "recommend_batch", interrupted)
        assert main([*line, f"--output={tmp_path / 'parts.csv'}"]) == 130
    assert "32 users" in capsys.readouterr().err and not (tmp_path / "parts.csv").exists()
    assert main([*line, f"--output={tmp_path / 'parts.csv'}"]) == 0
    assert "going on after 32 users" in capsys.readouterr().out
    assert (tmp_path / "parts.csv").read_bytes() == (tmp_path / "whole.csv").read_bytes()


def test_parts_of_another_command_are_begun_again(trained, tmp_path, capsys):
    file = write_histories(tmp_path, rows_of_test(trained("DSPnet")), "jsonl")
    parts = tmp_path / "out.csv.parts"
    parts.mkdir()
    (parts / "note.json").write_text(json.dumps({"made_of": "else", "done": 5, "totals": {}}))
    line = ["recommend", f"--checkpoint={trained('DSPnet')}", f"--histories={file}", f"--output={tmp_path / 'out.csv'}"]
    assert main(line) == 0
    assert "is begun again" in capsys.readouterr().out and len(pd.read_csv(tmp_path / "out.csv")) == 800


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--histories=x.csv", "--output=o.csv"], ["needs --checkpoint"]),
        (["--checkpoint=RUN", "--histories=none.csv", "--output=o.csv"], ["no file none.csv"]),
        (["--checkpoint=RUN", "--histories=h.jsonl", "--output=o.xls"], ["must end in one of .csv"]),
        (["--checkpoint=nowhere", "--histories=h.jsonl", "--output=o.csv"], ["no run in nowhere"]),
        (["--checkpoint=RUN", "--histories=h.jsonl", "--output=o.csv", "--when"], ["predicts no times"]),
        (["--checkpoint=RUN", "--histories=h.jsonl", "--output=o.csv", "--between=tomorrow"], ["needs two days"]),
        (["--checkpoint=RUN", "--histories=h.jsonl", "--output=o.csv", "--kk=2"], ["no option --kk"]),
        (["--checkpoint=nowhere", "--histories=h.jsonl", "--output=o.csv", "--k=0"], ["at least 1"]),
        (["--checkpoint=nowhere", "--histories=h.jsonl", "--output=o.csv", "--k=2.5"], ["at least 1"]),
        (["--checkpoint=nowhere", "--histories=h.jsonl", "--output=o.csv", "--search=an"], ["Did you mean ann?"]),
        (["--checkpoint=nowhere", "--histories=h.jsonl", "--output=o.csv", "--between=2024-02-30"], ["two days"]),
        (["--checkpoint=RUN", "--histories=h.jsonl", "--output=o.csv", "--candidates=c.txt"], ["c.txt cannot be read"]),
        (["--checkpoint=RUN", "--histories=bad.jsonl", "--output=o.csv"], ["line 2 is no JSON"]),
        (
            ["--checkpoint=RUN", "--histories=bad.csv", "--output=o.csv"],
            ["no column of items", "--item=COLUMN", "history"],
        ),
        (["--checkpoint=RUN", "--histories=bad.parquet", "--output=o.csv"], ["no Parquet file"]),
        (["--checkpoint=RUN", "--histories=empty.jsonl", "--output=o.csv"], ["empty.jsonl: the file is empty"]),
        (["--checkpoint=RUN", "--histories=odd.inter", "--output=o.csv"], ["1 of the 2 rows", "such as 'u1' (line 3)"]),
        (["--checkpoint=RUN", "--histories=late.inter", "--output=o.csv"], ["1 of the 1", "such as 'soon' (line 2)"]),
    ],
)
def test_a_mistake_on_the_command_line_gets_one_message(trained, tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    Path("h.jsonl").write_text('{"user": "u", "history": ["i1"]}\n')
    Path("bad.jsonl").write_text('{"user": "u", "history": ["i1"]}\n{"user": \n')
    Path("bad.csv").write_text("user,thing\n1,2\n")
    Path("bad.parquet").write_bytes(b"PAR1")
    Path("empty.jsonl").write_text("")
    Path("odd.inter").write_text("user_id:token\titem_id:token\nu1\ti1\nu1\n")
    Path("late.inter").write_text("user_id:token\titem_id:token\ttimestamp:float\nu1\ti1\tsoon\n")
    run = str(trained("SASRec"))
    assert main(["recommend", *(argument.replace("RUN", run) for argument in arguments)]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(word in error for word in words), error
    assert not Path("o.csv").exists()


def test_histories_keep_the_order_of_simultaneous_events():
    given = Histories.from_lists([["b", "a", "c"]], [[5, 5, 1]])
    assert given.items.to_pylist() == ["c", "b", "a"] and given.times.tolist() == [1, 5, 5]


def test_the_example_has_its_help_and_refuses_in_one_line(tmp_path):
    def call(*words):
        line = [sys.executable, str(ROOT / "examples/whom_when_what.py"), *words]
        env = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(line, cwd=tmp_path, env=env, capture_output=True, text=True)

    shown = call("--help")
    assert shown.returncode == 0 and "its column of items" in shown.stdout and "recommendations.csv" in shown.stdout
    refused = call("nothing.csv", "customer", "sku", "at")
    assert refused.returncode == 2 and refused.stderr.startswith("error: nothing.csv cannot be read")


def test_the_example_goes_from_a_log_to_recommendations(tmp_path, monkeypatch, capsys):
    source = (ROOT / "examples/whom_when_what.py").read_text(encoding="utf-8")
    code = [line for line in source.partition('"""\n\n')[2].splitlines() if line.strip()]
    assert len(code) < 30
    draw = random.Random(0)
    events = [(f"c{user}", f"s{(user + step) % 30}", START + (user + 3 * step) * DAY + draw.randrange(DAY))
              for user in range(40) for step in range(8)]  # fmt: skip
    pd.DataFrame(events, columns=["customer", "sku", "at"]).to_csv(tmp_path / "events.csv", index=False)
    monkeypatch.chdir(tmp_path)
    runpy.run_path(str(ROOT / "examples/whom_when_what.py"))["main"]("events.csv", "customer", "sku", "at", epochs=1)
    table = pd.read_csv("recommendations.csv")
    assert list(table) == ["user", "rank", "item", "score", "by", "when", "from", "until"]
    assert table["user"].nunique() == 40 and "c0" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["h.jsonl", "link.jsonl"])
def test_what_is_read_is_not_replaced(trained, tmp_path, name, capsys):
    histories = tmp_path / "h.jsonl"
    histories.write_text('{"user": "u", "history": ["i1", "i2"]}\n')
    if name != "h.jsonl":
        (tmp_path / name).symlink_to(histories)
    before = histories.read_bytes()
    line = ["recommend", f"--checkpoint={trained('SASRec')}", f"--histories={histories}", f"--output={tmp_path / name}"]
    assert main(line) == 2
    assert "is the file of --histories" in capsys.readouterr().err
    assert histories.read_bytes() == before and not list(tmp_path.glob("*.parts"))


def test_a_command_that_comes_to_nothing_leaves_no_folder(trained, tmp_path, capsys):
    (tmp_path / "h.jsonl").write_text("")
    line = [f"--checkpoint={trained('SASRec')}", f"--histories={tmp_path}/h.jsonl", f"--output={tmp_path}/out.csv"]
    assert main(["recommend", *line]) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["h.jsonl"]
