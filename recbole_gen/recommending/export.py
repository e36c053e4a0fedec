"""The verb `export`: the vectors of a run's items, and of users, with their tokens, for other programs to search."""

from __future__ import annotations

import importlib.metadata
import io
import json
import os
import platform
import shutil
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen import __version__, options
from recbole_gen.errors import UserError
from recbole_gen.files import write_json
from recbole_gen.options import parse_arguments
from recbole_gen.prepare.folder import recover
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.history_files import column_names, read_histories
from recbole_gen.recommending.recommender import Recommender

USAGE = """\
usage: recbole-gen export --checkpoint=FOLDER --output=FOLDER [--histories=FILE]

  --checkpoint=FOLDER  the folder of a run; its data set need not be here
  --output=FOLDER      a new folder:
                         items.npy    a vector an item, float32 [items, d], without a row for padding
                         items.json   the items' names, in the same order
                         export.json  model, data set, versions, and how to score
  --histories=FILE     also the vectors of these users, users.npy and users.json; of DreamRec, PASRec and PreferDiff
                       those are the generated ("oracle") items. .csv, .tsv, .inter, .jsonl or .parquet, as in recommend
  --format=numpy       numpy, or safetensors: items.safetensors with the tensor item_vectors, users.safetensors with
                       user_vectors
  --user, --item, --time, --scene      the columns of FILE, if they have other names than in the data set
  --device=cpu         cpu or cuda (default: as a run would choose)

The score of an item is the inner product of its vector with the user's. Models that score in another way (DiffRec,
BERT4Rec, ...) have no such vectors.
"""
DEFAULTS: dict[str, Any] = {
    "checkpoint": "", "output": "", "histories": "", "format": "numpy", "user": "", "item": "", "time": "",
    "scene": "", "device": "",
}  # fmt: skip
SUFFIXES = {"numpy": ".npy", "safetensors": ".safetensors"}
ROWS = 1 << 16
"""Items that are written at once."""


def main(arguments: Sequence[str]) -> None:
    """The `export` verb of the command line. Raises UserError for bad input."""
    if not arguments or any(argument in ("-h", "--help", "help") for argument in arguments):
        print(USAGE, end="")
        return
    values = options.verb_options(parse_arguments(arguments), DEFAULTS, "export")
    for key in ("checkpoint", "output"):
        if not values[key]:
            raise UserError(f"export needs --{key}=FOLDER; `recbole-gen export --help` says what of")
    if values["format"] not in SUFFIXES:
        raise UserError(f"--format must be one of {', '.join(SUFFIXES)}, got {values['format']}")
    if values["device"] not in ("", "cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {values['device']}")
    histories = Path(str(values["histories"])) if values["histories"] else None
    if histories is not None and not histories.is_file():
        raise UserError(f"--histories: there is no file {histories}")
    output = Path(str(values["output"]))
    _require_new(output)
    recommender = Recommender.load(str(values["checkpoint"]), values["device"] or None)
    names = column_names(values, recommender.config)
    note = write(
        recommender, output, str(values["format"]), None if histories is None else read_histories(histories, names)
    )
    print(f"{note['items']:,} items in {note['d']} dimensions -> {output}", flush=True)
    if histories is not None:
        print(f"{note['users']:,} users, of whom {note['unanswered']:,} have no vector (NaN)", flush=True)


def write(
    recommender: Recommender, output: Path, kind: str = "numpy", histories: Iterable[Histories] | None = None
) -> dict[str, Any]:
    """Write the vectors into a new folder, whole or not at all; users as they come, in bounded memory.

    Args:
        kind: of `SUFFIXES`.

    Returns the content of export.json. Raises UserError for a model without vectors, a folder that is there already or
    cannot be written, and for bad histories.
    """
    items = recommender.require_item_vectors()
    suffix, config = SUFFIXES[kind], recommender.config
    note: dict[str, Any] = {
        "format": "recbole_gen export 1",
        "model": config["model"],
        "dataset": config["dataset"],
        "items": len(items) - 1,
        "d": items.shape[1],
        "dtype": "float32",
        "rows": "row i is name i of items.json (users.json); there is no row for padding",
        "score_function": getattr(recommender.model, "score_function", "inner"),
        "score": "the inner product of an item's vector with the user's; for cosine both have length 1 here",
        "files": [f"items{suffix}", "items.json"],
        "versions": {
            "recbole_gen": __version__,
            **{name: importlib.metadata.version(name) for name in ("recbole", "torch", "numpy")},
            "python": platform.python_version(),
        },
    }
    with _new_folder(output) as folder:
        with _vectors(folder / f"items{suffix}", "item_vectors", note["d"]) as add:
            for part in items[1:].split(ROWS):
                add(part.float().cpu().numpy())
        with _names(folder / "items.json") as add_names:
            add_names(recommender.items[1:].to_pylist())
        if histories is not None:
            note |= _users(recommender, folder, suffix, note["d"], histories)
            note["files"] += [f"users{suffix}", "users.json"]
        write_json(folder / "export.json", note)
    return note


def _users(
    recommender: Recommender, folder: Path, suffix: str, d: int, histories: Iterable[Histories]
) -> dict[str, Any]:
    users = unanswered = 0
    recommender.begin()
    with (
        _vectors(folder / f"users{suffix}", "user_vectors", d) as add,
        _names(folder / "users.json") as add_names,
    ):
        for given in histories:
            vectors = recommender.encode(given)
            add(vectors)
            add_names(given.users.to_pylist())
            users += len(given)
            unanswered += int(np.isnan(vectors[:, 0]).sum())
    return {
        "users": users,
        "unanswered": unanswered,
        "unanswered_users": "rows of NaN: no item of the history is known, or the user is not",
        "seed": recommender.config["seed"],
    }


# Files that grow, and say at their beginning how large they have become


@contextmanager
def _vectors(path: Path, name: str, d: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A file of rows [d], which are added a part at a time. Its head, which has their number, is written last."""
    head, rows = {".npy": _npy_head, ".safetensors": _safetensors_head}[path.suffix], 0
    with open(path, "wb") as file:

        def add(part: np.ndarray) -> None:
            nonlocal rows
            rows += len(part)
            file.write(np.ascontiguousarray(part, dtype="<f4").data)

        file.write(head(name, 0, d))
        yield add
        file.seek(0)
        file.write(head(name, rows, d))


def _npy_head(name: str, rows: int, d: int) -> bytes:
    """As long for any number of rows: NumPy leaves room for it to grow."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (rows, d)})
    return head.getvalue()


def _safetensors_head(name: str, rows: int, d: int, length: int = 184) -> bytes:
    """The number of bytes of a JSON text, and the text, which ends in blanks: as long for any number of rows."""
    tensor = {"dtype": "F32", "shape": [rows, d], "data_offsets": [0, 4 * rows * d]}
    return struct.pack("<Q", length) + json.dumps({name: tensor}).encode().ljust(length)


@contextmanager
def _names(path: Path) -> Iterator[Callable[[Sequence[str]], None]]:
    """A JSON list of texts, which are added some at a time."""
    with open(path, "w", encoding="utf-8", newline="\n") as file:
        before = "[\n"

        def add(names: Sequence[str]) -> None:
            nonlocal before
            for name in names:
                file.write(before + json.dumps(name, ensure_ascii=False))
                before = ",\n"

        yield add
        file.write("\n]\n" if before == ",\n" else "[]\n")


# A folder that is there as a whole or not at all


def _require_new(output: Path) -> None:
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already: choose another --output, or remove it")


@contextmanager
def _new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside ``output``, which gets that name once the block has ended without an error."""
    _require_new(output)
    output = Path(os.path.realpath(output))
    new = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        recover(output)
        new.mkdir()
        yield new
        if output.exists():
            output.rmdir()  # an empty one
        os.rename(new, output)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}): free some space, or choose another --output") from None
    finally:
        shutil.rmtree(new, ignore_errors=True)
