"""A data set that a run asks for and that is not there: prepared by a recipe, or fetched from RecBole's mirror."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import yaml

from recbole_gen.errors import MissingDataset, UserError
from recbole_gen.files import write_json
from recbole_gen.prepare import archive, download
from recbole_gen.prepare.dataset_folder import PROVENANCE_FILE, exclusive_lock, replace_folder, require_replaceable
from recbole_gen.prepare.recipes import find_recipe

SUFFIXES = ("inter", "item", "user", "kg", "link", "net")
"""Those of RecBole's atomic files."""
Result = TypeVar("Result")


def with_dataset_fetched(configure: Callable[[], Result]) -> Result:
    """What ``configure`` returns; a data set that it misses is fetched first.

    Raises MissingDataset if that does not work, which says what to fetch by hand and where to put it.
    """
    try:
        return configure()
    except MissingDataset as error:
        fetch_dataset(error.name, error.data_path, error)
    return configure()


def has_recipe(name: str) -> bool:
    """Whether `recbole-gen prepare` knows how to make the data set."""
    return find_recipe(name) is not None


def fetch_dataset(name: str, data_path: str | Path, error: MissingDataset) -> None:
    """Put the data set of this name into ``data_path``, by our recipe, or as RecBole offers it.

    Of several processes on a machine that ask for it, one fetches it and the others wait.

    Raises ``error`` if nobody offers it, and MissingDataset, with the cause and the message of ``error``, if it cannot
    be got.
    """
    found = find_recipe(name)
    fetches = found is not None and found[0].url is not None
    url = None if fetches else _mirror().get(name)
    if url is None and found is None:
        raise error
    folder, heard = Path(data_path), list[str]()
    lock_file = folder / download.DOWNLOADS_FOLDER / f".{name}.lock"
    lock: contextlib.AbstractContextManager = exclusive_lock(lock_file, f"the data set {name}")
    say: Callable[[str], None] = _print
    if download.is_offline():
        # Only what was downloaded before can be used: it is told once it has worked, and nothing is made if it has not.
        lock, say = contextlib.nullcontext(), heard.append
    try:
        with lock:
            if any(file.name.startswith(name) for file in (folder / name).glob("*.inter")):
                return  # another process has got it meanwhile
            if url is None:
                _prepare_by_recipe(name, folder, say)
            else:
                _fetch_from_mirror(name, url, folder, say)
    except UserError as failure:
        raise MissingDataset(f"{error}\nGetting it now has failed: {failure}", name, str(data_path)) from None
    for line in heard:
        _print(line)


def _print(line: str) -> None:
    print(line, flush=True)


def _prepare_by_recipe(name: str, data_path: Path, say: Callable[[str], None]) -> None:
    from recbole_gen.prepare.from_recipe import prepare_by_name  # its readers take their time to load

    prepare_by_name(name, data_path, say=say)


def _mirror() -> dict[str, str]:
    """Data set -> where RecBole offers its atomic files."""
    package = importlib.util.find_spec("recbole")  # finds its folder without importing it
    if package is None or package.origin is None:
        return {}
    path = Path(package.origin).parent / "properties/dataset/url.yaml"
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def _fetch_from_mirror(name: str, url: str, data_path: Path, say: Callable[[str], None]) -> None:
    """The atomic files that RecBole offers, under the name of the data set."""
    target = data_path / name
    say(
        f"there is no data set '{name}' in {data_path.absolute()}; RecBole offers it as atomic files at {url}\n"
        f"  its publisher's terms hold: https://recbole.io/dataset_list.html names the publisher"
    )
    require_replaceable(target)
    file = download.download_file(url, data_path / download.DOWNLOADS_FOLDER, say=say, name=f"{name}.zip", cure="")
    with replace_folder(target, say) as new:
        files = _unpack_atomic_files(file, name, url, new)
        provenance = {"recipe": "recbole mirror", "source": url, "sha256": download.sha256_of(file), "files": files}
        write_json(new / PROVENANCE_FILE, provenance)
    say(f"{target} is written: {', '.join(files)}")


def _unpack_atomic_files(file: Path, name: str, url: str, folder: Path) -> list[str]:
    """Write the atomic files of an archive into a folder; returns their names. Raises UserError if none has events."""
    files: list[str] = []
    with archive.open_members(file, *(f"*.{suffix}" for suffix in SUFFIXES)) as members:
        for member, stream in members:
            to = _name_in_dataset(member, name, Path(url).stem)
            if to in files:
                raise UserError(f"{file} has two files that would be {to}: unpack it by hand")
            files.append(to)
            with open(folder / to, "wb") as out:
                shutil.copyfileobj(stream, out, 1 << 20)
    if not any(each.endswith(".inter") for each in files):
        raise UserError(f"{file} has no interactions, only {', '.join(files)}: remove it and fetch it again")
    return files


def _name_in_dataset(file: str, name: str, archive_name: str) -> str:
    """An atomic file's name in the data set: RecBole's archives, and the files in them, have names of their own.

    As in recbole.utils.url.rename_atomic_files, the name of the archive is replaced; where a file does not begin with
    it (Amazon_M2.zip has amazon-m2.inter), what comes before the first dot is.
    """
    for base in (name, archive_name):
        if file.startswith(base) and not file[len(base) : len(base) + 1].isalnum():
            return name + file.removeprefix(base)
    return name + file[file.index(".") :]
