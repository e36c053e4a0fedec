"""Recipes on small files in the formats of the publishers, which these tests write; own logs; the verb."""

import gzip
import inspect
import io
import json
import signal
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pandas as pd
import pytest

from recbole_gen.cli import main
from recbole_gen.config.places import PROPERTIES, ROOT, find_dataset
from recbole_gen.options import read_yaml
from recbole_gen.prepare import filters, from_recipe, statistics
from recbole_gen.prepare.fields import ITEM, RATING, SCENE, TIME, USER
from recbole_gen.prepare.recipes import ALIASES, RECIPES, find_recipe
from recbole_gen.reading.file_readers import ReadCounts

DAY = 86400
REVIEW = (
    '{"reviewerID": "A1", "asin": "0%d", "reviewerName": "\\"Q\\"", "helpful": [0, 1], "reviewText": "it\'s\\ttab", '
    '"overall": %s, "unixReviewTime": 13700%05d, "reviewTime": "05 1, 2013"}\n'
)
PAGE_VIEWS = "uuid,document_id,timestamp,platform,geo_location,traffic_source\n"


def packed(path, files):
    """An archive, zip or tar.gz by its name, with these files: name in it -> bytes."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in files.items():
                archive.writestr(name, content)
    else:
        with tarfile.open(path, "w:gz") as archive:
            for name, content in files.items():
                info = tarfile.TarInfo(name)
                info.size = len(content)
                archive.addfile(info, io.BytesIO(content))
    return path


def written(path, content):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def zipped(name, content):
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w") as archive:
        archive.writestr(name, content)
    return memory.getvalue()


def ml_100k(folder):
    return packed(folder / "ml-100k.zip", {"ml-100k/u.item": b"\xe9", "ml-100k/u.data": b"196\t242\t3\t881250949\n"})


def ml_latest(folder):
    text = b"userId,movieId,rating,timestamp\r\n1,31,2.5,1260759144\r\n7,1,4.0,851868750\r\n"
    return packed(folder / "ml-latest-small.zip", {"ml-latest-small/ratings.csv": text})


def ml_1m(folder):
    return packed(folder / "ml-1m.zip", {"ml-1m/ratings.dat": b"1::1193::5::978300760\r\n2::661::3::978302109\r\n"})


def ml_10m(folder):
    return packed(folder / "ml-10m.zip", {"ml-10M100K/ratings.dat": b"1::122::4.5::838985046\n1::185::5::838983525\n"})


def amazon(folder):
    second = {"reviewerID": "A2", "asin": "02", "overall": 4.0, "unixReviewTime": 1370000000, "summary": 'a "b"'}
    lines = f"{REVIEW % (1, '5.0', 7)}no review\n{second!r}\n"
    return written(folder / "reviews_Beauty_5.json.gz", gzip.compress(lines.encode()))


def yelp(folder):
    common = {"review_id": "r", "user_id": "-u", "text": 'a\n"é"'}
    lines = [
        {**common, "business_id": "b_", "stars": 4.0, "date": "2018-01-01 00:00:01"},
        {**common, "business_id": "c", "stars": 1.0, "date": "2017-12-31 23:59:59"},
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()
    files = {"Dataset_Agreement.pdf": b"", "yelp_academic_dataset_review.json": content}
    return packed(folder / "yelp_dataset.tar.gz", files)


def yoochoose(folder):
    written(folder / "yc/yoochoose-clicks.dat", b"1,2014-04-07T10:51:09.277Z,214536502,0\n")
    written(folder / "yc/yoochoose-buys.dat", b"420374,2014-04-06T18:44:58.314Z,214537888,12462,1\n")
    return folder / "yc"


def kuairec(folder):
    text = (
        b"user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
        b"0,3649,13838,10867,2020-07-05 00:08:23.438,20200705,1593878903.438,1.27\n"
        b"0,9598,13665,10984,,,,1.24\n"
    )
    return packed(folder / "KuaiRec.zip", {"KuaiRec 2.0/data/big_matrix.csv": text})


def zhihu(folder):
    text = b"7,100,1525708792,0\n7,101,1525708800,1525708805\n"
    return written(folder / "inter_impression.csv.gz", gzip.compress(text))


def zhihu_first_release(folder):
    return written(folder / "zhihu1M.txt", b"7\t2\t100|1525708792|0,101|1525708800|1525708805\t0\t\n")


def outbrain(folder):
    views = PAGE_VIEWS + "1fd5f051fba643,120,31905835,1,RS,2\n8557aa9004be3b,7,2,1,VN>44,2\n"
    meta = "document_id,source_id,publisher_id,publish_time\n120,6,5,2016-01-01 00:00:00\n7,,3,\n8,1,1,\n"
    written(folder / "out/page_views_sample.csv.zip", zipped("page_views_sample.csv", views))
    written(folder / "out/documents_meta.csv.zip", zipped("documents_meta.csv", meta))
    return folder / "out"


def kuairand(folder):
    titles = "user_id,video_id,date,hourmin,time_ms,is_click,is_like,long_view,play_time_ms,is_rand,tab\n"
    logs = {
        "standard_4_22_to_5_08": "1,12,20220422,1,1650556800500,0,0,0,0,0,2\n",
        "standard_4_08_to_4_21": "1,11,20220408,1,1649347200000,1,0,1,9,0,0\n",
        "random_4_22_to_5_08": "9,99,20220408,1,1649347200000,1,0,1,9,1,0\n",
    }
    files = {f"KuaiRand-Pure/data/log_{name}_pure.csv": (titles + row).encode() for name, row in logs.items()}
    return packed(folder / "KuaiRand-Pure.tar.gz", files)


def globo(folder):
    titles = (
        "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment,"
        "click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"
    )
    row = "%d,1506825423271737,1506825423000,2,%d,150682%04d000,4,3,20,1,20,2\n"
    files = {f"clicks/clicks_hour_{hour:03d}.csv": titles + row % (hour, 100 + hour, hour) for hour in (1, 0)}
    return packed(folder / "clicks.zip", files)


RAW = {
    "ml-100k": (ml_100k, "user_id item_id rating timestamp", ["196 242 3 881250949"]),
    "ml-latest-small": (ml_latest, "user_id item_id rating timestamp", ["1 31 2.5 1260759144", "7 1 4 851868750"]),
    "ml-1m": (ml_1m, "user_id item_id rating timestamp", ["1 1193 5 978300760", "2 661 3 978302109"]),
    "ml-10m": (ml_10m, "user_id item_id rating timestamp", ["1 122 4.5 838985046", "1 185 5 838983525"]),
    "amazon-beauty": (amazon, "user_id item_id rating timestamp", ["A1 01 5 1370000007", "A2 02 4 1370000000"]),
    "yelp": (yelp, "user_id business_id stars date", ["-u b_ 4 1514764801", "-u c 1 1514764799"]),
    "yoochoose": (yoochoose, "session_id item_id timestamp", ["420374 214537888 1396809898.314"]),
    "yoochoose-clicks": (yoochoose, "session_id item_id timestamp", ["1 214536502 1396867869.277"]),
    "kuairec": (kuairec, "user_id item_id timestamp watch_ratio", ["0 3649 1593878903.438 1.27"]),
    "zhihu": (zhihu, "user_id item_id timestamp", ["7 101 1525708805"]),
    "zhihu1M": (zhihu_first_release, "user_id item_id timestamp", ["7 101 1525708805"]),
    "outbrain": (
        outbrain, "user_id item_id timestamp scene",
        ["1fd5f051fba643 120 1465908705.833 6", "8557aa9004be3b 7 1465876800 "],
    ),
    "kuairand": (
        kuairand, "user_id item_id timestamp scene is_click long_view",
        ["1 11 1649347200 0 1 1", "1 12 1650556800.5 2 0 0"],
    ),
    "globo": (globo, "user_id item_id timestamp scene device", ["0 100 1506820000 2 3", "1 101 1506820001 2 3"]),
}  # fmt: skip


def rows(path):
    """Titles without their types, and the rows, blanks for tabs."""
    titles, *lines = path.read_text(encoding="utf-8").splitlines()
    return " ".join(title.partition(":")[0] for title in titles.split("\t")), [
        line.replace("\t", " ") for line in lines
    ]


@pytest.mark.parametrize("name", RAW)
def test_a_recipe_reads_the_files_of_its_publisher(tmp_path, capsys, name):
    write, titles, expected = RAW[name]
    recipe = "zhihu" if name == "zhihu1M" else name
    raw = write(tmp_path)
    assert main(["prepare", recipe, f"--raw={raw}", f"--data_path={tmp_path}/data"]) == 0
    got = rows(tmp_path / f"data/{recipe}/{recipe}.inter")
    assert got == (titles, expected)
    said = capsys.readouterr().out
    assert RECIPES[recipe].licence in said and RECIPES[recipe].citation in said and f"--dataset={recipe}" in said
    note = json.loads((tmp_path / f"data/{recipe}/prepare.json").read_text())
    assert note["statistics"]["interactions"] == len(expected) and note["source"]["name"] == raw.name


def test_every_paper_has_its_data_sets():
    papers = {paper for recipe in RECIPES.values() for paper in recipe.versions}
    assert papers == {"dreamrec", "diffrec", "pasrec", "acvae", "dspnet"}
    for recipe in RECIPES.values():
        for paper in (None, *recipe.versions):
            assert find_recipe(recipe.dataset_name(paper)) == (recipe, paper)
    assert len({recipe.dataset_name(p) for recipe in RECIPES.values() for p in (None, *recipe.versions)}) == sum(
        1 + len(recipe.versions) for recipe in RECIPES.values()
    )
    assert find_recipe("amazon-toys-and-games") == find_recipe("amazon-toys") and set(ALIASES.values()) <= set(RECIPES)


def test_bad_lines_are_counted_and_told(tmp_path, capsys):
    main(["prepare", "amazon-beauty", f"--raw={amazon(tmp_path)}", f"--data_path={tmp_path}"])
    assert "1 line is no row of this file" in capsys.readouterr().out
    main(["prepare", "kuairec", f"--raw={kuairec(tmp_path)}", f"--data_path={tmp_path}"])
    assert "1 row has no user, item or time" in capsys.readouterr().out
    note = json.loads((tmp_path / "kuairec/prepare.json").read_text())
    assert note["rows_without_user_item_or_time"] == 1 and note["bad_lines"] == 0


def log_file(folder, rng, users=40, items=12, n=400):
    """A log of n ratings in MovieLens' format, and the same as a table."""
    frame = pd.DataFrame({
        USER: rng.integers(users, size=n), ITEM: rng.integers(items, size=n), RATING: rng.integers(1, 11, size=n) / 2,
        TIME: 10**9 + rng.integers(50, size=n),
    })  # fmt: skip
    text = "\n".join("::".join(f"{value:g}" if c == RATING else str(int(value)) for c, value in row.items())
                     for _, row in frame.iterrows())  # fmt: skip
    return written(folder / "ratings.dat", text.encode()), frame


def prepared(folder, recipe, paper, raw):
    main(["prepare", recipe, f"--as={paper}", f"--raw={raw}", f"--data_path={folder}"])
    name = RECIPES[recipe].dataset_name(paper)
    frame = pd.read_csv(folder / name / f"{name}.inter", sep="\t")
    return frame.rename(columns=lambda title: title.partition(":")[0])


def core(frame, number):
    while True:
        kept = frame[(frame.groupby(USER)[ITEM].transform("size") >= number)
                     & (frame.groupby(ITEM)[USER].transform("size") >= number)]  # fmt: skip
        if len(kept) == len(frame):
            return frame
        frame = kept


def equal(got, expected):
    pd.testing.assert_frame_equal(
        got.reset_index(drop=True), expected.reset_index(drop=True), check_dtype=False, check_like=True
    )
    return True


def test_pasrec_takes_the_five_core_and_the_last_interactions(tmp_path):
    raw, frame = log_file(tmp_path, np.random.default_rng(0), users=60)
    got = prepared(tmp_path, "ml-10m", "pasrec", raw)
    kept = core(frame, 5)
    kept = kept.loc[kept.sort_values(TIME, kind="stable").groupby(USER).tail(51).index.sort_values()]
    assert 0 < len(kept) < len(frame) and equal(got, kept)


def test_the_last_interactions_are_the_last_in_the_file_among_simultaneous_ones(tmp_path):
    text = "".join(f"1::{item}::5::{5 if item != 3 else 4}\n" for item in range(60))
    others = "".join(f"{user}::{item}::5::1\n" for user in range(2, 7) for item in range(60))
    got = prepared(tmp_path, "ml-10m", "pasrec", written(tmp_path / "ratings.dat", (text + others).encode()))
    assert got[got[USER] == 1][ITEM].tolist() == list(range(9, 60))


def test_acvae_takes_ratings_above_three_and_then_users_with_five(tmp_path):
    raw, frame = log_file(tmp_path, np.random.default_rng(1))
    got = prepared(tmp_path, "ml-1m", "acvae", raw)
    liked = frame[frame[RATING] > 3]
    kept = liked[liked.groupby(USER)[ITEM].transform("size") >= 5]
    assert len(kept) < len(liked) < len(frame) and equal(got, kept)


def test_acvae_takes_reviews_since_2018_of_yelp(tmp_path):
    lines = [
        {"user_id": "u", "business_id": f"b{n}", "stars": 4, "date": f"{2017 + (n > 0)}-03-0{n + 1} 00:00:00"}
        for n in range(6)
    ]
    raw = written(
        tmp_path / "yelp_academic_dataset_review.json", "".join(json.dumps(line) + "\n" for line in lines).encode()
    )
    main(["prepare", "yelp", "--as=acvae", f"--raw={raw}", f"--data_path={tmp_path}"])
    assert [row.split()[1] for row in rows(tmp_path / "yelp-acvae/yelp-acvae.inter")[1]] == [
        "b1",
        "b2",
        "b3",
        "b4",
        "b5",
    ]


def test_dreamrec_counts_items_before_it_drops_repeats(tmp_path):
    events = [(user, item, 100 * user + item) for user in (3, 1, 2) for item in (1, 2, 3)]  # 3 x each item
    events += [(1, item, 990 + n) for item in (1, 2, 3) for n in (0, 1)]  # 5 x with the repeats
    lines = [f"{user},2014-04-06T18:{time // 60:02d}:{time % 60:02d}.000Z,{item},1,1\n" for user, item, time in events]
    raw = written(tmp_path / "yoochoose-buys.dat", "".join(lines).encode())
    got = prepared(tmp_path, "yoochoose", "dreamrec", raw)
    assert list(got) == ["session_id", ITEM, TIME]
    # One sequence after the other, by the time of their last event; first occurrences only.
    assert got["session_id"].tolist() == [1] * 3 + [2] * 3 + [3] * 3
    assert got[ITEM].tolist() == [1, 2, 3] * 3


def test_sequences_of_kuairec_end_with_an_hour_of_nothing(tmp_path):
    times = [0, 3600, 7200, 10801, 10802, 10803]
    text = "user_id,video_id,play_duration,video_duration,time,date,timestamp,watch_ratio\n"
    for user in range(5):
        for item, time in enumerate(times):
            text += f"{user},{item},1,1,t,d,{10**9 + time},{1 if item == 1 else 2.5}\n"
    got = prepared(tmp_path, "kuairec", "dreamrec", written(tmp_path / "big_matrix.csv", text.encode()))
    # 0, 1 and 2 hang together over 1, which is no positive: two of them are too short; 3, 4, 5 are a sequence.
    assert got.groupby("session_id", sort=False)[ITEM].apply(list).tolist() == [[3, 4, 5]] * 5


def test_sequences_of_zhihu_are_days_of_china(tmp_path):
    midnight = 1525708800 - 1525708800 % DAY - 8 * 3600 + DAY  # 00:00 in China
    times = [midnight - 3, midnight - 2, midnight - 1, midnight, midnight + 1, midnight + 2]
    text = "".join(f"{user},{item},{time - 9},{time}\n" for user in range(5) for item, time in enumerate(times))
    got = prepared(tmp_path, "zhihu", "dreamrec", written(tmp_path / "inter_impression.csv", text.encode()))
    assert got.groupby("session_id", sort=False)[ITEM].apply(list).tolist() == [[0, 1, 2]] * 5 + [[3, 4, 5]] * 5


def test_dspnet_takes_users_on_both_sides_of_the_cut(tmp_path):
    cut = 181353600  # milliseconds since the first one
    views = PAGE_VIEWS + "".join(f"{user},{doc},{time},1,RS,2\n" for user, doc, time in (
        ("a", 1, cut - 1), ("a", 2, cut), ("b", 1, cut - 1), ("c", 2, cut)))  # fmt: skip
    written(tmp_path / "o/page_views_sample.csv", views.encode())
    written(tmp_path / "o/documents_meta.csv", b"document_id,source_id,publisher_id,publish_time\n1,11,1,\n2,12,1,\n")
    got = prepared(tmp_path, "outbrain", "dspnet", tmp_path / "o")
    assert got[[USER, ITEM, SCENE]].values.tolist() == [["a", 1, 11], ["a", 2, 12]]


def test_the_published_setting_of_dspnet_cuts_where_its_data_were_filtered():
    setting, recipe = read_yaml(PROPERTIES / "paper/dspnet-outbrain.yaml"), RECIPES["outbrain"]
    (moment,) = recipe.versions["dspnet"].steps[0].arguments
    assert setting["dataset"] == recipe.dataset_name("dspnet")
    assert moment - 0.001 < setting["period_start"] <= moment  # times are whole milliseconds


def test_the_sample_of_globo_is_the_same_for_everybody(tmp_path):
    titles = "user_id,session_id,session_start,session_size,click_article_id,click_timestamp,click_environment," \
             "click_deviceGroup,click_os,click_country,click_region,click_referrer_type\n"  # fmt: skip
    text = titles + "".join(
        f"{user},1,1,2,{item},{user + item}000,4,3,20,1,20,2\n" for user in range(300) for item in range(6)
    )
    got = prepared(tmp_path, "globo", "dspnet", written(tmp_path / "clicks_hour_000.csv", text.encode()))
    users = got[USER].unique().tolist()
    assert (tmp_path / "globo-scene/globo-scene.inter").exists() and 5 < len(users) < 40 and 10 in users


def test_an_atomic_file_is_taken_for_the_publishers(tmp_path, capsys):
    text = "item_id:token\tuser_id:token\ttimestamp:float\trating:float\textra:float\n5\t9\t100\t4\t1\n"
    raw = written(tmp_path / "there/ml-1m.inter", text.encode())
    assert main(["prepare", "ml-1m", f"--raw={raw.parent}", f"--data_path={tmp_path}"]) == 0
    assert rows(tmp_path / "ml-1m/ml-1m.inter") == ("user_id item_id rating timestamp", ["9 5 4 100"])


def test_a_file_under_another_name_is_taken(tmp_path):
    raw = written(tmp_path / "mine.dat", b"1::2::3::4\n")
    assert main(["prepare", "ml-1m", f"--raw={raw}", f"--data_path={tmp_path}"]) == 0
    assert rows(tmp_path / "ml-1m/ml-1m.inter")[1] == ["1 2 3 4"]


def test_statistics_stand_beside_the_papers_own(tmp_path, capsys):
    raw, _ = log_file(tmp_path, np.random.default_rng(2))
    main(["prepare", "ml-1m", "--as=diffrec", f"--raw={raw}", f"--data_path={tmp_path}"])
    said = capsys.readouterr().out
    assert "DiffRec" in said and "1,000,209" in said
    assert "warning: items: 12 here, 3,953 in the paper" in said and "3,706 items occur" in said


@pytest.mark.parametrize(
    ("number", "text", "same"),
    [
        (3953, "3,953", True), (3706, "3,953", False), (575_281, "580K", True), (570_000, "580K", False),
        (45_560, "46K", True), (45_499, "46K", False), (4_710_000, "4.7M", True), (4_760_000, "4.7M", False),
        (95.34, "95.3", True), (95.36, "95.3", False), (2.356, "2.36", True), (604, "604", True), (605, "604", False),
        (7363, "7.4K", True),
    ],
)  # fmt: skip
def test_numbers_agree_as_far_as_they_are_printed(number, text, same):
    assert statistics.agrees_with_print(number, text) == same


def test_published_counts_of_ml_100k(tmp_path, ml_100k_inter):
    """The data set that comes along is whole: 943 users, 1,682 items, 100,000 ratings."""
    log, missing = from_recipe.read_log(RECIPES["ml-100k"], ml_100k_inter, ReadCounts())
    numbers = statistics.log_statistics(log)
    assert missing == 0 and [numbers[name] for name in ("users", "items", "interactions")] == [943, 1682, 100_000]


@pytest.fixture
def ml_100k_inter():
    return find_dataset("ml-100k", "dataset")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["prepare", "ml-1mm"], ["no recipe 'ml-1mm'", "Did you mean ml-1m?", "--from=FILE"]),
        (["prepare", "ml-1m", "--as=pasreck"], ["no paper 'pasreck'", "diffrec, acvae"]),
        (["prepare", "ml-1m", "--raw=/nowhere"], ["no file or folder /nowhere"]),
        (["prepare", "ml-1m", "--row=x"], ["no option --row"]),
        (["prepare", "--as=acvae"], ["prepare NAME"]),
        (["prepare", "../x", "--from=a.csv"], ["cannot be the name"]),
        (["prepare", "x", "--from=nowhere.csv", "--user=u", "--item=i", "--time=t"], ["no file nowhere.csv"]),
        (["prepare", "x", "--from=nowhere.csv", "--user=u", "--item=i"], ["--time=COLUMN"]),
        (["prepare", "x", "--from=a.csv", "--raw=b"], ["--raw does not go with --from"]),
        (["prepare", "ml-1m", "--user=u"], ["--user does not go with a recipe"]),
        (["prepare", "outbrain"], ["https://www.kaggle.com", "--raw=PATH"]),
        (["prepare", "zhihu"], ["--agree"]),
        (["prepare", "x", "--from=a.csv", "--user=u", "--item=i", "--time=t", "--time_unit=h"], ["s, ms, us, ns"]),
        (["prepare", "x", "--from=a.csv", "--user=u", "--item=i", "--time=t", "--max_bad=5"], ["between 0 and 1"]),
    ],
)
def test_a_mistake_gets_one_clear_message(tmp_path, monkeypatch, capsys, arguments, words):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and all(word in error for word in words), error
    assert not list(tmp_path.glob("**/*.inter"))


@pytest.mark.parametrize("twice", [("user", "item"), ("user", "time"), ("item", "time"), ("item", "scene")])
def test_one_column_is_not_two_things(tmp_path, monkeypatch, capsys, twice):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.csv").write_text("u,i,t,s\n1,2,1700000000,3\n1,4,1700000100,3\n")
    columns = {"user": "u", "item": "i", "time": "t", "scene": "s"}
    columns[twice[1]] = columns[twice[0]]
    assert main(["prepare", "x", "--from=a.csv", *(f"--{key}={column}" for key, column in columns.items())]) == 2
    assert f"error: --{twice[0]} and --{twice[1]} must name two columns, got '" in capsys.readouterr().err
    assert not list(tmp_path.glob("**/*.inter"))


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("ratings.txt", b"1::2::3::4\n", ["none of the files", "ratings.dat"]),
        ("ml-1m.inter", b"\n", ["no column 'user_id'"]),
        ("ratings.dat", b"", ["ratings.dat", "empty"]),
        ("ratings.dat", b"1::2\n", ["nothing is left"]),
        ("ratings.dat", b"\xff\xfe1::2::3::4\n", ["no UTF-8 text"]),
        ("ml-1m.zip", b"PK\x03\x04broken", ["ml-1m.zip", "damaged"]),
        ("ml-1m.inter", b"user_id:token\titem_id:token\trating:float\n1\t2\t3\n", ["no column 'timestamp'"]),
    ],
)
def test_files_that_are_not_the_publishers(tmp_path, capsys, name, content, words):
    folder = written(tmp_path / "raw" / name, content).parent
    assert main(["prepare", "ml-1m", f"--raw={folder}", f"--data_path={tmp_path}/data"]) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not list(tmp_path.glob("data/**/*.inter"))


def test_all_recipes_are_listed(capsys):
    assert main(["prepare"]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in RECIPES) and "by hand" in said


OWN = ["prepare", "mine", "--user=who", "--item=what", "--time=at"]


def own(folder, file, *more):
    return main([*OWN, f"--from={file}", f"--data_path={folder}", *more])


@pytest.mark.parametrize("form", ["csv", "semicolons", "tsv", "csv.gz", "jsonl", "python", "parquet", "pandas"])
def test_a_log_of_ones_own(tmp_path, form):
    frame = pd.DataFrame({
        "at": ["2024-05-31T12:00:00Z", "2024-05-31 12:00:00.250", "2024-05-31T14:00:01+02:00"],
        "what": ["007", "Ünï code", "a,b;c"], "note": ['say "hi"\nthere', "", "x"], "who": [1, 2, 3],
        "where": list("xyz"),
    })  # fmt: skip
    records = frame.to_dict("records")
    if form == "csv":
        file = written(
            tmp_path / "log.csv", b"\xef\xbb\xbf" + frame.to_csv(index=False, lineterminator="\r\n").encode()
        )
    elif form == "semicolons":
        file = written(tmp_path / "log.csv", frame.to_csv(index=False, sep=";").encode())
    elif form == "tsv":
        file = written(tmp_path / "log.tsv", frame.to_csv(index=False, sep="\t").encode())
    elif form == "csv.gz":
        file = written(tmp_path / "log.csv.gz", gzip.compress(frame.to_csv(index=False).encode()))
    elif form == "jsonl":
        file = written(tmp_path / "log.jsonl", "\n".join(json.dumps(record) for record in records).encode())
    elif form == "python":
        file = written(tmp_path / "log.jsonl", "\n".join(map(repr, records)).encode())
    else:
        file = tmp_path / "log.parquet"
        if form == "pandas":
            frame["at"] = pd.to_datetime(frame["at"], format="ISO8601", utc=True)
            frame["who"] = frame["who"].astype(float)
        frame.to_parquet(file)
    assert own(tmp_path, file, "--scene=where", "--max_bad=0") == 0
    titles, lines = rows(tmp_path / "mine/mine.inter")
    assert titles == "user_id item_id timestamp scene"
    assert lines == ["1 007 1717156800 x", "2 Ünï code 1717156800.25 y", "3 a,b;c 1717156801 z"]


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_the_unit_of_times_is_told_from_them(tmp_path, unit):
    factor = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    text = "who,what,at\n" + "".join(f"1,{n},{(1717156800 + n) * factor}\n" for n in range(3))
    own(tmp_path, written(tmp_path / "log.csv", text.encode()))
    assert [line.split()[2] for line in rows(tmp_path / "mine/mine.inter")[1]] == [
        "1717156800",
        "1717156801",
        "1717156802",
    ]


def test_what_cannot_be_used_is_counted_and_above_a_limit_nothing_is_written(tmp_path, capsys):
    bad = ["1,2", "1,2,3,4", ",5,1717156800", "1,,1717156800", "1,NA,1717156800", "1,2,", "1,2,soon", "1,2,inf",
           '"a""b",2,1717156800', '"a\tb",2,1717156800', "1,9,99999999999999999999"]  # fmt: skip
    good = [f"u{n % 9},i{n % 7},{1717156800 + n}" for n in range(60)]
    file = written(tmp_path / "log.csv", "\n".join(["who,what,at", *good, *bad, *good[:4]]).encode())
    assert own(tmp_path, file) == 2
    captured = capsys.readouterr()
    assert "10 of the 75 rows" in captured.err and "--max_bad" in captured.err and not (tmp_path / "mine").exists()
    for line in ("75 rows read", "2 without the right number of columns, such as '1,2'", "1 without a value in 'who'",
                 "2 without a value in 'what'", "1 without a value in 'at'",
                 "of the years 1 to 9999, such as 'soon' (lines 68, 69, 72)",
                 "1 with a tab or line end", "4 repeats"):  # fmt: skip
        assert line in captured.out, line
    assert own(tmp_path, file, "--max_bad=0.2") == 0
    lines = rows(tmp_path / "mine/mine.inter")[1]
    assert len(lines) == 61 and 'a"b 2 1717156800' in lines
    note = json.loads((tmp_path / "mine/prepare.json").read_text())
    assert (note["rows"], note["bad"], note["repeats"]) == (75, 10, 4)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("log.csv", b"", ["empty"]),
        ("log.csv", b'who,what,at\n1,"2,3\n4,5,6\n', ["never closed", "2,3"]),
        ("log.csv", b"who,what,when\n1,2,3\n", ["no column 'at'"]),
        ("log.csv", b"who,what,at\n", ["has no rows"]),
        ("log.csv", "who,what,at\né,2,3\n".encode("latin1"), ["no UTF-8 text"]),
        ("log.csv.gz", b"nothing", ["damaged"]),
        ("log.csv.gz", gzip.compress(b"who,what,at\n" + b"1,2,3\n" * 99, mtime=0)[:-20], ["damaged"]),
        ("log.parquet", b"PAR1", ["no Parquet file"]),
        ("log.xlsx", b"", ["must end in"]),
        ("log.jsonl", b"[1]\n2\n", ["2 of the 2 rows"]),
    ],
)
def test_logs_that_cannot_be_read(tmp_path, capsys, name, content, words):
    assert own(tmp_path, written(tmp_path / name, content)) == 2
    error = capsys.readouterr().err
    assert all(word in error for word in words), error
    assert not (tmp_path / "mine").exists()


def test_an_own_log_trains(tmp_path, capsys):
    rng = np.random.default_rng(0)
    text = "who,what,at\n" + "".join(
        f"{u},{rng.integers(20)},{1717156800000 + 60000 * n}\n" for n in range(12) for u in range(30)
    )
    own(tmp_path, written(tmp_path / "log.csv", text.encode()))
    assert main(["--model=Pop", "--dataset=mine", f"--data_path={tmp_path}", f"--checkpoint_dir={tmp_path}/saved",
                 "--epochs=1", "--show_progress=False"]) == 0  # fmt: skip
    assert main(["datasets", "mine", f"--data_path={tmp_path}"]) == 0
    assert "360" in capsys.readouterr().out


def test_prepare_stopped_anywhere_leaves_the_old_or_the_new(tmp_path):
    text = "who,what,at\n" + "".join(f"{n % 97},{n % 31},{1717156800 + n}\n" for n in range(20_000))
    old = written(tmp_path / "old.csv", text.encode())
    new = written(tmp_path / "new.csv", text.replace("\n5,", "\nfive,").encode())
    own(tmp_path, old)
    inter = tmp_path / "mine/mine.inter"
    states = [inter.read_bytes()]
    own(tmp_path, new)
    states.append(inter.read_bytes())
    command = [sys.executable, str(ROOT / "run_recbole_gen.py"), *OWN, f"--data_path={tmp_path}"]
    for lines in (1, 2, 3, 99):  # killed after so many lines; the last one comes through
        own(tmp_path, old)
        with subprocess.Popen([*command, f"--from={new}"], stdout=subprocess.PIPE, text=True) as process:
            said = [text for _, text in zip(range(lines), process.stdout)]
            process.send_signal(signal.SIGKILL)
        assert inter.read_bytes() in states
        assert json.loads((inter.parent / "prepare.json").read_text())["files"] == ["mine.inter"]
    assert 3 < len(said) < 99 and inter.read_bytes() == states[1]
    own(tmp_path, old)
    assert not [path for path in tmp_path.iterdir() if path.name.endswith(".tmp")]


@pytest.mark.parametrize(
    "name", [recipe.dataset_name(paper) for recipe in RECIPES.values() for paper in (None, *recipe.versions)]
)
def test_runs_find_the_columns_of_a_prepared_data_set(name):
    recipe, paper = find_recipe(name)
    names = {**recipe.renamed_fields, **({USER: "session_id"} if paper and recipe.versions[paper].sequences else {})}
    path = PROPERTIES / f"dataset/{name}.yaml"
    settings = read_yaml(path) if path.exists() else {}
    for key, field in (
        ("USER_ID_FIELD", USER),
        ("ITEM_ID_FIELD", ITEM),
        ("TIME_FIELD", TIME),
        ("RATING_FIELD", RATING),
    ):
        assert settings.get(key, field) == (names.get(field, field) if field in recipe.sources[0].fields else field)


def test_every_step_names_a_filter_and_its_arguments():
    for recipe in RECIPES.values():
        for step in (*recipe.steps, *(step for version in recipe.versions.values() for step in version.steps)):
            inspect.signature(getattr(filters, step.filter)).bind(None, *step.arguments, **step.options)


LIGHT = """
import sys, types
package = sys.modules["recbole_gen"] = types.ModuleType("recbole_gen")
package.__path__ = [sys.argv[1]]
from recbole_gen.errors import UserError
from recbole_gen.prepare import command
command.main(["--help"])
command.main([])
for wrong in (["ml-1m", "--rwa=x"], ["ml-1n"], ["x", "--from=x"], ["ml-1m", "--raw=nowhere"]):
    try:
        command.main(wrong)
    except UserError:
        continue
    raise SystemExit(f"{wrong} is taken")
heavy = {"numpy", "pandas", "pyarrow", "torch", "recbole", "matplotlib", "requests"} & sys.modules.keys()
sys.exit(f"imported: {heavy}" if heavy else 0)
"""


def test_help_the_list_and_mistakes_need_no_readers():
    subprocess.run([sys.executable, "-c", LIGHT, str(ROOT / "recbole_gen")], check=True, stdout=subprocess.DEVNULL)
