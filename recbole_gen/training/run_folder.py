"""The folder of a run, and the log that goes into it."""

from __future__ import annotations

import contextlib
import logging
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import colorlog

from recbole_gen.errors import UserError


def make_run_folder(folder: Path) -> Path:
    """``folder``, made if need be. Raises UserError if it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {folder} cannot be made: {error}") from None
    return folder


def new_run_folder(config) -> Path:
    """<checkpoint_dir>/<model>-<dataset>-<time>, made; a number is added if there is one of this second already.

    Raises UserError if it cannot be made.
    """
    name = f"{config['model']}-{config['dataset']}-{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    base = Path(config["checkpoint_dir"]).absolute()
    for number in range(1, 1000):
        folder = base / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            if not folder.is_dir():
                break
        except OSError as error:
            raise UserError(f"the folder {folder} cannot be made ({error}): choose another --checkpoint_dir") from None
    raise UserError(f"no folder for the run can be made in {base}")


@contextlib.contextmanager
def removed_unless_begun(folder: Path) -> Iterator[None]:
    """Remove a run's new folder, and an empty one above it, if a mistake of the user's ends the run before its
    config.yaml is written: what was not begun leaves nothing."""
    try:
        yield
    except UserError:
        if not (folder / "config.yaml").exists():
            shutil.rmtree(folder, ignore_errors=True)
            with contextlib.suppress(OSError):  # other runs are in it
                folder.parent.rmdir()
        raise


@contextlib.contextmanager
def log_to(path: Path, state: str | None, quiet: bool | Literal["errors"]):
    """Send the log of the root logger, which RecBole uses, to the terminal and to the run's file for the duration.

    If it is to be ``quiet``, only warnings go to the terminal, or only errors.
    """
    root = logging.getLogger()
    level = getattr(logging, str(state or "INFO").upper(), logging.INFO)
    terminal, file = logging.StreamHandler(), logging.FileHandler(path, encoding="utf-8")
    plain = _PlainFormatter("%(asctime)s %(levelname)s  %(message)s")
    colours = {"DEBUG": "cyan", "WARNING": "yellow", "ERROR": "red", "CRITICAL": "red"}
    coloured = colorlog.ColoredFormatter(
        "%(log_color)s%(asctime)s %(levelname)s  %(message)s", "%d %b %H:%M", log_colors=colours
    )
    terminal.setFormatter(coloured if sys.stderr.isatty() else plain)
    file.setFormatter(plain)
    if quiet:
        terminal.setLevel(max(level, logging.ERROR if quiet == "errors" else logging.WARNING))
    before = root.level
    root.setLevel(level)
    for handler in (terminal, file):
        root.addHandler(handler)
    try:
        yield
    finally:
        root.setLevel(before)
        for handler in (terminal, file):
            root.removeHandler(handler)
            handler.close()


class _PlainFormatter(logging.Formatter):
    """Without the colour codes that RecBole puts into its messages."""

    def format(self, record):
        return re.sub(r"\x1B\[[0-?]*[ -/]*[@-~]", "", super().format(record))
