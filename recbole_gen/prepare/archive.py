"""Files inside of what a publisher offers: a file, a folder, or a zip, tar or 7z, also one in another; read as streams.

Nothing is unpacked under a name that an archive gives: what must lie on a disk lies in a file without a name.
"""

from __future__ import annotations

import bz2
import contextlib
import fnmatch
import gzip
import io
import lzma
import os
import re
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from recbole_gen.errors import UserError

DEPTH = 4
"""How many archives may lie in each other."""
SHOWN = 10
"""How many names a message lists."""
_PACKED: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ARCHIVES = (".zip", ".7z", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_MAGIC = {
    b"PK\x03\x04": ".zip", b"PK\x05\x06": ".zip", b"7z\xbc\xaf\x27\x1c": ".7z", b"\x1f\x8b": ".gz", b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz", b"Rar!": ".rar", b"\x28\xb5\x2f\xfd": ".zst",
}  # fmt: skip
"""How a file of each kind begins, whatever its name is."""
_UNKNOWN = (".rar", ".zst")
_DAMAGED: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError, lzma.LZMAError, OSError, RuntimeError,
    NotImplementedError, UnicodeError, struct.error,
)  # fmt: skip
"""What the standard library raises for damaged, encrypted and too new archives."""


class NotThere(UserError):
    """No file of these names is in there."""


@contextlib.contextmanager
def open_member(raw: Path, names: Sequence[str], renamed: bool = True) -> Iterator[BinaryIO]:
    """The first of these files that is in ``raw``, unpacked, to be read once from its beginning to its end.

    Args:
        raw: the file itself, a folder, or an archive; archives in it are opened where it has no such file itself.
        names: alternatives, the best first, without .gz or .zip; "train/clicks.csv" is that file of that folder alone.
        renamed: whether a plain file of any name is taken where one name alone is wanted: the user may have renamed it.

    Raises UserError if there is no such file or more than one, or if ``raw`` is damaged, also while it is read.
    """
    raw = Path(raw)
    plain = [_plain(name) for name in names]

    def pick(members: Sequence[_Member]) -> list[_Member]:
        for name in plain:
            if found := [member for member in members if _is(member.plain, name)]:
                return _best(found)
        takes_any = renamed and len(plain) == 1
        return [member for member in members if takes_any and member.place == str(raw)]

    with ExitStack() as stack:
        found = _search(raw, stack, pick, " or ".join(f"'{name}'" for name in plain))
        if len(found) > 1:
            places = _listed([member.place for member in found])
            raise UserError(f"{raw} has more than one '{_name(found[0])}': {places}. Give the one that is meant")
        yield stack.enter_context(_opened(found[0], raw))


@contextlib.contextmanager
def open_members(raw: Path, *patterns: str) -> Iterator[Iterator[tuple[str, BinaryIO]]]:
    """(name, stream) of all files in ``raw`` that one of the patterns is for, such as clicks_hour_*.csv.

    The names are plain, without folder, .gz or .zip; part_2 comes before part_10. A stream ends when the next is asked
    for. A .tar.gz whose files are in another order is read again for each of them.

    Raises UserError if there is no such file, or if ``raw`` is damaged, also while it is read.
    """
    raw = Path(raw)

    def pick(members: Sequence[_Member]) -> list[_Member]:
        same: dict[str, list[_Member]] = {}
        for member in members:
            if any(_matches(member.plain, _plain(pattern)) for pattern in patterns):
                same.setdefault(member.plain, []).append(member)
        return [each for alike in same.values() for each in _best(alike)]

    with ExitStack() as stack:
        found = _search(raw, stack, pick, " or ".join(patterns))
        members = _each(sorted(found, key=lambda member: _natural(member.plain)), raw)
        stack.callback(members.close)
        yield members


def _each(members: Sequence[_Member], raw: Path) -> Generator[tuple[str, BinaryIO], None, None]:
    for member in members:
        with _opened(member, raw) as stream:
            yield _name(member), stream


@dataclass(frozen=True)
class _Member:
    """A file somewhere in `raw`.

    Attributes:
        place: for messages, `raw` and the way from there.
        plain: its path in its archive or folder, without .gz or .zip.
        open: gives its bytes as they are, a new stream each time.
        rank: of two that are the same file, the lower one is taken.
    """

    place: str
    plain: str
    open: Callable[[], Any]
    rank: int = 0

    @property
    def is_archive(self) -> bool:
        return self.place.lower().endswith(_ARCHIVES)


def _plain(name: str) -> str:
    """A name without what packs the one file, as in ratings.csv.gz and ratings.csv.zip."""
    for suffix in (*_PACKED, ".zip", ".7z"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _name(member: _Member) -> str:
    return PurePosixPath(member.plain).name


def _slashes(path: str) -> str:
    """The path as zips should have it, which some programs on Windows write with backslashes."""
    return path.replace("\\", "/")


def _member(path: str, folder: str, opener: Callable[[], Any]) -> _Member:
    path = _slashes(path)
    plain = _plain(path)
    return _Member(f"{folder}/{path}" if folder else path, plain, opener, len(path) - len(plain))


def _is(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")


def _matches(path: str, pattern: str) -> bool:
    if "/" in pattern:
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")
    return fnmatch.fnmatchcase(PurePosixPath(path).name, pattern)


def _best(members: Sequence[_Member]) -> list[_Member]:
    """Without those that are another one packed, as ratings.csv.gz beside ratings.csv is."""
    plain = {}
    for member in sorted(members, key=lambda member: member.rank, reverse=True):
        plain[str(PurePosixPath(member.place).parent)] = member
    return sorted(plain.values(), key=lambda member: member.place)


def _natural(name: str) -> list[Any]:
    """Digits as numbers."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


# What there is

_Files = list[tuple[str, Callable[[], Any]]]  # path in the archive, and what opens it


def _search(raw: Path, stack: ExitStack, pick: Callable[[list[_Member]], list[_Member]], wanted: str) -> list[_Member]:
    """What ``pick`` takes of all files of `raw`, or else of those in the archives among them, and so on."""
    members, seen, problem = _top(raw, stack), [], None
    for _ in range(DEPTH + 1):
        if found := pick(members):
            return found
        seen += members
        inside: list[_Member] = []
        for member in members:
            if member.is_archive:
                try:
                    with _explaining(member.place):
                        inside += _inside(member, raw, stack) or []
                except UserError as error:
                    problem = problem or error  # of a file that may have nothing to do with it
        members = inside
    if problem:
        raise problem
    raise NotThere(_not_found([member.place.removeprefix(f"{raw}/") for member in seen], str(raw), wanted))


def _top(raw: Path, stack: ExitStack) -> list[_Member]:
    if raw.is_dir():
        paths = []
        for folder, _, files in os.walk(raw):
            paths += [Path(folder, file) for file in sorted(files)]
        names = [path.relative_to(raw).as_posix() for path in paths]
        return [
            _member(name, str(raw), partial(open, path, "rb"))
            for name, path in zip(names, paths)
            if not _is_beside_the_point(name)
        ]
    if not raw.is_file():
        raise UserError(f"there is no file or folder {raw}")
    whole = _Member(str(raw), _plain(raw.name), partial(open, raw, "rb"))
    with _explaining(str(raw)):
        inside = _inside(whole, raw, stack)
    return [whole] if inside is None else inside


def _is_beside_the_point(path: str) -> bool:
    """What macOS and our own downloads leave beside files."""
    parts = PurePosixPath(_slashes(path)).parts
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return hidden or "__MACOSX" in parts or path.endswith((".part", ".part.json", ".sha256"))


def _kind(stream: Any, place: str) -> str:
    """What a stream is by how it begins, where it is left: .zip, .7z, .tar (packed or not), .gz, .bz2, .xz, or "".

    Raises UserError for a web page that was saved under the name, and for what Python cannot read.
    """
    head = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    kind = _magic(head)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")) and not place.endswith((".html", ".htm")):
        raise UserError(
            f"{place} is a web page that was saved under this name; the site may ask for a login or an agreement. "
            f"Remove it and download the file again"
        )
    if kind in _UNKNOWN:
        raise UserError(_unpack_it(place, kind))
    if kind in _PACKED:
        with contextlib.suppress(*_DAMAGED), _PACKED[kind](stream) as unpacked:
            head = unpacked.read(tarfile.BLOCKSIZE)
        stream.seek(0)
    if _is_tar(head):
        return ".tar"
    if not kind and place.lower().endswith(_ARCHIVES):
        raise UserError(
            f"{place} is no archive, for it begins with {head[:16]!r}: remove it and download it again, or rename it"
        )
    return kind


def _magic(head: bytes) -> str:
    return next((kind for magic, kind in _MAGIC.items() if head.startswith(magic)), "")


def _is_tar(head: bytes) -> bool:
    """Whether a block is the head of a file in a tar; it has a check sum."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


def _inside(member: _Member, raw: Path, stack: ExitStack) -> list[_Member] | None:
    """The files of an archive; None if it is none."""
    with contextlib.closing(member.open()) as stream:
        kind = _kind(stream, member.place)
    if kind not in _OPENERS:
        return None
    files = _OPENERS[kind](member, raw, stack)
    return [_member(name, member.place, opener) for name, opener in files if not _is_beside_the_point(name)]


def _in_zip(member: _Member, raw: Path, stack: ExitStack) -> _Files:
    archive = stack.enter_context(zipfile.ZipFile(_seekable(member, raw, stack)))
    return [(info.filename, partial(archive.open, info)) for info in archive.infolist() if not info.is_dir()]


def _in_tar(member: _Member, raw: Path, stack: ExitStack) -> _Files:
    stream = _seekable(member, raw, stack)
    kind = _magic(stream.read(8))
    stream.seek(0)
    if kind in _PACKED:
        stream = stack.enter_context(_PACKED[kind](stream))
    archive = stack.enter_context(tarfile.TarFile(fileobj=stream))
    infos = [info for info in archive.getmembers() if info.isfile()]
    while rest := stream.read(1 << 20):  # to the end, where a packed one has its check sum
        if rest.strip(b"\0"):  # tarfile takes a damaged head in the middle for the end
            raise tarfile.ReadError("a damaged head")
    return [(info.name, partial(archive.extractfile, info)) for info in infos]


def _in_7z(member: _Member, raw: Path, stack: ExitStack) -> _Files:
    try:
        import py7zr
        import py7zr.io  # of version 1, which can write to a stream
    except ImportError:
        raise UserError(_unpack_it(member.place, ".7z")) from None
    stream = _seekable(member, raw, stack)
    with _explaining_7z(member.place), py7zr.SevenZipFile(stream) as archive:
        if archive.needs_password():
            raise UserError(_unpack_it(member.place, "7z with a password"))
        names = [info.filename for info in archive.list() if not info.is_directory]

    def unpacked(name: str) -> BinaryIO:
        file = _nameless(raw)
        stream.seek(0)
        with _explaining_7z(member.place), py7zr.SevenZipFile(stream) as archive:
            archive.extract(targets=[name], factory=_Factory(file))
        file.seek(0)
        return file

    return [(name, partial(unpacked, name)) for name in names]


_OPENERS = {".zip": _in_zip, ".tar": _in_tar, ".7z": _in_7z}


@contextlib.contextmanager
def _explaining_7z(place: str) -> Iterator[None]:
    """py7zr meets damage with exceptions of all kinds."""
    try:
        with _explaining(place):
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_damaged(place, error)) from None


class _Factory:
    """Where py7zr writes the one file that it unpacks."""

    def __init__(self, file: BinaryIO):
        self.file = file

    def create(self, name: str) -> Any:
        return self

    def write(self, data: bytes) -> int:
        return self.file.write(data)

    def read(self, size: int | None = None) -> bytes:
        return self.file.read(-1 if size is None else size)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def flush(self) -> None:
        self.file.flush()

    def close(self) -> None:
        """The file is read from now on."""

    def size(self) -> int:
        return os.fstat(self.file.fileno()).st_size


def _seekable(member: _Member, raw: Path, stack: ExitStack) -> Any:
    """The bytes of an archive: those of a file, or a copy where it lies in another archive."""
    stream = stack.enter_context(contextlib.closing(member.open()))
    if isinstance(stream, (io.BufferedReader, io.BufferedRandom)) and isinstance(stream.raw, io.FileIO):
        return stream
    copy = stack.enter_context(contextlib.closing(_nameless(raw)))
    shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


def _nameless(raw: Path) -> Any:
    """A file that is gone when it is closed, or its process is; on the disk of the archive, which has space."""
    folder = raw if raw.is_dir() else raw.absolute().parent
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


# Reading


@contextlib.contextmanager
def _opened(member: _Member, raw: Path) -> Iterator[Any]:
    """The content of a file, unpacked if it is a .gz, or an archive of one file."""
    with ExitStack() as stack:
        with _explaining(member.place):
            stream = stack.enter_context(contextlib.closing(member.open()))
            kind = _kind(stream, member.place)
            if kind in _OPENERS:
                stack.close()
                inside = _inside(member, raw, stack) or []
                wanted = [each for each in inside if _is(each.plain, _name(member))] or inside
                if len(wanted) != 1:
                    raise UserError(_not_found([each.plain for each in inside], member.place, f"'{_name(member)}'"))
                stream = stack.enter_context(_opened(wanted[0], raw))
            elif kind:
                stream = stack.enter_context(_PACKED[kind](stream))
        yield _Explaining(stream, member.place)


class _Explaining(io.BufferedIOBase):
    """A stream whose errors say what is damaged, and what to do."""

    def __init__(self, stream: Any, place: str):
        self.stream, self.place = stream, place

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with _explaining(self.place):
            return self.stream.read(-1 if size is None else size)

    def read1(self, size: int = -1) -> bytes:
        return self.read(1 << 16 if size < 0 else size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def _explaining(place: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _DAMAGED as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{place} cannot be read: {error}") from None
        if isinstance(error, (RuntimeError, NotImplementedError)):
            raise UserError(f"{place} cannot be unpacked here ({error}): unpack it, and give the folder") from None
        raise UserError(_damaged(place, error)) from None


def _damaged(place: str, error: Exception) -> str:
    cause = str(error) or type(error).__name__
    return f"{place} is damaged, or its download is not complete ({cause}): remove it and download it again"


def _unpack_it(place: str, kind: str) -> str:
    if kind == ".7z":
        return f"{place} needs the package py7zr: pip install 'py7zr>=1'. Or run 7z x {place}, and give the folder"
    return f"{place} is a {kind.lstrip('.')}, which cannot be read here: unpack it, and give the folder"


def _not_found(names: Sequence[str], place: str, wanted: str) -> str:
    return f"there is no {wanted} in {place}, which has {_listed(names) or 'no files'}"


def _listed(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > SHOWN else ""
    return ", ".join(list(names)[:SHOWN]) + more
