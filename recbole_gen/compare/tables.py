"""What a summary says as tables of text for every form of output, and `terminal_text` for the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

from tabulate import tabulate

from recbole_gen.compare.summary import COSTS, Contender, LengthGroup, SeedStatistics, Summary, metric_title
from recbole_gen.compare.tie_orders import tie_note, tie_table
from recbole_gen.evaluation import significance
from recbole_gen.evaluation.diagnostics import COLD_ROWS

LEVEL = 0.05
"""A corrected p below this gets a mark."""
MARK = "*"
BOLD = " Best in bold, second underlined, by the mean as printed."
PER_TABLE = 3
"""Metrics side by side on the terminal."""
ABOUT_TESTS = (
    "The test over users says whether a difference would hold for other users of this data set with these trained "
    "models; the standard deviation over seeds says how much training them again would change."
)


@dataclass(frozen=True)
class Cell:
    """A metric of a contender as it is printed: mean, standard deviation, mark, and 1 for best, 2 for second."""

    mean: str
    sd: str = ""
    mark: str = ""
    rank: int = 0


def metric_cells(summary: Summary) -> dict[str, dict[str, Cell]]:
    """label -> metric -> cell. Best and second are those of the means as printed; equal ones share their place."""
    printed = {s.label: {name: f"{s.test[name].mean:.4f}" for name in summary.metrics} for s in summary.contenders}
    best = {
        name: sorted({float(line[name]) for line in printed.values()}, reverse=True)[:2] for name in summary.metrics
    }
    table: dict[str, dict[str, Cell]] = {}
    for contender in summary.contenders:
        table[contender.label] = line = {}
        for name in summary.metrics:
            spread, difference = contender.test[name], contender.differences.get(name)
            mean = printed[contender.label][name]
            rank = best[name].index(float(mean)) + 1 if float(mean) in best[name] else 0
            sd = "" if spread.sd is None else f"{spread.sd:.4f}"
            line[name] = Cell(mean, sd, MARK if difference and difference.is_one(LEVEL) else "", rank)
    return table


def validation_cell(summary: Summary, contender: Contender) -> str:
    """The metric that chose the epochs, on the validation rows."""
    spread = contender.valid.get(summary.valid_metric)
    return "-" if spread is None else _mean_and_sd(spread)


def _mean_and_sd(spread: SeedStatistics) -> str:
    return f"{spread.mean:.4f}" + ("" if spread.sd is None else f" ± {spread.sd:.4f}")


def interval_cell(summary: Summary, contender: Contender) -> str:
    """Of the main metric."""
    return "{:.4f} to {:.4f}".format(*contender.intervals[summary.main_metric])


def difference_table(summary: Summary, metrics: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the comparison with the baseline."""
    heads = ["model", "metric", "difference", "95 % interval", "p", "Holm p"]
    body = [
        [
            s.label,
            metric_title(name),
            f"{a.difference:+.4f}",
            f"{a.low:+.4f} to {a.high:+.4f}",
            p_value_text(a.p),
            p_value_text(a.p_holm),
        ]
        for name in metrics
        for s in summary.contenders
        for a in [s.differences.get(name)]
        if a
    ]
    return heads, body


def p_value_text(p: float) -> str:
    return "< 0.0001" if p < 0.0001 else f"{p:.4f}"


def cost_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """What training and scoring took."""
    forms = {"train_seconds": ",.1f", "epochs": ",.4g"}
    body = [
        [s.label, *(format_or_dash(s.costs[name], forms.get(name, ",.0f")) for name in COSTS)]
        for s in summary.contenders
    ]
    return ["model", *COSTS.values()], body


def format_or_dash(value: float | None, form: str) -> str:
    return "-" if value is None else format(value, form)


def diagnostics_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """What keeps the metrics honest; without columns that no contender has."""
    name = metric_title(summary.main_metric)
    columns = {
        f"{name}, trained items only": (f"trained_items_only.model.{summary.main_metric}", ".4f"),
        f"Pop {name}": (f"pop.{summary.main_metric}", ".4f"),
        f"Pop {name}, trained items only": (f"trained_items_only.pop.{summary.main_metric}", ".4f"),
        f"Transitions {name}": (f"transitions.{summary.main_metric}", ".4f"),
        f"Transitions {name}, trained items only": (f"trained_items_only.transitions.{summary.main_metric}", ".4f"),
        f"{name}, warm targets": (f"warm_targets.{summary.main_metric}", ".4f"),
        f"{name}, cold targets": (f"cold_targets.{summary.main_metric}", ".4f"),
        "rows with cold targets": ("cold_targets.rows", ",.0f"),
        f"{name}, history not ranked": (f"history_not_ranked.model.{summary.main_metric}", ".4f"),
        f"Pop {name}, history not ranked": (f"history_not_ranked.pop.{summary.main_metric}", ".4f"),
        f"Transitions {name}, history not ranked": (f"history_not_ranked.transitions.{summary.main_metric}", ".4f"),
        "targets in the history": ("history_not_ranked.targets_in_history", ",.0f"),
        "distinct items in all lists": ("lists.distinct_items", ",.0f"),
        "items that two lists share": ("lists.mean_overlap", ".2f"),
        "places of untrained items": ("lists.untrained_share", ".1%"),
        "hits of untrained items": ("lists.untrained_hit_share", ".1%"),
        "effective rank of item table": ("item_table.effective_rank", ".1f"),
    }
    shown = {
        head: (key, form)
        for head, (key, form) in columns.items()
        if any(_has_diagnostic(s.diagnostics, key) for s in summary.contenders)
    }
    body = [
        [s.label, *(format_or_dash(s.diagnostics.get(key), form) for key, form in shown.values())]
        for s in summary.contenders
    ]
    return ["model", *shown], body if shown else []


def _has_diagnostic(found: dict[str, float], key: str) -> bool:
    """Whether a contender has a number that is worth a column."""
    of_few = key.startswith(("warm_targets.", "cold_targets.")) and found.get("cold_targets.rows", 0) < COLD_ROWS
    return key in found and not of_few


def other_metrics_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """Test metrics that have no value a user, so no test."""
    names = [name for name in summary.contenders[0].test if name not in significance.per_user_metrics([name])]
    names = [name for name in names if all(name in s.test for s in summary.contenders)]
    body = [[s.label, *(_mean_and_sd(s.test[name]) for name in names)] for s in summary.contenders]
    return ["model", *map(metric_title, names)], body if names else []


def length_table(summary: Summary) -> tuple[list[str], list[list[str]]]:
    """The main metric by group."""
    heads = [f"{g.name}, {length_range(g)} ({g.rows:,} rows)" for g in summary.groups]
    body = [[s.label, *(f"{s.by_length[g.name]:.4f}" for g in summary.groups)] for s in summary.contenders]
    return ["model", *heads], body if summary.groups else []


def length_range(group: LengthGroup) -> str:
    """The lengths of a group's histories."""
    return f"{group.least}" if group.least == group.most else f"{group.least} to {group.most}"


def legend_lines(summary: Summary) -> list[str]:
    """What the main table's numbers and marks mean."""
    counts = sorted({len(s.seeds) for s in summary.contenders})
    if counts == [1]:
        spread = f"One seed ({all_seeds(summary)}): how much another seed would change is not known."
    else:
        number = str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        spread = f"Mean ± standard deviation over {number} seeds ({all_seeds(summary)})."
    averaged = "" if counts == [1] else ", each user's value being the mean over the seeds"
    ties = ""
    if summary.tie_seeds:
        ties = f", and by more than the standard deviation over {len(summary.tie_seeds)} tie orders of either model"
    lines = [f"{spread}{BOLD}"]
    others = len(summary.contenders) - 1
    if others:
        lines.append(
            f"{MARK} differs from the baseline {summary.baseline}, up or down as the number says: p < {LEVEL} after "
            f"Holm's correction over the {others} comparison{'s' if others > 1 else ''} of a metric, "
            f"{significance.TESTS[summary.test]} over {summary.users:,} users{averaged}{ties}. {ABOUT_TESTS}"
        )
    lines.append(f"Baseline: {summary.baseline}, {summary.baseline_reason}.")
    return lines


def all_seeds(summary: Summary) -> str:
    """All seeds of all contenders."""
    return ", ".join(str(seed) for seed in sorted({seed for s in summary.contenders for seed in s.seeds}))


def interval_note(summary: Summary) -> str:
    """How the intervals were made."""
    return f"Intervals are 95 % bootstrap intervals over users (percentile, {summary.resamples:,} resamples)."


def cost_note(summary: Summary) -> str:
    """How the costs were measured."""
    return (
        "Costs are means over the seeds. Scoring is the model's own work on the test rows, without reading them and "
        "computing metrics. Peak memory is that of the process: runs made one after the other in one process have in "
        "it what earlier ones left there."
    )


def not_compared_lines(summary: Summary) -> list[str]:
    """What was not compared, and why."""
    return [
        *(f"Left out: {label}: {reason}" for label, reason in sorted(summary.left_out.items())),
        *(f"Failed: {label}: {reason}" for label, reason in sorted(summary.failed.items())),
        *(["A model with a failed run is not among those above."] if summary.failed else []),
    ]


def terminal_text(summary: Summary) -> str:
    """The tables that fit a terminal: metrics, differences of the main one, costs, and what to know about them."""
    table = metric_cells(summary)
    parts = [f"{summary.dataset}, {summary.protocol}: {summary.rows:,} test rows of {summary.users:,} users"]
    for start in range(0, len(summary.metrics), PER_TABLE):
        names = summary.metrics[start : start + PER_TABLE]
        body = [
            [label, *(f"{c.mean}{f' ± {c.sd}' if c.sd else ''}{c.mark or ' '}" for c in (line[n] for n in names))]
            for label, line in table.items()
        ]
        parts.append(_plain_table(["model", *map(metric_title, names)], body))
    heads, body = difference_table(summary, [summary.main_metric])
    if body:
        parts.append(f"Against {summary.baseline}\n" + _plain_table(heads, body))
    heads, body = tie_table(summary, [summary.main_metric])
    if body:
        parts.append("Seeds and tie orders\n" + _plain_table(heads, body))
    valid = [
        f"{metric_title(summary.valid_metric)}, validation",
        *(validation_cell(summary, s) for s in summary.contenders),
    ]
    heads, body = cost_table(summary)
    parts.append(_plain_table([*heads, valid[0]], [[*line, cell] for line, cell in zip(body, valid[1:])]))
    notes = [line.replace(BOLD, "") for line in legend_lines(summary)]
    notes += [interval_note(summary), *([tie_note(summary)] if summary.tie_seeds else []), cost_note(summary)]
    notes += [*summary.notes, *not_compared_lines(summary)]
    parts.append("\n".join(textwrap.fill(note, 120, break_long_words=False) for note in notes))
    return "\n\n".join(parts)


def _plain_table(heads: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(body, headers=list(heads), disable_numparse=True, colalign=align)
