"""One look for all figures: colours that colour-blind readers tell apart, markers and lines for print in grey."""

from __future__ import annotations

import io
from pathlib import Path

import matplotlib

from recbole_gen.errors import UserError
from recbole_gen.files import replaced_file

# Okabe and Ito's palette, black last; beyond it colours come again with the next marker and line.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", ">")
LINE_STYLES = ("-", "--", "-.", ":")


def new_figure(columns: int = 1, rows: int = 1, width: float = 5.0, height: float = 4.0, **options):
    """A figure of panels of so many inches each; returns (figure, axes) as `matplotlib.pyplot.subplots` does.

    It belongs to no window and needs no closing.
    """
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(
        rows, columns, figsize=(columns * width, rows * height), layout="constrained", **options
    )
    plt.close(figure)  # pyplot forgets it; it can be drawn on and saved all the same
    return figure, axes


def series_style(number: int) -> dict[str, str]:
    """Colour, marker and line of the series of this number, from 0."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "marker": MARKERS[number % len(MARKERS)],
        "linestyle": LINE_STYLES[(number // len(COLOURS)) % len(LINE_STYLES)],
    }


def save_figure(figure, path: str | Path) -> list[Path]:
    """Write NAME.png and NAME.svg, whatever the suffix of ``path``. Raises UserError if they cannot be written."""
    path = Path(path)
    written: list[Path] = []
    for suffix in (".png", ".svg"):
        file = path.with_name(path.name.removesuffix(path.suffix if path.suffix in (".png", ".svg") else "") + suffix)
        try:
            content = io.BytesIO()
            with _readable_svg():
                metadata = {"Date": None} if suffix == ".svg" else None
                figure.savefig(content, format=suffix[1:], dpi=150, metadata=metadata)
            with replaced_file(file) as temporary:
                temporary.write_bytes(content.getvalue())
        except OSError as error:
            raise UserError(f"the figure {file} cannot be written: {error}") from None
        written.append(file)
    return written


def svg_element(figure) -> str:
    """The figure as an <svg> element, to stand inside a page."""
    text = io.StringIO()
    with _readable_svg():
        figure.savefig(text, format="svg", metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def _readable_svg():
    # Text as text, so that it can be searched; no date, so that two equal figures are equal files.
    return matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "recbole_gen"})
