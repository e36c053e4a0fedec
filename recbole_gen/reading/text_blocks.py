"""Text in blocks of whole lines, and what in it is refused, with the number of its line."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from recbole_gen.errors import UserError
from recbole_gen.reading.rules import BOM, LONE_CR

BLOCK, LONGEST = 1 << 24, 1 << 28
"""Bytes that are read at once, and of the longest line."""
LF = b"\n"
_LF, _CR, _QUOTE = b'\n\r"'
_SHORT = b"\x1f"
"""A byte, the unit separator, that takes the place of a delimiter of several characters."""


def read_blocks(stream: BinaryIO, quotes: str | None = None) -> Iterator[tuple[int, bytes]]:
    """Whole lines, about BLOCK bytes at a time, without a BOM, and the number of the first of them, from 1.

    Args:
        quotes: the delimiter of a file in which line ends between double quotes end no line; None where they do.

    Raises UserError, with the line, for a CR that ends no line, a zero byte, a double quote that neither begins nor
    ends a cell or is never closed, and for an empty file.
    """
    rest, first, line = b"", True, 1
    while chunk := stream.read(BLOCK):
        if first:
            chunk, first = chunk.removeprefix(BOM), False
        chunk = rest + chunk
        end = _last_line_end(chunk, quotes)
        if end:
            block = chunk[:end]
            _check(block, line, quotes)
            yield line, block
            line += block.count(b"\n")
        elif len(chunk) > LONGEST:
            raise UserError(
                f"line {line}: it is longer than {LONGEST >> 20} MiB, or a double quote in it is never closed"
            )
        rest = chunk[end:]
    if first:
        raise UserError("the file is empty")
    if rest:
        _check(rest.removesuffix(b"\r"), line, quotes)
        yield line, rest


def _check(block: bytes, line: int, quotes: str | None) -> None:
    place = block.find(b"\0")
    if place >= 0:
        raise UserError(
            f"line {line + block.count(LF, 0, place)}: there is a zero byte in it, so this is no text, or of another "
            f"encoding: convert it, for example with iconv -f utf-16 -t utf-8"
        )
    quoted = quotes is not None and has_quoted_cells(block, quotes)
    if quoted:
        _check_quotes(block, line, str(quotes))
    if block.count(b"\r") != block.count(b"\r\n"):
        _refuse_lone_cr(block, line, quoted)


def _refuse_lone_cr(block: bytes, line: int, quoted: bool) -> None:
    """Raises UserError for a CR outside of quotes that no LF follows."""
    data = np.frombuffer(block, np.uint8)
    places = np.flatnonzero(data == _CR)
    alone = places[np.append(data, 0)[places + 1] != _LF]
    if quoted:
        alone = alone[np.searchsorted(np.flatnonzero(data == _QUOTE), alone) % 2 == 0]
    if len(alone):
        raise UserError(f"line {line + block.count(LF, 0, int(alone[0]))}: {LONE_CR}")


def has_quoted_cells(block: bytes, delimiter: str) -> bool:
    """Whether any cell begins with a double quote; elsewhere, one is a sign like others."""
    return b'"' in block and (block.startswith(b'"') or b'\n"' in block or delimiter.encode() + b'"' in block)


def _check_quotes(block: bytes, line: int, delimiter: str) -> None:
    """RFC 4180: before an opening quote and behind a closing one is the end of a cell, or another quote."""
    data = np.frombuffer(block, np.uint8)
    places = np.flatnonzero(data == _QUOTE)
    ends = np.array([*delimiter.encode(), _LF, _CR, _QUOTE], np.uint8)
    before = np.append(np.uint8(_LF), data)[places[::2]]
    behind = np.append(data, np.uint8(_LF))[places[1::2] + 1]
    wrong = np.concatenate([places[::2][~np.isin(before, ends)], places[1::2][~np.isin(behind, ends)]])
    closed = len(places) % 2 == 0
    if closed and not len(wrong):
        return
    # The cell that is to blame began with the quote before.
    place = int(places[-1]) if not len(wrong) else int(wrong.min())
    number = int(np.searchsorted(places, place))
    start = int(places[number - 1]) if number % 2 else place
    shown = block[start : start + 60].decode("utf-8", "replace")
    what = "is never closed" if not len(wrong) else "begins or ends no cell, or the one before it is never closed"
    raise UserError(
        f"line {line + block.count(LF, 0, start)}: a double quote {what}: {shown!r}. In CSV a cell with quotes stands "
        f'in quotes, and each of its own is written twice ("12"" disk"); a file without quoting can be an atomic one: '
        f"name it .inter, with tabs between cells and titles such as user_id:token"
    )


def _last_line_end(chunk: bytes, quotes: str | None) -> int:
    """Place behind the last line end that is outside of quotes, or 0. The chunk begins outside of them."""
    end = chunk.rfind(b"\n") + 1
    if quotes is None or not has_quoted_cells(chunk, quotes):
        return end
    inside = chunk.count(b'"', 0, end) % 2
    while end and inside:
        before = chunk.rfind(b"\n", 0, end - 1) + 1
        inside ^= chunk.count(b'"', before, end) % 2
        end = before
    return end


def find_rows(block: bytes, delimiter: str, cells: int, quotes: bool) -> tuple[np.ndarray, np.ndarray]:
    """At which lines of a block, from 0, its rows begin, and those with another number of cells; empty lines are
    neither."""
    data = np.frombuffer(block, np.uint8)
    line_ends = np.flatnonzero(data == _LF)
    if not block.endswith(b"\n"):
        line_ends = np.append(line_ends, len(data))
    gaps = np.flatnonzero(data == ord(delimiter))
    lines = np.arange(len(line_ends))
    ends, starts = line_ends, np.append(0, line_ends[:-1] + 1)
    if quotes:
        marks = np.flatnonzero(data == _QUOTE)
        outside = np.searchsorted(marks, line_ends) % 2 == 0
        ends = line_ends[outside]
        starts = np.append(0, ends[:-1] + 1)
        lines = np.append(0, np.flatnonzero(outside)[:-1] + 1)
        gaps = gaps[np.searchsorted(marks, gaps) % 2 == 0]
    found = np.searchsorted(gaps, ends) - np.searchsorted(gaps, starts) + 1
    size = ends - starts
    empty = (size == 0) | ((size == 1) & (data[np.minimum(starts, len(data) - 1)] == _CR))
    good = ~empty & (found == cells)
    return lines[good], lines[~empty & ~good]


def with_short_delimiter(block: bytes, delimiter: str) -> tuple[bytes, str]:
    """A block with one byte for a delimiter of several characters, and that byte."""
    if _SHORT in block:
        raise UserError("there is a byte 31 in it, which a file with a separator of several characters cannot have")
    return block.replace(delimiter.encode(), _SHORT), _SHORT.decode()


def is_utf8(encoding: str | None) -> bool:
    """Whether an encoding is UTF-8, with or without a BOM. Raises UserError for one that Python does not know."""
    try:
        return codecs.lookup(encoding or "utf-8").name in ("utf-8", "utf-8-sig")
    except LookupError:
        raise UserError(
            f"there is no encoding '{encoding}': --encoding is utf-8, latin-1, utf-16 or the like"
        ) from None


def as_utf8(path: Path, encoding: str | None) -> bytes:
    """All of a file of another encoding. Raises UserError, with the line, for what is not of it."""
    content = path.read_bytes()
    try:
        return content.decode(encoding or "utf-8").removeprefix("\ufeff").encode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}: line {line}: it is no {encoding} text: name its encoding with --encoding=NAME"
        ) from None


def not_utf8(block: bytes, line: int) -> UserError:
    """What to say of a block, from this line on, in which bytes are no UTF-8."""
    place = 0
    try:
        block.decode()
    except UnicodeDecodeError as error:
        place = error.start
    return UserError(
        f"line {line + block.count(LF, 0, place)}: it is no UTF-8 text: convert it, for example with iconv -f latin1 "
        f"-t utf-8 (of a data set, --encoding=latin-1 says what it is)"
    )
