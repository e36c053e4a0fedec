"""Training on several processes, one a GPU: each reads its share of every batch, gradients are averaged over all."""

from __future__ import annotations

import datetime
import json
import os
import warnings
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.distributed as dist
from recbole.utils import ModelType
from torch.nn.parallel import DistributedDataParallel

TIMEOUT = datetime.timedelta(hours=24)
"""How long a process waits for the others: the first one evaluates while they do."""


def is_launched() -> bool:
    """Whether this process is one of several that torchrun, or `--nproc`, has started."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def init_process_group(device: torch.device) -> None:
    """Meet the other processes, if there are any."""
    if is_launched() and not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=TIMEOUT)


def destroy_process_group() -> None:
    """Leave the group, so that the process can end or start another run."""
    if dist.is_initialized():
        dist.destroy_process_group()


def world_size() -> int:
    """Number of processes that train together."""
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    """Number of this process, from 0; the first one evaluates, logs and writes."""
    return dist.get_rank() if dist.is_initialized() else 0


def is_main_process() -> bool:
    """Whether this process does what is done once."""
    return rank() == 0


def all_reduce_mean(values: torch.Tensor) -> torch.Tensor:
    """The mean of a tensor over all processes."""
    if world_size() == 1:
        return values
    values = values.clone()
    dist.all_reduce(values)
    return values / world_size()


class _Loss(torch.nn.Module):
    """A model's loss as the forward of a module, which is what DistributedDataParallel wraps."""

    def __init__(self, model: Any, calculate: Callable[[Any], Any]):
        super().__init__()
        self.model, self.calculate = model, calculate

    def forward(self, interaction):
        return self.calculate(interaction)


def parallel_loss(model: Any, calculate: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """A model's loss as it is; with several processes one whose backward pass averages the gradients over all.

    Parameters are those of the main process from here on. One without gradient in all processes keeps none, so that it
    is not decayed. A model of RecBole's that learns by counting has no gradients to average.
    """
    if world_size() == 1 or model.type == ModelType.TRADITIONAL:
        return calculate
    with warnings.catch_warnings():
        # Its successor, forward_sync_buffers, is not in older versions of torch. Buffers are shared once an epoch.
        warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated", category=FutureWarning)
        return DistributedDataParallel(
            _Loss(model, calculate), broadcast_buffers=False, find_unused_parameters=True, gradient_as_bucket_view=True
        )


def broadcast_tensors(tensors: Iterable[torch.Tensor]) -> None:
    """Overwrite tensors by those of the first process."""
    if world_size() == 1:
        return
    for tensor in tensors:
        dist.broadcast(tensor, 0)


def broadcast_object(value: Any, device: torch.device) -> Any:
    """What the first process has, as JSON can hold it."""
    if world_size() == 1:
        return value
    data = torch.tensor(list(json.dumps(value).encode()), dtype=torch.uint8, device=device)
    size = torch.tensor(len(data), device=device)
    dist.broadcast(size, 0)
    if not is_main_process():
        data = torch.empty(int(size), dtype=torch.uint8, device=device)
    dist.broadcast(data, 0)
    return json.loads(bytes(data.tolist()))
