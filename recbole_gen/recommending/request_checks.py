"""What may be asked for, known without a model: it is refused before one is loaded. Nothing large is imported."""

from __future__ import annotations

import datetime
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError, counted, did_you_mean
from recbole_gen.options import is_whole

SEARCHES = ("exact", "ann")
TODAY = "today"


def require_k(k: Any) -> None:
    """Raise UserError unless k is a number of items."""
    if not is_whole(k) or k < 1:
        raise UserError(f"k must be a whole number of at least 1, got {k!r}")


def require_search(search: Any) -> None:
    """Raise UserError unless there is such a search."""
    if search not in SEARCHES:
        raise UserError(f"search must be one of {', '.join(SEARCHES)}, got {search!r}.{did_you_mean(search, SEARCHES)}")


def find_items(given: Any) -> Path | None:
    """The folder or file of new items that `--items` names; None if nothing is given. Raises UserError if it is not
    there."""
    if given in ("", None):
        return None
    path = Path(str(given))
    if not path.exists():
        raise UserError(f"--items: there is no folder or file {path}")
    return path


def parse_days(text: Any) -> tuple[datetime.date, datetime.date] | None:
    """The first and the last day of `--between`, None for no text. Raises UserError for anything else."""
    if text in ("", None):
        return None
    try:
        words = str(text).replace(",", " ").split()
        days = [datetime.date.today() if word == TODAY else datetime.date.fromisoformat(word) for word in words]
        if not 1 <= len(days) <= 2 or days[0] > days[-1]:
            raise ValueError
    except ValueError:
        raise UserError(
            f"--between needs two days, the earlier first: --between 2024-05-01 2024-05-07 (or {TODAY}); got {text}"
        ) from None
    return days[0], days[-1]


def describe_short(users: int) -> str:
    """What to tell of users for whom the model has come to fewer items than were asked for."""
    return f"{counted(users, 'user', 'have')} fewer than k items: the run's beam_size or exact_top ends there"
