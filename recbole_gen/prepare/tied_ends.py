"""How many users have several last events, of which the order of the file alone makes one the last."""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np


@dataclass(frozen=True)
class TiedEnds:
    """Shares of the users of a log.

    Attributes:
        users: whose last event shares its time with another one of theirs.
        other_item: who would have another last item in a random order of these events, as an expectation: 1 - m / k for
            a user who has k events at the last time, of which m are of the item that is the last one in the file.
    """

    users: float
    other_item: float

    def as_json(self) -> dict[str, float]:
        """For prepare.json."""
        return asdict(self)

    def describe(self, who: str = "user") -> str:
        """What the last events are, for people; ``who`` has them."""
        if not self.users:
            return f"not tied: no {who} has another event at the same time"
        return (
            f"tied for {self.users:.1%} of the {who}s; in a random order (tie_order) {self.other_item:.1%} have "
            f"another last item"
        )


def tied_ends(users: np.ndarray, items: np.ndarray, times: np.ndarray) -> TiedEnds:
    """The shares for a log in the order of its file, in time and memory linear in N.

    users, items: [N] whole numbers from 0, one a user and an item; times: [N].
    """
    n_users = int(users.max(initial=-1)) + 1
    latest = np.full(n_users, -np.inf)
    np.maximum.at(latest, users, times)
    at_end = np.flatnonzero(times == latest[users])
    users, items = users[at_end], items[at_end]
    last_item = np.zeros(n_users, dtype=items.dtype)
    last_item[users] = items  # of several the last in the file
    number = np.bincount(users, minlength=n_users)
    same = np.bincount(users[items == last_item[users]], minlength=n_users)
    has_events = number > 0
    if not has_events.any():
        return TiedEnds(0.0, 0.0)
    number, same = number[has_events], same[has_events]
    return TiedEnds(float((number > 1).mean()), float((1 - same / number).mean()))
