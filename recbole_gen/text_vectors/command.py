"""`prepare NAME --text_encoder=...`: vectors of a data set's items from their texts. `making` has the work.

Nothing large is imported before the options are known to be right.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from recbole_gen.errors import UserError
from recbole_gen.files import require_file_output
from recbole_gen.options import parse_name, verb_options
from recbole_gen.prepare.command import OPTIONS, refuse_mixed_options, require_name
from recbole_gen.prepare.new_folder import require_new
from recbole_gen.text_vectors.encoder_files import find_encoder, require_library

CACHE = Path(".cache/text-vectors.sqlite")
"""Below --data_path, unless --text_cache names another file."""


def main(arguments: Sequence[str]) -> None:
    """The `prepare` verb with --text_encoder. Raises UserError for bad input."""
    first, given = parse_name(arguments)
    values = verb_options(given, OPTIONS, "prepare")
    refuse_mixed_options(given)
    name, data_path = require_name(str(first or "")), str(values["data_path"])
    if not values["output"]:
        raise UserError("--text_encoder needs --output=FOLDER: a new folder for the vectors of the items")
    output = Path(str(values["output"]))
    require_new(output)
    cache = _cache_file(values["text_cache"], data_path)
    encoder = find_encoder(str(values["text_encoder"]))
    _require_apart(output, cache, encoder.folder)
    require_library()

    from recbole_gen.text_vectors.making import make_text_vectors

    columns = values["text_columns"]
    columns = list(map(str, columns)) if isinstance(columns, list) else str(columns)
    given_keys = {"ITEM_ID_FIELD": values["item"], **{key: values[key] for key in ("field_separator", "encoding")}}
    keys = {key: str(value) for key, value in given_keys.items() if value}
    make_text_vectors(encoder, name, data_path, output, columns, keys, cache, say=lambda line: print(line, flush=True))


def _cache_file(given: object, data_path: str) -> Path | None:
    if given is False:
        return None
    if given is None:
        return Path(data_path) / CACHE
    path = Path(str(given))
    require_file_output(path, "--text_cache", given=given)
    return path


def _require_apart(output: Path, cache: Path | None, encoder: Path) -> None:
    """Raise UserError for an output in which, or a part of which, something else would be."""
    real = Path(os.path.realpath(output))
    if cache is not None and Path(os.path.realpath(cache)).is_relative_to(real):
        raise UserError(f"--output: {output} would hold {cache}, what was encoded before: name another folder")
    if real.is_relative_to(os.path.realpath(encoder)):
        raise UserError(f"--output: {output} lies in the encoder's folder, {encoder}: name another one")
