"""The service over HTTP: what is asked at which address, and what is refused before it reaches the model.

User and item names stay out of the log and out of messages: what is told are places and numbers.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import time
import traceback
import uuid
from collections.abc import AsyncIterator, Mapping
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from prometheus_client import CONTENT_TYPE_PLAIN_0_0_4
from pydantic import ValidationError
from starlette.requests import ClientDisconnect

from recbole_gen.errors import UserError
from recbole_gen.recommending.recommender import Recommender
from recbole_gen.serving.answering import Answerer
from recbole_gen.serving.batching import Batcher
from recbole_gen.serving.limits import BUSY, Limits, Refused
from recbole_gen.serving.metrics import Metrics
from recbole_gen.serving.schemas import describe_error, query_and_answer

BODY_SECONDS = 10
"""In which a request must have arrived."""
BODIES_HELD = 16
"""As many bodies of the largest size are in memory at once, read or waiting; what is in them takes ten times that."""
PATHS = ("/recommend", "/health", "/metrics", "/openapi.json")
STATUSES = {
    400: "no JSON", 408: "too slow", 413: "too large", 415: "no application/json", 422: "not as described here",
    503: "too busy, or not ready yet; Retry-After says when to come again",
}  # fmt: skip

log = logging.getLogger(__name__)


class _Service:
    """From the bytes of a request to those of its answer."""

    def __init__(self, recommender: Recommender, limits: Limits):
        self.limits, self.metrics, self.answerer = limits, Metrics(), Answerer(recommender)
        self.Query, self.Answer = query_and_answer(limits, len(recommender.items))
        self._width: int = recommender.config["MAX_ITEM_LIST_LENGTH"]
        self._batcher: Batcher | None = None
        self._task: asyncio.Task[None] | None = None
        self._bytes_held = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """While it answers, in this event loop."""
        self._batcher = batcher = Batcher(self.answerer, self.limits, self.metrics)
        self.metrics.waiting.set_function(lambda: len(batcher.waiting))
        self._task = asyncio.create_task(self._batcher.run())
        yield
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task

    @property
    def ready(self) -> bool:
        """Whether it answers."""
        return self._task is not None and not self._task.done()

    async def recommend(self, headers: Mapping[str, str], stream: AsyncIterator[bytes]) -> bytes:
        """The answer to a request. Raises Refused if there is none."""
        if self._batcher is None:
            raise Refused(503, "not ready")
        self._check_headers(headers)
        body = bytearray()
        self.metrics.in_flight.inc()
        try:
            await asyncio.wait_for(self._read(stream, body), BODY_SECONDS)
            answer = await self._batcher.ask(self._parse(body))
        except asyncio.TimeoutError:
            raise Refused(408, f"a request must arrive within {BODY_SECONDS} seconds") from None
        except UserError as error:
            raise Refused(422, str(error)) from None
        finally:
            self._bytes_held -= len(body)
            self.metrics.in_flight.dec()
        for by, users in answer.by.items():
            self.metrics.users.labels(by).inc(users)
        self.metrics.unknown_items.inc(answer.unknown_items)
        return answer.body

    def _check_headers(self, headers: Mapping[str, str]) -> None:
        """What can be refused before the body is there."""
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refused(415, "send application/json")
        if headers.get("content-encoding", "identity").lower() != "identity":
            raise Refused(415, "send it without a Content-Encoding")
        if int(headers.get("content-length", "0")) > self.limits.max_body:  # the server has seen that it is a number
            raise self._too_large()

    async def _read(self, stream: AsyncIterator[bytes], body: bytearray) -> None:
        async for chunk in stream:
            if len(body) + len(chunk) > self.limits.max_body:
                raise self._too_large()
            if self._bytes_held + len(chunk) > BODIES_HELD * self.limits.max_body:
                raise Refused(503, BUSY)
            body += chunk
            self._bytes_held += len(chunk)

    def _too_large(self) -> Refused:
        what = f"a request has at most {self.limits.max_body} bytes"
        return Refused(413, f"{what}: send fewer histories, or their last {self._width} events")

    def _parse(self, body: bytearray) -> Any:
        try:
            query = self.Query.model_validate_json(bytes(body))
        except ValidationError as error:
            raise Refused(*describe_error(error, self.limits, self._width)) from None
        if len(query.histories) * query.k > self.limits.max_answers:
            raise UserError(
                f"{len(query.histories)} users times k = {query.k} are more than {self.limits.max_answers} answers: "
                f"ask for fewer at once"
            )
        return query


def create_app(recommender: Recommender, limits: Limits | None = None) -> FastAPI:
    """The service for one model, with the `Limits()` if none are given."""
    service = _Service(recommender, limits or Limits())
    name, n_items = service.answerer.name, len(recommender.items) - 1

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI):
        async with service.running():
            yield

    # FastAPI's pages of documentation fetch scripts from elsewhere.
    app = FastAPI(title=f"recbole_gen {name}", docs_url=None, redoc_url=None, lifespan=lifespan)
    app.add_middleware(_RequestLog, metrics=service.metrics)

    @app.exception_handler(Refused)
    async def refused(request: Request, refusal: Refused) -> Response:
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
            raise Refused(408, "the connection was closed before the request was whole") from None
        return Response(body, media_type="application/json")

    @app.get("/health")
    async def health() -> dict[str, Any]:
        """Whether it answers, and with what."""
        if not service.ready:
            raise Refused(503, "not ready")
        return {"status": "ready", "model": name, "items": n_items}

    @app.get("/metrics", response_class=Response)
    async def metrics() -> Response:
        """What has happened since the start."""
        return Response(service.metrics.text(), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


class _RequestLog:
    """Counts requests, logs each in a line, and answers 500 for a fault, whose place is logged and values are not."""

    def __init__(self, app: Any, metrics: Metrics):
        self._app, self._metrics = app, metrics

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started, status = time.monotonic(), 0

        async def send_and_note(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except Exception as error:
            await self._answer_fault(error, send, answered=status > 0)
            status = 500
        path = scope["path"] if scope["path"] in PATHS else "other"
        seconds = time.monotonic() - started
        self._metrics.requests.labels(path, status).inc()
        if path == "/recommend":
            self._metrics.seconds.observe(seconds)
        method = scope["method"] if scope["method"] in ("GET", "POST", "HEAD", "OPTIONS") else "other"
        log.info(f"{method} {path} {status} {1000 * seconds:.1f} ms")

    async def _answer_fault(self, error: Exception, send: Any, answered: bool) -> None:
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
