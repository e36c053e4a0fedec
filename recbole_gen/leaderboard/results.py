"""What a leaderboard has found, as plain data that a JSON file holds. Nothing large is imported."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from recbole_gen.errors import UserError
from recbole_gen.files import read_json, write_output

VERSION = 1
"""Of the JSON file's form."""
FILE = "leaderboard.json"
BETTER, WORSE, ALIKE = "better", "worse", "no difference"


@dataclass(frozen=True)
class Tuning:
    """The search for a model's settings; empty for a model without a space.

    Attributes:
        space: key -> what was searched, in words.
        wanted, trials: how many trials there were to be, and how many there are by their status.
        number, score, best_epoch, params: of the winner; ``score`` is its best ``metric`` on the validation rows.
        cpu_seconds: of all trials, training and validation.
    """

    space: dict[str, str] = field(default_factory=dict)
    wanted: int = 0
    trials: dict[str, int] = field(default_factory=dict)
    number: int | None = None
    metric: str = ""
    score: float = 0.0
    best_epoch: int | None = None
    params: dict[str, Any] = field(default_factory=dict)
    cpu_seconds: float = 0.0


@dataclass(frozen=True)
class Score:
    """A metric of a model on the test rows, as fractions: over the seeds, and over tie orders where there are such
    runs (``ties_sd``). ``p`` of the test against the baseline is corrected; it and ``verdict`` are None for that."""

    mean: float
    sd: float | None
    ties_sd: float | None = None
    difference: float | None = None
    p: float | None = None
    verdict: str | None = None


@dataclass(frozen=True)
class Entry:
    """One model of a leaderboard.

    Attributes:
        own: the settings that its file of --model_configs has.
        scores: metric, such as NDCG@10 -> score; also that of the metric that chose epochs and settings where it is
            none of the board's ``metrics``, which are compared.
        valid: mean of the metric that chooses epochs over the seeds, on the validation rows; None without such rows.
        train_pairs: the rows that it was trained on, None for a model that reads no sequences.
        parameters, epochs: means over the seeds.
        runs, cpu_seconds: the runs of the comparison, those over tie orders included, and their CPU time.
    """

    label: str
    model: str
    own: dict[str, Any]
    tuning: Tuning
    scores: dict[str, Score]
    valid: float | None
    train_pairs: str | None
    parameters: float | None
    epochs: float | None
    runs: int
    cpu_seconds: float | None


@dataclass(frozen=True)
class Board:
    """A leaderboard, the best model by the first of ``metrics`` first.

    Attributes:
        num_samples, cpu_minutes, searcher, scheduler: the budget of every search, and how it was made.
        defaults_first: whether one trial more of each model had its defaults.
        seeds, tie_seeds: those of the runs.
        legend: what the marks of the table mean, a paragraph each.
        notes, facts: what to know of the numbers; versions and such, as [title, text].
        left_out, failed: label or run -> why.
        tuned_by: the command of another leaderboard, whose winners were taken; empty where all was searched for this.
    """

    name: str
    dataset: str
    protocol: str
    users: int
    rows: int
    metrics: list[str]
    valid_metric: str
    baseline: str
    num_samples: int
    cpu_minutes: float | None
    searcher: str
    scheduler: str
    seeds: list[int]
    tie_seeds: list[int]
    entries: list[Entry]
    legend: list[str]
    notes: list[str]
    facts: list[list[str]]
    command: str
    defaults_first: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    tuned_by: str = ""


def write_board(board: Board, folder: Path) -> Path:
    """Write the JSON file of a leaderboard; equal ones give equal bytes. Raises UserError if it cannot be written."""
    content = {"version": VERSION, **dataclasses.asdict(board)}
    return write_output(folder / FILE, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_board(path: Path) -> Board:
    """The content of such a file. Raises UserError for another one."""
    content = read_json(path)
    try:
        if content.pop("version") != VERSION:
            raise ValueError
        entries = [_read_entry(each) for each in content.pop("entries")]
        return Board(entries=entries, **content)
    except (AttributeError, KeyError, TypeError, ValueError):
        raise other_form(path) from None


def other_form(path: Path) -> UserError:
    """The message about a file of which no page can be made."""
    return UserError(
        f"{path} is not the result of `leaderboard` as this version writes it: make it again, or remove it"
    )


def read_boards(docs: Path) -> list[Board]:
    """The leaderboards in the folders of a folder, named as these are. Raises UserError for a file of another form."""
    return [dataclasses.replace(read_board(path), name=path.parent.name) for path in sorted(docs.glob(f"*/{FILE}"))]


def _read_entry(content: dict[str, Any]) -> Entry:
    scores = {metric: Score(**each) for metric, each in content.pop("scores").items()}
    return Entry(scores=scores, tuning=Tuning(**content.pop("tuning")), **content)
