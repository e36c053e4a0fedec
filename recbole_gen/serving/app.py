"""The verb `serve`: recommendations of one run over HTTP. Needs the extra `recbole-gen[serve]`.

Requests wait a moment for each other and are answered by one call of the model, in one thread. A model that samples,
or that knows users by their names, answers each request by itself: the noise of a history depends on its place in a
call, and two requests may speak of one user. So a request has the same answer however many others there are, up to the
last digits of the scores, in which matrix products of different sizes differ.

User and item names stay out of the log and out of messages: what is told are places and numbers.
"""

# No `from __future__ import annotations`: FastAPI reads those of functions that are made where it is imported.

import asyncio
import contextlib
import gc
import json
import logging
import math
import re
import signal
import socket
import time
import traceback
import uuid
from bisect import bisect_left
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from itertools import compress, groupby
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
import pandas as pd
import pyarrow as pa
import torch

from recbole_gen import options
from recbole_gen.data.times import END_OF_CALENDAR
from recbole_gen.errors import UserError
from recbole_gen.options import parse_arguments
from recbole_gen.recommending.histories import Histories
from recbole_gen.recommending.recommender import BY_MODEL, BY_POPULARITY, Recommender

if TYPE_CHECKING:
    from fastapi import FastAPI

USAGE = """\
usage: recbole-gen serve --checkpoint=FOLDER [--host=127.0.0.1] [--port=8000]

  POST /recommend      {"histories": [{"user": "u1", "items": ["i1", "i2"]}], "k": 10}, more in /openapi.json
  GET  /health         whether it is ready, and with which model
  GET  /metrics        counts and times, as Prometheus reads them

  --checkpoint=FOLDER  of a finished run
  --host=ADDRESS       0.0.0.0 for all networks (default: 127.0.0.1, this machine only). There is no password and no
                       TLS: put a proxy that has them before an address that others reach
  --port=NUMBER        0 for any that is free (default: 8000)
  --device=DEVICE      cpu or cuda (default: cpu)
  --max_users=N        histories in a request (default: 1000)
  --max_events=N       events in a history (default: 1000)
  --max_k=N            items a user (default: 1000)
  --max_answers=N      users of a request times k (default: 100000)
  --max_body=SIZE      of a request, such as 512KiB (default: 1MiB). While JSON is read everybody waits, with 8MiB for
                       a tenth of a second
  --queue=N            requests that may wait; more are answered 503 (default: 1024)
  --batch_wait_ms=MS   how long a request waits for others (default: 2)
  --max_batch=N        users that one call of the model answers for several requests together (default: 256)

SIGTERM and Ctrl-C end it: what has been asked is answered (10 seconds at most), then it exits with 0.
"""
INSTALL = "serve needs FastAPI and uvicorn: pip install 'recbole-gen[serve]'"
GRACE = 10
"""Seconds for what is under way when the service ends."""
BODY_SECONDS = 10
"""In which a request must have arrived."""
BODIES_HELD = 16
"""As many bodies of the largest size are in memory at once, read or waiting; what is in them takes ten times that."""
SPARE_CONNECTIONS = 128
"""Connections beyond those of the queue, so that /health answers when it is full."""
TOKEN_LENGTH, DATE_LENGTH = 256, 40
"""Characters in a name, and in a date."""
LAST_SECOND = END_OF_CALENDAR - 1
PATHS = ("/recommend", "/health", "/metrics", "/openapi.json")
SECONDS = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10)
SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
STATUSES = {
    400: "no JSON", 408: "too slow", 413: "too large", 415: "no application/json", 422: "not as described here",
    503: "too busy, or not ready yet; Retry-After says when to come again",
}  # fmt: skip
BUSY = "too many requests are waiting: try again in a moment"
UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What a request may ask for, and how requests wait for each other; `USAGE` explains each."""

    max_users: int = 1000
    max_events: int = 1000
    max_k: int = 1000
    max_answers: int = 100_000
    max_body: int = 1 << 20
    queue: int = 1024
    batch_wait_ms: float = 2.0
    max_batch: int = 256

    def __post_init__(self):
        for field in fields(self):
            value, least = getattr(self, field.name), 0 if field.name == "batch_wait_ms" else 1
            kinds = (int, float) if field.name == "batch_wait_ms" else (int,)
            if isinstance(value, bool) or not isinstance(value, kinds) or not least <= value < math.inf:
                raise UserError(f"{field.name} must be a number of at least {least}, got {value!r}")


# Metrics


class _Histogram:
    """How many values lie below each bound, as Prometheus counts them."""

    def __init__(self, bounds: Sequence[float]):
        self.bounds, self.counts, self.sum = bounds, [0] * (len(bounds) + 1), 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        totals = np.cumsum(self.counts).tolist()
        bounds = [*map(str, self.bounds), "+Inf"]
        lines = [f'{name}_bucket{{le="{bound}"}} {total}' for bound, total in zip(bounds, totals)]
        return [*lines, f"{name}_sum {self.sum}", f"{name}_count {totals[-1]}"]


class _Metrics:
    """What has happened since the start; everything is counted in the thread of the event loop."""

    def __init__(self) -> None:
        self.requests: Counter[tuple[str, int]] = Counter()
        self.users: Counter[str] = Counter({BY_MODEL: 0, BY_POPULARITY: 0})
        self.unknown_items = self.in_flight = 0
        self.seconds, self.batch_requests, self.batch_users = map(_Histogram, (SECONDS, SIZES, SIZES))

    def text(self, waiting: int) -> str:
        """In the text format of Prometheus, version 0.0.4."""
        lines: list[str] = []

        def series(kind: str, name: str, about: str, values: Callable[[str], list[str]]) -> None:
            name = f"recbole_gen_{name}"
            lines.extend([f"# HELP {name} {about}", f"# TYPE {name} {kind}", *values(name)])

        series("counter", "requests_total", "Requests by path and status.", lambda name: [
            f'{name}{{path="{path}",status="{status}"}} {count}'
            for (path, status), count in sorted(self.requests.items())
        ])  # fmt: skip
        series("counter", "users_total", "Users answered, by the model or by popularity.", lambda name: [
            f'{name}{{by="{by}"}} {count}' for by, count in self.users.items()
        ])  # fmt: skip
        series("counter", "unknown_items_total", "Events left out, of items that the model does not know.",
               lambda name: [f"{name} {self.unknown_items}"])  # fmt: skip
        series("gauge", "in_flight_requests", "Requests for recommendations under way.",
               lambda name: [f"{name} {self.in_flight}"])  # fmt: skip
        series("gauge", "waiting_requests", "Requests that no call of the model has taken yet.",
               lambda name: [f"{name} {waiting}"])  # fmt: skip
        series("histogram", "request_seconds", "From a request for recommendations to its answer.", self.seconds.lines)
        series("histogram", "batch_requests", "Requests that a call of the model answers.", self.batch_requests.lines)
        series("histogram", "batch_users", "Users that a call of the model answers.", self.batch_users.lines)
        return "\n".join(lines) + "\n"


# Answers


@dataclass(frozen=True)
class _Answer:
    """A request's answer as JSON, and what there is to count."""

    body: bytes
    by: Counter[str]
    unknown_items: int


@dataclass(frozen=True)
class _Prepared:
    """A request for the model: histories without unknown items, and the names that the client has for its users."""

    histories: Histories
    names: list[str | int]
    unknown_items: int


class _Answerer:
    """Answers requests of one model; used by one thread.

    Attributes:
        merges: whether one call may answer several requests.
    """

    def __init__(self, recommender: Recommender):
        self.recommender, self.name = recommender, str(recommender.config["model"])
        tokens = recommender.items.to_pylist()
        self._known = frozenset(tokens[1:])
        probe = Histories.from_lists([tokens[1:2]], [[0]], [["?"]], users=[uuid.uuid4().hex])
        recommender.begin()
        before = recommender.state
        found = recommender.answer(probe, k=1, exclude_seen=False)
        self.reads_users = found["by"][0] != BY_MODEL  # it has not been told about this one
        self.merges = not self.reads_users and recommender.state == before

    def answer(self, queries: Sequence[Any]) -> list[_Answer | Exception]:
        """An answer, or what is wrong, for each request; all of the same k, exclude_seen and candidates.

        A UserError is about the request that it is for, anything else is a fault of ours.
        """
        found: list[Any] = [self._attempt(self._prepare, query) for query in queries]
        ready = [place for place, each in enumerate(found) if isinstance(each, _Prepared)]
        answers = self._attempt(self._together, [queries[place] for place in ready], [found[place] for place in ready])
        if isinstance(answers, Exception) and len(ready) > 1:  # whichever it was, the others shall not suffer
            answers = [self._attempt(self._together, [queries[place]], [found[place]]) for place in ready]
            answers = [each if isinstance(each, Exception) else each[0] for each in answers]
        for place, answer in zip(ready, [answers] if isinstance(answers, Exception) else answers):
            found[place] = answer
        return found

    @staticmethod
    def _attempt(step: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return step(*arguments)
        except Exception as error:
            return error

    def _prepare(self, query: Any) -> _Prepared:
        histories, unknown = query.histories, 0
        names: list[str | int] = [place if each.user is None else each.user for place, each in enumerate(histories)]
        if self.reads_users:
            if any(each.user is None for each in histories):
                raise UserError(f"{self.name} knows users by their names: give the user of each history")
            if len(set(map(str, names))) < len(names):
                raise UserError(f"{self.name} knows users by their names: give each of them once")
        if query.candidates is not None and not any(str(each) in self._known for each in query.candidates):
            raise UserError("none of the candidates is an item that the model knows")
        has = {
            "times": self.recommender.reads_times or any(each.times is not None for each in histories),
            "scenes": self.recommender.reads_scenes,
        }
        columns: dict[str, list[list[Any]]] = {"items": [], "times": [], "scenes": []}
        for place, history in enumerate(histories):
            items = list(map(str, history.items))
            kept = [item in self._known for item in items]
            unknown += kept.count(False)
            columns["items"].append(list(compress(items, kept)))
            for name in (name for name in has if has[name]):
                values = getattr(history, name) or []
                if len(values) != len(items):
                    why = f": {self.name} reads the {name} of histories" if not values else ""
                    raise UserError(f"histories[{place}] has {len(items)} items and {len(values)} {name}{why}")
                columns[name].append(list(compress(values, kept)))
        found = Histories.from_lists(
            columns["items"],
            columns["times"] if has["times"] else None,
            columns["scenes"] if has["scenes"] else None,
            names if self.reads_users else None,
        )
        return _Prepared(found, names, unknown)

    def _together(self, queries: Sequence[Any], requests: Sequence[_Prepared]) -> list[_Answer]:
        if not requests:
            return []
        given, first = self._joined([each.histories for each in requests]), queries[0]
        candidates = first.candidates
        if candidates is not None:
            candidates = [each for each in map(str, candidates) if each in self._known]
        try:
            self.recommender.begin()
            table = self.recommender.answer(given, first.k, first.exclude_seen, candidates)
        except UserError as error:  # the request has been checked: this is the model's, such as scores that are NaN
            raise RuntimeError(str(error)) from error
        users = given.users.to_pylist()
        answers = self._by_user(table, len(users), {user: place for place, user in enumerate(users)})
        out, start = [], 0
        for query, request in zip(queries, requests):
            own = answers[start : start + len(request.names)]
            start += len(request.names)
            content = {
                "model": self.name,
                "recommendations": [{"user": name, **each} for name, each in zip(request.names, own)],
                "unknown_items": request.unknown_items,
            }
            if query.candidates is not None:
                content["unknown_candidates"] = len(query.candidates) - len(candidates)
            body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
            by = Counter(each["by"] for each in own if each["by"] is not None)
            out.append(_Answer(body, by, request.unknown_items))
        return out

    def _joined(self, parts: Sequence[Histories]) -> Histories:
        """All histories of several requests; users are called by their place unless the model knows them by name."""
        sizes = np.concatenate([np.diff(each.offsets) for each in parts])
        users = [pa.array(map(str, range(len(sizes))), pa.string())]
        times = [each.times for each in parts if each.times is not None]
        scenes = [each.scenes for each in parts if each.scenes is not None]
        return Histories(
            pa.concat_arrays([each.users for each in parts] if self.reads_users else users),
            np.concatenate([[0], np.cumsum(sizes)]),
            pa.concat_arrays([each.items for each in parts]),
            np.concatenate(times) if self.recommender.reads_times else None,
            pa.concat_arrays(scenes) if self.recommender.reads_scenes else None,
        )

    def _by_user(self, table: pd.DataFrame, n: int, places: dict[str, int]) -> list[dict[str, Any]]:
        """The table's rows as one answer a user; one for whom nothing is left has no rows."""
        columns = {name: table[name].tolist() for name in ("item", "score", "by")}
        once = ["by"]
        for name in ("when", "from", "until"):
            if name in table:
                days = np.datetime_as_string(table[name].to_numpy("datetime64[s]"), unit="D").tolist()
                columns[name] = [None if day == "NaT" else day for day in days]
                once.append(name)
        if "next_scene" in table:
            columns["next_scene"] = table["next_scene"].tolist()
            once.append("next_scene")
        answers: list[dict[str, Any]] = [{**dict.fromkeys(once), "items": []} for _ in range(n)]
        for user, rows in groupby(enumerate(table["user"].tolist()), key=lambda each: each[1]):
            answer, row = answers[places[user]], 0
            for row, _ in rows:
                answer["items"].append({"item": columns["item"][row], "score": columns["score"][row]})
            answer.update({name: columns[name][row] for name in once})
        return answers


# Waiting for each other


class _Refused(Exception):
    """A request that gets this status instead of an answer.

    A connection stays open: what is still to come on it is read and forgotten, by uvicorn. To close it at once would
    take the answer from a client that is still sending. One that does not go on sending is closed.
    """

    def __init__(self, status: int, why: str):
        super().__init__(why)
        self.status, self.why = status, why
        self.headers = {503: {"Retry-After": "1"}, 408: {"Connection": "close"}}.get(status, {})


class _Job:
    """A request that waits for its answer."""

    def __init__(self, query: Any):
        self.query, self.users = query, len(query.histories)
        # One call has one k: the first of more items need not be the same where scores are equal.
        self.kind = (query.k, query.exclude_seen) if query.candidates is None else self
        self.arrived = time.monotonic()
        self.answer: asyncio.Future[_Answer] = asyncio.get_running_loop().create_future()


class _Batcher:
    """Collects requests of one kind for one call of the model, in a thread of its own."""

    def __init__(self, answerer: _Answerer, limits: Limits, metrics: _Metrics):
        self.waiting: deque[_Job] = deque()
        self._answerer, self._limits, self._metrics = answerer, limits, metrics
        self._wait = limits.batch_wait_ms / 1000 if answerer.merges else 0.0
        self._users = 0
        self._arrived = asyncio.Event()

    async def ask(self, query: Any) -> _Answer:
        """The answer to a request. Raises UserError for a bad one, _Refused if too many are waiting."""
        if len(self.waiting) >= self._limits.queue:
            raise _Refused(503, BUSY)
        job = _Job(query)
        self.waiting.append(job)
        self._users += job.users
        self._arrived.set()
        return await job.answer

    async def run(self) -> None:
        """Answer requests, until it is cancelled."""
        with ThreadPoolExecutor(1, "model") as pool:
            while True:
                await self._gathered()
                jobs = self._take()
                self._metrics.batch_requests.add(len(jobs))
                self._metrics.batch_users.add(sum(job.users for job in jobs))
                queries = [job.query for job in jobs]
                answers = await asyncio.get_running_loop().run_in_executor(pool, self._answerer.answer, queries)
                for job, answer in zip(jobs, answers):
                    if job.answer.done():  # cancelled: nobody waits for it
                        continue
                    if isinstance(answer, Exception):
                        job.answer.set_exception(answer)
                    else:
                        job.answer.set_result(answer)

    async def _gathered(self) -> None:
        """Until a request is there, and others have had their time to come."""
        while not self.waiting:
            self._arrived.clear()
            await self._arrived.wait()
        until = self.waiting[0].arrived + self._wait
        while self._users < self._limits.max_batch and (left := until - time.monotonic()) > 0:
            self._arrived.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._arrived.wait(), left)

    def _take(self) -> list[_Job]:
        """The request that has waited longest, and what goes with it."""
        jobs, rest, users = [self.waiting.popleft()], deque[_Job](), 0
        if self._answerer.merges:
            users = jobs[0].users
            for job in self.waiting:
                if job.kind == jobs[0].kind and users + job.users <= self._limits.max_batch:
                    jobs.append(job)
                    users += job.users
                else:
                    rest.append(job)
            self.waiting = rest
        self._users -= sum(job.users for job in jobs)
        return jobs


# HTTP


class _Service:
    """From the bytes of a request to those of its answer."""

    def __init__(self, recommender: Recommender, limits: Limits):
        self.limits, self.metrics, self.answerer = limits, _Metrics(), _Answerer(recommender)
        self.Query, self.Answer = _schemas(limits, len(recommender.items))
        self._width: int = recommender.config["MAX_ITEM_LIST_LENGTH"]
        self._batcher: _Batcher | None = None
        self._task: asyncio.Task[None] | None = None
        self._held = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it answers, in this event loop."""
        self._batcher = _Batcher(self.answerer, self.limits, self.metrics)
        self._task = asyncio.create_task(self._batcher.run())
        yield
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self._task is not None and not self._task.done()

    def measured(self) -> str:
        """The metrics as text."""
        return self.metrics.text(0 if self._batcher is None else len(self._batcher.waiting))

    async def recommend(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> bytes:
        """The answer to a request. Raises _Refused if there is none."""
        if self._batcher is None:
            raise _Refused(503, "not ready")
        self._check(headers)
        body = bytearray()
        self.metrics.in_flight += 1
        try:
            await asyncio.wait_for(self._read(stream, body), BODY_SECONDS)
            answer = await self._batcher.ask(self._parsed(body))
        except asyncio.TimeoutError:
            raise _Refused(408, f"a request must arrive within {BODY_SECONDS} seconds") from None
        except UserError as error:
            raise _Refused(422, str(error)) from None
        finally:
            self._held -= len(body)
            self.metrics.in_flight -= 1
        self.metrics.users.update(answer.by)
        self.metrics.unknown_items += answer.unknown_items
        return answer.body

    def _check(self, headers: Mapping[str, str]) -> None:
        """What can be refused before the body is there."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise _Refused(415, "send application/json")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise _Refused(415, "send it without a Content-Encoding")
        if int(headers.get("content-length", "0")) > self.limits.max_body:  # the server has seen that it is a number
            raise self._too_large()

    async def _read(self, stream: AsyncIterator[bytes], body: bytearray) -> None:
        async for chunk in stream:
            if len(body) + len(chunk) > self.limits.max_body:
                raise self._too_large()
            if self._held + len(chunk) > BODIES_HELD * self.limits.max_body:
                raise _Refused(503, BUSY)
            body += chunk
            self._held += len(chunk)

    def _too_large(self) -> _Refused:
        what = f"a request has at most {self.limits.max_body} bytes"
        return _Refused(413, f"{what}: send fewer histories, or their last {self._width} events")

    def _parsed(self, body: bytearray) -> Any:
        from pydantic import ValidationError

        try:
            query = self.Query.model_validate_json(bytes(body))
        except ValidationError as error:
            raise _Refused(*_reason(error, self.limits, self._width)) from None
        if len(query.histories) * query.k > self.limits.max_answers:
            raise UserError(
                f"{len(query.histories)} users times k = {query.k} are more than {self.limits.max_answers} answers: "
                f"ask for fewer at once"
            )
        return query


def create_app(recommender: Recommender, limits: Limits | None = None) -> "FastAPI":
    """The service for one model, with the `Limits()` if none are given. Raises UserError where FastAPI is missing."""
    try:
        from fastapi import FastAPI, Request, Response
        from fastapi.responses import JSONResponse
        from starlette.requests import ClientDisconnect
    except ImportError:
        raise UserError(INSTALL) from None

    service = _Service(recommender, limits or Limits())
    name, n_items = service.answerer.name, len(recommender.items) - 1

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        async with service.running():
            yield

    # FastAPI's pages of documentation fetch scripts from elsewhere.
    app = FastAPI(title=f"recbole_gen {name}", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(_Watch, metrics=service.metrics)

    @app.exception_handler(_Refused)
    async def refused(request: Request, refusal: _Refused) -> Response:
        return JSONResponse({"detail": refusal.why}, refusal.status, refusal.headers)

    # The body is read and checked by us, which stops at the first mistake and repeats nothing of it.
    schema = service.Query.model_json_schema()
    schema["properties"]["histories"]["items"] = schema.pop("$defs")["History"]

    @app.post(
        "/recommend",
        response_model=service.Answer,
        responses={status: {"description": text} for status, text in STATUSES.items()},
        openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}},
    )
    async def recommend(request: Request) -> Response:
        """The best k items for each history, oldest event first."""
        try:
            body = await service.recommend(request.headers, request.stream())
        except ClientDisconnect:
            raise _Refused(408, "the connection was closed before the request was whole") from None
        return Response(body, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and with what."""
        if not service.ready:
            raise _Refused(503, "not ready")
        return {"status": "ready", "model": name, "items": n_items}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """What has happened since the start."""
        return Response(service.measured(), media_type="text/plain; version=0.0.4")

    return app


def _schemas(limits: Limits, n_items: int) -> tuple[Any, Any]:
    """What a request and its answer are like, as pydantic's models."""
    from pydantic import BaseModel, ConfigDict, FailFast, Field

    # Without `FailFast` a list of a million wrong values makes a million messages.
    token = Annotated[str, Field(max_length=TOKEN_LENGTH)] | Annotated[int, Field(ge=-(2**63), lt=2**63)]
    seconds = Annotated[float, Field(ge=-LAST_SECOND, le=LAST_SECOND, allow_inf_nan=False)]
    events = Field(max_length=limits.max_events)
    closed = ConfigDict(strict=True, extra="forbid", hide_input_in_errors=True)

    class History(BaseModel):
        model_config = closed
        user: token | None = Field(None, description="its name in the answer; else its place, from 0")  # type: ignore[valid-type]
        items: Annotated[list[token], events, FailFast()]  # type: ignore[valid-type]
        times: Annotated[
            list[seconds | Annotated[str, Field(max_length=DATE_LENGTH)]] | None,
            Field(description="Unix seconds, or dates as in ISO 8601, one an item"),
            events,
            FailFast(),
        ] = None
        scenes: Annotated[list[token] | None, Field(description="one an item"), events, FailFast()] = None  # type: ignore[valid-type]

    class Query(BaseModel):
        model_config = closed
        histories: Annotated[list[History], Field(min_length=1, max_length=limits.max_users), FailFast()]
        k: int = Field(10, ge=1, le=limits.max_k)
        exclude_seen: bool = True
        candidates: Annotated[list[token] | None, Field(max_length=max(n_items, limits.max_events)), FailFast()] = None  # type: ignore[valid-type]

    class Item(BaseModel):
        item: str
        score: float

    class Recommendation(BaseModel):
        user: str | int
        by: Literal["model", "popularity"] | None = Field(description="null where no item is left to recommend")
        items: list[Item]
        when: str | None = Field(None, description="day of the next event, of a model that predicts times")
        until: str | None = None
        from_: str | None = Field(None, alias="from")
        next_scene: str | None = Field(None, description="of a model that predicts scenes")

    class Answer(BaseModel):
        model: str
        recommendations: list[Recommendation]
        unknown_items: int = Field(description="events left out, of items that the model does not know")
        unknown_candidates: int = Field(0, description="the same for candidates, where there are any")

    return Query, Answer


FIELDS = ("histories", "user", "items", "times", "scenes", "k", "exclude_seen", "candidates")


def _reason(error: Any, limits: Limits, width: int) -> tuple[int, str]:
    """Status and message for what is no request. Of what was sent it repeats nothing, not even names of fields."""
    errors = error.errors(include_url=False, include_input=False)
    kind, place = errors[0]["type"], _place(errors[0]["loc"])
    if kind == "json_invalid":
        return 400, errors[0]["msg"]
    if kind == "too_long" and re.fullmatch(r"histories\[\d+\]\.(items|times|scenes)", place):
        return 422, (
            f"{place}: at most {limits.max_events} events; send the last ones. The model reads the last {width}, those "
            f"before only say what has been seen"
        )
    if kind == "extra_forbidden":
        return 422, f"{place or 'the request'}: it has a field that there is none of; /openapi.json lists them"
    messages = dict.fromkeys(each["msg"] for each in errors if _place(each["loc"]) == place)
    return 422, f"{place or 'the request'}: {'; or: '.join(messages)}"


def _place(location: tuple[str | int, ...]) -> str:
    """Such as histories[3].items[0]."""
    place = ""
    for part in location:
        if isinstance(part, int):
            place += f"[{part}]"
        elif part in FIELDS:  # others are pydantic's names of alternatives, or the client's own
            place += f".{part}" if place else part
    return place


class _Watch:
    """Counts requests, logs each in a line, and answers 500 for a fault, whose place is logged and values are not."""

    def __init__(self, app: Any, metrics: _Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def noted(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, noted)
        except Exception as error:
            await self._fault(error, send, answered=status > 0)
            status = 500
        path = scope["path"] if scope["path"] in PATHS else "other"
        seconds = time.monotonic() - started
        self._metrics.requests[path, status] += 1
        if path == "/recommend":
            self._metrics.seconds.add(seconds)
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        log.info(f"{method} {path} {status} {1000 * seconds:.1f} ms")

    async def _fault(self, error: Exception, send: Any, answered: bool) -> None:
        number = uuid.uuid4().hex[:12]
        lines, each = [], error
        while each is not None:  # messages of exceptions have values in them: types and places only
            lines.append(f"{''.join(traceback.format_tb(each.__traceback__))}{type(each).__name__}")
            each = each.__cause__ or each.__context__  # type: ignore[assignment]
        log.error(f"error {number}\n" + "\ncaused by\n".join(lines))
        if answered:
            return
        body = json.dumps({"detail": f"internal error {number}"}).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
        await send({"type": "http.response.start", "status": 500, "headers": headers})
        await send({"type": "http.response.body", "body": body})


# The command line


def main(arguments: Sequence[str]) -> None:
    """The `serve` verb of the command line. Raises UserError for bad input."""
    if any(argument in ("-h", "--help", "help") for argument in arguments):
        print(USAGE, end="")
        return
    limits = {field.name: field.default for field in fields(Limits)}
    defaults = {"checkpoint": "", "host": "127.0.0.1", "port": 8000, "device": "cpu", **limits}
    values = options.verb_options(parse_arguments(arguments), defaults, "serve")
    if not values["checkpoint"]:
        raise UserError("serve what? recbole-gen serve --checkpoint=FOLDER, that of a finished run")
    device = values["device"]
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {device}")
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda: torch finds no GPU here")
    values["max_body"] = _size(values["max_body"])
    checked = Limits(**{name: values[name] for name in limits})
    try:
        import uvicorn
    except ImportError:
        raise UserError(INSTALL) from None
    with _bound(str(values["host"]), values["port"]) as listener:
        recommender = Recommender.load(str(values["checkpoint"]), device)
        app = create_app(recommender, checked)
        server = uvicorn.Server(uvicorn.Config(
            app, log_config=None, access_log=False, server_header=False,
            proxy_headers=False, http="h11", ws="none", loop="asyncio", lifespan="on",
            limit_concurrency=checked.queue + SPARE_CONNECTIONS, timeout_graceful_shutdown=GRACE,
        ))  # fmt: skip
        # What is here now stays: to look through all of it once in a while for garbage takes a quarter of a second.
        gc.collect()
        gc.freeze()
        host, port = listener.getsockname()[:2]
        print(f"{recommender.config['model']} on http://{f'[{host}]' if ':' in host else host}:{port}", flush=True)
        # uvicorn raises the signal that has ended it again, when all is done: by default that would kill.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with _logged():
                server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@contextlib.contextmanager
def _logged() -> Iterator[None]:
    """The log on stderr."""
    root, handler, level = logging.getLogger(), logging.StreamHandler(), logging.getLogger().level
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.setLevel(level)
        root.removeHandler(handler)


def _size(value: Any) -> Any:
    """Bytes; what is no size stays as it is, for `Limits` to refuse."""
    match = re.fullmatch(r"(\d+)\s*([KMG]iB|B|)", str(value))
    return int(match[1]) * UNITS[match[2]] if match else value


def _bound(host: str, port: Any) -> socket.socket:
    """A socket of this address, before anything slow begins; it listens when the service is ready."""
    if isinstance(port, bool) or not isinstance(port, int) or not 0 <= port < 65536:
        raise UserError(f"--port must be a whole number below 65536, got {port!r}")
    # With the protocol named: only then asyncio sets TCP_NODELAY, without which an answer may wait 40 ms.
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise UserError(
            f"cannot serve on {host}, port {port}: {error.strerror}. Choose another --host or --port"
        ) from None
    return listener
