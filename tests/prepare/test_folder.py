"""A folder is replaced as a whole or not at all, whatever happens meanwhile."""

import errno
import multiprocessing
import os
import signal
import subprocess
import sys
import threading

import pytest

from recbole_gen.errors import UserError
from recbole_gen.files import write_json
from recbole_gen.prepare import dataset_folder
from recbole_gen.prepare.dataset_folder import recover_interrupted, replace_folder

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["recbole_gen.prepare.dataset_folder"])
DEAD = 2**22 + 1  # above the largest process number of Linux


@pytest.fixture
def target(tmp_path):
    """A prepared folder, old."""
    path = tmp_path / "toy"
    fill(path, "old")
    return path


def fill(path, text):
    path.mkdir(exist_ok=True)
    for name in ("toy.inter", "toy.item"):
        (path / name).write_text(text * 1000)
    write_json(path / "prepare.json", {"recipe": text, "files": ["toy.inter", "toy.item"]})


def content(path):
    """What a folder holds: "old" or "new", if it is whole."""
    assert sorted(each.name for each in path.iterdir()) == ["prepare.json", "toy.inter", "toy.item"]
    texts = {(path / name).read_text() for name in ("toy.inter", "toy.item")}
    assert len(texts) == 1
    text = texts.pop()
    assert text == text[:3] * 1000
    return text[:3]


def left(tmp_path):
    return sorted(path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock"))


@pytest.mark.parametrize("exchange", [True, False])
def test_a_folder_is_replaced(target, tmp_path, monkeypatch, exchange):
    (target / ".cache").mkdir()
    (target / ".cache" / "entry").write_text("stale")
    if not exchange:
        monkeypatch.setattr(dataset_folder, "_exchange", lambda *_: False)
    with replace_folder(target) as new:
        assert new.parent == tmp_path and new.name == f".toy.{os.getpid()}.tmp" and not list(new.iterdir())
        fill(new, "new")
        assert (target / "toy.inter").read_text().startswith("old")
    assert content(target) == "new" and left(tmp_path) == ["toy"]


def test_a_new_folder_and_its_parents_are_made_with_the_usual_mode(tmp_path):
    usual = tmp_path / "usual"
    usual.mkdir()
    with replace_folder(tmp_path / "data" / "toy") as new:
        fill(new, "new")
    assert content(tmp_path / "data/toy") == "new"
    assert (tmp_path / "data/toy").stat().st_mode == usual.stat().st_mode


def test_the_system_has_a_way_to_exchange_folders(tmp_path):
    if sys.platform != "linux":
        pytest.skip("Linux alone")
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "file").write_text("")
    if not dataset_folder._exchange(tmp_path / "a", tmp_path / "b"):
        pytest.skip("not on this file system")
    assert (tmp_path / "a" / "file").exists()
    with pytest.raises(FileNotFoundError):
        dataset_folder._exchange(tmp_path / "a", tmp_path / "nowhere")


def test_a_link_stays_a_link(target, tmp_path):
    (tmp_path / "link").symlink_to(target)
    with replace_folder(tmp_path / "link") as new:
        fill(new, "new")
    assert (tmp_path / "link").is_symlink() and content(target) == "new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, UserError])
def test_after_an_error_the_old_folder_is_as_it_was(target, tmp_path, error):
    with pytest.raises(error), replace_folder(target) as new:
        (new / "toy.inter").write_text("half")
        raise error("stop")
    assert content(target) == "old" and left(tmp_path) == ["toy"]


def test_a_full_disk_is_told(target, tmp_path):
    with pytest.raises(UserError, match=r"no space left for .*toy .*another --data_path"), replace_folder(target):
        raise OSError(errno.ENOSPC, "No space left on device")
    assert content(target) == "old" and left(tmp_path) == ["toy"]
    with pytest.raises(PermissionError), replace_folder(target):
        raise PermissionError(errno.EACCES, "no")


@pytest.mark.parametrize("name", ["notes.txt", ".hidden", "toy.user", "sub"])
def test_a_folder_with_files_of_the_user_is_not_replaced(target, name):
    (target / name).mkdir() if name == "sub" else (target / name).write_text("mine")
    told = rf"not made by recbole-gen prepare: {name}\. Choose another --name, or move"
    with pytest.raises(UserError, match=told), replace_folder(target):
        raise AssertionError("not begun at all")
    assert (target / name).exists() and (target / "toy.inter").read_text() == "old" * 1000


def test_a_file_that_appears_meanwhile_is_kept(target, tmp_path):
    with pytest.raises(UserError, match="mine"), replace_folder(target) as new:
        fill(new, "new")
        (target / "mine.txt").write_text("mine")
    assert (target / "mine.txt").exists() and left(tmp_path) == ["toy"]


def test_a_folder_without_a_whole_note_is_not_replaced(target):
    (target / "prepare.json").write_text('{"files": ["toy.inter"')
    with pytest.raises(UserError, match=r"toy\.inter, toy\.item\. "), replace_folder(target):
        pass
    (target / "prepare.json").unlink()
    with pytest.raises(UserError, match=r"toy\.inter, toy\.item\. "), replace_folder(target):
        pass


def test_an_empty_folder_is_replaced_and_a_file_is_not(tmp_path):
    (tmp_path / "toy").mkdir()
    with replace_folder(tmp_path / "toy") as new:
        fill(new, "new")
    assert content(tmp_path / "toy") == "new"
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file is no folder"), replace_folder(tmp_path / "file"):
        pass


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    told = r"cannot be written .*choose another --data_path"
    with pytest.raises(UserError, match=told), replace_folder(tmp_path / "file" / "toy"):
        pass


def test_what_killed_processes_left_is_removed(target, tmp_path):
    alive = subprocess.Popen([sys.executable, "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE)
    try:
        names = [f".toy.{DEAD}.tmp", f".toy.{DEAD}.old", f".toy.{os.getpid()}.tmp"]
        kept = [f".toy.{alive.pid}.tmp", f".toy.2.{DEAD}.tmp", f".toys.{DEAD}.tmp", ".toy.tmp"]
        for name in (*names, *kept):
            fill(tmp_path / name, "bad")
        with replace_folder(target) as new:
            fill(new, "new")
        assert content(target) == "new" and left(tmp_path) == sorted([*kept, "toy"])
    finally:
        alive.communicate()


def test_recovery_puts_the_old_folder_back(tmp_path):
    fill(tmp_path / f".toy.{DEAD}.old", "old")
    (tmp_path / f".toy.{DEAD}.tmp").mkdir()
    recover_interrupted(tmp_path / "toy")
    assert content(tmp_path / "toy") == "old" and left(tmp_path) == ["toy"]
    recover_interrupted(tmp_path / "nowhere" / "toy")


def test_where_the_second_rename_fails_the_old_folder_is_put_back(target, tmp_path, monkeypatch):
    monkeypatch.setattr(dataset_folder, "_exchange", lambda *_: False)
    rename, calls = os.rename, []

    def failing(source, destination):
        calls.append(destination)
        if len(calls) == 2:
            raise OSError(errno.EIO, "broken")
        rename(source, destination)

    with pytest.raises(OSError, match="broken"), replace_folder(target) as new:
        fill(new, "new")
        monkeypatch.setattr(os, "rename", failing)
    assert content(target) == "old" and left(tmp_path) == ["toy"]


def replace_and_die(target, at, number):
    """In a process of its own: replace a folder, and be killed at the given point."""

    def die(*_, **__):
        os.kill(os.getpid(), number)

    if at.startswith("rename"):
        dataset_folder._exchange = lambda *_: False
        rename, calls = os.rename, []

        def dying(*paths):
            calls.append(paths)
            if len(calls) == int(at[-1]):
                die()
            rename(*paths)

        os.rename = dying
    if at == "before the exchange":
        dataset_folder._put_in_place = die
    if at == "before the old is deleted":
        dataset_folder.shutil.rmtree = die
    with replace_folder(target) as new:
        if at == "first file":
            (new / "toy.inter").write_text("half")
            die()
        fill(new, "new")
        if at == "last file":
            die()
    die()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
@pytest.mark.parametrize(
    "at, found",
    [
        ("first file", "old"), ("last file", "old"), ("before the exchange", "old"),
        ("before the old is deleted", "new"), ("the end", "new"),
        ("rename 1", "old"), ("rename 2", None), ("rename 3", "new"),
    ],
)  # fmt: skip
def test_whoever_is_killed_leaves_the_old_or_the_new_folder(target, tmp_path, at, found, number):
    process = FORKS.Process(target=replace_and_die, args=(target, at, number))
    process.start()
    process.join(60)
    assert process.exitcode == -number
    if found:
        assert content(target) == found
    recover_interrupted(target)
    assert content(target) == (found or "old")
    with replace_folder(target) as new:
        fill(new, "new")
    assert content(target) == "new" and left(tmp_path) == ["toy"]


def test_of_two_processes_the_second_waits(target):
    told, begun, order = [], threading.Event(), []

    def second():
        begun.wait()
        with replace_folder(target, told.append) as new:
            order.append("second")
            fill(new, "two")

    def say_and_go(text):
        told.append(text)

    thread = threading.Thread(target=second)
    thread.start()
    with replace_folder(target, say_and_go) as new:
        begun.set()
        fill(new, "new")
        for _ in range(200):
            if told:
                break
            threading.Event().wait(0.02)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and content(target) == "two"
    assert told == [f"waiting for {target}, which another process is at work on"]
