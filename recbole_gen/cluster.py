"""Ray for sweeps and comparisons: one of our own on this machine, or the cluster that this machine is in."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from recbole_gen.errors import UserError

OBJECT_STORE = 200 << 20
"""Bytes of shared memory of our own Ray: what passes between its processes is small, data sets go by files."""


@dataclass(frozen=True)
class Resources:
    """What one `run`, or `trial`, takes: CPU cores, and GPUs or a share of one (None: one where there are any).

    Raises UserError for what is no such number.
    """

    of: str
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self):
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value is None and name == "gpus":
                continue
            is_number = type(value) in (int, float)
            if value is None or not is_number or value < 0 or (name == "cpus" and value == 0):
                raise UserError(f"--{name}_per_{self.of} must be a number such as 1 or 0.5, got {value!r}")
            if value > 1 and value != int(value):
                raise UserError(f"--{name}_per_{self.of} above 1 must be whole, got {value!r}")

    def _gpus(self, ray) -> float:
        there = ray.cluster_resources().get("GPU", 0)
        return (1 if there else 0) if self.gpus is None else self.gpus

    def of_trial(self, ray) -> dict[str, float]:
        """For `tune.with_resources`. Raises UserError if the cluster has less than one run takes."""
        wanted = {"cpu": self.cpus, "gpu": self._gpus(ray)}
        for name, value in wanted.items():
            there = max((node["Resources"].get(name.upper(), 0) for node in ray.nodes() if node["Alive"]), default=0)
            if value > there:
                raise UserError(f"{name}s per run are {value:g}, and no machine of the cluster has more than {there:g}")
        return wanted

    def of_task(self, ray) -> dict[str, float]:
        """For `ray.remote`. Raises UserError if the cluster has less than one run takes."""
        wanted = self.of_trial(ray)
        return {"num_cpus": wanted["cpu"], "num_gpus": wanted["gpu"]}


@contextlib.contextmanager
def connected(address: str | None = None) -> Iterator[Any]:
    """The `ray` module, connected to a cluster (``auto``: that of this machine), or until the end to one of our own.

    Raises UserError if there is no cluster at the address.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():  # the caller's
        yield ray
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    try:
        if address:
            ray.init(address=str(address), **common)
        else:
            ray.init(include_dashboard=False, object_store_memory=OBJECT_STORE, **common)
    except (ConnectionError, ValueError, RuntimeError, OSError) as error:
        if not address:
            raise
        raise UserError(
            f"--address={address}: there is no Ray cluster ({reason(error)}). Start one with `ray start --head`, and "
            f"on the other machines `ray start --address=HEAD:6379`; without --address a Ray of our own starts here"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def on_every_node(ray, function: Callable, *arguments: Any) -> list[Any]:
    """What a function returns on each machine of the cluster."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(function)
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
    return ray.get([task.options(scheduling_strategy=node).remote(*arguments) for node in nodes])


def reason(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
