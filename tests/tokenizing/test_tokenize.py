"""The verb `tokenize`: what it writes and says, and what it refuses."""

import hashlib
import json
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from recbole_gen import cli
from recbole_gen.errors import UserError
from recbole_gen.tokenizing import making
from recbole_gen.tokenizing.id_files import write_semantic_ids

TINY = ["--method=rqvae", "--epochs=2", "--hidden_sizes=[8]", "--latent_size=4"]
NAMES = ["i0", "with blanks in it", '"quoted"', "ä", *(f"i{number}" for number in range(4, 60))]


@pytest.fixture
def vectors(tmp_path):
    """A folder as `export` writes it: 60 items, three of which have the same vector."""
    folder = tmp_path / "vectors"
    folder.mkdir()
    table = np.random.default_rng(0).normal(size=(60, 6)).astype(np.float32)
    table[[5, 20]] = table[50]
    np.save(folder / "items.npy", table)
    (folder / "items.json").write_text(json.dumps(NAMES))
    return folder


@pytest.fixture
def tokenize(vectors, tmp_path, capsys):
    """tokenize(*options): the output's folder and what is said; the last output is removed before."""

    def run(*options: str):
        shutil.rmtree(tmp_path / "ids", ignore_errors=True)
        line = ["tokenize", f"--item_vectors={vectors}", f"--output={tmp_path / 'ids'}", "--codes=8", *options]
        assert cli.main(line) == 0
        out, error = capsys.readouterr()
        assert error == ""
        return tmp_path / "ids", out

    return run


@pytest.fixture
def undrawn(monkeypatch):
    """Without the figure, which takes longer than all else."""
    monkeypatch.setattr(making.figures, "save_figure", lambda *_: None)


def read_ids(folder) -> dict[str, tuple[int, ...]]:
    header, *lines = (folder / "semantic-ids.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
    assert header == "item_id\tsemantic_id"
    return {name: tuple(map(int, digits.split(" "))) for name, digits in (line.split("\t") for line in lines)}


@pytest.mark.parametrize("options", [["--method=kmeans"], TINY], ids=["kmeans", "rqvae"])
def test_every_item_has_an_id_of_its_own(options, tokenize):
    folder, out = tokenize(*options)
    ids = read_ids(folder)
    assert list(ids) == NAMES and len(set(ids.values())) == 60
    assert {len(digits) for digits in ids.values()} == {4}
    assert all(0 <= digit < 8 for digits in ids.values() for digit in digits[:3])
    same = [ids[NAMES[row]] for row in (5, 20, 50)]
    assert len({digits[:3] for digits in same}) == 1 and same == sorted(same)  # in the order of the file
    note = json.loads((folder / "semantic-ids.json").read_text())
    largest = note["report"]["largest_collision"]
    assert {digits[3] for digits in ids.values()} == set(range(largest)) and largest >= 3
    assert f"up to {largest} the same: the last digit, 0 to {largest - 1}, tells them apart" in out
    assert (note["method"], note["levels"], note["codes"], note["seed"]) == (options[0][9:], 3, 8, 2020)
    assert {file.name for file in folder.iterdir()} == {f"semantic-ids.{end}" for end in ("tsv", "json", "svg", "png")}


@pytest.mark.parametrize("options", [["--method=kmeans"], TINY], ids=["kmeans", "rqvae"])
def test_the_same_seed_writes_the_same_bytes(options, tokenize, request):
    def content(*more: str) -> dict[str, bytes]:
        folder, _ = tokenize(*options, *more)
        return {file.name: file.read_bytes() for file in folder.iterdir()}

    if options is TINY:  # the figure is drawn alike
        request.getfixturevalue("undrawn")
    first = content()
    assert content() == first
    request.getfixturevalue("undrawn")
    assert content("--seed=3")["semantic-ids.tsv"] != first["semantic-ids.tsv"]


def test_the_note_says_what_was_read_and_no_folders(tokenize, vectors, tmp_path, undrawn):
    folder, _ = tokenize("--levels=2", "--seed=5")
    text = (folder / "semantic-ids.json").read_text()
    note, table = json.loads(text), np.load(vectors / "items.npy")
    digest = hashlib.blake2b(table.tobytes(), digest_size=16).hexdigest()
    assert note["vectors"] == {"file": "items.npy", "items": 60, "width": 6, "blake2b": digest}
    assert (note["levels"], note["seed"], len(note["report"]["levels"])) == (2, 5, 2)
    assert str(tmp_path) not in text and "rqvae" not in note and "NaN" not in text
    left = [level["variance_left"] for level in note["report"]["levels"]]
    assert 0 < left[1] < left[0] < 1


def test_the_settings_of_an_rqvae_are_in_the_note(tokenize, undrawn):
    folder, _ = tokenize(*TINY, "--learner=adagrad", "--learning_rate=0.1")
    used = json.loads((folder / "semantic-ids.json").read_text())["rqvae"]
    assert (used["epochs"], used["learner"], used["hidden_sizes"], used["commitment"]) == (2, "adagrad", [8], 0.25)


def test_one_level(tokenize):
    folder, out = tokenize("--levels=1")
    assert {len(digits) for digits in read_ids(folder).values()} == {2}
    assert "items have the first digit of another one" in out and "its first two" not in out


def test_other_forms_of_vectors_give_the_same_ids(tokenize, vectors, tmp_path, undrawn):
    folder, _ = tokenize()
    ids, table = read_ids(folder), np.load(vectors / "items.npy")
    pq.write_table(pa.table({"item": NAMES, "vector": list(table)}), tmp_path / "v.parquet")
    assert cli.main(["tokenize", f"--item_vectors={tmp_path / 'v.parquet'}", f"--output={tmp_path / 'other'}",
                     "--codes=8"]) == 0  # fmt: skip
    assert read_ids(tmp_path / "other") == ids


# Beside a data set


def test_items_of_a_data_set_without_vectors_and_vectors_of_no_item_are_told(tokenize, write_atomic, tmp_path, undrawn):
    items = ["i0", "ä", "with blanks in it", "new1", "new2", "i4"]
    users = [f"u{number}" for number in range(6)]
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": range(6)})
    write_atomic({"item_id:token": ["i0", "i7", "i8"], "title:token_seq": ["a", "b", "c"]}, suffix="item")
    folder, out = tokenize("--dataset=toy", f"--data_path={tmp_path}")
    assert "toy: 4 of its 6 items have a vector\n  2 items have none, and get no semantic ID: new1, new2\n" in out
    assert '54 vectors are of no item of it, and get a semantic ID, too: "quoted", i10, i11 and 51 more' in out
    assert "2 vectors are of items in toy.item without an event, and get a semantic ID, too: i7, i8" in out
    assert list(read_ids(folder)) == NAMES
    assert json.loads((folder / "semantic-ids.json").read_text())["dataset"] == {
        "name": "toy", "items_with_events": 6, "items_without_vector": 2, "vectors_of_items_without_events": 2,
        "vectors_of_no_item": 54,
    }  # fmt: skip


def test_items_of_split_files_and_their_histories_count(tokenize, write_atomic, tmp_path, undrawn):
    columns = {"user_id:token": ["u"], "item_id_list:token_seq": [["i0", "i4"]], "item_id:token": ["i5"]}
    for part in ("train", "valid", "test"):
        write_atomic(columns, suffix=f"{part}.inter")
    _, out = tokenize("--dataset=toy", f"--data_path={tmp_path}")
    assert "toy: 3 of its 3 items have a vector" in out


def test_another_column_of_items(tokenize, write_atomic, refused, tmp_path, vectors, undrawn):
    write_atomic({"user_id:token": ["u", "u"], "film:token": ["i0", "i4"], "timestamp:float": [0, 1]})
    _, out = tokenize("--dataset=toy", f"--data_path={tmp_path}", "--item=film")
    assert "toy: 2 of its 2 items have a vector" in out
    line = ["tokenize", f"--item_vectors={vectors}", f"--output={tmp_path / 'x'}", "--dataset=toy"]
    refused([*line, f"--data_path={tmp_path}"], "has no column 'item_id' among user_id, film.*: --item=COLUMN names it")


def test_a_data_set_of_other_items_is_refused(write_atomic, vectors, tmp_path, refused):
    write_atomic({"user_id:token": ["u"], "item_id:token": ["another"], "timestamp:float": [0]})
    line = ["tokenize", f"--item_vectors={vectors}", f"--output={tmp_path / 'ids'}", "--dataset=toy"]
    refused([*line, f"--data_path={tmp_path}"], "none of the 1 item of toy, such as 'another', has a vector")
    assert not (tmp_path / "ids").exists()


# Mistakes


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--levels=0"], "--levels must be a whole number from 1 to 16, got 0"),
        (["--codes=1"], "--codes must be a whole number from 2 to 65536, got 1"),
        (["--codes=2.5"], "--codes must be a whole number"), (["--seed=-1"], "--seed must be a whole number from 0"),
        (["--method=kmean"], "--method must be one of kmeans, rqvae, got kmean. Did you mean kmeans"),
        (["--level=3"], "tokenize has no option --level: did you mean --levels"),
        (["--epochs=3"], "--epochs does nothing without --method=rqvae"),
        (["--data_path=x"], "--data_path does nothing without --dataset=NAME"),
        (["--method=rqvae", "--epochs=0"], "--epochs must be a whole number from 1"),
        (["--method=rqvae", "--learner=adamm"], "--learner must be one of adam, adagrad, sgd"),
        (["--method=rqvae", "--learning_rate=0"], "--learning_rate must be a number above 0"),
        (["--method=rqvae", "--commitment=.nan"], "--commitment must be a number from 0 on"),
        (["--method=rqvae", "--hidden_sizes=512"], "--hidden_sizes must be a list of whole numbers"),
        (["--method=rqvae", "--restart_dead_codes=maybe"], "--restart_dead_codes must be true or false"),
        (["--dataset=nowhere"], "there is no data set 'nowhere'"), (["--output="], "--output needs a value"),
    ],
)  # fmt: skip
def test_a_mistake_has_one_message_and_leaves_nothing(options, said, vectors, tmp_path, refused):
    line = ["tokenize", f"--item_vectors={vectors}", *([] if "output" in options[0] else [f"--output={tmp_path}/ids"])]
    assert said in refused([*line, *options])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors"]


def test_vectors_and_an_output_must_be_named(refused):
    refused(["tokenize", "--output=x"], "tokenize needs --item_vectors=PATH")
    refused(["tokenize", "--item_vectors=x"], "tokenize needs --output=FOLDER")


def test_an_output_that_is_there_is_not_replaced(vectors, tmp_path, refused):
    (tmp_path / "ids").mkdir()
    (tmp_path / "ids/mine.txt").write_text("kept")
    refused(["tokenize", f"--item_vectors={vectors}", f"--output={tmp_path / 'ids'}"], "ids is there already")
    assert [(file.name, file.read_text()) for file in (tmp_path / "ids").iterdir()] == [("mine.txt", "kept")]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"names": ["one"], "table": np.ones((1, 3))}, "has one item, and semantic IDs tell several apart"),
        ({"names": ["a\tb", *NAMES[1:]]}, "1 item has a name that is empty, or has a tab.* such as 'a\\\\tb'"),
        ({"names": ["a", "b\nc", "d\r", "", *NAMES[4:]]}, "3 items have a name .* such as 'b\\\\nc'"),
        ({"names": ["\ud800", *NAMES[1:]]}, "1 item has a name that is empty, or has .* what is no text"),
        ({"raw": b"\x93NUMPY damaged"}, "items.npy is no array of numbers"),
        ({"table": np.full((60, 3), np.nan)}, "60 vectors with numbers that are none"),
        ({"names": NAMES[1:]}, "has 60 rows, and there are 59 names"),
    ],
)
def test_vectors_that_cannot_be_used(change, said, vectors, tmp_path, refused):
    if "names" in change:
        (vectors / "items.json").write_text(json.dumps(change["names"]))
    if "table" in change:
        np.save(vectors / "items.npy", change["table"])
    if "raw" in change:
        (vectors / "items.npy").write_bytes(change["raw"])
    refused(["tokenize", f"--item_vectors={vectors}", f"--output={tmp_path / 'ids'}"], said)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["vectors"]


def test_a_table_is_not_written_with_names_that_break_its_lines(tmp_path):
    with pytest.raises(UserError, match="a tab, a line end"):
        write_semantic_ids(tmp_path / "ids.tsv", ["a", "b\tc"], np.array([[0, 0], [0, 1]]))
    assert not list(tmp_path.iterdir())
