"""The kinds of archives: how each is known, what files it has, and what its errors mean."""

from __future__ import annotations

import bz2
import contextlib
import gzip
import io
import lzma
import os
import shutil
import struct
import tarfile
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO

from recbole_gen.errors import UserError

DECOMPRESSORS: dict[str, Callable[..., Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_ARCHIVES = (".zip", ".7z", ".tar", ".tgz", ".tar.gz", ".tar.bz2", ".tar.xz")
_MAGIC_BYTES = {
    b"PK\x03\x04": ".zip", b"PK\x05\x06": ".zip", b"7z\xbc\xaf\x27\x1c": ".7z", b"\x1f\x8b": ".gz", b"BZh": ".bz2",
    b"\xfd7zXZ\x00": ".xz", b"Rar!": ".rar", b"\x28\xb5\x2f\xfd": ".zst",
}  # fmt: skip
"""How a file of each kind begins, whatever its name is."""
_UNREADABLE = (".rar", ".zst")
_DAMAGE_ERRORS: tuple[type[Exception], ...] = (
    zipfile.BadZipFile, zlib.error, EOFError, tarfile.TarError, lzma.LZMAError, OSError, RuntimeError,
    NotImplementedError, UnicodeError, struct.error,
)  # fmt: skip
"""What the standard library raises for damaged, encrypted and too new archives."""


@dataclass(frozen=True)
class Member:
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


_FileOpeners = list[tuple[str, Callable[[], Any]]]  # path in the archive, and what opens it


# What a file is


def kind_of(stream: Any, place: str) -> str:
    """What a stream is by how it begins, where it is left: .zip, .7z, .tar (packed or not), .gz, .bz2, .xz, or "".

    Raises UserError for a web page that was saved under the name, and for what Python cannot read.
    """
    head = stream.read(tarfile.BLOCKSIZE)
    stream.seek(0)
    kind = _kind_by_magic(head)
    if head.lstrip().lower().startswith((b"<!doctype html", b"<html")) and not place.endswith((".html", ".htm")):
        raise UserError(
            f"{place} is a web page that was saved under this name; the site may ask for a login or an agreement. "
            f"Remove it and download the file again"
        )
    if kind in _UNREADABLE:
        raise UserError(_unpack_by_hand_message(place, kind))
    if kind in DECOMPRESSORS:
        with contextlib.suppress(*_DAMAGE_ERRORS), DECOMPRESSORS[kind](stream) as unpacked:
            head = unpacked.read(tarfile.BLOCKSIZE)
        stream.seek(0)
    if _is_tar(head):
        return ".tar"
    if not kind and place.lower().endswith(_ARCHIVES):
        raise UserError(
            f"{place} is no archive, for it begins with {head[:16]!r}: remove it and download it again, or rename it"
        )
    return kind


def _kind_by_magic(head: bytes) -> str:
    return next((kind for magic, kind in _MAGIC_BYTES.items() if head.startswith(magic)), "")


def _is_tar(head: bytes) -> bool:
    """Whether a block is the head of a file in a tar; it has a check sum."""
    try:
        tarfile.TarInfo.frombuf(head, "utf-8", "surrogateescape")
    except tarfile.TarError:
        return False
    return True


# What an archive has


def _list_zip(member: Member, raw: Path, stack: ExitStack) -> _FileOpeners:
    archive = stack.enter_context(zipfile.ZipFile(_seekable_stream(member, raw, stack)))
    return [(info.filename, partial(archive.open, info)) for info in archive.infolist() if not info.is_dir()]


def _list_tar(member: Member, raw: Path, stack: ExitStack) -> _FileOpeners:
    stream = _seekable_stream(member, raw, stack)
    kind = _kind_by_magic(stream.read(8))
    stream.seek(0)
    if kind in DECOMPRESSORS:
        stream = stack.enter_context(DECOMPRESSORS[kind](stream))
    archive = stack.enter_context(tarfile.TarFile(fileobj=stream))
    infos = [info for info in archive.getmembers() if info.isfile()]
    while rest := stream.read(1 << 20):  # to the end, where a packed one has its check sum
        if rest.strip(b"\0"):  # tarfile takes a damaged head in the middle for the end
            raise tarfile.ReadError("a damaged head")
    return [(info.name, partial(archive.extractfile, info)) for info in infos]


def _list_7z(member: Member, raw: Path, stack: ExitStack) -> _FileOpeners:
    try:
        import py7zr
        import py7zr.io  # of version 1, which can write to a stream
    except ImportError:
        raise UserError(_unpack_by_hand_message(member.place, ".7z")) from None
    stream = _seekable_stream(member, raw, stack)
    with _explaining_7z_errors(member.place), py7zr.SevenZipFile(stream) as archive:
        if archive.needs_password():
            raise UserError(_unpack_by_hand_message(member.place, "7z with a password"))
        names = [info.filename for info in archive.list() if not info.is_directory]

    def unpacked(name: str) -> BinaryIO:
        file = _temporary_file(raw)
        stream.seek(0)
        with _explaining_7z_errors(member.place), py7zr.SevenZipFile(stream) as archive:
            archive.extract(targets=[name], factory=_SingleFileFactory(file))
        file.seek(0)
        return file

    return [(name, partial(unpacked, name)) for name in names]


LISTERS = {".zip": _list_zip, ".tar": _list_tar, ".7z": _list_7z}


@contextlib.contextmanager
def _explaining_7z_errors(place: str) -> Iterator[None]:
    """py7zr meets damage with exceptions of all kinds."""
    try:
        with explaining_errors(place):
            yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(_damaged_message(place, error)) from None


class _SingleFileFactory:
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


def _seekable_stream(member: Member, raw: Path, stack: ExitStack) -> Any:
    """The bytes of an archive: those of a file, or a copy where it lies in another archive."""
    stream = stack.enter_context(contextlib.closing(member.open()))
    if isinstance(stream, (io.BufferedReader, io.BufferedRandom)) and isinstance(stream.raw, io.FileIO):
        return stream
    copy = stack.enter_context(contextlib.closing(_temporary_file(raw)))
    shutil.copyfileobj(stream, copy, 1 << 20)
    copy.seek(0)
    return copy


def _temporary_file(raw: Path) -> Any:
    """A file that is gone when it is closed, or its process is; on the disk of the archive, which has space."""
    folder = raw if raw.is_dir() else raw.absolute().parent
    try:
        return tempfile.TemporaryFile(dir=folder)
    except OSError:
        return tempfile.TemporaryFile()


# Errors that say what is damaged


class ExplainingStream(io.BufferedIOBase):
    """A stream whose errors say what is damaged, and what to do."""

    def __init__(self, stream: Any, place: str):
        self.stream, self.place = stream, place

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1) -> bytes:
        with explaining_errors(self.place):
            return self.stream.read(-1 if size is None else size)

    def read1(self, size: int = -1) -> bytes:
        return self.read(1 << 16 if size < 0 else size)

    def readinto(self, buffer: Any) -> int:
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


@contextlib.contextmanager
def explaining_errors(place: str) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except _DAMAGE_ERRORS as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise UserError(f"{place} cannot be read: {error}") from None
        if isinstance(error, (RuntimeError, NotImplementedError)):
            raise UserError(f"{place} cannot be unpacked here ({error}): unpack it, and give the folder") from None
        raise UserError(_damaged_message(place, error)) from None


def _damaged_message(place: str, error: Exception) -> str:
    cause = str(error) or type(error).__name__
    return f"{place} is damaged, or its download is not complete ({cause}): remove it and download it again"


def _unpack_by_hand_message(place: str, kind: str) -> str:
    if kind == ".7z":
        return f"{place} needs the package py7zr: pip install 'py7zr>=1'. Or run 7z x {place}, and give the folder"
    return f"{place} is a {kind.lstrip('.')}, which cannot be read here: unpack it, and give the folder"
