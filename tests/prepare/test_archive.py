"""Files in files, folders and archives of all kinds; and what damage, and the user, do to them."""

import bz2
import gzip
import io
import lzma
import sys
import tarfile
import tempfile
import zipfile

import numpy as np
import py7zr
import pyarrow as pa
import pytest

from recbole_gen.errors import UserError
from recbole_gen.prepare import archive
from recbole_gen.prepare.archive import open_member, open_members
from recbole_gen.reading import file_readers

LINES = "".join(f"u{row},i{row * 7919 % 9973}\n" for row in range(20_000)).encode()
NOISE = np.random.default_rng(0).bytes(1 << 20)  # does not get smaller


def zipped(files, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as file:
        for name, content in files.items():
            file.writestr(name, content)
    return buffer.getvalue()


def tarred(files, mode="w"):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def targz(files):
    return tarred(files, "w:gz")


FILES = {"toy/README": b"read me", "toy/clicks.csv": LINES}
FORMS = {
    "clicks.csv": LINES,
    "clicks.csv.gz": gzip.compress(LINES),
    "clicks.csv.bz2": bz2.compress(LINES),
    "clicks.csv.xz": lzma.compress(LINES),
    "clicks.csv.zip": zipped({"clicks.csv": LINES}),
    "toy.zip": zipped(FILES),
    "stored.zip": zipped(FILES, zipfile.ZIP_STORED),
    "windows.zip": zipped({"toy\\clicks.csv": LINES}),
    "toy.tar": tarred(FILES),
    "toy.tar.gz": targz(FILES),
    "toy.tgz": targz(FILES),
    "toy.tar.xz": tarred(FILES, "w:xz"),
    "no_suffix": zipped(FILES),
    "packed_in.zip": zipped({"a/clicks.csv.gz": gzip.compress(LINES)}),
    "kaggle.zip": zipped({"clicks.csv.zip": zipped({"clicks.csv": LINES}), "events.csv.zip": b"no zip at all"}),
    "other_name.zip": zipped({"clicks.csv.zip": zipped({"part-000.csv": LINES})}),
    "zip_in.zip": zipped({"toy.zip": zipped(FILES), "doc.zip": zipped({"x.pdf": b"x"})}),
    "tar_in.zip": zipped({"toy.tar.gz": targz(FILES)}),
    "zip_in.tar.gz": targz({"sub/toy.zip": zipped(FILES)}),
    "four.zip": zipped({"x/three.zip": zipped({"two.tar": tarred({"one.tgz": targz(FILES)})})}),
    "three.zip": zipped({"two.zip": zipped({"one.tgz": targz({"clicks.csv.gz": gzip.compress(LINES)})})}),
    "macos.zip": zipped({"__MACOSX/toy/._clicks.csv": b"x", "__MACOSX/toy/clicks.csv": b"y", **FILES}),
}


def write(folder, files):
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


@pytest.mark.parametrize("name", FORMS)
def test_a_file_is_found_in_every_form(tmp_path, name):
    write(tmp_path, {name: FORMS[name]})
    for raw in (tmp_path / name, *([tmp_path] if "." in name else [])):
        with open_member(raw, ["nothing.csv", "clicks.csv"]) as stream:
            assert stream.read(10) + stream.read(1 << 15) + stream.read() == LINES
            assert stream.read() == b""
    assert [path.name for path in tmp_path.iterdir()] == [name]  # nothing is unpacked beside it


def test_names_may_be_given_packed(tmp_path):
    write(tmp_path, {"x/clicks.csv.gz": gzip.compress(LINES)})
    with open_member(tmp_path, ["clicks.csv.gz"]) as stream:
        assert stream.read() == LINES


def test_the_first_of_the_names_counts_and_what_is_unpacked(tmp_path):
    write(tmp_path, {"b.csv": b"b", "a.csv.gz": gzip.compress(b"packed"), "all.zip": zipped({"c.csv": b"c"})})
    for names, content in ((["a.csv", "b.csv"], b"packed"), (["b.csv", "a.csv"], b"b"), (["c.csv", "b.csv"], b"b")):
        with open_member(tmp_path, names) as stream:
            assert stream.read() == content
    write(tmp_path, {"a.csv": b"plain"})
    with open_member(tmp_path, ["a.csv"]) as stream:
        assert stream.read() == b"plain"


def test_a_folder_tells_files_of_one_name_apart(tmp_path):
    write(tmp_path, {"train/clicks.csv": b"train", "test/clicks.csv": b"test", "toy.zip": FORMS["toy.zip"]})
    with open_member(tmp_path, ["train/clicks.csv"]) as stream:
        assert stream.read() == b"train"
    told = r"more than one 'clicks.csv': .*test/clicks.csv, .*train/clicks.csv. Give the one that is meant"
    with pytest.raises(UserError, match=told), open_member(tmp_path, ["clicks.csv"]):
        pass
    with pytest.raises(UserError, match=r"no 'rain/clicks.csv' in"), open_member(tmp_path, ["rain/clicks.csv"]):
        pass


def test_files_of_one_name_in_two_archives_are_not_guessed(tmp_path):
    write(tmp_path, {"ml-1m.zip": zipped({"ml-1m/ratings.dat": b"1"}), "ml-10m.zip": zipped({"x/ratings.dat": b"10"})})
    told = r"ml-10m.zip/x/ratings.dat, .*ml-1m.zip/ml-1m/ratings.dat"
    with pytest.raises(UserError, match=told), open_member(tmp_path, ["ratings.dat"]):
        pass


def test_a_renamed_file_is_taken_if_one_is_wanted(tmp_path):
    write(tmp_path, {"my.dat": LINES, "my.dat.gz": gzip.compress(LINES)})
    for name in ("my.dat", "my.dat.gz"):
        with open_member(tmp_path / name, ["ratings.dat"]) as stream:
            assert stream.read() == LINES
        told = r"there is no 'ratings.dat' in .*/my.dat.*, which has .*my.dat"
        with pytest.raises(UserError, match=told), open_member(tmp_path / name, ["ratings.dat"], renamed=False):
            pass
        with pytest.raises(UserError, match=r"no 'a.csv' or 'b.csv' in"):
            open_member(tmp_path / name, ["a.csv", "b.csv"]).__enter__()


def test_what_is_not_there_is_told_with_what_is(tmp_path):
    names = [f"file_{number}.csv" for number in range(12)]
    write(tmp_path, {"all.zip": zipped(dict.fromkeys(names, b""))})
    told = r"no 'x.csv' or 'y.csv' in .*all.zip, which has file_0.csv, file_1.csv, .*, \.\.\. \(12 in all\)$"
    with pytest.raises(UserError, match=told), open_member(tmp_path / "all.zip", ["x.csv", "y.csv"]):
        pass
    with pytest.raises(UserError, match=r"has all.zip, all.zip/file_0.csv"), open_member(tmp_path, ["x.csv"]):
        pass
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"which has no files"), open_member(tmp_path / "empty", ["x.csv"]):
        pass
    with (
        pytest.raises(UserError, match=r"there is no file or folder .*nowhere"),
        open_member(tmp_path / "nowhere", ["x"]),
    ):
        pass


PARTS = {f"log/clicks_hour_{hour}.csv": str(hour).encode() for hour in (10, 2, 1, 0, 33)}


@pytest.mark.parametrize("form", ["folder", "zip", "tar", "targz", "nested", "packed"])
def test_many_files_come_in_the_order_of_their_numbers(tmp_path, form):
    files = {**PARTS, "log/clicks.csv": b"", "log/users.csv": b""}
    if form == "packed":
        files = {f"{name}.gz": gzip.compress(content) for name, content in files.items()}
    make = {"zip": zipped, "tar": tarred, "targz": targz, "nested": lambda files: zipped({"in.tgz": targz(files)})}
    raw = tmp_path / "raw"
    write(raw, {form: make[form](files)} if form in make else files)
    with open_members(raw / form if form in make else raw, "clicks_hour_*.csv") as members:
        found = [(name, stream.read()) for name, stream in members]
    assert found == [(f"clicks_hour_{hour}.csv", str(hour).encode()) for hour in (0, 1, 2, 10, 33)]


def test_many_files_are_open_one_at_a_time(tmp_path):
    write(tmp_path, {"a_1.csv": b"1", "a_2.csv": b"2", "a_1.csv.gz": gzip.compress(b"1"), "b/a_1.csv": b"3"})
    with open_members(tmp_path, "a_*.csv") as members:
        (name, first), (_, second) = next(members), next(members)
        assert name == "a_1.csv" and second.read() == b"2"
        with pytest.raises(ValueError, match="closed"):
            first.read()
        assert next(members)[1].read() == b"3"
        assert next(members, None) is None
    with open_members(tmp_path, "a_*.csv") as members:
        _, stream = next(members)
    with pytest.raises(ValueError, match="closed"):
        stream.read()


def test_several_patterns_and_folders(tmp_path):
    write(tmp_path, {"x.inter": b"", "x.item": b"", "x.txt": b"", "d1/p.csv": b"", "d10/p.csv": b"", "d2/p.csv": b"2"})
    with open_members(tmp_path, "*.item", "*.inter") as members:
        assert [name for name, _ in members] == ["x.inter", "x.item"]
    with open_members(tmp_path, "p.csv") as members:
        assert [stream.read() for _, stream in members] == [b"", b"2", b""]
    with open_members(tmp_path, "d2/*.csv") as members:
        assert [stream.read() for _, stream in members] == [b"2"]
    told = r"there is no hour_\*.csv or day_\*.csv in .*, which has x.inter"
    with pytest.raises(UserError, match=told), open_members(tmp_path, "hour_*.csv", "day_*.csv"):
        pass


def damaged(content):
    return content[: len(content) // 2]


def flipped(content, at=0.5):
    place = int(len(content) * at)
    return content[:place] + bytes(byte ^ 0x55 for byte in content[place : place + 64]) + content[place + 64 :]


DAMAGED = {
    "clicks.csv.gz": [damaged(gzip.compress(LINES)), flipped(gzip.compress(LINES)), gzip.compress(LINES)[:-4]],
    "clicks.csv.bz2": [damaged(bz2.compress(LINES)), flipped(bz2.compress(LINES))],
    "clicks.csv.xz": [damaged(lzma.compress(LINES)), flipped(lzma.compress(LINES))],
    "toy.zip": [damaged(FORMS["toy.zip"]), flipped(FORMS["toy.zip"]), flipped(FORMS["stored.zip"]), b"PK\x03\x04"],
    "toy.tar": [damaged(FORMS["toy.tar"]), tarred(FILES)[:700], tarred({"a": b"1", **FILES})[:1024] + b"x" * 9000],
    "toy.tar.gz": [
        damaged(FORMS["toy.tar.gz"]), flipped(FORMS["toy.tar.gz"]), FORMS["toy.tar.gz"][:-6],
        flipped(targz({"clicks.csv": NOISE})), targz({"clicks.csv": NOISE})[:-8] + b"12345678",
    ],
    "kaggle.zip": [
        zipped({"clicks.csv.zip": damaged(FORMS["clicks.csv.zip"])}), flipped(FORMS["kaggle.zip"], 0.3),
        zipped({"clicks.csv.gz": damaged(FORMS["clicks.csv.gz"])}), zipped({"inner.zip": damaged(FORMS["toy.zip"])}),
    ],
}  # fmt: skip


@pytest.mark.parametrize(
    "name, number", [(name, number) for name, forms in DAMAGED.items() for number in range(len(forms))]
)
def test_damage_is_told_whenever_it_shows(tmp_path, name, number):
    write(tmp_path, {name: DAMAGED[name][number]})
    told = rf"{tmp_path / name}.* is damaged, or its download is not complete \(.+\): remove it and download it again"
    with pytest.raises(UserError, match=told), open_member(tmp_path / name, ["clicks.csv"]) as stream:
        while stream.read(1 << 12):
            pass


def test_damage_shows_through_a_reader_of_formats(tmp_path):
    write(tmp_path, {"clicks.csv.gz": damaged(gzip.compress(b"user,item\n" + LINES * 100))})
    with pytest.raises(UserError, match=r"clicks.csv.gz is damaged"), open_member(tmp_path, ["clicks.csv"]) as stream:
        for _ in file_readers.read_delimited(
            stream, {"user": pa.string(), "item": pa.string()}, file_readers.ReadCounts()
        ):
            pass


def test_a_reader_of_formats_reads_it(tmp_path):
    write(tmp_path, {"toy.zip": zipped({"clicks.csv": b"user,item\n" + LINES, "log.json": b'{"user": "u"}\n' * 10})})
    seen = file_readers.ReadCounts()
    with open_member(tmp_path, ["clicks.csv"]) as stream:
        batches = list(file_readers.read_delimited(stream, {"user": pa.string()}, seen))
    assert sum(len(batch) for batch in batches) == seen.rows == 20_000
    with open_member(tmp_path, ["log.json"]) as stream:
        assert sum(len(batch) for batch in file_readers.read_json_lines(stream, {"user": pa.string()}, seen)) == 10
    with open_member(tmp_path, ["clicks.csv"]) as stream:
        assert stream.readline() == b"user,item\n" and stream.read1(3) == b"u0," and stream.readable()
        buffer = bytearray(4)
        assert stream.readinto(buffer) == 4 and bytes(buffer) == b"i0\nu"


def test_the_user_s_mistakes_are_told(tmp_path):
    page = b"\n<!DOCTYPE html><html>log in</html>"
    write(
        tmp_path,
        {"toy.zip": page, "clicks.csv.gz": page, "clicks.csv": page, "my.tgz": b"text", "a.rar": b"Rar!\x1a\x07"},
    )
    for name in ("toy.zip", "clicks.csv.gz", "clicks.csv"):
        with (
            pytest.raises(UserError, match=rf"{name} is a web page .*login"),
            open_member(tmp_path / name, ["clicks.csv"]),
        ):
            pass
    with pytest.raises(UserError, match=r"my.tgz is no archive, for it begins with b'text'"):
        open_member(tmp_path / "my.tgz", ["clicks.csv"]).__enter__()
    with pytest.raises(UserError, match=r"a.rar is a rar, which cannot be read here: unpack it, and give the folder"):
        open_member(tmp_path / "a.rar", ["clicks.csv"]).__enter__()
    write(tmp_path, {"plain.csv.gz": LINES})  # some browsers unpack what they download, and keep its name
    with open_member(tmp_path / "plain.csv.gz", ["plain.csv"]) as stream:
        assert stream.read() == LINES


def test_an_encrypted_zip_is_told(tmp_path):
    content = bytearray(zipped({"clicks.csv": LINES}))
    content[6] |= 1  # of the file's head
    content[content.rindex(b"PK\x01\x02") + 8] |= 1  # and of the directory
    write(tmp_path, {"toy.zip": bytes(content)})
    with pytest.raises(UserError, match=r"cannot be unpacked here \(.*encrypted.*\): unpack it, and give the folder"):
        open_member(tmp_path / "toy.zip", ["clicks.csv"]).__enter__()


def test_what_cannot_be_read_is_told(tmp_path, monkeypatch):
    write(tmp_path, {"clicks.csv": LINES})

    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("builtins.open", refuse)
    monkeypatch.setattr(archive, "open", refuse, raising=False)
    with pytest.raises(UserError, match=r"clicks.csv cannot be read: .*Permission denied"):
        open_member(tmp_path / "clicks.csv", ["clicks.csv"]).__enter__()


@pytest.mark.parametrize("name", ["../../evil.csv", "/tmp/evil.csv", "..\\evil.csv", "C:\\evil.csv"])
def test_paths_in_archives_lead_nowhere(tmp_path, name, monkeypatch):
    work = tmp_path / "a" / "b"
    write(work, {"bad.zip": zipped({name: b"evil"}), "bad.tar": tarred({name: b"evil"})})
    monkeypatch.chdir(work)
    for raw in ("bad.zip", "bad.tar"):
        with open_member(work / raw, ["evil.csv"]) as stream:
            assert stream.read() == b"evil"
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["a", "b", "bad.tar", "bad.zip"]


def test_links_in_a_tar_are_not_followed(tmp_path):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("clicks.csv")
        info.type, info.linkname = tarfile.SYMTYPE, "/etc/passwd"
        file.addfile(info)
    write(tmp_path, {"toy.tar": buffer.getvalue()})
    with pytest.raises(UserError, match=r"no 'clicks.csv'"), open_member(tmp_path / "toy.tar", ["clicks.csv"]):
        pass


def test_a_copy_of_an_inner_archive_has_no_name_and_lies_beside_it(tmp_path, monkeypatch):
    write(tmp_path, {"zip_in.zip": FORMS["zip_in.zip"]})
    asked, temporary = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **given: asked.append(given) or temporary(**given))
    with open_member(tmp_path / "zip_in.zip", ["clicks.csv"]) as stream:
        assert [path.name for path in tmp_path.iterdir()] == ["zip_in.zip"]
        assert stream.read(2) == b"u0"
    assert asked == [{"dir": tmp_path}] * 2

    def no_space(**given):
        if given:
            raise PermissionError(13, "a folder that cannot be written")
        return temporary()

    monkeypatch.setattr(tempfile, "TemporaryFile", no_space)
    with open_member(tmp_path / "zip_in.zip", ["clicks.csv"]) as stream:
        assert stream.read() == LINES


def test_what_lies_beside_does_not_disturb(tmp_path):
    write(tmp_path, {
        "clicks.csv": LINES, "clicks.csv.part": b"1", "clicks.csv.sha256": b"2", ".clicks.csv.json": b"3",
        ".hidden/clicks.csv": b"4", "broken.zip": b"PK\x03\x04", "data.7z": b"7z\xbc\xaf\x27\x1c",
    })  # fmt: skip
    with open_members(tmp_path, "clicks.csv*") as members:
        assert [stream.read() for _, stream in members] == [LINES]
    with pytest.raises(UserError, match=r"broken.zip is damaged"), open_member(tmp_path, ["other.csv"]):
        pass


def test_without_py7zr_the_message_is_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "py7zr", None)
    write(tmp_path, {"toy.7z": b"7z\xbc\xaf\x27\x1c" + b"\0" * 100})
    told = r"toy.7z needs the package py7zr: pip install 'py7zr>=1'. Or run 7z x .*toy.7z, and give the folder"
    for raw in (tmp_path / "toy.7z", tmp_path):
        with pytest.raises(UserError, match=told), open_member(raw, ["clicks.csv"]):
            pass


def test_7z_with_py7zr(tmp_path):
    with py7zr.SevenZipFile(tmp_path / "toy.7z", "w") as file:
        for name, content in {**FILES, **PARTS, "sub/in.csv.gz": gzip.compress(b"in")}.items():
            file.writestr(content, name)
    with open_member(tmp_path / "toy.7z", ["clicks.csv"]) as stream:
        assert stream.read() == LINES
    with open_member(tmp_path, ["in.csv"]) as stream:
        assert stream.read() == b"in"
    with open_members(tmp_path / "toy.7z", "clicks_hour_*.csv") as members:
        assert [stream.read() for _, stream in members] == [b"0", b"1", b"2", b"10", b"33"]
    write(tmp_path, {"outer.zip": zipped({"toy.7z": (tmp_path / "toy.7z").read_bytes()})})
    with open_member(tmp_path / "outer.zip", ["clicks.csv"]) as stream:
        assert stream.read() == LINES
    whole = (tmp_path / "toy.7z").read_bytes()
    for bad in (damaged(whole), flipped(whole, 0.2)):
        write(tmp_path, {"bad.7z": bad})
        with (
            pytest.raises(UserError, match=r"bad.7z.* is damaged"),
            open_member(tmp_path / "bad.7z", ["clicks.csv"]) as s,
        ):
            s.read()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["bad.7z", "outer.zip", "toy.7z"]
