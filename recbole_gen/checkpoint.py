"""One checkpoint format: weights and plain data in one file, written atomically and read without unpickling.

A checkpoint is a dict of tensors, numbers, strings and containers of them, as `torch.load(weights_only=True)` reads it:
model name, configuration, vocabulary, weights, optimiser, random states, counters and metrics.
"""

from __future__ import annotations

import os
import pickle
import random
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch

from recbole_gen.errors import UserError

FORMAT = "recbole_gen checkpoint 1"
RECBOLE_FORMAT = "RecBole checkpoint as plain data 1"
"""What RecBole's own trainers write where recbole_gen is imported, see `compat.checkpoints`."""


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
            torch.save({"format": FORMAT, **content}, file)
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
        content = torch.load(path, map_location=device, weights_only=True)
    except FileNotFoundError:
        raise CheckpointError(f"there is no checkpoint {path}") from None
    except pickle.UnpicklingError:
        raise CheckpointError(
            f"{path} holds pickled Python objects, which could run code when loaded, and is refused. (RecBole's own "
            f".pth files are of that kind, unless recbole_gen was imported: train the model again with recbole_gen.)"
        ) from None
    except (RuntimeError, EOFError, OSError) as error:
        raise CheckpointError(
            f"{path} is truncated or not a checkpoint ({error!r:.200}). Use the other one of the run's "
            f"folder (best.pth, last.pth)."
        ) from None
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


def load_weights(path: str | Path, content: dict[str, Any], model: Any) -> None:
    """Put a checkpoint's weights into the model. Raises CheckpointError if the shapes differ."""
    try:
        model.load_state_dict(content["state_dict"])
    except RuntimeError as error:
        raise CheckpointError(
            f"the weights in {path} do not fit the model; it was trained with other sizes: {error}"
        ) from None
    model.load_other_parameter(unpack_other_parameter(content["other_parameter"]))


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
