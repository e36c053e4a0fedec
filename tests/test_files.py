"""What is known of an output before any work, and what an error leaves behind."""

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from recbole_gen import cli, figures, files
from recbole_gen.errors import UserError
from recbole_gen.plot import run_selection
from recbole_gen.prepare.new_folder import new_folder
from recbole_gen.recommending.bulk import _require_own_parts


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("h.csv", "run/best.pth", "run/result.json"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).write_text(name)
    Path("folder.csv").mkdir()
    Path("link.csv").symlink_to("h.csv")
    Path("link.json").symlink_to("run/result.json")
    Path("full.csv").symlink_to("/dev/full")
    return tmp_path


def names(folder="."):
    return sorted(str(path) for path in Path(folder).rglob("*"))


@pytest.mark.parametrize(
    "given, message",
    [
        ("h.csv", "is the file of --histories"),
        ("run/../h.csv", "is the file of --histories"),
        ("link.csv", "is the file of --histories"),
        ("folder.csv", "it is a folder: name a file"),
        ("new.csv/", "it is a folder: name a file"),
        ("run/result.json", "is a file of the run in"),
        ("link.json", "is a file of the run in"),
        ("full.csv", "is a device"),
        ("h.csv/o.csv", "h.csv is no folder.*choose another --output"),
        ("h.csv/a/b/o.csv", "h.csv is no folder.*choose another --output"),
        ("x" * 300, "too long.*choose another --output"),
        ("a/" + "x" * 250, "too long.*choose another --output"),
        ("/proc/o.csv", "cannot be written.*choose another --output"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_any_work(here, given, message):
    before = names()
    with pytest.raises(UserError, match=message):
        files.require_file_output(Path(given), reads={"--histories": Path("h.csv")}, given=given)
    assert names() == before


def test_an_output_that_can_be_leaves_no_trace(here):
    before = names()
    for name in ("new.csv", "a/b/new.csv"):
        files.require_file_output(Path(name), reads={"--histories": Path("h.csv")}, given=name)
    files.require_folder_output(Path("a/b"))
    assert names() == before


@pytest.mark.parametrize(
    "given, message", [("h.csv", "is a file"), ("run", "folder of a run"), ("h.csv/x", "no folder")]
)
def test_a_folder_that_cannot_be_an_output(here, given, message):
    with pytest.raises(UserError, match=message):
        files.require_folder_output(Path(given))


def full(path):
    """What writing on a full disk does."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))


def test_an_error_leaves_no_folder_that_was_made_for_the_output(here):
    before = names()
    with pytest.raises(OSError), files.replaced_file(Path("a/b/file")) as temporary:
        temporary.write_text("half")
        full(temporary)
    with pytest.raises(UserError, match="free some space"), new_folder(Path("a/b/vectors")) as folder:
        (folder / "items.npy").write_text("half")
        full(folder)
    with pytest.raises(UserError, match="bad input"), files.lock_folder(Path("a/b/sweep"), "sweep"):
        raise UserError("bad input")
    assert names() == before


def test_folders_that_were_there_or_have_something_in_them_stay(here):
    Path("mine").mkdir()
    with pytest.raises(UserError), files.lock_folder(Path("mine"), "sweep"):
        raise UserError("bad input")
    with pytest.raises(UserError), files.lock_folder(Path("new/sweep"), "sweep"):
        Path("new/sweep/trial").write_text("kept")
        raise UserError("bad input")
    assert Path("mine").is_dir() and Path("new/sweep/trial").read_text() == "kept"


def test_a_table_beside_a_figure_does_not_replace_a_file_of_the_run(here):
    for given in ("run/result", "run/result.png", "link"):
        with pytest.raises(UserError, match="is a file of the run"):
            run_selection.output_path({"output": given}, [Path("run")], "toi", [".json"])
    Path("d.svg").mkdir()
    with pytest.raises(UserError, match=r"d\.svg cannot be written"):  # before the PNG is
        run_selection.output_path({"output": "d.png"}, [], "curves")


def test_parts_of_an_answer_do_not_take_the_place_of_something_else(here):
    parts = Path("o.csv.parts")
    parts.mkdir()
    for name in (".lock", "note.json", "000001.parquet", "000001.tmp", "whole.csv"):
        (parts / name).write_text("")
    _require_own_parts(parts)
    (parts / "mine").write_text("")
    with pytest.raises(UserError, match=r"something else in it \(mine\)"):
        _require_own_parts(parts)
    Path("p.csv.parts").symlink_to("run")
    with pytest.raises(UserError, match="is no folder"):
        _require_own_parts(Path("p.csv.parts"))


def prepare(*options):
    return cli.main(["prepare", "my", "--from=e.csv", "--user=u", "--item=i", "--time=t", *options])


def test_a_log_is_not_replaced_by_the_data_set_made_of_it(here, capsys):
    Path("e.csv").write_text("u,i,t\na,x,1700000000\nb,y,1700000001\n")
    assert prepare() == 0
    before = Path("dataset/my/my.inter").read_bytes()
    Path("again.inter").symlink_to("dataset/my/my.inter")
    for file in ("dataset/my/my.inter", "again.inter"):
        arguments = [f"--from={file}", "--user=user_id", "--item=item_id", "--time=timestamp"]
        assert cli.main(["prepare", "my", *arguments]) == 2
        assert "lies in dataset/my, which the new data set would replace" in capsys.readouterr().err
    assert Path("dataset/my/my.inter").read_bytes() == before


@pytest.mark.parametrize("place", ["/proc", "e.csv", "e.csv/a"])
def test_a_data_path_that_cannot_be_written_is_told_and_not_waited_for(here, place, capsys):
    Path("e.csv").write_text("u,i,t\na,x,1700000000\n")
    before = names()
    assert prepare(f"--data_path={place}") == 2
    assert "choose another --data_path" in capsys.readouterr().err and names() == before


@pytest.mark.skipif(sys.platform == "win32", reason="ulimit")
def test_a_limit_of_the_size_of_files_is_one_message(here):
    lines = "".join(f"user{number},item{number},{1700000000 + number}\n" for number in range(2000))
    Path("e.csv").write_text("u,i,t\n" + lines)
    before = names()
    code = "from recbole_gen import cli; import sys; sys.exit(cli.main())"
    options = "prepare my --from=e.csv --user=u --item=i --time=t --data_path=a/b"
    command = [sys.executable, "-c", code, *options.split()]
    limited = subprocess.run(["bash", "-c", 'ulimit -f 8; exec "$@"', "-", *command], capture_output=True, text=True)
    assert limited.returncode == 2 and "there is no space left" in limited.stderr
    assert "Traceback" not in limited.stderr and names() == before


def test_a_figure_is_written_whole_or_not_at_all(here):
    figure, _ = figures.new_figure()
    with pytest.raises(UserError, match="cannot be written"):
        figures.save_figure(figure, "/proc/a/figure.png")
    assert len(figures.save_figure(figure, "a/figure.png")) == 2


def test_settings_that_are_refused_before_training_leave_no_folder(write_atomic, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    users = [f"u{n // 5}" for n in range(50)]
    write_atomic({"user_id:token": users, "item_id:token": [f"i{n % 7}" for n in range(50)],
                  "timestamp:float": list(range(50))})  # fmt: skip
    line = ["--model=SASRec", "--dataset=toy", f"--data_path={tmp_path}", "--epochs=1"]
    for wrong in ("--TIME_FIELD=wrong", "--USER_ID_FIELD=wrong", "--ITEM_ID_FIELD=wrong", "--topk=[500]"):
        assert cli.main([*line, wrong]) == 2, wrong
        assert not Path("saved").exists(), wrong
