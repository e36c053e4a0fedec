"""The pages of reproductions: NAME.md, NAME.html, NAME.json and the figures, and README.md, the list of them.

All are made from NAME.json alone, and equal numbers give equal bytes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from recbole_gen import figures
from recbole_gen.compare.markdown import escape_marks, pipe_table
from recbole_gen.compare.page import render_page, with_prefixed_ids
from recbole_gen.files import write_output
from recbole_gen.reproduce import tables
from recbole_gen.reproduce.drawings import CAPTIONS, draw_figures
from recbole_gen.reproduce.results import VERDICTS, Reproduction, read_result, write_result
from recbole_gen.reproduce.states import State, result_file, state_table

INDEX = "README.md"


def write_documents(found: Reproduction, folder: Path) -> list[Path]:
    """Write the numbers of a reproduction and its page into a folder, and the list of all that are there; returns the
    paths. Raises UserError if a file cannot be written."""
    path = result_file(folder, found.name)
    write_result(found, path)
    written = write_page(found, folder)
    return [path, *written, write_output(folder / INDEX, index_text(read_results(folder)))]


def rewrite_pages(folder: Path) -> list[Path]:
    """Write all pages of a folder, and their list, anew from their numbers; returns the paths."""
    results = read_results(folder)
    written = [file for found in results for file in write_page(found, folder)]
    return [*written, write_output(folder / INDEX, index_text(results))]


def read_results(folder: Path) -> list[Reproduction]:
    """The reproductions whose numbers lie in a folder, by name. Raises UserError for a file of another form."""
    found = (read_result(path) for path in sorted(folder.glob("*.json")) if path.name != "reproduce.json")
    return [each for each in found if each is not None]


def write_page(found: Reproduction, folder: Path) -> list[Path]:
    """Write the page alone, with its figures; returns the paths."""
    drawn = dict(draw_figures(found))
    written = []
    for name, figure in drawn.items():
        written += figures.save_figure(figure, folder / "figures" / f"{found.name}-{name}.svg")
    svgs = {name: with_prefixed_ids(figures.svg_element(figure), name) for name, figure in drawn.items()}
    for suffix, text in ((".md", markdown_text(found)), (".html", page_text(found, svgs))):
        written.append(write_output(folder / f"{found.name}{suffix}", text))
    return written


def markdown_text(found: Reproduction) -> str:
    """The page as Markdown."""
    remarks = tables.remarks(found)
    changed, others = (remarks[:1], remarks[1:]) if found.changed else ([], remarks)
    parts = [
        f"# {escape_marks(tables.title(found))}",
        f"{escape_marks(found.paper)}. Setting `properties/paper/{found.name}.yaml`: data set "
        f"{escape_marks(found.dataset)}, protocol {escape_marks(found.protocol)}, {found.rows:,} test rows of "
        f"{found.users:,} users.",
        f"**{escape_marks(tables.conclusion(found))}**",
        _table(tables.verdict_table(found)),
        *map(escape_marks, changed),
        f"![{CAPTIONS['metrics']}](figures/{found.name}-metrics.svg)",
        "## All models of the table",
        "In percent: what the paper prints, and ours, mean ± standard deviation over the seeds.",
        _table(tables.model_table(found)),
        f"![{CAPTIONS['models']}](figures/{found.name}-models.svg)",
        "## The runs",
        _table(tables.cost_table(found)),
        *([tables.AGAINST.format(found.label), _table((found.against[0], found.against[1:]))] if found.against else []),
        "## Notes",
        "\n".join(f"- {escape_marks(line)}" for line in others),
        "\n".join(f"- {escape_marks(fact)}: {escape_marks(value)}" for fact, value in found.facts),
        "    " + found.command,
    ]
    return "\n\n".join(parts) + "\n"


def _table(table: tuple[Sequence[str], Sequence[Sequence[str]]]) -> str:
    heads, body = table
    return pipe_table(heads, [[escape_marks(cell) for cell in line] for line in body])


def page_text(found: Reproduction, svgs: dict[str, str]) -> str:
    """The page as HTML that needs nothing beside it."""
    return render_page(
        Path(__file__).with_name("reproduction.html"),
        found=found,
        title=tables.title(found),
        conclusion=tables.conclusion(found),
        verdicts=tables.verdict_table(found),
        models=tables.model_table(found),
        costs=tables.cost_table(found),
        about_against=tables.AGAINST.format(found.label),
        remarks=tables.remarks(found),
        drawn=CAPTIONS,
        figures=svgs,
    )


def index_text(results: Sequence[Reproduction]) -> str:
    """The list of the reproductions of a folder, with a link to each page."""
    link: Callable[[str], str] = lambda name: f"[{name}]({name}.md)"  # noqa: E731
    heads, body = state_table([State(found.name, "", found) for found in results])
    kept = [number for number, head in enumerate(heads) if head != "state"]
    lines = [[link(line[0]) if number == 0 else escape_marks(line[number]) for number in kept] for line in body]
    return "\n\n".join([
        "# The papers' tables, reproduced",
        "Published settings and the baselines of their tables, run by `recbole-gen reproduce NAME`, beside the numbers "
        "that the papers print. This list and the pages are written by that command from the results of the runs; "
        "`recbole-gen reproduce` lists the settings that have no page yet, too, and `recbole-gen reproduce --pages` "
        "writes all pages anew. The first metric of each table, in percent; the verdict is on all of them.",
        pipe_table([heads[number] for number in kept], lines) if lines else "No setting has been run yet.",
        VERDICTS,
    ]) + "\n"  # fmt: skip
