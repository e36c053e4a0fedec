"""Connections that do not come to the end of a request's headers: cut after a while, and never in the way of others.

uvicorn waits for them for ever, and counts them among those that it serves, so that some hundreds of them would keep
/health from answering.
"""

from __future__ import annotations

import asyncio
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

TIMED_OUT = b"HTTP/1.1 408 Request Timeout\r\ncontent-length: 0\r\nconnection: close\r\n\r\n"
MAX_WAITING = 256
"""Connections without whole headers at a time; one more, and the oldest of them is cut."""


def header_timeout(seconds: float, max_waiting: int = MAX_WAITING) -> type[H11Protocol]:
    """uvicorn's protocol with ``seconds`` for the headers of each request."""
    waiting: dict[Any, asyncio.TimerHandle] = {}  # the oldest first

    class Protocol(H11Protocol):
        def connection_made(self, transport) -> None:
            super().connection_made(transport)
            self.await_headers()

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            if self.conn.their_state is h11.IDLE and not self.transport.is_closing():
                self.await_headers()

        def on_response_complete(self) -> None:
            super().on_response_complete()
            if self.conn.their_state is h11.IDLE and self.conn.trailing_data[0]:
                self.await_headers()  # a part of the next request is here already

        def handle_events(self) -> None:
            self.connections.add(self)
            super().handle_events()
            if self.conn.their_state is not h11.IDLE:
                self.stop_waiting()

        def connection_lost(self, exc: Exception | None) -> None:
            self.stop_waiting()
            super().connection_lost(exc)

        def await_headers(self) -> None:
            self.connections.discard(self)  # not one that is served
            if self in waiting:
                return
            if len(waiting) >= max_waiting:
                next(iter(waiting)).cut()
            waiting[self] = self.loop.call_later(seconds, self.cut)

        def stop_waiting(self) -> None:
            timer = waiting.pop(self, None)
            if timer is not None:
                timer.cancel()

        def cut(self) -> None:
            self.stop_waiting()
            self.transport.write(TIMED_OUT)
            self.transport.close()

    return Protocol
