"""What a run runs on: cores, memory, versions of packages and of this source tree."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from pathlib import Path

import torch

from recbole_gen.config.places import ROOT

PACKAGES = ("recbole", "torch", "numpy", "pandas", "scipy")
"""Whose versions a result has."""


def free_cores() -> int:
    """Cores that this process may use and nobody else is using: more threads than that make small models slower."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, min(allowed, round(allowed - busy)))


def reset_peak_memory() -> None:
    """Let `peak_memory` count from here on: a comparison makes one run after the other in one process."""
    with contextlib.suppress(OSError):  # Linux alone can
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def peak_memory() -> dict[str, int]:
    """Largest memory of this process since the run began, in MiB: of the process, and on the GPU if there is one."""
    out = {}
    with contextlib.suppress(ImportError):  # there is no such module on Windows
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        out["process"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit >> 20
    if torch.cuda.is_available():
        out["gpu"] = torch.cuda.max_memory_allocated() >> 20
    return out


def git_commit() -> str | None:
    """Commit of the source tree that runs, with `-dirty` if it has changes; None outside of a git checkout."""
    if not (ROOT / ".git").exists():
        return None
    try:
        command = ["git", "-C", str(ROOT), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
