"""The process of the service: its socket, its log, and its end."""

from __future__ import annotations

import contextlib
import gc
import logging
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import uvicorn

from recbole_gen.errors import UserError
from recbole_gen.recommending.recommender import Recommender
from recbole_gen.serving.app import create_app
from recbole_gen.serving.connections import header_timeout
from recbole_gen.serving.limits import Limits

GRACE = 10
"""Seconds for what is under way when the service ends."""
SPARE_CONNECTIONS = 128
"""Connections beyond those of the queue, so that /health answers when it is full."""


def serve_run(
    checkpoint: str,
    host: str,
    port: Any,
    device: str,
    limits: Limits,
    model: Any = None,
    items: Path | None = None,
) -> None:
    """Answer for the run in a folder until SIGTERM or Ctrl-C. Raises UserError if it cannot begin."""
    if device == "cuda" and not torch.cuda.is_available():
        raise UserError("--device=cuda: torch finds no GPU here")
    with bind_socket(host, port) as listener:
        recommender = Recommender.load(checkpoint, device, model=model, items=items)
        if recommender.new_items:
            print(recommender.describe_new_items(), flush=True)
        app = create_app(recommender, limits)
        server = create_server(app, limits)
        # What is here now stays: to look through all of it once in a while for garbage takes a quarter of a second.
        gc.collect()
        gc.freeze()
        address, port = listener.getsockname()[:2]
        url = f"http://{f'[{address}]' if ':' in address else address}:{port}"
        print(f"{recommender.config['model']} on {url}", flush=True)
        # uvicorn raises the signal that has ended it again, when all is done: by default that would kill.
        before = {number: signal.signal(number, lambda *_: None) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            with _log_to_stderr():
                server.run(sockets=[listener])
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


def create_server(app: Any, limits: Limits) -> uvicorn.Server:
    """The server of an app, for a socket that is bound."""
    return uvicorn.Server(uvicorn.Config(
        app, log_config=None, access_log=False, server_header=False,
        proxy_headers=False, http=header_timeout(limits.header_seconds), ws="none", loop="asyncio", lifespan="on",
        limit_concurrency=limits.queue + SPARE_CONNECTIONS, timeout_graceful_shutdown=GRACE,
    ))  # fmt: skip


@contextlib.contextmanager
def _log_to_stderr() -> Iterator[None]:
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


def bind_socket(host: str, port: Any) -> socket.socket:
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
