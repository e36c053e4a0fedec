"""One run in several processes of this machine."""

from __future__ import annotations

import json
import os
import socket
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from recbole_gen.errors import UserError
from recbole_gen.files import write_json

CPP_LOG_LEVEL = "TORCH_CPP_LOG_LEVEL"


def run_in_processes(function: Callable[..., dict[str, Any]], nproc: int, arguments: tuple) -> dict[str, Any]:
    """Call ``function(*arguments)`` in ``nproc`` processes, which torch.distributed can join; returns, as JSON has it,
    what the first of them returns. Raises the UserError of any of them, or one for a process that was killed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "outcome.json"
        # DistributedDataParallel would warn in each of them that a model uses all of its parameters, where it does.
        level = os.environ.get(CPP_LOG_LEVEL)
        os.environ.setdefault(CPP_LOG_LEVEL, "ERROR")
        try:
            torch.multiprocessing.spawn(_run_as_rank, (nproc, port, str(file), function, arguments), nproc)
        except torch.multiprocessing.ProcessExitedException as error:
            if not file.exists():
                raise UserError(f"one of {nproc} processes was killed ({error}); see the run's log") from None
        finally:
            if level is None:
                del os.environ[CPP_LOG_LEVEL]
        outcome = json.loads(file.read_text(encoding="utf-8"))
    if "error" in outcome:
        raise UserError(outcome["error"])
    return outcome["result"]


def _run_as_rank(rank: int, nproc: int, port: int, file: str, function: Callable, arguments: tuple) -> None:
    """One of the processes; the first to have a result, or a user's mistake to report, writes it down."""
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE=str(nproc), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    outcome: dict[str, Any]
    try:
        outcome = {"result": function(*arguments)}
    except UserError as error:
        outcome = {"error": str(error)}
    if rank == 0 or "error" in outcome:
        write_json(Path(file), outcome)
    if "error" in outcome:
        raise SystemExit(2)  # ends the others, which would wait for this one
