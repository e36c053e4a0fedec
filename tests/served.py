"""The verb `serve` in a process of its own, for the fixture `forked`."""

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import torch

from recbole_gen import cli


def _serve(out, log: str, options: tuple[str, ...]) -> None:
    with open(log, "w") as stream:
        os.dup2(out.fileno(), 1), os.dup2(stream.fileno(), 2)
    torch.set_num_threads(1)
    raise SystemExit(cli.main(["serve", *options]))


@contextlib.contextmanager
def serve_process(forked, log: Path, *options: str) -> Iterator[tuple]:
    """The process and the lines that it prints; what it says on stderr is in ``log``. Killed at the end."""
    reader, writer = forked.Pipe(duplex=False)
    process = forked.Process(target=_serve, args=(writer, str(log), options), daemon=True)
    process.start()
    writer.close()
    try:
        with reader, open(reader.fileno(), closefd=False, encoding="utf-8") as lines:
            yield process, lines
    finally:
        process.kill()
        process.join()
