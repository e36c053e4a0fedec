"""The verb `export`: the vectors of a run's items, and of users, for other programs. `vector_files` has the work.

Nothing large is imported before the options are known to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from recbole_gen import options
from recbole_gen.errors import UserError, counted
from recbole_gen.options import asks_for_help, parse_arguments
from recbole_gen.prepare.new_folder import require_new
from recbole_gen.reading.rules import MAX_BAD

USAGE = """\
usage: recbole-gen export --checkpoint=FOLDER --output=FOLDER [--histories=FILE]

  --checkpoint=FOLDER  the folder of a run; its data set need not be here
  --output=FOLDER      a new folder:
                         items.npy    a vector an item, float32 [items, d], without a row for padding
                         items.json   the items' names, in the same order
                         export.json  model, data set, versions, and how to score
  --histories=FILE     also the vectors of these users, users.npy and users.json; of DreamRec, PASRec and PreferDiff
                       those are the generated ("oracle") items. .csv, .tsv, .inter, .jsonl or .parquet, as in recommend
  --format=numpy       numpy, or safetensors: items.safetensors with the tensor item_vectors, users.safetensors with
                       user_vectors
  --user, --item, --time, --scene      the columns of FILE, if they have other names than in the data set
  --time_format=FORM   of dates in it that are not as in ISO 8601, such as "%d.%m.%Y %H:%M" (as strptime's)
  --max_bad=SHARE      stop if a larger share of the rows of FILE cannot be used (default: 0.05)
  --model=MODULE:CLASS of a run whose model is a class of somebody's own: a checkpoint alone does not have code imported
  --device=cpu         cpu or cuda (default: as a run would choose)

The score of an item is the inner product of its vector with the user's. Models that score in another way (DiffRec,
BERT4Rec, ...) have no such vectors.
"""
DEFAULTS: dict[str, Any] = {
    "checkpoint": "", "output": "", "histories": "", "format": "numpy", "time_format": "", "max_bad": MAX_BAD,
    "user": "", "item": "", "time": "", "scene": "", "device": "", "model": "",
}  # fmt: skip
FORMATS = ("numpy", "safetensors")


def main(arguments: Sequence[str]) -> None:
    """The `export` verb of the command line. Raises UserError for bad input."""
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return
    values = options.verb_options(parse_arguments(arguments), DEFAULTS, "export")
    for key in ("checkpoint", "output"):
        if not values[key]:
            raise UserError(f"export needs --{key}=FOLDER; `recbole-gen export --help` says what of")
    if values["format"] not in FORMATS:
        raise UserError(f"--format must be one of {', '.join(FORMATS)}, got {values['format']}")
    if values["device"] not in ("", "cpu", "cuda"):
        raise UserError(f"--device must be cpu or cuda, got {values['device']}")
    histories = Path(str(values["histories"])) if values["histories"] else None
    if histories is not None and not histories.is_file():
        raise UserError(f"--histories: there is no file {histories}")
    output = Path(str(values["output"]))
    require_new(output)

    from recbole_gen.recommending.history_files import open_histories
    from recbole_gen.recommending.recommender import Recommender
    from recbole_gen.recommending.vector_files import export_vectors

    recommender = Recommender.load(str(values["checkpoint"]), values["device"] or None, model=values["model"] or None)
    source = None if histories is None else open_histories(histories, values, recommender.config)
    note = export_vectors(recommender, output, str(values["format"]), None if source is None else source.read())
    print(f"{counted(note['items'], 'item')} in {counted(note['d'], 'dimension')} -> {output}", flush=True)
    if source is not None:
        for line in source.notes:
            print(line)
        print(f"{note['users']:,} users, of whom {note['unanswered']:,} have no vector (NaN)", flush=True)
