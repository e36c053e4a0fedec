"""Downloads, against a server of this process that drops, changes and refuses what it is told to."""

import errno
import hashlib
import http.server
import json
import re
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager

import pytest

from recbole_gen.prepare import download
from recbole_gen.prepare.download import DownloadError, download_file, sha256_of

BODY = bytes(range(256)) * 4096  # 1 MiB
OTHER = BODY[::-1]
MD5 = hashlib.md5(BODY).hexdigest()
SHA256 = hashlib.sha256(BODY).hexdigest()


class Server(http.server.ThreadingHTTPServer):
    """Serves `body` under any path.

    Attributes:
        drops: for each of the next requests, after how many bytes the connection ends.
        statuses: for the next requests, what they are answered with in place of the file.
        ranges, tag, modified, length, kind: what the server can do, and what it says of the file.
        asked: (path, headers) of each request.
        gate: an event that the second half of a body waits for.
    """

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.body, self.drops, self.statuses, self.asked = BODY, [], [], []
        self.ranges, self.tag, self.modified, self.length = True, '"v1"', None, True
        self.kind, self.encoding, self.redirect, self.gate, self.wrong_range = (
            "application/zip",
            None,
            None,
            None,
            False,
        )

    def url(self, path="/sets/toy.zip"):
        return f"http://127.0.0.1:{self.server_port}{path}"


class Handler(http.server.BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, dict(self.headers)))
        if server.redirect and self.path != server.redirect:
            self.send_response(302)
            self.send_header("Location", server.redirect)
            return self.end_headers()
        if server.statuses:
            self.send_response(server.statuses.pop(0))
            return self.end_headers()
        body, start = server.body, 0
        asked = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if asked and server.ranges and self.headers.get("If-Range") in (server.tag, server.modified):
            start = int(asked[1])
        if start >= len(body):
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{len(body)}")
            return self.end_headers()
        if start:
            self.send_response(206)
            first = 0 if server.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        for key, value in (("ETag", server.tag), ("Last-Modified", server.modified), ("Content-Type", server.kind)):
            if value:
                self.send_header(key, value)
        if server.encoding:
            self.send_header("Content-Encoding", server.encoding)
        rest = body[start:]
        if server.length:
            self.send_header("Content-Length", str(len(rest)))
        self.end_headers()
        if server.drops:
            rest = rest[: server.drops.pop(0)]
        half = len(rest) // 2
        self.wfile.write(rest[:half])
        self.wfile.flush()
        if server.gate:
            server.gate.wait(30)
        self.wfile.write(rest[half:])


@pytest.fixture
def server(monkeypatch):
    monkeypatch.delenv("RECBOLE_GEN_OFFLINE")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    with serving() as server:
        yield server


@contextmanager
def serving():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def told():
    return []


@pytest.fixture
def get(server, tmp_path, told):
    return lambda **more: download_file(server.url(), tmp_path / "raw", say=told.append, **more)


def ranges(server):
    return [headers.get("Range") for _, headers in server.asked]


def names(folder):
    """What is in a folder; what was begun for nothing leaves none."""
    if not folder.exists():
        return []
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


def test_a_file_is_fetched_once(get, server, tmp_path, told, capfd):
    path = get(md5=MD5.upper())
    assert path == tmp_path / "raw/toy.zip" and path.read_bytes() == BODY
    assert names(path.parent) == [".toy.zip.json", "toy.zip", "toy.zip.sha256"]
    assert (path.parent / "toy.zip.sha256").read_text() == f"{SHA256}  toy.zip\n" and sha256_of(path) == SHA256
    assert json.loads((path.parent / ".toy.zip.json").read_text()) == {
        "url": server.url(), "size": len(BODY), "sha256": SHA256, "md5": MD5,
    }  # fmt: skip
    assert told == [f"downloading {server.url()} (1.0 MB) to {path}", f"downloaded {path} (1.0 MB)"]
    assert get() == get(md5=MD5) == path and len(server.asked) == 1
    assert capfd.readouterr() == ("", "")  # no bar, for this is no terminal


def test_sha256sum_reads_the_note(get, tmp_path):
    done = subprocess.run(["sha256sum", "-c", "toy.zip.sha256"], cwd=get().parent, capture_output=True, text=True)
    assert done.stdout == "toy.zip: OK\n" and done.stderr == ""


@pytest.mark.parametrize("version", [{}, {"tag": None, "modified": "Wed, 01 Jan 2025 00:00:00 GMT"}])
def test_what_is_cut_off_goes_on(get, server, told, version):
    for key, value in version.items():
        setattr(server, key, value)
    server.drops = [1000, 300_000]
    assert get(md5=MD5).read_bytes() == BODY
    assert ranges(server) == [None, "bytes=1000-", "bytes=301000-"]
    assert server.asked[1][1]["If-Range"] == version.get("modified", '"v1"')
    assert sum("trying again" in line for line in told) == 2


def test_a_weak_tag_is_no_version(get, server):
    server.tag, server.drops = 'W/"v1"', [1000]
    assert get().read_bytes() == BODY and ranges(server) == [None, None]


def test_a_body_that_stays_short_is_an_error_and_kept(get, server, tmp_path):
    server.drops = [1000] * 5
    with pytest.raises(DownloadError, match=rf"{server.url()} could not be downloaded: .*toy.zip.part, and the same"):
        get()
    assert (tmp_path / "raw/toy.zip.part").read_bytes() == BODY[:5000]
    assert not (tmp_path / "raw/toy.zip").exists()
    assert get().read_bytes() == BODY and ranges(server)[-1] == "bytes=5000-"


def test_as_long_as_there_is_progress_it_goes_on(get, server, monkeypatch):
    monkeypatch.setattr(download, "MIN_PROGRESS", 1000)
    server.drops = [1000] * 20
    assert get().read_bytes() == BODY and len(server.asked) == 21


@pytest.mark.parametrize("change", [{"ranges": False}, {"tag": '"v2"', "body": OTHER}, {"wrong_range": True}])
def test_a_changed_file_and_a_server_without_ranges_begin_anew(get, server, told, change):
    server.drops = [5000] * 5
    with pytest.raises(DownloadError):
        get()
    for key, value in change.items():
        setattr(server, key, value)
    path = get()
    assert path.read_bytes() == server.body and sha256_of(path) == hashlib.sha256(server.body).hexdigest()
    assert any("from its beginning" in line or "another part" in line for line in told)


def test_a_shorter_file_on_the_server_begins_anew(get, server):
    server.drops = [5000] * 5
    with pytest.raises(DownloadError):
        get()
    server.body = BODY[:100]
    assert get().read_bytes() == BODY[:100]


def test_a_part_of_another_url_is_not_gone_on_with(server, tmp_path, told):
    server.drops = [5000] * 5
    with pytest.raises(DownloadError):
        download_file(server.url("/a/x.zip"), tmp_path, say=told.append)
    assert download_file(server.url("/b/x.zip"), tmp_path, say=told.append).read_bytes() == BODY
    assert ranges(server)[-1] is None
    again = download_file(server.url("/a/x.zip"), tmp_path, say=told.append)  # one more of that name
    assert again.read_bytes() == BODY
    assert len(server.asked) == 7


def test_what_was_killed_before_its_last_rename_is_taken(get, server, tmp_path):
    path = get()
    part = tmp_path / "raw/toy.zip.part"
    path.rename(part)
    note = {"url": server.url(), "size": len(BODY), "version": server.tag}
    (tmp_path / "raw/toy.zip.part.json").write_text(json.dumps(note))
    assert get(md5=MD5).read_bytes() == BODY and not part.exists()


def test_without_a_length_the_end_is_the_end(get, server):
    server.length = False
    assert get().read_bytes() == BODY


def test_bytes_are_kept_as_they_are_sent(get, server):
    server.encoding = "gzip"  # a .gz that the server calls compressed text, and that requests would unpack
    assert get().read_bytes() == BODY and server.asked[0][1]["Accept-Encoding"] == "identity"


def test_a_wrong_sum_names_both_and_removes_the_file(get, server, tmp_path):
    with pytest.raises(DownloadError, match=rf"md5 sum {MD5}, and its publisher says {'0' * 32}; it was removed"):
        get(md5="0" * 32)
    assert names(tmp_path / "raw") == []
    assert get().exists()
    with pytest.raises(DownloadError, match=rf"toy.zip has the md5 sum {MD5}, .*remove it"):
        get(md5="0" * 32)


def test_a_file_put_there_by_hand_is_taken(get, server, tmp_path, monkeypatch):
    server.drops = [5000] * 5
    with pytest.raises(DownloadError) as error:
        get()
    path = tmp_path / "raw/toy.zip"
    assert f"save it as {path}, or save it anywhere" in str(error.value)
    path.write_bytes(OTHER)
    asked = len(server.asked)
    assert get().read_bytes() == OTHER and len(server.asked) == asked
    assert names(path.parent) == [".toy.zip.json", "toy.zip", "toy.zip.sha256"]
    assert sha256_of(path) == hashlib.sha256(OTHER).hexdigest()


def test_a_file_of_another_size_than_noted_is_fetched_again(get, server):
    path = get()
    path.write_bytes(BODY[:-1])
    assert sha256_of(path) == hashlib.sha256(BODY[:-1]).hexdigest()
    assert get().read_bytes() == BODY and len(server.asked) == 2


@pytest.mark.parametrize("status, answer", [(404, "404 Not Found"), (403, "403 Forbidden"), (401, "401")])
def test_a_refusal_is_an_error_at_once(get, server, tmp_path, status, answer):
    server.statuses = [status] * 2
    message = (
        rf"{server.url()} could not be downloaded: the server answers {answer}.*\. To fetch it by hand.*--raw=PATH"
    )
    with pytest.raises(DownloadError, match=message):
        get()
    assert len(server.asked) == 1 and names(tmp_path / "raw") == []


def test_a_busy_server_is_asked_again(get, server):
    server.statuses = [503, 429, 500]
    assert get().read_bytes() == BODY
    server.statuses = [503] * 5
    with pytest.raises(DownloadError, match="the server answers 503 Service Unavailable"):
        download_file(server.url("/b.zip"), get().parent)


def test_a_web_page_is_no_archive(get, server, tmp_path):
    server.kind = "text/html; charset=utf-8"
    with pytest.raises(DownloadError, match="web page in its place, which may ask for a login"):
        get()
    assert names(tmp_path / "raw") == []
    assert download_file(server.url("/page.html"), tmp_path).read_bytes() == BODY


def test_a_web_page_does_not_cost_what_has_arrived(get, server, tmp_path):
    server.drops = [1000] * 5
    with pytest.raises(DownloadError):
        get()
    server.ranges, server.kind = False, "text/html"  # the page of a hotel's network, say
    with pytest.raises(DownloadError, match=r"web page.*What has arrived is kept"):
        get()
    server.ranges, server.kind = True, "application/zip"
    assert get().read_bytes() == BODY and ranges(server)[-1] == "bytes=5000-"


def test_redirects_are_followed(get, server):
    server.redirect, server.drops = "/elsewhere/file", [1000]
    path = get()
    assert path.name == "toy.zip" and path.read_bytes() == BODY and ranges(server)[-1] == "bytes=1000-"


def test_the_name_may_be_given(server, tmp_path):
    url = server.url("/download?p=%2Finter_impression.csv.gz&dl=1")
    assert download_file(url, tmp_path, name="inter_impression.csv.gz").name == "inter_impression.csv.gz"
    assert download_file(server.url("/a/with%20blank.zip?x=1"), tmp_path).name == "with blank.zip"


@pytest.mark.parametrize("url", ["https://host/", "https://host", "https://host/a/%2e%2e", "https://host/..%2fup.zip"])
def test_without_a_name_there_is_no_file(tmp_path, url):
    if url.endswith("up.zip"):
        assert download._file_name_of(url) == "up.zip"
        return
    with pytest.raises(DownloadError, match="does not end with the name of a file"):
        download_file(url, tmp_path)


@pytest.mark.parametrize("url", ["ftp://host/x.zip", "file:///etc/passwd", "x.zip"])
def test_other_schemes_are_refused(server, tmp_path, url):
    with pytest.raises(DownloadError, match="only http and https"):
        download_file(url, tmp_path)


def test_no_server_is_told_plainly(server, tmp_path, monkeypatch):
    with serving() as gone:
        url = gone.url()
    with pytest.raises(DownloadError, match=r"could not be downloaded: the server cannot be reached \(.*refused\)"):
        download_file(url, tmp_path)
    told = r"the server cannot be reached \(.*resol"
    with pytest.raises(DownloadError, match=told) as error:
        download_file("http://nowhere.invalid/x.zip", tmp_path)
    assert "0x" not in str(error.value) and "Pool" not in str(error.value)
    monkeypatch.setenv("HTTP_PROXY", url)
    with pytest.raises(DownloadError, match="the proxy fails"):
        download_file("http://nowhere.invalid/x.zip", tmp_path)


def test_a_server_that_sends_nothing_is_told(get, server, monkeypatch):
    monkeypatch.setattr(download, "READ_TIMEOUT", 0.2)
    monkeypatch.setattr(download, "MAX_FAILURES", 2)
    server.gate = threading.Event()
    with pytest.raises(DownloadError, match=r"the server sent nothing for 0.2 s\. What has arrived is kept"):
        get()
    server.gate.set()
    assert get().read_bytes() == BODY


def test_offline_means_offline(get, server, tmp_path, monkeypatch):
    monkeypatch.setenv("RECBOLE_GEN_OFFLINE", "1")
    with pytest.raises(DownloadError, match=rf"{server.url()} could not .*RECBOLE_GEN_OFFLINE forbids it.*save it as"):
        get()
    assert server.asked == [] and not (tmp_path / "raw").exists()
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/toy.zip").write_bytes(BODY)
    assert get(md5=MD5).read_bytes() == BODY
    monkeypatch.setenv("RECBOLE_GEN_OFFLINE", "0")
    assert download_file(server.url("/other.zip"), tmp_path).read_bytes() == BODY


def test_a_full_disk_is_told(get, server, tmp_path, monkeypatch):
    free = download.shutil.disk_usage(tmp_path)
    monkeypatch.setattr(download.shutil, "disk_usage", lambda _: free._replace(free=1000))
    with pytest.raises(DownloadError, match=r"1\.0 MB are missing, and .*raw has 0\.0 MB"):
        get()
    monkeypatch.undo()
    monkeypatch.delenv("RECBOLE_GEN_OFFLINE")

    def full(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download.os, "fsync", full)
    with pytest.raises(DownloadError, match=r"there is no space left in .*raw\. What has arrived is kept"):
        get()


def test_what_cannot_be_written_is_told(get, tmp_path):
    (tmp_path / "raw").mkdir()
    (tmp_path / "raw/toy.zip.part").mkdir()
    (tmp_path / "raw/toy.zip.part.json").write_text("{}")
    with pytest.raises(DownloadError, match=r"toy\.zip cannot be written"):
        get()


CHILD = """
import sys
from pathlib import Path
from recbole_gen import cli
from recbole_gen.prepare.download import download_file
download_file(sys.argv[1], Path(sys.argv[2]))
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_ctrl_c_and_a_kill_keep_what_has_arrived(server, tmp_path, number, default_sigint):
    server.gate = threading.Event()
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, server.url(), str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    part = tmp_path / "toy.zip.part"
    for _ in range(1000):
        if part.exists() and part.stat().st_size:
            break
        time.sleep(0.02)
    process.send_signal(number)
    process.communicate(timeout=30)
    server.gate.set()
    arrived = part.stat().st_size
    assert 0 < arrived <= len(BODY) // 2 and process.returncode != 0
    assert download_file(server.url(), tmp_path, MD5).read_bytes() == BODY
    assert ranges(server)[-1] == f"bytes={arrived}-"


def test_of_two_that_want_a_file_one_fetches_it(server, tmp_path):
    server.gate, told = threading.Event(), [[], []]
    threads = [threading.Thread(target=download_file, args=(server.url(), tmp_path, MD5, each.append)) for each in told]
    for thread in threads:
        thread.start()
    for _ in range(500):
        if any("waiting for" in line for each in told for line in each):
            break
        time.sleep(0.01)
    server.gate.set()
    for thread in threads:
        thread.join()
    assert len(server.asked) == 1 and (tmp_path / "toy.zip").read_bytes() == BODY
    assert sorted(len(each) for each in told) == [1, 2]


def test_on_a_terminal_there_is_a_bar(get, monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    get()
    assert "toy.zip: 100%" in capsys.readouterr().err
