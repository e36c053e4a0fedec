"""Item vectors from a file: every form, by the items' names, into the tables of all kinds of models."""

import json
import random
import re
import shutil
import struct
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from recbole_gen import cli, quick_start
from recbole_gen.checkpoint import load
from recbole_gen.data.given_vectors import match_names
from recbole_gen.data.whitening import fit_whitening
from recbole_gen.errors import UserError
from recbole_gen.evaluation.item_vectors import item_vectors
from recbole_gen.reading.item_vectors import read_item_vectors
from recbole_gen.recommending.recommender import Recommender

ITEMS = 40
OURS = ["DreamRec", "DiffRec", "PASRec", "PreferDiff", "ACVAE", "DSPnet"]


def vectors_of(names, width=16) -> np.ndarray:
    """One a name, from the name alone, of RMS about 1."""
    return np.stack([np.random.default_rng(int(name[1:])).normal(size=width) for name in names]).astype(np.float32)


@pytest.fixture
def write_vectors(tmp_path):
    """Writes vectors of names as a file in one of the forms; returns its path."""

    def write(names, vectors, kind="npy") -> Path:
        path = tmp_path / f"vectors.{kind}"
        if kind == "parquet":
            pq.write_table(pa.table({"item": names, "vector": list(vectors)}), path)
            return path
        path.with_suffix(".json").write_text(json.dumps(names))
        if kind == "npy":
            np.save(path, vectors)
        else:
            head = {"item_vectors": {"dtype": "F32", "shape": list(vectors.shape), "data_offsets": [0, vectors.nbytes]}}
            text = json.dumps(head).encode()
            path.write_bytes(struct.pack("<Q", len(text)) + text + vectors.tobytes())
        return path

    return write


@pytest.fixture
def names():
    """The items of the toy log, and one that it does not have, not in their order."""
    return [f"i{n}" for n in np.random.default_rng(7).permutation(ITEMS + 1)]


@pytest.fixture
def walks(write_atomic):
    """The log of all runs here: walks over items i0 to i39, a step a day, with scenes."""
    draw = random.Random(0)
    rows = []
    for user in range(60):
        item = draw.randrange(ITEMS)
        for day in range(11):
            rows.append((f"u{user}", f"i{item}", 86400 * (20 * user + day), f"s{item % 3}"))
            item = (item + 1) % ITEMS if draw.random() < 0.8 else draw.randrange(ITEMS)
    users, items, times, scenes = zip(*rows)
    write_atomic({"user_id:token": users, "item_id:token": items, "timestamp:float": times, "scene:token": scenes})


def items_of(result) -> tuple[list[str], torch.Tensor]:
    """The data set's items, padding first, and their vectors in the model that a run has trained."""
    found = quick_start.load(result["run_dir"])
    tokens = list(found.train._dataset.field2id_token["item_id"])
    return tokens, item_vectors(found.model, len(tokens))


@pytest.mark.parametrize("kind", ["npy", "safetensors", "parquet"])
def test_every_form_is_read_alike(kind, names, write_vectors):
    found = read_item_vectors(write_vectors(names, vectors_of(names), kind))
    assert found.names == names and found.width == 16 and found.vectors.dtype == np.float32
    assert np.array_equal(found.vectors, vectors_of(names))


def test_rows_are_found_by_name_in_any_order(names, write_vectors):
    data_set = ["[PAD]", "i3", "x", "i11"]
    given, known = match_names(read_item_vectors(write_vectors(names, vectors_of(names))), data_set)
    assert known.tolist() == [False, True, False, True]
    assert np.array_equal(given[[1, 3]].numpy(), vectors_of(["i3", "i11"])) and not given[[0, 2]].any()


@pytest.mark.parametrize("model", [*OURS, "GRU4Rec", "BERT4Rec", "BPR"])
def test_frozen_vectors_stay_and_those_that_begin_there_learn(model, run, names, write_vectors):
    path, size = write_vectors(names, vectors_of(names)), {"hidden_size": 16, "embedding_size": 16, "scene_size": 16}
    own = {key: size[key] for key in sizes_of(model)}
    for use in ("frozen", "init"):
        result = run(model, epochs=1, item_vectors=str(path), item_vectors_use=use, **own)
        tokens, table = items_of(result)
        given = torch.from_numpy(vectors_of(tokens[1:]))
        assert torch.equal(table[1:], given) == (use == "frozen")
        torch.testing.assert_close(table[1:], given, atol=0.3, rtol=0)
        assert np.isfinite(result["best_valid_score"])


def sizes_of(model: str) -> list[str]:
    return {
        "GRU4Rec": ["embedding_size"], "ACVAE": ["embedding_size"], "BPR": ["embedding_size"],
        "DSPnet": ["hidden_size", "scene_size"],
    }.get(model, ["hidden_size"])  # fmt: skip


@pytest.mark.parametrize("model", [*OURS, "SASRec", "BERT4Rec", "BPR"])
def test_an_adaptor_takes_any_width_learns_and_is_kept_with_the_run(model, run, names, write_vectors, tmp_path):
    path = write_vectors(names, vectors_of(names, 7))
    result = run(model, epochs=2, item_vectors=str(path), item_vectors_use="adaptor")
    _, table = items_of(result)
    weights = load(Path(result["run_dir"]) / "best.pth")["state_dict"]
    assert next(value for name, value in weights.items() if name.endswith(".given")).shape == (ITEMS + 1, 7)
    flat = table[1:] - table[1:].mean(0)
    assert torch.linalg.matrix_rank(flat, rtol=1e-4) <= 7  # a linear map of the given ones, and no more
    if model == "BPR":
        return
    before = Recommender.load(result["run_dir"]).recommend([["i1", "i2"]], k=5, **asked(model))
    path.unlink()
    shutil.rmtree(tmp_path / "toy")
    after = Recommender.load(result["run_dir"]).recommend([["i1", "i2"]], k=5, **asked(model))
    assert before.equals(after) and len(after) == 5


def asked(model: str) -> dict:
    if model == "PASRec":
        return {"times": [[0, 86400]]}
    return {"scenes": [["s1", "s2"]]} if model == "DSPnet" else {}


def test_the_export_of_a_run_gives_its_scores_again(run, tmp_path):
    """The history is read as before, too, if all other weights are: SASRec's begin alike with one seed."""
    first = run("SASRec", epochs=2)
    assert cli.main(["export", f"--checkpoint={first['run_dir']}", f"--output={tmp_path}/out"]) == 0
    again = run("SASRec", epochs=1, learning_rate=1e-12, item_vectors=str(tmp_path / "out"), item_vectors_use="frozen")
    assert torch.equal(items_of(again)[1][1:], items_of(first)[1][1:])
    shuffled = json.loads((tmp_path / "out/items.json").read_text())
    order = np.random.default_rng(0).permutation(len(shuffled))
    np.save(tmp_path / "out/items.npy", np.load(tmp_path / "out/items.npy")[order])
    (tmp_path / "out/items.json").write_text(json.dumps([shuffled[n] for n in order]))
    other = run("SASRec", epochs=1, learning_rate=1e-12, item_vectors=str(tmp_path / "out"), item_vectors_use="frozen")
    assert other["test_result"] == again["test_result"]


def test_a_scale_of_their_own(run, names, write_vectors):
    path = write_vectors(names, 100 * vectors_of(names))
    use = {"item_vectors": str(path), "item_vectors_use": "frozen", "item_vectors_rms": 0.5, "hidden_size": 16}
    tokens, table = items_of(run(epochs=1, **use))
    assert table[1:].square().mean().sqrt() == pytest.approx(0.5)
    cosine = torch.cosine_similarity(table[1:], torch.from_numpy(vectors_of(tokens[1:])))
    assert torch.allclose(cosine, torch.ones(ITEMS))


def cone_of(names, width) -> np.ndarray:
    """Vectors that are mostly what all have in common, and vary along their directions by factors of up to 100."""
    return 5 + vectors_of(names, width) * np.geomspace(1, 0.01, width, dtype=np.float32)


def covariance_of(table: torch.Tensor) -> torch.Tensor:
    return torch.cov(table[1:].double().T, correction=0)


@pytest.mark.parametrize("use, width", [("frozen", 16), ("frozen", 24), ("init", 24), ("adaptor", 24)])
def test_whitened_vectors_differ_alike_in_every_direction(use, width, run, names, write_vectors):
    path = write_vectors(names, cone_of(names, width))
    drawn = items_of(run("SASRec", epochs=1, learning_rate=1e-12, hidden_size=16))[1]
    values = {"item_vectors": str(path), "item_vectors_use": use, "item_vectors_whiten": True, "hidden_size": 16}
    result = run("SASRec", epochs=1, learning_rate=1e-12, **values)
    _, table = items_of(result)
    assert table[1:].std() == pytest.approx(drawn[1:].std().item(), rel=0.05)  # whitened or not, what the model expects
    if use == "adaptor":
        table = load(Path(result["run_dir"]) / "best.pth")["state_dict"]["item_embedding.given"]
    table = table / table[1:].square().mean().sqrt()
    size = width if use == "adaptor" else 16
    torch.testing.assert_close(covariance_of(table), torch.eye(size, dtype=torch.float64), atol=1e-3, rtol=0)
    assert table[1:].mean(0).abs().max() < 1e-3


def test_a_narrow_table_gets_the_directions_in_which_the_vectors_differ_most(run, names, write_vectors):
    path = write_vectors(names, cone_of(names, 24))
    values = {"item_vectors": str(path), "item_vectors_use": "frozen", "item_vectors_whiten": True, "hidden_size": 8}
    tokens, table = items_of(run("SASRec", epochs=1, n_heads=2, **values))
    given = cone_of(tokens[1:], 24)
    centred = torch.from_numpy(given - given.mean(0)).double()
    explained = torch.linalg.lstsq(table[1:].double(), centred)
    rest = centred - table[1:].double() @ explained.solution
    least = torch.linalg.svdvals(centred)[8:].square().sum()
    assert rest.square().sum() == pytest.approx(least.item(), rel=1e-3)


def test_directions_are_not_lost_with_the_number_of_items():
    """Nor where the vectors are far from 0: only what is rounding counts as nothing."""
    draw = torch.Generator().manual_seed(0)
    spread = torch.logspace(0, -4, 12)
    for offset, number in ((0.0, 500), (0.0, 200_000), (5.0, 200_000)):
        vectors = offset + torch.randn(number, 12, generator=draw) * spread
        whitening = fit_whitening(
            torch.cat([vectors, vectors[:, :3]], dim=1)
        )  # in 15 numbers, of which 3 tell nothing new
        assert whitening.axes.shape == (15, 12) and whitening.explained == pytest.approx(1)
        covariance = torch.cov(whitening.apply(torch.cat([vectors, vectors[:, :3]], dim=1)).double().T, correction=0)
        torch.testing.assert_close(covariance, torch.eye(12, dtype=torch.float64), atol=0.02, rtol=0)


def test_a_run_goes_on_with_the_vectors_that_it_has(run, names, write_vectors, caplog):
    """Though the file has others now: items that come later are treated as those of the checkpoint were."""
    path = write_vectors(names, cone_of(names, 24))
    values = {"item_vectors": str(path), "item_vectors_use": "frozen", "item_vectors_whiten": True, "hidden_size": 16}
    first = run("SASRec", epochs=1, **values)
    assert re.search(
        r"item_vectors_whiten: along 16 directions of 24, which have 9\d\.\d% of their variance", caplog.text
    )
    before = load(Path(first["run_dir"]) / "last.pth")
    write_vectors(names, 3 * cone_of(names, 24)[:, ::-1])
    run("SASRec", epochs=2, resume=first["run_dir"])
    after = load(Path(first["run_dir"]) / "last.pth")
    assert after["next_epoch"] == 2 and after["item_vectors_factor"] == before["item_vectors_factor"]
    for part in ("mean", "axes"):
        assert torch.equal(after["item_vectors_whitening"][part], before["item_vectors_whitening"][part])
    for change in ({"item_vectors_rms": 1.0}, {"item_vectors_whiten": False}, {"item_vectors_use": "init"}):
        with pytest.raises(UserError, match=f"of a run with {next(iter(change))} .*start a new run"):
            run("SASRec", epochs=3, resume=first["run_dir"], **change)


def test_very_large_numbers_are_scaled_too(run, names, write_vectors):
    path = write_vectors(names, 1e30 * vectors_of(names))
    values = {"item_vectors": str(path), "item_vectors_use": "frozen", "item_vectors_rms": 0.5, "hidden_size": 16}
    assert items_of(run("SASRec", epochs=1, **values))[1][1:].square().mean().sqrt() == pytest.approx(0.5)
    values["item_vectors"] = str(write_vectors(names, 1e-42 * vectors_of(names).astype(np.float64)))
    with pytest.raises(UserError, match=r"item_vectors_whiten: the numbers of .* are too small"):
        run("SASRec", epochs=1, item_vectors_whiten=True, **values)


def test_whitening_and_a_scale(run, names, write_vectors):
    path = write_vectors(names, cone_of(names, 24))
    values = {"item_vectors": str(path), "item_vectors_use": "frozen", "item_vectors_whiten": True, "hidden_size": 16}
    _, table = items_of(run("SASRec", epochs=1, item_vectors_rms=0.1, **values))
    torch.testing.assert_close(covariance_of(table), 0.01 * torch.eye(16, dtype=torch.float64), atol=1e-5, rtol=0)


def test_vectors_that_do_not_differ_enough_are_not_whitened(run, names, write_vectors):
    few = np.repeat(vectors_of(names, 5), 8, axis=1)  # 40 wide, in 5 directions
    values = {"item_vectors": str(write_vectors(names, few)), "item_vectors_whiten": True, "hidden_size": 16}
    with pytest.raises(UserError, match=r"differ in 5 directions only, .* is 16 wide: --item_vectors_use=adaptor"):
        run("SASRec", **values)
    run("SASRec", epochs=1, item_vectors_use="adaptor", **values)
    same = np.ones((len(names), 24), dtype=np.float32)
    for use in ("adaptor", "init"):
        values["item_vectors"] = str(write_vectors(names, same))
        with pytest.raises(UserError, match="are alike, and have nothing that could be whitened"):
            run("SASRec", item_vectors_use=use, **values)


@pytest.mark.parametrize("use", ["init", "frozen"])
def test_items_without_a_vector_are_told(use, run, names, write_vectors, caplog):
    some = [name for name in names if int(name[1:]) > 5]
    path = write_vectors(some, vectors_of(some))
    result = run("SASRec", epochs=1, learning_rate=1e-12, hidden_size=16, item_vectors=str(path), item_vectors_use=use)
    assert "item_vectors: 34 of 40 items have vectors" in caplog.text
    assert "item_vectors: 1 other name is there" in caplog.text
    tokens, table = items_of(result)
    rest = [n for n, name in enumerate(tokens) if n and name not in some]
    assert len(rest) == 6 and "item_vectors: 6 items have no vector there" in caplog.text
    same = torch.allclose(table[rest], table[rest[0]].expand(len(rest), -1), atol=1e-5)
    assert same == (use == "frozen")


def test_own_vectors_of_the_history_begin_there(run, names, write_vectors):
    path = write_vectors(names, vectors_of(names))
    use = {"item_vectors": str(path), "item_vectors_use": "frozen", "history_vectors": "own", "hidden_size": 16}
    found = quick_start.load(run("PreferDiff", epochs=1, **use)["run_dir"])
    own, table = found.model.history_embedding.weight[1:], found.model.item_embedding.weight[1:]
    assert not torch.equal(own, table)
    assert torch.cosine_similarity(own, table).mean() > 0.9


# What is refused


@pytest.mark.parametrize(
    "spoil, patterns",
    [
        (lambda names, v: (names, v.astype(str)), ["row of numbers"]),
        (lambda names, v: (names, v[0]), ["row of numbers"]),
        (lambda names, v: (names[1:], v), ["41 rows", "40 names"]),
        (lambda names, v: ([names[1], *names[1:]], v), ["1 item more than once"]),
        (lambda names, v: (names, np.where(v == v[3, 2], np.nan, v)), ["1 vector", "none, or infinite"]),
        (lambda names, v: (names, v.astype(float) * 1e300), ["infinite"]),
        (lambda names, v: ([f"B{name}" for name in names], v), ["none of the 40 items", "such as 'B"]),
        (lambda names, v: (names, v[:, :5]), ["5 wide", "16 wide", "--item_vectors_use=adaptor"]),
        (lambda names, v: ({"a": 1}, v), ["list of the items' names"]),
    ],
)
def test_what_cannot_be_used_is_refused(spoil, patterns, arguments, refused, names, write_vectors):
    path = write_vectors(*spoil(names, vectors_of(names)))
    refused(arguments(f"--item_vectors={path}", "--hidden_size=16"), "item_vectors", *patterns)


def test_files_that_are_none_are_refused(arguments, refused, tmp_path, names, write_vectors):
    path = write_vectors(names, vectors_of(names), "safetensors")
    whole = path.read_bytes()
    for damage in (whole[:50], whole[:-4], b"\xff" * 8 + whole[8:], b"", whole.replace(b"F32", b"F31")):
        path.write_bytes(damage)
        refused(arguments(f"--item_vectors={path}"), "item_vectors", str(path))
    path.write_bytes(whole.replace(b'"shape": [41, 16]', b'"shape": [16, -1]'))
    refused(arguments(f"--item_vectors={path}"), "damaged")
    (tmp_path / "x.npy").write_bytes(b"\x80\x04N.")
    (tmp_path / "x.json").write_text('["1"]')
    refused(arguments(f"--item_vectors={tmp_path}/x.npy"), "no array of numbers")
    (tmp_path / "y.parquet").write_bytes(b"PAR1")
    refused(arguments(f"--item_vectors={tmp_path}/y.parquet"), "no Parquet file")
    (tmp_path / "empty").mkdir()
    (tmp_path / "some.txt").write_text("1 2")
    reasons = {"no.npy": "no folder or file", "some.txt": ".safetensors", "empty": "holds neither", "no": "no folder"}
    for missing, why in reasons.items():
        refused(arguments(f"--item_vectors={tmp_path}/{missing}"), "item_vectors", why)
    np.save(tmp_path / "z.npy", np.zeros((2, 2)))
    refused(arguments(f"--item_vectors={tmp_path}/z.npy"), "names beside it", "z.json")


def test_a_use_of_no_vectors_is_refused(arguments, refused):
    for use in ("--item_vectors_use=frozen", "--item_vectors_rms=1", "--item_vectors_whiten=true"):
        refused(arguments(use), use[2:].partition("=")[0], "there are none", "--item_vectors=PATH")


def test_models_without_a_table_say_so(run, names, write_vectors):
    path = write_vectors(names, vectors_of(names))
    for model in ("FPMC", "Transitions"):
        with pytest.raises(UserError, match=f"{model} has no table of item vectors"):
            run(model, item_vectors=str(path))
    with pytest.raises(UserError, match="tie_weights=false"):
        run("DiffRec", item_vectors=str(path), item_vectors_use="adaptor", tie_weights=True)
