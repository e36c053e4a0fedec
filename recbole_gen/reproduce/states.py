"""The state of every published setting: what of it has been run here, and what the committed pages say. From files
alone, without a model or a data set."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tabulate import tabulate

from recbole_gen.config.papers import paper_names, read_paper
from recbole_gen.errors import counted
from recbole_gen.files import read_json
from recbole_gen.reproduce.results import Reproduction, overall_verdict, read_result
from recbole_gen.reproduce.tables import ours_cell, published_cell

PLAN_FILE = "reproduce.json"
"""In the folder of the runs: which there are to be."""
SAVED = Path("saved/reproduce")
"""Where the runs go by default, under the current folder."""


@dataclass(frozen=True)
class State:
    """Of one setting.

    Attributes:
        runs: what has been run here, in words.
        found: what the finished runs said, of here or of the committed page; None if there is neither.
    """

    name: str
    runs: str
    found: Reproduction | None


def result_file(folder: Path, name: str) -> Path:
    """The numbers of a setting beside its page."""
    return folder / f"{name}.json"


def read_states(saved: Path, docs: Path | None) -> list[State]:
    """All settings with numbers of a paper, by name."""
    return [_read_state(name, saved / name, docs) for name in paper_names() if read_paper(name).published]


def _read_state(name: str, folder: Path, docs: Path | None) -> State:
    found = read_result(result_file(folder, name)) or (read_result(result_file(docs, name)) if docs else None)
    plan = read_json(folder / PLAN_FILE)
    runs = plan.get("runs") or []
    if not runs:
        return State(name, f"done, {counted(len(found.own.seeds), 'seed')}" if found else "not run", found)
    done = [run for run in runs if is_finished(folder / "runs" / str(run["folder"]))]
    seeds = [
        [run for run in part if run["label"] == plan["label"] and run["tie_seed"] is None] for part in (done, runs)
    ]
    if len(done) == len(runs):
        return State(name, f"done, {counted(len(seeds[1]), 'seed')}", found)
    return State(name, f"{len(seeds[0])} of {len(seeds[1])} seeds ({len(done)} of {len(runs)} runs)", found)


def is_finished(folder: Path) -> bool:
    """Whether a run has come to its end, by its files."""
    return bool(read_json(folder / "result.json").get("test_result") and (folder / "ranks.test.tsv").exists())


def state_table(states: Sequence[State]) -> tuple[list[str], list[list[str]]]:
    """Heads and lines: each setting with its first metric, and the verdict on all of them."""
    heads = ["setting", "state", "metric, %", "published", "ours", "difference, points", "verdict", "changed"]
    body = []
    for state in states:
        published = read_paper(state.name).published
        assert published is not None
        if state.found is None:
            metric, row = published.metrics[0], str(read_paper(state.name).settings["model"])
            places_shown = max(published.decimals - 2, 0)
            body.append(
                [state.name, state.runs, metric, f"{100 * published.rows[row][metric]:.{places_shown}f}"] + [""] * 4
            )
            continue
        found, metric = state.found, state.found.metrics[0]
        difference = found.difference(found.own, metric)
        body.append([
            state.name, state.runs, metric, published_cell(found, found.label, metric),
            ours_cell(found.own.measured[metric]), "" if difference is None else f"{100 * difference:+.2f}",
            overall_verdict(found), ", ".join(line.partition(" instead of ")[0] for line in found.changed),
        ])  # fmt: skip
    return heads, body


def list_text(saved: Path, docs: Path | None) -> str:
    """All settings for the terminal."""
    heads, body = state_table(read_states(saved, docs))
    align = ["left", "left", "left", "right", "right", "right", "left", "left"]
    body = [[*line[:-1], textwrap.fill(line[-1], 30)] for line in body]
    where = f"runs: {saved}/NAME" + (f"; pages: {docs}" if docs else "")
    return "\n".join([
        tabulate(body, headers=heads, disable_numparse=True, colalign=align),
        where,
        "recbole-gen reproduce NAME runs a setting and its baselines, or goes on where it stopped",
    ])  # fmt: skip
