"""The pages of leaderboards: NAME/README.md, and README.md above, the list of all.

All are made from NAME/leaderboard.json alone, and equal numbers give equal bytes.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from recbole_gen.compare.arguments import file_name
from recbole_gen.compare.markdown import escape_marks, pipe_table
from recbole_gen.compare.tables import format_or_dash, p_value_text
from recbole_gen.config.papers import DEFAULT_PROTOCOL
from recbole_gen.errors import UserError, counted
from recbole_gen.files import require_folder_output, write_output
from recbole_gen.leaderboard.results import FILE, Board, Entry, Score, other_form, read_boards, write_board

PAGE = "README.md"
MARKER = "<!-- written by `recbole-gen leaderboard` from leaderboard.json: what is typed here is lost -->"
"""The first line of pages that may be written over."""


def write_documents(board: Board, folder: Path, docs: Path | None) -> list[Path]:
    """Write numbers and page of a leaderboard into its folder, and the list of all into ``docs``; returns the paths.
    Raises UserError if a file cannot be written."""
    written = [write_board(board, folder), write_output(folder / PAGE, page_text(board))]
    return written + (_write_index(docs) if docs else [])


def require_place(place: Path) -> None:
    """Raise UserError if the page of a leaderboard would be written over something else."""
    require_folder_output(place, "--docs and --name")
    if (place / PAGE).exists() and not _is_ours(place / PAGE):
        raise UserError(
            f"{place / PAGE} is not a page of `leaderboard`, and would be lost: give another --name or --docs"
        )


def _is_ours(page: Path) -> bool:
    return page.is_file() and page.read_text(encoding="utf-8", errors="replace").startswith(MARKER)


def rewrite_pages(docs: Path) -> list[Path]:
    """Write the page of each leaderboard in a folder, and their list, anew from their numbers; returns the paths."""
    boards = read_boards(docs)
    texts = _page_texts(boards, docs)
    written = [write_output(path, text) for path, text in texts.items()]
    return written + _write_index(docs, boards)


def _page_texts(boards: Sequence[Board], docs: Path) -> dict[Path, str]:
    """The page of each leaderboard. Raises UserError for one of whose numbers none can be made, nor a line of the list
    of all."""
    texts = {}
    for board in boards:
        try:
            texts[docs / board.name / PAGE] = page_text(board)
            index_text([board])
        except (
            AttributeError,
            IndexError,
            KeyError,
            TypeError,
            ValueError,
        ):  # a number is lacking, or is something else
            raise other_form(docs / board.name / FILE) from None
    return texts


def _write_index(docs: Path, boards: Sequence[Board] | None = None) -> list[Path]:
    """Nothing is written over a list that is somebody else's, which is told."""
    path = docs / PAGE
    if path.exists() and not _is_ours(path):
        print(f"kept: {path}, which this command has not written: remove it to have the list of all there")
        return []
    if boards is None:
        boards = read_boards(docs)
        _page_texts(boards, docs)  # refuses those that are damaged
    return [write_output(path, index_text(boards))]


def page_text(board: Board) -> str:
    """The page of a leaderboard as Markdown."""
    tuned = [entry for entry in board.entries if entry.tuning.trials]
    losses = {**board.left_out, **board.failed}
    parts = [
        MARKER,
        f"# Leaderboard {escape_marks(board.name)}",
        f"Data set {escape_marks(board.dataset)}, protocol {escape_marks(board.protocol)}: {board.rows:,} test rows of "
        f"{board.users:,} users. {escape_marks(budget_text(board))}",
        "    " + board.command,
        *_taken_winners(board),
        pipe_table(*score_table(board)),
        "\n\n".join(map(escape_marks, board.legend)),
        "![Accuracy of each model, with 95 % bootstrap intervals over users](figures/metric.svg)",
        "[comparison.md](comparison.md) has all metrics, costs and diagnostics, [comparison.html](comparison.html) the "
        "same as one page with the figures, [comparison.csv](comparison.csv) every number of every run, "
        "[summary.csv](summary.csv) a line a model, [comparison.tex](comparison.tex) the table for a paper.",
        "## Budget and training",
        "CPU time is that of the process, in training and validation. The scheduler may end trials early (pruned), and "
        "when the CPU minutes are used up, those that run are stopped and no other starts.",
        pipe_table(*cost_table(board)),
        "## Winners",
        "What was chosen by validation, and what was given and not searched; all else is the default. Whole, as "
        "files to run with: [models](models).",
        pipe_table(*winner_table(board)),
    ]
    if tuned:
        parts += ["## What was searched", pipe_table(*space_table(tuned))]
    lines = [*board.notes, *(f"Not compared: {label}: {reason}" for label, reason in sorted(losses.items()))]
    lines += [f"{title}: {text}" for title, text in board.facts]
    parts += ["## Notes", "\n".join(f"- {escape_marks(line)}" for line in lines)]
    return "\n\n".join(parts) + "\n"


def _taken_winners(board: Board) -> list[str]:
    if not board.tuned_by:
        return []
    return ["The winners are those of another page, which were found by:", "    " + board.tuned_by]


def budget_text(board: Board) -> str:
    """How the models were tuned and compared, in words."""
    search = "Optuna" if board.searcher == "optuna" else "random search"
    ends = ", weak ones ended early by ASHA" if board.scheduler == "asha" else ""
    minutes = "" if board.cpu_minutes is None else f" within {_minutes(board.cpu_minutes)} of CPU time"
    samples = f"{board.num_samples} samples" if board.num_samples > 1 else "one sample"
    samples = f"its defaults and {samples}" if board.defaults_first else samples
    seeds = f"{counted(len(board.seeds), 'seed')} ({', '.join(map(str, board.seeds))})"
    ties = f" and {len(board.tie_seeds)} orders of simultaneous events" if board.tie_seeds else ""
    return (
        f"Each model was tuned on validation with the same budget: {samples} of its space ({search}{ends}){minutes}. "
        f"The winners were trained and tested anew with {seeds}{ties}."
    )


def score_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the models' scores: the first metric with the test against the baseline, and those of the same
    cut-off."""
    main = board.metrics[0]
    others = [metric for metric in board.metrics[1:] if metric.partition("@")[2] == main.partition("@")[2]]
    # What chose epochs and settings, where it has no value for each user, and is none of those that are compared.
    if board.valid_metric not in others and board.valid_metric != main:
        others += [board.valid_metric] if all(board.valid_metric in entry.scores for entry in board.entries) else []
    heads = ["model", main, f"against {board.baseline}", "difference", "Holm p"]
    heads += ["sd over tie orders"] if board.tie_seeds else []
    body = []
    for entry in board.entries:
        score = entry.scores[main]
        link = f"[{escape_marks(entry.label)}](models/{file_name(entry.label).replace(' ', '%20')}.yaml)"
        tested = ["-", "-"] if score.p is None else [f"{score.difference:+.4f}", p_value_text(score.p)]
        line = [link, _mean(score), score.verdict or "baseline", *tested]
        line += [format_or_dash(score.ties_sd, ".4f")] if board.tie_seeds else []
        body.append([*line, *(_mean(entry.scores[metric]) for metric in others), format_or_dash(entry.valid, ".4f")])
    return [*heads, *others, f"{board.valid_metric}, validation"], body


def cost_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of what tuning and training have taken, and what each model was trained on."""
    heads = [
        "model", "trials", "CPU minutes of tuning", f"best {board.valid_metric} of a trial", "trained on (train_pairs)",
        "parameters", "epochs", "runs", "CPU minutes of the runs",
    ]  # fmt: skip
    return heads, [_cost_line(entry) for entry in board.entries]


def _cost_line(entry: Entry) -> list[str]:
    found, minutes = entry.tuning, None if entry.cpu_seconds is None else entry.cpu_seconds / 60
    tuning = ["not tuned", "-", "-"]
    if found.trials:
        statuses = ", ".join(f"{number} {status}" for status, number in sorted(found.trials.items()))
        tuning = [statuses, f"{found.cpu_seconds / 60:.2f}", f"{found.score:.4f} (trial {found.number})"]
    costs = [
        format_or_dash(entry.parameters, ",.0f"),
        format_or_dash(entry.epochs, ".4g"),
        str(entry.runs),
        format_or_dash(minutes, ".2f"),
    ]
    return list(map(escape_marks, [entry.label, *tuning, entry.train_pairs or "-", *costs]))


def winner_table(board: Board) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the settings of each winner."""
    body = []
    for entry in board.entries:
        model = {} if entry.model in (entry.label, f"recbole.{entry.label}") else {"model": entry.model}
        cells = entry.label, _settings(entry.tuning.params), _settings({**model, **entry.own})
        body.append([escape_marks(each) or "-" for each in cells])
    return ["model", "chosen", "given"], body


def space_table(entries: Sequence[Entry]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the search spaces."""
    return ["model", "key", "values"], [
        [escape_marks(each) for each in (entry.label, key, values)]
        for entry in entries
        for key, values in entry.tuning.space.items()
    ]


def index_text(boards: Sequence[Board]) -> str:
    """The list of leaderboards, with a link to each."""
    body = []
    for board in boards:
        main, best = board.metrics[0], board.entries[0]
        protocol = "" if board.protocol == DEFAULT_PROTOCOL else f", {board.protocol}"
        minutes = "-" if board.cpu_minutes is None else f"{board.cpu_minutes:g}"
        cells = [
            f"{board.dataset}{protocol}", str(len(board.entries)), str(board.num_samples), minutes,
            str(len(board.seeds)), str(len(board.tie_seeds) or "-"), f"{best.label}, {main} {_mean(best.scores[main])}",
        ]  # fmt: skip
        body.append([f"[{escape_marks(board.name)}]({board.name}/{PAGE})", *map(escape_marks, cells)])
    heads = [
        "leaderboard",
        "data set",
        "models",
        "samples",
        "CPU minutes",
        "seeds",
        "tie orders",
        "best on the test rows",
    ]
    return "\n\n".join([
        MARKER,
        "# Leaderboards",
        "Models tuned on validation with the same budget each (samples of a search space, and CPU minutes), and the "
        "winners compared over seeds, by `recbole-gen leaderboard`. This list and the pages are written by it "
        "from the results of the runs; `recbole-gen leaderboard --pages` writes them all anew.",
        pipe_table(heads, body) if body else "There is none yet.",
    ]) + "\n"  # fmt: skip


def _mean(score: Score) -> str:
    return f"{score.mean:.4f}" + ("" if score.sd is None else f" ± {score.sd:.4f}")


def _minutes(number: float) -> str:
    return f"{number:g} minute" + ("" if number == 1 else "s")


def _settings(values: Mapping[str, Any]) -> str:
    """Keys and values of a run in one line, numbers with four digits."""
    shown = {key: f"{value:.4g}" if isinstance(value, float) else value for key, value in values.items()}
    return ", ".join(f"{key} {value if isinstance(value, str) else json.dumps(value)}" for key, value in shown.items())
