"""What a reproduction says as tables of text, for every form of output: numbers in percent, differences in points."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence

from tabulate import tabulate

from recbole_gen.errors import counted
from recbole_gen.reproduce.results import (
    VERDICTS,
    Measured,
    ModelResult,
    Reproduction,
    overall_verdict,
    verdict,
)

QUICK = (
    "A QUICK LOOK, AND NO REPRODUCTION: sizes and epochs are cut. It says that the setting runs, and nothing of the "
    "paper's numbers."
)
AGAINST = (
    "Against {}, as fractions: the baseline's metric minus the setting's, a paired test over the users, and Holm's "
    "correction over the baselines."
)
WIDTH = 120
MOST_METRICS = 4
"""Side by side on the terminal."""


def title(found: Reproduction) -> str:
    """What was reproduced."""
    return f"{found.label}, {found.table}"


def verdict_table(found: Reproduction) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of the setting's own numbers beside the published ones, a line a metric."""
    seeds = counted(len(found.own.seeds), "seed")
    ties = any(measured.ties_sd is not None for measured in found.own.measured.values())
    heads = [
        "metric, %", "published", f"ours ({seeds})", "difference, points", "test users", "standard error over users",
        "sd over seeds", *(["sd over tie orders"] if ties else []), "combined", "difference in standard errors",
        "verdict",
    ]  # fmt: skip
    body = []
    for metric in found.metrics:
        measured = found.own.measured[metric]
        difference = found.difference(found.own, metric)
        line = [metric, published_cell(found, found.label, metric), ours_cell(measured)]
        if difference is None:
            continue
        ratio = "-" if not measured.error else f"{difference / measured.error:+.1f}"
        line += [
            f"{100 * difference:+.2f}",
            f"{found.users:,}",
            f"{100 * measured.users_error:.2f}",
            _percent(measured.sd),
            *([_percent(measured.ties_sd)] if ties else []),
            f"{100 * measured.error:.2f}",
            ratio,
            "-" if found.is_quick else verdict(difference, measured.error),
        ]
        body.append(line)
    return heads, body


def published_cell(found: Reproduction, row: str, metric: str) -> str:
    """A number of the paper's table as it is printed, in percent."""
    value, sd = found.published.get(row, {}).get(metric), found.published_sd.get(row, {}).get(metric)
    places = max(found.decimals - 2, 0)
    if value is None:
        return "-"
    return f"{100 * value:.{places}f}" + ("" if sd is None else f" ± {100 * sd:.{places}f}")


def ours_cell(measured: Measured) -> str:
    """Mean and standard deviation over the seeds, in percent."""
    return f"{100 * measured.mean:.2f}" + ("" if measured.sd is None else f" ± {100 * measured.sd:.2f}")


def model_table(found: Reproduction) -> tuple[list[str], list[list[str]]]:
    """Heads and lines of all rows of the paper's table, and of what was run or counted beside it: for each metric what
    is printed, and ours."""
    heads = ["model", *(f"{metric} {which}" for metric in found.metrics for which in ("paper", "ours"))]
    results = {model.label: model for model in found.models}
    rows = dict.fromkeys([found.label, *found.published, *results])
    body = []
    for row in rows:
        cells = []
        for metric in found.metrics:
            ours = ours_cell(results[row].measured[metric]) if row in results else ""
            cells += [published_cell(found, row, metric), ours]
        body.append([row, *cells])
    for name, numbers in found.counted.items():
        cells = [cell for metric in found.metrics for cell in ("-", _percent(numbers.get(metric)))]
        body.append([f"{name}, counted on the same rows", *cells])
    return heads, body


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{100 * value:.2f}"


def cost_table(found: Reproduction) -> tuple[list[str], list[list[str]]]:
    """What the runs took."""

    def line(model: ModelResult) -> list[str]:
        numbers = [(model.parameters, ",.0f"), (model.epochs, ",.4g"), (model.train_seconds, ",.0f")]
        cells = ["-" if value is None else format(value, form) for value, form in numbers]
        return [model.label, model.model, ", ".join(map(str, model.seeds)), *cells]

    return ["run", "model", "seeds", "parameters", "epochs", "training (s)"], [line(model) for model in found.models]


def remarks(found: Reproduction) -> list[str]:
    """What to know of the numbers, a paragraph each."""
    lines = []
    if found.changed:
        lines.append(f"Not the published setting: {'; '.join(found.changed)}.")
    if not found.is_quick:
        lines.append(VERDICTS)
    if found.about:
        lines.append(f"Baselines: {found.about}")
    lines += found.notes
    lines += [f"Not run: {label}: {why}" for label, why in sorted(found.left_out.items())]
    lines += [f"Failed: {name}: {why}" for name, why in sorted(found.failed.items())]
    return lines


def conclusion(found: Reproduction) -> str:
    """The verdict in a sentence."""
    if found.is_quick:
        return QUICK
    names = ", ".join(line[0] for line in verdict_table(found)[1])
    return f"{overall_verdict(found).capitalize()}: {found.label} beside {found.paper}, {found.table} ({names})."


def terminal_text(found: Reproduction) -> str:
    """All of it for the terminal."""
    first = f"{title(found)}: {found.paper}"
    where = f"{found.dataset}, {found.protocol}: {found.rows:,} test rows of {found.users:,} users"
    parts = [f"{first}\n{where}", _plain_table(*verdict_table(found), wrap=12), conclusion(found)]
    heads, body = model_table(found)
    per_table = math.ceil(len(found.metrics) / math.ceil(len(found.metrics) / MOST_METRICS))
    for start in range(1, len(heads), 2 * per_table):
        stop = start + 2 * per_table
        parts.append(_plain_table([heads[0], *heads[start:stop]], [[line[0], *line[start:stop]] for line in body], 9))
    parts.append("\n".join(textwrap.fill(line, WIDTH, break_long_words=False) for line in remarks(found)))
    return "\n\n".join(parts)


def _plain_table(heads: Sequence[str], body: Sequence[Sequence[str]], wrap: int) -> str:
    wrapped = [textwrap.fill(head, wrap, break_long_words=False) for head in heads]
    align = ["left", *["right"] * (len(heads) - 1)]
    return tabulate(body, headers=wrapped, disable_numparse=True, colalign=align if body else None)
