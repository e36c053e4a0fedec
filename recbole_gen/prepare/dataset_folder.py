"""A folder that is replaced as a whole: whoever reads it, and whoever is killed, finds the old one or the new one."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from recbole_gen.errors import UserError
from recbole_gen.files import CANNOT_WRITE_ERRORS, made_folder, read_json, require_writable

PROVENANCE_FILE = "prepare.json"
"""The file that says what a data set was made from; its "files" are those that may be replaced."""
CACHE_FOLDER = ".cache"
"""Built data sets of `data.cache`, which hold for the files they were built from only."""
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # of Linux's fcntl.h and fs.h


@contextlib.contextmanager
def exclusive_lock(lock_file: Path, what: str, say: Callable[[str], None] = print) -> Iterator[None]:
    """Keep ``what`` to this process for the duration; waits, and says so, while another process has it.

    Raises UserError if the lock cannot be made.
    """
    require_writable(lock_file, "--data_path")  # the lock would wait where no file can be made
    is_new, lock = not os.path.lexists(lock_file), FileLock(lock_file)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(made_folder(lock_file.parent))
            try:
                lock.acquire(blocking=False)
            except Timeout:
                say(f"waiting for {what}, which another process is at work on")
                lock.acquire()
        except OSError as error:
            raise UserError(
                f"the folder {lock_file.parent} cannot be written ({error}): choose another --data_path"
            ) from None
        try:
            yield
        except BaseException:
            if is_new:
                with contextlib.suppress(OSError):
                    lock_file.unlink()  # whoever waits for it notices, and makes it anew
            raise
        finally:
            lock.release()


@contextlib.contextmanager
def replace_folder(target: Path, say: Callable[[str], None] = print) -> Iterator[Path]:
    """Yield an empty folder, which takes the place of ``target`` in one step once the block has ended without an error.

    A folder that is there is replaced only if it holds nothing but what its prepare.json lists, and a stale cache.
    After an error or Ctrl-C it is as it was. What a killed process has left is removed at the next call. Of two
    processes that replace one folder, the second waits.

    Raises UserError for a folder with files of another origin, for one that cannot be written, and for a full disk.
    """
    target = Path(os.path.realpath(target))  # a link to a larger disk stays one
    with exclusive_lock(target.with_name(f".{target.name}.lock"), str(target), say):
        recover_interrupted(target)
        require_replaceable(target)
        new = target.with_name(f".{target.name}.{os.getpid()}.tmp")
        try:
            new.mkdir()
            yield new
            _sync_to_disk(new)
            require_replaceable(target)  # much time may have passed
            _put_in_place(new, target)
        except OSError as error:
            if error.errno in CANNOT_WRITE_ERRORS:
                raise UserError(
                    f"there is no space left for {target} ({error}): free some, or choose another --data_path"
                ) from None
            raise
        finally:
            shutil.rmtree(new, ignore_errors=True)  # what is unfinished, or the old folder by now


def require_replaceable(target: Path, reads: tuple[str, Path] | None = None) -> None:
    """Raise UserError if ``target`` is there and has files that its prepare.json does not list, if nothing can be
    written there, or if what the command reads, (option, its file or folder), would go with it."""
    require_writable(target, "--data_path")
    if reads and Path(os.path.realpath(reads[1])).is_relative_to(os.path.realpath(target)):
        raise UserError(
            f"{reads[0]}={reads[1]} lies in {target}, which the new data set would replace: choose another --name, or "
            f"move it"
        )
    if not os.path.lexists(target):
        return
    if not target.is_dir():
        raise UserError(f"{target} is no folder: move it, or choose another --name")
    known = {PROVENANCE_FILE, CACHE_FOLDER, *map(str, read_json(target / PROVENANCE_FILE).get("files", ()))}
    unknown = sorted(path.name for path in target.iterdir() if path.name not in known)
    if unknown:
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        raise UserError(
            f"{target} is not replaced, for it holds what was not made by recbole-gen prepare: "
            f"{', '.join(unknown[:10])}{more}. Choose another --name, or move them away"
        )


def recover_interrupted(target: Path) -> None:
    """Remove what killed processes have left beside ``target``; a folder they were about to replace is put back.

    Only for who has the lock of `replace_folder`, or where nothing else is at work.
    """
    pattern = re.compile(rf"\.{re.escape(target.name)}\.(\d+)\.(tmp|old)")
    with contextlib.suppress(FileNotFoundError):
        for path in sorted(target.parent.iterdir()):
            match = pattern.fullmatch(path.name)
            if not match or _is_alive(int(match[1])):
                continue
            if match[2] == "old" and not os.path.lexists(target):
                os.rename(path, target)
            else:
                shutil.rmtree(path, ignore_errors=True)


def _is_alive(process: int) -> bool:
    """Whether a process other than this one has that number."""
    if process == os.getpid():
        return False
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # of another user
        return True
    return True


def _put_in_place(new: Path, target: Path) -> None:
    """Afterwards the old folder, if there was one, is at ``new``."""
    if not os.path.lexists(target):
        os.rename(new, target)
    elif not _exchange(new, target):
        # Between these two there is no folder of that name: `recover_interrupted` puts the old one back.
        old = new.with_suffix(".old")
        try:
            os.rename(target, old)
            os.rename(new, target)
        except BaseException:
            if not os.path.lexists(target):
                os.rename(old, target)
            raise
        os.rename(old, new)
    _sync_entries(target.parent)


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two folders in one step; False where the system or its file system has no such step."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError, TypeError):  # no glibc of Linux
        return False
    if renameat2(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _RENAME_EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM):
        return False
    raise OSError(number, os.strerror(number), str(other))


def _sync_to_disk(folder: Path) -> None:
    """Have the system write a folder to the disk before it is renamed: after a power cut, no file is empty."""
    for path in folder.rglob("*"):
        if path.is_file():
            with open(path, "rb+") as file:
                os.fsync(file.fileno())
        elif path.is_dir():
            _sync_entries(path)
    _sync_entries(folder)


def _sync_entries(folder: Path) -> None:
    with contextlib.suppress(OSError):  # Windows, and some network file systems, cannot
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
