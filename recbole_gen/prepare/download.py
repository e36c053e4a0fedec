"""Files from publishers' servers: resumed where they were cut off, checked, and used again once they are whole.

Beside a file NAME lie NAME.sha256 (as of sha256sum) and .NAME.json (its URL and size); while it is fetched, NAME.part
and NAME.part.json (its URL, size and version on the server).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from tqdm import tqdm

from recbole_gen import __version__
from recbole_gen.errors import UserError
from recbole_gen.files import CANNOT_WRITE_ERRORS, read_json, write_json, write_text
from recbole_gen.prepare.dataset_folder import exclusive_lock

DOWNLOADS_FOLDER = ".downloads"
"""Folder under the data path that keeps what was fetched."""
OFFLINE_VARIABLE = "RECBOLE_GEN_OFFLINE"
"""With this environment variable set (and not 0), nothing is fetched."""
CONNECT_TIMEOUT, READ_TIMEOUT = 15, 60
"""Seconds to wait for a server to answer, and for more of a file."""
MAX_FAILURES = 5
"""How often in a row a file may be cut off, or its server be busy, with less than MIN_PROGRESS more of it."""
MIN_PROGRESS = 1 << 20
RETRY_PAUSE = 1.0
"""Seconds before the second try; each further one waits twice as long."""
BLOCK = 1 << 18
HINT_BY_HAND = ", or save it anywhere and give it to `recbole-gen prepare` as --raw=PATH"
_BUSY_STATUS = (429, 500, 502, 503, 504)


class DownloadError(UserError):
    """What could not be fetched: the message says why, and how to fetch it by hand."""


class _CutOff(Exception):
    """The transfer has ended early and may go on; the message says why."""


class _Refused(Exception):
    """Another try would end the same way; the message says why."""


def is_offline() -> bool:
    """Whether the user forbids to fetch anything."""
    return os.environ.get(OFFLINE_VARIABLE, "0") not in ("", "0")


def download_file(
    url: str,
    folder: Path,
    md5: str | None = None,
    say: Callable[[str], None] = print,
    name: str | None = None,
    cure: str = HINT_BY_HAND,
) -> Path:
    """The file at ``url``, in ``folder``; what is there whole already is not fetched again.

    A file without notes of ours was put there by hand, and is taken as it is. Ctrl-C and errors keep what has arrived,
    and the next call goes on from there if the server still has the same file.

    Args:
        md5: what the publisher says; without one the file is taken as it comes.
        name: of the file, where the last part of the URL's path is none.
        cure: what messages add to where a file that was fetched by hand goes.

    Raises DownloadError if the file cannot be fetched, is not the one wanted, or there is no space for it.
    """
    path = Path(folder) / (name or _file_name_of(url))
    if urlsplit(url).scheme not in ("http", "https"):
        raise DownloadError(f"{url} is not fetched: only http and https are")
    forbidden = DownloadError(
        _failure_message(url, path, cure, f"the environment variable {OFFLINE_VARIABLE} forbids it")
    )
    if is_offline() and not path.exists():
        raise forbidden  # before a folder and a lock are made
    with exclusive_lock(path.with_name(f".{path.name}.lock"), str(path), say):
        try:
            if _is_whole(path, url, md5):
                return path
            if is_offline():
                raise forbidden
            transfer = _Transfer(url, path, say)
            _transfer_with_retries(transfer)
            _accept_whole_file(transfer, md5)
        except (_CutOff, _Refused) as error:
            raise DownloadError(_failure_message(url, path, cure, str(error))) from None
        except OSError as error:
            if error.errno in CANNOT_WRITE_ERRORS:
                raise DownloadError(
                    _failure_message(url, path, cure, f"there is no space left in {path.parent}")
                ) from None
            raise DownloadError(_failure_message(url, path, cure, f"{path} cannot be written ({error})")) from None
    return path


def sha256_of(path: Path) -> str:
    """The sha256 of a file: from the notes of `download_file` where they are of this size, else read anew."""
    known = read_json(_metadata_file(path))
    if known.get("sha256") and known.get("size") == path.stat().st_size:
        return known["sha256"]
    return _digests(path)[0].hexdigest()


def _failure_message(url: str, path: Path, cure: str, cause: str) -> str:
    kept = ""
    if _part_file(path).exists():
        kept = f" What has arrived is kept in {_part_file(path)}, and the same command goes on there."
    return f"{url} could not be downloaded: {cause}.{kept} To fetch it by hand, save it as {path}{cure}"


def _file_name_of(url: str) -> str:
    name = unquote(urlsplit(url).path).rpartition("/")[2]
    if name in ("", ".", "..") or re.search(r"[/\\\x00-\x1f]", name):
        raise DownloadError(f"{url} does not end with the name of a file")
    return name


# Whole files and their notes


def _metadata_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.json")


def _sha256_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _part_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


def _part_metadata_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.part.json")


def _is_whole(path: Path, url: str, md5: str | None) -> bool:
    """Whether the file is there; one that was put there by hand gets its notes."""
    if not path.is_file():
        return False
    known, md5 = read_json(_metadata_file(path)), md5 and md5.lower()
    if known and (known.get("url") != url or known.get("size") != path.stat().st_size):
        return False
    if known and md5 in (None, known.get("md5")):
        return True
    sha256, found = _digests(path)
    if md5 and found.hexdigest() != md5:
        raise DownloadError(
            f"{path} has the md5 sum {found.hexdigest()}, and its publisher says {md5}: remove it, and the same "
            f"command downloads it from {url}"
        )
    _write_metadata(path, url, sha256.hexdigest(), md5, path.stat().st_size)
    for rest in (_part_file(path), _part_metadata_file(path)):
        rest.unlink(missing_ok=True)
    return True


def _digests(path: Path) -> tuple[Any, Any]:
    """sha256 and md5 of what there is of a file."""
    digests = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        while block := file.read(1 << 20):
            for digest in digests:
                digest.update(block)
    return digests


def _write_metadata(path: Path, url: str, sha256: str, md5: str | None, size: int) -> None:
    write_text(_sha256_file(path), f"{sha256}  {path.name}\n")
    write_json(_metadata_file(path), {"url": url, "size": size, "sha256": sha256, "md5": md5})


def _accept_whole_file(transfer: _Transfer, md5: str | None) -> None:
    """Give a whole file its name. Its notes come first: a file without any would be one that was put there by hand."""
    found = transfer.md5.hexdigest()
    if md5 and found != md5.lower():
        transfer.discard()
        raise _Refused(
            f"what arrived has the md5 sum {found}, and its publisher says {md5.lower()}; it was "
            f"removed. The publisher has changed the file, or something on the way has"
        )
    path = transfer.path
    path.unlink(missing_ok=True)
    _write_metadata(path, transfer.url, transfer.sha256.hexdigest(), md5 and md5.lower(), transfer.size)
    os.replace(transfer.part, path)
    transfer.part_metadata.unlink(missing_ok=True)
    transfer.say(f"downloaded {path} ({_format_size(path.stat().st_size)})")


# The transfer


def _transfer_with_retries(transfer: _Transfer) -> None:
    """Fetch what is missing, in several goes if need be. Raises _CutOff and _Refused."""
    most, failures = transfer.size, 0
    while True:
        try:
            return transfer.request_rest()
        except _CutOff as error:
            failures = 1 if transfer.size >= most + MIN_PROGRESS else failures + 1
            most = max(most, transfer.size)
            if failures == MAX_FAILURES:
                raise
            transfer.say(f"{error}; trying again")
            time.sleep(min(2 ** (failures - 1), 30) * RETRY_PAUSE)


class _Transfer:
    """What there is of a file, and how to get the rest of it.

    Attributes:
        size: bytes that have arrived.
        sha256, md5: of these.
    """

    def __init__(self, url: str, path: Path, say: Callable[[str], None]):
        self.url, self.path, self.say = url, path, say
        self.part, self.part_metadata = _part_file(path), _part_metadata_file(path)
        self.size = 0
        self.answered = False
        if read_json(self.part_metadata).get("url") != url:
            self.discard()
        elif self.part.is_file():
            self.size = self.part.stat().st_size
        self.sha256, self.md5 = _digests(self.part)

    def discard(self) -> None:
        """Remove what has arrived, to begin anew."""
        self.part.unlink(missing_ok=True)
        self.part_metadata.unlink(missing_ok=True)
        self.size = 0
        self.sha256, self.md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)

    def request_rest(self) -> None:
        """One request; returns once the file is whole. Raises _CutOff and _Refused."""
        import requests
        import urllib3

        known = read_json(self.part_metadata)
        version = known.get("version")
        if self.size and not version:
            self.discard()  # nothing says whether the rest would be of the same file
        headers: dict[str, Any] = {"User-Agent": f"recbole-gen/{__version__}", "Accept-Encoding": "identity"}
        if self.size:
            headers.update({"Range": f"bytes={self.size}-", "If-Range": version})
        try:
            with requests.get(
                self.url, headers=headers, stream=True, timeout=(CONNECT_TIMEOUT, READ_TIMEOUT)
            ) as response:
                if self._has_content(response):
                    self._receive(response)
        except requests.RequestException as error:
            if self.answered and isinstance(error, (requests.ConnectionError, requests.Timeout)):
                raise _CutOff(_describe_error(error)) from None
            raise _Refused(_describe_error(error)) from None
        except urllib3.exceptions.HTTPError as error:
            raise _CutOff(_describe_error(error)) from None

    def _has_content(self, response: Any) -> bool:
        """Whether the response has (the rest of) the file; False if nothing is missing. Raises _CutOff and _Refused."""
        status, known = response.status_code, read_json(self.part_metadata)
        total = re.fullmatch(r"bytes (?:(\d+)-\d+|\*)/(\d+|\*)", response.headers.get("Content-Range", ""))
        self.answered = True
        if status == 416 and self.size:
            if total and total[2] == str(self.size) and known.get("size") == self.size:
                return False  # it was killed between the last byte and the rename
            self.discard()
            raise _CutOff("the server has another file now")
        if status in _BUSY_STATUS:
            raise _CutOff(f"the server answers {status} {response.reason}")
        if status not in (200, 206):
            raise _Refused(f"the server answers {status} {response.reason}")
        kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
        if kind == "text/html" and not self.path.name.lower().endswith((".html", ".htm")):
            raise _Refused("the server sent a web page in its place, which may ask for a login or an agreement")
        if status == 206 and not (self.size and total and total[1] == str(self.size)):
            self.discard()
            raise _CutOff("the server sent another part than the one asked for")
        if status == 200 and self.size:
            self.say(f"{self.path.name} is downloaded from its beginning: the server has changed it, or cannot resume")
            self.discard()
        return True

    def _receive(self, response: Any) -> None:
        length = response.headers.get("Content-Length")
        whole = self.size + int(length) if length and length.isdecimal() else None
        # A weak ETag may stand for other bytes.
        tag = response.headers.get("ETag")
        version = tag if tag and not tag.startswith("W/") else response.headers.get("Last-Modified")
        version = version or (read_json(self.part_metadata).get("version") if self.size else None)
        write_json(self.part_metadata, {"url": self.url, "size": whole, "version": version})
        if whole is not None and whole - self.size > (free := shutil.disk_usage(self.path.parent).free):
            raise _Refused(
                f"{_format_size(whole - self.size)} are missing, and {self.path.parent} has {_format_size(free)}"
            )
        rest = f", from {_format_size(self.size)} on" if self.size else ""
        self.say(f"downloading {self.url} ({_format_size(whole)}{rest}) to {self.path}")
        with open(self.part, "ab") as file, self._progress_bar(whole) as bar:
            # Raw: servers that compress a file as they send it would change what a sum, or a range, is of.
            for block in response.raw.stream(BLOCK, decode_content=False):
                file.write(block)
                self.size += len(block)
                self.sha256.update(block)
                self.md5.update(block)
                bar.update(len(block))
            file.flush()
            os.fsync(file.fileno())
        if whole is not None and self.size != whole:
            raise _CutOff(f"{self.size} of {whole} bytes have arrived")

    @contextlib.contextmanager
    def _progress_bar(self, whole: int | None) -> Iterator[tqdm]:
        """A bar on a terminal, nothing elsewhere."""
        with tqdm(
            total=whole, initial=self.size, unit="B", unit_scale=True, unit_divisor=1024, desc=self.path.name,
            file=sys.stderr, disable=not sys.stderr.isatty(),
        ) as bar:  # fmt: skip
            yield bar


def _format_size(size: int | None) -> str:
    return "size unknown" if size is None else f"{size / 1e6:.1f} MB" if size < 1e9 else f"{size / 1e9:.1f} GB"


def _describe_error(error: Exception) -> str:
    """What has gone wrong, without the pool, the object and the address in hexadecimal that requests names."""
    import requests
    import urllib3

    if isinstance(error, requests.ConnectTimeout):
        return f"the server did not answer within {CONNECT_TIMEOUT} s"
    if isinstance(error, (requests.Timeout, urllib3.exceptions.ReadTimeoutError)):
        return f"the server sent nothing for {READ_TIMEOUT} s"
    reason: Any = error
    while True:
        inner = getattr(reason, "reason", None) or next(
            (arg for arg in reason.args if isinstance(arg, Exception)), None
        )
        if not isinstance(inner, Exception):
            break
        reason = inner
    text = re.sub(r"^<?[\w.]+\([^)]*\)>?: |^<[^>]*>: ", "", str(reason) or type(reason).__name__)
    kinds = {
        requests.exceptions.ProxyError: "the proxy fails",
        requests.exceptions.SSLError: "the server is not trusted",
    }
    kind = next((meaning for each, meaning in kinds.items() if isinstance(error, each)), None)
    kind = kind or ("the server cannot be reached" if isinstance(error, requests.ConnectionError) else "it was cut off")
    return f"{kind} ({text})"
