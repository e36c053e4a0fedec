"""Where things lie: our YAML files, RecBole's, and the data sets. Nothing is imported for it, RecBole included."""

from __future__ import annotations

import contextlib
import importlib.util
from pathlib import Path
from typing import Any

from recbole_gen import compat
from recbole_gen.errors import MissingDataset, UserError, did_you_mean
from recbole_gen.options import read_yaml

_PACKAGE = Path(__file__).resolve().parents[1]
ROOT = _PACKAGE.parent if (_PACKAGE.parent / "properties/overall.yaml").is_file() else _PACKAGE
"""Where properties/ and dataset/ lie: the top of the repository, or inside an installed package."""
PROPERTIES = ROOT / "properties"


def _recbole_folder() -> Path:
    spec = importlib.util.find_spec("recbole")  # which looks for the package, and does not run it
    if spec is None or spec.origin is None:
        compat.require_recbole()  # says that it is missing
        return Path("recbole")
    return Path(spec.origin).parent


RECBOLE = _recbole_folder()
"""The folder of the recbole package. Without it, this module raises RecBoleMissing."""
RECBOLE_PROPERTIES = RECBOLE / "properties"


def property_file(folder: str, name: str) -> Path:
    """properties/FOLDER/NAME.yaml. Raises UserError, with the nearest name, if there is none."""
    path = PROPERTIES / folder / f"{name}.yaml"
    if not path.is_file():
        names = sorted(file.stem for file in path.parent.glob("*.yaml"))
        raise UserError(f"there is no {folder} '{name}'.{did_you_mean(name, names)} There are: {', '.join(names)}")
    return path


def docs_folder(name: str) -> Path | None:
    """docs/NAME of the checkout; None for an installed package, which has no documents."""
    return ROOT / "docs" / name if (ROOT / "docs").is_dir() else None


def find_dataset(name: str, data_path: str, parts: Any = None) -> Path:
    """The folder of a data set: under ``data_path``, under our dataset/, or ml-100k inside the recbole package.

    ``parts`` are the names of split files (`benchmark_filename`), where the run reads such.

    Raises MissingDataset that says where it was looked for and how to get it.
    """
    places = [Path(data_path) / name, ROOT / "dataset" / name]
    if name == "ml-100k":
        places.append(RECBOLE / "dataset_example/ml-100k")
    for place in places:
        with contextlib.suppress(OSError, ValueError):  # a name that no folder can have
            if any(file.name.startswith(name) for file in place.glob("*.inter")):
                return place.resolve()
    from recbole_gen.prepare import missing_dataset  # the recipes' readers take their time to load
    from recbole_gen.prepare.recipes import recipe_names

    files = [f"{name}.{part}.inter" for part in parts] if isinstance(parts, list) and parts else [f"{name}.inter"]
    found_at = dict.fromkeys(str((place / file).absolute()) for place in places for file in files)
    looked = "\n  ".join(found_at)
    urls = read_yaml(RECBOLE_PROPERTIES / "dataset/url.yaml")
    url = urls.get(name)
    source = (
        f"RecBole offers it as atomic files at {url} : unpack them into {places[0]}/."
        if url
        else "Write it as atomic files (a tab-separated table with a title line such as "
        "'user_id:token<tab>item_id:token<tab>timestamp:float')."
    )
    if len(files) > 1 and not url:
        source = (
            f"It is read as {len(files)} files that are split already, a line a history (a title line such as "
            f"'session_id:token<tab>item_id_list:token_seq<tab>item_id:token')."
        )
    hint = ""
    if missing_dataset.has_recipe(name):
        source = f"`recbole-gen prepare {name}` makes it. {source if url else ''}".strip()
    elif not url:
        hint = did_you_mean(name, [*dataset_names(data_path), *recipe_names(), *urls], most=3)
    raise MissingDataset(
        f"there is no data set '{name}'.{hint} Looked for\n  {looked}\n{source} "
        f"--data_path=FOLDER names another folder. To try things out: --dataset=ml-100k, which needs no download.",
        name,
        str(data_path),
    )


def dataset_names(data_path: str) -> list[str]:
    """Names of the data sets that are here, where `find_dataset` looks for them."""
    names: list[str] = []
    for place in (Path(data_path), ROOT / "dataset"):
        with contextlib.suppress(OSError):
            folders = sorted(place.iterdir()) if place.is_dir() else []
            names += [each.name for each in folders if any(f.name.startswith(each.name) for f in each.glob("*.inter"))]
    return list(dict.fromkeys([*names, "ml-100k"]))


def dataset_keys(name: str) -> dict[str, Any]:
    """The settings that a data set has of its own or by default: its columns' names, what separates its cells."""
    keys = read_yaml(RECBOLE_PROPERTIES / "dataset/sample.yaml") | read_yaml(PROPERTIES / "overall.yaml")
    for properties in (RECBOLE_PROPERTIES, PROPERTIES):
        if (file := properties / f"dataset/{name}.yaml").is_file():
            keys |= read_yaml(file)
    return keys


def event_files(name: str, folder: Path) -> list[Path]:
    """NAME.inter in a data set's folder, or the files of its parts where there are only those."""
    files = [folder / f"{name}.inter"]
    if not files[0].exists():
        parts = read_yaml(PROPERTIES / "protocol/benchmark.yaml")["benchmark_filename"]
        files = [file for part in parts if (file := folder / f"{name}.{part}.inter").exists()]
    return files or sorted(folder.glob(f"{name}*.inter"))
