"""What semantic IDs are worth: use of the codes, collisions, what the digits explain, which neighbours they keep."""

from __future__ import annotations

from typing import Any

import numpy as np
from tabulate import tabulate

from recbole_gen.errors import counted

NEAREST = 10
MOST_ITEMS = 2000
"""Whose neighbours are looked at; of more, so many are drawn."""
NUMBERS_AT_ONCE = 1 << 25
"""Of the table of cosines."""
FEW = 0.5
"""Share of a level's codes, or of its largest entropy, below which the report says what may help."""


def measure(ids: np.ndarray, variance_left: list[float], vectors: np.ndarray, codes: int, seed: int) -> dict[str, Any]:
    """The report as plain data, for the JSON file and for `report_lines`.

    Args:
        ids: [n, levels + 1], the last digit tells collisions apart.
        variance_left: of each level, as in `Quantized`.
        vectors: [n, width], as they were read.
        codes: that a level could use.
        seed: of the items whose neighbours are looked at.
    """
    digits = ids[:, :-1]
    of_groups = np.unique(digits, axis=0, return_counts=True)[1]
    levels = []
    for level, left in enumerate(variance_left):
        counts = code_counts(digits[:, level], codes)
        used = int((counts > 0).sum())
        levels.append(
            {
                "codes_used": used,
                "share_of_codes_used": used / codes,
                "entropy_bits": entropy_bits(counts),
                "variance_left": left,
            }
        )
    return {
        "items": len(ids),
        "largest_entropy_bits": float(np.log2(min(codes, len(ids)))),
        "levels": levels,
        "colliding_items": int(of_groups[of_groups > 1].sum()),
        "largest_collision": int(of_groups.max()),
        "neighbours": neighbours_kept(digits, vectors, seed),
    }


def code_counts(digits: np.ndarray, codes: int) -> np.ndarray:
    """How many items have each code at a level, [codes]."""
    return np.bincount(digits, minlength=codes)


def entropy_bits(counts: np.ndarray) -> float:
    """Of a distribution with these counts."""
    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0  # no -0.0


def neighbours_kept(digits: np.ndarray, vectors: np.ndarray, seed: int) -> dict[str, Any]:
    """Of each item's nearest others by cosine, the share that has its first digit, and its first two; ``by_chance`` is
    that of any other item, which random IDs with as many items at each prefix would give.

    Means over all items, or over `MOST_ITEMS` drawn by the seed.
    """
    n = len(digits)
    items = np.arange(n)
    if n > MOST_ITEMS:
        items = np.sort(np.random.default_rng(seed).choice(n, MOST_ITEMS, replace=False))
    near = nearest_by_cosine(vectors, items, min(NEAREST, n - 1))
    shared = []
    for length in range(1, min(2, digits.shape[1]) + 1):
        _, group, sizes = np.unique(digits[:, :length], axis=0, return_inverse=True, return_counts=True)
        group = group.ravel()
        kept = float((group[near] == group[items, None]).mean())
        shared.append({"digits": length, "kept": kept, "by_chance": float((sizes[group[items]] - 1).mean() / (n - 1))})
    return {"items": len(items), "nearest": near.shape[1], "shared": shared}


def nearest_by_cosine(vectors: np.ndarray, items: np.ndarray, k: int) -> np.ndarray:
    """The k other rows of vectors with the largest cosine with each of ``items``, [len(items), k], in no order."""
    scaled = vectors / np.maximum(np.abs(vectors).max(axis=1, keepdims=True), np.float32(1e-30))
    unit = scaled / np.maximum(np.linalg.norm(scaled, axis=1, keepdims=True), np.float32(1e-30))
    found = []
    for some in np.array_split(items, -(-len(items) * len(unit) // NUMBERS_AT_ONCE)):
        cosines = unit[some] @ unit.T
        cosines[np.arange(len(some)), some] = -np.inf
        found.append(np.argpartition(-cosines, k - 1, axis=1)[:, :k])
    return np.concatenate(found)


def report_lines(report: dict[str, Any], codes: int, method: str) -> list[str]:
    """The report for people."""
    most = report["largest_entropy_bits"]
    rows = [
        [f"digit {number}", f"{level['codes_used']:,} of {codes:,}", f"{level['entropy_bits']:.2f} of {most:.2f}",
         f"{level['variance_left']:.1%}" if level["variance_left"] < 10 else f"{level['variance_left']:.0e} times"]
        for number, level in enumerate(report["levels"], 1)
    ]  # fmt: skip
    heads = ["", "codes used", "entropy, bits", "variance left"]
    lines = [tabulate(rows, heads, disable_numparse=True, colalign=("left", "right", "right", "right"))]
    lines.append(_collisions(report))
    near = report["neighbours"]
    prefixes = {1: "its first digit", 2: "its first two"}
    kept = [
        f"{shared['kept']:.1%} have {prefixes[shared['digits']]} (of random items {shared['by_chance']:.2%})"
        for shared in near["shared"]
    ]
    of = f" (of {near['items']:,} items that were drawn)" if near["items"] < report["items"] else ""
    lines.append(
        f"neighbours kept: of the {counted(near['nearest'], 'item')} nearest to an item by cosine{of} {', '.join(kept)}"
    )
    return lines + _advice(report, codes, method)


def _collisions(report: dict[str, Any]) -> str:
    number, largest, levels = report["colliding_items"], report["largest_collision"], len(report["levels"])
    before = f"the first {levels} digits" if levels > 1 else "the first digit"
    if not number:
        return f"no collisions: no two items have {before} alike, and the last one is 0"
    return (
        f"collisions: {number:,} of {report['items']:,} items have {before} of another one, up to {largest:,} the "
        f"same: the last digit, 0 to {largest - 1:,}, tells them apart"
    )


def _advice(report: dict[str, Any], codes: int, method: str) -> list[str]:
    """What is wrong, with its cure."""
    lines, items = [], report["items"]
    if report["levels"][-1]["variance_left"] >= 1:
        lines.append(
            "take note: the digits explain nothing of the vectors. More --epochs, another --learner or another "
            "--learning_rate may help"
        )
    dead = [
        f"digit {number} ({level['codes_used']:,})"
        for number, level in enumerate(report["levels"], 1)
        if level["share_of_codes_used"] < FEW
    ]
    if codes >= items:
        lines.append(
            f"take note: {codes:,} codes may give each of {items:,} items a first digit of its own: fewer --codes"
        )
    elif dead:
        cure = "fewer --codes" if method == "kmeans" else "--restart_dead_codes=true, more --epochs or fewer --codes"
        lines.append(f"take note: fewer than half of the codes are used by {', '.join(dead)}: {cure} may help")
    return lines
