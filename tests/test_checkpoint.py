"""Checkpoints: plain data only, atomic, refused with a reason when they do not fit, complete after Ctrl-C."""

import os
import pickle
import random
import resource
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import scipy.sparse
import torch

from recbole_gen import checkpoint, cli, quick_start
from recbole_gen.checkpoint import CheckpointError


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
        CheckpointError, match=r"last\.pth is (truncated or not a checkpoint|damaged)|pickled Python objects"
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
    assert f"2 finished epoch(s) are kept: go on with --resume={folder}" in message and "Traceback" not in message
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
