"""The comparison itself: finished runs that answer the same question, averaged over seeds and tested over users."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen.compare.arguments import require_test
from recbole_gen.compare.finished_runs import FinishedRun, describe_run, read_runs, require_comparable
from recbole_gen.compare.length_groups import groups_by_read_length, reported_groups
from recbole_gen.compare.notes import reading_notes, run_facts
from recbole_gen.compare.summary import COSTS, BaselineDifference, Contender, SeedStatistics, Summary, metric_title
from recbole_gen.compare.tie_orders import read_tie_orders, spreads, tie_seed_of, with_tie_spreads
from recbole_gen.config.registry import MODELS
from recbole_gen.errors import UserError
from recbole_gen.evaluation import significance


def summarise(
    contenders: Mapping[str, Sequence[Path]],
    baseline: str | None = None,
    test: str = "t",
    metrics: Sequence[str] | None = None,
    resamples: int = 2000,
    seed: int = 2020,
    left_out: dict[str, str] | None = None,
    failed: dict[str, str] | None = None,
    ties: Mapping[str, Sequence[Path]] | None = None,
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
        resamples, seed: of the bootstrap over users, see `significance.bootstrap_means`.
        left_out, failed: label -> why it is not among the contenders; only shown.
        ties: label -> folders of its runs over tie orders, see `tie_orders.read_tie_orders`.

    Raises UserError for folders without a finished, tested run of this version, for runs that do not answer the same
    question (it names the two and the key), and for bad arguments.
    """
    require_test(test, resamples)
    if not contenders or not all(contenders.values()):
        raise UserError("there is nothing to compare: each contender needs the folder of at least one finished run")
    runs = {label: read_runs(label, folders) for label, folders in contenders.items()}
    require_comparable([run for own in runs.values() for run in own])
    tied = read_tie_orders(ties or {}, runs)
    chosen, reason = _choose_baseline(runs, baseline)
    names = _choose_metrics(next(iter(runs.values()))[0], metrics)

    base = _average_over_seeds(runs[chosen], names)
    main = {chosen: base.values[names[0]]}
    histories = {chosen: base.history}
    intervals = {chosen: _bootstrap_intervals(base, resamples, seed)}
    differences: dict[str, dict[str, BaselineDifference]] = {}
    for label in (label for label in runs if label != chosen):
        own = _average_over_seeds(runs[label], names)
        significance.require_same_test_set(base, own, (describe_run(runs[chosen][0]), describe_run(runs[label][0])))
        main[label], histories[label] = own.values[names[0]], own.history
        intervals[label], differences[label] = _compare_with_baseline(own, base, test, resamples, seed)
    differences = {chosen: {}, **_holm_corrected(differences, names)}
    over_ties = {label: spreads(own) for label, own in tied.items()}
    if over_ties:
        differences = with_tie_spreads(differences, over_ties, chosen)
    lengths = reported_groups(runs, names[0]) or groups_by_read_length(runs, main, histories, base.rows)
    compared = [
        _contender(label, own, intervals[label], differences[label], lengths.values.get(label, {}))
        for label, own in runs.items()
    ]
    compared = [replace(contender, over_ties=over_ties.get(contender.label, {})) for contender in compared]
    compared.sort(key=lambda contender: (-contender.test[names[0]].mean, contender.label))
    first = next(iter(runs.values()))[0]
    valid_metric = str(first.result["valid_metric"]).lower()
    return Summary(
        first.result["dataset"], first.result["protocol"], names, valid_metric, chosen, reason, test, resamples,
        len(base.users), int(base.rows.sum()), compared, lengths.groups, lengths.length_of,
        [*reading_notes(runs, base), *lengths.notes], run_facts(runs), dict(left_out or {}), dict(failed or {}),
        tuple(tie_seed_of(run) for run in tied.get(chosen, ())), tied[chosen][0].seed if tied else None,
        any(run.config.get("tie_order") == "random" for run in runs[chosen]),
    )  # fmt: skip


def _choose_baseline(runs: dict[str, list[FinishedRun]], given: str | None) -> tuple[str, str]:
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
    metric = metric_title(str(runs[theirs[0]][0].result["valid_metric"]).lower())
    best = max(theirs, key=lambda label: float(np.mean(scores[label])))
    return best, f"the model of RecBole with the best mean validation {metric}"


def _choose_metrics(run: FinishedRun, given: Sequence[str] | None) -> list[str]:
    """Names of the metrics that are compared, the main one first."""
    reported = list(run.result["test_result"])
    if given:
        names = list(dict.fromkeys(str(name).lower() for name in given))
        for name in names:
            if name not in significance.per_user_metrics(reported):
                known = ", ".join(significance.per_user_metrics(reported)) or "none"
                raise UserError(f"the runs have no {name} of each user; there are: {known}")
        return names
    names = significance.per_user_metrics(reported)
    if not names:
        raise UserError(f"none of the metrics {', '.join(reported)} has a value for each user: run with NDCG, say")
    valid = str(run.result["valid_metric"]).lower()
    wanted = valid if valid in names else valid.rpartition("_")[2]  # period_recall@5 has no value for each user
    return sorted(names, key=lambda name: name != wanted)  # a stable sort: the others keep their order


def _average_over_seeds(runs: Sequence[FinishedRun], metrics: Sequence[str]) -> significance.PerUser:
    return significance.average_runs([significance.read_per_user(run.folder, run.result, metrics) for run in runs])


def _bootstrap_intervals(own: significance.PerUser, resamples: int, seed: int) -> dict[str, tuple[float, float]]:
    means = significance.bootstrap_means(np.stack(list(own.values.values())), own.rows, resamples, seed)
    return {name: significance.percentile_interval(line) for name, line in zip(own.values, means)}


def _compare_with_baseline(
    own, base, test: str, resamples: int, seed: int
) -> tuple[dict, dict[str, BaselineDifference]]:
    """Intervals of a model's means, and its differences to the baseline, whose p is not corrected yet."""
    names = list(own.values)
    both = np.stack([*own.values.values(), *(base.values[name] for name in names)])
    means = significance.bootstrap_means(both, own.rows, resamples, seed)
    intervals, differences = {}, {}
    for name, mine, theirs in zip(names, means, means[len(names) :]):
        intervals[name] = significance.percentile_interval(mine)
        p = significance.paired_test(own.values[name], base.values[name], test)
        differences[name] = BaselineDifference(
            own.mean(name) - base.mean(name), *significance.percentile_interval(mine - theirs), p, p
        )
    return intervals, differences


def _holm_corrected(
    differences: dict[str, dict[str, BaselineDifference]], metrics: Sequence[str]
) -> dict[str, dict[str, BaselineDifference]]:
    """The differences with Holm's correction over the labels, each metric a family of its own."""
    out: dict[str, dict[str, BaselineDifference]] = {label: {} for label in differences}
    for name in metrics:
        found = [own[name] for own in differences.values()]
        for label, each, p in zip(out, found, significance.holm_correction([each.p for each in found])):
            out[label][name] = replace(each, p_holm=p)
    return out


def _over_seeds(results: Sequence[dict[str, float] | None]) -> dict[str, SeedStatistics]:
    """Statistics of each metric that all runs have."""
    if not all(results):
        return {}
    shared = [name for name in results[0] or {} if all(name in (result or {}) for result in results)]
    return {name: SeedStatistics.of([result[name] for result in results if result]) for name in shared}


def _contender(label: str, runs: Sequence[FinishedRun], intervals, differences, by_length) -> Contender:
    by_seed = {run.seed: dict(_run_numbers(run)) for run in runs}

    def mean_of(part: str) -> dict[str, float]:
        """Of the numbers that all seeds have."""
        every = list(by_seed.values())
        names = [key for key in every[0] if key[0] == part and all(key in one for one in every)]
        return {key[1]: float(np.mean([one[key] for one in every])) for key in names}

    costs = mean_of("cost")
    return Contender(
        label,
        str(runs[0].config["model"]),
        tuple(by_seed),
        _over_seeds([run.result["test_result"] for run in runs]),
        _over_seeds([run.result["best_valid_result"] for run in runs]),
        intervals,
        differences,
        {name: costs.get(name) for name in COSTS},
        mean_of("diagnostics"),
        by_length,
        by_seed,
    )


def _run_numbers(run: FinishedRun) -> Iterator[tuple[tuple[str, str], float]]:
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
    yield from ((("diagnostics", name), value) for name, value in _flatten(result["diagnostics"] or {}))


def _flatten(values: dict[str, Any], path: str = "") -> Iterator[tuple[str, float]]:
    """The numbers of nested mappings by their path: lists.distinct_items."""
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{path}{key}.")
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            yield f"{path}{key}", float(value)
