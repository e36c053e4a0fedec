"""Winners of a leaderboard that has a page already: they need no search, and are trained and tested anew.

A page is checked so, at the price of the runs alone; it is given more seeds, or another model, which is searched alone.
"""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import KEYS_WITHOUT_EFFECT, file_name
from recbole_gen.config.papers import DEFAULT_PROTOCOL
from recbole_gen.errors import UserError
from recbole_gen.leaderboard.results import FILE, Board, Entry, other_form, read_board
from recbole_gen.options import is_number, parse_arguments
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_file import read_space

BUDGET = ("num_samples", "cpu_minutes", "defaults_first", "searcher", "scheduler")
"""Options that every model of a leaderboard has alike, which a page tells."""
HIDDEN = "FOLDER"
"""What the command of a page has in place of a place of the machine."""


@dataclass(frozen=True)
class Published:
    """A leaderboard's folder with its page, and what its page was made of.

    Attributes:
        folder: it.
        board: the content of its file.
        given: options and keys of the command that searched.
    """

    folder: Path
    board: Board
    given: dict[str, Any]

    def entry(self, label: str) -> Entry | None:
        """What there is of a label; None if nothing, and it has to be searched."""
        return next((entry for entry in self.board.entries if entry.label == label), None)

    @property
    def tuned_by(self) -> str:
        """The command that searched."""
        return _search_command(self.board)

    def space_file(self, label: str) -> Path:
        """Of what was searched for a label; there is none for one that was not tuned."""
        return self.folder / "spaces" / f"{file_name(label)}.yaml"

    def require_same(self, label: str, model: str, own: Mapping[str, Any], space: Space | None) -> None:
        """Raise UserError if a label is something else here: its model, its own settings, or what is searched. What
        was chosen for it there are values of keys that are searched, and nothing else."""
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
        elif before is None and space is not None:
            differs = f"nothing was searched for it (there is no {file.name} in spaces), as would be here (--spaces)"
        elif before != (space.without_grid() if space else None):
            differs = f"what was searched for it (spaces/{file.name} there) is not what would be here (--spaces)"
        elif strange := sorted(entry.tuning.params.keys() - (before.dimensions.keys() if before else set())):
            raise UserError(
                f"--winners={self.folder}: {label} has {strange[0]} there, which was not searched: {FILE} was changed"
            )
        if differs:
            raise UserError(
                f"--winners={self.folder}: {label} was tuned as something else: {differs}. Give what that page was "
                f"made with (its command is on it), or another label"
            )

    def require_room(self, place: Path, labels: Collection[str]) -> None:
        """Raise UserError if the new page would be in the place of this one, and lack models that it has."""
        lost = [entry.label for entry in self.board.entries if entry.label not in labels]
        if lost and place.resolve() == self.folder.resolve():
            raise UserError(
                f"--winners={self.folder}: the page there would be written over, without {', '.join(lost)}: --name=NAME"
                f" gives the new one another folder"
            )


def read_published(folder: Any) -> Published:
    """The leaderboard in a folder. Raises UserError for a folder that has none, and for one that is damaged."""
    place = Path(str(folder))
    place = place.parent if place.name == FILE else place
    if not (place / FILE).is_file():
        raise UserError(
            f"--winners={folder}: there is no {FILE} in it: name the folder of a leaderboard's page, such as "
            f"docs/leaderboard/ml-100k"
        )
    board = read_board(place / FILE)
    if not board.entries or not all(map(_is_sound, board.entries)):
        raise other_form(place / FILE)
    try:
        given = parse_arguments([word for word in shlex.split(_search_command(board)) if word.startswith("--")])
    except (AttributeError, ValueError, UserError) as error:
        raise other_form(place / FILE) from error
    return Published(place, board, given)


def _search_command(board: Board) -> str:
    """The command that searched: of the page, or of the page whose winners it has."""
    return board.tuned_by or board.command


def _is_sound(entry: Entry) -> bool:
    tuning = entry.tuning
    mappings = (entry.own, tuning.params, tuning.space, tuning.trials)
    return (
        all(isinstance(each, dict) for each in mappings)
        and all(isinstance(each, str) for each in (entry.label, entry.model, tuning.metric))
        and all(map(is_number, (tuning.score, tuning.cpu_seconds, tuning.wanted)))
    )


def budget_of_winners(published: Published, given: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """The options of the searches as they were for the page.

    Args:
        given: options and keys of the command line.
        options: those that are of `leaderboard`; all others are keys of the runs.

    Raises UserError if the line has another budget, or keys of the runs that are not those of the page's command.
    """
    board = published.board
    there = {key: getattr(board, key) for key in BUDGET}
    before = {
        **_settings_of(published.given, options),
        "dataset": board.dataset,
        "protocol": board.protocol,
    }
    here = {"protocol": DEFAULT_PROTOCOL, **_settings_of(given, options)}
    pairs = {key: (there[key], given[key]) for key in BUDGET if key in given}
    pairs |= {key: (before.get(key), here.get(key)) for key in sorted(before.keys() | here.keys())}
    for key, (old, new) in pairs.items():
        if new != old != HIDDEN:
            shown = ["without it" if each is None else f"with {each}" for each in (old, new)]
            raise UserError(
                f"--winners={published.folder}: {key}: that page was made {shown[0]}, and this would be {shown[1]}: "
                f"what was chosen there was chosen for that. Without --winners all models are tuned anew"
            )
    return there


def _settings_of(values: Mapping[str, Any], options: Collection[str]) -> dict[str, Any]:
    """Those of the values that a run's numbers depend on."""
    return {key: value for key, value in values.items() if key not in options and key not in KEYS_WITHOUT_EFFECT}
