"""Ray for sweeps and comparisons: one of our own on this machine, or the cluster that this machine is in."""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError

OBJECT_STORE_BYTES = 200 << 20
"""Bytes of shared memory of our own Ray: what passes between its processes is small, data sets go by files."""
ANSWER_TIMEOUT = 20.0
"""Seconds in which a cluster must answer; Ray itself would wait for minutes."""


@dataclass(frozen=True)
class Resources:
    """What one `run`, or `trial`, takes: CPU cores, and GPUs or a share of one (None: one where there are any).

    Raises UserError for what is no such number.
    """

    unit: str
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self):
        for name, value in (("cpus", self.cpus), ("gpus", self.gpus)):
            if value is None and name == "gpus":
                continue
            is_number = type(value) in (int, float)
            if value is None or not is_number or value < 0 or (name == "cpus" and value == 0):
                raise UserError(f"--{name}_per_{self.unit} must be a number such as 1 or 0.5, got {value!r}")
            if value > 1 and value != int(value):
                raise UserError(f"--{name}_per_{self.unit} above 1 must be whole, got {value!r}")

    def _gpus(self, ray) -> float:
        there = ray.cluster_resources().get("GPU", 0)
        return (1 if there else 0) if self.gpus is None else self.gpus

    def trial_resources(self, ray) -> dict[str, float]:
        """For `tune.with_resources`. Raises UserError if no machine of the cluster has what one run takes."""
        wanted = {"cpu": self.cpus, "gpu": self._gpus(ray)}
        for name, value in wanted.items():
            there = max((node["Resources"].get(name.upper(), 0) for node in ray.nodes() if node["Alive"]), default=0)
            if value > there:
                raise UserError(
                    f"--{name}s_per_{self.unit} is {value:g}, and no machine of the cluster has more than {there:g}"
                )
        return wanted

    def task_options(self, ray) -> dict[str, float]:
        """For `ray.remote`. Raises UserError if no machine of the cluster has what one run takes."""
        wanted = self.trial_resources(ray)
        return {"num_cpus": wanted["cpu"], "num_gpus": wanted["gpu"]}


@dataclass(frozen=True)
class WorkingEnvironment:
    """Working folder and import path of a command, which its workers take over as far as their machine has them.

    Ray's processes have folders of their own, and know of the command's path only its script's folder.
    """

    folder: str
    path: tuple[str, ...]

    @classmethod
    def current(cls) -> WorkingEnvironment:
        folder = os.getcwd()
        return cls(folder, tuple(entry or folder for entry in sys.path))

    def apply(self) -> None:
        """Make this process work there."""
        sys.path.extend(entry for entry in self.path if entry not in sys.path)
        with contextlib.suppress(OSError):
            os.chdir(self.folder)


@contextlib.contextmanager
def _terminated_as_by_ctrl_c() -> Iterator[None]:
    """SIGTERM, which batch systems send, is Ctrl-C meanwhile; Ray would print its stack, and abort."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def terminate(*_) -> None:
        if not callable(signal.getsignal(signal.SIGINT)):  # what a shell starts in the background ignores Ctrl-C
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


@contextlib.contextmanager
def kept_interrupt_handler() -> Iterator[None]:
    """Have Ctrl-C mean after the block what it meant before. Ray Tune leaves a handler behind, which takes the next one
    for a search that is over: nothing would end by it."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    kept = {number: signal.getsignal(number) for number in (signal.SIGINT, getattr(signal, "SIGUSR1", signal.SIGINT))}
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler or signal.SIG_DFL)


@contextlib.contextmanager
def connected_ray(address: str | None = None) -> Iterator[Any]:
    """The `ray` module, connected to a cluster (``auto``: that of this machine), or until the end to one of our own.
    SIGTERM is a KeyboardInterrupt meanwhile.

    Raises UserError if there is no cluster at the address, or Ray cannot start here.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import ray

    if ray.is_initialized():  # the caller's
        with _terminated_as_by_ctrl_c():
            yield ray
        return
    common: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "configure_logging": False}
    try:
        if address:
            _require_answer(str(address))
            ray.init(address=str(address), **common)
        else:
            # From 2.59 on it would say each time that only this user's processes can join it (RAY_AUTH_MODE).
            logging.getLogger("ray._private.authentication").setLevel(logging.ERROR)
            ray.init(address="local", include_dashboard=False, object_store_memory=OBJECT_STORE_BYTES, **common)
    except (ConnectionError, ValueError, RuntimeError, OSError, ray.exceptions.RayError) as error:
        if not address:
            raise UserError(f"Ray cannot start on this machine: {first_line(error)}") from None
        raise UserError(
            f"--address={address}: there is no Ray cluster that answers ({first_line(error)}). Start one with "
            f"`ray start --head`, then `ray start --address=HEAD:6379` on the other machines, with RAY_AUTH_MODE=token "
            f"and the same ~/.ray/auth_token on all, and give --address=auto on one of them; without --address a Ray "
            f"of our own starts here"
        ) from None
    try:
        with _terminated_as_by_ctrl_c():
            yield ray
    finally:
        ray.shutdown()


def _require_answer(address: str) -> None:
    """Raise ConnectionError unless a Ray answers at the address; it may still refuse this machine's token."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check"]
    command += [] if address == "auto" else ["--address", address]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=ANSWER_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise ConnectionError(f"no answer in {ANSWER_TIMEOUT:g} s") from None
    if answer.returncode and "AuthenticationError" not in answer.stderr:
        lines = (answer.stderr + answer.stdout).strip().splitlines()
        raise ConnectionError(lines[-1] if lines else "no answer")


def run_on_every_node(ray, function: Callable, *arguments: Any) -> list[Any]:
    """What a function returns on each machine of the cluster."""
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    task = ray.remote(num_cpus=0)(function)
    nodes = [NodeAffinitySchedulingStrategy(node["NodeID"], soft=False) for node in ray.nodes() if node["Alive"]]
    return ray.get([task.options(scheduling_strategy=node).remote(*arguments) for node in nodes])


def remove_folders(prefix: Path) -> None:
    """Remove the folders whose paths begin so: what trials have shared on this machine, also of a killed sweep.
    Here, and not beside what calls it: the process that Ray does this in may be new, and would load torch for it."""
    for folder in prefix.parent.glob(f"{prefix.name}*"):
        shutil.rmtree(folder, ignore_errors=True)


def first_line(error: BaseException) -> str:
    """The first line of what an error says."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
