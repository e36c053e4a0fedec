"""The searches of a leaderboard, one a model, all with the same budget; and the winners that they find.

They lie in its folder: sweeps/LABEL is a sweep of `tune`, sweeps/LABEL.json what its trials' numbers depend on beside
the space, models/LABEL.yaml the winner.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from recbole_gen.compare.arguments import file_name
from recbole_gen.compare.jobs import Job
from recbole_gen.compare.runs import backup_folder, what_changed, with_effect
from recbole_gen.config.early_checks import keys_of_others
from recbole_gen.config.layers import Source
from recbole_gen.errors import UserError, counted
from recbole_gen.files import write_json, write_text
from recbole_gen.leaderboard.published import Published
from recbole_gen.leaderboard.results import Tuning
from recbole_gen.options import read_yaml
from recbole_gen.quick_start import Interrupted
from recbole_gen.sweep import budget, cluster, plan, state
from recbole_gen.sweep.command import NEWER, ON_RESUME
from recbole_gen.sweep.space import Space
from recbole_gen.sweep.space_file import read_space
from recbole_gen.sweep.state import Sweep
from recbole_gen.sweep.tune import NoScore, failure_reasons, run_sweep

GROWING = ("num_samples", "cpu_minutes")
"""Options of a sweep that goes on, and does not start anew, where they are larger now."""


@dataclass(frozen=True)
class Search:
    """The search for the settings of one model.

    Attributes:
        sweep: None for a model without a space, which runs as it is, and for one that has been tuned before.
        before: what was found then, and ``published_space`` what was searched, for a page that is there.
        bigger: whether a larger ``metric``, of validation, is better.
        facts: what the trials' numbers depend on beside the space, see `with_effect`.
    """

    label: str
    model: str
    own: dict[str, Any]
    sweep: Sweep | None
    facts: dict[str, Any]
    metric: str = ""
    bigger: bool = True
    before: Tuning | None = None
    published_space: Path | None = None

    @property
    def space_file(self) -> Path | None:
        """What was, or is to be, searched; None for nothing. Of a sweep it is there after it has begun."""
        return self.published_space if self.sweep is None else Path(self.sweep.folder) / "space.yaml"

    @property
    def facts_file(self) -> Path:
        """Beside the sweep's folder, which is empty before it starts."""
        assert self.sweep is not None
        return Path(f"{self.sweep.folder}.json")

    def is_over(self) -> bool:
        """Whether no trial is left that may run."""
        assert self.sweep is not None
        folder = Path(self.sweep.folder)
        if not (folder / "sweep.json").exists():
            return False
        trials = state.read_trials(folder)
        ended = sum(trial["status"] in state.ENDED for trial in trials)
        return ended >= self.sweep.num_trials() or budget.is_spent(self.sweep, trials)


def plan_searches(
    jobs: Sequence[Job],
    models: Mapping[str, str],
    files: Mapping[str, Sequence[Source]],
    spaces: Mapping[str, tuple[Path, Space]],
    values: dict[str, Any],
    options: dict[str, Any],
    folder: Path,
    published: Published | None = None,
) -> list[Search]:
    """A search for each label of ``jobs``, in their order, whose settings `run` accepts.

    Args:
        jobs: of the models as they are, of which settings and data are known.
        files: label -> settings of that model alone.
        values: keys of `run`, for all models that have them.
        options: those of `tune`, the same for all.
        folder: the leaderboard's.
        published: a leaderboard whose models have been tuned.

    Raises UserError, with the label, for a space that its model cannot have, and for one that was tuned otherwise.
    """
    first = {job.label: job for job in reversed(jobs)}
    labels = list(dict.fromkeys(job.label for job in jobs))
    not_theirs = keys_of_others(values, {label: files.get(label, ()) for label in labels})
    searches = []
    for label in labels:
        own_files = files.get(label, ())
        own = {key: value for file in own_files for key, value in read_yaml(Path(str(file))).items()}
        facts = with_effect(first[label].settings, first[label].data)
        entry = published.entry(label) if published else None
        if published and entry:
            space = spaces[label][1] if label in spaces else None
            published.require_same(label, models[label], own, space)
            if both := sorted(values.keys() & entry.tuning.params.keys()):
                raise UserError(f"{label}: {both[0]}: given for all models, and chosen for it: take one of the two out")
            file = published.space_file(label)
            space_file = file if file.exists() else None
            searches.append(
                Search(label, models[label], own, None, facts, before=entry.tuning, published_space=space_file)
            )
            continue
        if label not in spaces:
            searches.append(Search(label, models[label], own, None, facts))
            continue
        path, space = spaces[label]
        given = {key: value for key, value in values.items() if key not in not_theirs[label]}
        wanted = {**options, "space": str(path), "output": str(folder / "sweeps" / file_name(label))}
        try:
            sweep = plan.asked_sweep(wanted, given, space.without_grid(), own_files, model=label, mask_seen=False)
            points = plan.planned_points(sweep) if not _why_anew(sweep, facts) else []
            config, _ = plan.check_trials(sweep, points)
        except UserError as error:
            raise UserError(f"{label}: {error}") from None
        metric, bigger = config["valid_metric"], bool(config["valid_metric_bigger"])
        searches.append(Search(label, models[label], own, sweep, facts, metric, bigger))
    return searches


def _why_anew(sweep: Sweep, facts: dict[str, Any]) -> str:
    """Why the sweep in the folder cannot go on as this one; empty if it can, or there is none."""
    folder = Path(sweep.folder)
    if not folder.exists():
        return ""
    if not (folder / "sweep.json").exists():
        has_something = any(path.name != ".lock" for path in folder.iterdir())
        return "what is in the folder is no sweep" if has_something else ""
    try:
        stored = state.read_sweep(str(folder))
    except UserError:  # whose cure is for a folder with one sweep
        return "sweep.json in the folder, or the space beside it, is damaged"
    if stored.space != sweep.space:
        return "the search space has changed"
    for key, value in sweep.options.items():
        before = stored.options.get(key, NEWER.get(key))
        if key in GROWING:
            if (before is not None and value is not None and value < before) or (before is None and value is not None):
                return f"{key} was {before} and is {value}"
        elif key not in (*ON_RESUME, "space", "output", "resume") and value != before:
            return f"{key} was {before} and is {value}"
    return what_changed(Path(f"{folder}.json"), facts)


def run_searches(searches: Sequence[Search], address: str | None) -> dict[str, str]:
    """Make the trials that are missing; returns label -> why, of the models of which no trial has a score.

    Raises UserError for what stops them all, and Interrupted on Ctrl-C.
    """
    tuned = [search for search in searches if search.sweep is not None]
    for search in searches:
        if search.before is not None:
            print(f"{search.label} was tuned before, and has the settings of then", flush=True)
        elif search.sweep is None:
            print(f"{search.label} has no search space, and runs as it is (--spaces=FOLDER)", flush=True)
        elif why := _why_anew(search.sweep, search.facts):
            folder = Path(search.sweep.folder)
            kept = folder.rename(backup_folder(folder))
            print(f"{search.label}: {why}: it is tuned anew, and what was there is kept in {kept}", flush=True)
    missing = [search for search in tuned if not search.is_over()]
    if len(missing) < len(tuned):
        print(f"{counted(len(tuned), 'model')} to tune, {len(tuned) - len(missing)} of them tuned before", flush=True)
    failed = {search.label: _failure(search) for search in tuned if search not in missing and _best(search) is None}
    if missing:
        with cluster.connected_ray(address):
            for number, search in enumerate(missing, start=1):
                assert search.sweep is not None
                print(f"\n[{number}/{len(missing)}] tuning {search.label}", flush=True)
                write_json(search.facts_file, search.facts)
                try:
                    run_sweep(_with_own_space_file(search.sweep), tests_best=False)
                except NoScore:
                    failed[search.label] = _failure(search)
                    print(f"FAILED: {failed[search.label]}", flush=True)
                except Interrupted:
                    raise Interrupted("stopped by Ctrl-C; the same command goes on from here") from None
    return failed


def _with_own_space_file(sweep: Sweep) -> Sweep:
    """The sweep; where its file has a grid, with a file beside its folder that has none."""
    if read_space(sweep.space_file) == sweep.space:
        return sweep
    path = Path(f"{sweep.folder}.space.yaml")
    write_text(path, f"# {sweep.space_file}, with what is a grid there drawn\n{sweep.space.as_yaml()}")
    return replace(sweep, space_file=str(path))


def _best(search: Search) -> dict[str, Any] | None:
    assert search.sweep is not None
    return state.best_trial(state.read_trials(search.sweep.folder), search.bigger)


def _failure(search: Search) -> str:
    assert search.sweep is not None
    reasons = failure_reasons(state.read_trials(search.sweep.folder)).replace("\n", "; ")
    return (
        f"no trial of {search.label} came to a validation score ({reasons}). Another space or other settings start its "
        f"search anew; so does removing {search.sweep.folder}"
    )


def write_winner(search: Search, folder: Path) -> Tuning:
    """Write models/LABEL.yaml, the settings of the model's best trial with what it has of its own; returns what the
    search has found."""
    found = _tuning(search)
    chosen = {"model": search.model, **search.own, **found.params}
    text = f"# {winner_text(found)}\n" + yaml.safe_dump(chosen, sort_keys=False, width=1000)
    write_text(winner_file(folder, search.label), text)
    return found


def winner_file(folder: Path, label: str) -> Path:
    """Where the settings of a winner are, in the leaderboard's folder."""
    return folder / "models" / f"{file_name(label)}.yaml"


def winner_text(found: Tuning) -> str:
    """What there is to say of a winner, in one line."""
    if not found.trials:
        return "Not tuned: there is no search space for it."
    return (
        f"The best of {counted(found.wanted, 'trial')} by validation: trial {found.number}, {found.metric} "
        f"{found.score:.4f} in epoch {found.best_epoch}. CPU time of the trials: {found.cpu_seconds / 60:.2f} minutes."
    )


def _tuning(search: Search) -> Tuning:
    if search.before is not None:
        return search.before
    if search.sweep is None:
        return Tuning()
    trials, best = state.read_trials(search.sweep.folder), _best(search)
    assert best is not None
    counts: dict[str, int] = {}
    for trial in trials:
        counts[state.status_text(trial)] = counts.get(state.status_text(trial), 0) + 1
    return Tuning(
        {dimension.name: dimension.describe() for dimension in search.sweep.space.dimensions.values()},
        search.sweep.num_trials(),
        counts,
        best["number"],
        search.metric,
        best["score"],
        best["best_epoch"],
        json.loads(json.dumps(best["params"])),
        round(budget.cpu_seconds(trials), 2),
    )
