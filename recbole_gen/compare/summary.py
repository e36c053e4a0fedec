"""The comparison itself: reads folders of runs, refuses those that do not answer the same question, tests the rest."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from recbole.evaluator.register import metrics_dict

from recbole_gen.config.registry import MODELS
from recbole_gen.data.held_out import KINDS as SET_SPLITS
from recbole_gen.errors import UserError
from recbole_gen.evaluation import significance
from recbole_gen.evaluation.diagnostics import length_groups

SAME = (
    "dataset", "protocol", "metrics", "topk", "valid_metric", "eval_args", "benchmark_filename", "mask_history",
    "positives", "targets", "empty_history", "sequence_order", "last_events", "period_start", "least_history",
    "least_future", "val_interval", "user_inter_num_interval", "item_inter_num_interval",
    "filter_inter_by_user_or_item", "rm_dup_inter",
)  # fmt: skip
"""Keys of a run that decide what is ranked, for whom, and how that is measured."""
OWN = (
    "seed", "checkpoint_dir", "data_path", "state", "show_progress", "num_threads", "worker", "nproc", "gpu_id",
    "use_gpu", "tensorboard", "diagnostics", "group_metrics", "save_ranks", "eval_batch_size", "log_wandb",
    "wandb_project",
)  # fmt: skip
"""Keys in which the runs of one contender may differ without being of different configurations."""
COSTS = {
    "parameters": "parameters",
    "epochs": "epochs",
    "train_seconds": "training (s)",
    "users_per_second": "users scored per second",
    "peak_memory_mib": "peak memory (MiB)",
}


@dataclass(frozen=True)
class Spread:
    """A metric over the seeds: mean, standard deviation (ddof=1; None with one seed), and the values themselves."""

    mean: float
    sd: float | None
    values: tuple[float, ...]


@dataclass(frozen=True)
class Against:
    """A metric's difference to the baseline, its 95 % interval, p, and p after Holm's correction over the models."""

    difference: float
    low: float
    high: float
    p: float
    p_holm: float


@dataclass(frozen=True)
class Group:
    """Test rows by the length of the user's history, from ``least`` to ``most`` interactions."""

    name: str
    rows: int
    least: int
    most: int


@dataclass(frozen=True)
class Standing:
    """One contender.

    Attributes:
        label, model: its name here, and the model's.
        seeds: those of its runs, in ascending order; what follows is in this order, or a mean over them.
        test, valid: metric -> its spread over the seeds.
        intervals: metric -> 95 % bootstrap interval over users of the mean.
        against: metric -> comparison with the baseline; empty for the baseline itself.
        costs: parameters, epochs, seconds of training, users (test rows) scored per second, MiB of the process.
        diagnostics: the numbers of the runs' diagnostics by their path, such as lists.distinct_items.
        by_length: name of a history-length group -> the main metric.
        by_seed: seed -> all numbers of that run, as (part, metric) -> value.
    """

    label: str
    model: str
    seeds: tuple[int, ...]
    test: dict[str, Spread]
    valid: dict[str, Spread]
    intervals: dict[str, tuple[float, float]]
    against: dict[str, Against]
    costs: dict[str, float | None]
    diagnostics: dict[str, float]
    by_length: dict[str, float]
    by_seed: dict[int, dict[tuple[str, str], float]]


@dataclass(frozen=True)
class Summary:
    """All contenders, the best one by the main metric first.

    Attributes:
        metrics: those compared, the main one first.
        valid_metric: the one that chose the epochs, as in best_valid_result.
        baseline, baseline_reason: the label compared against, and why it is.
        groups: users by history length; empty if they cannot be told apart (`notes` says why).
        notes: what a reader has to know to not misread the numbers.
        facts: data set, protocol, versions and such, as (title, text).
        left_out, failed: label -> reason.
    """

    dataset: str
    protocol: str
    metrics: list[str]
    valid_metric: str
    baseline: str
    baseline_reason: str
    test: str
    resamples: int
    users: int
    rows: int
    standings: list[Standing]
    groups: list[Group]
    groups_of: str
    notes: list[str]
    facts: list[tuple[str, str]]
    left_out: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def main(self) -> str:
        """The metric that models are sorted and drawn by."""
        return self.metrics[0]


@dataclass(frozen=True)
class _Run:
    folder: Path
    result: dict[str, Any]

    @property
    def config(self) -> dict[str, Any]:
        return self.result["config"]

    @property
    def seed(self) -> int:
        return self.result["seed"]


def summarise(
    contenders: Mapping[str, Sequence[Path]],
    baseline: str | None = None,
    test: str = "t",
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 2020,
    left_out: dict[str, str] | None = None,
    failed: dict[str, str] | None = None,
) -> Summary:
    """Compare finished runs.

    Args:
        contenders: label, usually the model's name -> folders of its runs, one a seed.
        baseline: label that the others are compared with. By default the RecBole model with the best mean validation
            score (never chosen by a test score), Pop only if there is no other; without one the first label.
        test: ``t`` or ``wilcoxon``, see `significance.paired_test`. Holm's correction is over all comparisons of one
            metric: two metrics are two families.
        metrics: names such as ndcg@10, the main one first. By default the runs' valid_metric, then all others of the
            test result that have a value for each user.
        resamples, seed: of the bootstrap over users, see `significance.bootstrap`.
        left_out, failed: label -> why it is not among the contenders; only shown.

    Raises UserError for folders without a finished, tested run of this version, for runs that do not answer the same
    question (it names the two and the key), and for bad arguments.
    """
    check(test, resamples)
    if not contenders or not all(contenders.values()):
        raise UserError("there is nothing to compare: each contender needs the folder of at least one finished run")
    runs = {label: _runs(label, folders) for label, folders in contenders.items()}
    _require_same_question([run for own in runs.values() for run in own])
    chosen, reason = _baseline(runs, baseline)
    names = _metrics(next(iter(runs.values()))[0], metrics)

    base = _per_user(runs[chosen], names)
    main = {chosen: base.values[names[0]]}
    histories = {chosen: base.history}
    intervals = {chosen: _intervals(base, resamples, seed)}
    differences: dict[str, dict[str, Against]] = {}
    for label in (label for label in runs if label != chosen):
        own = _per_user(runs[label], names)
        significance.require_same_test(base, own, (_name(runs[chosen][0]), _name(runs[label][0])))
        main[label], histories[label] = own.values[names[0]], own.history
        intervals[label], differences[label] = _against(own, base, test, resamples, seed)
    against = {chosen: {}, **_corrected(differences, names)}
    lengths = _own_groups(runs, names[0]) or _groups_by_reading(runs, main, histories, base.rows)
    standings = [
        _standing(label, own, intervals[label], against[label], lengths.values.get(label, {}))
        for label, own in runs.items()
    ]
    standings.sort(key=lambda standing: (-standing.test[names[0]].mean, standing.label))
    first = next(iter(runs.values()))[0]
    valid_metric = str(first.result["valid_metric"]).lower()
    return Summary(
        first.result["dataset"], first.result["protocol"], names, valid_metric, chosen, reason, test, resamples,
        len(base.users), int(base.rows.sum()), standings, lengths.groups, lengths.of,
        [*_notes(runs, base), *lengths.notes], _facts(runs), dict(left_out or {}), dict(failed or {}),
    )  # fmt: skip


def check(test: str, resamples: int) -> None:
    """Raise UserError for what `summarise` would refuse, before the runs that it is to compare are made."""
    if test not in significance.TESTS:
        raise UserError(f"there is no test '{test}'; there are: {', '.join(significance.TESTS)}")
    if isinstance(resamples, bool) or not isinstance(resamples, int) or resamples < 100:
        raise UserError(f"resamples must be a whole number of at least 100, got {resamples!r}")


def title(metric: str) -> str:
    """NDCG@10 for ndcg@10; names that are not RecBole's stay as they are."""
    name, at, k = metric.partition("@")
    return f"{metrics_dict[name].__name__}{at}{k}" if name in metrics_dict else metric


# Reading


def _runs(label: str, folders: Sequence[Path]) -> list[_Run]:
    """The runs of one contender by seed. Raises UserError if they are not of one model, or a seed comes twice."""
    runs = sorted((_read(Path(folder)) for folder in folders), key=lambda run: run.seed)
    for one, other in pairwise(runs):
        if one.seed == other.seed:
            raise UserError(f"{label} has two runs with seed {one.seed}, {one.folder} and {other.folder}: give one")
        if one.config["model"] != other.config["model"]:
            raise UserError(f"{label} has runs of two models, {one.config['model']} and {other.config['model']}")
    return runs


def _read(folder: Path) -> _Run:
    path = folder / "result.json"
    try:
        result = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{folder} holds no finished run: there is no result.json in it") from None
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read ({error}): run it again") from None
    if not isinstance(result, dict) or not isinstance(result.get("config"), dict):
        raise UserError(f"{path} is not the result of a run")
    if not result.get("test_result"):
        raise UserError(f"{folder} has no test result: only tested runs can be compared")
    if not result.get("scoring"):
        raise UserError(f"{path} was written by an older version, which measured no scoring times: run it again")
    return _Run(folder, result)


def _name(run: _Run) -> str:
    return f"{run.config['model']} with seed {run.seed} ({run.folder})"


def _require_same_question(runs: Sequence[_Run]) -> None:
    first = runs[0]
    for run in runs[1:]:
        for key in SAME:
            mine, theirs = _comparable(first.config, key), _comparable(run.config, key)
            if mine != theirs:
                raise UserError(
                    f"{_name(first)} and {_name(run)} cannot be compared: {key} is {mine!r} and {theirs!r}. Run both "
                    f"with the same {key}"
                )
        given = [each.config.get("mask_seen") for each in (first, run)]
        if _masks(first.config) != _masks(run.config) and given != [None, None]:
            raise UserError(
                f"{_name(first)} and {_name(run)} cannot be compared: mask_seen is {given[0]!r} and {given[1]!r}. Run "
                f"both with the same mask_seen"
            )


def _comparable(config: dict[str, Any], key: str) -> Any:
    """A setting in a form that is equal for equal meanings: metrics in any order and case, one cut-off or a list."""
    value = config.get(key)
    if key in ("metrics", "topk"):
        return sorted(str(each).lower() for each in (value if isinstance(value, list) else [value]))
    return str(value).lower() if key == "valid_metric" else value


def _masks(config: dict[str, Any]) -> bool:
    """Whether what a user has seen leaves the ranking; by default it does for general models, as in RecBole, unless the
    protocol predicts sets."""
    split = (config.get("eval_args") or {}).get("split") or {}
    if not config.get("benchmark_filename") and set(split) & set(SET_SPLITS):
        return bool(config.get("mask_history") or config.get("mask_seen"))
    if config.get("mask_seen") is not None:
        return bool(config["mask_seen"])
    return not config.get("repeatable")


def _baseline(runs: dict[str, list[_Run]], given: str | None) -> tuple[str, str]:
    """Label of the baseline, and why it is."""
    if given is not None:
        if given not in runs:
            raise UserError(f"the baseline {given} is not among the contenders: {', '.join(runs)}")
        return given, "as asked for"
    models = {label: own[0].config["model"] for label, own in runs.items()}
    theirs = [label for label, model in models.items() if model not in MODELS and ":" not in model]
    theirs = [label for label in theirs if models[label].removeprefix("recbole.") != "Pop"] or theirs
    if not theirs:
        return next(iter(runs)), "the first, since there is no model of RecBole"
    scores = {label: [run.result["best_valid_score"] for run in runs[label]] for label in theirs}
    if any(score is None for own in scores.values() for score in own):
        return theirs[0], "the first model of RecBole; there are no validation scores to choose by"
    metric = title(str(runs[theirs[0]][0].result["valid_metric"]).lower())
    best = max(theirs, key=lambda label: float(np.mean(scores[label])))
    return best, f"the model of RecBole with the best mean validation {metric}"


def _metrics(run: _Run, given: Sequence[str] | None) -> list[str]:
    reported = list(run.result["test_result"])
    if given:
        names = list(dict.fromkeys(str(name).lower() for name in given))
        for name in names:
            if name not in significance.per_row(reported):
                known = ", ".join(significance.per_row(reported)) or "none"
                raise UserError(f"the runs have no {name} of each user; there are: {known}")
        return names
    names = significance.per_row(reported)
    if not names:
        raise UserError(f"none of the metrics {', '.join(reported)} has a value for each user: run with NDCG, say")
    valid = str(run.result["valid_metric"]).lower()
    wanted = valid if valid in names else valid.rpartition("_")[2]  # period_recall@5 has no value for each user
    return sorted(names, key=lambda name: name != wanted)  # a stable sort: the others keep their order


def _per_user(runs: Sequence[_Run], metrics: Sequence[str]) -> significance.PerUser:
    return significance.average([significance.read(run.folder, run.result, metrics) for run in runs])


# Statistics


def _intervals(own: significance.PerUser, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    means = significance.bootstrap(np.stack(list(own.values.values())), own.rows, resamples, seed)
    return {name: significance.interval(line) for name, line in zip(own.values, means)}


def _against(own, base, test: str, resamples: int, seed: int) -> tuple[dict, dict[str, Against]]:
    """Intervals of a model's means, and its differences to the baseline, whose p is not corrected yet."""
    names = list(own.values)
    both = np.stack([*own.values.values(), *(base.values[name] for name in names)])
    means = significance.bootstrap(both, own.rows, resamples, seed)
    intervals, differences = {}, {}
    for name, mine, theirs in zip(names, means, means[len(names) :]):
        intervals[name] = significance.interval(mine)
        p = significance.paired_test(own.values[name], base.values[name], test)
        differences[name] = Against(own.mean(name) - base.mean(name), *significance.interval(mine - theirs), p, p)
    return intervals, differences


def _corrected(differences: dict[str, dict[str, Against]], metrics: Sequence[str]) -> dict[str, dict[str, Against]]:
    """The differences with Holm's correction over the labels, each metric a family of its own."""
    out: dict[str, dict[str, Against]] = {label: {} for label in differences}
    for name in metrics:
        found = [own[name] for own in differences.values()]
        for label, each, p in zip(out, found, significance.holm([each.p for each in found])):
            out[label][name] = replace(each, p_holm=p)
    return out


def _spreads(results: Sequence[dict[str, float] | None]) -> dict[str, Spread]:
    """Of each metric that all runs have."""
    if not all(results):
        return {}
    shared = [name for name in results[0] or {} if all(name in (result or {}) for result in results)]
    out = {}
    for name in shared:
        values = tuple(float(result[name]) for result in results if result)
        out[name] = Spread(float(np.mean(values)), float(np.std(values, ddof=1)) if len(values) > 1 else None, values)
    return out


def _standing(label: str, runs: Sequence[_Run], intervals, against, by_length) -> Standing:
    by_seed = {run.seed: dict(_numbers(run)) for run in runs}

    def mean_of(part: str) -> dict[str, float]:
        """Of the numbers that all seeds have."""
        every = list(by_seed.values())
        names = [key for key in every[0] if key[0] == part and all(key in one for one in every)]
        return {key[1]: float(np.mean([one[key] for one in every])) for key in names}

    costs = mean_of("cost")
    return Standing(
        label,
        str(runs[0].config["model"]),
        tuple(by_seed),
        _spreads([run.result["test_result"] for run in runs]),
        _spreads([run.result["best_valid_result"] for run in runs]),
        intervals,
        against,
        {name: costs.get(name) for name in COSTS},
        mean_of("diagnostics"),
        by_length,
        by_seed,
    )


def _numbers(run: _Run) -> Iterator[tuple[tuple[str, str], float]]:
    """All numbers of a run that tables show, as ((part, name), value)."""
    result, scoring = run.result, run.result["scoring"]
    for part, values in (("valid", result["best_valid_result"]), ("test", result["test_result"])):
        yield from (((part, name), float(value)) for name, value in (values or {}).items())
    costs = {
        "parameters": result["parameters"],
        "epochs": result["epochs"],
        "train_seconds": result["seconds"]["train"],
        "users_per_second": scoring["rows"] / scoring["seconds"] if scoring["seconds"] else None,
        "peak_memory_mib": (result["peak_memory_mib"] or {}).get("process"),
    }
    yield from ((("cost", name), float(value)) for name, value in costs.items() if value is not None)
    yield from ((("diagnostics", name), value) for name, value in _flat(result["diagnostics"] or {}))


def _flat(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by their path: lists.distinct_items."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{path}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{path}{key}", float(value)


@dataclass(frozen=True)
class _Lengths:
    """Groups by history length, what the length is of, label -> group -> main metric, and what there is to know."""

    groups: list[Group]
    of: str = ""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def _own_groups(runs: dict[str, list[_Run]], metric: str) -> _Lengths | None:
    """The runs' own groups, by all that a user did before (group_metrics: length); None unless all have some."""
    found = {
        label: [(run.result["diagnostics"] or {}).get("groups") or {} for run in own] for label, own in runs.items()
    }
    shapes = [
        {name: (group["rows"], group["history"]) for name, group in groups.items()}
        for own in found.values()
        for groups in own
    ]
    if not all(shapes):
        return None
    if any(shape != shapes[0] for shape in shapes):
        return _Lengths(
            [], notes=["The seed draws who is tested, so that there are no common groups by history length."]
        )
    if len(shapes[0]) < 2:
        length = next(iter(shapes[0].values()))[1][0]
        return _Lengths([], notes=[f"All test rows have {length} interactions before: no groups by history length."])
    values = {
        label: {name: float(np.mean([groups[name][metric] for groups in own])) for name in shapes[0]}
        for label, own in found.items()
    }
    groups = [Group(name, rows, int(least), int(most)) for name, (rows, (least, most)) in shapes[0].items()]
    return _Lengths(groups, "interactions before the test", values)


def _groups_by_reading(runs: dict[str, list[_Run]], main, histories, rows: np.ndarray) -> _Lengths:
    """Groups of users by the length of what a model has read, which MAX_ITEM_LIST_LENGTH cuts.

    main, histories: label -> [n] of each user; the lengths are those of the model that has read most.
    """
    advice = "run with --group_metrics=length for groups by all that a user did before"
    known = {label: history for label, history in histories.items() if history is not None}
    if not known:
        return _Lengths([], notes=[f"No run tells how long its users' histories are: {advice}."])
    longest = max(known, key=lambda label: float(known[label].max()))
    sizes, limit = known[longest], runs[longest][0].config.get("MAX_ITEM_LIST_LENGTH")
    chosen = {name: who.numpy() for name, who in length_groups(torch.from_numpy(sizes)).items() if who.any()}
    cut = f"at most MAX_ITEM_LIST_LENGTH = {limit} interactions are read" if limit and sizes.max() >= limit else ""
    if len(chosen) < 2:
        why = f"{cut}, and most users have more" if cut else f"all have {sizes.max():g} interactions"
        return _Lengths([], notes=[f"Users cannot be grouped by history length: {why}; {advice}."])
    groups = [
        Group(name, int(rows[who].sum()), int(sizes[who].min()), int(sizes[who].max())) for name, who in chosen.items()
    ]
    values = {
        label: {name: float(own[who] @ rows[who] / rows[who].sum()) for name, who in chosen.items()}
        for label, own in main.items()
    }
    notes = (
        [f"In the groups by history length, {cut}, and longer histories are not told apart: {advice}."] if cut else []
    )
    return _Lengths(groups, "interactions read", values, notes)


def _notes(runs: dict[str, list[_Run]], base: significance.PerUser) -> list[str]:
    notes = []
    for label, own in runs.items():
        keys = sorted({key for run in own for key in run.config} - set(OWN))
        differing = [key for key in keys if any(run.config.get(key) != own[0].config.get(key) for run in own[1:])]
        if differing:
            notes.append(f"The runs of {label} differ in more than their seed, in {', '.join(differing)}.")
    if len({len(own) for own in runs.values()}) > 1:
        notes.append("Not all have the same number of seeds: means over more seeds vary less.")
    masks = {label: _masks(own[0].config) for label, own in runs.items()}
    if len(set(masks.values())) > 1:
        those, others = ([label for label, value in masks.items() if value is wanted] for wanted in (True, False))
        notes.append(
            f"What a user has seen before is left out of the rankings of {', '.join(those)}, and not of those of "
            f"{', '.join(others)}: give all runs --mask_seen=true or false for a fair comparison."
        )
    if base.rows.max() > 1:
        notes.append(
            f"Users have {base.rows.min()} to {base.rows.max()} test rows each: metrics and intervals count all rows "
            f"alike, the test counts all users alike."
        )
    where = {(run.result["device"], run.result.get("threads")) for own in runs.values() for run in own}
    if len(where) > 1:
        notes.append("The runs were on different devices or numbers of threads: their times cannot be compared.")
    return notes


def _facts(runs: dict[str, list[_Run]]) -> list[tuple[str, str]]:
    every = [run for own in runs.values() for run in own]
    where = sorted({f"{run.result['device']} (threads: {run.result.get('threads')})" for run in every})
    versions = sorted({f"{name} {number}" for run in every for name, number in run.result["versions"].items()})
    masks = {_masks(run.config) for run in every}
    ranked = "all items but what the user had before" if masks == {True} else "all items"
    by_history = any(run.config.get("mask_history") for run in every)  # what it takes out is a matter of each model
    told = masks == {True} or (masks == {False} and not by_history)
    facts = [("Ranked", ranked)] if told else []
    facts += [("Device", ", ".join(where)), ("Versions", ", ".join(versions))]
    commits = sorted({run.result["git_commit"] for run in every if run.result.get("git_commit")})
    dates = sorted({date for date in map(_date, every) if date})
    if commits:
        facts.append(("Commit", ", ".join(commits)))
    if dates:
        facts.append(("Run on", " to ".join(dict.fromkeys([dates[0], dates[-1]]))))
    return facts


def _date(run: _Run) -> str | None:
    """The day of the run, by the first line of its log, or its folder's name."""
    first = ""
    with contextlib.suppress(OSError), (run.folder / "run.log").open(encoding="utf-8", errors="replace") as log:
        first = log.readline(100)
    found = re.match(r"\d{4}-\d\d-\d\d", first) or re.search(r"\d{4}-\d\d-\d\d", run.folder.name)
    return found.group() if found else None
