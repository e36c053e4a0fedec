"""A comparison as one page of HTML that needs nothing beside it (page.html)."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import jinja2

from recbole_gen.compare import drawings, tables
from recbole_gen.compare.summary import Summary, metric_title
from recbole_gen.compare.tie_orders import tie_note, tie_table


def page_text(summary: Summary, command: str, svgs: dict[str, str]) -> str:
    """The page, with its figures by name as SVG."""
    return render_page(
        Path(__file__).with_name("page.html"),
        summary=summary,
        title=metric_title,
        seeds=tables.all_seeds(summary),
        table=tables.metric_cells(summary),
        valid={s.label: tables.validation_cell(summary, s) for s in summary.contenders},
        intervals={s.label: tables.interval_cell(summary, s) for s in summary.contenders},
        legend=tables.legend_lines(summary),
        about_intervals=tables.interval_note(summary),
        against_main=tables.difference_table(summary, summary.metrics[:1]),
        against_others=tables.difference_table(summary, summary.metrics[1:]),
        ties=tie_table(summary, summary.metrics),
        about_ties=tie_note(summary),
        lengths=tables.length_table(summary),
        costs=tables.cost_table(summary),
        about_costs=tables.cost_note(summary),
        diagnostics=tables.diagnostics_table(summary),
        others=tables.other_metrics_table(summary),
        drawn=drawings.CAPTIONS,
        figures=svgs,
        command=command,
    )


def render_page(template: Path, **values: Any) -> str:
    """A page of HTML by a template, which may use what is in parts.html."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader([template.parent, Path(__file__).parent]),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True,
    )
    return environment.get_template(template.name).render(**values)


def with_prefixed_ids(svg: str, name: str) -> str:
    """An SVG whose parts have names of their own: figures of one page may not share them."""
    return re.sub(r'(\bid="|url\(#|href="#)', rf"\g<1>{name}-", svg)
