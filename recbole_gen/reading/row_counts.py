"""What has become of the rows of a file: how many were left out, for what cause, and where the first of them stand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from recbole_gen.errors import UserError
from recbole_gen.reading.file_readers import EXAMPLES, ReadCounts

NO_TIME = "whose time is no time of the years 1 to 9999"


@dataclass
class LeftOut:
    """Rows that were left out for one cause: how many, where the first are, and what stands in one of them."""

    number: int = 0
    lines: list[int] = field(default_factory=list)
    example: str | None = None

    def describe(self, cause: str) -> str:
        """Such as `2 whose time is no time, such as 'soon' (lines 7, 9)`."""
        example = "" if self.example is None else f", such as {self.example!r}"
        return f"{self.number:,} {cause}{example}{name_lines(self.lines, self.number)}"


def name_lines(lines: Sequence[int], number: int) -> str:
    """` (lines 7, 9, ...)`; nothing if none is known."""
    if not lines:
        return ""
    more = ", ..." if number > len(lines) else ""
    return f" (line{'s' if number > 1 else ''} {', '.join(map(str, lines))}{more})"


@dataclass
class RowCounts:
    """The rows of a file, by what has become of them; each is counted once, for its first cause.

    Attributes:
        read: what reading the file has met.
        causes: words for a cause -> the rows that were left out for it.
        not_a_row: what lines are that are no rows.
    """

    read: ReadCounts = field(default_factory=ReadCounts)
    causes: dict[str, LeftOut] = field(default_factory=dict)
    not_a_row: str = "without the right number of columns"

    @property
    def total(self) -> int:
        return self.read.rows + self.read.bad

    @property
    def bad(self) -> int:
        """Rows that cannot be used."""
        return self.read.bad + sum(each.number for each in self.causes.values())

    def leave_out(
        self,
        cause: str,
        mask: np.ndarray,
        lines_of: Callable[[Sequence[int]], Iterable[int]],
        show: Callable[[int], object] | None = None,
    ) -> None:
        """Count the rows of ``mask`` [n]; ``lines_of`` names the lines of rows, and ``show`` what stands in one."""
        number = int(np.count_nonzero(mask))
        if not number:
            return
        left_out = self.causes.setdefault(cause, LeftOut())
        left_out.number += number
        first = np.flatnonzero(mask)[: EXAMPLES - len(left_out.lines)].tolist()
        if first:
            left_out.lines += lines_of(first)
        if show is not None and left_out.example is None:
            left_out.example = str(show(first[0]))

    def told(self) -> list[str]:
        """A line a cause; empty if every row can be used."""
        told = []
        if self.read.bad:
            bad = LeftOut(self.read.bad, self.read.lines, next(iter(self.read.examples), None))
            told.append(bad.describe(self.not_a_row))
        return told + [each.describe(cause) for cause, each in self.causes.items()]

    def warnings(self, file: Path) -> list[str]:
        """One line about all of them; none if every row can be used."""
        if not self.bad:
            return []
        return [f"{file}: {self.bad:,} of {self.total:,} rows are left out: {'; '.join(self.told())}"]

    def refuse_too_many(self, file: Path, most: float, cure: str = "", number: int | None = None) -> None:
        """Raise UserError if a larger share than ``most`` cannot be used: all that are left out, or ``number``."""
        bad = self.bad if number is None else number
        if bad > most * self.total:
            raise UserError(
                f"{bad:,} of the {self.total:,} rows of {file} cannot be used, a larger share than {most:g}: "
                f"{'; '.join(self.told())}. Mend them{cure}"
            )
