"""A data set that a run asks for and that is not there: prepared by a recipe, or fetched from RecBole's mirror."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import TypeVar

import recbole
import yaml

from recbole_gen.errors import MissingDataset, UserError
from recbole_gen.files import write_json
from recbole_gen.prepare import archive, download
from recbole_gen.prepare.dataset_folder import NOTE, only_one, replace_folder, require_replaceable

SUFFIXES = ("inter", "item", "user", "kg", "link", "net")
"""Those of RecBole's atomic files."""
Configured = TypeVar("Configured")


def with_data(configured: Callable[[], Configured]) -> Configured:
    """What ``configured`` returns; a data set that it misses is got first.

    Raises MissingDataset if that does not work, which says what to fetch by hand and where to put it.
    """
    try:
        return configured()
    except MissingDataset as error:
        get(error.name, error.data_path, error)
    return configured()


def has_recipe(name: str) -> bool:
    """Whether `recbole-gen prepare` knows how to make the data set."""
    return _recipes().known(name)


def get(name: str, data_path: str | Path, error: MissingDataset) -> None:
    """Put the data set of this name into ``data_path``, by our recipe, or as RecBole offers it.

    Of several processes on a machine that ask for it, one gets it and the others wait.

    Raises ``error`` if nobody offers it, and MissingDataset, with the cause and the message of ``error``, if it cannot
    be got.
    """
    url = None if _recipes().fetches(name) else _mirror().get(name)
    if url is None and not has_recipe(name):
        raise error
    folder, heard = Path(data_path), list[str]()
    lock_file = folder / download.DOWNLOADS / f".{name}.lock"
    lock: contextlib.AbstractContextManager = only_one(lock_file, f"the data set {name}")
    say: Callable[[str], None] = _print
    if download.is_offline():
        # Only what was downloaded before can be used: it is told once it has worked, and nothing is made if it has not.
        lock, say = contextlib.nullcontext(), heard.append
    try:
        with lock:
            if any(file.name.startswith(name) for file in (folder / name).glob("*.inter")):
                return  # another process has got it meanwhile
            if url is None:
                _recipes().prepared(name, folder, say=say)
            else:
                _fetch_atomic(name, url, folder, say)
    except UserError as failure:
        raise MissingDataset(f"{error}\nGetting it now has failed: {failure}", name, str(data_path)) from None
    for line in heard:
        _print(line)


def _print(line: str) -> None:
    print(line, flush=True)


def _recipes() -> ModuleType:
    """Imported only where a data set is missing: the readers take their time to load."""
    from recbole_gen.prepare import from_recipe

    return from_recipe


def _mirror() -> dict[str, str]:
    """Data set -> where RecBole offers its atomic files."""
    path = Path(recbole.__file__).parent / "properties/dataset/url.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _fetch_atomic(name: str, url: str, data_path: Path, say: Callable[[str], None]) -> None:
    """The atomic files that RecBole offers, under the name of the data set."""
    target = data_path / name
    say(
        f"there is no data set '{name}' in {data_path.absolute()}; RecBole offers it as atomic files at {url}\n"
        f"  its publisher's terms hold: https://recbole.io/dataset_list.html names the publisher"
    )
    require_replaceable(target)
    file = download.fetch(url, data_path / download.DOWNLOADS, say=say, name=f"{name}.zip", cure="")
    with replace_folder(target, say) as new:
        files = _unpack(file, name, url, new)
        note = {"recipe": "recbole mirror", "source": url, "sha256": download.sha256_of(file), "files": files}
        write_json(new / NOTE, note)
    say(f"{target} is written: {', '.join(files)}")


def _unpack(file: Path, name: str, url: str, folder: Path) -> list[str]:
    """Write the atomic files of an archive into a folder; returns their names. Raises UserError if none has events."""
    files: list[str] = []
    with archive.open_members(file, *(f"*.{suffix}" for suffix in SUFFIXES)) as members:
        for member, stream in members:
            to = _renamed(member, name, Path(url).stem)
            if to in files:
                raise UserError(f"{file} has two files that would be {to}: unpack it by hand")
            files.append(to)
            with open(folder / to, "wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
    if not any(each.endswith(".inter") for each in files):
        raise UserError(f"{file} has no interactions, only {', '.join(files)}: remove it and fetch it again")
    return files


def _renamed(file: str, name: str, archive_name: str) -> str:
    """An atomic file's name in the data set: RecBole's archives, and the files in them, have names of their own.

    As in recbole.utils.url.rename_atomic_files, the name of the archive is replaced; where a file does not begin with
    it (Amazon_M2.zip has amazon-m2.inter), what comes before the first dot is.
    """
    for base in (name, archive_name):
        if file.startswith(base) and not file[len(base) : len(base) + 1].isalnum():
            return name + file.removeprefix(base)
    return name + file[file.index(".") :]
