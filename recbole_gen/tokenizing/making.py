"""From item vectors to a folder of semantic IDs: the one way through the room."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from recbole_gen import figures
from recbole_gen.data.residual_kmeans import with_last_digit
from recbole_gen.errors import UserError, counted
from recbole_gen.files import package_versions, write_json
from recbole_gen.prepare.new_folder import new_folder
from recbole_gen.reading.item_vectors import ItemVectors, read_item_vectors
from recbole_gen.reading.semantic_ids import IDS_FILE
from recbole_gen.tokenizing import dataset_items, id_files, report
from recbole_gen.tokenizing.drawing import draw_semantic_ids
from recbole_gen.tokenizing.kmeans import quantize_by_kmeans
from recbole_gen.tokenizing.quantized import Quantized, in_one_scale
from recbole_gen.tokenizing.settings import RQVAE_DEFAULTS

FORMAT = "recbole_gen semantic IDs 1"


def make_semantic_ids(options: dict[str, Any], output: Path, say: Callable[[str], None] = print) -> dict[str, Any]:
    """Write the new folder, whole or not at all, and say what is in it; returns the content of semantic-ids.json.

    Args:
        options: all of `settings.DEFAULTS`, checked.

    Raises UserError for vectors that cannot be used, a data set that is not theirs, and an output that is there or
    cannot be written.
    """
    found = read_item_vectors(str(options["item_vectors"]))
    if len(found.names) < 2:
        raise UserError(f"item_vectors: {found.path} has one item, and semantic IDs tell several apart")
    id_files.require_names_for_cells(found.names)
    about_dataset, lines = _look_at_dataset(found, options)
    say(
        "\n".join(
            [f"{counted(len(found.names), 'item')} in {counted(found.width, 'dimension')}, of {found.path}", *lines]
        )
    )
    levels, codes, seed = options["levels"], options["codes"], options["seed"]
    quantized, settings = _quantize(in_one_scale(found.vectors), options)
    ids = with_last_digit(quantized.digits)
    measured = report.measure(ids, quantized.variance_left, found.vectors, codes, seed)
    note = {
        "format": FORMAT,
        "method": options["method"],
        "levels": levels,
        "codes": codes,
        "seed": seed,
        **settings,
        "vectors": {
            "file": found.path.name,
            "items": len(found.names),
            "width": found.width,
            "blake2b": id_files.digest_of(found.vectors),
        },
        **about_dataset,
        "report": measured,
        "versions": package_versions(("torch", "numpy", "scikit-learn")),
    }
    title = f"{counted(len(ids), 'item')}, {options['method']}, {codes:,} codes a digit"
    with new_folder(output) as folder:
        id_files.write_semantic_ids(folder / IDS_FILE, found.names, ids)
        write_json(folder / id_files.NOTE_FILE, note)
        figures.save_figure(draw_semantic_ids(ids, quantized.variance_left, codes, title), folder / id_files.FIGURE)
    say("\n".join(report.report_lines(measured, codes, options["method"])))
    say(f"semantic IDs of {counted(len(ids), 'item')}, {' '.join(map(str, ids[0]))} for {found.names[0]} -> {output}")
    return note


def _quantize(vectors: np.ndarray, options: dict[str, Any]) -> tuple[Quantized, dict[str, Any]]:
    """The digits, and the settings of the method to write down."""
    levels, codes, seed = options["levels"], options["codes"], options["seed"]
    if options["method"] == "kmeans":
        return quantize_by_kmeans(vectors, levels, codes, seed), {}
    from recbole_gen.tokenizing.rqvae import Settings, quantize_by_rqvae  # torch takes its time to load

    values = {key: options[key] for key in RQVAE_DEFAULTS}
    settings = Settings(**values)
    return quantize_by_rqvae(vectors, levels, codes, seed, settings), {
        "rqvae": {**values, "epochs": settings.epochs_for(len(vectors))}
    }


def _look_at_dataset(found: ItemVectors, options: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What to write down of the data set that is named, and what to tell of it; nothing if none is."""
    if not options["dataset"]:
        return {}, []
    name = str(options["dataset"])
    items = dataset_items.items_of_dataset(name, str(options["data_path"]), str(options["item"]))
    note, lines = dataset_items.compare_items(found.names, name, *items)
    return {"dataset": note}, lines
