"""The runs of a published setting and its baselines, by the machinery of `compare`, and what they say of the paper's
numbers."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen.compare.arguments import IGNORED_KEYS, PLACES, page_command
from recbole_gen.compare.finished_runs import read_runs
from recbole_gen.compare.notes import reading_notes
from recbole_gen.compare.output_files import write_files
from recbole_gen.compare.runs import Outcome, make_runs, summarise_outcome
from recbole_gen.compare.summary import Contender, Summary
from recbole_gen.compare.tables import difference_table
from recbole_gen.compare.tie_orders import tie_note
from recbole_gen.config.config import Config
from recbole_gen.evaluation import significance
from recbole_gen.files import write_json
from recbole_gen.reproduce.pages import write_documents, write_page
from recbole_gen.reproduce.results import Measured, ModelResult, Reproduction, write_result
from recbole_gen.reproduce.settings import Plan
from recbole_gen.reproduce.states import PLAN_FILE, result_file
from recbole_gen.reproduce.tables import terminal_text
from recbole_gen.training.result_text import BASELINES

KEYS_OF_COMPARISONS = ("seed", "mask_seen", "group_metrics", "paper", "model", "show_progress", "state", "nproc")
"""Keys in which a run of a comparison differs from a run of the setting by itself without another result."""


def run_reproduction(plan: Plan, asked: dict[str, Any], docs: Path | None, arguments: Sequence[str]) -> int:
    """Make the runs that are missing, print what they say beside the paper's numbers, and write the pages.

    Args:
        asked: the options of `reproduce`, checked, with those that `compare` needs.
        docs: where the pages go, None for the output folder alone.
        arguments: of the command line, which the pages show.

    Returns the exit code, 1 if a run has failed. Raises UserError before the first run, and Interrupted on Ctrl-C.
    """
    options = {**asked, "models": list(plan.files), "baseline": plan.label}
    report = partial(_report, plan=plan, asked=options, docs=docs, arguments=arguments)
    return make_runs(options, plan.values, plan.files, report, partial(_note_plan, plan))


def _note_plan(plan: Plan, outcome: Outcome) -> None:
    """Write down what is going to be run, for the list of all settings, and say what is not the published setting."""
    for label, why in plan.left_out.items():
        print(f"left out: {label}: {why}", flush=True)
    if changed := changed_settings(outcome, plan):
        print(f"not the published setting: {'; '.join(changed)}", flush=True)
    runs = [
        {"label": job.label, "seed": job.seed, "tie_seed": job.tie_seed, "folder": Path(job.folder).name}
        for job in outcome.jobs
    ]
    write_json(outcome.folder / PLAN_FILE, {"name": plan.name, "label": plan.label, "runs": runs})


def _report(outcome: Outcome, plan: Plan, asked: dict[str, Any], docs: Path | None, arguments: Sequence[str]) -> int:
    wanted = [metric.lower() for metric in plan.published.metrics]
    summary = summarise_outcome(outcome, asked, wanted)
    if summary is None:
        return 1
    command = page_command("reproduce", arguments)
    found = reproduction(outcome, summary, plan, bool(asked["quick"]), command)
    print("\n" + terminal_text(found))
    write_files(summary, outcome.folder, command)
    print(f"written: {outcome.folder / 'comparison.html'} and the other files of a comparison")
    write_result(found, result_file(outcome.folder, plan.name))
    if docs is None or found.is_quick:
        written = write_page(found, outcome.folder)
    else:
        written = write_documents(found, docs)
    for file in written:
        print(f"written: {file}")
    return 1 if outcome.failed else 0


def reproduction(outcome: Outcome, summary: Summary, plan: Plan, is_quick: bool, command: str) -> Reproduction:
    """What the finished runs of a comparison say of the paper's numbers."""
    published, folders = plan.published, outcome.finished()
    by_label = {contender.label: contender for contender in summary.contenders}
    models = [
        _model_result(by_label[label], folders[label], published.metrics) for label in plan.files if label in by_label
    ]
    own, (heads, lines) = by_label[plan.label], difference_table(summary, summary.metrics)
    have = {model.model.removeprefix("recbole.") for model in models}
    counted: dict[str, dict[str, float]] = {}
    for name in BASELINES:
        numbers = {metric: own.diagnostics.get(f"{name.lower()}.{metric.lower()}") for metric in published.metrics}
        if name not in have and any(value is not None for value in numbers.values()):
            counted[name] = {metric: value for metric, value in numbers.items() if value is not None}
    runs = {model.label: read_runs(model.label, folders[model.label]) for model in models}
    users = significance.read_per_user(runs[plan.label][0].folder, runs[plan.label][0].result)
    notes = [*reading_notes(runs, users), *([tie_note(summary)] if summary.tie_seeds else [])]
    return Reproduction(
        plan.name,
        plan.label,
        published.paper,
        published.table,
        published.decimals,
        summary.dataset,
        summary.protocol,
        summary.users,
        summary.rows,
        list(published.metrics),
        published.rows,
        published.sd,
        models,
        counted,
        changed_settings(outcome, plan),
        published.about,
        notes,
        [list(fact) for fact in summary.facts],
        command,
        is_quick,
        {**plan.left_out, **outcome.left_out},
        dict(outcome.failed),
        [heads, *lines] if lines else [],
    )


def _model_result(contender: Contender, folders: Sequence[Path], metrics: Sequence[str]) -> ModelResult:
    """The numbers of a model, with the standard errors that its runs' ranks give."""
    errors: dict[str, list[float]] = {metric: [] for metric in metrics}
    for run in read_runs(contender.label, folders):
        users = significance.read_per_user(run.folder, run.result, [metric.lower() for metric in metrics])
        for metric in metrics:
            errors[metric].append(users_error(users.values[metric.lower()], users.rows))
    measured = {}
    for metric in metrics:
        spread = contender.test[metric.lower()]
        error = float(np.sqrt(np.mean(np.square(errors[metric]))))
        ties = contender.over_ties.get(metric.lower())
        measured[metric] = Measured(spread.mean, spread.sd, error, list(spread.values), ties.sd if ties else None)
    costs = contender.costs
    return ModelResult(
        contender.label,
        contender.model,
        list(contender.seeds),
        measured,
        costs["parameters"],
        costs["epochs"],
        costs["train_seconds"],
    )


def users_error(values: np.ndarray, rows: np.ndarray) -> float:
    """The standard error of a metric over users drawn anew.

    Args:
        values: [n] the mean of the metric over each user's rows.
        rows: [n] how many rows each user has. With one each this is the standard deviation of the values divided by the
            square root of n.
    """
    n, mean = len(values), float(values @ rows / rows.sum())
    if n < 2:
        return 0.0
    return float(np.sqrt(np.sum(np.square(rows * (values - mean))) * n / (n - 1)) / rows.sum())


def _without_folders(key: str, value: Any) -> Any:
    """A value as a page shows it: of a place of this machine its last name alone."""
    return Path(value).name if key in PLACES and value else value


def changed_settings(outcome: Outcome, plan: Plan) -> list[str]:
    """In what the runs of the setting's model differ from the published setting, a line a key."""
    job = next(job for job in outcome.jobs if job.label == plan.label)
    where: dict[str, Any] = {key: job.values[key] for key in ("data_path", "use_gpu") if key in job.values}
    mine, theirs = job.settings, Config(config_dict={"paper": plan.published.same_as or plan.name, **where}).settings()
    ignored = {*IGNORED_KEYS, *KEYS_OF_COMPARISONS}
    keys = [key for key in sorted(mine.keys() | theirs.keys()) if key not in ignored]
    shown = {key: [_without_folders(key, each.get(key)) for each in (mine, theirs)] for key in keys}
    lines = [f"{key} {own} instead of {other}" for key, (own, other) in shown.items() if own != other]
    if job.settings.get("mask_seen"):
        lines.append(f"mask_seen {job.settings['mask_seen']}: what a user had before is not ranked")
    return lines
