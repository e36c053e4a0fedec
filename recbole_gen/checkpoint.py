"""One checkpoint format: weights and plain data in one file, written atomically and read without unpickling.

A checkpoint is a dict of tensors, numbers, strings and containers of them, as `torch.load(weights_only=True)` reads it:
model name, configuration, vocabulary, weights, optimiser, random states, counters and metrics.

The file ends in a checksum of all before it (`sign`), which torch takes for the comment of its zip: a single bit that
has changed anywhere is found. The data sets that runs share (`data.cache_file`) end in the same.
"""

from __future__ import annotations

import os
import pickle
import random
import zipfile
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import scipy.sparse
import torch

from recbole_gen.errors import UserError

FORMAT = "recbole_gen checkpoint 1"
RECBOLE_FORMAT = "RecBole checkpoint as plain data 1"
"""What RecBole's own trainers write where recbole_gen is imported, see `compat.checkpoints`."""

CHECKSUM_MARK = b"recbole_gen checksum "
CHECKSUM_SIZE = len(CHECKSUM_MARK) + 8
"""Bytes at the end of a file that has a checksum: the mark, and a number of eight hexadecimal digits."""
PART_SIZE, READ_SIZE = 8 << 20, 1 << 16
"""Bytes of a file that one thread checks, and that it reads at a time."""
SIGNED = "signed"
"""The key of a checkpoint that says that its file ends in a checksum: without it, it is of a version that had none."""


class CheckpointError(UserError):
    """A checkpoint that cannot be written, read, or used for the model at hand."""


def save(path: str | Path, content: dict[str, Any]) -> None:
    """Write beside ``path``, then rename: after a failure the file that was there is untouched.

    Raises CheckpointError if the file system refuses (no space left, no permission).
    """
    path = Path(path)
    temporary = path.with_name(path.name + ".tmp")
    try:
        with open(temporary, "wb") as file:
            torch.save({"format": FORMAT, SIGNED: True, **content}, file)
            file.seek(-2, os.SEEK_END)  # a zip ends in the length of its comment, which was 0
            file.write(CHECKSUM_SIZE.to_bytes(2, "little"))
            sign(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except (OSError, RuntimeError) as error:  # torch's writer reports a full disk as RuntimeError
        kept = f"the one of before is kept at {path}" if path.exists() else "there is none yet"
        raise CheckpointError(
            f"the checkpoint {path} could not be written ({error}); {kept}. Free some space, or choose another folder "
            f"with --checkpoint_dir=..., and go on with --resume."
        ) from error
    finally:
        temporary.unlink(missing_ok=True)  # still there after a failure of any kind, Ctrl-C included


def _could_be_pickled(path: Path) -> bool:
    """Whether a file begins as torch's archives or pickled objects do."""
    with path.open("rb") as file:
        return file.read(2)[:1] == b"\x80" or zipfile.is_zipfile(path)


def load(path: str | Path, device: torch.device | str = "cpu", kind: str = FORMAT) -> dict[str, Any]:
    """Read a checkpoint. Raises CheckpointError if it is missing, truncated, foreign, or holds Python objects.

    Args:
        device: where its tensors go.
        kind: FORMAT, or RECBOLE_FORMAT for one of RecBole's own trainers.
    """
    path = Path(path)
    if (path / "best.pth").is_file():
        raise CheckpointError(f"{path} is the folder of a run of recbole_gen: recbole_gen.load({str(path)!r}) reads it")
    try:
        is_whole = is_signed_rightly(path)
        if is_whole is False or (is_whole is None and not _is_sound_zip(path)):
            raise _damaged(path)
        content = torch.load(path, map_location=device, weights_only=True)
    except CheckpointError:
        raise
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError:
        if not _could_be_pickled(path):
            raise CheckpointError(
                f"{path} is no checkpoint. Name one of a run's folder (best.pth, last.pth), or the folder"
            ) from None
        raise CheckpointError(
            f"{path} holds pickled Python objects, which could run code when loaded, and is refused. (RecBole's own "
            f".pth files are of that kind, unless recbole_gen was imported: train the model again with recbole_gen.)"
        ) from None
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:  # a file that is none, or damaged, may raise anything
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({error!r:.200}). Use the other one of the run's "
            f"folder (best.pth, last.pth)."
        ) from None
    if is_whole is None and isinstance(content, dict) and content.get(SIGNED):
        raise _damaged(path)  # it had a checksum
    mark = content.get("format") if isinstance(content, dict) else None
    if mark == kind:
        return content
    if mark == FORMAT:
        raise CheckpointError(
            f"{path} is a checkpoint of recbole_gen, not of RecBole's trainers: recbole_gen.load({str(path.parent)!r}) "
            f"reads it, with its data"
        )
    if mark == RECBOLE_FORMAT:
        raise CheckpointError(
            f"{path} is a checkpoint of RecBole's own Trainer, not of recbole_gen: "
            f"recbole.quick_start.load_data_and_model({str(path)!r}) reads it"
        )
    of = "recbole_gen" if kind == FORMAT else "RecBole's trainers"
    raise CheckpointError(f"{path} is not a checkpoint of {of} (no '{kind}' mark in it)")


def _damaged(path: Path) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged: its content does not have the checksum that it was written with (a disk or a copy that "
        f"fails, or another program has changed it). Copy it again, or use the other one of the run's folder "
        f"(best.pth, last.pth)."
    )


def sign(file: BinaryIO) -> None:
    """End a file, open for writing by its name, in a checksum of what it holds."""
    file.seek(0, os.SEEK_END)
    file.write(CHECKSUM_MARK)
    file.flush()
    file.write(f"{_checksum(Path(file.name), file.tell()):08x}".encode())


def is_signed_rightly(path: Path) -> bool | None:
    """Whether a file is as `sign` has left it; None for one that does not end in a checksum. Raises OSError.

    All of it is read: about a second a gigabyte and core.
    """
    with open(path, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < CHECKSUM_SIZE:
            return None
        file.seek(-CHECKSUM_SIZE, os.SEEK_END)
        end = file.read()
    if not end.startswith(CHECKSUM_MARK):
        return None
    return end[len(CHECKSUM_MARK) :] == f"{_checksum(path, size - 8):08x}".encode()


def _checksum(path: Path, size: int) -> int:
    """CRC-32 of the CRC-32s of the parts of a file's first ``size`` bytes: parts are read in threads, and any change of
    up to 32 bits in a row is found."""

    def part(start: int) -> bytes:
        crc, end, buffer = 0, min(start + PART_SIZE, size), memoryview(bytearray(READ_SIZE))
        with open(path, "rb", buffering=0) as file:
            file.seek(start)
            while start < end and (read := file.readinto(buffer[: end - start])):
                crc, start = zlib.crc32(buffer[:read], crc), start + read
        return crc.to_bytes(4, "little")

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        return zlib.crc32(b"".join(threads.map(part, range(0, size, PART_SIZE))))


def _is_sound_zip(path: Path) -> bool:
    """Whether the members of a checkpoint without a checksum have their CRCs, which torch does not look at. What is no
    zip is left to torch."""
    if not zipfile.is_zipfile(path):
        return True
    with zipfile.ZipFile(path) as members:
        return members.testzip() is None


def require_match(path: Path, content: dict[str, Any], model_name: str, vocabulary: dict[str, list[str]]) -> None:
    """Raise CheckpointError unless the checkpoint is of this model on this vocabulary."""
    if content["model"] != model_name:
        raise CheckpointError(f"{path} is a checkpoint of {content['model']}, not of {model_name}")
    for field, tokens in vocabulary.items():
        stored = content["vocabulary"].get(field)
        if stored != tokens:
            raise CheckpointError(
                f"{path} was trained with other values of '{field}' ({len(stored or []) - 1} of them, the data set at "
                f"hand has {len(tokens) - 1}): use the data set and the filters of that run"
            )


class WeightsDoNotFit(CheckpointError):
    """The weights of a checkpoint are of other sizes than those of the model."""


def load_weights(path: str | Path, content: dict[str, Any], model: Any) -> None:
    """Put a checkpoint's weights into the model. Raises WeightsDoNotFit if the shapes differ."""
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        stored, own = _shapes(content["state_dict"]), _shapes(model.state_dict())
        differing = [name for name in {**own, **stored} if stored.get(name) != own.get(name)]
        if not differing:
            raise WeightsDoNotFit(f"the weights in {path} do not fit the model: {error}") from None
        first = differing[0]
        raise WeightsDoNotFit(
            f"the weights in {path} do not fit the model: {first} is {stored.get(first, 'not there')} in the one and "
            f"{own.get(first, 'not there')} in the other"
        ) from None
    model.load_other_parameter(unpack_other_parameter(content["other_parameter"]))


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    return {name: list(each.shape) for name, each in weights.items() if isinstance(each, torch.Tensor)}


def pack_other_parameter(value: Any) -> Any:
    """RecBole's `other_parameter`, such as ItemKNN's sparse matrices, as tensors and plain data."""
    if scipy.sparse.issparse(value):
        csr = value.tocsr()
        parts = {name: torch.from_numpy(getattr(csr, name).copy()) for name in ("data", "indices", "indptr")}
        return {"__csr__": list(csr.shape), **parts}
    if isinstance(value, np.ndarray):
        return {"__array__": torch.from_numpy(value.copy())}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, dict):
        return {key: pack_other_parameter(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [pack_other_parameter(item) for item in value]
    return value


def unpack_other_parameter(value: Any) -> Any:
    """The inverse of `pack_other_parameter`."""
    if isinstance(value, list):
        return [unpack_other_parameter(item) for item in value]
    if not isinstance(value, dict):
        return value
    if "__csr__" in value:
        parts = tuple(value[name].numpy() for name in ("data", "indices", "indptr"))
        return scipy.sparse.csr_matrix(parts, shape=tuple(value["__csr__"]))
    if "__array__" in value:
        return value["__array__"].numpy()
    return {key: unpack_other_parameter(item) for key, item in value.items()}


def random_states() -> dict[str, Any]:
    """The states of Python's, NumPy's and torch's global generators."""
    version, state, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    name, keys, position, has_gauss, cached = numpy_state
    return {
        "python": [version, list(state), gauss],
        "numpy": [name, torch.from_numpy(keys.astype(np.int64)), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def restore_random_states(states: dict[str, Any]) -> None:
    """Set the global generators to what `random_states` has read."""
    version, state, gauss = states["python"]
    random.setstate((version, tuple(state), gauss))
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.cpu().numpy().astype(np.uint32), position, has_gauss, cached))
    torch.set_rng_state(states["torch"].cpu())
    if states["cuda"] and len(states["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])
