"""Vectors of items from a file: what `export` of another run has written, or an encoder of texts or pictures.

    items.npy + items.json                   rows, and the items' names in the same order
    items.safetensors + items.json           the same, the one matrix in it or that called item_vectors
    vectors.parquet                          a column of names, a column of lists

A folder stands for the items.npy or items.safetensors in it.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from recbole_gen.errors import UserError, counted

FILES_OF_EXPORT = ("items.npy", "items.safetensors")
SUFFIXES = (".npy", ".safetensors", ".parquet")
TEXT_VECTORS_NOTE = "text-vectors.json"
"""What `prepare --text_encoder` writes beside the vectors: whence they are."""
MATRIX = "item_vectors"
"""The tensor's name in a safetensors file that has several."""
LONGEST_HEADER = 100 << 20
"""Bytes of a safetensors header; the format allows no more."""
_NUMBERS = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1", "U8": "u1"}


@dataclass(frozen=True)
class ItemVectors:
    """A vector an item.

    Attributes:
        names: of the items, each once, [n].
        vectors: [n, width] float32, finite.
        encoder: digest of the text encoder that made them, where `prepare --text_encoder` says so beside them.
    """

    path: Path
    names: list[str]
    vectors: np.ndarray
    encoder: str | None = None

    @property
    def width(self) -> int:
        return self.vectors.shape[1]


def find_vector_file(path: str | Path, key: str = "item_vectors") -> Path:
    """The file with the vectors, of a file or an `export`'s folder. Raises UserError, which says what ``key`` lacks, if
    there is none."""
    path = Path(path)
    if path.is_dir():
        found = [path / name for name in FILES_OF_EXPORT if (path / name).is_file()]
        if len(found) != 1:
            raise UserError(
                f"{key}: the folder {path} must hold {' or '.join(FILES_OF_EXPORT)}, as `export` writes them, "
                f"and {'holds both: name the file' if found else 'holds neither'}"
            )
        return found[0]
    if not path.is_file():
        raise UserError(f"{key}: there is no folder or file {path}")
    if path.suffix not in SUFFIXES:
        raise UserError(f"{key} must be a folder of `export`, or a file {', '.join(SUFFIXES)}, got {path}")
    return path


def files_of_vectors(path: str | Path) -> list[Path]:
    """The file of vectors, and that of their names where it is another one. Raises UserError if there is none."""
    file = find_vector_file(path)
    beside = file.with_suffix(".json")
    return [file, beside] if file.suffix != ".parquet" and beside.is_file() else [file]


def read_item_vectors(path: str | Path, key: str = "item_vectors") -> ItemVectors:
    """Read them. Raises UserError, which names ``key``, for a file that is missing, damaged, or of another form; for
    names that occur twice, rows without a name, and numbers that are none."""
    path = find_vector_file(path, key)
    try:
        names, vectors = _read_parquet(path, key) if path.suffix == ".parquet" else _read_matrix(path, key)
    except OSError as error:
        raise UserError(f"{key}: {path} cannot be read ({error.strerror or error})") from None
    if vectors.ndim != 2 or not vectors.size or vectors.dtype.kind not in "fiu":
        raise UserError(f"{key}: {path} must have a row of numbers an item, and has {_describe(vectors)}")
    if len(names) != len(vectors):
        raise UserError(f"{key}: {path} has {counted(len(vectors), 'row')}, and there are {len(names):,} names")
    twice = [name for name, times in Counter(names).items() if times > 1]
    if twice:
        raise UserError(f"{key}: {path} has {counted(len(twice), 'item')} more than once, such as '{twice[0]}'")
    with np.errstate(over="ignore"):
        vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
    if len(odd):
        raise UserError(
            f"{key}: {path} has {counted(len(odd), 'vector')} with numbers that are none, or infinite, such as "
            f"that of '{names[odd[0]]}': leave these items out, or give them vectors"
        )
    return ItemVectors(path, names, vectors, _encoder_beside(path))


def _encoder_beside(path: Path) -> str | None:
    """The digest in the note beside a file of vectors of texts; None if there is no such note."""
    places = (path.with_name(TEXT_VECTORS_NOTE), path.resolve().with_name(TEXT_VECTORS_NOTE))
    note = next((place for place in places if place.exists()), places[0])
    try:
        content = json.loads(note.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):  # nothing but a comparison depends on it
        return None
    digest = content.get("encoder_blake2b") if isinstance(content, dict) else None
    return digest if isinstance(digest, str) else None


def _describe(array: np.ndarray) -> str:
    return f"{' x '.join(map(str, array.shape)) or 'one value'} of {array.dtype}"


def _read_matrix(path: Path, key: str) -> tuple[list[str], np.ndarray]:
    beside = path.with_suffix(".json")
    if not beside.is_file():
        raise UserError(f"{key}: {path} needs the items' names beside it, in the order of its rows: {beside}")
    try:
        names = json.loads(beside.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{key}: {beside} is no JSON ({error})") from None
    if not isinstance(names, list) or not all(isinstance(each, (str, int)) for each in names):
        raise UserError(f"{key}: {beside} must be a list of the items' names")
    vectors = _read_safetensors(path, key) if path.suffix == ".safetensors" else _read_npy(path, key)
    return list(map(str, names)), vectors


def _read_npy(path: Path, key: str) -> np.ndarray:
    try:
        return np.load(path, allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise UserError(f"{key}: {path} is no array of numbers as NumPy saves it ({error})") from None


def _read_safetensors(path: Path, key: str) -> np.ndarray:
    damaged = UserError(f"{key}: {path} is no safetensors file, or is damaged")
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        file.seek(0)
        start = file.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(size, LONGEST_HEADER):
            raise damaged
        try:
            head = json.loads(file.read(length))
            tensors = {name: each for name, each in head.items() if name != "__metadata__"}
            name = MATRIX if MATRIX in tensors else next(iter(tensors))
            kind, shape = str(tensors[name]["dtype"]), [int(each) for each in tensors[name]["shape"]]
            begin, end = map(int, tensors[name]["data_offsets"])
        except (ValueError, TypeError, KeyError, AttributeError, StopIteration, RecursionError):
            raise damaged from None
        if name != MATRIX and len(tensors) > 1:
            raise UserError(f"{key}: {path} has {len(tensors)} tensors, and none of them is called {MATRIX}")
        if kind not in _NUMBERS:
            raise UserError(f"{key}: {path} has numbers of kind {kind}, not {', '.join(_NUMBERS)}")
        number = np.dtype(_NUMBERS[kind])
        fits = min(shape, default=0) >= 0 and 0 <= begin <= end <= size - 8 - length
        # math.prod and not NumPy's: a product that does not fit into 64 bits is found out, too.
        if not fits or math.prod(shape) * number.itemsize != end - begin:
            raise damaged
        file.seek(8 + length + begin)
        return np.frombuffer(file.read(end - begin), dtype=number).reshape(shape)


def _read_parquet(path: Path, key: str) -> tuple[list[str], np.ndarray]:
    try:
        table = pyarrow.parquet.read_table(path)
    except pa.ArrowException as error:
        raise UserError(f"{key}: {path} is no Parquet file, or is damaged ({error})") from None
    lists = [name for name in table.column_names if _is_list(table.schema.field(name).type)]
    others = [name for name in table.column_names if name not in lists]
    if len(lists) != 1 or len(others) != 1:
        raise UserError(
            f"{key}: {path} must have one column of names and one of lists of numbers, and has "
            f"{', '.join(f'{each.name} ({each.type})' for each in table.schema)}"
        )
    column: Any = table.column(lists[0]).combine_chunks()
    names = table.column(others[0]).cast(pa.string()).to_pylist()
    lengths = set(column.value_lengths().to_pylist())
    if None in names or None in lengths or len(lengths) > 1:
        what = "without a name" if None in names else "without a vector" if None in lengths else "of another length"
        raise UserError(f"{key}: {path} has rows {what}")
    values = column.flatten().to_numpy(zero_copy_only=False)
    return names, values.reshape(len(names), -1) if names else values


def _is_list(kind: pa.DataType) -> bool:
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
