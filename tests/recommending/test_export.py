import json

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from recbole_gen.config import registry
from recbole_gen.errors import UserError
from recbole_gen.recommending import export
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.recommender import Recommender
from recbole_gen.recommending.vector_files import export_vectors

HISTORIES = [["i0", "i1", "i2"], ["i7"], [f"i{item}" for item in range(30)], ["i39", "i3"]]
TIMES = [[86400 * item for item in range(len(history))] for history in HISTORIES]
VECTORS = {
    "DreamRec": {}, "PASRec": {}, "PreferDiff": {}, "ACVAE": {}, "DSPnet": {}, "SASRec": {}, "GRU4Rec": {}, "NARM": {},
    "STAMP": {}, "NextItNet": {"block_num": 1, "dilations": [1, 2]},
    "Caser": {"embedding_size": 16, "MAX_ITEM_LIST_LENGTH": 5, "nh": 2},  # as it comes it needs seconds for an epoch
}  # fmt: skip
NONE = {"DiffRec": {}, "TIGER": {}, "Transitions": {}, "BERT4Rec": {}, "FPMC": {}, "CORE": {}}


@pytest.fixture
def with_scenes(write_atomic, walks, tmp_path):
    """The events of `walks`, days apart, each in one of three scenes."""
    lines = [line.split("\t") for line in (tmp_path / "toy/toy.inter").read_text().splitlines()[1:]]
    users, items, times = zip(*lines)
    write_atomic({
        "user_id:token": users, "item_id:token": items, "timestamp:float": [86400 * int(time) for time in times],
        "scene:token": [f"s{int(item[1:]) % 3}" for item in items],
    })  # fmt: skip


def trained(run, model: str, **values):
    if model == "DSPnet":
        values = {**values, "SCENE_FIELD": "scene", "future_events": 2, "train_pairs": "window"}
    return run(model, **{"epochs": 1, **values})["run_dir"]


@pytest.fixture(scope="module")
def runs():
    """Model -> folder of a run."""
    return {}


@pytest.fixture
def kept(request, runs):
    """kept(model): the folder of a run on `walks`, made once for all tests, which only read it."""

    def get(model: str) -> str:
        if model not in runs:
            runs[model] = trained(request.getfixturevalue("run"), model, **VECTORS[model])
        return runs[model]

    return get


def scores_of(recommender: Recommender, histories, times=None, scenes=None) -> np.ndarray:
    """Those of `recommend`, [n, items]."""
    table = recommender.recommend(
        histories, k=len(recommender.items), times=times, scenes=scenes, exclude_seen=False,
        users=[f"u{user}" for user in range(len(histories))],
    )  # fmt: skip
    return table.pivot(index="user", columns="item", values="score")[recommender.items[1:].to_pylist()].to_numpy()


def given(recommender: Recommender) -> dict:
    scenes = [["s0"] * len(history) for history in HISTORIES] if recommender.reads_scenes else None
    return {"times": TIMES if recommender.reads_times else None, "scenes": scenes}


def test_all_models_of_ours_are_here():
    assert registry.MODELS.keys() <= VECTORS.keys() | NONE.keys()


@pytest.mark.parametrize("model", VECTORS)
def test_scores_are_inner_products_of_vectors(model, with_scenes, run):
    recommender = Recommender.load(trained(run, model, **VECTORS[model]))
    items = recommender.item_vectors()
    more = given(recommender)
    vectors = recommender.vectors(HISTORIES, **more, users=[f"u{user}" for user in range(4)])
    assert vectors.dtype == np.float32 and len(items) == 41 and not items.requires_grad
    expected = scores_of(recommender, HISTORIES, **more)
    np.testing.assert_allclose(vectors @ items[1:].numpy().T, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", ["DreamRec", "PreferDiff"])
def test_cosines_are_inner_products_of_vectors_of_length_1(model, run):
    recommender = Recommender.load(trained(run, model, score_function="cosine"))
    vectors, items = recommender.vectors(HISTORIES), recommender.item_vectors()[1:].numpy()
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(items, axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(vectors @ items.T, scores_of(recommender, HISTORIES), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("model", NONE)
def test_models_that_score_in_another_way_have_no_vectors(model, run, tmp_path):
    recommender = Recommender.load(trained(run, model))
    assert recommender.item_vectors() is None
    with pytest.raises(UserError, match=f"{model} does not score items by inner products"):
        recommender.vectors(HISTORIES)
    with pytest.raises(UserError, match=f"{model} does not score items by inner products"):
        export_vectors(recommender, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_vector_that_is_not_that_of_the_scores_is_noticed(kept):
    recommender = Recommender.load(kept("SASRec"))
    forward = recommender.model.forward
    recommender.model.forward = lambda item_seq, item_seq_len: 2 * forward(item_seq, item_seq_len)
    recommender.model.full_sort_predict = lambda interaction: torch.zeros(len(interaction), 41)
    assert recommender.item_vectors() is None


def test_users_without_an_answer_have_no_vector(kept):
    recommender = Recommender.load(kept("SASRec"))
    assert np.isnan(recommender.vectors([["i1"], [], ["nobody knows it"]])).all(1).tolist() == [False, True, True]
    recommender = Recommender.load(kept("Caser"))  # knows users by their numbers
    assert np.isnan(recommender.vectors([["i1"], ["i1"]], users=["u1", "me"])).all(1).tolist() == [False, True]


def test_a_history_has_one_oracle(kept):
    recommender = Recommender.load(kept("DreamRec"))
    first = recommender.vectors(HISTORIES)
    assert np.array_equal(recommender.vectors(HISTORIES), first)
    np.testing.assert_allclose(recommender.vectors(HISTORIES[::-1])[::-1], first, rtol=1e-4, atol=1e-5)
    alone = [recommender.encode_batch(Histories.from_lists([history]))[0] for history in HISTORIES]
    np.testing.assert_allclose(alone, first, rtol=1e-4, atol=1e-5)
    assert not np.allclose(first[0], first[1], atol=0.1)


# The verb


@pytest.fixture
def folder(kept):
    return kept("DreamRec")


@pytest.fixture
def users(tmp_path):
    """A file of histories, with names that only survive as what they are."""
    path = tmp_path / "users.jsonl"
    names = ['quo"te', "new\nline", "Ünïcödé 文 🎈", "", "plain", "stranger"]
    rows = zip(names, [*HISTORIES, ["i5"], ["unknown"]])
    path.write_text("".join(json.dumps({"user": user, "history": history}) + "\n" for user, history in rows))
    return path, names


@pytest.mark.parametrize("kind", ["numpy", "safetensors"])
def test_what_is_exported_is_what_was_asked_for(kind, folder, users, tmp_path, capsys):
    path, names = users
    output = tmp_path / "new/out"
    export.main([f"--checkpoint={folder}", f"--output={output}", f"--histories={path}", f"--format={kind}"])
    assert "40 items in 16 dimensions" in capsys.readouterr().out
    recommender = Recommender.load(folder)
    if kind == "numpy":
        items, vectors = (np.load(output / f"{name}.npy", allow_pickle=False) for name in ("items", "users"))
    else:
        items = load_file(output / "items.safetensors")["item_vectors"]
        vectors = load_file(output / "users.safetensors")["user_vectors"]
    assert np.array_equal(items, recommender.item_vectors()[1:].numpy())
    expected = recommender.vectors([*HISTORIES, ["i5"], ["unknown"]])
    assert np.array_equal(vectors, expected, equal_nan=True) and np.isnan(vectors[5]).all()
    assert json.loads((output / "items.json").read_text("utf-8")) == recommender.items[1:].to_pylist()
    assert json.loads((output / "users.json").read_text("utf-8")) == names
    note = json.loads((output / "export.json").read_text())
    assert (note["model"], note["dataset"], note["d"], note["items"], note["users"], note["unanswered"]) == (
        "DreamRec", "toy", 16, 40, 6, 1)  # fmt: skip
    assert note["score_function"] == "inner" and {path.name for path in output.iterdir()} == {
        *note["files"], "export.json"}  # fmt: skip


def test_item_names_survive(run, write_atomic, tmp_path):
    names = ['a"b', "c'd", "文字", "🎈", "back\\slash", "<&>", "ünï", "{}", "[1]", "a:b"]
    columns = {"user_id:token": [], "item_id:token": [], "timestamp:float": []}
    for user in range(40):
        for step in range(6):
            columns["user_id:token"].append(f"u{user}")
            columns["item_id:token"].append(names[(user + step) % len(names)])
            columns["timestamp:float"].append(step)
    write_atomic(columns, name="odd")
    folder = trained(run, "SASRec", dataset="odd", topk=[5], valid_metric="NDCG@5")
    export_vectors(Recommender.load(folder), tmp_path / "out")
    assert sorted(json.loads((tmp_path / "out/items.json").read_text("utf-8"))) == sorted(names)


def test_users_come_in_many_parts(folder, users, tmp_path, monkeypatch):
    monkeypatch.setattr("recbole_gen.recommending.history_files.CHUNK_USERS", 2)
    path, names = users
    export.main([f"--checkpoint={folder}", f"--output={tmp_path / 'out'}", f"--histories={path}"])
    assert np.load(tmp_path / "out/users.npy").shape == (6, 16)
    assert json.loads((tmp_path / "out/users.json").read_text("utf-8")) == names


def test_no_users_at_all(folder, tmp_path):
    for kind in ("numpy", "safetensors"):
        export_vectors(Recommender.load(folder), tmp_path / kind, kind, histories=[])
        assert json.loads((tmp_path / kind / "users.json").read_text()) == []
    assert np.load(tmp_path / "numpy/users.npy").shape == (0, 16)
    assert load_file(tmp_path / "safetensors/users.safetensors")["user_vectors"].shape == (0, 16)


def test_after_an_error_there_is_no_folder(folder, users, tmp_path):
    path, _ = users
    with open(path, "a") as file:
        file.write("no JSON\n")
    line = [f"--checkpoint={folder}", f"--output={tmp_path / 'out'}", f"--histories={path}"]
    with pytest.raises(UserError, match="line 7 is no JSON"):
        export.main(line)
    assert not list(tmp_path.glob("*out*"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--checkpoint=x"], "export needs --output=FOLDER"),
        (["--checkpoint=x", "--output=y", "--format=pickle"], "--format must be one of numpy, safetensors, got pickle"),
        (["--checkpoint=x", "--output=y", "--ouput=z"], "export has no option --ouput: did you mean --output"),
        (["--checkpoint=x", "--output=y", "--histories=z"], "there is no file z"),
        (["--checkpoint=x", "--output=y"], "there is no run in x"),
    ],
)
def test_mistakes_are_told(arguments, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=message):
        export.main(arguments)


def test_a_folder_that_is_there_is_kept(folder, tmp_path):
    (tmp_path / "out").mkdir()
    export.main([f"--checkpoint={folder}", f"--output={tmp_path / 'out'}"])  # an empty one is no loss
    with pytest.raises(UserError, match="out is there already"):
        export.main([f"--checkpoint={folder}", f"--output={tmp_path / 'out'}"])
    assert (tmp_path / "out/items.npy").exists()


def test_help(capsys):
    export.main(["--help"])
    assert capsys.readouterr().out == export.USAGE


def test_one_column_of_a_file_is_not_two_things(folder, tmp_path):
    path = tmp_path / "h.csv"
    path.write_text("user_id,item_id\na,i1\n")
    with pytest.raises(UserError, match="--user and --item must name two columns, got 'user_id' for both"):
        export.main([f"--checkpoint={folder}", f"--output={tmp_path / 'out'}", f"--histories={path}", "--item=user_id"])
    assert not (tmp_path / "out").exists()
