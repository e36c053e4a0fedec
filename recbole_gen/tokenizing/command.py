"""The verb `tokenize`: semantic IDs of items, from vectors of theirs. `making` has the work.

Nothing large is imported before the options are known to be right.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recbole_gen.config.places import find_dataset
from recbole_gen.errors import UserError
from recbole_gen.options import asks_for_help, parse_arguments, verb_options
from recbole_gen.prepare.new_folder import require_new
from recbole_gen.tokenizing.settings import DEFAULTS, check_options

USAGE = """\
usage: recbole-gen tokenize --item_vectors=PATH --output=FOLDER [--method=kmeans|rqvae] [--dataset=NAME]

  --item_vectors=PATH  the folder of an `export`, or a file of vectors with the items' names: .npy or .safetensors with
                       a .json beside it, .parquet
  --output=FOLDER      a new folder:
                         semantic-ids.tsv    item_id and semantic_id, which is digits with blanks between: 211 91 195 0
                         semantic-ids.json   how they were made, and the report
                         semantic-ids.svg    and .png: use of the codes, and what the digits leave unexplained
  --method=kmeans      residual k-means; or rqvae, an RQ-VAE as in TIGER (Rajput et al., NeurIPS 2023)
  --levels=3           digits; one more behind them, 0 where there is no collision, makes each ID an item's own
  --codes=256          values that a digit may have, from 0 on; the last digit has as many as the largest collision
  --seed=2020          the same seed gives the same IDs
  --dataset=NAME       tells which items of a data set have no vector, and which vectors are of none of its items
  --data_path=FOLDER   where data sets lie (default: dataset/ in the current folder, as in a run)
  --item=COLUMN        of its items, if that is not the data set's own ITEM_ID_FIELD

of rqvae alone:

  --epochs=N           default: as many as make 4,000 steps, at least 20
  --batch_size=256 --learning_rate=0.001 --learner=adam         or adagrad, sgd
  --hidden_sizes="[512, 256, 128]" --latent_size=32             layers of the encoder, and of the decoder the other way
  --commitment=0.25    weight of what draws latents to their codes
  --restart_dead_codes=true      codes that no item has begin anew where items are; false leaves them
"""


def main(arguments: Sequence[str]) -> None:
    """The `tokenize` verb of the command line. Raises UserError for bad input."""
    if not arguments or asks_for_help(arguments):
        print(USAGE, end="")
        return
    given = parse_arguments(arguments)
    values = verb_options(given, DEFAULTS, "tokenize")
    for key, what in (("item_vectors", "PATH"), ("output", "FOLDER")):
        if not values[key]:
            raise UserError(f"tokenize needs --{key}={what}; `recbole-gen tokenize --help` says what of")
    check_options(values, given)
    output = Path(str(values["output"]))
    require_new(output)
    if values["dataset"]:
        find_dataset(str(values["dataset"]), str(values["data_path"]))

    from recbole_gen.tokenizing.making import make_semantic_ids

    make_semantic_ids(values, output, say=lambda line: print(line, flush=True))
