"""The picture of semantic IDs: how evenly the codes are used, and what the digits leave unexplained."""

from __future__ import annotations

import numpy as np

from recbole_gen import figures
from recbole_gen.tokenizing.report import code_counts


def draw_semantic_ids(ids: np.ndarray, variance_left: list[float], codes: int, title: str):
    """Two panels: items of each code, sorted, a line a level, which ends where codes are not used; and the share of the
    variance left after each level.

    ids: [n, levels + 1].
    """
    figure, (use, left) = figures.new_figure(2)
    for level in range(ids.shape[1] - 1):
        counts = np.sort(code_counts(ids[:, level], codes))[::-1]
        counts = counts[counts > 0]
        style = figures.series_style(level)
        use.plot(
            np.arange(1, len(counts) + 1), counts, color=style["color"], linestyle=figures.LINE_STYLES[level % 4],
            linewidth=2, label=f"digit {level + 1}",
        )  # fmt: skip
    use.axhline(len(ids) / codes, color="0.5", linewidth=1, label="even use")
    use.set_yscale("log")
    use.set_xlim(0, codes * 1.01)
    use.set_xlabel("codes of a digit, the most frequent first")
    use.set_ylabel("items")
    use.set_title("use of the codes")
    use.legend(frameon=False)

    style = figures.series_style(0)
    levels = np.arange(len(variance_left) + 1)
    shares = [1.0, *variance_left]
    left.plot(levels, shares, linewidth=2, **style)
    for level, share in enumerate(shares):
        left.annotate(f"{share:.1%}", (level, share), xytext=(5, 7), textcoords="offset points")
    left.set_xticks(levels)
    left.set_ylim(0, 1.12 * max(shares))
    left.set_xlim(-0.2, len(variance_left) + 0.5)
    left.set_xlabel("digits")
    left.set_ylabel("share of the vectors' variance left")
    left.set_title("what the digits leave unexplained")
    for panel in (use, left):
        panel.grid(alpha=0.3)
    figure.suptitle(title)
    return figure
