"""What a request may ask for, and how it is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from recbole_gen.errors import UserError

BUSY = "too many requests are waiting: try again in a moment"


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how requests wait for each other; the usage of `serve` explains each."""

    max_users: int = 1000
    max_events: int = 1000
    max_k: int = 1000
    max_answers: int = 100_000
    max_body: int = 1 << 20
    queue: int = 1024
    batch_wait_ms: float = 2.0
    max_batch: int = 256
    header_seconds: float = 10.0

    def __post_init__(self):
        for field in fields(self):
            is_time = field.name in ("batch_wait_ms", "header_seconds")
            value, least = getattr(self, field.name), {"batch_wait_ms": 0, "header_seconds": 0.01}.get(field.name, 1)
            kinds = (int, float) if is_time else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
                raise UserError(f"{field.name} must be a number of at least {least}, got {value!r}")


class Refused(Exception):
    """A request that gets this status instead of an answer.

    A connection stays open: what is still to come on it is read and forgotten, by uvicorn. To close it at once would
    take the answer from a client that is still sending. One that does not go on sending is closed.
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status, self.why = status, why
        self.headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(status, {})
