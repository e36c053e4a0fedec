"""A sentence encoder by sentence-transformers, loaded from its files alone."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from recbole_gen.errors import UserError
from recbole_gen.text_vectors.encoder_files import OPTION, EncoderFiles

PROBES = ["a red lamp", "two green chairs, small"]
"""Texts by which an encoder is tried before it is given those of the user."""
LONGEST_REASON = 300
"""Characters of another library's message."""


class SentenceEncoder:
    """Texts to vectors.

    Attributes:
        device: where it computes.
        prompt: what it puts before each text; mostly nothing.

    Raises UserError for files that are damaged or lack weights, or that the installed version cannot load.
    """

    def __init__(self, files: EncoderFiles):
        self._files = files
        with _offline():
            first, second = (self._load_and_try(seed) for seed in (0, 1))
        if not np.allclose(first, second, rtol=1e-3, atol=1e-4, equal_nan=True):
            raise UserError(
                f"{OPTION}: {files.folder} lacks weights: what is missing is drawn at random, so that a text has "
                f"another vector each time; take a whole copy of it"
            )
        self.device = str(self._model.device)
        self.prompt: str = self._model.prompts.get(str(self._model.default_prompt_name)) or ""
        longest = self._model.max_seq_length
        self._longest = longest if longest is not None and math.isfinite(longest) else None

    def _load_and_try(self, seed: int) -> np.ndarray:
        """Load it, with a draw of its own of what its files lack; the vectors of two texts."""
        from sentence_transformers import SentenceTransformer
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()  # of loading, beside the one of the texts
        try:
            with torch.random.fork_rng():
                torch.manual_seed(seed)
                self._model = SentenceTransformer(
                    str(self._files.folder), local_files_only=True, trust_remote_code=False,
                    model_kwargs={"use_safetensors": True},
                )  # fmt: skip
            vectors = self._encode(PROBES)
            self._count_tokens(PROBES)
        except Exception as error:  # a library's, about a user's files: it may be any
            text = (str(error).strip().splitlines() or [""])[0]
            reason = f"{type(error).__name__}: {text[:LONGEST_REASON]}"
            raise UserError(
                f"{OPTION}: {self._files.folder} is no encoder that sentence-transformers can load ({reason})"
            ) from error
        if vectors.ndim != 2 or len(vectors) != len(PROBES) or not vectors.shape[1]:
            raise UserError(f"{OPTION}: {self._files.folder} gives no vector a text, but {vectors.shape}")
        return vectors

    def encode(self, texts: Sequence[str]) -> np.ndarray:
        """Vectors of texts, float32 [n, width]. Raises UserError for numbers that are none."""
        with _offline():
            vectors = self._encode(texts)
        odd = np.flatnonzero(~np.isfinite(vectors).all(axis=1))
        if len(odd):
            raise UserError(f"{OPTION}: {self._files.name} gives numbers that are none for {texts[odd[0]][:60]!r}")
        return vectors

    def find_longer(self, texts: Sequence[str]) -> list[bool]:
        """Which texts have more tokens, with the prompt, than it reads."""
        if self._longest is None:
            return [False] * len(texts)
        return [number > self._longest for number in self._count_tokens([f"{self.prompt}{text}" for text in texts])]

    def _encode(self, texts: Sequence[str]) -> np.ndarray:
        vectors = self._model.encode(list(texts), show_progress_bar=False, convert_to_numpy=True)
        return np.asarray(vectors, dtype=np.float32)

    def _count_tokens(self, texts: list[str]) -> list[int]:
        tokenizer: Any = self._model.tokenizer
        if callable(tokenizer):  # one of transformers
            return list(map(len, tokenizer(texts, truncation=False, padding=False, verbose=False)["input_ids"]))
        if hasattr(tokenizer, "encode_batch"):  # one of tokenizers
            return [len(each.ids) for each in tokenizer.encode_batch(texts)]
        return [len(tokenizer.tokenize(text)) for text in texts]  # one of sentence-transformers' own


@contextmanager
def _offline() -> Iterator[None]:
    """Keep the libraries from fetching anything, and the tokenizer from threads beside torch's."""
    wanted = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    from huggingface_hub import constants  # which reads them once, when it is imported first

    was_offline, constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE, True
    try:
        yield
    finally:
        constants.HF_HUB_OFFLINE = was_offline
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
