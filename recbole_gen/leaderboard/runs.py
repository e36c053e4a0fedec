"""A leaderboard from its searches to its page."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from recbole_gen.compare import tables
from recbole_gen.compare.arguments import file_name, page_command
from recbole_gen.compare.finished_runs import FinishedRun, read_run
from recbole_gen.compare.jobs import choose_seeds, plan_jobs, shared_values
from recbole_gen.compare.output_files import write_files
from recbole_gen.compare.runs import Outcome, make_runs, summarise_outcome
from recbole_gen.compare.summary import Contender, Summary, metric_title
from recbole_gen.compare.tie_orders import tie_note
from recbole_gen.config.layers import Source
from recbole_gen.errors import UserError
from recbole_gen.files import lock_folder, replaced_file
from recbole_gen.leaderboard import pages
from recbole_gen.leaderboard.results import ALIKE, BETTER, WORSE, Board, Entry, Score, Tuning
from recbole_gen.leaderboard.spaces import models_of_labels
from recbole_gen.leaderboard.tuning import Search, plan_searches, run_searches, winner_file, write_winner


def run_leaderboard(asked: dict[str, Any], values: dict[str, Any], docs: Path | None, arguments: Sequence[str]) -> int:
    """Make the trials and runs that are missing, print what they say, and write the page.

    Args:
        asked: the options of `leaderboard`, checked, with those of its searches (``tune``).
        values: keys of `run`, for all models.
        docs: where the page goes, in a folder of its own; None for the output folder alone.
        arguments: of the command line, which the page shows.

    Returns the exit code, 1 if a search or a run has failed. Raises UserError before the first trial, or if no model
    has a winner, and Interrupted on Ctrl-C.
    """
    folder = asked["output"]
    files: dict[str, list[Source]] = {label: [str(file)] for label, file in asked["model_configs"].items()}
    models = models_of_labels(values, {label: files.get(label, []) for label in asked["models"]})
    common = shared_values(values)
    _require_own_folder(folder)
    if docs is not None:
        pages.require_place(docs / asked["name"])
    jobs, left_out = plan_jobs(asked["models"], choose_seeds(1, common), values, files, folder / "comparison")
    if asked["baseline"] in left_out:
        raise UserError(f"the baseline {asked['baseline']} cannot run here: {left_out[asked['baseline']]}")
    searches = plan_searches(
        jobs, models, files, asked["spaces"], values, asked["tune"], folder, published=asked["winners"]
    )
    with lock_folder(folder, "leaderboard"):
        for label, reason in left_out.items():
            print(f"left out: {label}: {reason}", flush=True)
        failed = run_searches(searches, asked["address"])
        searches = [search for search in searches if search.label not in failed]
        if not searches or asked["baseline"] in failed:
            raise UserError("\n".join(failed.values()))
        found = {search.label: write_winner(search, folder) for search in searches}
        winners: dict[str, list[Source]] = {label: [str(winner_file(folder, label))] for label in found}
        compared = {**asked, "models": list(found), "output": folder / "comparison"}
        report = partial(
            _report, asked=compared, searches=searches, found=found, docs=docs, arguments=arguments,
            left_out=left_out, failed=failed,
        )  # fmt: skip
        print(f"\nthe winners are in {folder / 'models'}; now they are compared", flush=True)
        return make_runs(compared, values, winners, report)


def _require_own_folder(folder: Path) -> None:
    """Raise UserError if something else lies there."""
    others = {path.name for path in folder.iterdir()} - {".lock"} if folder.is_dir() else set()
    if others and not others & {"sweeps", "models"}:
        raise UserError(f"{folder} is no empty folder, and no leaderboard lies in it: name another --output")


def _report(
    outcome: Outcome,
    asked: dict[str, Any],
    searches: Sequence[Search],
    found: dict[str, Tuning],
    docs: Path | None,
    arguments: Sequence[str],
    left_out: dict[str, str],
    failed: dict[str, str],
) -> int:
    lost = {**failed, **outcome.failed}
    lost = {label: reason.replace(f"{outcome.folder.parent}/", "") for label, reason in lost.items()}  # for others, too
    outcome = replace(outcome, left_out={**left_out, **outcome.left_out}, failed=lost)
    summary = summarise_outcome(outcome, asked)
    if summary is None:
        return 1
    print("\n" + tables.terminal_text(summary))
    folder, command = outcome.folder.parent, page_command("leaderboard", arguments)
    board = make_board(summary, outcome, {search.label: search for search in searches}, found, asked, command)
    place = docs / board.name if docs else folder / "page"
    written = write_files(summary, place, command)
    written += _copy_settings(searches, folder, place)
    written += pages.write_documents(board, place, docs)
    print(f"written: {place / pages.PAGE}, and what it links to, in {place} ({len(written)} files)")
    for file in written:
        if file.parent == docs:
            print(f"written: {file}")
    return 1 if outcome.failed else 0


def _copy_settings(searches: Sequence[Search], folder: Path, place: Path) -> list[Path]:
    """The winners and the search spaces, for a page."""
    copies = {winner_file(folder, search.label): winner_file(place, search.label) for search in searches}
    for search in searches:
        if search.space_file is not None:
            copies[search.space_file] = place / "spaces" / f"{file_name(search.label)}.yaml"
    for source, target in copies.items():
        if target.exists() and source.samefile(target):
            continue  # the page of the winners is written anew
        with replaced_file(target) as temporary:
            shutil.copyfile(source, temporary)
    return list(copies.values())


def make_board(
    summary: Summary,
    outcome: Outcome,
    searches: dict[str, Search],
    found: dict[str, Tuning],
    asked: dict[str, Any],
    command: str,
) -> Board:
    """What searches and runs have found, as the page's plain data."""
    by_seed, by_ties = outcome.finished(), outcome.finished(over_ties=True)
    entries = []
    for contender in summary.contenders:
        label = contender.label
        runs = [read_run(folder) for folder in [*by_seed[label], *by_ties.get(label, [])]]
        entries.append(_entry(contender, summary, searches[label], found[label], runs))
    return Board(
        asked["name"],
        summary.dataset,
        summary.protocol,
        summary.users,
        summary.rows,
        [metric_title(metric) for metric in summary.metrics],
        metric_title(summary.valid_metric),
        summary.baseline,
        asked["num_samples"],
        asked["cpu_minutes"],
        asked["tune"]["searcher"],
        asked["tune"]["scheduler"],
        sorted({seed for contender in summary.contenders for seed in contender.seeds}),
        list(summary.tie_seeds),
        entries,
        [_legend_line(line) for line in tables.legend_lines(summary)],
        [*summary.notes, *([tie_note(summary)] if summary.tie_seeds else [])],
        [list(fact) for fact in summary.facts],
        command,
        asked["tune"]["defaults_first"],
        dict(summary.left_out),
        dict(summary.failed),
        asked["winners"].tuned_by if asked["winners"] else "",
    )


def _legend_line(line: str) -> str:
    """A line of a comparison's legend, for a table that has words in place of marks."""
    text = line.replace(tables.BOLD, "")
    return text.replace(f"{tables.MARK} differs", '"better" or "worse" differs', 1)


def _entry(contender: Contender, summary: Summary, search: Search, found: Tuning, runs: Sequence[FinishedRun]) -> Entry:
    cpu = [run.result["seconds"].get("train_cpu") for run in runs]
    valid, config = contender.valid.get(summary.valid_metric), runs[0].config
    return Entry(
        contender.label,
        contender.model,
        {key: value for key, value in search.own.items() if key != "model"},
        found,
        {metric_title(metric): _score(contender, metric) for metric in _shown_metrics(contender, summary)},
        None if valid is None else valid.mean,
        config.get("train_pairs") if config.get("repeatable") else None,  # RecBole's word for a model of sequences
        contender.costs["parameters"],
        contender.costs["epochs"],
        len(runs),
        None if any(seconds is None for seconds in cpu) else round(sum(cpu), 2),
    )


def _shown_metrics(contender: Contender, summary: Summary) -> list[str]:
    """Those that are compared, and the one that chose epochs and settings, if it has no value for each user to be
    compared by."""
    chosen_by = summary.valid_metric
    return [*summary.metrics, *([chosen_by] if chosen_by in contender.test.keys() - set(summary.metrics) else [])]


def _score(contender: Contender, metric: str) -> Score:
    spread, ties = contender.test[metric], contender.over_ties.get(metric)
    against = contender.differences.get(metric)
    score = Score(spread.mean, spread.sd, ties.sd if ties else None)
    if against is None:
        return score
    verdict = ALIKE
    if against.is_one(tables.LEVEL):
        verdict = BETTER if against.difference > 0 else WORSE
    return replace(score, difference=against.difference, p=against.p_holm, verdict=verdict)
