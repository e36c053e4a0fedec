"""A data set that is not there: a run, a sweep and a comparison get it, the other verbs say how."""

import hashlib
import json
import os
import pickle
import socket
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from test_archive import zipped
from test_download import serving

from recbole_gen import catalogue, cli, quick_start
from recbole_gen.compare.jobs import plan_jobs
from recbole_gen.config.config import Config
from recbole_gen.config.places import find_dataset
from recbole_gen.errors import MissingDataset, UserError
from recbole_gen.prepare import download, missing_dataset
from recbole_gen.sweep import plan as sweep_plan

EVENTS = b"user_id:token\titem_id:token\ttimestamp:float\n" + b"".join(
    f"u{user}\ti{(user + step) % 20}\t{step}\n".encode() for user in range(30) for step in range(8)
)
ITEMS = b"item_id:token\n" + b"".join(f"i{item}\n".encode() for item in range(20))
MIRROR = "ml-10m"
"""A data set that RecBole offers, and that these tests serve."""


@pytest.fixture
def recipes(monkeypatch):
    """A stand-in for the recipes: name -> what it writes under <data_path>/<name>, or the error that it raises."""
    known = {}

    def prepare(name, data_path, say):
        say(f"preparing {name}")
        if isinstance(known[name], Exception):
            raise known[name]
        with missing_dataset.replace_folder(Path(data_path) / name) as new:
            (new / f"{name}.inter").write_bytes(known[name])

    def find_recipe(name):
        return (SimpleNamespace(url="https://publisher"), None) if name in known else None

    monkeypatch.setattr(missing_dataset, "find_recipe", find_recipe)
    monkeypatch.setattr(missing_dataset, "_prepare_by_recipe", prepare)
    return known


@pytest.fixture
def mirror(monkeypatch, recipes):
    """A server that stands for RecBole's, with one data set in a zip of another name."""
    monkeypatch.delenv("RECBOLE_GEN_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    with serving() as server:
        server.body = zipped({"set/ML_ten.inter": EVENTS, "set/ML_ten.item": ITEMS, "set/README": b"x"})
        monkeypatch.setattr(missing_dataset, "_mirror", lambda: {MIRROR: server.url("/sets/ML_ten.zip")})
        yield server


@pytest.fixture
def quick(tmp_path):
    """The command line of a quick run on a data set of tmp_path."""
    return lambda dataset, *more: [
        "--model=Pop", f"--dataset={dataset}", f"--data_path={tmp_path / 'data'}", "--epochs=1", "--use_gpu=false",
        f"--checkpoint_dir={tmp_path / 'saved'}", "--state=ERROR", "--show_progress=false", "--load_col=None", *more,
    ]  # fmt: skip


def test_recboles_list_is_the_one_that_is_read():
    url = missing_dataset._mirror()["ml-1m"]
    assert url.startswith("https://") and url.endswith("/ml-1m.zip")


def test_the_recipes_are_those_of_prepare():
    assert missing_dataset.has_recipe("ml-1m") and not missing_dataset.has_recipe("no such data set")


def test_the_error_survives_a_process():
    error = pickle.loads(pickle.dumps(MissingDataset("told", "toy", "data")))
    assert (str(error), error.name, error.data_path) == ("told", "toy", "data") and isinstance(error, UserError)


def test_a_missing_data_set_has_its_name_in_the_error(tmp_path, recipes):
    recipes["by-recipe"] = EVENTS
    with pytest.raises(MissingDataset, match=r"^there is no data set 'toy'") as error:
        find_dataset("toy", str(tmp_path))
    assert (error.value.name, error.value.data_path) == ("toy", str(tmp_path))
    with pytest.raises(MissingDataset, match=r"`recbole-gen prepare by-recipe` makes it\. --data_path"):
        find_dataset("by-recipe", str(tmp_path))
    with pytest.raises(
        MissingDataset, match=r"(?s)toy\.train\.inter.*toy\.test\.inter.*3 files that are split already"
    ):
        find_dataset("toy", str(tmp_path), ["train", "valid", "test"])


def test_a_run_gets_what_recbole_offers(mirror, quick, tmp_path, capsys):
    assert cli.main(quick(MIRROR)) == 0
    folder = tmp_path / "data" / MIRROR
    assert sorted(path.name for path in folder.iterdir()) == [f"{MIRROR}.inter", f"{MIRROR}.item", "prepare.json"]
    assert (folder / f"{MIRROR}.inter").read_bytes() == EVENTS
    assert json.loads((folder / "prepare.json").read_text()) == {
        "recipe": "recbole mirror", "source": mirror.url("/sets/ML_ten.zip"),
        "sha256": hashlib.sha256(mirror.body).hexdigest(), "files": [f"{MIRROR}.inter", f"{MIRROR}.item"],
    }  # fmt: skip
    out = capsys.readouterr().out
    assert f"RecBole offers it as atomic files at {mirror.url('/sets/ML_ten.zip')}" in out and "terms" in out
    assert (tmp_path / "data/.downloads" / f"{MIRROR}.zip").exists()
    assert cli.main(quick(MIRROR)) == 0 and len(mirror.asked) == 1


def test_a_run_prepares_what_there_is_a_recipe_for(recipes, quick, tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("RECBOLE_GEN_OFFLINE")
    recipes["toy"] = EVENTS
    result = quick_start.run(argv=quick("toy"))
    assert result["dataset"] == "toy" and "preparing toy" in capsys.readouterr().out


def test_a_recipe_comes_before_the_mirror(recipes, mirror, quick, tmp_path):
    recipes[MIRROR] = EVENTS
    quick_start.run(argv=quick(MIRROR))
    assert mirror.asked == []


def test_a_sweep_gets_it(mirror, tmp_path):
    values = {"model": "BPR", "dataset": MIRROR, "data_path": str(tmp_path), "use_gpu": False, "load_col": None}
    assert sweep_plan.base_config(values, {})["dataset"] == MIRROR
    assert (tmp_path / MIRROR / f"{MIRROR}.inter").exists()


def test_a_comparison_gets_it_once(mirror, tmp_path, capsys):
    values = {"dataset": MIRROR, "data_path": str(tmp_path), "use_gpu": False, "load_col": None}
    jobs, left_out = plan_jobs(["Pop", "BPR"], [1], values, {}, tmp_path)
    assert [job.label for job in jobs] == ["Pop", "BPR"] and not left_out and len(mirror.asked) == 1
    assert f"{MIRROR}.inter" in jobs[0].data


def test_a_comparison_asks_once_for_what_cannot_be_had(mirror, tmp_path):
    mirror.statuses = [404] * 5
    values = {"dataset": MIRROR, "data_path": str(tmp_path), "use_gpu": False}
    with pytest.raises(UserError, match=r"^there is no data set 'ml-10m'(.*\n)*.*404"):
        plan_jobs(["Pop", "BPR"], [1], values, {}, tmp_path)
    assert len(mirror.asked) == 1


def test_print_config_and_the_lists_download_nothing(mirror, quick, refused, tmp_path):
    refused([*quick(MIRROR), "--print-config"], f"there is no data set '{MIRROR}'")
    refused(["datasets", MIRROR, f"--data_path={tmp_path}"], f"there is no data set '{MIRROR}'")
    with pytest.raises(MissingDataset):
        catalogue.dataset_page(MIRROR, str(tmp_path))
    with pytest.raises(MissingDataset):
        Config(model="Pop", dataset=MIRROR, config_dict={"data_path": str(tmp_path)})
    assert mirror.asked == [] and not (tmp_path / "data").exists()


def test_what_nobody_offers_is_the_same_error_as_ever(recipes, tmp_path):
    error = MissingDataset("there is no data set 'toy'", "toy", str(tmp_path / "data"))
    with pytest.raises(MissingDataset) as raised:
        missing_dataset.fetch_dataset("toy", tmp_path / "data", error)
    assert raised.value is error and not (tmp_path / "data").exists()


@pytest.mark.parametrize("dataset", ["ml-1m", "yelp"])
def test_offline_the_message_says_what_to_fetch_and_where_to_put_it(quick, refused, dataset, tmp_path):
    url = missing_dataset._mirror()[dataset]
    message = refused(quick(dataset), f"^error: there is no data set '{dataset}'. Looked for\n", url, "has failed: ")
    assert f"{tmp_path / 'data'}" in message and not (tmp_path / "data").exists()


def test_offline_a_mirror_s_file_may_be_put_there_by_hand(mirror, quick, refused, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("RECBOLE_GEN_OFFLINE", "1")
    zip_file = tmp_path / "data/.downloads" / f"{MIRROR}.zip"
    message = refused(quick(MIRROR), "RECBOLE_GEN_OFFLINE forbids it", f"save it as {zip_file}\n?$")
    assert message.count(mirror.url("/sets/ML_ten.zip")) == 1 and "--raw" not in message
    zip_file.parent.mkdir(parents=True)
    zip_file.write_bytes(mirror.body)
    assert cli.main(quick(MIRROR)) == 0 and mirror.asked == []
    assert "is written" in capsys.readouterr().out


def test_a_failing_recipe_says_why(recipes, quick, refused, monkeypatch):
    recipes["toy"] = UserError("the publisher wants to be asked")
    refused(quick("toy"), "there is no data set 'toy'(.*\n)*.*has failed: the publisher wants to be asked")
    recipes["toy"] = RuntimeError("a mistake of a programmer")
    with pytest.raises(RuntimeError):
        quick_start.run(argv=quick("toy"))


def test_a_damaged_download_leaves_no_data_set(mirror, quick, refused, tmp_path):
    mirror.body = mirror.body[:-40]
    with pytest.raises(MissingDataset, match=r"ml-10m.zip is damaged.*: remove it and download it again"):
        quick_start.run(argv=quick(MIRROR))
    assert not (tmp_path / "data" / MIRROR).exists()


def test_a_folder_of_the_users_own_is_not_replaced(mirror, quick, tmp_path):
    folder = tmp_path / "data" / MIRROR
    folder.mkdir(parents=True)
    (folder / "ratings.txt").write_text("mine")
    with pytest.raises(MissingDataset, match=r"holds what was not made by recbole-gen prepare: ratings.txt"):
        quick_start.run(argv=quick(MIRROR))
    assert mirror.asked == [] and (folder / "ratings.txt").exists()


def test_a_data_path_that_cannot_be_written_is_told(mirror, tmp_path):
    (tmp_path / "data").write_text("a file")
    with pytest.raises(MissingDataset, match=r"told\n.*cannot be written .*choose another --data_path"):
        missing_dataset.fetch_dataset(MIRROR, tmp_path / "data", MissingDataset("told"))


def test_of_several_processes_one_gets_it(mirror, tmp_path, capsys):
    error = MissingDataset("told", MIRROR, str(tmp_path))
    threads = [threading.Thread(target=missing_dataset.fetch_dataset, args=(MIRROR, tmp_path, error)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    out = capsys.readouterr().out
    assert len(mirror.asked) == 1 and out.count("is written") == 1


def run_as_one_of_two(rank: int, ready, port: int, url: str, arguments: list[str]) -> None:
    """What torchrun starts, in one of two processes, with a mirror that has one data set."""
    together = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "NO_PROXY": "127.0.0.1"}
    os.environ.update(together, RANK=str(rank), LOCAL_RANK=str(rank))
    os.environ.pop("RECBOLE_GEN_OFFLINE", None)
    missing_dataset._mirror = lambda: {MIRROR: url}
    missing_dataset.find_recipe = lambda name: None
    ready.wait()
    sys.exit(cli.main(arguments))


def test_processes_that_train_together_get_it_once(mirror, quick, forked):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    more = forked.Barrier(2), port, mirror.url("/sets/ML_ten.zip"), [*quick(MIRROR)[1:], "--model=BPR"]
    processes = [forked.Process(target=run_as_one_of_two, args=(rank, *more), daemon=True) for rank in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(mirror.asked) == 1


@pytest.mark.parametrize(
    "file, name, archive, renamed",
    [
        ("ml-1m.inter", "ml-1m", "ml-1m", "ml-1m.inter"),
        ("Amazon_Baby.item", "amazon-baby", "Amazon_Baby", "amazon-baby.item"),
        ("gowalla.link", "gowalla-merged", "gowalla", "gowalla-merged.link"),
        ("yelp.inter", "yelp-2020", "yelp", "yelp-2020.inter"),
        ("amazon-m2.inter", "amazon-m2", "amazon_m2", "amazon-m2.inter"),
        ("M2.UK.inter", "amazon-m2", "amazon_m2", "amazon-m2.UK.inter"),
        (
            "diginetica-session.train.inter",
            "diginetica-session",
            "diginetica_session",
            "diginetica-session.train.inter",
        ),
        ("diginetica_session.test.inter", "diginetica-session", "diginetica_session", "diginetica-session.test.inter"),
        ("yelp2018.user", "yelp-2018", "yelp2018", "yelp-2018.user"),
        ("ml-1m2.inter", "ml-1m", "ml-1m", "ml-1m.inter"),
    ],
)
def test_files_get_the_name_of_the_data_set(file, name, archive, renamed):
    assert missing_dataset._name_in_dataset(file, name, archive) == renamed


def test_archives_without_events_or_with_two_of_a_name_are_refused(tmp_path):
    path = tmp_path / "x.zip"
    path.write_bytes(zipped({"x.item": b""}))
    with pytest.raises(UserError, match=r"x.zip has no interactions, only toy.item"):
        missing_dataset._unpack_atomic_files(path, "toy", "http://h/x.zip", tmp_path)
    path.write_bytes(zipped({"x.inter": b"", "toy.inter": b""}))
    with pytest.raises(UserError, match=r"two files that would be toy.inter"):
        missing_dataset._unpack_atomic_files(path, "toy", "http://h/x.zip", tmp_path)
