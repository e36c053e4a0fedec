"""Checkpoints: plain data only, atomic, refused with a reason when they do not fit, complete after Ctrl-C."""

import errno
import os
import pickle
import random
import resource
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

import recbole_gen
from recbole_gen import checkpoint, cli, quick_start
from recbole_gen import files as files_module
from recbole_gen.checkpoint import CheckpointError
from recbole_gen.errors import UserError
from recbole_gen.files import lock_folder
from recbole_gen.recommending.recommender import Recommender


@contextmanager
def largest_file(size: int):
    """No file of this process can grow beyond ``size`` bytes: the system's answer is that of a full disk."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def stored(tmp_path):
    """A small checkpoint on disk, and its content."""
    path = tmp_path / "last.pth"
    content = {"weights": torch.arange(2000.0), "epoch": 3, "names": ["a", "b"]}
    checkpoint.save(path, content)
    return path, content


def files(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_run_saves_what_is_read_without_unpickling(run):
    result = run("ItemKNN")
    content = torch.load(Path(result["run_dir"]) / "best.pth", weights_only=True)
    assert content["format"] == checkpoint.FORMAT
    assert content["model"] == "ItemKNN" and content["config"] == result["config"]
    assert content["vocabulary"]["item_id"][0] == "[PAD]" and len(content["vocabulary"]["item_id"]) == 41
    matrix = checkpoint.unpack_other_parameter(content["other_parameter"])["pred_mat"]
    assert scipy.sparse.issparse(matrix) and matrix.shape == (61, 41) and matrix.nnz > 100


class Evil:
    def __reduce__(self):
        return os.mkdir, ("run_by_pickle",)


@pytest.mark.parametrize("write", [torch.save, lambda content, path: path.write_bytes(pickle.dumps(content))])
def test_a_pickle_is_refused_and_not_run(tmp_path, monkeypatch, write):
    monkeypatch.chdir(tmp_path)
    write({"format": checkpoint.FORMAT, "config": Evil()}, tmp_path / "last.pth")
    with pytest.raises(CheckpointError, match="pickled Python objects"):
        checkpoint.load(tmp_path / "last.pth")
    assert files(tmp_path) == ["last.pth"]


@pytest.mark.parametrize("share", [0, 0.0002, 0.001, 0.01, 0.1, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(stored, share):
    path, _ = stored
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(
        CheckpointError,
        match=r"last\.pth is (truncated or not a checkpoint|damaged|no checkpoint)|pickled Python objects",
    ):
        checkpoint.load(path)


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


def test_no_flipped_bit_is_loaded(stored):
    path, content = stored
    whole, draw = path.read_bytes(), random.Random(0)
    at_the_end = 8 * (len(whole) - checkpoint.CHECKSUM_SIZE - 22)  # what a zip says of itself, and the checksum
    bits = [*(draw.randrange(8 * len(whole)) for _ in range(60)), *range(at_the_end, 8 * len(whole), 7)]
    for bit in bits:
        path.write_bytes(flipped(whole, bit))
        with pytest.raises(CheckpointError, match=r"last\.pth is damaged"):
            checkpoint.load(path)
    path.write_bytes(whole)
    assert torch.equal(checkpoint.load(path)["weights"], content["weights"])


def test_checkpoints_without_a_checksum_are_read_and_their_members_checked(tmp_path):
    path = tmp_path / "best.pth"
    torch.save({"format": checkpoint.FORMAT, "weights": torch.arange(2000.0)}, path)  # as before there was one
    assert checkpoint.load(path)["weights"][7] == 7
    whole = path.read_bytes()
    place = whole.index(torch.arange(1000.0, 1003.0).numpy().tobytes())
    path.write_bytes(flipped(whole, 8 * place + 3))
    with pytest.raises(CheckpointError, match=r"best\.pth is (damaged|truncated)"):
        checkpoint.load(path)


def test_a_checksum_of_many_parts(stored, monkeypatch):
    path, _ = stored
    monkeypatch.setattr(checkpoint, "PART_SIZE", 1000)
    monkeypatch.setattr(checkpoint, "READ_SIZE", 300)
    checkpoint.save(path, {"weights": torch.arange(5000.0)})
    assert checkpoint.is_signed_rightly(path)
    whole = path.read_bytes()
    for place in (999, 1000, 5300, len(whole) - 40):
        path.write_bytes(flipped(whole, 8 * place))
        assert checkpoint.is_signed_rightly(path) is False


def test_other_files_are_refused(tmp_path):
    torch.save({"state_dict": {}}, tmp_path / "other.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole_gen"):
        checkpoint.load(tmp_path / "other.pth")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="not a checkpoint of recbole_gen"):
        checkpoint.load(tmp_path / "list.pth")
    with pytest.raises(CheckpointError, match="there is no checkpoint"):
        checkpoint.load(tmp_path / "missing.pth")
    with pytest.raises(CheckpointError, match="truncated or not a checkpoint"):
        checkpoint.load(tmp_path)


def test_the_model_and_the_vocabulary_must_match():
    content = {"model": "DreamRec", "vocabulary": {"item_id": ["[PAD]", "a", "b"]}}
    checkpoint.require_match("x.pth", content, "DreamRec", {"item_id": ["[PAD]", "a", "b"]})
    with pytest.raises(CheckpointError, match="of DreamRec, not of SASRec"):
        checkpoint.require_match("x.pth", content, "SASRec", {})
    with pytest.raises(CheckpointError, match=r"'item_id' \(2 of them, the data set at hand has 3\)"):
        checkpoint.require_match("x.pth", content, "DreamRec", {"item_id": ["[PAD]", "a", "b", "c"]})
    with pytest.raises(CheckpointError, match="'item_id'"):  # the same tokens in another order
        checkpoint.require_match("x.pth", content, "DreamRec", {"item_id": ["[PAD]", "b", "a"]})


def test_weights_of_another_size_are_refused():
    content = {"state_dict": torch.nn.Linear(3, 2).state_dict(), "other_parameter": {}}
    with pytest.raises(CheckpointError, match="do not fit"):
        checkpoint.load_weights("x.pth", content, torch.nn.Linear(3, 4))


def test_a_full_disk_leaves_the_checkpoint_of_before(stored):
    path, content = stored
    with pytest.raises(CheckpointError, match=r"could not be written.*is kept at"), largest_file(10_000):
        checkpoint.save(path, {"weights": torch.zeros(100_000)})
    assert files(path.parent) == ["last.pth"]
    assert torch.equal(checkpoint.load(path)["weights"], content["weights"])
    with pytest.raises(CheckpointError, match="there is none yet"), largest_file(10_000):
        checkpoint.save(path.with_name("best.pth"), {"weights": torch.zeros(100_000)})
    assert files(path.parent) == ["last.pth"]
    with pytest.raises(CheckpointError, match="could not be written"):
        checkpoint.save(path.parent / "no_such_folder" / "last.pth", content)


class Interrupting:
    def __reduce__(self):
        raise KeyboardInterrupt


@pytest.mark.parametrize("bad, error", [(Interrupting(), KeyboardInterrupt), (lambda: 0, Exception)])
def test_a_failure_while_saving_leaves_nothing_half_written(stored, bad, error):
    path, content = stored
    with pytest.raises(error):
        checkpoint.save(path, {"weights": torch.zeros(10), "bad": bad})
    assert files(path.parent) == ["last.pth"]
    assert torch.equal(checkpoint.load(path)["weights"], content["weights"])


def test_pack_and_unpack_are_inverse(tmp_path):
    dense = np.array([[0, 1.5, 0], [2.5, 0, -1]])
    value = {
        "csr": scipy.sparse.csr_matrix(dense),
        "csc": scipy.sparse.csc_matrix(dense.astype(np.float32)),
        "coo": scipy.sparse.coo_matrix(dense > 0),
        "empty": scipy.sparse.csr_matrix((4, 7)),
        "dok": scipy.sparse.dok_matrix(dense),
        "array": np.arange(6, dtype=np.int32).reshape(2, 3),
        "numbers": [np.float32(0.5), np.int64(7), 3, True, None, "text"],
        "nested": {"tensor": torch.ones(2, 2), "arrays": (np.zeros(0), np.array(1.0))},
    }
    checkpoint.save(tmp_path / "x.pth", {"other_parameter": checkpoint.pack_other_parameter(value)})
    back = checkpoint.unpack_other_parameter(checkpoint.load(tmp_path / "x.pth")["other_parameter"])
    assert back.keys() == value.keys()
    for name in ("csr", "csc", "coo", "empty", "dok"):
        assert back[name].shape == value[name].shape and back[name].dtype == value[name].dtype
        assert (back[name].toarray() == value[name].toarray()).all()
    assert back["array"].dtype == np.int32 and (back["array"] == value["array"]).all()
    assert back["numbers"] == [0.5, 7, 3, True, None, "text"]
    assert torch.equal(back["nested"]["tensor"], torch.ones(2, 2))
    assert back["nested"]["arrays"][0].shape == (0,) and back["nested"]["arrays"][1] == 1.0


def test_packing_copies():
    array = np.zeros(3)
    packed = checkpoint.pack_other_parameter(array)
    array[0] = 1
    assert checkpoint.unpack_other_parameter(packed)[0] == 0


def test_random_states_go_through_a_file(tmp_path):
    import random

    np.random.randn(1)  # leaves a cached second value, which is part of the state
    checkpoint.save(tmp_path / "x.pth", {"states": checkpoint.random_states()})
    first = random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()
    checkpoint.restore_random_states(checkpoint.load(tmp_path / "x.pth")["states"])
    assert (random.random(), np.random.randn(), np.random.rand(), torch.rand(1).item()) == first


def test_a_disk_that_fills_up_ends_the_run_with_a_message_and_a_checkpoint(arguments, custom, capsys, tmp_path):
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    line = arguments("--epochs=4", model="custom:Custom")
    custom.at = 8 + 8 + 1  # the first step of the third epoch
    custom.trouble = lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (9000, before[1])) or 1.0
    try:
        code = cli.main(line)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    message = capsys.readouterr().err
    (folder,) = (tmp_path / "saved").iterdir()
    assert code == 2 and message.count("error:") == 1 and "Traceback" not in message
    assert "could not be written" in message and "is kept" in message and "--resume" in message
    assert not [name for name in files(folder) if name.endswith(".tmp")]
    assert checkpoint.load(folder / "last.pth")["next_epoch"] == 2
    assert cli.main([f"--resume={folder}"]) == 0
    assert checkpoint.load(folder / "last.pth")["next_epoch"] == 4


def interrupt():
    raise KeyboardInterrupt


def test_a_run_that_was_interrupted_goes_on_as_if_it_had_not_been(arguments, custom, capsys, tmp_path):
    line = arguments("--epochs=4", model="custom:Custom")
    custom.at, custom.trouble = 8 + 8 + 5, interrupt  # in the middle of the third epoch
    assert cli.main(line) == 130
    (folder,) = (tmp_path / "saved").iterdir()
    message = capsys.readouterr().err
    assert f"2 finished epochs are kept: go on with --resume={folder}" in message and "Traceback" not in message
    assert "result.json" not in files(folder) and not [name for name in files(folder) if name.endswith(".tmp")]

    resumed = quick_start.run(argv=[f"--resume={folder}"])
    whole = quick_start.run(argv=line)
    for key in ("test_result", "best_valid_result", "best_epoch", "train_loss"):
        assert resumed[key] == whole[key], key
    a, b = (checkpoint.load(Path(result["run_dir"]) / "last.pth") for result in (resumed, whole))
    assert all(torch.equal(a["state_dict"][name], b["state_dict"][name]) for name in b["state_dict"])


def test_an_interrupt_before_the_first_checkpoint_says_so(arguments, custom, capsys):
    custom.at, custom.trouble = 2, interrupt
    assert cli.main(arguments(model="custom:Custom")) == 130
    assert "nothing to go on with" in capsys.readouterr().err


OWN_METRIC = """
from recbole.evaluator.base_metric import TopkMetric


class First(TopkMetric):
    def calculate_metric(self, dataobject):
        hits, _ = self.used_info(dataobject)
        return self.topk_result("first", hits.cumsum(1) > 0)
"""


@pytest.fixture
def foreign(custom, settings, tmp_path, monkeypatch):
    """The folder of a run of `custom:Custom` with a metric `measure:First`, of whose modules nothing is imported; and a
    file that is there once either is."""
    own, mark = tmp_path / "own_models", tmp_path / "imported"
    (own / "measure.py").write_text(OWN_METRIC)
    values = settings("custom:Custom", epochs=1, metrics=["NDCG", "measure:First"], state="ERROR")
    folder = quick_start.run(config_dict=values)["run_dir"]
    for name in ("custom", "measure"):
        with open(own / f"{name}.py", "a") as file:
            file.write(f"\nopen({str(mark)!r}, 'a').write({name!r})\n")
        sys.modules.pop(name)
    yield folder, mark
    sys.modules.setdefault("custom", custom)
    sys.modules.pop("measure", None)


def test_a_checkpoint_has_no_code_imported_that_nobody_named(foreign, tmp_path, capsys):
    folder, mark = foreign
    (tmp_path / "h.jsonl").write_text('{"user": "u", "history": ["i1", "i2"]}\n')
    asked = [f"--checkpoint={folder}", f"--histories={tmp_path}/h.jsonl", f"--output={tmp_path}/out.csv"]
    lines = [
        [f"--resume={folder}", "--epochs=2"], ["recommend", *asked], ["serve", f"--checkpoint={folder}"],
        ["export", f"--checkpoint={folder}", f"--output={tmp_path}/vectors"], ["plot", "tsne", f"--run={folder}"],
    ]  # fmt: skip
    for line in lines:
        assert cli.main(line) == 2
        message = capsys.readouterr().err
        assert "custom:Custom" in message and '--model="custom:Custom"' in message and "Traceback" not in message
    for read in (quick_start.load, Recommender.load, recbole_gen.load_data_and_model):
        with pytest.raises(UserError, match="custom:Custom as its model"):
            read(folder)
    with pytest.raises(CheckpointError, match="of model custom:Custom, not of other:Model"):
        Recommender.load(folder, model="other:Model")
    assert cli.main([f"--resume={folder}", "--epochs=2", "--model=custom:Custom"]) == 2
    assert '--metrics="[..., measure:First]"' in capsys.readouterr().err and mark.read_text() == "custom"
    assert not (tmp_path / "out.csv").exists() and not (tmp_path / "vectors").exists()


def test_a_named_class_is_imported(foreign, tmp_path):
    folder, mark = foreign
    assert cli.main(["recommend", f"--checkpoint={folder}", f"--histories={tmp_path}/h.inter", "--model=custom:Custom",
                     f"--output={tmp_path}/out.csv"]) == 2  # there is no such file  # fmt: skip
    assert not mark.exists()
    assert Recommender.load(folder, model="custom:Custom").recommend([["i1"]], k=2)["item"].notna().all()
    assert mark.read_text() == "custom"  # a metric is for those who evaluate
    quick_start.load(folder)  # the process has imported it by now
    line = [f"--resume={folder}", "--epochs=2", "--model=custom:Custom", "--metrics=[NDCG, measure:First]"]
    assert cli.main(line) == 0


def test_two_processes_do_not_resume_one_run(run, capsys):
    folder = Path(run(epochs=1)["run_dir"])
    before = {path: path.read_bytes() for path in folder.glob("*.pth")}
    with lock_folder(folder, "run"):
        assert cli.main([f"--resume={folder}", "--epochs=2"]) == 2
    assert f"another process is at work on the run in {folder}" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in folder.glob("*.pth")} == before
    assert cli.main([f"--resume={folder}", "--epochs=2"]) == 0


def test_a_resumed_run_keeps_its_number_of_threads(run, one_thread, caplog):
    folder = run(epochs=1, num_threads=None)["run_dir"]
    content = checkpoint.load(f"{folder}/last.pth")
    checkpoint.save(f"{folder}/last.pth", {**content, "threads": 3})
    assert quick_start.run(argv=[f"--resume={folder}", "--epochs=2"])["threads"] == 3
    result = quick_start.run(argv=[f"--resume={folder}", "--epochs=3", "--num_threads=1", "--state=WARNING"])
    assert result["threads"] == 1 and "had 3" in caplog.text and "--num_threads=3 keeps them" in caplog.text


@pytest.mark.parametrize("name", ["config.yaml", "ranks.test.tsv", "result.json"])
def test_a_full_disk_leaves_whole_files_and_one_message(run, name, monkeypatch, capsys, tmp_path):
    replace = os.replace

    def full(source, target):
        if Path(target).name == name:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))
        replace(source, target)

    monkeypatch.setattr(files_module.os, "replace", full)
    cure = "run it again" if name == "config.yaml" else "--resume="
    with pytest.raises(UserError, match=rf"{name} cannot be written \(No space left on device\).*{cure}"):
        run(epochs=1, save_ranks=True)
    assert not list(tmp_path.rglob(name)) and not list(tmp_path.rglob("*.tmp"))
    assert bool(list(tmp_path.rglob("last.pth"))) == (name != "config.yaml")  # what was not begun leaves no folder
