"""The verb `recommend`: a file of histories to a file of recommendations. `bulk` has the work.

Nothing large is imported before the options are known to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from recbole_gen import options
from recbole_gen.errors import UserError, counted
from recbole_gen.files import require_file_output
from recbole_gen.options import asks_for_help, parse_arguments
from recbole_gen.reading.rules import MAX_BAD
from recbole_gen.recommending.request_checks import describe_short, find_items, parse_days, require_k, require_search

if TYPE_CHECKING:
    from recbole_gen.recommending.bulk import Totals
    from recbole_gen.recommending.recommender import Recommender

USAGE = """\
usage: recbole-gen recommend --checkpoint=FOLDER --histories=FILE --output=FILE [--k=10]

  --checkpoint=FOLDER  the folder of a run; its data set need not be here
  --histories=FILE     .csv, .tsv, .inter (a log, a row an event; or a row a user with the items in a column `history`,
                       blanks between them), .jsonl ({"user": "u", "history": ["i", "j"], "times": [...]}) or .parquet
  --output=FILE        .csv, .jsonl or .parquet: user, rank, item, score, by; of models that predict times `when`, the
                       likeliest day, in the window `from` to `until`; of those that predict scenes the next scene
  --k=10               items for each user
  --exclude_seen=true  do not recommend what is in the history
  --candidates=FILE    recommend these items only, one a line
  --items=FILE         rank these new items, too, by their vectors; histories may hold them. Names and vectors as export
                       writes them, or Parquet; of a run with item_vectors_use=frozen or adaptor
  --when               say what the predicted times are worth (PASRec): the share of true times in the windows
  --between A B        of users with a window (from, until) that meets these days only: --between 2024-05-01 2024-05-07
  --time_format=FORM   of dates that are not as in ISO 8601, such as "%d.%m.%Y %H:%M" (as strptime's)
  --max_bad=SHARE      stop if a larger share of the rows of FILE cannot be used (default: 0.05)
  --user, --item, --time, --scene      the columns of FILE, if they have other names than in the data set
  --search=exact       exact, or ann: of more than 100,000 items an index finds the best (recbole-gen[ann])
  --model=MODULE:CLASS of a run whose model is a class of somebody's own: a checkpoint alone does not have code imported
  --device=cpu         cpu or cuda (default: as a run would choose)

Interrupted, the same command goes on where it stopped, with the same result.
"""
DEFAULTS: dict[str, Any] = {
    "checkpoint": "", "histories": "", "output": "", "k": 10, "exclude_seen": True, "candidates": "", "items": "",
    "when": False, "between": "", "time_format": "", "max_bad": MAX_BAD, "user": "", "item": "", "time": "",
    "scene": "", "device": "", "search": "exact", "model": "",
}  # fmt: skip
FORMATS = (".csv", ".jsonl", ".parquet")


def main(arguments: Sequence[str]) -> None:
    """The `recommend` verb of the command line. Raises UserError for bad input."""
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return
    values = options.verb_options(parse_arguments(_join_between(arguments)), DEFAULTS, "recommend")
    for key in ("checkpoint", "histories", "output"):
        if not values[key]:
            raise UserError(f"recommend needs --{key}=...; `recbole-gen recommend --help` says what of")
    if values["device"] not in ("", "cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {values['device']}")
    require_k(values["k"])
    require_search(values["search"])
    between = parse_days(values["between"])
    output = Path(str(values["output"]))
    if output.suffix.lower() not in FORMATS:
        raise UserError(f"--output: the name must end in one of {', '.join(FORMATS)}, got {output}")
    histories = Path(str(values["histories"]))
    if not histories.is_file():
        raise UserError(f"--histories: there is no file {histories}")
    items = find_items(values["items"])
    reads = {"--histories": histories, "--candidates": Path(str(values["candidates"] or ""))}
    if items is not None:
        reads["--items"] = items
    require_file_output(output, reads=reads, given=values["output"])
    candidates = _read_candidates(values["candidates"])

    from recbole_gen.recommending.bulk import recommend_file
    from recbole_gen.recommending.recommender import Recommender

    recommender = Recommender.load(
        str(values["checkpoint"]), values["device"] or None, str(values["search"]), model=values["model"] or None,
        items=items,
    )  # fmt: skip
    if recommender.new_items:
        print(recommender.describe_new_items())
    if (values["when"] or between) and not recommender.predicts_times:
        raise UserError(f"{recommender.config['model']} predicts no times: --when and --between are for PASRec")
    if candidates is not None:
        _tell_candidates(candidates, recommender)
    allowed = None if candidates is None else list(candidates.values())
    totals = recommend_file(recommender, histories, output, values, between, allowed)
    _print_summary(totals, recommender, output, values["when"] or between is not None)


def _join_between(arguments: Sequence[str]) -> list[str]:
    """`--between A B` in one word."""
    words = list(arguments)
    for place, word in enumerate(words[:-2]):
        if word == "--between" and not words[place + 2].startswith("--"):
            words[place : place + 3] = [f"--between={words[place + 1]} {words[place + 2]}"]
            break
    return words


def _read_candidates(name: Any) -> dict[int, str] | None:
    """Line -> item of a file of candidates."""
    if not name:
        return None
    try:
        lines = Path(str(name)).read_bytes().decode("utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"--candidates: {name} cannot be read: {error}") from None
    return {number: item for number, line in enumerate(lines, 1) if (item := line.removesuffix("\r"))}


def _tell_candidates(candidates: dict[int, str], recommender: Recommender) -> None:
    """Say which of them are unknown, or named twice."""
    import pyarrow as pa

    from recbole_gen.reading.row_counts import name_lines
    from recbole_gen.recommending.model_input import token_ids

    first: dict[str, int] = {}
    twice = [line for line, item in candidates.items() if first.setdefault(item, line) != line]
    ids = token_ids(pa.array(first, pa.string()), recommender.items)
    unknown = [line for line, number in zip(first.values(), ids.tolist(), strict=True) if number <= 0]
    for lines, what in ((unknown, "are no items that the model knows, and are left out"), (twice, "are named before")):
        if lines:
            print(f"{len(lines):,} of the {len(candidates):,} candidates {what}{name_lines(lines[:3], len(lines))}")


def _print_summary(totals: Totals, recommender: Recommender, output: Path, when: bool) -> None:
    print(
        f"{counted(totals.rows, 'row')} of {counted(totals.kept, 'user')} in {output}; "
        f"{counted(totals.users, 'history')} read"
    )
    for line in totals.notes:
        print(line)
    if totals.by_popularity:
        print(f"{counted(totals.by_popularity, 'user', 'are')} answered by popularity: the model has nothing to go by")
    if totals.short:
        print(describe_short(totals.short))
    if totals.without_window:
        print(f"{counted(totals.without_window, 'user', 'are')} left out by --between: no known item says when")
    if when and recommender.window is not None:
        print(recommender.window.describe())
    elif when:
        print("how good the windows are was not measured: this run has no when.json, and they show only how finely the "
              "model tells days apart")  # fmt: skip
