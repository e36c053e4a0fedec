"""A folder that is there as a whole or not at all."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from recbole_gen.errors import UserError
from recbole_gen.files import made_folder, require_writable
from recbole_gen.prepare.dataset_folder import recover_interrupted


def require_new(output: Path) -> None:
    """Raise UserError if there is something at ``output`` that is no empty folder, or if none can be made there."""
    require_writable(output)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output} is there already: choose another --output, or remove it")


@contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder beside ``output``, which gets that name once the block has ended without an error.

    Raises UserError if that is there already, or cannot be written.
    """
    require_new(output)
    output = Path(os.path.realpath(output))
    new = output.with_name(f".{output.name}.{os.getpid()}.tmp")
    try:
        with made_folder(output.parent):
            recover_interrupted(output)
            try:
                new.mkdir()
                yield new
                if output.exists():
                    output.rmdir()  # an empty one
                os.rename(new, output)
            finally:
                shutil.rmtree(new, ignore_errors=True)
    except OSError as error:
        raise UserError(f"{output} cannot be written ({error}): free some space, or choose another --output") from None
