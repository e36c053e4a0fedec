"""A comparison as Markdown."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from recbole_gen.compare import drawings, tables
from recbole_gen.compare.summary import Summary, metric_title
from recbole_gen.compare.tie_orders import tie_note, tie_table


def markdown_text(summary: Summary, command: str, names: Sequence[str]) -> str:
    """All tables, with the figures of these names beside the file."""
    table = tables.metric_cells(summary)
    wraps = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    body = []
    for contender in summary.contenders:
        line = [escape_marks(contender.label)]
        for cell in table[contender.label].values():
            mark = cell.mark.replace("*", r"\*")
            line.append(wraps[cell.rank].format(cell.mean) + (f" ± {cell.sd}" if cell.sd else "") + mark)
        line.insert(2, tables.interval_cell(summary, contender))
        body.append([*line, tables.validation_cell(summary, contender)])
    heads = ["model", *map(metric_title, summary.metrics), f"{metric_title(summary.valid_metric)}, validation"]
    heads.insert(2, "95 % interval")
    parts = [
        f"# {escape_marks(summary.dataset)}, {escape_marks(summary.protocol)}",
        f"{summary.rows:,} test rows of {summary.users:,} users.",
        pipe_table(heads, body),
        "\n\n".join(escape_marks(line) for line in tables.legend_lines(summary)),
    ]
    sections = [
        (
            f"Against {summary.baseline}",
            tables.difference_table(summary, summary.metrics),
            tables.interval_note(summary),
        ),
        ("Seeds and tie orders", tie_table(summary, summary.metrics), tie_note(summary)),
        (
            "By length of the history",
            tables.length_table(summary),
            f"{metric_title(summary.main_metric)}; {summary.length_of}.",
        ),
        ("Costs", tables.cost_table(summary), tables.cost_note(summary)),
        ("Diagnostics", tables.diagnostics_table(summary), "Means over the seeds."),
        ("Other test metrics", tables.other_metrics_table(summary), "These have no value for each user, so no test."),
    ]
    for heading, (columns, lines), note in sections:
        if lines:
            escaped = [[escape_marks(cell) for cell in line] for line in lines]
            parts += [f"## {escape_marks(heading)}", pipe_table(columns, escaped), escape_marks(note)]
    parts += [f"![{drawings.CAPTIONS[name]}](figures/{name}.svg)" for name in names]
    notes = [
        *summary.notes,
        *tables.not_compared_lines(summary),
        *(f"{fact}: {value}" for fact, value in summary.facts),
    ]
    parts += ["## Notes", "\n".join(f"- {escape_marks(note)}" for note in notes)]
    if command:
        parts.append("    " + command.replace("\n", "\n    "))
    return "\n\n".join(parts) + "\n"


def pipe_table(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    """A table of cells whose marks are escaped; the heads' are not yet."""
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([escape_marks(head) for head in heads], rule, *body))


def escape_marks(value: str) -> str:
    """Text as it is shown, whatever marks it has."""
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(value.split()))
