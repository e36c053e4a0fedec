"""The key `semantic_ids`: IDs of a file, by the names of a data set's items; or such as the training rows give."""

from __future__ import annotations

import logging

import numpy as np
import torch

from recbole_gen import distributed
from recbole_gen.data.item_names import rows_of_items
from recbole_gen.data.requirements import model_needs
from recbole_gen.data.rows import training_pairs_of_items
from recbole_gen.errors import counted
from recbole_gen.reading.file_readers import first_names
from recbole_gen.reading.semantic_ids import SemanticIds, read_semantic_ids

REACH = 3
"""Items up to so many places apart count as near."""
WIDTH = 64
"""Of the vectors that are quantised."""
FEW_ITEMS = 8 * WIDTH
"""Up to so many items all singular vectors are computed: ARPACK, asked for more than the rank, goes on from chance."""


def attach_semantic_ids(config, dataset) -> None:
    """Give the training part of a data set `semantic_ids`, [n_items, m] int64 with padding first, if the model needs
    them and they are not there.

    Raises UserError for a file that cannot be used.
    """
    if not model_needs(config, "semantic_ids") or getattr(dataset, "semantic_ids", None) is not None:
        return
    path, column = config["semantic_ids"], config["semantic_ids_column"]
    if path:
        found = read_semantic_ids(path, column)
        dataset.semantic_ids = match_ids(found, [str(name) for name in dataset.field2id_token[dataset.iid_field]])
    else:
        vectors = cooccurrence_vectors(dataset, config["seed"])
        dataset.semantic_ids = ids_of_vectors(vectors, config["id_levels"], config["id_codes"], config["seed"])
        _log(
            logging.INFO,
            "semantic_ids: made of which items come near each other in the training rows. Those of TIGER's paper are "
            "of texts: `tokenize` makes them of any vectors",
        )


def match_ids(found: SemanticIds, names: list[str]) -> torch.Tensor:
    """IDs in the order of the data set's items, padding first: [n_items, m] int64.

    Items without one get IDs that begin with digits of no other, and differ in their last (where it is the only one,
    they are the numbers behind those of the others), which is told. Raises UserError if no item has one.
    """
    rows = rows_of_items("semantic_ids", found.path, found.names, names)
    missing = np.flatnonzero(rows < 0)[1:]
    digits = np.zeros((len(names), found.digits.shape[1]), dtype=np.int64)
    digits[rows >= 0] = found.digits[rows[rows >= 0]]
    if len(missing):
        digits[missing] = found.digits.max(0) + 1
        digits[missing, -1] = np.arange(len(missing)) + (digits[missing, -1] if digits.shape[1] == 1 else 0)
        examples = first_names([names[item] for item in missing])
        _log(
            logging.WARNING,
            f"semantic_ids: {counted(len(missing), 'item', 'have')} no ID in {found.path} ({examples}): "
            f"such an ID is made up, and says nothing of its item",
        )
    if foreign := len(found.names) - (len(names) - 1 - len(missing)):
        _log(logging.INFO, f"semantic_ids: {counted(foreign, 'other name', 'are')} there, of no item of the data set")
    return torch.from_numpy(digits)


def cooccurrence_vectors(dataset, seed: int) -> np.ndarray:
    """Vectors of items by what is near them in the training rows, [n_items - 1, d], of length 1 or 0.

    The leading singular vectors of the positive pointwise mutual information of items up to `REACH` apart (Levy and
    Goldberg, "Neural Word Embedding as Implicit Matrix Factorization", NeurIPS 2014). An item that has no other near it
    has a vector of zeros.
    """
    from scipy.sparse import coo_matrix
    from scipy.sparse.linalg import svds

    n_items = dataset.item_num
    fields = dataset.iid_field, dataset.iid_field + dataset.config["LIST_SUFFIX"], dataset.item_list_length_field
    pairs = [training_pairs_of_items(dataset.inter_feat, *fields, apart=apart) for apart in range(1, REACH + 1)]
    before, behind = (torch.cat(each).numpy() for each in zip(*pairs))
    times = coo_matrix((np.ones(len(before)), (before, behind)), shape=(n_items, n_items)).tocsr()[1:, 1:]
    times = (times + times.T).tocoo()
    of_item = np.asarray(times.sum(1)).ravel()
    information = np.log(times.data * times.sum() / (of_item[times.row] * of_item[times.col]))
    kept = information > 0
    matrix = coo_matrix((information[kept], (times.row[kept], times.col[kept])), shape=times.shape).tocsr()
    near = np.flatnonzero(matrix.getnnz(1))  # the others have nothing but what the search below leaves of chance
    width = min(WIDTH, len(near))
    vectors = np.zeros((n_items - 1, max(1, width)))
    if not width:
        return vectors
    matrix = matrix[near][:, near]
    if len(near) <= FEW_ITEMS:
        found, strengths, _ = np.linalg.svd(matrix.toarray())
    else:
        found, strengths, _ = svds(matrix, k=width, v0=np.random.default_rng(seed).standard_normal(n_items - 1)[near])
    strengths = np.where(strengths > 1e-9 * strengths.max(), strengths, 0)  # beyond the rank there is rounding
    vectors[near] = (found * np.sqrt(strengths))[:, :width]
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)


def ids_of_vectors(vectors: np.ndarray, levels: int, codes: int, seed: int) -> torch.Tensor:
    """IDs of ``levels`` digits, each below ``codes``, and one that tells equal ones apart.

    Each level is a k-means of what those before have left of the vectors [n, d]. Returns [1 + n, levels + 1] int64, of
    which the first row is padding's.
    """
    from recbole_gen.data.residual_kmeans import residual_kmeans, with_last_digit  # scikit-learn takes its time to load

    _, digits = residual_kmeans(vectors.astype(np.float32), levels, codes, seed)
    return torch.from_numpy(np.concatenate([np.zeros((1, levels + 1), dtype=np.int64), with_last_digit(digits)]))


def _log(level: int, text: str) -> None:
    if distributed.is_main_process():
        logging.getLogger().log(level, text)
