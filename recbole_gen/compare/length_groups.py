"""Test rows in groups by the length of the user's history, and the main metric in each."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch

from recbole_gen.compare.finished_runs import FinishedRun
from recbole_gen.compare.summary import LengthGroup
from recbole_gen.evaluation.diagnostics import history_length_groups


@dataclass(frozen=True)
class GroupedMetric:
    """Groups by history length, what the length counts, label -> group -> main metric, and what there is to know."""

    groups: list[LengthGroup]
    length_of: str = ""
    values: dict[str, dict[str, float]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def reported_groups(runs: dict[str, list[FinishedRun]], metric: str) -> GroupedMetric | None:
    """The runs' own groups, by all that a user did before (group_metrics: length); None unless all have some."""
    found = {
        label: [(run.result["diagnostics"] or {}).get("groups") or {} for run in own] for label, own in runs.items()
    }
    shapes = [
        {name: (group["rows"], group["history"]) for name, group in groups.items()}
        for own in found.values()
        for groups in own
    ]
    if not all(shapes):
        return None
    if any(shape != shapes[0] for shape in shapes):
        return GroupedMetric(
            [], notes=["The seed draws who is tested, so that there are no common groups by history length."]
        )
    if len(shapes[0]) < 2:
        length = next(iter(shapes[0].values()))[1][0]
        return GroupedMetric(
            [], notes=[f"All test rows have {length} interactions before: no groups by history length."]
        )
    values = {
        label: {name: float(np.mean([groups[name][metric] for groups in own])) for name in shapes[0]}
        for label, own in found.items()
    }
    groups = [LengthGroup(name, rows, int(least), int(most)) for name, (rows, (least, most)) in shapes[0].items()]
    return GroupedMetric(groups, "interactions before the test", values)


def groups_by_read_length(runs: dict[str, list[FinishedRun]], main, histories, rows: np.ndarray) -> GroupedMetric:
    """Groups of users by the length of what a model has read, which MAX_ITEM_LIST_LENGTH cuts.

    main, histories: label -> [n] of each user; the lengths are those of the model that has read most.
    """
    advice = "run with --group_metrics=length for groups by all that a user did before"
    known = {label: history for label, history in histories.items() if history is not None}
    if not known:
        return GroupedMetric([], notes=[f"No run tells how long its users' histories are: {advice}."])
    longest = max(known, key=lambda label: float(known[label].max()))
    sizes, limit = known[longest], runs[longest][0].config.get("MAX_ITEM_LIST_LENGTH")
    chosen = {name: who.numpy() for name, who in history_length_groups(torch.from_numpy(sizes)).items() if who.any()}
    cut = f"at most MAX_ITEM_LIST_LENGTH = {limit} interactions are read" if limit and sizes.max() >= limit else ""
    if len(chosen) < 2:
        why = f"{cut}, and most users have more" if cut else f"all have {sizes.max():g} interactions"
        return GroupedMetric([], notes=[f"Users cannot be grouped by history length: {why}; {advice}."])
    groups = [
        LengthGroup(name, int(rows[who].sum()), int(sizes[who].min()), int(sizes[who].max()))
        for name, who in chosen.items()
    ]
    values = {
        label: {name: float(own[who] @ rows[who] / rows[who].sum()) for name, who in chosen.items()}
        for label, own in main.items()
    }
    notes = (
        [f"In the groups by history length, {cut}, and longer histories are not told apart: {advice}."] if cut else []
    )
    return GroupedMetric(groups, "interactions read", values, notes)
