"""Vectors of texts that were encoded before, in a file of SQLite: text and encoder decide, whatever the data set."""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np

from recbole_gen.errors import UserError

OPTION = "--text_cache"
VERSION = 0x72675631
"""Of `PRAGMA application_id`: rgV1."""
TABLE = """\
CREATE TABLE vectors (encoder TEXT, text BLOB, vector BLOB, is_cut INTEGER, PRIMARY KEY (encoder, text))
WITHOUT ROWID"""
AT_ONCE = 500
"""Texts in a query."""


class TextVector(NamedTuple):
    """The vector of a text, float32 [width], and whether the text is longer than what the encoder reads."""

    vector: np.ndarray
    is_cut: bool


class VectorCache:
    """Vectors by text, of one encoder.

    Args:
        encoder: its digest.

    Of each text BLAKE2b is kept, and not the text.
    """

    def __init__(self, file: sqlite3.Connection, encoder: str):
        self._file, self._encoder = file, encoder

    def find(self, texts: Sequence[str]) -> dict[str, TextVector]:
        """What is here of texts."""
        found: dict[str, TextVector] = {}
        for start in range(0, len(texts), AT_ONCE):
            of_key = {_key(text): text for text in texts[start : start + AT_ONCE]}
            marks = ",".join("?" * len(of_key))
            query = f"SELECT text, vector, is_cut FROM vectors WHERE encoder = ? AND text IN ({marks})"
            for key, blob, is_cut in self._file.execute(query, (self._encoder, *of_key)):
                found[of_key[key]] = TextVector(np.frombuffer(blob, dtype="<f4"), bool(is_cut))
        return found

    def add(self, vector_of: Mapping[str, TextVector]) -> None:
        """Keep vectors of texts, at once and for good."""
        with self._file:
            self._file.executemany(
                "INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)",
                [
                    (self._encoder, _key(text), vector.astype("<f4").tobytes(), int(is_cut))
                    for text, (vector, is_cut) in vector_of.items()
                ],
            )


@contextmanager
def open_cache(path: Path | None, encoder: str) -> Iterator[VectorCache]:
    """The cache in a file, which is made if need be; one that forgets everything for None.

    Raises UserError, also where the block meets it, for a file that is no such cache, is damaged, or cannot be written.
    """
    try:
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.closing(sqlite3.connect(path or ":memory:", timeout=60)) as file:
            _prepare(file, path)
            yield VectorCache(file, encoder)
    except OSError as error:
        raise UserError(f"{OPTION}: {path} cannot be made ({error}): name another file, or {OPTION}=False") from None
    except sqlite3.OperationalError as error:
        raise UserError(
            f"{OPTION}: {path} cannot be read or written ({error}): name another file, or {OPTION}=False"
        ) from None
    except sqlite3.DatabaseError as error:
        raise UserError(
            f"{OPTION}: {path} is no cache of text vectors, or is damaged ({error}): name another file"
        ) from None


def _prepare(file: sqlite3.Connection, path: Path | None) -> None:
    with file:
        file.execute("BEGIN IMMEDIATE")  # of two processes that begin at once one makes the table
        (version,) = file.execute("PRAGMA application_id").fetchone()
        (tables,) = file.execute("SELECT count(*) FROM sqlite_master").fetchone()
        if not tables and not version:
            file.execute(f"PRAGMA application_id = {VERSION}")
            file.execute(TABLE)
        elif version != VERSION:
            raise UserError(f"{OPTION}: {path} is a data base of something else: name another file")


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
