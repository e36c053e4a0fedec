"""Why a trial has failed, in one line for the table of trials."""

from __future__ import annotations

from recbole_gen.errors import UserError
from recbole_gen.sweep import cluster


def reason_of_error(error: Exception) -> str:
    """What `run` has raised in a trial; a mistake of the user's in its own words."""
    import torch

    text = cluster.first_line(error)
    if isinstance(error, UserError):
        return text
    is_memory = isinstance(error, (MemoryError, torch.OutOfMemoryError)) or "can't allocate memory" in text
    return f"out of memory: {text}" if is_memory else f"{type(error).__name__}: {text} (see error.txt)"


def reason_of_death(times: int) -> str:
    """A trial whose process has died, so many times."""
    died = "its process died" if times < 2 else f"its process died {times} times"
    return f"{died} (killed, or out of memory?); see error.txt"
