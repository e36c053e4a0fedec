"""A comparison as LaTeX."""

from __future__ import annotations

from recbole_gen.compare import tables
from recbole_gen.compare.summary import Summary, metric_title

ESCAPES = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$",
}  # fmt: skip

LONG_LABEL = 24
"""With a longer label the table is made to fit the line."""


def latex_text(summary: Summary) -> str:
    """A table as papers print it; the preamble needs booktabs, and graphicx if it is wide."""
    table = tables.metric_cells(summary)
    wraps = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    body = []
    for label, line in table.items():
        cells = [_escape(label)]
        for cell in line.values():
            sd = rf" {{\scriptsize $\pm$ {cell.sd}}}" if cell.sd else ""
            cells.append(wraps[cell.rank].format(cell.mean) + sd + (r"\textsuperscript{*}" if cell.mark else ""))
        body.append(" & ".join(cells) + r" \\")
    wide = len(summary.metrics) > 4 or max(map(len, table)) > LONG_LABEL
    caption = " ".join([f"{summary.dataset}, {summary.protocol}.", *tables.legend_lines(summary)])
    lines = [
        r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if wide else ""),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_escape(caption)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else [r"\small"]),
        rf"\begin{{tabular}}{{l{'r' * len(summary.metrics)}}}",
        r"\toprule",
        " & ".join(["Model", *(_escape(metric_title(name)) for name in summary.metrics)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _escape(value: str) -> str:
    return "".join(ESCAPES.get(character, character) for character in value)
