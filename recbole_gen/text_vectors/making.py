"""From the texts of a data set's items to a folder of their vectors: the one way through the room."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

from recbole_gen.errors import UserError, counted
from recbole_gen.files import package_versions, write_json, write_text
from recbole_gen.prepare.new_folder import new_folder
from recbole_gen.reading.file_readers import first_names
from recbole_gen.reading.item_vectors import TEXT_VECTORS_NOTE
from recbole_gen.text_vectors.encoder_files import OPTION, EncoderFiles
from recbole_gen.text_vectors.item_texts import read_item_texts
from recbole_gen.text_vectors.sentence_encoder import SentenceEncoder
from recbole_gen.text_vectors.vector_cache import TextVector, VectorCache

FORMAT = "recbole_gen text vectors 1"
VECTORS, NAMES = "items.npy", "items.json"
AT_ONCE = 512
"""Texts between two steps of the progress; they are in the cache then."""


def make_text_vectors(
    encoder: EncoderFiles,
    dataset: str,
    data_path: str,
    output: Path,
    columns: str | Sequence[str] = (),
    keys: Mapping[str, str] | None = None,
    cache: Path | None = None,
    say: Callable[[str], None] = print,
) -> dict[str, Any]:
    """Write the new folder, in the form of an `export`, whole or not at all; returns the content of text-vectors.json.

    Items without a text have no vector, and are told.

    Args:
        columns, keys: as in `read_item_texts`.
        cache: the file of vectors that were made before; None for none.

    Raises UserError for texts and encoders that cannot be used, and an output that is there or cannot be written.
    """
    found = read_item_texts(dataset, data_path, columns, keys)
    say("\n".join([*found.warnings, f"{counted(len(found.texts), 'item')} in {found.file}"]))
    if found.repeated:
        say(f"  {counted(found.repeated, 'line', 'are')} of items that have another one: the first with a text counts")
    items = [name for name, text in found.texts.items() if text]
    without = [name for name, text in found.texts.items() if not text]
    if without:
        say(f"  {counted(len(without), 'item', 'have')} no text, and no vector: {first_names(without)}")
    texts = list(dict.fromkeys(found.texts[name] for name in items))
    digest = encoder.digest()
    vector_of = _encode(encoder, texts, VectorCache(cache, digest), say)
    _require_several(encoder, vector_of)
    vectors = np.stack([vector_of[found.texts[name]].vector for name in items])
    cut = sum(each.is_cut for each in vector_of.values())
    if cut:
        say(f"  {counted(cut, 'text', 'are')} longer than what the encoder reads: the vector is that of the beginning")
    note = {
        "format": FORMAT,
        "dataset": dataset,
        "columns": found.columns,
        "encoder": encoder.name,
        "encoder_blake2b": digest,
        "items": len(items),
        "items_without_text": len(without),
        "texts": len(texts),
        "d": vectors.shape[1],
        "texts_cut": cut,
        "versions": package_versions(("sentence-transformers", "transformers", "torch")),
    }
    with new_folder(output) as folder:
        np.save(folder / VECTORS, vectors.astype("<f4"))
        write_text(folder / NAMES, json.dumps(items, ensure_ascii=False, indent=0) + "\n")
        write_json(folder / TEXT_VECTORS_NOTE, note)
    first = found.texts[items[0]]
    say(
        f"vectors of {counted(len(items), 'item')}, {vectors.shape[1]} numbers each, from {', '.join(found.columns)} "
        f"(that of {items[0]}: {first[:60]!r}) -> {output}\n"
        f"--item_vectors={output} gives them to a run; --item_vectors_use=init|frozen|adaptor says how"
    )
    return note


def _encode(
    encoder: EncoderFiles, texts: list[str], kept: VectorCache, say: Callable[[str], None]
) -> dict[str, TextVector]:
    """Text -> vector, of all texts."""
    vector_of = kept.find(texts)
    new = sorted((text for text in texts if text not in vector_of), key=len, reverse=True)
    if vector_of:
        say(f"  {counted(len(vector_of), 'text', 'are')} in {kept.path}, encoded before")
    if not new:
        return vector_of
    model = SentenceEncoder(encoder)
    prompt = f", each behind {model.prompt!r}" if model.prompt else ""
    say(f"  {counted(len(new), 'text')} to encode, on {model.device}{prompt}")
    one = dict(itertools.islice(vector_of.items(), 1))  # all that were kept are as wide
    with tqdm(total=len(new), unit="text", disable=None) as bar:
        for start in range(0, len(new), AT_ONCE):
            part = new[start : start + AT_ONCE]
            made = dict(zip(part, map(TextVector, model.encode(part), model.find_longer(part))))
            kept.require_one_width(one | made)
            kept.add(made)
            vector_of |= made
            bar.update(len(part))
    return vector_of


def _require_several(encoder: EncoderFiles, vector_of: Mapping[str, TextVector]) -> None:
    """Raise UserError where all of several texts have one vector: then nothing of them is read."""
    if len(vector_of) > 1 and len({each.vector.tobytes() for each in vector_of.values()}) == 1:
        raise UserError(
            f"{OPTION}: {encoder.name} gives all of the {len(vector_of):,} different texts the same vector: is its "
            f"tokenizer there, and does it know their words?"
        )
