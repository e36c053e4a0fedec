"""The verb `serve`: recommendations of one run over HTTP. Needs the extra `recbole-gen[serve]`. `server` has the work.

Nothing large is imported before the options are known to be right.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Sequence
from dataclasses import fields
from typing import Any

from recbole_gen import options
from recbole_gen.errors import UserError
from recbole_gen.options import asks_for_help, parse_arguments
from recbole_gen.recommending.request_checks import find_items
from recbole_gen.serving.limits import Limits

USAGE = """\
usage: recbole-gen serve --checkpoint=FOLDER [--host=127.0.0.1] [--port=8000]

  POST /recommend      {"histories": [{"user": "u1", "items": ["i1", "i2"]}], "k": 10}, more in /openapi.json
  GET  /health         whether it is ready, and with which model
  GET  /metrics        counts and times, as Prometheus reads them

  --checkpoint=FOLDER  of a finished run
  --host=ADDRESS       0.0.0.0 for all networks (default: 127.0.0.1, this machine only). There is no password and no
                       TLS: put a proxy that has them before an address that others reach
  --port=NUMBER        0 for any that is free (default: 8000)
  --model=MODULE:CLASS of a run whose model is a class of somebody's own: a checkpoint alone does not have code imported
  --items=FILE         rank these new items, too, by their vectors, as `recommend --items`; histories may hold them
  --device=DEVICE      cpu or cuda (default: cpu)
  --max_users=N        histories in a request (default: 1000)
  --max_events=N       events in a history (default: 1000)
  --max_k=N            items a user (default: 1000)
  --max_answers=N      users of a request times k (default: 100000)
  --max_body=SIZE      of a request, such as 512KiB (default: 1MiB). While JSON is read everybody waits, with 8MiB for
                       a tenth of a second
  --queue=N            requests that may wait; more are answered 503 (default: 1024)
  --batch_wait_ms=MS   how long a request waits for others (default: 2)
  --header_seconds=S   for the headers of a request, then its connection is cut; of those that have not sent theirs 256
                       are kept, and the oldest goes first (default: 10)
  --max_batch=N        users that one call of the model answers for several requests together (default: 256)

SIGTERM and Ctrl-C end it: what has been asked is answered (10 seconds at most), then it exits with 0.
"""
INSTALL = "serve needs FastAPI, uvicorn and prometheus_client: pip install 'recbole-gen[serve]'"
UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30}


def main(arguments: Sequence[str]) -> None:
    """The `serve` verb of the command line. Raises UserError for bad input."""
    if asks_for_help(arguments):
        print(USAGE, end="")
        return
    limits = {field.name: field.default for field in fields(Limits)}
    defaults = {
        "checkpoint": "",
        "host": "127.0.0.1",
        "port": 8000,
        "device": "cpu",
        "model": "",
        "items": "",
        **limits,
    }
    values = options.verb_options(parse_arguments(arguments), defaults, "serve")
    if not values["checkpoint"]:
        raise UserError("serve what? recbole-gen serve --checkpoint=FOLDER, that of a finished run")
    device = values["device"]
    if device not in ("cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {device}")
    values["max_body"] = _parse_size(values["max_body"])
    checked = Limits(**{name: values[name] for name in limits})
    items = find_items(values["items"])
    _require_extra()

    from recbole_gen.serving.server import serve_run

    checkpoint, host, model = str(values["checkpoint"]), str(values["host"]), values["model"] or None
    serve_run(checkpoint, host, values["port"], device, checked, model, items)


def _require_extra() -> None:
    for name in ("fastapi", "prometheus_client", "pydantic", "uvicorn"):
        try:
            importlib.import_module(name)
        except ImportError:
            raise UserError(INSTALL) from None


def _parse_size(value: Any) -> Any:
    """Bytes; what is no size stays as it is, for `Limits` to refuse."""
    match = re.fullmatch(r"(\d+)\s*([KMG]iB|B|)", str(value))
    return int(match[1]) * UNITS[match[2]] if match else value
