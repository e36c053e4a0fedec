"""Winners of a leaderboard that has a page already: they need no search, and are trained and tested anew.

A page is checked so, at the price of the runs alone; it is given more seeds, or another model, which is searched alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import file_name
from recbole_gen.config.papers import DEFAULT_PROTOCOL
from recbole_gen.errors import UserError
from recbole_gen.leaderboard.results import FILE, Board, Entry, read_board
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_file import read_space

BUDGET = ("num_samples", "cpu_minutes", "defaults_first", "searcher", "scheduler")
"""Options that every model of a leaderboard has alike, which a page tells."""


@dataclass(frozen=True)
class Published:
    """A leaderboard's folder with its page, and what its page was made of."""

    folder: Path
    board: Board

    def entry(self, label: str) -> Entry | None:
        """What there is of a label; None if nothing, and it has to be searched."""
        return next((entry for entry in self.board.entries if entry.label == label), None)

    def space_file(self, label: str) -> Path:
        """Of what was searched for a label; there is none for one that was not tuned."""
        return self.folder / "spaces" / f"{file_name(label)}.yaml"

    def require_same(self, label: str, model: str, own: Mapping[str, Any], space: Space | None) -> None:
        """Raise UserError if a label is something else here: its model, its own settings, or what is searched."""
        entry = self.entry(label)
        assert entry is not None
        file = self.space_file(label)
        before = read_space(file) if file.exists() else None
        asked = {key: value for key, value in own.items() if key != "model"}
        differs = ""
        if entry.model != model:
            differs = f"it is {entry.model} there, and {model} here"
        elif entry.own != asked:
            differs = f"its own settings (--model_configs) are {entry.own or 'none'} there, and {asked or 'none'} here"
        elif before != (space.without_grid() if space else None):
            differs = f"what was searched for it (spaces/{file.name} there) is not what would be here (--spaces)"
        if differs:
            raise UserError(
                f"--winners={self.folder}: {label} was tuned as something else: {differs}. Give what that page was "
                f"made with (its command is on it), or another label"
            )


def read_published(folder: Any) -> Published:
    """The leaderboard in a folder. Raises UserError for a folder that has none."""
    place = Path(str(folder))
    if not (place / FILE).is_file():
        raise UserError(
            f"--winners={folder}: there is no {FILE} in it: name the folder of a leaderboard's page, such as "
            f"docs/leaderboard/ml-100k"
        )
    return Published(place, read_board(place / FILE))


def budget_of_winners(published: Published, given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of the searches as they were for the page.

    Args:
        given: options and keys of the command line.

    Raises UserError if the line has others, or another data set or protocol.
    """
    board = published.board
    there = {key: getattr(board, key) for key in BUDGET}
    place = {"dataset": board.dataset, "protocol": board.protocol}
    here = {"dataset": given.get("dataset"), "protocol": given.get("protocol") or DEFAULT_PROTOCOL}
    here |= {key: given[key] for key in BUDGET if key in given}
    for key, before in {**place, **there}.items():
        if here.get(key, before) != before:
            raise UserError(
                f"--winners={published.folder}: that page was made with --{key}={before}, and this has {here[key]}: "
                f"all models of a leaderboard are tuned alike. Without --winners they are tuned anew"
            )
    return there
