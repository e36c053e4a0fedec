"""Items that a run has never seen: ranked beside its own, and read in histories, by vectors from a file."""

import json
import shutil
from pathlib import Path

import httpx
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from served import serve_process

from recbole_gen import checkpoint, cli
from recbole_gen.errors import UserError
from recbole_gen.recommending.recommender import Recommender

ITEMS, NEW, WIDTH = 40, 6, 24


def vectors_of(names, width) -> np.ndarray:
    return np.stack([np.random.default_rng(int(name[1:])).normal(size=width) for name in names]).astype(np.float32)


def write_vectors(path: Path, names, vectors) -> Path:
    np.save(path.with_suffix(".npy"), vectors)
    path.with_suffix(".json").write_text(json.dumps(list(names)))
    return path.with_suffix(".npy")


def trained(run, tmp_path, model, use="frozen", width=16, **values):
    """The folder of a run with given vectors, and their file."""
    names = [f"i{n}" for n in range(ITEMS)]
    file = write_vectors(tmp_path / f"given{width}", names, vectors_of(names, width))
    result = run(model, epochs=1, item_vectors=str(file), item_vectors_use=use, tensorboard=False, **values)
    return Path(result["run_dir"]), file


def without_last_items(folder: Path, number: int = NEW) -> tuple[Path, list[str]]:
    """A copy of a run's folder whose model has never heard of the last items; their names."""
    smaller = folder.with_name(f"{folder.name}-smaller")
    shutil.copytree(folder, smaller)
    content = checkpoint.load(folder / "best.pth")
    names, serving = content["vocabulary"]["item_id"], content["serving"]
    size = len(names) - number
    content["vocabulary"]["item_id"], left_out = names[:size], names[size:]
    serving["sizes"]["item_id"], serving["counts"] = size, serving["counts"][:size]
    for name, value in content["state_dict"].items():
        if name.startswith("item_embedding.") and value.shape[:1] in ((ITEMS + 1,), (ITEMS + 2,)):
            content["state_dict"][name] = torch.cat([value[:size], value[ITEMS + 1 :]])  # [MASK] is behind them
    checkpoint.save(smaller / "best.pth", content)
    return smaller, left_out


@pytest.mark.parametrize(
    ("model", "values"),
    [
        ("SASRec", {}), ("SASRec", {"use": "adaptor", "width": WIDTH}), ("GRU4Rec", {"embedding_size": 16}),
        ("DreamRec", {"item_vectors_rms": 0.5}), ("SASRec", {"item_vectors_whiten": True, "width": WIDTH}),
        ("SASRec", {"item_vectors_whiten": True, "use": "adaptor", "width": WIDTH, "item_vectors_rms": 0.5}),
        ("PreferDiff", {"use": "adaptor", "width": WIDTH}),
        ("DSPnet", {"SCENE_FIELD": "item_class", "scene_rule": "first"}),
        ("DSPnet", {"SCENE_FIELD": "item_class", "scene_rule": "first", "use": "adaptor", "width": WIDTH}),
    ],
)  # fmt: skip
def test_items_taken_out_and_given_again_have_the_scores_that_they_had(run, tmp_path, write_atomic, model, values):
    if model == "DSPnet":
        classes = [[f"c{n % 3}"] for n in range(ITEMS)]
        write_atomic({"item_id:token": [f"i{n}" for n in range(ITEMS)], "item_class:token_seq": classes}, "item")
    folder, file = trained(run, tmp_path, model, **values)
    smaller, names = without_last_items(folder)
    rows = np.load(file)[[int(name[1:]) for name in names]]
    whole = Recommender.load(folder)
    enlarged = Recommender.load(smaller, items=write_vectors(tmp_path / "new", names, rows))
    assert enlarged.items.equals(whole.items) and enlarged.new_items == NEW and whole.new_items == 0
    histories = [["i1", "i2"], [names[0]], ["i5", names[1], names[2], "i7"], ["i9"] * 3]
    scenes = [["c0"] * len(history) for history in histories] if model == "DSPnet" else None
    for options in ({}, {"exclude_seen": False}, {"candidates": [names[3], names[4], "i3"]}):
        expected, found = (each.recommend(histories, k=ITEMS, scenes=scenes, **options) for each in (whole, enlarged))
        pd.testing.assert_frame_equal(expected, found)
        assert found.attrs == {"unknown": 0, "by_popularity": 0, "short": 0}
        assert set(found["item"]) & set(names)
    before = Recommender.load(smaller).recommend(histories, k=ITEMS, scenes=scenes)
    unknown = sum(item in names for history in histories for item in history)
    assert before.attrs == {"unknown": unknown, "by_popularity": 1, "short": 0} and not set(before["item"]) & set(names)


def test_an_index_finds_new_items(run, tmp_path):
    pytest.importorskip("faiss")
    folder, file = trained(run, tmp_path, "SASRec", use="frozen")
    smaller, names = without_last_items(folder)
    new = write_vectors(tmp_path / "new", names, np.load(file)[[int(name[1:]) for name in names]])
    exact = Recommender.load(smaller, items=new).recommend([["i1"]], k=ITEMS)
    index = Recommender.load(smaller, items=new, search="ann", ann_above=10).recommend([["i1"]], k=ITEMS)
    assert set(index["item"]) == set(exact["item"]) > set(names)


# The verb


@pytest.fixture
def command(run, tmp_path):
    """command(*options) -> (exit code, the output as a table); a run of SASRec that has seen items i0 to i39."""
    folder, _ = trained(run, tmp_path, "SASRec")
    (tmp_path / "h.jsonl").write_text(
        '{"user": "anna", "history": ["i1", "new1"]}\n{"user": "ben", "history": ["new2"]}\n'
    )

    def call(*options, output="out.csv", run=folder):
        line = [f"--checkpoint={run}", f"--histories={tmp_path / 'h.jsonl'}", f"--output={tmp_path / output}"]
        code = cli.main(["recommend", *line, "--k=42", *options])
        return code, pd.read_csv(tmp_path / output) if code == 0 else None

    return call


def test_recommend_takes_new_items(command, tmp_path, capsys):
    new = write_vectors(tmp_path / "new", ["new1", "new2", "new3"], vectors_of(["n1", "n2", "n3"], 16))
    parquet = tmp_path / "new.parquet"
    pq.write_table(pa.table({"name": ["new1", "new2", "new3"], "vector": list(np.load(new))}), parquet)
    tables = []
    for file in (new, parquet):
        code, table = command(f"--items={file}")
        assert code == 0
        assert "3 new items are ranked beside the 40 of the run" in capsys.readouterr().out
        assert set(table["by"]) == {"model"}
        assert {"new2", "new3"} <= set(table[table["user"] == "anna"]["item"])
        assert not {"new1"} & set(table[table["user"] == "anna"]["item"])
        tables.append(table)
    pd.testing.assert_frame_equal(*tables)
    _, without = command()
    assert (
        set(without["by"]) == {"model", "popularity"}
        and "of items that the model does not know" in capsys.readouterr().out
    )


def test_serve_takes_new_items(run, tmp_path, forked):
    folder, _ = trained(run, tmp_path, "SASRec")
    new = write_vectors(tmp_path / "new", ["new1", "new2"], vectors_of(["n1", "n2"], 16))
    options = (f"--checkpoint={folder}", f"--items={new}", "--port=0")
    with serve_process(forked, tmp_path / "log", *options) as (_, lines):
        assert lines.readline() == "2 new items are ranked beside the 40 of the run\n"
        address = lines.readline().rstrip()
        asked = {"histories": [{"items": ["new1", "i3"]}], "k": 40, "exclude_seen": True}
        answer = httpx.post(f"{address.removeprefix('SASRec on ')}/recommend", json=asked, timeout=60).json()
    expected = Recommender.load(folder, items=new).recommend([["new1", "i3"]], k=40)
    assert [each["item"] for each in answer["recommendations"][0]["items"]] == list(expected["item"])
    assert "new2" in set(expected["item"])


def test_what_cannot_be_new(command, tmp_path, capsys, run):
    def refused(*patterns, names=("new1",), width=16, path=None, folder=None):
        file = path or write_vectors(tmp_path / "bad", names, np.ones((len(names), width), dtype=np.float32))
        capsys.readouterr()
        code, _ = command(f"--items={file}", **({"run": folder} if folder else {}))
        message = capsys.readouterr().err
        assert code == 2 and message.startswith("error: ") and message.count("\n") == 1, message
        assert all(pattern in message for pattern in patterns), message

    refused("items: 2 items are both in", "(i3, i4)", names=("i3", "new1", "i4"))
    refused("12 wide", "its item table 16", width=12)
    refused("there is no folder or file", path=tmp_path / "nothing.npy")
    (tmp_path / "text.csv").write_text("a,b\n")
    refused("items must be a folder of `export`, or a file .npy", path=tmp_path / "text.csv")
    bad = write_vectors(tmp_path / "nan", ["n"], np.full((1, 16), np.nan, dtype=np.float32))
    refused("items: ", "numbers that are none", path=bad)
    refused("more than once", names=("new1", "new1"))
    learned = run("SASRec", epochs=1, tensorboard=False)["run_dir"]
    refused("has learned the vectors of its items", "--item_vectors_use=frozen", folder=learned)


@pytest.mark.parametrize(
    ("model", "values", "learned"),
    [
        ("ACVAE", {}, "output.weight, output.bias"),
        ("DiffRec", {"tie_weights": True}, "output.bias"),
        ("BERT4Rec", {"hidden_size": 16, "inner_size": 16}, "output_bias"),
        ("PreferDiff", {"history_vectors": "own"}, "history_embedding.weight"),
        ("SASRec", {"use": "init"}, "vectors of its items"),
    ],
)
def test_models_that_learn_more_of_an_item_than_its_vector(run, tmp_path, model, values, learned):
    folder, _ = trained(run, tmp_path, model, **values)
    with pytest.raises(UserError, match=f"items: .*has learned (the )?{learned}"):
        Recommender.load(folder, items=write_vectors(tmp_path / "new", ["n1"], vectors_of(["n1"], 16)))


def test_a_run_of_before_is_taken_unless_its_vectors_were_scaled(run, tmp_path):
    new = write_vectors(tmp_path / "new", ["n1"], vectors_of(["n1"], 16))
    for values in ({}, {"item_vectors_rms": 0.5}):
        folder, _ = trained(run, tmp_path, "DreamRec", **values)
        content = checkpoint.load(folder / "best.pth")
        for key in ("item_vectors_factor", "item_vectors_whitening", "item_vectors_encoder"):
            del content[key]
        checkpoint.save(folder / "best.pth", content)
        if not values:
            assert Recommender.load(folder, items=new).new_items == 1
            continue
        with pytest.raises(UserError, match="did not keep by what item_vectors_rms had multiplied"):
            Recommender.load(folder, items=new)


@pytest.mark.parametrize("name", ["", "[PAD]"])
def test_what_stands_for_no_item_is_no_name(run, tmp_path, name):
    """There would be two of them, and recommend would give the one that no history can have."""
    folder, _ = trained(run, tmp_path, "SASRec")
    with pytest.raises(UserError, match="stands for no item"):
        Recommender.load(folder, items=write_vectors(tmp_path / "new", ["n1", name], vectors_of(["n1", "n2"], 16)))


def test_vectors_of_another_text_encoder_are_refused(run, tmp_path):
    (tmp_path / "text-vectors.json").write_text('{"encoder_blake2b": "a1"}')
    folder, _ = trained(run, tmp_path, "SASRec")
    (tmp_path / "other").mkdir()
    new = write_vectors(tmp_path / "other/new", ["n1"], vectors_of(["n1"], 16))
    assert Recommender.load(folder, items=new).new_items == 1  # nobody knows whence they are
    (tmp_path / "other/text-vectors.json").write_text('{"encoder_blake2b": "a1"}')
    assert Recommender.load(folder, items=new).new_items == 1
    (tmp_path / "other/text-vectors.json").write_text('{"encoder_blake2b": "b2"}')
    with pytest.raises(UserError, match=r"items: .* are of another text encoder"):
        Recommender.load(folder, items=new)


def test_whitened_vectors_want_the_width_of_the_file(run, tmp_path):
    folder, _ = trained(run, tmp_path, "SASRec", width=WIDTH, item_vectors_whiten=True)
    with pytest.raises(UserError, match="are 16 wide, and the vectors that it was given 24"):
        Recommender.load(folder, items=write_vectors(tmp_path / "new", ["n1"], vectors_of(["n1"], 16)))


def test_an_adaptor_wants_the_width_that_it_was_given(run, tmp_path):
    folder, _ = trained(run, tmp_path, "DreamRec", use="adaptor", width=WIDTH)
    with pytest.raises(UserError, match="are 16 wide, and the vectors that it was given 24"):
        Recommender.load(folder, items=write_vectors(tmp_path / "new", ["n1"], vectors_of(["n1"], 16)))
