"""Top-20 of all items by inner product: exact search, the graph of `--search=ann`, and a partition (IVF) of faiss.

    python benchmarks/search.py [--items=100000] [--kind=clustered] [--d=64] [--queries=1000] [--threads=1]

`clustered` items and queries lie around 500 centers. `normal` items lie anywhere, which no index likes, and each query
near one of them, as generated oracles do. Each search is built, answers all queries at once, and then the first hundred
one by one, as a server does (median). The graph is fitted to 64 other queries, part of its build. `mib` is what the
index takes beside the items, a copy of them included; `recall` the share of the exact 20 that are found. `ivf` is
the usual partition, into sqrt(n) cells of which an eighth is searched, for the comparison only. Appends to
results/search.tsv.
"""

import argparse
import time

import faiss
import numpy as np
import torch
from common import record

from recbole_gen.recommending.item_index import ApproximateSearch, ExactSearch


class Partition:
    """faiss's IndexIVFFlat behind the interface of `item_index.Search`; for the comparison only."""

    def __init__(self, items):
        vectors = items[1:].numpy()
        cells = 2 ** round(np.log2(np.sqrt(len(vectors))))
        self.index = faiss.index_factory(vectors.shape[1], f"IVF{cells},Flat", faiss.METRIC_INNER_PRODUCT)
        self.index.cp.max_points_per_centroid, self.index.nprobe = 64, cells // 8
        self.index.train(vectors)
        self.index.add(vectors)

    def search(self, queries, k):
        scores, ids = self.index.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(ids) + 1


def vectors(kind, n_items, n_queries, d):
    """Items [n_items + 1, d], padding first, and queries [n_queries, d]."""
    draw = torch.Generator().manual_seed(0)
    if kind == "normal":
        items = torch.randn(n_items + 1, d, generator=draw)
        near = items[torch.randint(1, n_items + 1, (n_queries,), generator=draw)]
        return items, (near + torch.randn(n_queries, d, generator=draw)) / 2**0.5
    centers = torch.randn(500, d, generator=draw)
    items, queries = (
        centers[torch.randint(500, (n,), generator=draw)] + 0.5 * torch.randn(n, d, generator=draw)
        for n in (n_items + 1, n_queries)
    )
    return items, queries


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, value in (("items", 100_000), ("d", 64), ("queries", 1000), ("threads", 1), ("k", 20)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--kind", default="clustered", choices=["clustered", "normal"])
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    faiss.omp_set_num_threads(args.threads)
    items, queries = vectors(args.kind, args.items, args.queries + 64, args.d)
    queries, others = queries[: args.queries], queries[args.queries :]
    best = None
    for name, make in (("exact", ExactSearch), ("ann", ApproximateSearch), ("ivf", Partition)):
        started = time.perf_counter()
        search = make(items)
        if name == "ann":
            search.fit(others)
        built = time.perf_counter() - started
        search.search(queries[:10], args.k)  # the first call is slower
        started = time.perf_counter()
        found = search.search(queries, args.k)[1].tolist()
        at_once = time.perf_counter() - started
        single = []
        for query in queries[:100].split(1):
            started = time.perf_counter()
            search.search(query, args.k)
            single.append(time.perf_counter() - started)
        size = len(faiss.serialize_index(search.index)) if name != "exact" else 0
        best = best or [set(row) for row in found]
        record(
            "search",
            {
                "search": name, **vars(args), "build_seconds": round(built, 2), "mib": size >> 20,
                "width": search.width if name == "ann" else 0,
                "queries_per_second": round(args.queries / at_once),
                "milliseconds_alone": round(1e3 * sorted(single)[len(single) // 2], 3),
                "recall": round(float(np.mean([len(a & set(b)) / args.k for a, b in zip(best, found)])), 4),
            },
        )  # fmt: skip


if __name__ == "__main__":
    main()
