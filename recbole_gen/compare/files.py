"""The files of a comparison: CSV, Markdown, LaTeX, one page, and figures."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import pandas as pd

from recbole_gen import figures
from recbole_gen.compare import drawings, tables
from recbole_gen.compare.summary import Summary, title
from recbole_gen.errors import UserError
from recbole_gen.files import write_text


def write(summary: Summary, folder: Path, command: str) -> list[Path]:
    """Write comparison.csv (a line a number and seed), summary.csv (a line a contender), comparison.md, comparison.tex,
    comparison.html (one page that needs nothing beside it) and figures/NAME.png and .svg; returns their paths.

    The same summary gives the same bytes. ``command`` is shown as what made it. Raises UserError if a file cannot be
    written.
    """
    folder = Path(folder)
    written = [_put(folder / "comparison.csv", _long_csv(summary)), _put(folder / "summary.csv", _wide_csv(summary))]
    drawn = dict(drawings.draw(summary))
    pages = {name: _own_ids(figures.svg(figure), name) for name, figure in drawn.items()}
    written += [
        _put(folder / "comparison.md", _markdown(summary, command, list(drawn))),
        _put(folder / "comparison.tex", _latex(summary)),
        _put(folder / "comparison.html", _html(summary, command, pages)),
    ]
    for name, figure in drawn.items():
        written += figures.save(figure, folder / f"figures/{name}.png")
    return written


def _put(path: Path, content: str) -> Path:
    try:
        write_text(path, content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    return path


def _long_csv(summary: Summary) -> str:
    lines = [
        [s.label, s.model, seed, part, name, value]
        for s in summary.standings
        for seed, numbers in s.by_seed.items()
        for (part, name), value in numbers.items()
    ]
    table = pd.DataFrame(lines, columns=["label", "model", "seed", "part", "metric", "value"])
    return table.to_csv(index=False, lineterminator="\n")


def _wide_csv(summary: Summary) -> str:
    lines = []
    for s in summary.standings:
        line: dict[str, Any] = {"label": s.label, "model": s.model, "seeds": " ".join(map(str, s.seeds))}
        line["is_baseline"] = s.label == summary.baseline
        for part, spreads in (("test", s.test), ("valid", s.valid)):
            for name, spread in spreads.items():
                line |= {f"{part}.{name}.mean": spread.mean, f"{part}.{name}.sd": spread.sd}
        for name, (low, high) in s.intervals.items():
            line |= {f"test.{name}.low": low, f"test.{name}.high": high}
        for name, a in s.against.items():
            line |= {f"against.{name}.difference": a.difference, f"against.{name}.low": a.low}
            line |= {f"against.{name}.high": a.high, f"against.{name}.p": a.p, f"against.{name}.p_holm": a.p_holm}
        line |= {f"cost.{name}": value for name, value in s.costs.items()}
        line |= {f"length.{name}.{summary.main}": value for name, value in s.by_length.items()}
        line |= {f"diagnostics.{name}": value for name, value in s.diagnostics.items()}
        lines.append(line)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")


def _markdown(summary: Summary, command: str, names: Sequence[str]) -> str:
    table = tables.main(summary)
    wraps = {0: "{}", 1: "**{}**", 2: "<u>{}</u>"}
    body = []
    for standing in summary.standings:
        line = [_for_markdown(standing.label)]
        for cell in table[standing.label].values():
            mark = cell.mark.replace("*", r"\*")
            line.append(wraps[cell.place].format(cell.mean) + (f" ± {cell.sd}" if cell.sd else "") + mark)
        line.insert(2, tables.interval(summary, standing))
        body.append([*line, tables.validation(summary, standing)])
    heads = ["model", *map(title, summary.metrics), f"{title(summary.valid_metric)}, validation"]
    heads.insert(2, "95 % interval")
    parts = [
        f"# {_for_markdown(summary.dataset)}, {_for_markdown(summary.protocol)}",
        f"{summary.rows:,} test rows of {summary.users:,} users.",
        _pipes(heads, body),
        "\n\n".join(_for_markdown(line) for line in tables.legend(summary)),
    ]
    sections = [
        (f"Against {summary.baseline}", tables.against(summary, summary.metrics), tables.about_intervals(summary)),
        ("By length of the history", tables.lengths(summary), f"{title(summary.main)}; {summary.groups_of}."),
        ("Costs", tables.costs(summary), tables.about_costs(summary)),
        ("Diagnostics", tables.diagnostics(summary), "Means over the seeds."),
        ("Other test metrics", tables.others(summary), "These have no value for each user, so no test."),
    ]
    for heading, (columns, lines), note in sections:
        if lines:
            escaped = [[_for_markdown(cell) for cell in line] for line in lines]
            parts += [f"## {_for_markdown(heading)}", _pipes(columns, escaped), _for_markdown(note)]
    parts += [f"![{drawings.DRAWN[name]}](figures/{name}.svg)" for name in names]
    notes = [*summary.notes, *tables.missing(summary), *(f"{fact}: {value}" for fact, value in summary.facts)]
    parts += ["## Notes", "\n".join(f"- {_for_markdown(note)}" for note in notes)]
    if command:
        parts.append("    " + command.replace("\n", "\n    "))
    return "\n\n".join(parts) + "\n"


def _pipes(heads: Sequence[str], body: Iterable[Sequence[str]]) -> str:
    rule = [":--", *["--:"] * (len(heads) - 1)]
    return "\n".join(f"| {' | '.join(line)} |" for line in ([_for_markdown(head) for head in heads], rule, *body))


def _for_markdown(value: str) -> str:
    return re.sub(r"([\\`*_|<>\[\]])", r"\\\1", " ".join(value.split()))


LATEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "|": r"\textbar{}", "±": r"$\pm$",
}  # fmt: skip


def _for_latex(value: str) -> str:
    return "".join(LATEX.get(character, character) for character in value)


def _latex(summary: Summary) -> str:
    """A table as papers print it; the preamble needs booktabs, and graphicx if it is wide."""
    table = tables.main(summary)
    wraps = {0: "{}", 1: r"\textbf{{{}}}", 2: r"\underline{{{}}}"}
    body = []
    for label, line in table.items():
        cells = [_for_latex(label)]
        for cell in line.values():
            sd = rf" {{\scriptsize $\pm$ {cell.sd}}}" if cell.sd else ""
            cells.append(wraps[cell.place].format(cell.mean) + sd + (r"\textsuperscript{*}" if cell.mark else ""))
        body.append(" & ".join(cells) + r" \\")
    wide = len(summary.metrics) > 4
    caption = " ".join([f"{summary.dataset}, {summary.protocol}.", *tables.legend(summary)])
    lines = [
        r"% needs \usepackage{booktabs}" + (r" and \usepackage{graphicx}" if wide else ""),
        r"\begin{table}",
        r"\centering",
        rf"\caption{{{_for_latex(caption)}}}",
        *([r"\resizebox{\linewidth}{!}{%"] if wide else [r"\small"]),
        rf"\begin{{tabular}}{{l{'r' * len(summary.metrics)}}}",
        r"\toprule",
        " & ".join(["Model", *(_for_latex(title(name)) for name in summary.metrics)]) + r" \\",
        r"\midrule",
        *body,
        r"\bottomrule",
        r"\end{tabular}" + ("}" if wide else ""),
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _html(summary: Summary, command: str, pages: dict[str, str]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template("page.html").render(
        summary=summary,
        title=title,
        seeds=tables.seeds(summary),
        table=tables.main(summary),
        valid={s.label: tables.validation(summary, s) for s in summary.standings},
        intervals={s.label: tables.interval(summary, s) for s in summary.standings},
        legend=tables.legend(summary),
        about_intervals=tables.about_intervals(summary),
        against_main=tables.against(summary, summary.metrics[:1]),
        against_others=tables.against(summary, summary.metrics[1:]),
        lengths=tables.lengths(summary),
        costs=tables.costs(summary),
        about_costs=tables.about_costs(summary),
        diagnostics=tables.diagnostics(summary),
        others=tables.others(summary),
        drawn=drawings.DRAWN,
        figures=pages,
        command=command,
    )


def _own_ids(svg: str, name: str) -> str:
    """Figures of one page may not share the names of their parts."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
