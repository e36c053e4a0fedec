"""`plot tsne`: item embeddings in two dimensions, models side by side; DreamRec section 5.3, figures 3, 5 and 6.

As in the paper, t-SNE has scikit-learn's defaults. The paper draws every item as a red point, and nothing else; here
colour says how often an item occurs in training, and items that never do are crosses.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_gen import figures
from recbole_gen.data.rows import training_item_counts
from recbole_gen.errors import UserError
from recbole_gen.evaluation.item_vectors import item_vectors
from recbole_gen.plot import run_selection
from recbole_gen.quick_start import LoadedRun, load

PERPLEXITY = 30
"""scikit-learn's default; t-SNE needs more items than that."""


@dataclass(frozen=True)
class ItemMap:
    """One panel: the run's label, places [n, 2] of the items drawn, how often each occurs in training [n], how many
    items the run has, and the Kullback-Leibler divergence that t-SNE ends with."""

    label: str
    places: np.ndarray
    counts: np.ndarray
    n_items: int
    divergence: float


def draw(options: dict[str, Any]) -> None:
    """The figure `tsne`. Raises UserError for bad input."""
    for key, least in (("max_items", PERPLEXITY + 1), ("seed", 0)):
        if not isinstance(options[key], int) or isinstance(options[key], bool) or options[key] < least:
            raise UserError(f"--{key} must be a whole number from {least} on, got {options[key]!r}")
    folders = run_selection.run_folders(options, "tsne")
    output = run_selection.output_path(options, folders, "tsne")
    found = run_selection.find_runs(folders)
    tables = [
        item_vectors_and_counts(load(run.folder, run_selection.named_model(options, run.config))) for run in found
    ]  # all of them first: one may have none
    maps = []
    for (vectors, counts), label in zip(tables, run_selection.run_labels(found), strict=True):
        chosen = sample_items(len(vectors), options["max_items"], options["seed"])
        places, divergence = tsne_embedding(vectors[chosen], options["seed"], label)
        maps.append(ItemMap(label, places, counts[chosen], len(vectors), divergence))
    print(tsne_table(maps))
    written = figures.save_figure(draw_maps(maps, run_selection.common_title(found)), output)
    print(f"drawn in {' and '.join(map(str, written))}")


def item_vectors_and_counts(run: LoadedRun) -> tuple[np.ndarray, np.ndarray]:
    """The item table without its padding row, [n_items - 1, d], and how often each item occurs in training.

    Raises UserError for a model without a table of item vectors.
    """
    data = run.train._dataset
    counts = training_item_counts(data)
    table = item_vectors(run.model, len(counts))
    if table is None:
        raise UserError(
            f"{run.config['model']} has no table of item vectors (item_embedding): plot tsne needs one. A class of "
            f"your own names its attribute, item_vectors_name = 'my_table', or has a method item_vectors()"
        )
    return table.cpu().numpy()[1:], counts.cpu().numpy()[1:]


def sample_items(n: int, most: int, seed: int) -> np.ndarray:
    """Indices of at most ``most`` of n items, in order; the same ones for every run of as many items."""
    if n <= most:
        return np.arange(n)
    return np.sort(np.random.default_rng(seed).choice(n, most, replace=False))


def tsne_embedding(vectors: np.ndarray, seed: int, label: str = "the run") -> tuple[np.ndarray, float]:
    """t-SNE of vectors [n, d] with scikit-learn's defaults: places [n, 2] and the Kullback-Leibler divergence.

    On one thread: the order in which several add up their parts would change the picture from call to call.
    Raises UserError for too few vectors, and for vectors that are all the same.
    """
    from sklearn.manifold import TSNE
    from threadpoolctl import threadpool_limits

    if len(vectors) <= PERPLEXITY:
        raise UserError(f"t-SNE needs more than {PERPLEXITY} items, {label} has {len(vectors)}")
    if not np.isfinite(vectors).all() or np.ptp(vectors, axis=0).max() == 0:
        raise UserError(f"the item vectors of {label} are all the same, or not finite: there is nothing to draw")
    tsne = TSNE(random_state=seed)
    with threadpool_limits(1):
        places = tsne.fit_transform(vectors)
    return places, float(tsne.kl_divergence_)


def tsne_table(maps: Sequence[ItemMap]) -> str:
    """What is drawn, for people."""
    body = [[m.label, len(m.counts), m.n_items, int((m.counts == 0).sum()), m.divergence] for m in maps]
    heads = ["", "items drawn", "of", "never in training", "KL divergence"]
    return tabulate(body, headers=heads, floatfmt=".3f")


def draw_maps(maps: Sequence[ItemMap], title: str = ""):
    """A panel for each map, up to three in one row, with one scale of colours: occurrences in training, logarithmic."""
    from matplotlib.colors import LogNorm

    columns = len(maps) if len(maps) <= 3 else math.ceil(math.sqrt(len(maps)))
    figure, axes = figures.new_figure(columns, math.ceil(len(maps) / columns), width=3.6, height=4.3, squeeze=False)
    scale = LogNorm(1, max(max(each.counts.max() for each in maps), 2))
    panels = list(axes.flat[: len(maps)])
    for empty in axes.flat[len(maps) :]:
        empty.remove()
    for panel, each in zip(panels, maps, strict=True):
        order = each.counts.argsort(kind="stable")  # the popular ones on top
        places, counts = each.places[order], each.counts[order]
        size, trained = 6 if len(counts) > 1500 else 12, counts > 0
        # Thousands of points are one picture in the SVG, not an element each.
        points = {"s": size, "linewidths": 0, "rasterized": True}
        coloured = panel.scatter(*places[trained].T, c=counts[trained], cmap="viridis", norm=scale, **points)
        crosses = {"marker": "x", "color": "#D55E00", "s": 4 * size, "linewidths": 1.5, "rasterized": True}
        panel.scatter(*places[~trained].T, **crosses)
        panel.set_title(each.label, fontsize=10)
        drawn = f"{len(counts)} items" if len(counts) == each.n_items else f"{len(counts)} of {each.n_items} items"
        panel.set_xlabel(f"{drawn}; KL divergence {each.divergence:.2f}")
        panel.set_xticks([])  # a place means nothing by itself, and has no unit
        panel.set_yticks([])
        panel.set_aspect("equal", adjustable="datalim")
        panel.set_box_aspect(1)
    figure.colorbar(coloured, ax=panels, label="occurrences in training", pad=0.02, aspect=30)
    figure.suptitle(", ".join(["t-SNE of item embeddings", *([title] if title else [])]))
    if any((each.counts == 0).any() for each in maps):
        cross = panels[0].scatter([], [], marker="x", color="#D55E00", s=30)
        figure.legend([cross], ["never in training"], loc="outside lower center", frameon=False)
    return figure
