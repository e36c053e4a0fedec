"""`models` and `datasets`: what they list, beside what the files say."""

import re
from pathlib import Path

import pytest
from conftest import ON_ML_100K

from recbole_gen import catalogue
from recbole_gen.config import registry
from recbole_gen.config.config import Config
from recbole_gen.config.places import PROPERTIES, ROOT
from recbole_gen.data.requirements import model_needs
from recbole_gen.errors import UserError
from recbole_gen.options import read_yaml


@pytest.fixture
def said(capsys):
    """said(verb, *arguments): what it prints, at most 120 columns wide."""

    def run(verb, *arguments):
        assert verb(list(arguments)) is None
        text = capsys.readouterr().out
        assert all(len(line) <= 120 for line in text.splitlines() if "/" not in line)
        return text

    return run


@pytest.mark.parametrize("name", registry.MODELS)
def test_every_model_says_which_paper_it_is(name):
    """The docstring of its module is the home of title and venue; the README's table has the same title."""
    paper = catalogue.paper_of_model(name)
    title = re.search(r'"(.{20,})"', paper)[1]
    assert paper.count('"') == 2 and title in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", registry.MODELS)
def test_what_a_model_asks_for_is_what_a_run_asks_for(name):
    config = Config(model=name, dataset="ml-100k", config_dict=ON_ML_100K.get(name))
    assert list(registry.NEEDS.get(name, ())) == [what for what in ("times", "scenes") if model_needs(config, what)]
    assert list(registry.NEEDS.get(name, ())) == {"PASRec": ["times"], "DSPnet": ["scenes"]}.get(name, [])


@pytest.fixture
def without_xgboost(monkeypatch):
    """As if the package xgboost were not installed."""
    found = catalogue.importlib.util.find_spec
    monkeypatch.setattr(catalogue.importlib.util, "find_spec", lambda name: None if name == "xgboost" else found(name))


def test_models_lists_ours_and_all_of_recboles(said, without_xgboost):
    text = said(catalogue.models)
    for name in registry.MODELS:
        assert re.search(rf"^{name} ", text, flags=re.MULTILINE) and f"properties/tune/{name}.yaml" in text
    for setting in (PROPERTIES / "paper").glob("*.yaml"):
        assert setting.stem in text
    listed = re.sub(r"\s+", " ", text.partition("RecBole's\n")[2])
    assert "recbole.DiffRec" in listed and "xgboost (needs xgboost)" in listed
    for name in registry.recbole_model_names():
        assert re.search(rf"[ .]{name}[ ,]", listed), name
    assert re.search(r"sequential \(\d+\): [^:]*SASRec", listed) and re.search(r"general \(\d+\): [^:]*BPR", listed)


def test_a_package_that_is_missing_is_named(said, without_xgboost):
    assert catalogue.missing_packages("xgboost") == ["xgboost"] and catalogue.missing_packages("SASRec") == []
    assert "not installed: xgboost" in said(catalogue.models, "xgboost")


@pytest.mark.parametrize("name", registry.MODELS)
def test_one_model_has_every_hyper_parameter_and_setting(said, name):
    text = said(catalogue.models, name)
    for key in read_yaml(PROPERTIES / f"model/{name}.yaml"):
        assert re.search(rf"^{key} +\S+", text, flags=re.MULTILINE), key
    for file in (PROPERTIES / "paper").glob("*.yaml"):
        setting = read_yaml(file)
        row = rf"--paper={file.stem} +{setting['dataset']} +{setting['protocol']}"
        assert bool(re.search(row, text)) == (setting["model"] == name)
    for key in read_yaml(PROPERTIES / f"tune/{name}.yaml"):
        assert re.search(rf"^{key} +(choice|grid|randint|loguniform) ", text, flags=re.MULTILINE), key


def test_a_remark_of_several_lines_is_kept_whole(said):
    text = " ".join(said(catalogue.models, "DiffRec").split())
    assert "see the slot either, and all seeds share its states" in text


def test_recboles_and_own_models_have_pages(said, custom):
    assert re.search(r"hidden_size +64 ", said(catalogue.models, "SASRec"))
    text = said(catalogue.models, "recbole.DiffRec")
    assert "--model=DiffRec is ours" in text and "dims_dnn" in text
    assert re.search(r"width +8", said(catalogue.models, "custom:Custom"))


TIMED = {"user_id:token": ["a", "a", "b"], "item_id:token": ["x", "y", "x"], "timestamp:float": [86400 * 20000, 0, 0]}


def row(text, name):
    """The cells of a data set in the list, its lines joined."""
    lines = text.splitlines()
    start = next(number for number, line in enumerate(lines) if line.startswith(f"{name} "))
    end = next(n for n in range(start + 1, len(lines)) if not lines[n].startswith("  "))
    return " ".join(" ".join(lines[start:end]).split())


def test_datasets_lists_what_is_here_and_what_can_run_on_it(said, write_atomic, tmp_path):
    write_atomic(TIMED, name="timed")
    write_atomic({**TIMED, "tab:token": ["home", "home", "cart"]}, name="scened")
    write_atomic({"user_id:token": ["a"], "item_id:token": ["x"]}, name="bare")
    write_atomic(TIMED, name="genres")
    write_atomic({"item_id:token": ["x"], "genre:token_seq": [["a", "b"]]}, suffix="item", name="genres")
    write_atomic({"anna:float": [1]}, name="strange")
    text = said(catalogue.datasets, f"--data_path={tmp_path}")
    assert row(text, "timed") == "timed 3 user_id:token item_id:token timestamp:float all but DSPnet"
    assert row(text, "scened").endswith("timestamp:float tab all tab:token")
    assert row(text, "bare") == "bare 1 user_id:token item_id:token all but PASRec, DSPnet"
    assert row(text, "genres").endswith("genre* all")
    assert "none: it lacks" in row(text, "strange")
    assert (
        row(text, "ml-100k").startswith("ml-100k 100,000 ") and "amazon-beauty" in text and "kuairec-dreamrec" in text
    )
    assert "http" not in text
    assert "others that RecBole offers as atomic files, and are not here: --all lists them" in text
    assert "yelp-2022" not in text and len(text.splitlines()) < 60
    everything = said(catalogue.datasets, f"--data_path={tmp_path}", "--all")
    assert "yelp-2022" in everything and row(everything, "timed") == row(text, "timed")
    with pytest.raises(UserError, match="--all must be true or false, got 3"):
        catalogue.datasets(["--all=3"])


def test_files_of_parts_count_apart_and_need_histories_of_what_is_read(said, write_atomic, tmp_path):
    rows = {"session_id:token": ["1", "2"], "item_id:token": ["x", "y"], "item_id_list:token_seq": [["p", "q"], ["x"]]}
    times = {"timestamp:float": [5, 7], "timestamp_list:float_seq": [[1, 2], [3]], "tab:token": ["t", "u"]}
    for name in ("prefdiff-toys", "yoochoose-dreamrec"):  # whose users are session_id
        for part in ("train", "valid", "test"):
            columns = {**rows, **(times if name == "prefdiff-toys" else {})}
            write_atomic(columns, suffix=f"{part}.inter", name=name)
    text = said(catalogue.datasets, f"--data_path={tmp_path}")
    assert re.search(r"prefdiff-toys +2 .*\n +\+ 2 .*\n +\+ 2 rows", text)
    assert row(text, "prefdiff-toys").count("all but DSPnet") == 1  # tab has no history
    assert re.search("all but PASRec, .*DSPnet", row(text, "yoochoose-dreamrec"))
    page = said(catalogue.datasets, "prefdiff-toys", f"--data_path={tmp_path}")
    assert "users: 2, with 3.0 rows on average" in page and "items: 4\n" in page
    assert "times of targets: 5 to 7, which are no seconds" in page and "--protocol=benchmark" in page
    assert "--paper=pasrec-toys-benchmark, --paper=pasrec-toys-benchmark-small," in page


def test_one_data_set_in_detail(said):
    """ml-100k has 943 users, 1682 items and 100,000 ratings from September 1997 to April 1998."""
    text = said(catalogue.datasets, "ml-100k")
    for part in (
        r"ml-100k\.inter +100,000 +user_id:token item_id:token rating:float timestamp:float",
        r"ml-100k\.item +1,682 ",
        "users: 943, with 106.0 rows on average",
        "items: 1,682",
        "times: 1997-09-20 to 1998-04-22",
        "can run on it: all\n",
        "DSPnet with --SCENE_FIELD=class --scene_rule=first",
    ):
        assert re.search(part, text), part


def test_a_broken_data_set_is_a_message_and_the_others_are_listed(said, write_atomic, tmp_path):
    write_atomic(TIMED, name="timed")
    write_atomic({"user_id": ["a"], "item_id": ["x"]}, name="untyped")
    write_atomic(TIMED, name="bytes")
    (tmp_path / "bytes/bytes.inter").write_bytes(b"\xff\xfe\x00")
    write_atomic(TIMED, name="empty")
    (tmp_path / "empty/empty.inter").write_text("")
    text = said(catalogue.datasets, f"--data_path={tmp_path}")
    assert "timed" in text and row(text, "timed").startswith("timed 3 ")
    assert "every title is name:type" in row(text, "untyped") and "what is no text" in row(text, "bytes")
    for name, message in (
        ("untyped", "at 'user_id'"),
        ("bytes", "what is no text"),
        ("empty", "begins with no line of titles"),
    ):
        with pytest.raises(UserError, match=message):
            catalogue.datasets([name, f"--data_path={tmp_path}"])


def test_rows_that_cannot_be_read_are_one_message(said, write_atomic, tmp_path):
    write_atomic(TIMED, name="latin")
    with open(tmp_path / "latin/latin.inter", "ab") as file:
        file.write("caf\u00e9\tx\t1\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.inter: line 5: it is no UTF-8 text"):
        catalogue.datasets(["latin", f"--data_path={tmp_path}"])
    write_atomic({column: [] for column in TIMED}, name="rowless")
    assert "there are no rows" in said(catalogue.datasets, "rowless", f"--data_path={tmp_path}")


@pytest.mark.parametrize("end", ["", "\n"])
def test_rows_are_counted_with_or_without_a_last_line_end(tmp_path, end, monkeypatch):
    file = tmp_path / "x.inter"
    file.write_text("user_id:token\titem_id:token\n" + "\n".join("ab" for _ in range(1000)) + end)
    monkeypatch.setattr(catalogue, "CHUNK", 64)
    assert catalogue.count_rows(file) == (1000, True)


def test_empty_lines_are_no_rows(tmp_path, monkeypatch):
    file = tmp_path / "x.inter"
    monkeypatch.setattr(catalogue, "CHUNK", 5)
    for end in ("\n", "\r\n"):
        file.write_bytes("a:token\n\nx\n\n\ny\n\n\n\n".replace("\n", end).encode())
        assert catalogue.count_rows(file) == (2, True)


def test_of_a_very_large_file_the_first_part_is_counted(tmp_path, monkeypatch):
    file = tmp_path / "x.inter"
    file.write_text("a:token\n" + "1234567\n" * 1000)
    monkeypatch.setattr(catalogue, "CHUNK", 80)
    monkeypatch.setattr(catalogue, "MOST", 800)
    assert catalogue.count_rows(file) == (1000, False)


@pytest.mark.parametrize(
    "verb, arguments, message",
    [
        (catalogue.models, ["DreamRek"], "unknown model 'DreamRek'. Did you mean DreamRec"),
        (catalogue.models, ["--kind=ours"], "models has no option --kind; its options are --help"),
        (catalogue.models, ["DreamRec", "PASRec"], "'PASRec' is not of the form"),
        (catalogue.datasets, ["nowhere"], "there is no data set 'nowhere'"),
        (catalogue.datasets, ["--path=x"], "datasets has no option --path: did you mean --data_path\\?"),
        (catalogue.datasets, ["--data_path"], "--data_path needs a value"),
        (catalogue.datasets, ["--data_path=nowhere"], "there is no folder nowhere"),
    ],
)
def test_bad_input_is_one_message(verb, arguments, message):
    with pytest.raises(UserError, match=message):
        verb(arguments)


@pytest.mark.parametrize("verb", [catalogue.models, catalogue.datasets])
def test_help_is_the_usage(said, verb):
    assert said(verb, "--help").startswith(f"usage: recbole-gen {verb.__name__}")


def test_without_a_folder_of_data_the_default_is_no_mistake(said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert not Path("dataset").exists() and "ml-100k" in said(catalogue.datasets)
