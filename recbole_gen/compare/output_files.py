"""The files of a comparison: CSV, Markdown, LaTeX, one page, and figures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd

from recbole_gen import figures
from recbole_gen.compare.drawings import draw_figures
from recbole_gen.compare.latex import latex_text
from recbole_gen.compare.markdown import markdown_text
from recbole_gen.compare.page import page_text, with_prefixed_ids
from recbole_gen.compare.summary import Summary
from recbole_gen.files import write_output


def write_files(summary: Summary, folder: Path, command: str) -> list[Path]:
    """Write comparison.csv (a line a number and seed), summary.csv (a line a contender), tie_orders.csv (as the
    first, of the runs over tie orders, if there are any), comparison.md, comparison.tex,
    comparison.html (one page that needs nothing beside it) and figures/NAME.png and .svg; returns their paths.

    The same summary gives the same bytes. ``command`` is shown as what made it. Raises UserError if a file cannot be
    written.
    """
    folder = Path(folder)
    written = [
        write_output(folder / "comparison.csv", _csv_of_runs(summary)),
        write_output(folder / "summary.csv", _csv_of_contenders(summary)),
    ]
    if summary.tie_seeds:
        written.append(write_output(folder / "tie_orders.csv", _csv_of_tie_orders(summary)))
    drawn = dict(draw_figures(summary))
    svgs = {name: with_prefixed_ids(figures.svg_element(figure), name) for name, figure in drawn.items()}
    written += [
        write_output(folder / "comparison.md", markdown_text(summary, command, list(drawn))),
        write_output(folder / "comparison.tex", latex_text(summary)),
        write_output(folder / "comparison.html", page_text(summary, command, svgs)),
    ]
    for name, figure in drawn.items():
        written += figures.save_figure(figure, folder / f"figures/{name}.png")
    return written


def _csv_of_runs(summary: Summary) -> str:
    lines = [
        [s.label, s.model, seed, part, name, value]
        for s in summary.contenders
        for seed, numbers in s.by_seed.items()
        for (part, name), value in numbers.items()
    ]
    table = pd.DataFrame(lines, columns=["label", "model", "seed", "part", "metric", "value"])
    return table.to_csv(index=False, lineterminator="\n")


def _csv_of_tie_orders(summary: Summary) -> str:
    lines = [
        [s.label, s.model, summary.tie_run_seed, tie_seed, name, value]
        for s in summary.contenders
        for name, spread in s.over_ties.items()
        for tie_seed, value in zip(summary.tie_seeds, spread.values, strict=True)
    ]
    table = pd.DataFrame(lines, columns=["label", "model", "seed", "tie_seed", "metric", "value"])
    return table.to_csv(index=False, lineterminator="\n")


def _csv_of_contenders(summary: Summary) -> str:
    lines = []
    for s in summary.contenders:
        line: dict[str, Any] = {"label": s.label, "model": s.model, "seeds": " ".join(map(str, s.seeds))}
        line["is_baseline"] = s.label == summary.baseline
        for part, spreads in (("test", s.test), ("valid", s.valid)):
            for name, spread in spreads.items():
                line |= {f"{part}.{name}.mean": spread.mean, f"{part}.{name}.sd": spread.sd}
        for name, spread in s.over_ties.items():
            line |= {f"ties.{name}.mean": spread.mean, f"ties.{name}.sd": spread.sd}
        for name, (low, high) in s.intervals.items():
            line |= {f"test.{name}.low": low, f"test.{name}.high": high}
        for name, a in s.differences.items():
            line |= {f"against.{name}.difference": a.difference, f"against.{name}.low": a.low}
            line |= {f"against.{name}.high": a.high, f"against.{name}.p": a.p, f"against.{name}.p_holm": a.p_holm}
            if a.tie_spread is not None:
                line[f"against.{name}.tie_spread"] = a.tie_spread
        line |= {f"cost.{name}": value for name, value in s.costs.items()}
        line |= {f"length.{name}.{summary.main_metric}": value for name, value in s.by_length.items()}
        line |= {f"diagnostics.{name}": value for name, value in s.diagnostics.items()}
        lines.append(line)
    return pd.DataFrame(lines).to_csv(index=False, lineterminator="\n")
