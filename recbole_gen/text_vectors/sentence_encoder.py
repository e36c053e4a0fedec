"""A sentence encoder by sentence-transformers, loaded from its files alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from recbole_gen.errors import UserError
from recbole_gen.text_vectors.encoder_files import OPTION, EncoderFiles


class SentenceEncoder:
    """Texts to vectors.

    Attributes:
        device: where it computes.
        longest: tokens that it reads of a text; None for all.

    Raises UserError for files that are damaged, or that the installed version cannot load.
    """

    def __init__(self, files: EncoderFiles):
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # no threads of its own beside torch's
        from safetensors import SafetensorError
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading, beside the one of the texts
        try:
            self._model = SentenceTransformer(
                str(files.folder), local_files_only=True, trust_remote_code=False,
                model_kwargs={"use_safetensors": True},
            )  # fmt: skip
        except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
            raise UserError(f"{OPTION}: {files.folder} cannot be loaded ({error})") from None
        self._name = files.name
        self.device = str(self._model.device)
        self.longest: int | None = self._model.max_seq_length

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [n, width]. Raises UserError for numbers that are none."""
        vectors = self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        vectors = np.asarray(vectors, dtype=np.float32)
        odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(odd):
            raise UserError(f"{OPTION}: {self._name} gives numbers that are none for {texts[odd[0]][:60]!r}")
        return vectors

    def find_longer(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens than it reads."""
        if self.longest is None:
            return [False] * len(texts)
        tokenizer: Any = self._model.tokenizer
        tokens = tokenizer(list(texts), truncation=False, padding=False, verbose=False)["input_ids"]
        return [len(each) > self.longest for each in tokens]
