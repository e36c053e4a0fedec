"""Files inside of what a publisher offers: a file, a folder, or a zip, tar or 7z, also one in another; read as streams.

Nothing is unpacked under a name that an archive gives: what must lie on a disk lies in a file without a name.
"""

from __future__ import annotations

import contextlib
import fnmatch
import os
import re
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from recbole_gen.errors import UserError
from recbole_gen.prepare import archive_kinds
from recbole_gen.prepare.archive_kinds import Member, explaining_errors

MAX_DEPTH = 4
"""How many archives may lie in each other."""
MAX_NAMES = 10
"""How many names a message lists."""


class MemberNotFound(UserError):
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
    plain = [_without_packing(name) for name in names]

    def pick(members: Sequence[Member]) -> list[Member]:
        for name in plain:
            if found := [member for member in members if _has_path(member.plain, name)]:
                return _without_packed_copies(found)
        takes_any = renamed and len(plain) == 1
        return [member for member in members if takes_any and member.place == str(raw)]

    with ExitStack() as stack:
        found = _search(raw, stack, pick, " or ".join(f"'{name}'" for name in plain))
        if len(found) > 1:
            places = _join_names([member.place for member in found])
            raise UserError(f"{raw} has more than one '{_file_name(found[0])}': {places}. Give the one that is meant")
        yield stack.enter_context(_open_unpacked(found[0], raw))


@contextlib.contextmanager
def open_members(raw: Path, *patterns: str) -> Iterator[Iterator[tuple[str, BinaryIO]]]:
    """(name, stream) of all files in ``raw`` that one of the patterns is for, such as clicks_hour_*.csv.

    The names are plain, without folder, .gz or .zip; part_2 comes before part_10. A stream ends when the next is asked
    for. A .tar.gz whose files are in another order is read again for each of them.

    Raises UserError if there is no such file, or if ``raw`` is damaged, also while it is read.
    """
    raw = Path(raw)

    def pick(members: Sequence[Member]) -> list[Member]:
        same: dict[str, list[Member]] = {}
        for member in members:
            if any(_matches_pattern(member.plain, _without_packing(pattern)) for pattern in patterns):
                same.setdefault(member.plain, []).append(member)
        return [each for alike in same.values() for each in _without_packed_copies(alike)]

    with ExitStack() as stack:
        found = _search(raw, stack, pick, " or ".join(patterns))
        members = _open_each(sorted(found, key=lambda member: _natural_sort_key(member.plain)), raw)
        stack.callback(members.close)
        yield members


def _open_each(members: Sequence[Member], raw: Path) -> Generator[tuple[str, BinaryIO], None, None]:
    for member in members:
        with _open_unpacked(member, raw) as stream:
            yield _file_name(member), stream


def _without_packing(name: str) -> str:
    """A name without what packs the one file, as in ratings.csv.gz and ratings.csv.zip."""
    for suffix in (*archive_kinds.DECOMPRESSORS, ".zip", ".7z"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return name


def _file_name(member: Member) -> str:
    return PurePosixPath(member.plain).name


def _posix_path(path: str) -> str:
    """The path as zips should have it, which some programs on Windows write with backslashes."""
    return path.replace("\\", "/")


def _make_member(path: str, folder: str, opener: Callable[[], Any]) -> Member:
    path = _posix_path(path)
    plain = _without_packing(path)
    return Member(f"{folder}/{path}" if folder else path, plain, opener, len(path) - len(plain))


def _has_path(path: str, name: str) -> bool:
    return path == name or path.endswith(f"/{name}")


def _matches_pattern(path: str, pattern: str) -> bool:
    if "/" in pattern:
        return fnmatch.fnmatchcase(path, pattern) or fnmatch.fnmatchcase(path, f"*/{pattern}")
    return fnmatch.fnmatchcase(PurePosixPath(path).name, pattern)


def _without_packed_copies(members: Sequence[Member]) -> list[Member]:
    """Without those that are another one packed, as ratings.csv.gz beside ratings.csv is."""
    plain = {}
    for member in sorted(members, key=lambda member: member.rank, reverse=True):
        plain[str(PurePosixPath(member.place).parent)] = member
    return sorted(plain.values(), key=lambda member: member.place)


def _natural_sort_key(name: str) -> list[Any]:
    """Digits as numbers."""
    return [int(part) if index % 2 else part for index, part in enumerate(re.split(r"(\d+)", name))]


# What there is


def _search(raw: Path, stack: ExitStack, pick: Callable[[list[Member]], list[Member]], wanted: str) -> list[Member]:
    """What ``pick`` takes of all files of `raw`, or else of those in the archives among them, and so on."""
    members, seen, problem = _members_of(raw, stack), [], None
    for _ in range(MAX_DEPTH + 1):
        if found := pick(members):
            return found
        seen += members
        inside: list[Member] = []
        for member in members:
            if member.is_archive:
                try:
                    with explaining_errors(member.place):
                        inside += _archive_members(member, raw, stack) or []
                except UserError as error:
                    problem = problem or error  # of a file that may have nothing to do with it
        members = inside
    if problem:
        raise problem
    raise MemberNotFound(
        _not_found_message([member.place.removeprefix(f"{raw}/") for member in seen], str(raw), wanted)
    )


def _members_of(raw: Path, stack: ExitStack) -> list[Member]:
    if raw.is_dir():
        paths = []
        for folder, _, files in os.walk(raw):
            paths += [Path(folder, file) for file in sorted(files)]
        names = [path.relative_to(raw).as_posix() for path in paths]
        return [
            _make_member(name, str(raw), partial(open, path, "rb"))
            for name, path in zip(names, paths)
            if not _is_ignored(name)
        ]
    if not raw.is_file():
        raise UserError(f"there is no file or folder {raw}")
    whole = Member(str(raw), _without_packing(raw.name), partial(open, raw, "rb"))
    with explaining_errors(str(raw)):
        inside = _archive_members(whole, raw, stack)
    return [whole] if inside is None else inside


def _is_ignored(path: str) -> bool:
    """What macOS and our own downloads leave beside files."""
    parts = PurePosixPath(_posix_path(path)).parts
    hidden = any(part.startswith(".") and part.strip(".") for part in parts)
    return hidden or "__MACOSX" in parts or path.endswith((".part", ".part.json", ".sha256"))


def _archive_members(member: Member, raw: Path, stack: ExitStack) -> list[Member] | None:
    """The files of an archive; None if it is none."""
    with contextlib.closing(member.open()) as stream:
        kind = archive_kinds.kind_of(stream, member.place)
    if kind not in archive_kinds.LISTERS:
        return None
    files = archive_kinds.LISTERS[kind](member, raw, stack)
    return [_make_member(name, member.place, opener) for name, opener in files if not _is_ignored(name)]


# Reading


@contextlib.contextmanager
def _open_unpacked(member: Member, raw: Path) -> Iterator[Any]:
    """The content of a file, unpacked if it is a .gz, or an archive of one file."""
    with ExitStack() as stack:
        with explaining_errors(member.place):
            stream = stack.enter_context(contextlib.closing(member.open()))
            kind = archive_kinds.kind_of(stream, member.place)
            if kind in archive_kinds.LISTERS:
                stack.close()
                inside = _archive_members(member, raw, stack) or []
                wanted = [each for each in inside if _has_path(each.plain, _file_name(member))] or inside
                if len(wanted) != 1:
                    raise UserError(
                        _not_found_message([each.plain for each in inside], member.place, f"'{_file_name(member)}'")
                    )
                stream = stack.enter_context(_open_unpacked(wanted[0], raw))
            elif kind:
                stream = stack.enter_context(archive_kinds.DECOMPRESSORS[kind](stream))
        yield archive_kinds.ExplainingStream(stream, member.place)


def _not_found_message(names: Sequence[str], place: str, wanted: str) -> str:
    return f"there is no {wanted} in {place}, which has {_join_names(names) or 'no files'}"


def _join_names(names: Sequence[str]) -> str:
    more = f", ... ({len(names)} in all)" if len(names) > MAX_NAMES else ""
    return ", ".join(list(names)[:MAX_NAMES]) + more
