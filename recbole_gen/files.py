"""Small files that are written whole or not at all: a process may be killed, or run beside another, at any time."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_gen.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path``, of this process alone, for what gets that name once the block has ended without an
    error. The folder is made if need be; after an error nothing is left behind."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """The same for JSON; what JSON has no form for becomes text."""
    write_text(path, json.dumps(content, indent=2, default=str) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The content of a file of ours; empty if there is no such file, or not a whole one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def require_json(path: Path, keys: dict[str, type], cure: str) -> dict[str, Any]:
    """The content of a file of ours that must be whole, with these keys and types of their values.

    Raises UserError, which ends in ``cure``, if it cannot be read, or is something else.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path} is damaged ({error}): {cure}") from None
    content = content if isinstance(content, dict) else {}
    for key, kind in keys.items():
        if type(content.get(key)) is not kind:
            raise UserError(f"{path} is damaged (it has no right `{key}`): {cure}")
    return content


@contextlib.contextmanager
def lock_folder(folder: Path, what: str) -> Iterator[None]:
    """Keep a folder to this process for the duration. Raises UserError if another one is at work in it, or if it cannot
    be made; ``what`` is that: a sweep, a comparison."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(folder / ".lock", timeout=0)
        lock.acquire()
    except Timeout:
        raise UserError(f"another process is at work on the {what} in {folder}: wait for it, or end it") from None
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be written ({error}): choose another --output") from None
    try:
        yield
    finally:
        lock.release()
