"""What a reader of a comparison has to know to not misread its numbers, and where the runs were made."""

from __future__ import annotations

import contextlib
import re

from recbole_gen.compare.finished_runs import BEFORE, FinishedRun, masks_seen_items
from recbole_gen.evaluation import significance

KEYS_OF_A_SINGLE_RUN = (
    "seed", "resume", "checkpoint_dir", "data_path", "state", "show_progress", "num_threads", "worker", "nproc",
    "gpu_id", "use_gpu", "tensorboard", "diagnostics", "group_metrics", "save_ranks", "eval_batch_size", "log_wandb",
    "wandb_project",
)  # fmt: skip
"""Keys in which the runs of one contender may differ without being of different configurations."""


def reading_notes(runs: dict[str, list[FinishedRun]], base: significance.PerUser) -> list[str]:
    """What differs between the runs that a reader would take for equal."""
    notes = []
    for label, own in runs.items():
        keys = sorted({key for run in own for key in run.config} - set(KEYS_OF_A_SINGLE_RUN))
        settings = [{**BEFORE, **run.config} for run in own]
        differing = [key for key in keys if any(each.get(key) != settings[0].get(key) for each in settings[1:])]
        if differing:
            notes.append(f"The runs of {label} differ in more than their seed, in {', '.join(differing)}.")
    if len({len(own) for own in runs.values()}) > 1:
        notes.append("Not all have the same number of seeds: means over more seeds vary less.")
    masks = {label: masks_seen_items(own[0].config) for label, own in runs.items()}
    if len(set(masks.values())) > 1:
        those, others = ([label for label, value in masks.items() if value is wanted] for wanted in (True, False))
        notes.append(
            f"What a user has seen before is left out of the rankings of {', '.join(those)}, and not of those of "
            f"{', '.join(others)}: give all runs --mask_seen=true or false for a fair comparison."
        )
    pairs: dict[str, list[str]] = {}
    for label, own in runs.items():
        kept = own[0].config.get("train_pairs")
        if kept and own[0].config.get("repeatable"):  # RecBole's word for a model of sequences
            pairs.setdefault(kept, []).append(label)
    if pairs:
        those_of = "; ".join(f"{kept} for {', '.join(sorted(labels))}" for kept, labels in sorted(pairs.items()))
        notes.append(f"Trained on (train_pairs): {those_of}.")
    if base.rows.max() > 1:
        least, most = base.rows.min(), base.rows.max()
        number = f"{most}" if least == most else f"{least} to {most}"
        notes.append(
            f"Users have {number} test rows each: metrics and intervals count all rows "
            f"alike, the test counts all users alike."
        )
    where = {(run.result["device"], run.result.get("threads")) for own in runs.values() for run in own}
    if len(where) > 1:
        notes.append("The runs were on different devices or numbers of threads: their times cannot be compared.")
    return notes


def run_facts(runs: dict[str, list[FinishedRun]]) -> list[tuple[str, str]]:
    """What was ranked, devices, versions, commits and days of the runs, as (title, text)."""
    every = [run for own in runs.values() for run in own]
    where = sorted({f"{run.result['device']} (threads: {run.result.get('threads')})" for run in every})
    versions = sorted({f"{name} {number}" for run in every for name, number in run.result["versions"].items()})
    masks = {masks_seen_items(run.config) for run in every}
    ranked = "all items but what the user had before" if masks == {True} else "all items"
    by_history = any(run.config.get("mask_history") for run in every)  # what it takes out is a matter of each model
    told = masks == {True} or (masks == {False} and not by_history)
    facts = [("Ranked", ranked)] if told else []
    facts += [("Device", ", ".join(where)), ("Versions", ", ".join(versions))]
    commits = sorted({run.result["git_commit"] for run in every if run.result.get("git_commit")})
    dates = sorted({date for date in map(_run_date, every) if date})
    if commits:
        facts.append(("Commit", ", ".join(commits)))
    if dates:
        facts.append(("Run on", " to ".join(dict.fromkeys([dates[0], dates[-1]]))))
    return facts


def _run_date(run: FinishedRun) -> str | None:
    """The day of the run, by the first line of its log, or its folder's name."""
    first = ""
    with contextlib.suppress(OSError), (run.folder / "run.log").open(encoding="utf-8", errors="replace") as log:
        first = log.readline(100)
    found = re.match(r"\d{4}-\d\d-\d\d", first) or re.search(r"\d{4}-\d\d-\d\d", run.folder.name)
    return found.group() if found else None
