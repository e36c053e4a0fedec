"""The same file gives the same events in every verb, and what is left out is told in each."""

import json
import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from recbole.data.dataset import Dataset

from recbole_gen import catalogue
from recbole_gen.cli import main
from recbole_gen.data.loaders import create_dataset
from recbole_gen.data.sequences import SequenceDataset
from recbole_gen.errors import UserError
from recbole_gen.prepare.fields import ITEM, TIME, USER
from recbole_gen.reading import text_blocks
from recbole_gen.reading.parsing import TimeParser, parse_tokens
from recbole_gen.recommending.history_files import HistoryFile
from recbole_gen.recommending.model_input import token_ids

TITLES = "user_id:token\titem_id:token\ttimestamp:float"
NAMES = {USER: "user_id", ITEM: "item_id", TIME: "timestamp"}
T = 1_700_000_000
GOOD = [(f"u{n % 5}", f"i{n % 7}", T + 60 * n) for n in range(80)]


def lines_of(events):
    return ["\t".join(map(str, event)) for event in events]


def with_lines(*lines, at=40):
    """GOOD with these lines from line ``at + 2`` on."""
    good = lines_of(GOOD)
    return [*good[:at], *lines, *good[at:]]


def changed(events, **column):
    (name, change), place = next(iter(column.items())), {"user": 0, "item": 1, "time": 2}
    return [tuple(change(each) if n == place[name] else each for n, each in enumerate(event)) for event in events]


def odd(item):
    return [*GOOD, ("odd", item, T)], lines_of([*GOOD, ("odd", item, T)])


FILES = {  # events -> lines, and what is told, each as a pattern
    "plain": (GOOD, lines_of(GOOD), []),
    "quotes": ([*GOOD, ("a", '"12in', T), ("a", '"', T + 1), ("b", '"12in', T), ('"b"', 'x"y', T)],
               lines_of([*GOOD, ("a", '"12in', T), ("a", '"', T + 1), ("b", '"12in', T), ('"b"', 'x"y', T)]), []),
    **{f"an item called {word}": (*odd(word), [])
       for word in ("NA", "null", "None", "nan", "#NA", "N/A", "<NA>", "\\N", "NULL", "-1.#IND", "5.0", "007", " ")},
    "odd letters": ([*GOOD, ("é", "日本", T), ("\u0085", "\u2028", T)],
                    lines_of([*GOOD, ("é", "日本", T), ("\u0085", "\u2028", T)]), []),
    "no user": (GOOD, with_lines(f"\ti1\t{T}"), [r"1 without a value in 'user_id' \(line 42\)"]),
    "no item": (GOOD, with_lines(f"u1\t\t{T}", at=80), [r"1 without a value in 'item_id' \(line 82\)"]),
    "no time": (GOOD, with_lines("u1\ti1\t", at=0), [r"1 without a value in 'timestamp' \(line 2\)"]),
    "much missing": (GOOD, with_lines("\t\t", "", f"\ti1\t{T}", f"u1\t\t{T}"),
                     [r"2 without a value in 'user_id' \(lines 42, 44\)", r"1 without .* 'item_id' \(line 45\)"]),
    "too few and too many cells": (GOOD, with_lines("u1\ti1", f"u1\ti1\t{T}\tx", "u1"),
                                   [r"3 without the right number of columns, such as 'u1\\ti1' \(lines 42, 43, 44\)"]),
    "no time at all": (GOOD, with_lines("u1\ti1\tsoon"), [r"1 whose time is no time .*such as .*\(line 42\)"]),
    "infinite": (GOOD, with_lines("u1\ti1\tinf", "u1\ti1\t-inf"), [r"2 whose time is no time .*\(lines 42, 43\)"]),
    "absurd": (GOOD, with_lines("u1\ti1\t1e30", f"u1\ti1\t{T * 10**9}"), [r"2 whose time is no time .*lines 42, 43"]),
    "far": ([*GOOD, ("u1", "i1", 253402300799)], lines_of([*GOOD, ("u1", "i1", 253402300799)]), ["1 of 81 .*9999"]),
    "ms": (GOOD, lines_of(changed(GOOD, time=lambda t: t * 1000)), ["taken for ms"]),
    "us": (GOOD, lines_of(changed(GOOD, time=lambda t: t * 10**6)), ["taken for us"]),
    "ns as floats": (GOOD, lines_of(changed(GOOD, time=lambda t: float(t * 10**9))), ["taken for ns"]),
    "ms, none first": (GOOD, with_lines("u1\ti1\t", *lines_of(changed(GOOD, time=lambda t: t * 1000)), at=0)[:81],
                       ["taken for ms", r"1 without a value in 'timestamp' \(line 2\)"]),
    "dates": (GOOD, lines_of(changed(GOOD, time=lambda t: str(np.datetime64(t, "s")).replace("T", " "))), ["for UTC"]),
    "dates with a zone": (GOOD, lines_of(changed(GOOD, time=lambda t: f"{np.datetime64(t, 's')}Z")), []),
    "dates and numbers": (GOOD, [line if n % 2 else line.replace(str(T + 60 * n), f"{np.datetime64(T + 60 * n, 's')}")
                                 for n, line in enumerate(lines_of(GOOD))], ["for UTC"]),
    "empty lines": (GOOD, with_lines("", "", ""), []),
}  # fmt: skip
ENDS = {
    "LF": ("\n", b""),
    "CRLF": ("\r\n", b""),
    "BOM": ("\n", b"\xef\xbb\xbf"),
    "BOM, CRLF": ("\r\n", b"\xef\xbb\xbf"),
}


@pytest.fixture
def write(tmp_path):
    def written(lines, end="\n", start=b"", name="toy", encoding="utf-8"):
        path = tmp_path / f"{name}/{name}.inter"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(start + end.join([TITLES, *lines, ""]).encode(encoding))
        return path

    return written


def in_order(events):
    return sorted((user, item, float(time)) for user, item, time in events)


def events_of_training(dataset):
    feat = dataset.inter_feat
    if hasattr(feat, "targets"):  # rows over one log
        columns = {field: feat.targets[field] for field in NAMES.values()}
    else:
        columns = {field: feat[field] for field in NAMES.values()}
    tokens = [dataset.field2id_token[field][np.asarray(columns[field])] for field in ("user_id", "item_id")]
    return in_order(zip(*tokens, columns["timestamp"].tolist()))


def events_of_histories(chunks):
    events = []
    for chunk in chunks:
        users = np.repeat(np.array(chunk.users.to_pylist(), dtype=object), np.diff(chunk.offsets))
        events += zip(users, chunk.items.to_pylist(), chunk.times.tolist())
    return in_order(events)


def events_of_prepared(folder):
    titles, *lines = (folder / "mine/mine.inter").read_bytes().decode().rstrip("\n").split("\n")
    assert titles == TITLES
    return in_order(line.split("\t") for line in lines)


@pytest.mark.parametrize("name", [*FILES, "BOM", "CRLF", "BOM, CRLF"])
def test_every_verb_reads_the_same_events_and_tells_the_same(name, write, make_config, tmp_path, capsys):
    events, lines, told = FILES.get(name) or FILES["quotes"]
    path = write(lines, *ENDS.get(name, ENDS["LF"]))
    expected = in_order(events)

    # Training: our data set of sequences, and RecBole's own.
    for model, kind in (("GRU4Rec", SequenceDataset), ("BPR", Dataset)):
        values = {"empty_history": True} if model == "GRU4Rec" else {}
        dataset = create_dataset(make_config(model, **values))
        assert isinstance(dataset, kind) and events_of_training(dataset) == expected, model
        notes = " ".join(dataset.notes)
        assert all(re.search(each, notes) for each in told) and bool(notes) == bool(told), notes

    # prepare
    own = ["prepare", "mine", f"--from={path}", "--user=user_id", "--item=item_id", "--time=timestamp"]
    capsys.readouterr()
    assert main([*own, f"--data_path={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert events_of_prepared(tmp_path) == expected and all(re.search(each, said) for each in told), said

    # recommend
    file = HistoryFile(path, NAMES)
    assert events_of_histories(file.read()) == expected
    notes = " ".join(file.notes)
    assert all(re.search(each, notes) for each in told) and bool(notes) == bool(told), notes

    # datasets
    assert main(["datasets", "toy", f"--data_path={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert f"users: {len({event[0] for event in events}):,}," in said
    assert f"items: {len({event[1] for event in events}):,}\n" in said
    assert all(re.search(each, said) for each in told) and ("take note" in said) == bool(told), said


def test_every_verb_tells_how_many_dates_are_far_from_today(write, make_config, tmp_path, capsys):
    far = [f"u1\ti1\t{253402300799}", "u2\ti2\t-86400"]  # 9999-12-31 and 1969-12-31
    path = write(with_lines(*far))
    told = r"2 of \d\d times in 'timestamp' are before 1970 or later than tomorrow, such as 9999-12-31, and are kept"
    for model in ("GRU4Rec", "BPR"):
        assert any(re.search(told, note) for note in create_dataset(make_config(model)).notes)
    capsys.readouterr()
    own = ["prepare", "mine", f"--from={path}", "--user=user_id", "--item=item_id", "--time=timestamp"]
    assert main([*own, f"--data_path={tmp_path}"]) == 0
    said = capsys.readouterr().out
    assert re.search(told, said) and "--time_unit" not in said  # it is not the unit
    assert main(["datasets", "toy", f"--data_path={tmp_path}"]) == 0
    assert re.search(r"2 of \d\d times", capsys.readouterr().out)
    file = HistoryFile(path, NAMES)
    assert list(file.read()) and any(re.search(told, note) for note in file.notes)
    lists = tmp_path / "lists.jsonl"
    lists.write_text('{"user": "a", "history": ["i1", "i2"], "times": ["2020-05-05T00:00Z", "9999-12-31T00:00Z"]}\n')
    file = HistoryFile(lists, {})
    assert list(file.read())
    assert file.notes == [
        "1 of 2 times in 'times' are before 1970 or later than tomorrow, such as 9999-12-31, and are kept"
    ]


REFUSED = {
    "a CR within a line": (b"u1\ti\r1\t5\n", "line 4: there is a carriage return"),
    "a CR for a line end": (b"u1\ti1\t5\ru2\ti2\t6\n", "line 4: there is a carriage return"),
    "a zero byte": (b"u1\ti\x001\t5\n", "line 4: there is a zero byte"),
    "no UTF-8": ("u1\tcafé\t5\n".encode("latin-1"), "line 4: it is no UTF-8 text"),
    "rows of another kind": (b"u1,i1,5\n" * 9, r"9 of the 1\d rows .* cannot be used.*line"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_every_verb_refuses_the_same_files_with_the_line(name, write, make_config, tmp_path, capsys):
    more, message = REFUSED[name]
    path = write(lines_of(GOOD[:2]))
    path.write_bytes(path.read_bytes() + more + b"u1\ti1\t5\n")
    for model in ("GRU4Rec", "BPR"):
        with pytest.raises(UserError, match=message):
            create_dataset(make_config(model))
    own = ["prepare", "mine", f"--from={path}", "--user=user_id", "--item=item_id", "--time=timestamp"]
    assert main([*own, f"--data_path={tmp_path}"]) == 2
    assert re.search(message, capsys.readouterr().err)
    with pytest.raises(UserError, match=message):
        list(HistoryFile(path, NAMES).read())
    with pytest.raises(UserError, match=message):
        catalogue.dataset_page("toy", str(tmp_path))


def test_old_macs_files_are_named(write, make_config):
    write(lines_of(GOOD), end="\r")
    with pytest.raises(UserError, match=r"line 1: there is a carriage return.* tr "):
        create_dataset(make_config())


def test_old_macs_csv_files_are_named(tmp_path):
    path = tmp_path / "log.csv"
    path.write_bytes(b"user_id,item_id,timestamp\ra,x,1\rb,y,2\r")
    with pytest.raises(UserError, match=r"log.csv: line 1: there is a carriage return.* tr "):
        histories(path)


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR", "DIN"])
def test_columns_and_separators_that_are_others_are_named(model, write, make_config):
    path = write(lines_of(GOOD))
    text = path.read_text()
    for separator in ",; ":
        path.write_text(text.replace("\t", separator))
        with pytest.raises(UserError, match=f"divided by '{separator}'.*--field_separator"):
            create_dataset(make_config(model))
    path.write_text(text.replace("user_id:", "who:").replace("item_id:", "what:").replace("timestamp:", "when:"))
    with pytest.raises(UserError, match=r"no column 'user_id' among .*'who', 'what', 'when'.*--USER_ID_FIELD=NAME"):
        create_dataset(make_config(model))
    path.write_text("")
    with pytest.raises(UserError, match="begins with no line of titles"):
        create_dataset(make_config(model))


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_other_encodings_and_separators_are_read_by_the_same_rules(model, write, make_config, tmp_path):
    lines = lines_of([*GOOD, ("a", '"é', T), ("a", "NA", T + 1)])
    for encoding, separator in (("latin-1", "\t"), ("utf-16", "\t"), ("utf-8", "::"), ("utf-8", ",")):
        text = "\n".join([TITLES, *lines, f"\ti1\t{T}", ""]).replace("\t", separator)
        write([])
        (tmp_path / "toy/toy.inter").write_bytes(text.encode(encoding))
        config = make_config(model, **({"empty_history": True} if model == "GRU4Rec" else {}))
        config["encoding"], config["field_separator"] = encoding, separator
        dataset = create_dataset(config)
        assert events_of_training(dataset) == in_order([*GOOD, ("a", '"é', T), ("a", "NA", T + 1)])
        assert "line 84" in dataset.notes[0]


def test_split_files_lose_the_same_rows(write_atomic, make_config):
    def part(users, items, times):
        histories = [["i0", "i1"]] * len(users)
        return {"user_id:token": users, "item_id_list:token_seq": histories, "item_id:token": items,
                "timestamp_list:float_seq": [[T * 1000, T * 1000]] * len(users), "timestamp:float": times}  # fmt: skip

    times = [(T + n) * 1000 for n in range(30)]
    good = part([f"u{n}" for n in range(30)], [f"i{n % 7}" for n in range(30)], times)
    bad = part([f"u{n}" if n != 3 else "" for n in range(30)], [f"i{n % 7}" if n != 29 else "" for n in range(30)],
               [time if n != 5 else "" for n, time in enumerate(times)])  # fmt: skip
    for name, columns in (("train", good), ("valid", bad), ("test", good)):
        write_atomic(columns, suffix=f"{name}.inter")
    config = make_config("GRU4Rec", benchmark_filename=["train", "valid", "test"])
    dataset = create_dataset(config)
    assert dataset.file_size_list == [30, 27, 30] and 0 not in dataset.inter_feat["item_id"].tolist()
    assert max(map(max, dataset.inter_feat["timestamp_list"])) == T
    assert len(dataset.notes) == 2
    told = next(note for note in dataset.notes if "toy.valid.inter" in note)
    assert "(line 5)" in told and "(line 31)" in told and "(line 7)" in told


@pytest.mark.parametrize("model", ["GRU4Rec", "BPR"])
def test_rows_of_items_without_a_name_go_and_no_others(model, walks, write_atomic, make_config):
    write_atomic(
        {"item_id:token": [*(f"i{n}" for n in range(20)), "", "NA", *(f"i{n}" for n in range(20, 40)), ""],
         "kind:token": range(43)}, suffix="item",
    )  # fmt: skip
    dataset = create_dataset(make_config(model))
    assert len(dataset.item_feat) == 1 + 41 and dataset.inter_num == 60 * 11
    kinds = dict(zip(dataset.id2token("item_id", dataset.item_feat["item_id"].astype(int)),
                     dataset.id2token("kind", dataset.item_feat["kind"].astype(int))))  # fmt: skip
    assert kinds["i20"] == "22" and kinds["NA"] == "21" and kinds["i39"] == "41"
    assert "2 without a value in 'item_id' (lines 22, 44)" in dataset.notes[0]


def test_words_among_numbers_are_missing_and_other_text_is_refused(write_atomic, make_config):
    columns = {"user_id:token": [f"u{n}" for n in range(6)], "item_id:token": list("abcdef"),
               "timestamp:float": range(6), "rating:float": [1, "NA", "", "nan", "null", 3]}  # fmt: skip
    write_atomic(columns)
    assert create_dataset(make_config("BPR")).inter_feat["rating"].tolist() == [1, 2, 2, 2, 2, 3]
    write_atomic({**columns, "rating:float": [1, 2, 3, 4, "good", 5]})
    with pytest.raises(UserError, match="line 6: 'good' in the column 'rating:float' is no number"):
        create_dataset(make_config("BPR"))


# Other forms


def histories(path, **options):
    file = HistoryFile(path, NAMES, max_bad=1, **options)
    return events_of_histories(file.read()), file.notes


def test_every_form_of_a_log_gives_the_same_names(tmp_path, capsys):
    frame = pd.DataFrame({"user_id": [1.0, 2.0, 2.0, np.nan], "item_id": ["NA", "null", "5", "6"],
                          "timestamp": [T, T + 1, T + 2, T + 3]})  # fmt: skip
    frame.to_csv(tmp_path / "log.csv", index=False, quoting=2)  # text in quotes: NA is none of the missing words then
    frame.to_parquet(tmp_path / "log.parquet")
    records = [{**record, "item_id": 5.0 if record["item_id"] == "5" else record["item_id"]}
               for record in frame.to_dict("records")]  # fmt: skip
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, records)))
    expected = in_order([("1", "NA", T), ("2", "null", T + 1), ("2", "5", T + 2)])
    own = ["--user=user_id", "--item=item_id", "--time=timestamp", f"--data_path={tmp_path}", "--max_bad=0.5"]
    for form in ("csv", "parquet", "jsonl"):
        events, notes = histories(tmp_path / f"log.{form}")
        assert events == expected and "1 without a value in 'user_id'" in notes[0], form
        assert main(["prepare", "mine", f"--from={tmp_path / f'log.{form}'}", *own]) == 0
        assert events_of_prepared(tmp_path) == expected, form
        assert f"(line {4 if form != 'csv' else 5})" in capsys.readouterr().out


def test_repeats_and_users_named_twice_are_told_with_their_lines(tmp_path):
    log = tmp_path / "log.csv"
    log.write_text(f"user_id,item_id,timestamp\na,x,{T}\na,y,{T}\n\na,x,{T}\nb,x,{T}\nb,x,{T + 1}\na,x,{T}\n")
    events, notes = histories(log)
    assert events == in_order([("a", "x", T), ("a", "y", T), ("b", "x", T), ("b", "x", T + 1)])
    assert notes == ["2 repeats of a row with the same user, item and time, left out (lines 5, 8)"]
    lists = tmp_path / "lists.jsonl"
    lists.write_text(
        '{"user": "a", "history": ["x"]}\n\n{"user": "b", "history": [5.0, 5]}\n{"user": "a", "history": []}'
    )
    file = HistoryFile(lists, {})
    (chunk,) = file.read()
    assert chunk.items.to_pylist() == ["x", "5", "5"]
    assert len(file.notes) == 1 and "1 row is of users who have a row before (line 4)" in file.notes[0]
    assert file.find_unknown(pa.array(["[PAD]", "x"])) == [3]
    assert HistoryFile(log, NAMES).find_unknown(pa.array(["[PAD]", "x"])) == [3]


def test_rows_of_lists_that_are_none_are_told(tmp_path):
    path = tmp_path / "lists.csv"
    path.write_text("user,history\na,x y\nb,x,y\nc,y\n")
    with pytest.raises(UserError, match=r"1 of the 3 rows .*such as 'b,x,y' \(line 3\)"):
        list(HistoryFile(path, {}).read())
    file = HistoryFile(path, {}, max_bad=0.5)
    assert [chunk.users.to_pylist() for chunk in file.read()] == [["a", "c"]] and "(line 3)" in file.notes[0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('a,"12in,1\nb,y,2\nc,"12in,3\nd,y,4\n', r"line 2: a double quote .*12in"),
        ('a,"x",1\nb,"y,2\n', "line 3: a double quote is never closed"),
        ('a,"x"y,1\n', "line 2: a double quote"),
        ("a,x,1\rb,y,2\n", "line 2: there is a carriage return"),
        ("a,x\0,1\n", "line 2: there is a zero byte"),
    ],
)
def test_quotes_that_csv_does_not_know_are_refused_with_the_line(tmp_path, text, message):
    path = tmp_path / "log.csv"
    path.write_bytes(f"user_id,item_id,timestamp\n{text}".encode())
    with pytest.raises(UserError, match=message):
        histories(path)


def test_quotes_within_cells_are_signs_and_quoted_cells_may_have_line_ends(tmp_path):
    path = tmp_path / "log.csv"
    path.write_text(f'user_id,item_id,timestamp\na,12" disk,{T}\nb,5",{T}\na,3",{T}\n')
    assert [event[1] for event in histories(path)[0]] == ['12" disk', '3"', '5"']
    path.write_text(f'user_id,item_id,timestamp\n"a","x\ny, ""z""",{T}\n\nb,,{T}\n')
    events, notes = histories(path)
    assert events == [("a", 'x\ny, "z"', T)] and "(line 5)" in notes[0]


def test_dates_of_another_form(tmp_path, capsys):
    path = tmp_path / "log.csv"
    path.write_text("user_id,item_id,timestamp\na,x,31.05.2024 12:00\na,y,31.05.2024 12:01\na,z,2024-05-31\n")
    own = ["--user=user_id", "--item=item_id", "--time=timestamp", f"--data_path={tmp_path}", f"--from={path}"]
    assert main(["prepare", "mine", *own, "--time_format=%d.%m.%Y %H:%M", "--max_bad=0.4"]) == 0
    assert events_of_prepared(tmp_path) == [("a", "x", 1717156800.0), ("a", "y", 1717156860.0)]
    said = capsys.readouterr().out
    assert "such as '2024-05-31' (line 4)" in said and "no time zone and are taken for UTC" in said
    assert main(["prepare", "mine", *own, "--time_format=days"]) == 2
    assert main(["prepare", "mine", *own, "--time_format=%Q"]) == 2
    parser = TimeParser(form="%d.%m.%Y %H:%M%z")
    assert parser.parse(pa.array(["31.05.2024 14:00+0200", None])).tolist()[0] == 1717156800 and not parser.zoneless


@pytest.mark.parametrize(
    ("values", "seconds", "unit"),
    [
        ([T, None, 5], [T, np.nan, 5], "s"),
        ([T * 1000, T * 1000 + 1], [T, T + 0.001], "ms"),
        ([f"{T}", f"{T}.5"], [T, T + 0.5], "s"),
        (["2023-11-14T22:13:20Z", "2023-11-14T23:13:20+01:00"], [T, T], None),
        ([None, None], [np.nan, np.nan], None),
        ([-1, 0, 1], [-1, 0, 1], "s"),
    ],
)
def test_units_of_times(values, seconds, unit):
    parser = TimeParser()
    np.testing.assert_array_equal(parser.parse(pa.array(values)), seconds)
    assert parser.unit == unit


def test_tokens_of_numbers_are_the_same_in_every_batch():
    assert parse_tokens(pa.array([1.0, 2.5, None, float("nan"), 1e20])).to_pylist() == ["1", "2.5", None, None, "1e+20"]
    assert parse_tokens(pa.array(["", "NA", "5.0"])).to_pylist() == [None, "NA", "5.0"]
    known = pa.array(["[PAD]", "5", "7.0", "8", "8.0", "x.0"])
    assert token_ids(pa.array(["5.0", "7", "8", "8.0", "x", None, "9"]), known).tolist() == [1, 2, 3, 4, -1, -1, -1]


def test_lines_are_found_across_blocks(write, monkeypatch, make_config):
    monkeypatch.setattr(text_blocks, "BLOCK", 64)
    write(with_lines("", "u1\ti1", f"\ti1\t{T}"))
    notes = create_dataset(make_config()).notes
    assert "(line 43)" in notes[0] and "(line 44)" in notes[0]
