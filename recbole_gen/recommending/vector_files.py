"""The vectors of a run's items, and of users, as files, in bounded memory."""

from __future__ import annotations

import io
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen.files import package_versions, write_json
from recbole_gen.prepare.new_folder import new_folder
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.recommender import Recommender

SUFFIXES = {"numpy": ".npy", "safetensors": ".safetensors"}
ITEMS_AT_ONCE = 1 << 16
"""Items that are written at once."""


def export_vectors(
    recommender: Recommender, output: Path, format: str = "numpy", histories: Iterable[Histories] | None = None
) -> dict[str, Any]:
    """Write the vectors into a new folder, whole or not at all; users as they come, in bounded memory.

    Args:
        format: of `SUFFIXES`.

    Returns the content of export.json. Raises UserError for a model without vectors, a folder that is there already or
    cannot be written, and for bad histories.
    """
    items = recommender.require_item_vectors()
    suffix, config = SUFFIXES[format], recommender.config
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
        "versions": package_versions(("recbole", "torch", "numpy")),
    }
    with new_folder(output) as folder:
        with _open_matrix(folder / f"items{suffix}", "item_vectors", note["d"]) as add:
            for part in items[1:].split(ITEMS_AT_ONCE):
                add(part.float().cpu().numpy())
        with _open_names(folder / "items.json") as add_names:
            add_names(recommender.items[1:].to_pylist())
        if histories is not None:
            note |= _export_users(recommender, folder, suffix, note["d"], histories)
            note["files"] += [f"users{suffix}", "users.json"]
        write_json(folder / "export.json", note)
    return note


def _export_users(
    recommender: Recommender, folder: Path, suffix: str, d: int, histories: Iterable[Histories]
) -> dict[str, Any]:
    users = unanswered = 0
    with (
        _open_matrix(folder / f"users{suffix}", "user_vectors", d) as add,
        _open_names(folder / "users.json") as add_names,
    ):
        for chunk in histories:
            vectors = recommender.encode_batch(chunk)
            add(vectors)
            add_names(chunk.users.to_pylist())
            users += len(chunk)
            unanswered += int(np.isnan(vectors[:, 0]).sum())
    return {
        "users": users,
        "unanswered": unanswered,
        "unanswered_users": "rows of NaN: no item of the history is known, or the user is not",
        "seed": recommender.config["seed"],
    }


# Files that grow, and say at their beginning how large they have become


@contextmanager
def _open_matrix(path: Path, name: str, d: int) -> Iterator[Callable[[np.ndarray], None]]:
    """A file of rows [d], which are added a part at a time. Its head, which has their number, is written last."""
    head, rows = {".npy": _npy_header, ".safetensors": _safetensors_header}[path.suffix], 0
    with open(path, "wb") as file:

        def add(part: np.ndarray) -> None:
            nonlocal rows
            rows += len(part)
            file.write(np.ascontiguousarray(part, dtype="<f4").data)

        file.write(head(name, 0, d))
        yield add
        file.seek(0)
        file.write(head(name, rows, d))


def _npy_header(name: str, rows: int, d: int) -> bytes:
    """As long for any number of rows: NumPy leaves room for it to grow."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "<f4", "fortran_order": False, "shape": (rows, d)})
    return head.getvalue()


def _safetensors_header(name: str, rows: int, d: int, length: int = 184) -> bytes:
    """The number of bytes of a JSON text, and the text, which ends in blanks: as long for any number of rows."""
    tensor = {"dtype": "F32", "shape": [rows, d], "data_offsets": [0, 4 * rows * d]}
    return struct.pack("<Q", length) + json.dumps({name: tensor}).encode().ljust(length)


@contextmanager
def _open_names(path: Path) -> Iterator[Callable[[Sequence[str]], None]]:
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
