"""A data set built once on a machine and shared by the runs on it: memory-mapped, copy-on-write, without copies.

The first run that needs a data set builds it and writes it into a folder of this machine; the others map that file.
What they only read is in memory once for all of them, and what one of them writes is its own. An entry is for every
configuration in which the keys that building has read have the same values; nobody has to list those keys. It is for
every seed, too, unless building has drawn random numbers.

An entry (see `cache_file`) can hold data alone, and is refused where somebody else could have put it. It goes when its
raw files, this code or the versions of the packages have changed and it is built again, or when it is used least of
many.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import platform
import random
import re
import stat
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas
import pyarrow
import recbole
import torch
from filelock import FileLock, Timeout
from recbole.data.dataset import Dataset

from recbole_gen import __version__, compat
from recbole_gen.data import cache_file, loaders
from recbole_gen.errors import UserError

SUFFIX = ".arrow"
FOLDER_NAME = ".cache"  # inside the folder of a data set
MIN_LOG_BYTES = 64 << 20  # bytes of interactions as text, which take some seconds to build; see `data_cache: auto`
MAX_ENTRIES = 8  # entries a folder
_ENTRY_NAMES = re.compile(rf"[0-9a-f]{{32}}{re.escape(SUFFIX)}(\.\d+\.tmp)?")
_HERE = Path(__file__).resolve().parent


def load_dataset(config, folder: str | Path | None = None):
    """The data set of a configuration and its three parts: built, or from where ``folder``, or else the key data_cache,
    says that they are kept.

    Raises UserError for a folder that was asked for and cannot be made or that others may write into, and what
    `loaders.build_dataset` raises.
    """
    place = _cache_folder(config, config["data_cache"] if folder is None else folder)
    loaded = loaders.build_dataset(config) if place is None else shared_dataset(config, place)
    compat.return_freed_memory()  # building takes more than what is built, and training would never use it
    return loaded


def _cache_folder(config, use: bool | str | Path) -> Path | None:
    beside_data = Path(config["data_path"]) / FOLDER_NAME
    if use == "auto":
        if _size_of_log(config) < MIN_LOG_BYTES:
            return None
        try:
            return _private_folder(beside_data)
        except UserError as error:
            logging.getLogger().info(f"the data set is not kept for later runs: {error}")
            return None
    return Path(beside_data if use is True else use) if use else None


def _size_of_log(config) -> int:
    return sum(path.stat().st_size for path in _raw_files(config) if path.suffix == ".inter")


def _raw_files(config) -> list[Path]:
    files = Path(config["data_path"]).iterdir()
    return [path for path in files if path.name.startswith(config["dataset"]) and path.is_file()]


def shared_dataset(config, folder: str | Path):
    """The data set of a configuration and its three parts, as `loaders.build_dataset` returns them.

    They come from an entry in ``folder`` if there is one for this configuration, else they are built and written
    there. Of several processes that ask at once, one builds and the others wait for it. The global random generators
    end up where building leaves them. What cannot be written (no space left) is a warning, not an error.

    Args:
        config: seeded already, as for `loaders.build_dataset`: splits draw from the global generators.
        folder: made, for its owner alone, if it is not there.

    Raises UserError for a folder that cannot be made or that others may write into, and what
    `loaders.build_dataset` raises.
    """
    folder = _private_folder(Path(folder))
    return _find_entry(config, folder, logging.DEBUG) or _build_once(config, folder)


def _private_folder(folder: Path) -> Path:
    """The folder, made if need be. Raises UserError if another user owns it or may change what is in it."""
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
            f"the folder {folder} for shared data sets belongs to another user, who could change what runs read: "
            f"choose another one"
        )
    if stat.S_IMODE(status.st_mode) & 0o022:
        raise UserError(
            f"other users may write into the folder {folder} for shared data sets, and change what runs read: "
            f"chmod go-w {folder}, or choose one that is not there yet"
        )
    return folder


def _build_once(config, folder: Path):
    """Build, or wait for the process that does."""
    try:
        lock = _acquire_lock(folder / "lock")
    except OSError as error:
        logging.getLogger().warning(f"the data set is not shared, for {folder} cannot be locked: {error}")
        return loaders.build_dataset(config)
    try:
        return _find_entry(config, folder, logging.WARNING) or _build_entry(config, folder)
    finally:
        lock.release()


def _acquire_lock(path: Path) -> FileLock:
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        logging.getLogger().info("waiting for the data set, which another run is building")
        lock.acquire()
    return lock


def _build_entry(config, folder: Path):
    """Build and write an entry, and read it back, so that this process shares the memory of the others, too."""
    log = logging.getLogger()
    made_from = _dependencies(config)  # before building, so that a file that changes meanwhile does not match
    stale = _stale_entries(folder, made_from)
    seeded, before = _random_states(), dict(config.final_config_dict)
    with config.recording_reads() as read:
        data = loaders.create_dataset(config)
        summary = str(data)  # of the log; later it could tell the numbers of rows only
        log.info(summary)
        parts = data.build()
    states = _random_states()
    drawn = _digest_states(states) != _digest_states(seeded)
    trace = {"made_from": made_from, "read": read, "random": _digest_states(seeded) if drawn else None}
    changed = {key: value for key, value in config.final_config_dict.items() if value is not before.get(key)}
    path = folder / (hashlib.sha256(json.dumps(trace).encode()).hexdigest()[:32] + SUFFIX)
    try:
        _write_entry(path, trace, (data, parts, changed, states if drawn else None, summary), config)
    except (OSError, cache_file.UnsupportedObject) as error:
        log.warning(f"the data set is not shared, for it cannot be written to {path}: {error}")
        return data, parts
    log.info(f"the data set is shared, as {path}")
    _remove_entries(stale - {path})
    _remove_entries({*_entries(folder)[MAX_ENTRIES:]} - {path})
    kept = _read_entry(path, config, logging.WARNING)
    return kept[:2] if kept else (data, parts)


def _stale_entries(folder: Path, made_from: dict[str, Any]) -> set[Path]:
    """Entries that no run will ask for again, as far as one can know; says why."""
    log, stale = logging.getLogger(), set()
    for path in _entries(folder):
        trace = _read_trace(path)
        if trace is None:
            log.warning(f"{path} is no shared data set, or not a whole one")
            stale.add(path)
        elif reason := _stale_reason(trace["made_from"], made_from):
            log.info(f"the shared data set {path} is stale: {reason}")
            stale.add(path)
    return stale


def _stale_reason(stored: dict[str, Any], made_from: dict[str, Any]) -> str | None:
    """Why an entry is stale, if it is; that of another data set, or of a model with code of its own, may not be."""
    if stored["data_set"] != made_from["data_set"]:
        return None
    same_model = stored["model"] == made_from["model"]
    names = {"files": "files", "code": "code", "versions": "versions", **({"source": "model"} if same_model else {})}
    changed = [name for key, name in names.items() if stored[key] != made_from[key]]
    return f"it was made with other {', '.join(changed)} than there are now" if changed else None


def _entries(folder: Path) -> list[Path]:
    """The entries, those used last first."""
    times = {}
    for path in folder.iterdir():
        if _ENTRY_NAMES.fullmatch(path.name) and path.suffix == SUFFIX:
            with contextlib.suppress(OSError):  # removed by another run
                times[path] = path.stat().st_mtime
    return sorted(times, key=lambda path: (-times[path], path))


def _remove_entries(paths: set[Path]) -> None:
    for path in paths:
        with contextlib.suppress(OSError):  # Windows does not remove what is mapped
            path.unlink()


def _find_entry(config, folder: Path, level: int):
    """The data set and its parts from the entry for this configuration; None if there is none."""
    made_from, seeded = _dependencies(config), _digest_states(_random_states())
    for path in _entries(folder):
        trace = _read_trace(path)
        if trace is None or trace["made_from"] != made_from or trace["random"] not in (None, seeded):
            continue
        if not _same_values_read(config, trace["read"]):
            continue
        found = _read_entry(path, config, level)
        if found:
            *data_and_parts, summary = found
            log = logging.getLogger()
            log.info(f"the data set is shared, from {path}")
            log.info(summary)
            for note in data_and_parts[0].notes:
                log.warning(note)
            return tuple(data_and_parts)
    return None


def _same_values_read(config, stored: dict[str, list]) -> bool:
    with config.recording_reads() as read:
        for key in stored:
            config[key]
    return json.dumps(read) == json.dumps(stored)  # as text: NaN is NaN, and 1 is not True


def _dependencies(config) -> dict[str, Any]:
    """What a data set depends on besides the keys that building reads and the random numbers that it draws."""
    model = config.model_class
    source = getattr(sys.modules.get(model.__module__), "__file__", None)  # it says what it needs of the data
    return {
        "data_set": [config["dataset"], config["data_path"]],
        "model": f"{model.__module__}:{model.__qualname__}",
        "files": _stamps(_raw_files(config)),
        "code": _stamps(_code_files()),
        "source": _stamps([Path(source)] if source else []),
        "versions": {
            "recbole_gen": __version__,
            **{package.__name__: package.__version__ for package in (recbole, torch, pandas, pyarrow, np)},
            "python": platform.python_version(),
        },
    }


def _code_files() -> list[Path]:
    """The source that decides what a data set is: this folder, reading, the repairs of RecBole, in one file or many,
    and the hashes that order simultaneous events."""
    package = _HERE.parent
    return [*_HERE.glob("*.py"), *package.glob("compat.py"), *package.glob("compat/**/*.py"),
            *package.glob("reading/*.py"), *package.glob("evaluation/ties.py")]  # fmt: skip


def _stamps(files) -> list[list]:
    """Name, size and time of the last change of files."""
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in sorted(files)]


def _random_states() -> tuple:
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def _digest_states(states: tuple) -> str:
    python, (name, keys, *rest), of_torch = states
    numbers = repr((python, name, rest)).encode(), keys.tobytes(), of_torch.numpy().tobytes()
    return hashlib.sha256(b"".join(numbers)).hexdigest()


def _restore_random_states(states: tuple) -> None:
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])


def _write_entry(path: Path, trace: dict[str, Any], content: tuple, config) -> None:
    """Write beside ``path``, then rename. The caller holds the lock. Raises UnsupportedObject and OSError."""
    for left in path.parent.iterdir():
        if _ENTRY_NAMES.fullmatch(left.name) and left.suffix == ".tmp":
            left.unlink()  # of a process that was killed: nobody else writes now
    data = content[0]
    tokens = data.field2id_token
    token_ids = {id(ids): tokens[f] for f, ids in data.field2token_id.items() if _ids_are_places(ids, tokens.get(f))}
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        cache_file.write_dataset(temporary, trace, content, config, token_ids)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _ids_are_places(ids, tokens) -> bool:
    """Whether the ids of the tokens are their places in the array."""
    return tokens is not None and len(ids) == len(tokens) and all(ids.get(t) == n for n, t in enumerate(tokens))


def _read_trace(path: Path) -> dict[str, Any] | None:
    """What an entry was made from and for; None for a file that is none, or not a whole one."""
    try:
        trace = cache_file.read_metadata(path)
        made_from = trace["made_from"]
        whole = {"data_set", "model", "files", "code", "source", "versions"} == made_from.keys()
        return trace if whole and isinstance(trace["read"], dict) and "random" in trace else None
    except (OSError, cache_file.DamagedFile, LookupError, TypeError, AttributeError):
        return None


def _read_entry(path: Path, config, level: int):
    """The data set and its parts over the mapped file, and what to tell of them; None, and a line of this level in the
    log, if it cannot be read."""
    before = _random_states()
    try:
        data, parts, changed, states, summary = cache_file.read_dataset(path, config)
        if len(parts) != 3 or not all(isinstance(each, Dataset) for each in (data, *parts)):
            raise cache_file.DamagedFile("there is no data set with three parts in it")
        if states is not None:
            _restore_random_states(states)
        changed = dict(changed)
    except Exception as error:  # a damaged file may raise anything
        _restore_random_states(before)
        logging.getLogger().log(level, f"{path} cannot be read, and is built again: {type(error).__name__}: {error}")
        return None
    for key, value in changed.items():
        config[key] = value
    with contextlib.suppress(OSError):  # not ours to touch
        os.utime(path)
    return data, parts, summary
