"""Scenes: where they come from, one vocabulary for all that holds them, memory, metrics, diagnostics and mistakes."""

import math
from collections import Counter

import numpy as np
import pytest
import torch
from recbole.data.dataset import Dataset

from recbole_gen import quick_start
from recbole_gen.config.config import Config
from recbole_gen.data import scenes
from recbole_gen.data.loaders import create_dataset, create_loaders
from recbole_gen.errors import UserError

PARTS = ("train", "valid", "test")
TINY = {"hidden_size": 16, "scene_size": 8, "n_layers": 1}
SOURCES = "globo-scene.*KuaiRand.*Outbrain.*--SCENE_FIELD=class --scene_rule=first"
pytestmark = [pytest.mark.usefixtures("one_thread"), pytest.mark.filterwarnings("ignore:__array_wrap__ must accept")]


def log(seed: int = 0, users: int = 20, items: int = 12) -> dict:
    """Users of 4 to 11 events, interleaved, each event with a scene of its own."""
    rng = np.random.default_rng(seed)
    user = rng.permutation(np.repeat(np.arange(users), rng.integers(4, 12, size=users)))
    return {
        "user_id:token": [f"u{number}" for number in user],
        "item_id:token": [f"i{number}" for number in [*range(items), *rng.integers(items, size=len(user) - items)]],
        "timestamp:float": rng.permutation(len(user)).tolist(),
        "scene:token": [f"s{number}" for number in rng.integers(4, size=len(user))],
    }


def without_scenes(columns: dict) -> dict:
    return {title: values for title, values in columns.items() if not title.startswith("scene")}


def by_user(columns: dict) -> dict[str, list[tuple[str, str]]]:
    """(item, scene) of each user's events in the order of time."""
    rows = sorted(
        zip(columns["timestamp:float"], *(columns[f"{name}:token"] for name in ("user_id", "item_id", "scene")))
    )
    users: dict[str, list] = {}
    for _, user, *event in rows:
        users.setdefault(user, []).append(tuple(event))
    return users


def tokens(dataset, field: str, ids) -> list[str]:
    """Without padding."""
    ids = np.asarray(ids).reshape(-1)
    return [str(dataset.field2id_token[field][number]) for number in ids if number]


def dense(part):
    return part.inter_feat[torch.arange(len(part))]


def require_scenes(dataset, parts, scenes_of: dict[str, list[str]], field: str = "scene") -> None:
    """Histories, targets and futures of all rows have the scenes of the user's events, which ``scenes_of`` lists."""
    number = 0
    for part in parts:
        rows = dense(part)
        for row, length in enumerate(rows["item_length"].tolist()):  # no history is cut: at most 11 events of 50
            (user,) = tokens(dataset, "user_id", rows["user_id"][row])
            own = scenes_of[user]
            assert tokens(dataset, field, rows[f"{field}_list"][row]) == own[:length]
            assert tokens(dataset, field, rows[field][row]) == [own[length]]
            future = tokens(dataset, field, rows[f"future_{field}_list"][row])
            assert future == own[length : length + int((rows["future_item_id_list"][row] != 0).sum())]
            number += 1
    assert number > 40


def scenes_by_user(columns: dict) -> dict[str, list[str]]:
    return {user: [scene for _, scene in events] for user, events in by_user(columns).items()}


# Where scenes come from


@pytest.mark.parametrize("values", [{}, {"protocol": "sequence_811"}, {"protocol": "holdout_82"}], ids=str)
def test_T33_scenes_of_interactions(values, write_atomic, make_config):
    columns = log()
    write_atomic(columns)
    dataset = create_dataset(make_config("DSPnet", **values))
    parts = dataset.build()
    require_scenes(dataset, parts, scenes_by_user(columns))
    assert dataset.num("scene") == 5 and set(dataset.field2id_token["scene"]) == {"[PAD]", "s0", "s1", "s2", "s3"}


def item_file(write_atomic, title: str = "scene:token", values=None, items: int = 12) -> dict[str, str]:
    """toy.item with one value an item. Returns item -> value."""
    names = [f"i{number}" for number in range(items)][::-1]
    values = values or [f"s{number % 3}" for number in range(items)]
    write_atomic({"item_id:token": names, title: values}, "item")
    return dict(zip(names, values, strict=True))


def test_T32_scenes_of_items(write_atomic, make_config):
    columns = without_scenes(log())
    write_atomic(columns)
    of = item_file(write_atomic)
    dataset = create_dataset(make_config("DSPnet"))
    parts = dataset.build()
    scene_of_item = dataset.item_feat["scene"]
    assert scene_of_item[0] == 0 and (scene_of_item[1:] > 0).all()
    for part in parts:
        rows = dense(part)
        assert torch.equal(rows["scene_list"], scene_of_item[rows["item_id_list"]])  # S == scene_of_item[V]
        assert torch.equal(rows["scene"], scene_of_item[rows["item_id"]])
        assert torch.equal(rows["future_scene_list"], scene_of_item[rows["future_item_id_list"]])
    scenes_of = scenes_by_user({**columns, "scene:token": [of[item] for item in columns["item_id:token"]]})
    require_scenes(dataset, parts, scenes_of)


def test_an_item_that_the_item_file_does_not_have_has_no_scene(write_atomic, make_config):
    write_atomic(without_scenes(log()))
    of = item_file(write_atomic, items=11)  # i11 is missing, and RecBole would drop its interactions
    dataset = create_dataset(make_config("DSPnet", filter_inter_by_user_or_item=False))
    rows = dense(dataset.build()[0])
    unknown = rows["item_id_list"] == dataset.token2id("item_id", "i11")
    assert unknown.any() and not rows["scene_list"][unknown].any()
    known = (rows["item_id_list"] != 0) & ~unknown
    assert (rows["scene_list"][known] > 0).all()
    items = tokens(dataset, "item_id", rows["item_id_list"][known])
    assert tokens(dataset, "scene", rows["scene_list"][known]) == [of[item] for item in items]


# a is in most films, d in one.
FILMS = {"i0": "d a b", "i1": "b a", "i2": "a", "i3": "c b a", "i4": "b c", "i5": "", "i6": "d"}


@pytest.fixture
def films(write_atomic):
    rng = np.random.default_rng(2)
    users = [f"u{number}" for number in range(9) for _ in range(5)]
    items = [*FILMS, *(f"i{number}" for number in rng.integers(7, size=38))]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(45)})
    genres = [values.split() for values in FILMS.values()]
    write_atomic({"item_id:token": list(FILMS), "class:token_seq": genres}, "item")


@pytest.mark.parametrize(
    "rule, expected",
    [
        ("first", {"i0": "d", "i1": "b", "i2": "a", "i3": "c", "i4": "b", "i5": None, "i6": "d"}),
        ("frequent", {"i0": "a", "i1": "b", "i2": "a", "i3": "b", "i4": "b", "i5": None, "i6": "d"}),
    ],
)
def test_one_of_several_values(rule, expected, films, make_config):
    """4 films have a, 4 have b, 2 have c and 2 have d: where a and b are equal, the one that the film names first."""
    dataset = create_dataset(make_config("DSPnet", SCENE_FIELD="class", scene_rule=rule))
    seen = {}
    for part in dataset.build():
        rows = part.inter_feat
        items, values = rows.targets["item_id"], rows.targets["class"]
        for item, value in zip(items.tolist(), values.tolist(), strict=True):
            name = str(dataset.field2id_token["item_id"][item])
            seen[name] = str(dataset.field2id_token["class"][value]) if value else None
        assert rows.lists["class_list"] is values
    assert seen == expected | {"i0": seen["i0"]}
    assert seen["i0"] == "d" if rule == "first" else seen["i0"] in ("a", "b")


def test_frequent_by_hand():
    values = torch.tensor([[0, 0, 0], [3, 1, 0], [2, 1, 3], [3, 0, 0], [4, 2, 0]])  # three have 3, two 1, two 2, one 4
    assert scenes.one_scene_per_item(values, "frequent", "toy", "class").tolist() == [0, 3, 3, 3, 2]
    assert scenes.one_scene_per_item(values, "first", "toy", "class").tolist() == [0, 3, 2, 3, 4]


def test_several_values_need_a_rule(films, make_config):
    with pytest.raises(UserError, match=r"'toy': items have several values of 'class'.*--scene_rule=first\|frequent"):
        create_dataset(make_config("DSPnet", SCENE_FIELD="class")).build()


def test_a_rule_must_exist(films, make_config):
    with pytest.raises(UserError, match="scene_rule must be one of first, frequent, ~, got 'last'"):
        make_config("DSPnet", SCENE_FIELD="class", scene_rule="last")


def test_interactions_win_over_items(write_atomic, make_config):
    columns = log()
    write_atomic(columns)
    item_file(write_atomic, values=[f"other{number % 2}" for number in range(12)])
    load_col = {"inter": ["user_id", "item_id", "timestamp"]}
    dataset = create_dataset(make_config("DSPnet", load_col=load_col))
    require_scenes(dataset, dataset.build(), scenes_by_user(columns))


def test_interactions_win_over_items_with_all_columns_loaded(write_atomic, make_config):
    columns = log()
    write_atomic(columns)
    item_file(write_atomic, values=[f"other{number % 2}" for number in range(12)])
    dataset = create_dataset(make_config("DSPnet"))
    require_scenes(dataset, dataset.build(), scenes_by_user(columns))


# Loading


def renamed(columns: dict, new: str) -> dict:
    return {new if title.startswith("scene") else title: values for title, values in columns.items()}


@pytest.mark.parametrize(
    "load_col", [{"inter": ["user_id", "item_id", "timestamp"]}, {"inter": ["user_id", "item_id", "timestamp", "tab"]}]
)
def test_the_column_is_loaded_where_load_col_does_not_name_it(load_col, write_atomic, make_config):
    columns = log()
    write_atomic(renamed(columns, "tab:token"))
    given = {source: list(names) for source, names in load_col.items()}
    config = make_config("DSPnet", SCENE_FIELD="tab", load_col=load_col)
    dataset = create_dataset(config)
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp", "tab"]} and load_col == given
    require_scenes(dataset, dataset.build(), scenes_by_user(columns), "tab")


def test_all_columns_of_a_file_stay_all(write_atomic, make_config):
    """RecBole's '*' for all columns of a file."""
    write_atomic(log())
    dataset = create_dataset(make_config("DSPnet", load_col={"inter": "*"}))
    assert dataset.num("scene") == 5 and dataset.num("user_id") == 21


@pytest.mark.parametrize("item_columns", [None, ["item_id"], ["item_id", "scene"]])
def test_the_items_are_loaded_where_load_col_does_not_name_them(item_columns, write_atomic, make_config):
    write_atomic(without_scenes(log()))
    item_file(write_atomic)
    load_col = {"inter": ["user_id", "item_id", "timestamp"], **({"item": item_columns} if item_columns else {})}
    config = make_config("DSPnet", load_col=load_col)
    dataset = create_dataset(config)
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp"], "item": ["item_id", "scene"]}
    assert dense(dataset.build()[0])["scene_list"].any()


def test_without_a_load_col_the_default_one_gets_the_scene(write_atomic, tmp_path):
    write_atomic({**log(), "other:float": [1.5] * len(log()["scene:token"])})
    config = Config("DSPnet", "toy", config_dict={"data_path": str(tmp_path), "use_gpu": False})
    dataset = create_dataset(config)
    assert config["load_col"] == {"inter": ["user_id", "item_id", "timestamp", "scene"]}
    assert "scene_list" in dense(dataset.build()[0])


def test_models_without_scenes_load_none(write_atomic, tmp_path):
    write_atomic(log())
    dataset = create_dataset(Config("SASRec", "toy", config_dict={"data_path": str(tmp_path), "use_gpu": False}))
    assert "scene_list" not in dense(dataset.build()[0])


def test_missing_scenes_are_padding(write_atomic, make_config):
    columns = log()
    gaps = [5, 17, 30, 31]
    for row in gaps:
        columns["scene:token"][row] = ""
    write_atomic(columns)
    dataset = create_dataset(make_config("DSPnet"))
    parts = dataset.build()
    rows = parts[0].inter_feat
    assert dataset.num("scene") == 5 and int((rows.targets["scene"] == 0).sum()) == len(gaps)
    users = by_user(columns)
    for part in parts:
        rows = dense(part)
        for row, length in enumerate(rows["item_length"].tolist()):
            own = [scene or "[PAD]" for _, scene in users[tokens(dataset, "user_id", rows["user_id"][row])[0]]]
            found = dataset.id2token("scene", rows["scene_list"][row, :length].numpy()).tolist()
            assert found == own[:length] and not rows["scene_list"][row, length:].any()


# One vocabulary, and split files


def test_T33_one_token_has_one_number(write_atomic, make_config):
    """s3 comes last as a target, first in histories; the numbers are the same, in the future, too."""
    write_atomic(
        {
            "user_id:token": ["u"] * 5 + ["v"] * 5,
            "item_id:token": [f"i{number}" for number in range(10)],
            "timestamp:float": range(10),
            "scene:token": ["s3", "s1", "s2", "s1", "s1", "s1", "s2", "s1", "s2", "s3"],
        }
    )
    dataset = create_dataset(make_config("DSPnet"))
    train, _, test = (dense(part) for part in dataset.build())
    s1, s2, s3 = (dataset.token2id("scene", name) for name in ("s1", "s2", "s3"))
    assert test["scene_list"][:, :4].tolist() == [[s3, s1, s2, s1], [s1, s2, s1, s2]]
    assert test["scene"].tolist() == [s1, s3] and test["future_scene_list"].tolist() == [[s1], [s3]]
    assert train["future_scene_list"].tolist() == [[s1, s2], [s2, 0], [s2, s1], [s1, 0]]


def split_files(write_atomic, drop: str | None = None, scene_list="scene_list:token_seq") -> dict:
    """s3 is a target in the training file only, and in histories of the test file only as the first token."""
    columns = {
        "user_id:token": ["u", "v"],
        "item_id_list:token_seq": [["a", "b"], ["c"]],
        "item_id:token": ["c", "a"],
        "timestamp_list:float_seq": [[1, 2], [1]],
        "timestamp:float": [3, 2],
    }
    of_part = {
        "train": ([["s1", "s2"], ["s1"]], ["s3", "s2"]),
        "valid": ([["s4", "s1"], ["s2"]], ["s1", "s1"]),
        "test": ([["s3", "s4"], ["s5"]], ["s5", "s3"]),
    }
    for part, (lists, targets) in of_part.items():
        own = {**columns, scene_list: lists, "scene:token": targets}
        write_atomic({title: values for title, values in own.items() if title != drop}, f"{part}.inter")
    return of_part


@pytest.mark.parametrize("load_col", [None, {"inter": ["user_id", "item_id", "item_id_list"]}])
def test_T33_one_vocabulary_with_split_files(load_col, write_atomic, make_config):
    of_part = split_files(write_atomic)
    config = make_config("DSPnet", protocol="benchmark", load_col=load_col)
    dataset = create_dataset(config)
    if load_col:
        assert config["load_col"]["inter"] == ["user_id", "item_id", "item_id_list", "scene", "scene_list"]
    assert dataset.num("scene") == 6
    for part, (lists, targets) in zip(dataset.build(), of_part.values(), strict=True):
        rows = dense(part)
        assert [tokens(dataset, "scene", row) for row in rows["scene_list"]] == lists
        assert [tokens(dataset, "scene", row) for row in rows["future_scene_list"]] == [[target] for target in targets]
        assert tokens(dataset, "scene", rows["scene"]) == targets
        s3 = dataset.token2id("scene", "s3")
        read = [token for tokens_of_row in lists for token in tokens_of_row]
        for field, expected in (("scene", targets), ("scene_list", read), ("future_scene_list", targets)):
            assert int((rows[field] == s3).sum()) == expected.count("s3")


def test_scenes_of_items_with_split_files(write_atomic, make_config):
    for part in PARTS:
        columns = {
            "user_id:token": ["u", "v"],
            "item_id_list:token_seq": [["a", "b"], ["c"]],
            "item_id:token": ["c", "a"],
        }
        write_atomic(columns, f"{part}.inter")
    write_atomic({"item_id:token": ["c", "a", "b"], "scene:token": ["x", "y", "x"]}, "item")
    dataset = create_dataset(make_config("DSPnet", protocol="benchmark"))
    rows = dense(dataset.build()[2])
    assert [tokens(dataset, "scene", row) for row in rows["scene_list"]] == [["y", "x"], ["x"]]
    assert [tokens(dataset, "scene", row) for row in rows["future_scene_list"]] == [["x"], ["y"]]


@pytest.mark.parametrize(
    "drop, message",
    [
        ("scene_list:token_seq", r"no column 'scene_list:token_seq' among the loaded \[.*'item_id_list'"),
        ("scene:token", f"no column 'scene' among .*toy.train.inter.*{SOURCES}"),
    ],
)
def test_split_files_need_both_columns(drop, message, write_atomic, make_config):
    split_files(write_atomic, drop)
    with pytest.raises(UserError, match=message):
        create_dataset(make_config("DSPnet", protocol="benchmark")).build()


# Mistakes


@pytest.mark.parametrize("values", [{}, {"load_col": {"inter": ["user_id", "item_id", "timestamp"]}}])
@pytest.mark.parametrize("with_items", [False, True])
def test_a_missing_column_is_named_before_anything_is_loaded(
    values, with_items, write_atomic, make_config, monkeypatch
):
    write_atomic(without_scenes(log()))
    if with_items:
        item_file(write_atomic, "year:token")
    monkeypatch.setattr(Dataset, "_load_data", lambda *_: pytest.fail("the data set is loaded"))
    with pytest.raises(UserError) as caught:
        create_dataset(make_config("DSPnet", **values))
    message = str(caught.value)
    for part in (
        "'toy'",
        "no column 'scene'",
        "toy.inter",
        "toy.item",
        "--SCENE_FIELD=NAME",
        "'timestamp'",
        "globo-scene",
    ):
        assert part in message
    assert "--SCENE_FIELD=class --scene_rule=first" in message and "\n" not in message


def test_an_empty_name_is_refused(write_atomic, make_config):
    write_atomic(log())
    with pytest.raises(UserError, match="SCENE_FIELD must be text that is not empty"):
        make_config("DSPnet", SCENE_FIELD="")


@pytest.mark.parametrize("in_items", [False, True])
def test_numbers_are_no_scenes(in_items, write_atomic, make_config):
    columns = log()
    numbers = [float(number) for number in range(len(columns["scene:token"]))]
    write_atomic(without_scenes(columns) if in_items else without_scenes(columns) | {"scene:float": numbers})
    if in_items:
        item_file(write_atomic, "scene:float", numbers[:12])
    with pytest.raises(
        UserError, match="the scene 'scene' must be categories, 'scene:token' in the title line, got 'scene:float'"
    ):
        create_dataset(make_config("DSPnet")).build()


def test_an_interaction_has_one_scene(write_atomic, make_config):
    columns = log()
    several = [[scene, "s0"] for scene in columns["scene:token"]]
    write_atomic(without_scenes(columns) | {"scene:token_seq": several})
    with pytest.raises(UserError, match="an interaction has one scene, and 'scene' holds several"):
        create_dataset(make_config("DSPnet")).build()


def test_one_scene_is_too_few(run, write_atomic):
    columns = log()
    write_atomic({**columns, "scene:token": ["s"] * len(columns["scene:token"])})
    with pytest.raises(UserError, match="fewer than two scenes in 'scene': set SCENE_FIELD"):
        run("DSPnet", **TINY, topk=[5], valid_metric="NDCG@5")


# Memory


@pytest.mark.parametrize("in_items", [False, True])
def test_histories_of_scenes_are_the_column_of_the_targets(in_items, write_atomic, make_config):
    columns = log()
    write_atomic(without_scenes(columns) if in_items else columns)
    if in_items:
        item_file(write_atomic)
    parts = create_dataset(make_config("DSPnet", MAX_ITEM_LIST_LENGTH=5000)).build()
    flat = parts[0].inter_feat.targets["scene"]
    assert flat.shape == (len(columns["scene:token"]),)
    for part in parts:
        assert part.inter_feat.targets["scene"] is flat and part.inter_feat.lists["scene_list"] is flat
        assert not part.inter_feat._dense


# Runs


@pytest.fixture
def scene_run(run, write_atomic):
    def go(columns: dict | None = None, **values):
        write_atomic(columns or log())
        common = {"epochs": 1, "topk": [5], "valid_metric": "NDCG@5", "tensorboard": False, "state": "ERROR"}
        return run("DSPnet", **{**common, **TINY, **values})

    return go


def test_metrics_of_the_next_scene_are_in_the_result(scene_run):
    result = scene_run(scene_topk=[1, 3], metrics=["Recall", "MRR"], valid_metric="scene_Recall@1")
    names = {"recall@5", "mrr@5", "scene_recall@1", "scene_recall@3", "scene_mrr@1", "scene_mrr@3"}
    for part in ("test_result", "best_valid_result"):
        assert set(result[part]) == names and all(0 <= value <= 1 for value in result[part].values())
    assert result["best_valid_score"] == result["best_valid_result"]["scene_recall@1"]
    test = result["test_result"]
    assert test["scene_recall@1"] == test["scene_mrr@1"] <= test["scene_mrr@3"] <= test["scene_recall@3"]


def test_metrics_of_the_next_scene_by_hand(scene_run):
    """From the scores of the model that the run has left."""
    result = scene_run(scene_topk=[1, 2], metrics=["Recall", "NDCG"], valid_metric="Recall@5")
    loaded = quick_start.load(result["run_dir"])
    expected, rows = Counter(), 0
    for batch, *_ in loaded.test:
        with torch.no_grad():
            scores = loaded.model.full_sort_predict_scene(batch)[:, 1:]
        for row, scene in zip(scores, batch["scene"], strict=True):
            rank = int((row > row[scene - 1]).sum()) + 1
            for k in (1, 2):
                expected[f"scene_recall@{k}"] += rank <= k
                expected[f"scene_ndcg@{k}"] += (rank <= k) / math.log2(rank + 1)
            rows += 1
    found = {name: value for name, value in result["test_result"].items() if name.startswith("scene_")}
    assert found == pytest.approx({name: value / rows for name, value in expected.items()}, abs=1e-4) and rows == 20


def test_cut_offs_that_all_scenes_fit_in_are_left_out(scene_run):
    test = scene_run(scene_topk=[1, 3, 4, 50])["test_result"]
    assert {name for name in test if name.startswith("scene_hit")} == {"scene_hit@1", "scene_hit@3"}


def test_where_no_cut_off_is_left_it_is_1(scene_run):
    test = scene_run(scene_topk=[10])["test_result"]
    assert {name for name in test if name.startswith("scene_hit")} == {"scene_hit@1"}


def test_one_cut_off_as_a_number(scene_run):
    assert "scene_hit@1" in scene_run(scene_topk=1)["test_result"]


def test_a_valid_metric_that_is_left_out_is_a_users_mistake(scene_run):
    with pytest.raises(UserError, match="scene_Hit@10"):
        scene_run(scene_topk=[1, 10], valid_metric="scene_Hit@10")


def test_diagnostics_of_scenes_by_hand(scene_run):
    """Leave-one-out: u's last scene is the one before it again, v's and w's are not; b is the most common one."""
    events = {"u": "abab" + "b", "v": "aaca" + "b", "w": "bbbb" + "c", "x": "cabb" + "b"}
    columns = {
        "user_id:token": [user for user in events for _ in range(5)],
        "item_id:token": [f"i{number}" for number in range(20)],
        "timestamp:float": list(range(20)),
        "scene:token": [scene for values in events.values() for scene in values],
    }
    result = scene_run(columns, MAX_ITEM_LIST_LENGTH=2)
    assert result["diagnostics"]["scene"] == {"rows": 4, "last_again": 0.5, "most_common": 0.75}
    assert "next scene: 50.0% of 4 are the last scene again, 75.0% the most common one" in quick_start.describe_result(
        result
    )
    columns["scene:token"][-1] = ""  # x's next scene is not known
    assert scene_run(columns)["diagnostics"]["scene"] == pytest.approx(
        {"rows": 3, "last_again": 1 / 3, "most_common": 2 / 3}
    )


def test_the_last_scene_after_a_missing_one(scene_run):
    events = {"u": ["a", "", "a", "b", "b"], "v": ["a", "a", "a", "b", "b"]}
    columns = {
        "user_id:token": ["u"] * 5 + ["v"] * 5,
        "item_id:token": [f"i{number}" for number in range(10)],
        "timestamp:float": list(range(10)),
        "scene:token": [scene for values in events.values() for scene in values],
    }
    assert scene_run(columns)["diagnostics"]["scene"] == {"rows": 2, "last_again": 1.0, "most_common": 1.0}


def test_no_next_scene_is_known(scene_run):
    columns = log(users=15)
    latest = {}
    for row in np.argsort(columns["timestamp:float"]):
        latest[columns["user_id:token"][row]] = row
    for row in latest.values():
        columns["scene:token"][row] = ""
    assert "scene" not in scene_run(columns)["diagnostics"]


def test_other_models_have_no_scene_diagnostics(run, write_atomic):
    write_atomic(log())
    result = run("SASRec", epochs=1, topk=[5], valid_metric="NDCG@5")
    assert "scene" not in result["diagnostics"]
    assert not any(name.startswith("scene") for name in result["test_result"])


def test_a_renamed_scene_gives_the_same_run(scene_run, write_atomic):
    columns = log()
    plain = scene_run(columns)
    other = scene_run(
        renamed(columns, "tab:token"), SCENE_FIELD="tab", load_col={"inter": ["user_id", "item_id", "timestamp"]}
    )
    for key in ("train_loss", "test_result", "best_valid_result"):
        assert other[key] == plain[key], key
    assert other["diagnostics"]["scene"] == plain["diagnostics"]["scene"]


def test_ml100k_with_the_genres_as_scenes(tmp_path):
    """As the error message says; ml-100k lies in the recbole package. `last` and little validation for speed."""
    values = {
        "train_pairs": "last", "checkpoint_dir": str(tmp_path), "use_gpu": False, "num_threads": 1, "epochs": 1,
        "show_progress": False, "tensorboard": False, "state": "ERROR", "train_batch_size": 512,
        "MAX_ITEM_LIST_LENGTH": 10, "n_views": 1, "eval_args": {"split": {"LS": "test_only"}}, **TINY,
    }  # fmt: skip
    argv = ["--dataset=ml-100k", "--model=DSPnet", "--SCENE_FIELD=class", "--scene_rule=first"]
    config = Config(config_dict=values, argv=argv)
    dataset = create_dataset(config)
    assert config["load_col"]["item"] == ["item_id", "class"]
    rows = create_loaders(config, dataset)[2]._dataset.inter_feat
    assert rows.targets["class"].max() < dataset.num("class") and (rows.targets["class"] > 0).all()
    result = quick_start.run(config_dict=values, argv=argv)
    assert result["diagnostics"]["scene"]["rows"] == 943
    assert 0 < result["test_result"]["scene_hit@1"] < 1


@pytest.mark.parametrize("field", ["user_id", "item_id", "timestamp"])
def test_a_scene_is_a_column_of_its_own(field, write_atomic, make_config):
    write_atomic({"user_id:token": ["a"] * 6, "item_id:token": [*"abcabc"], "timestamp:float": range(6)})
    with pytest.raises(UserError, match=f"_FIELD and SCENE_FIELD must name two columns, got '{field}' for both"):
        create_dataset(make_config("DSPnet", SCENE_FIELD=field))
