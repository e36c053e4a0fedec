"""Data sets as Arrow files, mapped copy-on-write when they are read: nothing but data comes out of such a file.

A file is one record batch of one row. Each array, and each memory that tensors share, is a column, a list of numbers
that holds all of it; the last column is the rest, as JSON: a table of objects that refer to each other and to columns
by number. The kinds of objects are those of `_ObjectReader`, and the classes those of `CLASSES` and `ENUMS`: a name in
a file chooses among these and is never imported. Shapes and offsets are checked against the size of the column.

Behind the Arrow file is a checksum, which is compared whenever a data set is read: what is mapped afterwards is then in
the system's memory already. It costs about 0.8 s of one core a gigabyte, shared out over the cores.
"""

from __future__ import annotations

import json
import logging
import mmap
import os
from collections.abc import MutableMapping
from enum import Enum
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import torch
from recbole.data.dataset import Dataset, DIENDataset, KnowledgeBasedDataset
from recbole.data.interaction import Interaction
from recbole.sampler import SeqSampler
from recbole.utils import FeatureSource, FeatureType

from recbole_gen import checkpoint
from recbole_gen.data.general_datasets import (
    GeneralDataset,
    GeneralSetDataset,
    KnowledgeDataset,
    KnowledgeSetDataset,
)
from recbole_gen.data.rows import SequenceRows
from recbole_gen.data.sequences import KGSequenceDataset, SequenceDataset
from recbole_gen.data.times import DayRange

FORMAT = "recbole_gen data set 3"
CLASSES: dict[str, type] = {
    each.__name__: each
    for each in (
        SequenceDataset, KGSequenceDataset, GeneralSetDataset, KnowledgeSetDataset, SequenceRows, DayRange,
        GeneralDataset, KnowledgeDataset, Dataset, KnowledgeBasedDataset, DIENDataset, SeqSampler, Interaction,
    )
}  # fmt: skip
ENUMS: dict[str, type[Enum]] = {each.__name__: each for each in (FeatureType, FeatureSource)}
ARRAYS = "biufU"  # kinds of NumPy's data types; with objects ("O") a file could name addresses
DTYPES = {
    str(each).removeprefix("torch."): each
    for each in (
        torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
        torch.float16, torch.bfloat16, torch.float32, torch.float64,
    )
}  # fmt: skip
OBJECTS_COLUMN = "objects"


class UnsupportedObject(TypeError):
    """Something in the data set is of no kind that a file can hold."""


class DamagedFile(ValueError):
    """A file is no whole one of ours, or says what cannot be."""


def write_dataset(path: Path, about: dict[str, Any], content, config, token_ids: dict[int, np.ndarray]) -> None:
    """Write ``content`` to a new file; its arrays are not copied on the way.

    Args:
        about: what `read_metadata` gives back, as JSON can hold it.
        config: is left out where it occurs, and that of the reader takes its place.
        token_ids: id of a dict, token -> its place, that is left out where it occurs -> the array of the tokens.

    Raises UnsupportedObject for an object of another kind, and OSError.
    """
    table = _ObjectWriter(config, token_ids)
    root = table.value(content)
    rest = json.dumps({"root": root, "objects": table.objects}).encode()
    columns = [*table.columns, _to_column(np.frombuffer(rest, np.uint8))]
    names = [*map(str, range(len(table.columns))), OBJECTS_COLUMN]
    batch = pyarrow.record_batch(columns, names=names)
    batch = batch.replace_schema_metadata({"format": FORMAT, "about": json.dumps(about)})
    options = pyarrow.ipc.IpcWriteOptions(allow_64bit=True)  # arrays of more than 2**31 elements
    with pyarrow.OSFile(str(path), "wb") as file, pyarrow.ipc.new_file(file, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    with open(path, "rb+") as written:
        checkpoint.sign(written)
        written.flush()
        os.fsync(written.fileno())


def read_metadata(path: Path) -> dict[str, Any]:
    """What was given to `write_dataset` about a file. Raises OSError, and DamagedFile for one that is none.

    The checksum is not compared: a file that is none of those looked for is not read.
    """
    return _open_mapped(path)[2]


def read_dataset(path: Path, config) -> Any:
    """The content of a file, its arrays over the mapped file: what is written to them stays in this process.

    Raises DamagedFile or another exception for a file that is damaged, and OSError.
    """
    if not checkpoint.is_signed_rightly(path):
        raise DamagedFile("it does not have the checksum that it was written with")
    memory, batch, _ = _open_mapped(path)
    columns = dict(zip(batch.schema.names, (_column_memory(column, memory) for column in batch.columns)))
    rest = json.loads(bytes(columns.pop(OBJECTS_COLUMN)))
    return _ObjectReader(rest["objects"], columns, config).value(rest["root"])


def _open_mapped(path: Path) -> tuple[mmap.mmap, pyarrow.RecordBatch, dict[str, Any]]:
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            raise DamagedFile("it is empty")
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
    try:
        arrow = memoryview(memory)[: -checkpoint.CHECKSUM_SIZE]
        reader = pyarrow.ipc.open_file(pyarrow.py_buffer(arrow))
        about = {key.decode(): value for key, value in (reader.schema.metadata or {}).items()}
        if about.get("format") != FORMAT.encode() or reader.num_record_batches != 1:
            raise DamagedFile("it is none of this version")
        return memory, reader.get_batch(0), json.loads(about["about"])
    except (ValueError, LookupError, OSError, pyarrow.ArrowException) as error:
        raise DamagedFile(str(error)) from None


def _to_column(array: np.ndarray) -> pyarrow.Array:
    """A contiguous array as the one list of a column, without copying."""
    flat = array.reshape(-1)
    if flat.dtype.kind == "U":
        flat = flat.view(np.uint32)
    elif flat.dtype.kind == "b":
        flat = flat.view(np.uint8)
    kind = pyarrow.from_numpy_dtype(flat.dtype)
    numbers = pyarrow.Array.from_buffers(kind, len(flat), [None, pyarrow.py_buffer(flat.view(np.uint8))])
    ends = pyarrow.py_buffer(np.array([0, len(flat)], np.int64))
    return pyarrow.Array.from_buffers(pyarrow.large_list(kind), 1, [None, ends], children=[numbers])


def _column_memory(column: pyarrow.Array, memory: mmap.mmap) -> np.ndarray:
    """The memory of a column, uint8 [bytes]. Arrow's own view of it would be read-only."""
    kind = column.type
    if not (pyarrow.types.is_large_list(kind) and pyarrow.types.is_primitive(kind.value_type)):
        raise DamagedFile(f"a column is {kind}")
    size = len(column.values) * kind.value_type.bit_width // 8
    if size == 0:
        return np.empty(0, np.uint8)
    start = column.values.buffers()[1].address - np.frombuffer(memory, np.uint8).ctypes.data
    if not 0 <= start <= len(memory) - size:  # such as one that was compressed
        raise DamagedFile("a column lies outside of the file")
    return np.frombuffer(memory, np.uint8, size, start)


class _ObjectWriter:
    """The table of objects of a file, and its columns.

    A value is itself where JSON has it, and else a list: its kind, and what there is to say. What can change is in the
    table once, wherever it occurs.
    """

    def __init__(self, config, token_ids: dict[int, np.ndarray]):
        self.config, self.token_ids = config, token_ids
        self.objects: list[Any] = []
        self.columns: list[pyarrow.Array] = []
        self.numbers: dict[int, int] = {}  # id of an object -> its place in the table
        self.memories: dict[tuple[int, int], int] = {}  # address and size of what tensors share -> its column

    def value(self, value) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, float, str):
            return value
        if kind is np.str_:
            return str(value)
        if isinstance(value, np.generic) and value.dtype.kind in "biuf" and value.dtype.itemsize <= 8:
            return ["number", value.dtype.str, value.item()]
        if kind is tuple:
            return ["tuple", *map(self.value, value)]
        if isinstance(value, Enum) and ENUMS.get(kind.__name__) is kind:
            return ["enum", kind.__name__, value.name]
        if value is self.config:
            return ["config"]
        if value is logging.getLogger():
            return ["log"]
        if id(value) not in self.numbers:
            self.numbers[id(value)] = len(self.objects)
            self.objects.append(None)  # an object may hold itself
            self.objects[self.numbers[id(value)]] = self._object(value)
        return ["object", self.numbers[id(value)]]

    def _object(self, value) -> list[Any]:
        kind = type(value)
        if id(value) in self.token_ids:
            return ["token ids", self.value(self.token_ids[id(value)])]
        if kind in (list, set):
            return [kind.__name__, *map(self.value, value)]
        if kind is dict:
            return ["dict", *([self.value(key), self.value(each)] for key, each in value.items())]
        if kind is np.ndarray:
            return self._array(value)
        if kind is torch.Tensor:
            return self._tensor(value)
        if CLASSES.get(kind.__name__) is kind:
            return ["instance", kind.__name__, {name: self.value(each) for name, each in vars(value).items()}]
        raise UnsupportedObject(f"it holds an object of {kind.__module__}.{kind.__qualname__}")

    def _array(self, array: np.ndarray) -> list[Any]:
        if array.dtype.kind not in ARRAYS or array.dtype.itemsize == 0 or not array.dtype.isnative:
            raise UnsupportedObject(f"it holds an array of {array.dtype}")
        column = self._add(np.ascontiguousarray(array))
        return ["array", column, array.dtype.str, list(array.shape), array.flags.writeable]

    def _tensor(self, tensor: torch.Tensor) -> list[Any]:
        dtype = str(tensor.dtype).removeprefix("torch.")
        odd = tensor.requires_grad or tensor.is_conj() or tensor.is_neg()
        if dtype not in DTYPES or odd or tensor.layout != torch.strided or tensor.device.type != "cpu":
            raise UnsupportedObject(f"it holds a tensor of {tensor.dtype} and {tensor.layout} on {tensor.device}")
        storage = tensor.untyped_storage()
        key = storage.data_ptr(), storage.nbytes()
        if key not in self.memories:
            memory = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
            numbers = np.dtype(dtype if dtype != "bfloat16" else np.uint16)
            self.memories[key] = self._add(memory.view(numbers) if len(memory) % numbers.itemsize == 0 else memory)
        return ["tensor", self.memories[key], dtype, tensor.storage_offset(), list(tensor.shape), list(tensor.stride())]

    def _add(self, array: np.ndarray) -> int:
        self.columns.append(_to_column(array))
        return len(self.columns) - 1


class _ObjectReader:
    """The objects of a file, made when they are first asked for. Raises DamagedFile, or what the making raises."""

    def __init__(self, objects: list[Any], columns: dict[str, np.ndarray], config):
        self.objects, self.columns, self.config = objects, columns, config
        self.made: dict[int, Any] = {}
        self.memories: dict[int, torch.Tensor] = {}  # of a column, as the tensor that all of its tensors are views of
        self.token_ids: dict[int, TokenIds] = {}  # fields of one vocabulary share it

    def value(self, value) -> Any:
        if value is None or isinstance(value, (bool, int, float, str)):
            return value
        match value:
            case ["object", int(number)] if 0 <= number < len(self.objects):
                return self.made[number] if number in self.made else self._object(number, self.objects[number])
            case ["number", dtype, (bool() | int() | float()) as number]:
                return _parse_dtype(dtype, "biuf").type(number)
            case ["tuple", *values]:
                return tuple(map(self.value, values))
            case ["enum", kind, name] if kind in ENUMS:
                return ENUMS[kind][name]
            case ["config"]:
                return self.config
            case ["log"]:
                return logging.getLogger()
        raise DamagedFile(f"there is no value {value!s:.100}")

    def _object(self, number: int, said) -> Any:
        made: Any
        match said:
            case ["list", *values]:
                self.made[number] = made = []
                made.extend(map(self.value, values))
            case ["set", *values]:
                self.made[number] = made = set()
                made.update(map(self.value, values))
            case ["dict", *items]:
                self.made[number] = made = {}
                for key, each in items:
                    made[self.value(key)] = self.value(each)
            case ["instance", name, dict(attributes)] if name in CLASSES:
                self.made[number] = made = object.__new__(CLASSES[name])
                vars(made).update({key: self.value(each) for key, each in attributes.items()})
            case ["array", int(column), dtype, list(shape), bool(writeable)]:
                self.made[number] = made = self._array(column, _parse_dtype(dtype, ARRAYS), shape)
                made.flags.writeable = writeable
            case ["tensor", int(column), dtype, int(offset), list(shape), list(stride)] if dtype in DTYPES:
                self.made[number] = made = self._tensor(column, DTYPES[dtype]).as_strided(shape, stride, offset)
            case ["token ids", tokens]:
                array = self.value(tokens)
                if not isinstance(array, np.ndarray):
                    raise DamagedFile("tokens are no array")
                self.made[number] = made = self.token_ids.setdefault(id(array), TokenIds(array))
            case _:
                raise DamagedFile(f"there is no object {said!s:.100}")
        return made

    def _array(self, column: int, dtype: np.dtype, shape: list[int]) -> np.ndarray:
        memory = self.columns[str(column)]
        if dtype.kind == "b":
            _refuse_invalid_booleans(memory)
        if min(shape, default=0) < 0:
            raise DamagedFile(f"an array has shape {shape}")
        return memory.view(dtype).reshape(shape)

    def _tensor(self, column: int, dtype: torch.dtype) -> torch.Tensor:
        """All of a column as one tensor; `as_strided` refuses what is not inside."""
        memory = self.columns[str(column)]
        if dtype == torch.bool:
            _refuse_invalid_booleans(memory)
        whole = self.memories.setdefault(column, torch.from_numpy(memory))
        return torch.empty(0, dtype=dtype).set_(whole.untyped_storage(), 0, (len(whole) // dtype.itemsize,), (1,))


def _parse_dtype(text: Any, kinds: str) -> np.dtype:
    dtype = np.dtype(text) if isinstance(text, str) else None
    if dtype is None or dtype.kind not in kinds or dtype.itemsize == 0:
        raise DamagedFile(f"there is no data type {text}")
    return dtype


def _refuse_invalid_booleans(memory: np.ndarray) -> None:
    """NumPy and torch take a byte of a truth value for 0 or 1 when they count, and not when they copy."""
    if memory.size and memory.max() > 1:
        raise DamagedFile("a truth value is neither 0 nor 1")


class TokenIds(MutableMapping):
    """token -> its place in an array of tokens; as a dict, which is memory of each process, only if somebody asks."""

    def __init__(self, tokens: np.ndarray):
        self.tokens = tokens

    @cached_property
    def ids(self) -> dict[str, int]:
        return {token: number for number, token in enumerate(self.tokens)}

    def __getitem__(self, token):
        return self.ids[token]

    def __setitem__(self, token, number):
        self.ids[token] = number

    def __delitem__(self, token):
        del self.ids[token]

    def __iter__(self):
        return iter(self.ids)

    def __len__(self) -> int:
        return len(self.ids)
