import sys

import numpy as np
import pytest
import torch

from recbole_gen.errors import UserError
from recbole_gen.recommending import top_items
from recbole_gen.recommending.item_index import ApproximateSearch, ExactSearch
from recbole_gen.recommending.recommender import Recommender

HISTORIES = [
    [f"i{(start + step) % 40}" for step in range(size)] for start, size in ((0, 3), (7, 12), (20, 1), (33, 30))
]


def clustered(n_items: int, n_queries: int, d: int = 32) -> tuple[torch.Tensor, torch.Tensor]:
    """Items (row 0 is padding, and would be the best of all) and queries around the same hundred centers."""
    draw = torch.Generator().manual_seed(0)
    centers = torch.randn(100, d, generator=draw)

    def around(n: int) -> torch.Tensor:
        return centers[torch.randint(100, (n,), generator=draw)] + 0.5 * torch.randn(n, d, generator=draw)

    items, queries = around(n_items), around(n_queries)
    items[0] = 1e6
    return items, queries


def sets(ids: torch.Tensor) -> list[set[int]]:
    return [set(row) - {0} for row in ids.tolist()]


@pytest.mark.parametrize("block", [1, 50, 1 << 24])
def test_exact_search_is_the_largest_of_all_products(block, monkeypatch):
    monkeypatch.setattr("recbole_gen.recommending.item_index.SCORES_AT_ONCE", block * 7)
    items, queries = clustered(301, 7)
    scores, ids = ExactSearch(items).search(queries, 20)
    expected = (queries @ items[1:].T).topk(20)
    assert torch.equal(ids, expected.indices + 1)
    torch.testing.assert_close(scores, expected.values)


def test_exact_search_finds_nothing_beyond_the_last_item():
    items, queries = clustered(4, 2)
    scores, ids = ExactSearch(items).search(queries, 5)
    assert sets(ids) == [{1, 2, 3}] * 2 and torch.isinf(scores[:, 3:]).all() and (ids[:, 3:] == 0).all()


def test_the_index_finds_nearly_what_exact_search_finds_with_the_same_scores():
    items, queries = clustered(20_001, 200)
    index = ApproximateSearch(items)
    assert index.fit(queries[:50]) >= 0.98
    queries = queries[50:]
    scores, ids = index.search(queries, 20)
    expected = sets(ExactSearch(items).search(queries, 20)[1])
    recall = np.mean([len(a & b) / 20 for a, b in zip(sets(ids), expected)])
    assert recall >= 0.95
    torch.testing.assert_close(scores, (queries.unsqueeze(1) * items[ids]).sum(-1), rtol=1e-5, atol=1e-4)
    assert (scores.diff(dim=1) <= 0).all() and (ids > 0).all()


def test_the_search_is_as_wide_as_it_needs_to_be():
    items, queries = clustered(3_001, 50)
    index = ApproximateSearch(items)
    assert index.fit(queries) >= 0.98 and index.width == 64
    anywhere = torch.randn(20_001, 64, generator=torch.Generator().manual_seed(1))  # the hardest of all items
    index = ApproximateSearch(anywhere)
    assert index.fit(torch.randn(50, 64, generator=torch.Generator().manual_seed(2))) >= 0.98 and index.width > 64


def test_the_index_says_where_it_has_found_nothing():
    items, queries = clustered(4, 2)
    scores, ids = ApproximateSearch(items).search(queries, 5)
    assert sets(ids) == [{1, 2, 3}] * 2 and torch.isinf(scores[:, 3:]).all() and (ids[:, 3:] == 0).all()


def test_without_faiss_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    with pytest.raises(UserError, match="pip install faiss-cpu"):
        ApproximateSearch(clustered(10, 1)[0])


# In a recommender


@pytest.fixture(params=["SASRec", "DreamRec"])
def folder(request, run):
    return run(request.param, epochs=1)["run_dir"]


def test_below_the_size_there_is_no_index(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    exact = Recommender.load(folder).recommend(HISTORIES, k=5)
    assert Recommender.load(folder, search="ann", ann_above=40).recommend(HISTORIES, k=5).equals(exact)


@pytest.mark.parametrize("exclude_seen", [True, False])
@pytest.mark.parametrize("most_seen", [1000, 1])
def test_above_the_size_answers_are_those_of_exact_search(folder, exclude_seen, most_seen, monkeypatch):
    """The index of 40 items finds all it is asked for; with room for one seen item only, it is asked for too few."""
    monkeypatch.setattr(top_items, "MAX_SEEN", most_seen)
    histories = [*HISTORIES, [], ["nobody knows it"]]  # the last two are answered by popularity
    exact = Recommender.load(folder).recommend(histories, k=15, exclude_seen=exclude_seen)
    found = Recommender.load(folder, search="ann", ann_above=39)
    near = found.recommend(histories, k=15, exclude_seen=exclude_seen)
    assert found._top_items.index is not None
    model = exact["by"] == "model"
    assert near.loc[model, ["user", "rank", "item"]].equals(exact.loc[model, ["user", "rank", "item"]])
    assert len(near) == len(exact) and near["by"].equals(exact["by"]) and near.attrs == exact.attrs
    np.testing.assert_allclose(near["score"], exact["score"], rtol=1e-4, atol=1e-6)


def test_more_is_asked_for_than_there_are_items(folder):
    found = Recommender.load(folder, search="ann", ann_above=1)
    table = found.recommend(HISTORIES, k=100)
    assert table.groupby("user").size().tolist() == [40 - len(history) for history in HISTORIES]


def test_candidates_are_searched_exactly(folder):
    found = Recommender.load(folder, search="ann", ann_above=1)
    exact = Recommender.load(folder).recommend(HISTORIES, k=3, candidates=["i3", "i15", "i39"])
    assert found.recommend(HISTORIES, k=3, candidates=["i3", "i15", "i39"]).equals(exact)


def test_a_model_without_vectors_has_no_index(run):
    folder = run("DiffRec", epochs=1)["run_dir"]
    with pytest.raises(UserError, match="DiffRec does not score items by inner products"):
        Recommender.load(folder, search="ann")


def test_an_unknown_search_is_refused(folder):
    with pytest.raises(UserError, match=r"search must be one of exact, ann, got 'an'.*ann"):
        Recommender.load(folder, search="an")
