"""Training on several processes, one a GPU: each reads its share of every batch, and gradients are averaged over all.

Not DistributedDataParallel: our models are called by `calculate_loss`, have several optimisers, and leave parameters
without gradient where a loss is off; averaging once after the backward pass is exact in all of these. The price is that
communication does not overlap with the backward pass.
"""

from __future__ import annotations

import datetime
import json
import os
from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist

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


def average_gradients(parameters: Iterable[torch.nn.Parameter]) -> None:
    """Give every process the mean gradient. A parameter without one in all processes keeps none, and is not decayed."""
    if world_size() == 1:
        return
    parameters = [parameter for parameter in parameters if parameter.requires_grad]
    gradients = [torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for p in parameters]
    exists = torch.tensor([p.grad is not None for p in parameters], device=gradients[0].device).to(gradients[0])
    flat = torch.cat([exists, *(gradient.flatten().to(exists) for gradient in gradients)])
    flat = all_reduce_mean(flat)
    start = len(parameters)
    for index, parameter in enumerate(parameters):
        end = start + parameter.numel()
        if flat[index] > 0:
            parameter.grad = flat[start:end].view_as(parameter).to(parameter.dtype)
        start = end


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
