"""How much a comparison's numbers change with the order of simultaneous events: runs that differ in that alone."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from scipy import stats

from recbole_gen.compare.finished_runs import FinishedRun, describe_run, read_run, require_comparable
from recbole_gen.compare.summary import BaselineDifference, Contender, SeedStatistics, Summary, metric_title
from recbole_gen.errors import UserError

TIE_KEYS = ("tie_order", "tie_seed")


def read_tie_orders(
    folders: Mapping[str, Sequence[Path]], runs: Mapping[str, Sequence[FinishedRun]]
) -> dict[str, list[FinishedRun]]:
    """The runs of each label by tie seed; ``runs`` are those over the seeds, which have one order. {} for no folders.

    Raises UserError unless all labels have the same orders and one seed, and nothing else is different.
    """
    found = {label: sorted(map(read_run, own), key=tie_seed_of) for label, own in folders.items() if own}
    if not found:
        return {}
    whose, first = next(iter(found.items()))
    orders, seed = [tie_seed_of(run) for run in first], first[0].seed
    for label, base in runs.items():
        own = found.get(label, [])
        if [tie_seed_of(run) for run in own] != orders or len(set(orders)) < max(2, len(orders)):
            raise UserError(f"{label} and {whose} have not the same tie orders, two or more: run both with the same")
        for run in own:
            is_alike = run.config.get("tie_order") == "random" and run.seed == seed
            if not is_alike or run.config["model"] != base[0].config["model"]:
                raise UserError(
                    f"{describe_run(run)} differs in more than its tie order from the other runs of {label}: run it "
                    f"again with tie_order: random and seed {seed}"
                )
        require_comparable([base[0], *own], but=TIE_KEYS)
    return found


def tie_seed_of(run: FinishedRun) -> int:
    """The seed that drew the order of a run."""
    seed = run.config.get("tie_seed")
    return run.seed if seed is None else int(seed)


def spreads(runs: Sequence[FinishedRun]) -> dict[str, SeedStatistics]:
    """Each test metric over the orders."""
    names = [name for name in runs[0].result["test_result"] if all(name in run.result["test_result"] for run in runs)]
    return {name: SeedStatistics.of([run.result["test_result"][name] for run in runs]) for name in names}


def with_tie_spreads(
    differences: Mapping[str, dict[str, BaselineDifference]],
    over_ties: Mapping[str, dict[str, SeedStatistics]],
    baseline: str,
) -> dict[str, dict[str, BaselineDifference]]:
    """The differences to the baseline, each with the larger of the two spreads, which it has to exceed."""

    def spread(label: str, name: str) -> float:
        return max(over_ties[each][name].sd or 0.0 for each in (label, baseline))

    return {
        label: {name: replace(each, tie_spread=spread(label, name)) for name, each in own.items()}
        for label, own in differences.items()
    }


def tie_table(summary: Summary, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: each metric's mean and spread over the seeds, and over the orders; no lines without orders."""
    heads = ["model", "metric", "seeds: mean", "sd", "tie orders: mean", "sd", "least", "largest"]
    return heads, [
        _line(s, name, s.over_ties[name]) for name in metrics for s in summary.contenders if name in s.over_ties
    ]


def _line(contender: Contender, name: str, over_ties: SeedStatistics) -> list[str]:
    over_seeds = contender.test[name]
    sds = ("-" if sd is None else f"{sd:.4f}" for sd in (over_seeds.sd, over_ties.sd))
    means = (f"{spread.mean:.4f}" for spread in (over_seeds, over_ties))
    cells = [cell for pair in zip(means, sds, strict=True) for cell in pair]
    return [contender.label, metric_title(name), *cells, *(f"{f(over_ties.values):.4f}" for f in (min, max))]


def tie_note(summary: Summary) -> str:
    """How the spread over orders was made, and what it is for."""
    if not summary.tie_seeds:
        return ""
    return (
        f"Over {len(summary.tie_seeds)} orders of a user's simultaneous events (tie_order: random, tie_seed "
        f"{', '.join(map(str, summary.tie_seeds))}), each trained and tested anew with one seed, "
        f"{summary.tie_run_seed}: which of them is the last, and so what is tested, is left open by the data. A "
        f"difference that is no larger than this standard deviation, of either model, is not called one.{_odd(summary)}"
    )


def _odd(summary: Summary) -> str:
    """A sentence about models that do better or worse in the file's order, with the same seed, than in drawn ones.

    That is, outside of the interval in which another drawn order would be with 99 %, by Student's t.
    """
    name, outside = summary.main_metric, list[str]()
    if summary.seeds_have_drawn_orders:
        return ""
    for contender in summary.contenders:
        drawn = contender.over_ties[name]
        n = len(drawn.values)
        if n < 2 or drawn.sd is None:
            continue
        margin = float(stats.t.ppf(0.995, n - 1)) * drawn.sd * math.sqrt(1 + 1 / n)
        by_seed = zip(contender.seeds, contender.test[name].values, strict=True)
        if any(seed == summary.tie_run_seed and abs(own - drawn.mean) > margin for seed, own in by_seed):
            outside.append(contender.label)
    if not outside:
        return ""
    return (
        f" The order that the seeds have is not like a drawn one for {', '.join(outside)}, whose {metric_title(name)} "
        f"with the same seed is where fewer than 1 % of drawn orders would put it (Student's t): the spread does not "
        f"tell how much that order matters."
    )
