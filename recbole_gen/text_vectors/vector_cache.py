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
CREATE TABLE IF NOT EXISTS vectors (
    encoder TEXT, text BLOB, vector BLOB, is_cut INTEGER, PRIMARY KEY (encoder, text)
) WITHOUT ROWID"""
AT_ONCE = 500
"""Texts in a query."""
NUMBER = np.dtype("<f4")


class TextVector(NamedTuple):
    """The vector of a text, float32 [width], and whether the text is longer than what the encoder reads."""

    vector: np.ndarray
    is_cut: bool


class VectorCache:
    """Vectors by text, of one encoder.

    Args:
        path: of the file, which is made with the first vectors; None for a cache that forgets everything.
        encoder: its digest.

    Of each text BLAKE2b is kept, and not the text.

    Raises UserError for a file that is no such cache, is damaged, or cannot be written.
    """

    def __init__(self, path: Path | None, encoder: str):
        self.path, self._encoder = path, encoder

    def find(self, texts: Sequence[str]) -> dict[str, TextVector]:
        """What is here of texts."""
        found: dict[str, TextVector] = {}
        if self.path is None or not self.path.exists():
            return found
        with self._opened() as file:
            for start in range(0, len(texts), AT_ONCE):
                of_key = {_key(text): text for text in texts[start : start + AT_ONCE]}
                marks = ",".join("?" * len(of_key))
                query = f"SELECT text, vector, is_cut FROM vectors WHERE encoder = ? AND text IN ({marks})"
                for key, blob, is_cut in file.execute(query, (self._encoder, *of_key)):
                    found[of_key[key]] = TextVector(self._as_vector(blob), bool(is_cut))
        self.require_one_width(found)
        return found

    def add(self, vector_of: Mapping[str, TextVector]) -> None:
        """Keep vectors of texts, at once and for good."""
        if self.path is None:
            return
        rows = [
            (self._encoder, _key(text), vector.astype(NUMBER).tobytes(), int(is_cut))
            for text, (vector, is_cut) in vector_of.items()
        ]
        with self._opened() as file, file:
            file.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?, ?, ?)", rows)

    def require_one_width(self, vector_of: Mapping[str, TextVector]) -> None:
        """Raise UserError for vectors of several widths: one encoder has one, so that the file is damaged."""
        if len({len(each.vector) for each in vector_of.values()}) > 1:
            raise self._damaged("vectors of several widths")

    @contextmanager
    def _opened(self) -> Iterator[sqlite3.Connection]:
        assert self.path is not None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            connection = sqlite3.connect(self.path, timeout=60)
        except (OSError, sqlite3.Error) as error:
            raise UserError(
                f"{OPTION}: {self.path} cannot be opened ({error}): name another file, or {OPTION}=False"
            ) from None
        with contextlib.closing(connection) as file:
            try:
                self._prepare(file)
                yield file
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"{OPTION}: {self.path} cannot be read or written ({error}): name another file, or {OPTION}=False"
                ) from None
            except sqlite3.DatabaseError as error:
                raise self._damaged(str(error)) from None

    def _prepare(self, file: sqlite3.Connection) -> None:
        """Make the table of a new file. Raises UserError for a data base of something else."""
        (version,) = file.execute("PRAGMA application_id").fetchone()
        if version == VERSION:
            return
        with file:
            file.execute("BEGIN IMMEDIATE")  # of two processes that begin at once one makes the table
            (tables,) = file.execute("SELECT count(*) FROM sqlite_master WHERE name != 'vectors'").fetchone()
            if tables:
                raise UserError(f"{OPTION}: {self.path} is a data base of something else: name another file")
            file.execute(TABLE)
            file.execute(f"PRAGMA application_id = {VERSION}")

    def _as_vector(self, blob: object) -> np.ndarray:
        if not isinstance(blob, bytes) or not blob or len(blob) % NUMBER.itemsize:
            raise self._damaged("what is no vector")
        vector = np.frombuffer(blob, dtype=NUMBER)
        if not np.isfinite(vector).all():
            raise self._damaged("numbers that are none")
        return vector

    def _damaged(self, what: str) -> UserError:
        return UserError(
            f"{OPTION}: {self.path} is no cache of text vectors, or is damaged ({what}): remove it if it is one, which "
            f"costs nothing but to encode again, or name another file with {OPTION}=FILE"
        )


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()
