"""A data set built once on a machine and shared by the runs of a sweep: memory-mapped, copy-on-write, without copies.

The first run that needs a data set builds it and writes it into a folder of this machine; the others map that file.
What they only read is in memory once for all of them, and what one of them writes is its own. An entry is for every
configuration in which the keys that building has read have the same values; nobody has to list those keys. It is for
every seed, too, unless building has drawn random numbers.

Entries are pickles, which run code when they are read and which this package refuses everywhere else. Here the
objects are of RecBole's classes, with all that these hold, and no file changes hands: the folder belongs to the user
whose runs write and read it, nobody else may look into it, and a folder for which this does not hold is refused. Never
give such a folder to somebody else, nor take one. Entries are not removed; delete the folder when the sweep is over.
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
import mmap
import os
import pickle
import platform
import random
import stat
import sys
from collections.abc import MutableMapping
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import recbole
import torch
from filelock import FileLock, Timeout

from recbole_gen import __version__
from recbole_gen.data import loaders
from recbole_gen.errors import UserError

MAGIC = b"recbole_gen data set 1 "
ALIGNMENT = 64  # bytes; a cache line, and the widest vectors of a processor
LEAST_BUFFER = 4096  # bytes; smaller arrays stay inside the pickle
SUFFIX = ".data"
CONFIG, TOKEN_IDS = "config", "token ids"  # what is made anew by the process that reads
_HERE = Path(__file__).resolve().parent


def shared(config, folder: str | Path):
    """The data set of a configuration and its three parts, as `loaders.built` returns them.

    They come from an entry in ``folder`` if there is one for this configuration, else they are built and written
    there. Of several processes that ask at once, one builds and the others wait for it. The global random generators
    end up where building leaves them. What cannot be written (no space left) is a warning, not an error.

    Args:
        config: seeded already, as for `loaders.built`: splits draw from the global generators.
        folder: made with mode 0700 if it is not there.

    Raises UserError for a folder that cannot be made or that others may look into, and what `loaders.built` raises.
    """
    folder = _private(Path(folder))
    return _find(config, folder) or _built_once(config, folder)


def _private(folder: Path) -> Path:
    """The folder, made if need be. Raises UserError if another user owns it or may read or change what is in it."""
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        folder = folder.resolve()  # a link that is turned round later leads nowhere else
        status = folder.stat()
    except OSError as error:
        raise UserError(f"the folder {folder} for shared data sets cannot be made: {error}") from None
    if not hasattr(os, "getuid"):
        return folder  # Windows has other permissions than these
    if status.st_uid != os.getuid():
        raise UserError(
            f"the folder {folder} for shared data sets belongs to another user, whose files could run code here: "
            f"choose another one"
        )
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise UserError(
            f"the folder {folder} for shared data sets is open to other users, whose files could run code here: "
            f"chmod 700 {folder}, or choose one that is not there yet"
        )
    return folder


def _built_once(config, folder: Path):
    """Build, or wait for the process that does."""
    try:
        lock = _locked(folder / "lock")
    except OSError as error:
        logging.getLogger().warning(f"the data set is not shared, for {folder} cannot be locked: {error}")
        return loaders.built(config)
    try:
        return _find(config, folder) or _build(config, folder)
    finally:
        lock.release()


def _locked(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logging.getLogger().info("waiting for the data set, which another run is building")
        lock.acquire()
    return lock


def _build(config, folder: Path):
    """Build and write an entry, and read it back, so that this process shares the memory of the others, too."""
    log = logging.getLogger()
    made_from = _made_from(config)  # before building, so that a file that changes meanwhile does not match
    seeded, before = _random_states(), dict(config.final_config_dict)
    with config.recording() as read:
        data, parts = loaders.built(config)
    states = _random_states()
    drawn = _digest(states) != _digest(seeded)
    trace = {"made_from": made_from, "read": read, "random": _digest(seeded) if drawn else None}
    changed = {key: value for key, value in config.final_config_dict.items() if value is not before.get(key)}
    path = folder / (hashlib.sha256(json.dumps(trace).encode()).hexdigest()[:32] + SUFFIX)
    try:
        _write(path, trace, (data, parts, changed, states if drawn else None), config)
    except (OSError, pickle.PicklingError, AttributeError, TypeError) as error:  # the last two: what no pickle can hold
        log.warning(f"the data set is not shared, for it cannot be written to {path}: {error}")
        return data, parts
    log.info(f"the data set is shared, as {path}")
    return _load(path, config) or (data, parts)


def _find(config, folder: Path):
    """The data set and its parts from the entry for this configuration; None if there is none."""
    made_from, seeded = _made_from(config), _digest(_random_states())
    for path in sorted(folder.glob(f"*{SUFFIX}")):
        header = _header(path)
        if header is None or header["trace"]["made_from"] != made_from:
            continue
        if header["trace"]["random"] not in (None, seeded) or not _reads_the_same(config, header["trace"]["read"]):
            continue
        found = _load(path, config)
        if found:
            logging.getLogger().info(f"the data set is shared, from {path}")
            return found
    return None


def _reads_the_same(config, stored: dict[str, list]) -> bool:
    with config.recording() as read:
        for key in stored:
            config[key]
    return json.dumps(read) == json.dumps(stored)  # as text: NaN is NaN, and 1 is not True


def _made_from(config) -> dict[str, Any]:
    """What a data set depends on besides the keys that building reads and the random numbers that it draws."""
    model, name = config.model_class, config["dataset"]
    files = (path for path in Path(config["data_path"]).iterdir() if path.name.startswith(name) and path.is_file())
    source = getattr(sys.modules.get(model.__module__), "__file__", None)  # it says what it needs of the data
    code = [*_HERE.glob("*.py"), _HERE.parent / "compat.py", *([Path(source)] if source else [])]
    return {
        "model": f"{model.__module__}:{model.__qualname__}",
        "files": _stamps(files),
        "code": _stamps(code),
        "versions": {
            "recbole_gen": __version__,
            **{package.__name__: package.__version__ for package in (recbole, torch, pandas, np)},
            "python": platform.python_version(),
        },
    }


def _stamps(files) -> list[list]:
    """Name, size and time of the last change of files."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)]


def _random_states() -> tuple:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _digest(states: tuple) -> str:
    python, (name, keys, *rest), of_torch = states
    numbers = repr((python, name, rest)).encode(), keys.tobytes(), of_torch.numpy().tobytes()
    return hashlib.sha256(b"".join(numbers)).hexdigest()


def _restore_random_states(states: tuple) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


# An entry is one line with the trace and the sizes in bytes of what follows: the pickle, and the arrays that it refers
# to. Each begins at a multiple of ALIGNMENT, and the file ends with the last one.


def _write(path: Path, trace: dict[str, Any], content, config) -> None:
    """Write beside ``path``, then rename. The caller holds the lock. Raises what pickle and the file system raise."""
    pickled = io.BytesIO()
    pickler = _Pickler(pickled, config, content[0])
    pickler.dump(content)
    chunks = [pickled.getbuffer(), *(buffer.raw() for buffer in pickler.buffers)]
    sizes = [chunk.nbytes for chunk in chunks]
    line = MAGIC + json.dumps({"trace": trace, "sizes": sizes}).encode() + b"\n"
    for left in path.parent.glob("*.tmp"):
        left.unlink()  # of a process that was killed: nobody else writes now
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            file.write(line)
            for start, chunk in zip(_starts(len(line), sizes), chunks):
                file.write(bytes(start - file.tell()))
                file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _starts(end: int, sizes: list[int]) -> list[int]:
    """Where chunks of these sizes lie behind byte ``end``."""
    starts = []
    for size in sizes:
        starts.append(-(-end // ALIGNMENT) * ALIGNMENT)
        end = starts[-1] + size
    return starts


def _header(path: Path) -> dict[str, Any] | None:
    """Trace and chunks, as (start, size), of an entry; None for a file that is none, or not a whole one."""
    try:
        with open(path, "rb") as file:
            if file.read(len(MAGIC)) != MAGIC:
                return None
            header = json.loads(file.readline())
            starts = _starts(file.tell(), header["sizes"])
            whole = starts[-1] + header["sizes"][-1] == os.fstat(file.fileno()).st_size
    except (OSError, ValueError):
        return None
    return {"trace": header["trace"], "chunks": list(zip(starts, header["sizes"]))} if whole else None


def _load(path: Path, config):
    """The data set and its parts over the mapped file; None, with a warning, if it cannot be read."""
    header = _header(path)
    if header is None:
        return None
    try:
        with open(path, "rb") as file:
            memory = memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY))
        pickled, *buffers = (memory[start : start + size] for start, size in header["chunks"])
        data, parts, changed, states = _Unpickler(io.BytesIO(pickled), config, buffers).load()
    except Exception as error:  # a damaged pickle may raise anything
        logging.getLogger().warning(f"{path} cannot be read, and is built again: {type(error).__name__}: {error}")
        return None
    for key, value in changed.items():
        config[key] = value
    if states is not None:
        _restore_random_states(states)
    return data, parts


class _Pickler(pickle.Pickler):
    """Keeps large arrays apart, writes the memory of tensors as arrays, and leaves out what the reader has or can make:
    the configuration, and the id of every token where the array of tokens says it."""

    def __init__(self, file, config, data):
        super().__init__(file, protocol=5, buffer_callback=self._stays_inside)
        self.config, self.buffers = config, list[pickle.PickleBuffer]()
        self.storages: dict[tuple[int, int], np.ndarray] = {}
        tokens = data.field2id_token
        self.tokens = {id(ids): tokens[f] for f, ids in data.field2token_id.items() if _is_order(ids, tokens.get(f))}

    def _stays_inside(self, buffer: pickle.PickleBuffer) -> bool:
        if buffer.raw().nbytes < LEAST_BUFFER:
            return True
        self.buffers.append(buffer)
        return False

    def persistent_id(self, value):
        if value is self.config:
            return CONFIG, None
        return (TOKEN_IDS, self.tokens[id(value)]) if id(value) in self.tokens else None

    def reducer_override(self, value):
        if type(value) is not torch.Tensor or value.device.type != "cpu" or value.layout != torch.strided:
            return NotImplemented
        if value.requires_grad or value.is_quantized or value.is_conj() or value.is_neg():
            return NotImplemented
        # Tensors that are views of the same memory are so again, as after torch.save.
        storage = value.untyped_storage()
        key = storage.data_ptr(), storage.nbytes()
        if key not in self.storages:
            self.storages[key] = torch.empty(0, dtype=torch.uint8).set_(storage).numpy()
        shape = value.storage_offset(), tuple(value.shape), value.stride()
        return _tensor, (self.storages[key], value.dtype, *shape)


def _is_order(ids, tokens) -> bool:
    """Whether the ids of the tokens are their places in the array."""
    return tokens is not None and len(ids) == len(tokens) and all(ids.get(t) == n for n, t in enumerate(tokens))


def _tensor(memory: np.ndarray, dtype: torch.dtype, offset: int, shape: tuple, stride: tuple) -> torch.Tensor:
    return torch.empty(0, dtype=dtype).set_(torch.from_numpy(memory).untyped_storage(), offset, shape, stride)


class _TokenIds(MutableMapping):
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


class _Unpickler(pickle.Unpickler):
    """Puts the configuration of this run where that of the run that built the data set was."""

    def __init__(self, file, config, buffers: list[memoryview]):
        super().__init__(file, buffers=buffers)
        self.config = config
        self.token_ids: dict[int, _TokenIds] = {}  # fields of one vocabulary share it

    def persistent_load(self, name):
        kind, tokens = name
        return self.config if kind == CONFIG else self.token_ids.setdefault(id(tokens), _TokenIds(tokens))
