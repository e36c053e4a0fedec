"""Requests wait a moment for each other and are answered by one call of the model, in one thread."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from recbole_gen.serving.answering import Answer, Answerer
from recbole_gen.serving.limits import BUSY, Limits, Refused
from recbole_gen.serving.metrics import Metrics


class _WaitingRequest:
    """A request that waits for its answer."""

    def __init__(self, query: Any):
        self.query, self.users = query, len(query.histories)
        # One call has one k: the first of more items need not be the same where scores are equal.
        self.batch_key = (query.k, query.exclude_seen) if query.candidates is None else self
        self.arrived = time.monotonic()
        self.answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()


class Batcher:
    """Collects requests of one kind for one call of the model, in a thread of its own."""

    def __init__(self, answerer: Answerer, limits: Limits, metrics: Metrics):
        self.waiting: deque[_WaitingRequest] = deque()
        self._answerer, self._limits, self._metrics = answerer, limits, metrics
        self._wait = limits.batch_wait_ms / 1000 if answerer.merges else 0.0
        self._users = 0
        self._arrived = asyncio.Event()

    async def ask(self, query: Any) -> Answer:
        """The answer to a request. Raises UserError for a bad one, Refused if too many are waiting."""
        if len(self.waiting) >= self._limits.queue:
            raise Refused(503, BUSY)
        request = _WaitingRequest(query)
        self.waiting.append(request)
        self._users += request.users
        self._arrived.set()
        return await request.answer

    async def run(self) -> None:
        """Answer requests, until it is cancelled."""
        with ThreadPoolExecutor(1, "model") as pool:
            while True:
                await self._wait_for_requests()
                batch = self._take_batch()
                self._metrics.batch_requests.observe(len(batch))
                self._metrics.batch_users.observe(sum(request.users for request in batch))
                queries = [request.query for request in batch]
                answers = await asyncio.get_running_loop().run_in_executor(pool, self._answerer.answer, queries)
                for request, answer in zip(batch, answers):
                    if request.answer.done():  # cancelled: nobody waits for it
                        continue
                    if isinstance(answer, Exception):
                        request.answer.set_exception(answer)
                    else:
                        request.answer.set_result(answer)

    async def _wait_for_requests(self) -> None:
        """Until a request is there, and others have had their time to come."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        until = self.waiting[0].arrived + self._wait
        while self._users < self._limits.max_batch and (left := until - time.monotonic()) > 0:
            self._arrived.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take_batch(self) -> list[_WaitingRequest]:
        """The request that has waited longest, and what goes with it."""
        batch, rest, users = [self.waiting.popleft()], deque[_WaitingRequest](), 0
        if self._answerer.merges:
            users = batch[0].users
            for request in self.waiting:
                if request.batch_key == batch[0].batch_key and users + request.users <= self._limits.max_batch:
                    batch.append(request)
                    users += request.users
                else:
                    rest.append(request)
            self.waiting = rest
        self._users -= sum(request.users for request in batch)
        return batch
