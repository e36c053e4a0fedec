"""Small files that are written whole or not at all: a process may be killed, or run beside another, at any time.

And what is known of an output before any work is done for it.
"""

from __future__ import annotations

import contextlib
import errno
import functools
import importlib.metadata
import json
import os
import platform
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from recbole_gen import __version__
from recbole_gen.errors import UserError

CANNOT_WRITE_ERRORS = (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC), errno.EFBIG, errno.EROFS)
"""A full disk, a quota, a limit of the size of files, a disk that can only be read."""
RUN_FILES = frozenset(
    {
        "best.pth", "last.pth", "config.yaml", "result.json", "when.json", "ranks.test.tsv", "run.log", "job.json",
        "trial.json", "epochs.jsonl", "sweep.json", "trials.csv", "best.yaml",
    }
)  # fmt: skip
"""What lies in the folder of a run, of a trial or of a sweep, and is no output of a verb that reads one."""


def require_file_output(
    path: Path, option: str = "--output", reads: Mapping[str, Path] | None = None, given: object = ""
) -> None:
    """Raise UserError, before any work, if ``path`` cannot be written as a file, or would replace what is read.

    Args:
        option: that named it, for messages.
        reads: option -> a file that the command reads.
        given: the text that was given: a path forgets the slash at the end, which means a folder.
    """
    try:
        require_no_folder(path, option, given)
        if path.exists() and not path.is_file():
            raise UserError(f"{option}: {path} is a device or the like, and no file: name another one")
        for what, file in (reads or {}).items():
            if path.exists() and file.is_file() and path.samefile(file):
                raise UserError(f"{option} is the file of {what}, {file}, which it would replace: name another one")
        real = Path(os.path.realpath(path))
        if real.name in RUN_FILES and real.exists():
            raise UserError(f"{option}: {path} is a file of the run in {real.parent}: name another one")
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _not_writable(path, error, option) from None
    require_writable(path, option)


def require_no_folder(path: Path, option: str = "--output", given: object = "") -> None:
    """Raise UserError for a folder where a file is wanted: one that is there, or that ``given`` ends with a slash."""
    is_named_so = str(given).endswith(("/", os.sep))
    if is_named_so or os.path.isdir(path):
        raise UserError(
            f"{option}: {given if is_named_so else path} cannot be written, it is a folder: name a file in it"
        )


def require_folder_output(path: Path, option: str = "--output") -> None:
    """Raise UserError, before any work, if ``path`` is something else than a folder, the folder of a run, or cannot be
    written in."""
    try:
        if path.exists() and not path.is_dir():
            raise UserError(f"{option}: {path} is a file: name a folder")
        if (path / "best.pth").exists():
            raise UserError(f"{option}: {path} is the folder of a run: name another one")
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _not_writable(path, error, option) from None
    require_writable(path / ".lock" if path.is_dir() else path, option)


def require_writable(path: Path, option: str = "--output") -> None:
    """Raise UserError if nothing of this name, nor a temporary one beside it, could be made: its folder, or the nearest
    one above that is there, is no folder, cannot be written or is full, or a name is too long.

    Leaves nothing behind.
    """
    real = Path(os.path.realpath(path))
    try:
        above = next(each for each in real.parents if os.path.lexists(each))
        if not above.is_dir():
            raise UserError(f"{path} cannot be written ({above} is no folder): choose another {option}")
        for name in (*real.relative_to(above).parts, f".{real.name}.{os.getpid()}.parts"):
            with contextlib.suppress(FileNotFoundError):
                os.lstat(above / name)  # raises for a name that is too long
        with tempfile.TemporaryFile(dir=above) as file:
            file.write(b"0")
            file.flush()
    except UserError:
        raise
    except (OSError, ValueError) as error:  # ValueError: a zero byte
        raise _not_writable(path, error, option) from None


def _not_writable(path: Path, error: Exception, option: str) -> UserError:
    name = str(path)
    name = name if len(name) <= 200 else f"{name[:200]}..."
    why = os.strerror(error.errno) if isinstance(error, OSError) and error.errno else error
    return UserError(f"{name} cannot be written ({why}): free some space there, or choose another {option}")


def write_text(path: Path, text: str) -> None:
    """Write a file, whole or not at all. Raises OSError."""
    with replaced_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8", newline="\n")


def write_output(path: Path, text: str) -> Path:
    """The same for a file that a user has asked for; returns its path. Raises UserError if it cannot be written."""
    try:
        write_text(path, text)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    return path


@contextlib.contextmanager
def replaced_file(path: Path) -> Iterator[Path]:
    """Yield a name beside ``path``, of this process alone, for what gets that name once the block has ended without an
    error. The folder is made if need be; after an error nothing is left behind."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    with made_folder(path.parent):
        try:
            yield temporary
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):  # of its own: what hinders writing hinders this, and is told
                temporary.unlink()


@contextlib.contextmanager
def made_folder(folder: Path) -> Iterator[None]:
    """Make a folder, and those above it, if need be; after an error those that were made are gone again, unless
    something lies in them. Raises OSError."""
    missing = [each for each in (folder, *folder.parents) if not os.path.lexists(each)]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        for each in missing:
            with contextlib.suppress(OSError):
                each.rmdir()
        raise


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


@functools.cache
def _version_of(package: str) -> str:
    """Read once: the file is parsed as a whole, and every run asks."""
    return importlib.metadata.version(package)


def package_versions(packages: Iterable[str]) -> dict[str, str]:
    """What a note says of who has made it: the versions of this package, of others by their names, and of Python."""
    others = {name: _version_of(name) for name in packages}
    return {"recbole_gen": __version__, **others, "python": platform.python_version()}


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
    """Keep a folder to this process for the duration; ``what`` is in it: a sweep, a comparison.

    After an error, a folder that was made for it and has nothing in it is gone again.

    Raises UserError if another process is at work in it, or if it cannot be made.
    """
    require_writable(folder / ".lock")  # the lock would wait where no file can be made
    is_new, lock = not os.path.lexists(folder), FileLock(folder / ".lock", timeout=0)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
            lock.acquire()
        except Timeout:
            raise UserError(f"another process is at work on the {what} in {folder}: wait for it, or end it") from None
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be written ({error}): choose another --output") from None
        try:
            yield
        except BaseException:
            with contextlib.suppress(OSError):
                if is_new and [each.name for each in folder.iterdir()] == [".lock"]:
                    (folder / ".lock").unlink()
            raise
        finally:
            lock.release()
